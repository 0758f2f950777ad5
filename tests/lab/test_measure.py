from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.lab.measure import Arrivals, measure
from reconciler.lab.source import Sent

MS = 1_000_000
T0 = 1_700_000_000_000_000_000


def arrivals(*frames: tuple[int, int]) -> Arrivals:
    """Frames as (sequence, received in ms); each was sent at its sequence in ms."""
    return Arrivals(
        array("Q", [sequence for sequence, _ in frames]),
        array("Q", [T0 + sequence * MS for sequence, _ in frames]),
        array("Q", [T0 + received * MS for _, received in frames]),
    )


def sent(count: int) -> Sent:
    return Sent(count, 0, 0.0, T0, T0 + (count - 1) * MS)


def summary(frames: list[tuple[int, int]], count: int, since: int | None = None, until: int | None = None):
    found = measure(
        arrivals(*frames),
        sent(count),
        None if since is None else T0 + since * MS,
        None if until is None else T0 + until * MS,
    )
    assert found.sent == found.received + found.lost
    gap_ms, at_ms = round(found.longest_gap_s * 1000), round(found.gap_at_s * 1000)
    return found.sent, found.lost, found.duplicated, found.reordered, gap_ms, at_ms


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([(0, 0), (1, 1), (2, 2), (3, 3)], (4, 0, 0, 0, 1, 0)),
        ([(0, 0), (3, 3)], (4, 2, 0, 0, 3, 0)),
        ([(0, 0), (1, 1)], (4, 2, 0, 0, 2, 1)),  # lost at the end
        ([(2, 2), (3, 3)], (4, 2, 0, 0, 2, 0)),  # lost at the beginning
        ([], (4, 4, 0, 0, 3, 0)),
        ([(0, 0), (1, 1), (1, 1), (2, 2), (1, 3), (3, 4)], (4, 0, 2, 0, 1, 0)),
        ([(0, 0), (2, 1), (1, 2), (3, 3)], (4, 0, 0, 1, 1, 0)),
        ([(3, 0), (2, 1), (1, 2), (0, 3)], (4, 0, 0, 3, 1, 0)),
        ([(3, 1), (0, 2), (3, 3), (0, 4)], (4, 2, 2, 1, 1, 0)),
        ([(0, 0), (1, 1), (2, 50), (3, 51)], (4, 0, 0, 0, 49, 1)),  # held back, not lost
    ],
)
def test_exact_cases(frames: list[tuple[int, int]], expected: tuple[int, ...]) -> None:
    assert summary(frames, 4) == expected


def test_window_counts_frames_by_when_they_were_sent() -> None:
    frames = [(n, n) for n in range(10) if n not in (4, 5, 6)]
    assert summary(frames, 10, since=5, until=9) == (4, 2, 0, 0, 2, 5)
    assert summary(frames, 10, since=7) == (3, 0, 0, 0, 1, 7)
    assert summary(frames, 10, until=4) == (4, 0, 0, 0, 1, 0)
    assert summary(frames, 10, since=4, until=7) == (3, 3, 0, 0, 3, 4)
    assert summary(frames, 10, since=100) == (0, 0, 0, 0, 0, 100)
    assert summary(frames, 10, until=-5)[:2] == (0, 0)


def test_single_frame() -> None:
    assert summary([(0, 0)], 1) == (1, 0, 0, 0, 0, 0)
    assert summary([], 1) == (1, 1, 0, 0, 0, 0)


def test_frame_that_was_never_sent() -> None:
    with pytest.raises(ValueError, match="frame 4 arrived, but only 4 were sent"):
        measure(arrivals((4, 4)), sent(4))


def test_times_for_a_timeline() -> None:
    assert measure(arrivals((0, 0), (1, 3)), sent(2)).arrivals_s(T0 - MS) == [0.001, 0.004]


@st.composite
def _scenes(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], int | None, int | None]:
    count = draw(st.integers(1, 12))
    delayed = st.tuples(st.integers(0, count - 1), st.integers(0, 5))
    frames = sorted(
        ((sequence, sequence + delay) for sequence, delay in draw(st.lists(delayed, max_size=20))),
        key=lambda frame: frame[1],
    )
    moment = st.none() | st.integers(-2, 20)
    return count, frames, draw(moment), draw(moment)


@given(_scenes())
def test_agrees_with_a_naive_model(scene: tuple[int, list[tuple[int, int]], int | None, int | None]) -> None:
    count, frames, since, until = scene
    wanted = [n for n in range(count) if (since is None or n >= since) and (until is None or n < until)]
    seen: list[int] = []
    duplicated = reordered = 0
    for sequence, _ in frames:
        if sequence in wanted:
            if sequence in seen:
                duplicated += 1
            elif any(sequence < other for other in seen):
                reordered += 1
            seen.append(sequence)
    begin = max(0, since or 0)
    end = max([count - 1, *(received for _, received in frames)])
    end = end if until is None else min(end, until)
    moments = sorted({begin, max(begin, end), *(received for _, received in frames if begin <= received <= end)})
    gap = max((later - earlier for earlier, later in pairwise(moments)), default=0)
    found = summary(frames, count, since, until)
    assert found[:5] == (len(wanted), len(set(wanted) - set(seen)), duplicated, reordered, gap)
    begins = [earlier for earlier, later in pairwise(moments) if later - earlier == gap]
    assert found[5] == min(begins, default=begin)
