"""What a ledger says, for one appliance: its intervals, for which times there is evidence, and whether it is whole."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.ledger.chain import Break, ChainedRow, links, ordered
from reconciler.ledger.entry import BY_HAND, Entry, EntryKind
from reconciler.ledger.row import Row

# The clock that never steps drifts from the one on the wall, if that is kept right, by some 50 ms in a minute at most;
# what jumps by more than this between two rows was set.
_STEP_MS = 1_000
_MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class Mark:
    """What was noted beside a ledger: its last row and its hash, and when a daemon was last alive (UTC)."""

    n: int
    hash: str
    alive_ms: int


@dataclass(frozen=True, slots=True)
class LedgerSource:
    """A file: its name for people, its lines, and what was noted beside it, if that is known."""

    name: str
    lines: Iterable[bytes]
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """All that is known of one appliance. Times are UTC, in milliseconds since 1970.

    `entries`: the last word on each interval, and all moments, by when they began. `looked`: the spans in which a
    daemon ran. `known_ms`: until when there is evidence. `first`, `last`: rows. `last_hash`: by which somebody can tell
    later whether rows at the end were taken away. `breaks`: where the chain is broken; `notes`: what else is odd.
    """

    appliance: str
    host: str
    machine: str
    entries: tuple[Entry, ...]
    looked: tuple[tuple[int, int], ...]
    known_ms: int
    first: Row
    last: Row
    last_hash: str
    breaks: tuple[Break, ...]
    notes: tuple[str, ...]

    @property
    def segments(self) -> tuple[str, ...]:
        """All segments that it speaks of, in the order in which they come up."""
        named = [
            name
            for entry in self.entries
            for name in (entry.evidence if entry.kind in (EntryKind.START, EntryKind.RELOAD) else (entry.segment,))
        ]
        return tuple(dict.fromkeys(name for name in named if name))


@dataclass(slots=True)
class _Gathered:
    found: list[ChainedRow] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    breaks: list[Break] = field(default_factory=list)


def histories(sources: Iterable[LedgerSource]) -> tuple[tuple[History, ...], tuple[Break, ...]]:
    """Each appliance of each machine that any source speaks of; and what is broken of files that speak of none.

    Files may overlap, be copies of each other, and come in any order.
    """
    gathered: dict[tuple[str, str], _Gathered] = {}
    homeless: list[Break] = []
    for source in sources:
        mine: _Gathered | None = None
        broken: list[Break] = []
        for one in links(source.lines):
            if isinstance(one, Break):
                broken.append(Break(f"{source.name}, {one.what}"))
                continue
            mine = gathered.setdefault((one.row.machine, one.row.appliance), _Gathered())
            mine.found.append(one)
        listed = [*broken[:_MOST_LISTED]]
        if len(broken) > _MOST_LISTED:
            listed.append(Break(f"{source.name}, and {len(broken) - _MOST_LISTED} more lines are no rows"))
        if mine is None:
            homeless += listed or [Break(f"{source.name}: it has no rows")]
        else:
            mine.breaks += listed
            mine.marks += source.marks
    made = (_history(one) for one in gathered.values())
    return tuple(sorted(made, key=lambda one: (one.host, one.appliance, one.machine))), tuple(homeless)


def _history(of: _Gathered) -> History:
    rows, breaks = ordered(of.found)
    last = rows[-1]
    missing = [
        Break(f"rows {last.row.n + 1} to {mark.n} were written and are not there", last.row.at_ms, mark.alive_ms)
        for mark in sorted(of.marks, key=lambda mark: -mark.n)[:1]
        if mark.n > last.row.n
    ]
    missing += [
        Break(f"row {mark.n} is another one than was written")
        for mark in of.marks
        if mark.n == last.row.n and mark.hash != last.hash
    ]
    marked = [mark.alive_ms for mark in of.marks]
    lived = [one.row.at_ms for one in rows if one.row.entry.kind not in BY_HAND]
    entries = _last_words(rows)
    return History(
        appliance=last.row.appliance,
        host=last.row.host,
        machine=last.row.machine,
        entries=entries,
        looked=tuple(_looked([one.row for one in rows], entries, max(lived[-1:] + marked, default=0))),
        known_ms=max([last.row.at_ms, *marked]),
        first=rows[0].row,
        last=last.row,
        last_hash=last.hash,
        breaks=(*of.breaks, *breaks, *missing),
        notes=tuple(_notes([one.row for one in rows])),
    )


def _last_words(rows: Iterable[ChainedRow]) -> tuple[Entry, ...]:
    said: dict[str | int, Entry] = {one.row.entry.id or one.row.n: one.row.entry for one in rows}
    return tuple(sorted(said.values(), key=lambda entry: entry.from_ms))


def _looked(rows: Sequence[Row], entries: Iterable[Entry], lived_ms: int) -> Iterator[tuple[int, int]]:
    """From each start of a daemon to its end: told by itself, or by the next one, or by its last row."""
    gaps: Mapping[int | None, int] = {one.to_ms: one.from_ms for one in entries if one.kind is EntryKind.NO_EVIDENCE}
    # Where what came before was dropped, it was a daemon that went on.
    since = rows[0].at_ms if rows[0].entry.kind is EntryKind.CONTINUED else None
    before_ms = 0
    for row in rows:
        kind, at = row.entry.kind, row.entry.from_ms
        if kind is EntryKind.START:
            if since is not None:
                yield since, max(since, gaps.get(at, before_ms))
            since = at
        elif kind is EntryKind.STOP and since is not None:
            yield since, max(since, at)
            since = None
        before_ms = before_ms if kind in BY_HAND else row.at_ms
    if since is not None:
        yield since, max(since, lived_ms)


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    wrong = sum(not row.synchronised for row in rows)
    if wrong:
        what = "1 row was" if wrong == 1 else f"{wrong} rows were"
        yield f"{what} written while the clock was not synchronised"
    listed = 0
    for before, after in itertools.pairwise(rows):
        step = (after.at_ms - before.at_ms) - (after.monotonic_ms - before.monotonic_ms)
        if before.boot == after.boot and abs(step) > _STEP_MS and listed < _MOST_LISTED:
            listed += 1
            way = "forward" if step > 0 else "back"
            yield f"the clock was set {way} by {abs(step) / 1_000:.1f} s before row {after.n}"
