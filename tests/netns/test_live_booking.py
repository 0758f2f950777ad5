"""What is booked of a wire against what arrived there, counted by a witness that knows nothing of the host."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from guarded import Guarded, guarded
from processes import PATIENCE_S
from witness import Witness, witnessed

from reconciler.host import clock

pytestmark = [pytest.mark.netns, pytest.mark.long]

RATE = 500
# Time is known to within this, or as said; a frame comes each so often.
WITHIN_MS = 20 + 1_000 // RATE


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


@dataclass(frozen=True)
class Span:
    """A stretch of time that is booked, or that was seen; milliseconds since 1970. `within_ms`: as the books say."""

    begin_ms: int
    end_ms: int
    frames: int
    within_ms: int = 0
    exact: bool = True


class Books:
    """The books of a daemon since now, beside what a witness has seen."""

    def __init__(self, kept: Guarded, witness: Witness) -> None:
        self.kept, self.witness = kept, witness
        kept.until(lambda: witness.arrived[0] > 100, "traffic through the VM")
        self._before = self._booked
        self._since_ms = clock.wall_ms()

    @property
    def _booked(self) -> dict[str, Any]:
        (segment,) = self.kept.status()["segments"]
        return {what: segment[what] for what in ("passed", "cut")}

    def booked(self, what: str) -> int:
        return int(self._booked[what]["frames"] - self._before[what]["frames"])

    def rows(self) -> list[dict[str, Any]]:
        """What the ledger has had since the beginning."""
        path = self.kept.folder / "state" / f"{self.kept.sku}.ledger.jsonl"
        rows = [json.loads(line)["entry"] for line in path.read_text().splitlines()]
        return [one for one in rows if one["from_ms"] >= self._since_ms]

    def spans(self, kind: str) -> list[Span]:
        """The ledger's intervals of a kind; those that follow each other without a gap are one."""
        known = {one["id"]: one for one in self.rows() if one["kind"] == kind}
        found: list[Span] = []
        for one in sorted(known.values(), key=lambda one: int(one["from_ms"])):
            assert one["to_ms"] is not None, one
            new = Span(one["from_ms"], one["to_ms"], one["frames"], one["precision_ms"], one["counted"] == "exact")
            if found and new.begin_ms - found[-1].end_ms <= 1:
                last = found.pop()
                within = max(last.within_ms, new.within_ms)
                new = Span(last.begin_ms, new.end_ms, last.frames + new.frames, within, last.exact and new.exact)
            found.append(new)
        return found

    def more(self, frames: int = 200) -> None:
        """Wait until so many more frames have gone past the VM."""
        then = self.witness.arrived[1]
        self.kept.until(lambda: self.witness.arrived[1] >= then + frames, "frames past the VM", PATIENCE_S)

    def settled(self) -> None:
        """All is well again, and traffic goes through the VM; then nothing is sent any more."""
        self.kept.inspects()
        then = self.witness.arrived[0]
        self.kept.until(lambda: self.witness.arrived[0] >= then + 100, "traffic through the VM", PATIENCE_S)
        self.sent = self.witness.stop()

    @property
    def passed(self) -> int:
        return self.witness.arrived[1]

    def seen(self) -> list[Span]:
        """When frames went past the VM, by when they arrived."""
        return [
            Span(one.begin_ns // 1_000_000, one.end_ns // 1_000_000, one.frames) for one in self.witness.stretches()
        ]


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
    for one in seen:
        assert [
            span
            for span in spans
            if abs(span.begin_ms - one.begin_ms) <= WITHIN_MS + span.within_ms
            and abs(span.end_ms - one.end_ms) <= WITHIN_MS + span.within_ms
        ], (one, spans, seen)


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
