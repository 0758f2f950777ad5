"""Which beats are believed."""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from ears import checks, line
from hypothesis import given
from hypothesis import strategies as st

from reconciler.health.signal import HealthState
from reconciler.host.signals.beats import Beats

H, D, F = HealthState.HEALTHY, HealthState.DEGRADED, HealthState.FAILED
FAILED = checks(suricata="failed")
NOISE = b"noise\n"


class Channel:
    """A judge, and a clock that is moved by hand. It stands where no streak of an earlier time can matter."""

    def __init__(self, interval_ms: int = 100) -> None:
        self.beats = Beats("hb", interval_ms)
        self.now_ms = 1_000_000.0
        self.seq = 0
        self.dropped = False

    @property
    def counters(self) -> Any:
        return self.beats.counters

    def feed(self, data: bytes, after_ms: float = 100) -> list[HealthState]:
        self.now_ms += after_ms
        fed = self.beats.feed(data, self.now_ms)
        self.dropped = fed.drop
        self.readings = fed.readings
        return [reading.state for reading in fed.readings]

    def beat(self, after_ms: float = 100, **more: Any) -> list[HealthState]:
        self.seq += 1
        return self.feed(line(**{"seq": self.seq, **more}), after_ms)

    @property
    def reason(self) -> str:
        return self.readings[-1].reason


@pytest.fixture
def channel() -> Channel:
    return Channel()


def run(number: int) -> str:
    return f"{number:032x}"


def test_each_beat_is_one_reading(channel: Channel) -> None:
    assert [channel.beat() for _ in range(50)] == [[H]] * 50
    assert channel.reason == "1 check healthy"
    assert channel.counters.beats == 50


@pytest.mark.parametrize(
    ("told", "state", "reason"),
    [
        ({}, H, "beats"),
        (checks(a="healthy", b="healthy"), H, "2 checks healthy"),
        (checks(a="healthy", b="degraded"), D, "b: b is degraded"),
        (checks(a="degraded", b="failed", c="failed"), F, "b: b is failed; c: c is failed"),
        ({"a": {"state": "failed", "reason": ""}}, F, "a: failed"),
    ],
)
def test_the_worst_check_decides(channel: Channel, told: Any, state: HealthState, reason: str) -> None:
    assert channel.beat(checks=told) == [state]
    assert channel.reason == reason


def test_the_last_words_of_an_agent_are_a_failure_on_purpose(channel: Channel) -> None:
    channel.beat()
    assert channel.beat(1, stopping=True) == [F]
    assert channel.readings[-1].deliberate
    assert "told to stop" in channel.reason
    assert channel.beat(stopping=False) == [H]
    assert channel.beat(stopping="yes") == []
    assert channel.counters.malformed == 1


def test_many_reasons_are_cut(channel: Channel) -> None:
    told = {f"c{number}": {"state": "failed", "reason": "r" * 60} for number in range(32)}
    assert channel.beat(checks=told) == [F]
    assert len(channel.reason) <= 201


def test_another_interval_than_declared_is_degraded(channel: Channel) -> None:
    assert channel.beat(interval_ms=200) == [D]
    assert channel.reason == "beats each 200 ms, declared are 100 ms"


def test_a_late_beat_is_counted_and_told(channel: Channel) -> None:
    assert (channel.beat(), channel.beat(1000)) == ([H], [H])
    assert channel.counters.late == 1


# Replays


def test_a_beat_again_is_not_believed(channel: Channel) -> None:
    assert channel.feed(line(5)) == [H]
    assert [channel.feed(line(seq)) for seq in (5, 4, 1, 5)] == [[]] * 4
    assert channel.feed(line(6)) == [H]
    assert channel.counters.replayed == 4


def test_beats_may_be_lost(channel: Channel) -> None:
    assert [channel.feed(line(seq)) for seq in (1, 9, 10, 5000)] == [[H]] * 4


def test_an_agent_that_restarted_counts_again(channel: Channel) -> None:
    channel.feed(line(900))
    assert channel.feed(line(1, run=run(1))) == [H]
    assert channel.counters.restarts == 1


