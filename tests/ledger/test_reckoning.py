"""What a ledger adds up to: shares of time that are whole, and never better than what is known."""

import itertools
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import chain, entry, row

from reconciler.ledger.entry import Counted, Entry, EntryKind
from reconciler.ledger.history import History, LedgerSource, Mark, histories
from reconciler.ledger.reckoning import SHARES, Reckoned, Share, reckon, reported
from reconciler.ledger.row import line

S = 1_000
BEGUN = entry(EntryKind.START, 0, 0, evidence=("wan",))
ALIVE = entry(EntryKind.ALIVE, 1_000 * S, 1_000 * S)


def history(*entries: Entry, marks: tuple[Mark, ...] = (), lines: Iterable[bytes] | None = None) -> History:
    (found,), homeless = histories([LedgerSource("file", chain(*entries) if lines is None else lines, marks)])
    assert not homeless
    return found


def shares(of: History, since: int = 0, until: int = 1_000 * S) -> dict[str, int]:
    one = reckon(of, "wan", since, until)
    assert sum(one.lasted(share) for share in SHARES) == until - since
    return {share.value: one.lasted(share) // S for share in SHARES if one.lasted(share)}


def past(since: int, until: int | None, kind: EntryKind = EntryKind.BYPASSED, **more: object) -> Entry:
    return entry(
        kind, since * S, None if until is None else until * S, **{"segment": "wan", "id": f"{kind}{since}", **more}
    )


@pytest.mark.parametrize(
    ("entries", "right"),
    [
        ([BEGUN, ALIVE], {"inspected": 1_000}),
        ([BEGUN, past(100, 200), ALIVE], {"inspected": 900, "bypassed": 100}),
        ([BEGUN, past(100, None), past(100, 200), ALIVE], {"inspected": 900, "bypassed": 100}),
        ([BEGUN, past(100, None), ALIVE], {"inspected": 100, "bypassed": 900}),
        # One that never was.
        ([BEGUN, past(100, None), past(100, 100), ALIVE], {"inspected": 1_000}),
        ([BEGUN, past(100, 200, planned=True), ALIVE], {"inspected": 900, "held": 100}),
        # A failure while it was held is no order.
        ([BEGUN, past(100, 200, planned=True), past(150, 160), ALIVE], {"inspected": 900, "held": 90, "bypassed": 10}),
        ([BEGUN, past(100, 200), past(150, 250, EntryKind.CUT), ALIVE], {"inspected": 850, "bypassed": 50, "cut": 100}),
        ([BEGUN, past(100, 200, EntryKind.UNKNOWN), ALIVE], {"inspected": 900, "unknown": 100}),
        # Of another segment, and of all.
        ([BEGUN, past(100, 200, segment="dmz"), ALIVE], {"inspected": 1_000}),
        ([BEGUN, past(100, 200, EntryKind.CUT, segment=""), ALIVE], {"inspected": 900, "cut": 100}),
        # Nobody had looked before it began, nor while it was stopped; the kernel tells what it did meanwhile.
        ([replace(BEGUN, from_ms=400 * S, to_ms=400 * S), ALIVE], {"inspected": 600, "unknown": 400}),
        ([BEGUN, past(300, 300, EntryKind.STOP, id=""), past(400, 400, EntryKind.START, id=""), ALIVE], {"inspected": 900, "unknown": 100}),
        ([BEGUN, past(300, 300, EntryKind.STOP, id=""), past(400, 400, EntryKind.START, id=""), past(320, 370), ALIVE],
         {"inspected": 900, "bypassed": 50, "unknown": 50}),
        # One that was killed: until it was last known to live, or else until its last row.
        ([BEGUN, past(300, 400, EntryKind.NO_EVIDENCE, id="", segment=""), past(400, 400, EntryKind.START, id=""), ALIVE],
         {"inspected": 900, "unknown": 100}),
        ([BEGUN, past(300, 300, EntryKind.RELOAD, id=""), past(400, 400, EntryKind.START, id=""), ALIVE], {"inspected": 900, "unknown": 100}),
        # A row that somebody wrote by hand says nothing of a daemon.
        ([BEGUN, past(300, 300, EntryKind.RELOAD, id=""), past(900, 900, EntryKind.GUARD_ON, id="")], {"inspected": 300, "unknown": 700}),
        # A hold says what somebody wanted, and not where frames went.
        ([BEGUN, past(100, 200, EntryKind.HOLD), past(100, 200, EntryKind.GUARD_OFF), ALIVE], {"inspected": 1_000}),
        # After the last evidence nothing is known.
        ([BEGUN, past(600, 600, EntryKind.ALIVE, id="")], {"inspected": 600, "unknown": 400}),
    ],
)  # fmt: skip
def test_each_moment_has_one_share(entries: list[Entry], right: dict[str, int]) -> None:
    assert shares(history(*entries)) == right


def test_what_is_outside_of_the_time_asked_for_does_not_count() -> None:
    of = history(BEGUN, past(100, 300), past(600, 700, EntryKind.CUT), ALIVE)
    assert shares(of, 200 * S, 650 * S) == {"inspected": 300, "bypassed": 100, "cut": 50}
    told = reported(of, None, 200 * S, 650 * S)
    assert [one.kind for one in told.happened] == [EntryKind.BYPASSED, EntryKind.CUT]
    assert not reported(of, None, 310 * S, 320 * S).happened
    assert not reported(of, "other", 0, 650 * S).segments


def test_a_daemon_that_lives_is_evidence_until_it_was_last_seen_to() -> None:
    last = chain(BEGUN)[0]
    of = history(BEGUN, past(10, None), marks=(Mark(2, "", 700 * S), Mark(1, "", 800 * S)))
    assert shares(of) == {"inspected": 10, "bypassed": 790, "unknown": 200}
    assert last


def test_frames_add_up_and_are_as_exact_as_the_least_exact() -> None:
    exact, least = Counted.EXACT, Counted.AT_LEAST
    one = past(1, 2, frames=7, bytes=700, counted=exact)
    other = past(3, 4, frames=5, bytes=500, counted=least, precision_ms=20)
    cut = past(5, 6, EntryKind.CUT, frames=3, bytes=300, counted=exact)
    made = reckon(history(BEGUN, one, replace(cut), ALIVE), "wan", 0, 1_000 * S)
    assert (made.passed.frames, made.passed.counted, made.cut.bytes, made.unsure_ms) == (7, exact, 300, 0)
    made = reckon(history(BEGUN, one, other, ALIVE), "wan", 0, 1_000 * S)
    assert (made.passed.frames, made.passed.counted, made.unsure_ms) == (12, least, 40)


def test_rows_that_are_missing_are_no_inspection() -> None:
    lines = chain(BEGUN, past(100, 200), past(300, 300, EntryKind.RELOAD, id=""), ALIVE)
    of = history(lines=[lines[0], *lines[2:]])
    assert [one.what for one in of.breaks] == ["row 2 is missing"]
    assert shares(of) == {"inspected": 700, "unknown": 300}
    of = history(lines=[lines[0], lines[1].replace(b'"wan"', b'"dmz"'), *lines[2:]])
    assert "one of them was changed" in of.breaks[0].what
    assert shares(of) == {"inspected": 900, "unknown": 100}


def test_rows_that_a_mark_knows_of_and_the_file_does_not_are_missing() -> None:
    of = history(BEGUN, past(100, 200), marks=(Mark(5, "e" * 64, 900 * S),))
    assert [one.what for one in of.breaks] == ["rows 3 to 5 were written and are not there"]
    assert shares(of) == {"inspected": 100, "bypassed": 100, "unknown": 800}
    of = history(BEGUN, marks=(Mark(1, "e" * 64, 900 * S),))
    assert [one.what for one in of.breaks] == ["row 1 is another one than was written"]


def test_where_older_rows_were_dropped_the_daemon_had_been_at_work() -> None:
    lines = chain(entry(EntryKind.CONTINUED, 100 * S, 100 * S), past(200, 300), ALIVE, after=(50, "a" * 64))
    of = history(lines=lines)
    assert not of.breaks
    assert shares(of) == {"inspected": 800, "bypassed": 100, "unknown": 100}


def test_many_appliances_and_overlapping_copies_are_told_apart_and_put_together() -> None:
    whole = chain(BEGUN, past(100, 200), ALIVE)
    other = chain(BEGUN, ALIVE, host="ax7", machine="n" * 32)
    found, homeless = histories(
        [
            LedgerSource("new", whole[1:]),
            LedgerSource("other", other),
            LedgerSource("old", whole[:2]),
            LedgerSource("junk", [b"<b>\n"]),
            LedgerSource("none", []),
        ]
    )
    assert [(one.host, one.breaks) for one in found] == [("ax6", ()), ("ax7", ())]
    assert shares(found[0]) == {"inspected": 900, "bypassed": 100}
    assert [one.what for one in homeless] == ["junk, line 1 is no row: no JSON", "none: it has no rows"]


def test_a_clock_that_was_set_or_is_not_kept_is_told() -> None:
    rows = [row(BEGUN, 0), row(ALIVE, 100 * S, monotonic_ms=50 * S, synchronised=False), row(ALIVE, 110 * S)]
    of = history(lines=map(line, rows[:1]))
    assert not of.notes
    lines = chain(BEGUN, past(100, 100, EntryKind.RELOAD, id=""), ALIVE)
    lines[1] = lines[1].replace(b'"monotonic_ms":100000', b'"monotonic_ms":90000').replace(b"true", b"false")
    assert history(lines=lines).notes == (
        "1 row was written while the clock was not synchronised",
        "the clock was set forward by 10.0 s before row 2",
        "the clock was set back by 10.0 s before row 3",
    )


MOMENTS = st.integers(0, 1_200 * S)
ENTRIES = st.builds(
    lambda kind, at, lasts, planned, segment, name: Entry(
        kind=kind, from_ms=at, to_ms=None if lasts is None else at + lasts, planned=planned, segment=segment, id=name
    ),
    st.sampled_from(EntryKind), MOMENTS, st.none() | st.integers(0, 300 * S), st.booleans(),
    st.sampled_from(["wan", "dmz", ""]), st.sampled_from(["", "a", "b", "c"]),
)  # fmt: skip


@given(st.lists(ENTRIES, max_size=30), MOMENTS, st.integers(1, 1_000 * S))
@settings(deadline=None)
def test_pieces_cover_all_of_the_time_and_each_moment_has_the_weightiest(
    entries: list[Entry], since: int, lasts: int
) -> None:
    of = history(BEGUN, *entries)
    made: Reckoned = reckon(of, "wan", since, since + lasts)
    assert made.pieces[0].from_ms == since
    assert made.pieces[-1].to_ms == since + lasts
    for one, other in itertools.pairwise(made.pieces):
        assert one.to_ms == other.from_ms
        assert one.share is not other.share
    assert all(one.from_ms < one.to_ms for one in made.pieces)
    for cut in (one for one in of.entries if one.kind is EntryKind.CUT and one.segment != "dmz"):
        middle = (cut.from_ms + (of.known_ms if cut.to_ms is None else cut.to_ms)) // 2
        if (
            cut.from_ms <= middle < (of.known_ms if cut.to_ms is None else cut.to_ms)
            and since <= middle < since + lasts
        ):
            assert [one.share for one in made.pieces if one.from_ms <= middle < one.to_ms] == [Share.CUT]
