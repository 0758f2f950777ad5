"""What is booked of a segment, from looks at it: begin, end, frames, and how sure each of them is."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import codec
from reconciler.ledger.booking import Account, ByGuard, Count, Look, OnWire, book, unended
from reconciler.ledger.entry import Counted, Entry, EntryKind
from reconciler.ledger.orders import Moment

UTC_MS = 1_700_000_000_000
BYPASSED, CUT, UNKNOWN = EntryKind.BYPASSED, EntryKind.CUT, EntryKind.UNKNOWN
EXACT, AT_LEAST, NO = Counted


class Books:
    """One segment's account, and the ledger: the last entry of each interval, in the order in which they began."""

    def __init__(self) -> None:
        self.account, self.now, self.rows = Account("wire"), 10_000, dict[str, Entry]()
        self.said: tuple[Entry, ...] = ()

    def look(self, kind: EntryKind | None, after_ms: int = 100, **more: Any) -> tuple[Entry, ...]:
        self.now += after_ms
        self.account, self.said = book(self.account, Look(kind, **more), self.moment)
        for entry in self.said:
            assert entry.to_ms is None or entry.to_ms >= entry.from_ms
            assert not (entry.id in self.rows and self.rows[entry.id].to_ms is not None), "it was over"
            self.rows[entry.id] = entry
        return self.said

    @property
    def moment(self) -> Moment:
        return Moment(UTC_MS + self.now, self.now, "boot")

    def resume(self) -> None:
        """Another process goes on."""
        kept = codec.parse(Account, codec.dump(self.account))
        assert kept == self.account
        self.account = replace(kept, resumed=True)

    @property
    def intervals(self) -> list[tuple[EntryKind, int, int | None, int, Counted]]:
        """EntryKind, from, to (since boot), frames, and how sure they are."""
        return [
            (one.kind, one.from_ms - UTC_MS, one.to_ms and one.to_ms - UTC_MS, one.frames, one.counted)
            for one in self.known.values()
        ]

    @property
    def known(self) -> dict[str, Entry]:
        """The rows, with all that is known by now of the one that goes on."""
        return self.rows | ({self.account.entry.id: self.account.entry} if self.account.entry else {})


def guard(frames: int, table: int | None = 1, *, cuts: bool = False) -> ByGuard:
    return ByGuard(Count(frames, 60 * frames), table, cuts)


def wire(
    entered: int,
    left: int = 0,
    emitted: int = 0,
    *,
    still: bool = True,
    ports: tuple[int, ...] = (3, 4),
    adapters: tuple[int, ...] = (5, 6),
) -> OnWire:
    counts = [Count(frames, 60 * frames) for frames in (entered, left, emitted)]
    return OnWire(ports, counts[0], counts[1], counts[2], still, adapters)


def by_guard(frames: int, entered: int = 0, since_ms: int | None = None, **more: Any) -> dict[str, Any]:
    return {"by_guard": True, "guard": guard(frames), "wire": wire(entered), "since_ms": since_ms, **more}


def test_what_is_inspected_is_nobody_s_business() -> None:
    books = Books()
    for _ in range(3):
        assert books.look(None, guard=guard(0), wire=wire(books.now)) == ()
    assert (books.account.sums.passed, books.account.sums.cut) == (Count(), Count())


def test_a_trip_begins_when_the_kernel_says_and_ends_when_the_vm_has_the_wire_again() -> None:
    books = Books()
    books.look(None, guard=guard(0), wire=wire(50))
    books.look(BYPASSED, after_ms=8_000, **by_guard(813, 900, since_ms=10_340, within_ms=10, cause="the VM has failed"))
    assert books.intervals == [(BYPASSED, 10_340, None, 813, EXACT)]
    assert books.said[0].precision_ms == 10
    assert books.said[0].cause == "the VM has failed"
    books.look(None, after_ms=1_000, guard=guard(1_000), wire=wire(2_000))
    assert books.intervals == [(BYPASSED, 10_340, 19_100, 1_000, EXACT)]
    assert (books.account.sums.passed, books.account.sums.cut) == (Count(1_000, 60_000), Count())
    assert books.account.until(books.now).bypassed_ms == 19_100 - 10_340