def test_a_guest_that_rebooted_counts_again(channel: Channel) -> None:
    channel.feed(line(900))
    assert channel.feed(line(1, boot="00000000-0000-0000-0000-000000000001", run=run(1))) == [H]


def test_a_run_that_was_left_does_not_come_back(channel: Channel) -> None:
    channel.feed(line(1))
    channel.feed(line(1, run=run(1)))
    assert channel.feed(line(2)) == []
    assert channel.feed(line(99)) == []
    assert channel.counters.replayed == 2
    assert channel.feed(line(2, run=run(1))) == [H]


def test_no_more_than_64_runs_are_remembered(channel: Channel) -> None:
    for number in range(500):
        channel.feed(line(1, run=run(number)))
    assert len(channel.beats._old_runs) == 64
    assert channel.feed(line(2, run=run(450))) == []


def test_a_replay_through_a_new_connection_is_not_believed(channel: Channel) -> None:
    channel.feed(line(5))
    channel.beats.connected()
    assert channel.feed(line(5)) == []


# Bursts


def test_beats_that_were_held_are_one_sign_of_life(channel: Channel) -> None:
    held = b"".join(line(seq) for seq in range(1, 21))
    assert channel.feed(held, 30_000) == [H]
    assert channel.counters.early == 19
    assert channel.feed(line(21), 49) == []
    assert channel.feed(line(22), 1) == [H]


def test_jitter_is_no_burst(channel: Channel) -> None:
    assert [channel.beat(ms) for ms in (100, 55, 145, 51, 149)] == [[H]] * 5


def test_bad_news_in_a_burst_is_told_once(channel: Channel) -> None:
    held = [line(seq, checks=FAILED if seq % 3 == 0 else {}) for seq in range(1, 13)]
    assert channel.feed(b"".join(held)) == [H, F]
    assert channel.feed(line(13, checks=FAILED), 10) == []
    assert channel.feed(line(14, checks=FAILED), 40) == [F]


def test_early_bad_news_does_not_put_off_the_next_beat(channel: Channel) -> None:
    channel.beat()
    assert channel.beat(10, checks=FAILED) == [F]
    assert channel.beat(40) == [H]


def test_a_degraded_beat_too_early_is_left_out(channel: Channel) -> None:
    channel.beat()
    assert channel.beat(10, checks=checks(a="degraded")) == []


# Noise and liars


def test_one_line_of_noise_is_passed_over(channel: Channel) -> None:
    assert channel.feed(NOISE) == []
    assert channel.beat() == [H]
    assert channel.counters.malformed == 1


def test_noise_now_and_then_is_passed_over(channel: Channel) -> None:
    for _ in range(50):
        assert [channel.beat() for _ in range(5)] == [[H]] * 5
        assert channel.feed(NOISE) == []
    assert channel.counters.malformed == 50


def test_more_noise_makes_a_liar(channel: Channel) -> None:
    assert [channel.feed(NOISE) for _ in range(3)] == [[]] * 3
    assert channel.feed(NOISE) == [F]
    assert channel.reason == "the agent sends what is no beat: not a line of JSON in ASCII"
    assert [channel.beat() for _ in range(19)] == [[F]] * 19
    assert channel.counters.distrusted == 19
    assert channel.beat() == [H]


def test_who_goes_on_lying_is_not_believed(channel: Channel) -> None:
    states = list(itertools.chain(*([*channel.beat(50), *channel.feed(NOISE, 50)] for _ in range(100))))
    assert H not in states[4:]
    assert states.count(F) > 90


def test_a_slow_agent_that_sends_nothing_else_is_a_liar_too() -> None:
    channel = Channel(5000)
    assert [channel.feed(NOISE, 5000) for _ in range(6)] == [[], [], [], [F], [F], [F]]


def test_a_newer_agent_gets_its_reason(channel: Channel) -> None:
    for _ in range(4):
        channel.feed(b'{"v":2}\n')
    assert channel.reason.endswith("the agent is newer than this daemon, which understands version 1")


def test_a_line_that_is_too_long_is_not_kept(channel: Channel) -> None:
    assert channel.feed(b"x" * 4096) == []
    assert channel.counters.oversized == 1
    assert len(channel.beats._lines.partial) == 0
    assert channel.feed(b"x" * 4096 + line(1)) == []
    assert channel.counters.oversized == 1
    assert channel.feed(line(2)) == [H]


