"""A timeline of received frames as text for a terminal. Pure: rows and events in, lines out."""

import string
from collections.abc import Sequence
from dataclasses import dataclass

_MARKERS = string.digits[1:] + string.ascii_lowercase

# A slice that expects fewer frames than this would look empty now and then by mere chance.
_FRAMES_PER_SLICE = 4


@dataclass(frozen=True, slots=True)
class FlowRow:
    """One flow.

    Attributes:
        label: Stands before the row.
        arrivals_s: When frames arrived, in seconds on the time axis, in any order.
        rate: Frames per second that were sent.
        start_s: When sending began, in seconds on the time axis.
        end_s: When it ended.
    """

    label: str
    arrivals_s: Sequence[float]
    rate: float
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The characters of a picture.

    Attributes:
        levels: From least to most; the last one stands for everything that was expected.
        nothing: Frames were sent and none arrived.
    """

    levels: str
    nothing: str


BLOCKS = Alphabet(levels="▁▂▃▄▅▆▇█", nothing="×")
ASCII = Alphabet(levels=".:-=+*%#", nothing="x")


def alphabet_for(encoding: str | None) -> Alphabet:
    """Choose what a stream of this encoding can show, as in ``alphabet_for(sys.stdout.encoding)``."""
    return BLOCKS if (encoding or "").lower().replace("-", "").replace("_", "") == "utf8" else ASCII


def timeline(
    rows: Sequence[FlowRow],
    *,
    duration_s: float,
    events: Sequence[tuple[float, str]] = (),
    width: int = 80,
    alphabet: Alphabet = BLOCKS,
) -> str:
    """Draw the rows over a common time axis, with the events below.

    Each character is a slice of time, its height the share of the expected frames that arrived in it; a blank is a
    slice in which nothing was sent. Events are numbered below the rows, in the order of time, and spelt out below
    that, so that labels never run into one another.

    Args:
        rows: From top to bottom.
        duration_s: Length of the time axis, which begins at 0.
        events: When, in seconds, and what.
        width: Characters per line, labels included. Narrow enough rates draw fewer slices than fit.
        alphabet: See `alphabet_for`.

    Returns:
        Lines with a newline between them, none at the end.
    """
    if duration_s <= 0:
        raise ValueError(f"duration {duration_s} s is not positive")
    margin = max((len(row.label) for row in rows), default=0) + 2
    slices = max(1, width - margin)
    if rows:
        slowest = min(row.rate for row in rows)
        slices = max(1, min(slices, int(duration_s * slowest / _FRAMES_PER_SLICE)))
    lines = [f"{row.label:<{margin}}{_draw(row, duration_s, slices, alphabet)}" for row in rows]
    marks, legend = _events(events, duration_s, slices)
    if marks:
        lines.append(" " * margin + marks)
    lines.append(" " * margin + _scale(duration_s, slices))
    return "\n".join(line.rstrip() for line in [*lines, *legend])


def _draw(row: FlowRow, duration_s: float, slices: int, alphabet: Alphabet) -> str:
    arrived = [0] * slices
    for moment in row.arrivals_s:
        if 0 <= moment < duration_s:
            arrived[int(moment / duration_s * slices)] += 1
    length = duration_s / slices
    return "".join(
        _character(count, row.rate * _overlap(row, index * length, (index + 1) * length), alphabet)
        for index, count in enumerate(arrived)
    )


def _overlap(row: FlowRow, begin: float, end: float) -> float:
    return max(0.0, min(end, row.end_s) - max(begin, row.start_s))


def _character(count: int, expected: float, alphabet: Alphabet) -> str:
    if count == 0:
        # Half a frame is what the edges of sending leave over; it need not have arrived in this very slice.
        return alphabet.nothing if expected > 0.5 else " "
    top = len(alphabet.levels)
    share = count / expected if expected > 0 else 1.0
    return alphabet.levels[min(top, max(1, round(share * top))) - 1]


def _events(events: Sequence[tuple[float, str]], duration_s: float, slices: int) -> tuple[str, list[str]]:
    """Return the line of markers, and a line for each event. Events of one slice share a marker."""
    marks = [" "] * slices
    used: dict[int, str] = {}
    legend = []
    times = [f"{moment:.3f}" for moment, _ in events]
    widest = max(map(len, times), default=0)
    for moment, label in sorted(events, key=lambda event: event[0]):
        column = min(slices - 1, max(0, int(moment / duration_s * slices)))
        marker = used.setdefault(column, _MARKERS[len(used) % len(_MARKERS)])
        marks[column] = marker
        legend.append(f"  {marker}  {moment:>{widest}.3f} s  {label}")
    return "".join(marks).rstrip(), legend


def _scale(duration_s: float, slices: int) -> str:
    """Label both ends of the time axis."""
    end = f"{duration_s:g} s"
    return f"0{end:>{max(slices - 1, len(end) + 1)}}"