def test_what_was_cut_is_never_told_as_passed() -> None:
    books = Books()
    books.look(None, guard=guard(0, cuts=True), wire=wire(0))
    books.look(CUT, **by_guard(0, since_ms=10_150) | {"guard": guard(813, cuts=True)})
    books.look(None, guard=guard(900, cuts=True), wire=wire(1_000))
    assert books.intervals == [(CUT, 10_150, 10_300, 900, EXACT)]
    assert (books.account.sums.passed.frames, books.account.sums.cut.frames) == (0, 900)


def test_what_switches_carry_is_counted_by_the_nics() -> None:
    books = Books()
    books.look(None, wire=wire(100, 100, 100))
    books.look(BYPASSED, wire=wire(103, 103, 101))
    assert books.intervals == [(BYPASSED, 10_200, None, 2, AT_LEAST)], "in the moment of the switch"
    books.look(BYPASSED, after_ms=5_000, wire=wire(30_103, 30_103, 101))
    books.look(None, wire=wire(30_110, 30_110, 106))
    assert books.intervals == [(BYPASSED, 10_200, 15_300, 30_004, AT_LEAST)]


def test_switches_that_are_joined_behind_a_guard_that_sees_nothing() -> None:
    books = Books()
    books.look(None, guard=guard(0), wire=wire(100, 100, 100))
    books.look(BYPASSED, guard=guard(0), wire=wire(110, 110, 104))
    books.look(BYPASSED, guard=guard(0), wire=wire(500, 500, 104))
    books.look(None, guard=guard(0), wire=wire(510, 510, 114))
    assert [one[3:] for one in books.intervals] == [(6 + 390, AT_LEAST)]


def test_what_a_vm_brought_before_it_died_unseen_did_not_go_past_it() -> None:
    for left in ((), (7, 8)):
        books = Books()
        books.look(None, guard=guard(0), wire=wire(100, 100, 100))
        books.resume()
        # It brought 900 more, and its adapters went, or others came; another table has taken the wire.
        books.look(BYPASSED, **by_guard(0) | {"guard": guard(40, 2), "wire": wire(1_040, 1_040, 0, adapters=left)})
        assert [one[3:] for one in books.intervals] == [(40, AT_LEAST)]


def test_a_table_that_is_thrown_away_while_it_has_the_wire_and_the_vm_is_dead() -> None:
    books = Books()
    books.look(None, guard=guard(0), wire=wire(100, 100, 100))
    books.look(BYPASSED, **by_guard(50, 150) | {"wire": wire(150, 150, 100)})
    books.look(CUT, guard=guard(50, None), wire=wire(240, 232, 100))
    assert [one[3:] for one in books.intervals] == [(50 + 82, AT_LEAST), (0, EXACT)]


def test_a_wire_that_nobody_carries_is_cut_and_what_came_is_counted() -> None:
    books = Books()
    books.look(None, wire=wire(100, 100, 100))
    books.look(CUT, wire=wire(110, 100, 100))
    books.look(CUT, after_ms=5_000, wire=wire(2_510, 100, 100))
    books.look(None, wire=wire(2_520, 110, 110))
    assert books.intervals == [(CUT, 10_200, 15_300, 2_400, EXACT)]


@pytest.mark.parametrize("flushed", [1_350, 900])
def test_a_table_that_goes_loses_nothing_while_the_switches_carry_on(flushed: int) -> None:
    """Of 1,350 frames that the old table had taken, none or 450 were thrown away before anybody read them."""
    books = Books()
    books.look(None, guard=guard(0), wire=wire(0))
    books.look(BYPASSED, **by_guard(0, 0, since_ms=10_200))
    books.look(BYPASSED, **by_guard(900, 900))
    books.look(BYPASSED, by_guard=False, guard=guard(flushed, None), wire=wire(1_500))
    books.look(BYPASSED, by_guard=True, guard=guard(flushed + 20, 2), wire=wire(1_700))
    books.look(BYPASSED, by_guard=True, guard=guard(flushed + 220, 2), wire=wire(1_900))
    assert books.intervals == [(BYPASSED, 10_200, None, 1_900, EXACT)]
    books.look(BYPASSED, by_guard=False, guard=guard(flushed + 220, None), wire=wire(1_901, still=False))
    assert books.intervals[0][3:] == (1_901, AT_LEAST)
    books.look(None, guard=guard(flushed + 220, None), wire=wire(1_901))
    assert books.intervals[0][3:] == (1_901, AT_LEAST)


