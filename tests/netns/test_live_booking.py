"""What is booked of a wire against what arrived there, counted by a witness that knows nothing of the host."""

from collections.abc import Iterator
from typing import Any

import pytest
from booking import RATE, Books
from guarded import Guarded, guarded
from histories import History
from witness import witnessed

pytestmark = [pytest.mark.netns, pytest.mark.long]


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("booking")) as made:
        yield made


@pytest.fixture
def kept(lasting: Guarded) -> Guarded:
    lasting.write()
    lasting.well()
    return lasting


@pytest.fixture
def books(kept: Guarded) -> Iterator[Books]:
    with witnessed(kept.lab, RATE) as witness:
        yield Books(kept, witness)


def exactly(books: Books, slack: int = 0) -> None:
    """All that went past the VM is booked, and nothing else; and when that was. `slack`: frames, where it is no table."""
    books.settled()
    passed, spans, seen = books.passed, books.spans("bypassed"), books.seen()
    assert passed > 0
    assert 0 <= passed - books.booked("passed") <= slack, books.rows()
    assert (sum(one.frames for one in spans), books.booked("cut")) == (books.booked("passed"), 0)
    assert books.off(spans) <= 0, (spans, seen)


def test_a_trip(books: Books) -> None:
    books.kept.lab.blackhole_vm()
    books.more(500)
    books.kept.lab.unblock_vm()
    exactly(books)


def test_a_hold(books: Books) -> None:
    books.kept.ask("hold", topology="bypass", reason="maintenance", seconds=1_000)
    books.more(500)
    books.kept.ask("release")
    exactly(books)


def test_a_trip_while_the_daemon_is_dead(books: Books) -> None:
    books.kept.kill()
    books.kept.lab.blackhole_vm()
    books.more(1_500)
    books.kept.start()
    books.more()
    books.kept.lab.unblock_vm()
    exactly(books)


def test_a_daemon_that_dies_while_the_vm_is_dead(books: Books) -> None:
    books.kept.lab.blackhole_vm()
    books.more()
    books.kept.kill()
    books.more(1_000)
    books.kept.start()
    books.kept.lab.unblock_vm()
    exactly(books)


def off_and_on(kept: Guarded) -> None:
    assert kept.cli("guard", "off").code == 0
    assert kept.cli("guard", "on").code == 0


def flush(kept: Guarded) -> None:
    kept.hand("nft flush ruleset")
    kept.until(lambda: kept.guard()["state"] == "joined", "the table")


def flush_without_a_daemon(kept: Guarded) -> None:
    kept.kill()
    kept.hand("nft flush ruleset")
    kept.start()


def another_lease(kept: Guarded) -> None:
    kept.write(guard={"lease": "300ms"})
    kept.reload()


@pytest.mark.parametrize("what", [off_and_on, flush, flush_without_a_daemon, another_lease])
def test_a_table_that_goes_while_the_wire_is_held_past_the_vm(books: Books, what: Any) -> None:
    books.kept.ask("hold", topology="bypass", reason="maintenance", seconds=1_000)
    for _ in range(2):
        books.more()
        what(books.kept)
    books.more()
    books.kept.ask("release")
    exactly(books)


def test_a_bypass_with_the_guard_off(books: Books) -> None:
    assert books.kept.cli("guard", "off").code == 0
    books.kept.ask("hold", topology="bypass", reason="maintenance", seconds=1_000)
    books.more(1_000)
    assert books.kept.cli("guard", "on").code == 0
    books.more()
    books.kept.ask("release")
    exactly(books, slack=5)


def test_what_is_cut_is_never_told_as_passed(kept: Guarded) -> None:
    kept.write(on_failure={"fail": "closed"})
    kept.reload()
    kept.inspects()
    with witnessed(kept.lab, RATE) as witness:
        books = Books(kept, witness)
        kept.lab.blackhole_vm()
        kept.until(lambda: books.booked("cut") > 1_000, "frames to be cut")
        assert " were cut, in " in kept.cli("status").out
        kept.lab.unblock_vm()
        books.settled()
        lost = books.sent - sum(witness.arrived)
        # What was given to the VM while it swallowed was lost in there.
        swallowed = witness.given - witness.arrived[0]
        assert (books.passed, books.booked("passed")) == (0, 0)
        assert books.booked("cut") == lost - swallowed


@pytest.mark.parametrize("seed", range(4))
def test_a_random_history(lasting: Guarded, seed: int) -> None:
    told = History(lasting, seed).live()
    assert told.right, told
