"""What a history adds up to between two moments: for how much of the time a segment was inspected, and what else."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from reconciler.ledger.entry import Counted, Entry, EntryKind
from reconciler.ledger.history import History


class Share(StrEnum):
    """What became of frames. Where two are true of a moment, the later one here counts."""

    INSPECTED = "inspected"
    UNKNOWN = "unknown"  # the path was not seen, nobody looked, or rows are missing
    HELD = "held"  # bypassed, because somebody ordered it
    BYPASSED = "bypassed"  # because of a failure
    CUT = "cut"


# In the order in which people read them.
SHARES = (Share.INSPECTED, Share.BYPASSED, Share.HELD, Share.CUT, Share.UNKNOWN)

_WEIGHT = {share: number for number, share in enumerate(Share)}
# What is not worth a line in a list of what happened.
_ROUTINE = frozenset({EntryKind.START, EntryKind.STOP, EntryKind.ALIVE, EntryKind.CONTINUED})
_PATHS = (EntryKind.BYPASSED, EntryKind.CUT, EntryKind.UNKNOWN, EntryKind.NO_EVIDENCE)


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames and bytes of the wire; `counted`: how well they are known."""

    frames: int = 0
    bytes: int = 0
    counted: Counted = Counted.EXACT

    def plus(self, entry: Entry) -> "Frames":
        """With those of an interval."""
        exact = self.counted is entry.counted is Counted.EXACT
        counted = Counted.EXACT if exact else Counted.AT_LEAST
        return Frames(self.frames + entry.frames, self.bytes + entry.bytes, counted)


@dataclass(frozen=True, slots=True)
class Piece:
    """A span of time in which the same is true of a segment."""

    share: Share
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class Reckoned:
    """A segment, from one moment to another. `unsure_ms`: what the bounds of its intervals may be off by, in all.

    `passed`: past the VM; `cut`: nowhere.
    """

    segment: str
    pieces: tuple[Piece, ...]
    passed: Frames
    cut: Frames
    unsure_ms: int

    def lasted(self, share: Share) -> int:
        """For how long, in milliseconds."""
        return sum(piece.to_ms - piece.from_ms for piece in self.pieces if piece.share is share)


@dataclass(frozen=True, slots=True)
class Reported:
    """One appliance in a report: its segments, and all that happened, between two moments (UTC, milliseconds)."""

    history: History
    since_ms: int
    until_ms: int
    segments: tuple[Reckoned, ...]
    happened: tuple[Entry, ...]

    def lasted(self, entry: Entry) -> int:
        """How long an interval lasted, in milliseconds; as far as is known of one that goes on."""
        return end(entry, self.history) - entry.from_ms


def reckon(history: History, segment: str, since_ms: int, until_ms: int) -> Reckoned:
    """How a segment was, between two moments."""
    mine = [one for one in _touching(history, since_ms, until_ms) if one.kind in _PATHS and _of(one, segment)]
    spans = [*_spans(history, mine)]
    paths = [entry for entry in mine if entry.kind is not EntryKind.NO_EVIDENCE]
    passed = cut = Frames()
    for entry in paths:
        if entry.kind is EntryKind.BYPASSED:
            passed = passed.plus(entry)
        elif entry.kind is EntryKind.CUT:
            cut = cut.plus(entry)
    unsure = sum(entry.precision_ms * 2 for entry in paths)
    return Reckoned(segment, tuple(_pieces(spans, since_ms, until_ms)), passed, cut, unsure)


def reported(history: History, segment: str | None, since_ms: int, until_ms: int) -> Reported:
    """What is to be told of an appliance between two moments; of one segment, or (None) of all."""
    names = [name for name in history.segments if segment in (None, name)]
    happened = [
        entry
        for entry in _touching(history, since_ms, until_ms)
        if entry.kind not in _ROUTINE and (segment is None or _of(entry, segment))
    ]
    segments = tuple(reckon(history, name, since_ms, until_ms) for name in names)
    return Reported(history, since_ms, until_ms, segments, tuple(happened))


def _touching(history: History, since_ms: int, until_ms: int) -> tuple[Entry, ...]:
    return tuple(
        entry
        for entry in history.entries
        if entry.from_ms <= until_ms and max(end(entry, history), entry.from_ms + 1) > since_ms
    )


def end(entry: Entry, history: History) -> int:
    """When an interval ended; one that goes on is known until there is no evidence any more."""
    return max(entry.from_ms, history.known_ms) if entry.to_ms is None else entry.to_ms


def _of(entry: Entry, segment: str) -> bool:
    return entry.segment in ("", segment)


def _spans(history: History, entries: Iterable[Entry]) -> Iterator[Piece]:
    for since, until in history.looked:
        yield Piece(Share.INSPECTED, since, until)
    for broken in history.breaks:
        if broken.from_ms is not None and broken.to_ms is not None:
            yield Piece(Share.UNKNOWN, broken.from_ms, broken.to_ms)
    for entry in entries:
        yield Piece(_share(entry), entry.from_ms, end(entry, history))


def _share(entry: Entry) -> Share:
    match entry.kind:
        case EntryKind.BYPASSED:
            return Share.HELD if entry.planned else Share.BYPASSED
        case EntryKind.CUT:
            return Share.CUT
        case _:
            return Share.UNKNOWN


def _pieces(spans: Iterable[Piece], since_ms: int, until_ms: int) -> Iterator[Piece]:
    """One after the other, without a gap: at each moment the weightiest that is true; where nothing is, unknown."""
    changes: list[tuple[int, int, Share]] = []
    for span in spans:
        begin, over = max(span.from_ms, since_ms), min(span.to_ms, until_ms)
        if begin < over:
            changes += [(begin, 1, span.share), (over, -1, span.share)]
    changes.sort(key=lambda change: change[0])
    true = dict.fromkeys(Share, 0)
    now, begun, at = Share.UNKNOWN, since_ms, since_ms
    for moment, change, share in [*changes, (until_ms, 0, Share.UNKNOWN)]:
        if moment > at:
            then = max((one for one in Share if true[one]), key=_WEIGHT.__getitem__, default=Share.UNKNOWN)
            if then is not now and at > begun:
                yield Piece(now, begun, at)
                begun = at
            now, at = then, moment
        true[share] += change
    if at > begun:
        yield Piece(now, begun, at)