def test_a_table_that_is_not_counted_yet_is_no_table() -> None:
    books = Books()
    books.look(BYPASSED, **by_guard(1_250, 1_370))
    for frames, table, entered in ((1_250, 0, 1_400), (1_250, 0, 1_406), (1_276, 3, 1_418), (1_280, 3, 1_422)):
        books.look(BYPASSED, by_guard=True, guard=guard(frames, table), wire=wire(entered))
    assert books.account.sums.passed.frames == 1_250 + 1_422 - 1_370


def test_a_table_that_has_the_wire_before_it_is_known_has_counted_all_of_it() -> None:
    books = Books()
    books.look(UNKNOWN, guard=guard(100, None), wire=wire(300))
    books.look(UNKNOWN, guard=guard(100, 0), wire=wire(400))
    books.look(BYPASSED, by_guard=True, guard=guard(171, 3), wire=wire(450), since_ms=books.now + 90, within_ms=264)
    assert books.intervals[-1] == (BYPASSED, 10_290, None, 71, EXACT)
    assert books.said[-1].precision_ms == 264


def test_nothing_is_taken_off_when_counters_begin_anew() -> None:
    books = Books()
    books.look(BYPASSED, **by_guard(2_303, 2_303))
    books.look(BYPASSED, by_guard=True, guard=guard(0, 2), wire=wire(0))
    books.look(BYPASSED, by_guard=True, guard=guard(0, 2), wire=wire(5, ports=(3, 9)))
    books.look(None, guard=guard(0, 2), wire=wire(5))
    assert [one[3:] for one in books.intervals] == [(2_303, AT_LEAST)]


def test_behind_a_nic_that_merges_its_own_figure_counts_and_is_the_least() -> None:
    books = Books()
    books.look(None, guard=guard(0), wire=wire(0), merges=True)
    books.look(BYPASSED, **by_guard(17, 213, since_ms=10_200), merges=True)
    books.look(BYPASSED, **by_guard(117, 1_313), merges=True)
    books.look(None, guard=guard(117), wire=wire(1_313), merges=True)
    assert [one[3:] for one in books.intervals] == [(17 + 1_100, AT_LEAST)]


def test_an_order_begins_an_interval_of_its_own_and_frames_are_where_they_went() -> None:
    books = Books()
    held: dict[str, Any] = {"planned": True, "who": "uid 1000", "reason": "maintenance"}
    books.look(None, guard=guard(0), wire=wire(0))
    books.look(BYPASSED, **by_guard(10, 10, since_ms=10_150))
    books.look(BYPASSED, **by_guard(30, 30), **held)
    books.look(BYPASSED, **by_guard(70, 70), **held)
    books.look(None, guard=guard(75), wire=wire(80))
    assert books.intervals == [(BYPASSED, 10_150, 10_300, 30, EXACT), (BYPASSED, 10_300, 10_500, 45, EXACT)]
    assert [(one.planned, one.who, one.reason) for one in books.rows.values()] == [
        (False, "", ""),
        (True, "uid 1000", "maintenance"),
    ]


def test_what_goes_on_is_told_again_each_minute() -> None:
    books = Books()
    books.look(BYPASSED, **by_guard(0))
    assert not books.look(BYPASSED, after_ms=59_000, **by_guard(5))
    assert [one.frames for one in books.look(BYPASSED, after_ms=2_000, **by_guard(9))] == [9]
    assert not books.look(BYPASSED, after_ms=61_000, **by_guard(9)), "nothing is new"


# --- processes that die ----------------------------------------------------------------------------------------------


