"""A site of many wires: as many guarded ports as there may be, and a VM that comes and goes behind them."""

from pathlib import Path

import pytest
from guarded import Guarded, guarded

from reconciler.appliance.declared import MAX_DIRECTIONS

pytestmark = [pytest.mark.netns, pytest.mark.long]
# The lab's own doing: namespaces, 500 interfaces and one VM for all of them, on two cores.
PATIENCE_S = 90.0


def leased(kept: Guarded) -> int:
    return sum(one["state"] == "leased" for one in kept.status()["guard"]["segments"])


@pytest.mark.usefixtures("lab_root")
def test_a_guard_of_as_many_directions_as_there_may_be_comes_to_stand(tmp_path: Path) -> None:
    pairs = [(number, number + 1) for number in range(0, MAX_DIRECTIONS, 2)]
    with guarded(tmp_path, MAX_DIRECTIONS, pairs) as kept:
        kept.start()
        kept.until(lambda: leased(kept) == len(pairs), "every lease", PATIENCE_S)
