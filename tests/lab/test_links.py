"""What the benchmarks time by: the kernel's word on links."""

import sys
import time
from pathlib import Path

import pytest
from processes import PATIENCE_S

from reconciler.lab.lab import Lab, netlink, wait_until

# The benchmarks are in a checkout only, and no package is made of them.
sys.path.append(str(Path(__file__).parents[2]))

from bench.links import Links

pytestmark = pytest.mark.netns


def test_a_lost_carrier_and_the_last_of_two_moves_have_their_times(lab: Lab) -> None:
    netlink(lab.host, lambda ipr: ipr.link("add", ifname="sw", kind="bridge", state="up"))
    with Links(lab.host) as links:
        assert links.lost(lab.adapters, 0) is None
        began = time.time_ns()
        lab.run(["ip", "link", "set", "eth1", "down"], namespace=lab.vm)
        wait_until(lambda: links.lost(lab.adapters, began) is not None, PATIENCE_S, "the carrier's loss")
        lost = links.lost(lab.adapters, began)
        assert lost is not None
        assert began < lost < time.time_ns()
        for number, port in enumerate(lab.ports):
            assert links.moved(lab.ports, "sw", began) is None
            before = time.time_ns()
            lab.run(["ip", "link", "set", port, "master", "sw"])
            some = lab.ports[: number + 1]
            wait_until(lambda some=some: links.moved(some, "sw", began) is not None, PATIENCE_S, port)  # type: ignore[misc]
        moved = links.moved(lab.ports, "sw", began)
        assert moved is not None
        # Not the time of the message before: by then the listener had begun to wait.
        assert before < moved < time.time_ns()