def test_eight_seconds_of_a_dead_daemon_are_not_missing() -> None:
    books = Books()
    books.look(None, guard=guard(0), wire=wire(0))
    books.resume()
    books.look(BYPASSED, after_ms=9_000, **by_guard(800, since_ms=11_400, within_ms=10))
    assert books.intervals == [(BYPASSED, 11_400, None, 800, EXACT)]
    books.resume()
    books.look(BYPASSED, after_ms=9_000, **by_guard(1_700, since_ms=11_400, within_ms=10))
    books.look(None, guard=guard(1_800), wire=wire(0))
    assert books.intervals == [(BYPASSED, 11_400, 28_200, 1_800, EXACT)]


def test_what_nobody_saw_begin_is_bounded() -> None:
    books = Books()
    books.look(None, wire=wire(0))
    books.resume()
    books.look(BYPASSED, after_ms=9_000, wire=wire(900, 900, 100))
    assert books.intervals == [(BYPASSED, 10_100, None, 800, AT_LEAST)]
    assert books.said[0].precision_ms == 9_000
    books.resume()
    books.look(None, after_ms=4_000, wire=wire(1_300, 1_300, 300))
    assert books.intervals == [(BYPASSED, 10_100, 23_100, 1_000, AT_LEAST)]
    assert books.said[0].precision_ms == 9_000


def test_the_guard_had_the_wire_for_a_while_that_nobody_saw() -> None:
    books = Books()
    books.look(None, guard=guard(100), wire=wire(0))
    books.look(None, after_ms=4_000, guard=guard(140), wire=wire(0))
    first, second = books.intervals
    assert first[0] is BYPASSED
    assert first[3:] == (100, EXACT), "before anybody looked at all"
    assert second == (BYPASSED, 10_100, 14_100, 40, EXACT)
    assert books.account.sums.passed.frames == 140


def test_boot_before_the_daemon() -> None:
    books = Books()
    books.look(BYPASSED, **by_guard(345, 400, since_ms=3_000))
    assert books.intervals == [(BYPASSED, 3_000, None, 345, EXACT)]


def test_what_was_open_when_the_machine_ended_ends_when_it_was_last_known_to_run() -> None:
    books = Books()
    books.look(BYPASSED, cause="the VM has failed", **by_guard(0))
    (entry,) = books.said
    hold = replace(entry, kind=EntryKind.HOLD, id="hold")
    assert unended([entry, hold], [books.account], entry.from_ms + 900) == ()
    (over,) = unended([entry, hold], [], entry.from_ms + 900)
    assert over == replace(entry, to_ms=entry.from_ms + 900, cause="the VM has failed; nobody saw its end")
    assert unended([entry], [], None)[0].to_ms == entry.from_ms


# --- whatever comes --------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from([None, BYPASSED, CUT, UNKNOWN]),
        st.booleans(),
        st.booleans(),
        st.sampled_from([None, 1, 2, 3]),
        st.integers(0, 50),
        st.integers(0, 50),
        st.integers(0, 2_000),
        st.sampled_from([None, 0, 5, 500, 50_000]),
        st.sampled_from(["", "resume", "planned", "other NICs", "reset"]),
    ),
    max_size=25,
)


@given(STEPS)
def test_what_the_intervals_hold_adds_up_and_nothing_is_negative(steps: list[tuple[Any, ...]]) -> None:
    books, taken, entered = Books(), 0, 0
    for kind, guarded, cuts, table, more, passing, after_ms, ago, what in steps:
        taken, entered = taken + more, entered + passing
        if what == "resume":
            books.resume()
        entered = 0 if what == "reset" else entered
        looked = {
            "by_guard": guarded and kind in (BYPASSED, CUT),
            "guard": guard(taken, table, cuts=cuts),
            "wire": wire(entered, entered, 0, ports=(9, 9) if what == "other NICs" else (3, 4)),
            "planned": what == "planned" and kind is not None,
            "since_ms": None if ago is None else books.now + after_ms - ago,
        }
        books.look(kind, after_ms, **looked)
        rows = list(books.rows.values())
        assert all(one.frames >= 0 for one in rows)
        open_ones = [one for one in rows if one.to_ms is None]
        assert [one.id for one in open_ones] == ([books.account.entry.id] if books.account.entry else [])
        assert (kind is None) == (not open_ones)
        for each, total in ((BYPASSED, books.account.sums.passed), (CUT, books.account.sums.cut)):
            assert sum(one.frames for one in books.known.values() if one.kind is each) == total.frames
