"""What happened to the frames of one stream: pure arithmetic over what was sent and what arrived."""

import bisect
import itertools
from array import array
from dataclasses import dataclass, field

from reconciler.lab.source import Sent

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The frames that arrived, in the order of arrival; three columns of equal length.

    (Annotations are quoted because ``array[int]`` is an expression from Python 3.12 on only.)

    Attributes:
        sequences: The numbers of the frames.
        sent_ns: When the source sent each, in ns of CLOCK_REALTIME, by its own clock reading.
        received_ns: When the kernel received each, in ns of CLOCK_REALTIME, by the kernel's.
    """

    sequences: "array[int]"
    sent_ns: "array[int]"
    received_ns: "array[int]"

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True, slots=True)
class Measured:
    """What happened to the frames that were sent within a window of time.

    Attributes:
        sent: How many frames were sent; `received` + `lost`.
        received: How many of them arrived at least once.
        lost: How many never arrived.
        duplicated: How many arrivals were one too many.
        reordered: How many frames, duplicates aside, arrived after one with a higher number.
        longest_gap_s: The longest time in which no frame arrived, in seconds.
        gap_at_s: When that began, in seconds since the first frame of the stream was sent.
        worst_lateness_s: How late the source itself was at worst; see `Sent`. Covers the whole stream.
        start_ns: Begin of the window, in ns of CLOCK_REALTIME.
        end_ns: Its end, or the last arrival if that is later.
        arrivals: Every arrival of the stream, for a timeline.
    """

    sent: int
    received: int
    lost: int
    duplicated: int
    reordered: int
    longest_gap_s: float
    gap_at_s: float
    worst_lateness_s: float
    start_ns: int
    end_ns: int
    arrivals: Arrivals = field(repr=False)

    def arrivals_s(self, origin_ns: int) -> list[float]:
        """Return the times of all arrivals, in seconds since `origin_ns`, which several streams may share."""
        return [(received - origin_ns) / _SECOND_NS for received in self.arrivals.received_ns]


def measure(arrivals: Arrivals, sent: Sent, since_ns: int | None = None, until_ns: int | None = None) -> Measured:
    """Compare what arrived with what was sent.

    Frames belong to the window by when they were *sent*, gaps by when nothing was *received*. The wire counts as silent
    from the begin of the window until the first arrival, and from the last arrival until the sending ended: frames lost
    at either end make a gap, too.

    Args:
        arrivals: In the order of arrival.
        sent: What the source reported.
        since_ns: Only frames sent at or after this, in ns of CLOCK_REALTIME. Default: all.
        until_ns: Only frames sent before this. Default: all.

    Raises:
        ValueError: A frame arrived with a number that was never sent.
    """
    highest = max(arrivals.sequences, default=-1)
    if highest >= sent.count:
        raise ValueError(f"frame {highest} arrived, but only {sent.count} were sent")
    first = 0 if since_ns is None else _first_sequence(arrivals, sent, since_ns)
    beyond = sent.count if until_ns is None else max(first, _first_sequence(arrivals, sent, until_ns))
    received, duplicated, reordered = _count(arrivals.sequences, first, beyond)
    start, end = _bounds(arrivals, sent, since_ns, until_ns)
    gap, gap_at = _longest_gap(arrivals.received_ns, start, end)
    return Measured(
        sent=beyond - first,
        received=received,
        lost=beyond - first - received,
        duplicated=duplicated,
        reordered=reordered,
        longest_gap_s=gap / _SECOND_NS,
        gap_at_s=(gap_at - sent.first_ns) / _SECOND_NS,
        worst_lateness_s=sent.worst_lateness_s,
        start_ns=start,
        end_ns=end,
        arrivals=arrivals,
    )


def _first_sequence(arrivals: Arrivals, sent: Sent, moment_ns: int) -> int:
    """Find the first frame sent at or after a moment; `sent.count` if there is none.

    Frames that arrived say when they were sent. Those lost between two of them are taken as evenly spaced.
    """
    known = {0: sent.first_ns, sent.count - 1: sent.last_ns} | dict(
        zip(arrivals.sequences, arrivals.sent_ns, strict=True)
    )
    sequences = sorted(known)
    times = [known[sequence] for sequence in sequences]
    after = bisect.bisect_left(times, moment_ns)
    if after == 0:
        return 0
    if after == len(times):
        return sent.count
    before = after - 1
    frames = sequences[after] - sequences[before]
    span = times[after] - times[before]
    # Rounded up in integers: a frame sent exactly then is the first one.
    return sequences[before] - (times[before] - moment_ns) * frames // span


def _count(sequences: "array[int]", first: int, beyond: int) -> tuple[int, int, int]:
    seen = bytearray(beyond - first)
    received = duplicated = reordered = 0
    highest = -1
    for sequence in sequences:
        if not first <= sequence < beyond:
            continue
        if seen[sequence - first]:
            duplicated += 1
            continue
        seen[sequence - first] = 1
        received += 1
        if sequence < highest:
            reordered += 1
        else:
            highest = sequence
    return received, duplicated, reordered


def _bounds(arrivals: Arrivals, sent: Sent, since_ns: int | None, until_ns: int | None) -> tuple[int, int]:
    start = sent.first_ns if since_ns is None else max(since_ns, sent.first_ns)
    end = max(sent.last_ns, max(arrivals.received_ns, default=0))
    if until_ns is not None:
        end = min(end, until_ns)
    return start, max(start, end)


def _longest_gap(received_ns: "array[int]", start: int, end: int) -> tuple[int, int]:
    """Return the length of the longest stretch from `start` to `end` without an arrival, and its begin."""
    # Sorted, because two CPUs may store frames in another order than they stamped them.
    times = [start, *sorted(moment for moment in received_ns if start <= moment <= end), end]
    return max(
        ((later - earlier, earlier) for earlier, later in itertools.pairwise(times)),
        key=lambda gap: gap[0],
    )