def test_4096_bytes_with_the_newline_are_allowed(channel: Channel) -> None:
    padded = line(1)[:-2] + b" " * (4096 - len(line(1))) + b"}\n"
    assert len(padded) == 4096
    assert channel.feed(padded) == [H]
    assert channel.feed(padded[:-2] + b" }\n") == []
    assert channel.counters.oversized == 1


def test_half_a_line_is_not_carried_into_the_next_connection(channel: Channel) -> None:
    channel.feed(line(1)[:30])
    channel.beats.connected()
    assert channel.feed(line(2)) == [H]
    channel.feed(b"x" * 5000)
    channel.beats.connected()
    assert channel.feed(line(3)) == [H]


# Floods


def test_a_flood_is_dropped_and_not_believed(channel: Channel) -> None:
    assert channel.feed(b"".join(line(seq) for seq in range(1, 200))) == [H, F]
    assert channel.dropped
    assert channel.reason == "the agent floods its channel"
    channel.beats.connected()
    assert [channel.feed(line(1000 + n)) for n in range(19)] == [[F]] * 19
    assert channel.feed(line(2000)) == [H]


def test_newlines_alone_are_a_flood(channel: Channel) -> None:
    assert F in channel.feed(b"\n" * 16_384)
    assert channel.dropped
    assert channel.counters.malformed < 200


def test_a_line_without_end_is_a_flood(channel: Channel) -> None:
    for _ in range(100):
        if channel.feed(b"x" * 16_384, 1) and channel.dropped:
            break
    assert channel.dropped
    assert channel.counters.oversized == 1


def test_single_bytes_are_a_flood(channel: Channel) -> None:
    fed = 0
    while not channel.dropped:
        channel.feed(b" ", 0.1)
        fed += 1
    assert fed < 1000


def test_who_floods_again_and_again_is_never_believed_for_long(channel: Channel) -> None:
    """A hundred beats a second instead of ten, reconnecting a second after each drop."""
    told: list[HealthState] = []
    good = longest = 0
    for _ in range(5000):
        told += channel.beat(10)
        for state in told[-2:]:
            good = good + 1 if state is H else 0
        longest = max(longest, good)
        if channel.dropped:
            longest, good = (0, 0) if channel.counters.floods == 1 else (longest, 0)
            channel.beats.connected()
            channel.now_ms += 1000
    assert channel.counters.floods > 10
    # After it was caught the first time.
    assert longest == 0


def test_four_times_too_fast_is_not_yet_a_flood(channel: Channel) -> None:
    states = list(itertools.chain(*(channel.beat(25) for _ in range(1000))))
    assert not channel.counters.floods
    assert len(states) == 500  # two for each interval: no streak grows faster than time


def test_a_host_that_stalled_finds_beats_waiting(channel: Channel) -> None:
    waiting = b"".join(line(seq) for seq in range(1, 91))  # nine seconds
    assert channel.feed(waiting, 9000) == [H]
    assert not channel.dropped


# Whatever comes


@given(st.lists(st.tuples(st.binary(max_size=9000), st.floats(0, 500)), max_size=30))
def test_no_bytes_break_it_or_look_healthy(chunks: list[tuple[bytes, float]]) -> None:
    channel = Channel()
    for data, after_ms in chunks:
        assert set(channel.feed(data, after_ms)) <= {F}
        assert len(channel.beats._lines.partial) < 4096


def _cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(
    st.lists(
        st.sampled_from([line(1), line(2), line(3, checks=FAILED), NOISE, b"x" * 4095 + b"\n", b"\n"]), max_size=8
    ),
    st.lists(st.integers(0, 2**16), max_size=8),
)
def test_it_does_not_matter_how_a_stream_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    whole, cut = Channel(), Channel()
    data = b"".join(pieces)
    states = whole.feed(data)
    cut.now_ms += 100
    assert list(itertools.chain(*(cut.feed(piece, 0) for piece in _cut(data, cuts)))) == states
    assert cut.counters == whole.counters
