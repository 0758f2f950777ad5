"""What one signal amounts to, and what all of them add up to."""

import itertools
import random
from dataclasses import dataclass, field, replace

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.appliance.declared import Canary, Carrier, Domain, Group, Negative, Signal, Source
from reconciler.health import policy, verdict
from reconciler.health.signal import MAX_REASON, HealthState, Reading, Rebooted
from reconciler.health.state import Declared, Rules, begin
from reconciler.health.verdict import UNOBSERVED, Track

from .build import ALL_RULES, BEAT, BOTH, CANARY, POLLED, SOURCES, health, rules, signal

HEALTHY, DEGRADED, FAILED, ABSENT = HealthState.HEALTHY, HealthState.DEGRADED, HealthState.FAILED, HealthState.ABSENT
GRACE = 10_000


@dataclass
class Ear:
    """Hears one signal, and settles whenever something is due, as the policy does."""

    signal: Signal
    track: Track = field(default=UNOBSERVED)
    now: int = 0

    def until(self, now: int) -> HealthState:
        while (due := verdict.due(self.signal, self.track, GRACE)) is not None and due <= now:
            self.now = max(due, self.now)
            self.track = verdict.settle(self.signal, self.track, self.now, GRACE)
            if verdict.due(self.signal, self.track, GRACE) == due:
                break
        self.now = now
        self.track = verdict.settle(self.signal, self.track, now, GRACE)
        return self.track.believed

    def hears(self, now: int, state: HealthState, reason: str = "so", *, deliberate: bool = False) -> HealthState:
        self.until(now)
        reading = Reading(self.signal.name, state, reason, deliberate=deliberate)
        self.track = verdict.observe(self.signal, self.track, reading, now)
        self.track = verdict.settle(self.signal, self.track, now, GRACE)
        return self.track.believed

    def beats(self, begin: int, end: int, state: HealthState = HEALTHY, every: int = 100) -> HealthState:
        for now in range(begin, end + 1, every):
            self.hears(now, state)
        return self.track.believed

    @property
    def evidence(self) -> str:
        return str(verdict.evidence(self.signal, self.track, self.now))


# --- a streak is what is believed ------------------------------------------------------------------------------------


def test_so_many_readings_in_a_row() -> None:
    ear = Ear(signal(POLLED[2], fall=3, rise=2))
    assert [ear.hears(now * 1000, HEALTHY) for now in (0, 1)] == [ABSENT, HEALTHY]
    assert [ear.hears(now * 1000, FAILED) for now in (2, 3)] == [HEALTHY] * 2
    assert ear.hears(4_000, HEALTHY) is HEALTHY
    assert [ear.hears(now * 1000, FAILED) for now in (5, 6, 7)] == [HEALTHY, HEALTHY, FAILED]
    assert [ear.hears(now * 1000, HEALTHY) for now in (8, 9)] == [FAILED, HEALTHY]


def test_an_absent_reading_ends_a_streak() -> None:
    ear = Ear(signal(POLLED[2], fall=2, rise=2))
    assert [ear.hears(now * 1000, s) for now, s in enumerate([HEALTHY, ABSENT, HEALTHY])] == [ABSENT] * 3
    assert ear.hears(3_000, HEALTHY) is HEALTHY


def test_for_so_long_where_changes_are_told() -> None:
    """Nobody repeats them: time alone completes the streak."""
    ear = Ear(signal(Carrier(), fall="50ms", rise="2000ms"))
    assert ear.hears(0, HEALTHY) is ABSENT
    assert (ear.until(1_999), ear.until(2_000)) == (ABSENT, HEALTHY)
    assert ear.hears(5_000, FAILED) is HEALTHY
    assert ear.until(5_049) is HEALTHY
    assert ear.hears(5_049, HEALTHY) is HEALTHY
    assert ear.hears(6_000, FAILED) is HEALTHY
    assert (ear.until(6_049), ear.until(6_050)) == (HEALTHY, FAILED)


def test_for_so_long_where_readings_come_again_and_again() -> None:
    """To be believed healthy it takes a reading: the time in between may have seen anything."""
    ear = Ear(signal(POLLED[2], fall="1500ms", rise="1500ms"))
    assert ear.hears(0, HEALTHY) is ABSENT
    assert ear.until(1_500) is ABSENT
    assert ear.hears(1_600, HEALTHY) is HEALTHY
    assert ear.hears(2_000, FAILED) is HEALTHY
    assert (ear.until(3_499), ear.until(3_500)) == (HEALTHY, FAILED)


@pytest.mark.parametrize("source", SOURCES, ids=lambda one: type(one).__name__)
def test_without_a_streak_a_reading_is_believed_at_once(source: Source) -> None:
    ear = Ear(signal(source))
    for now, state in enumerate([FAILED, HEALTHY, DEGRADED, ABSENT, DEGRADED, FAILED, ABSENT, FAILED]):
        assert ear.hears(now, state) is state


def test_degraded_is_healthy() -> None:
    """Not a change of mind, and no new streak."""
    ear = Ear(signal(POLLED[2], fall=3, rise=3))
    assert [ear.hears(now, s) for now, s in enumerate([HEALTHY, DEGRADED, HEALTHY])] == [ABSENT, ABSENT, HEALTHY]
    assert [ear.hears(now, s) for now, s in enumerate([DEGRADED, HEALTHY], 3)] == [DEGRADED, HEALTHY]
    assert [ear.hears(now, s) for now, s in enumerate([FAILED, FAILED, DEGRADED, FAILED], 5)] == [
        HEALTHY,
        HEALTHY,
        DEGRADED,
        DEGRADED,
    ]


# --- silence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fall", "ms"), [(1, 100), (3, 300), ("300ms", 300), ("250ms", 250)])
def test_missing_beats_are_failed_readings(fall: int | str, ms: int) -> None:
    ear = Ear(signal(BEAT, fall=fall))
    assert ear.beats(0, 90, every=90) is HEALTHY
    assert verdict.due(ear.signal, ear.track, GRACE) == 90 + ms
    assert ear.until(90 + ms - 1) is HEALTHY
    assert ear.until(90 + ms) is FAILED
    assert ear.evidence == f"s failed: no beat for {ms} ms"


def test_failed_and_missing_beats_add_up() -> None:
    ear = Ear(signal(BEAT, fall=3))
    ear.beats(0, 100)
    assert ear.hears(200, FAILED, "no process") is HEALTHY
    assert ear.evidence == "s healthy: until a moment ago; now failed: no process"
    assert (ear.until(399), ear.until(400)) == (HEALTHY, FAILED)
    assert ear.evidence == "s failed: no process"


def test_beats_after_a_gap_are_a_new_streak() -> None:
    ear = Ear(signal(BEAT, fall=3, rise=3))
    assert ear.beats(0, 200) is HEALTHY
    ear.until(1_000)
    assert ear.beats(1_000, 1_100) is FAILED
    assert ear.evidence == "s failed: good again, 2 of 3: so"
    assert ear.beats(1_350, 1_450) is FAILED
    assert ear.hears(1_550, HEALTHY) is HEALTHY


def test_a_closed_channel_is_absence_not_silence() -> None:
    ear = Ear(signal(BEAT, fall=3))
    ear.beats(0, 100)
    assert ear.hears(150, ABSENT, "closed") is ABSENT
    assert ear.until(100_000) is ABSENT
    assert ear.evidence == "s absent: closed"


def test_unless_the_file_says_that_absence_after_is_failure() -> None:
    ear = Ear(signal(BEAT, fall=3, fails_after=True))
    assert ear.until(50_000) is ABSENT
    ear.beats(50_000, 50_100)
    assert ear.hears(50_150, ABSENT, "closed") is HEALTHY
    assert (ear.until(50_349), ear.until(50_350)) == (HEALTHY, FAILED)
    assert ear.evidence == "s failed: closed"


@pytest.mark.parametrize("source", SOURCES, ids=lambda one: type(one).__name__)
def test_absence_before_the_first_reading(source: Source) -> None:
    assert Ear(signal(source)).until(100 * GRACE) is ABSENT
    ear = Ear(signal(source, fails_before=True))
    assert (ear.until(GRACE - 1), ear.until(GRACE)) == (ABSENT, FAILED)
    assert ear.evidence == "s failed: nothing reported yet"
    assert ear.hears(GRACE + 1, ABSENT) is FAILED
    assert ear.hears(GRACE + 2, HEALTHY) is HEALTHY


def test_absent_readings_are_no_first_reading() -> None:
    ear = Ear(signal(Domain(), fails_before=True))
    assert ear.hears(0, ABSENT, "libvirtd does not answer") is ABSENT
    assert ear.until(GRACE) is FAILED


@pytest.mark.parametrize("source", POLLED, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("said", [HEALTHY, DEGRADED, FAILED])
def test_who_is_asked_and_does_not_answer_any_more_is_absent(source: Source, said: HealthState) -> None:
    ear = Ear(signal(source))
    assert ear.hears(0, said) is said
    assert (ear.until(2_399), ear.until(2_400)) == (said, ABSENT)


@pytest.mark.parametrize("source", [Domain(), Carrier(), Canary(segments=("wire",))])
def test_who_tells_changes_may_be_silent_for_ever(source: Source) -> None:
    ear = Ear(signal(source, fails_before=True, fails_after=True))
    ear.hears(0, HEALTHY)
    assert verdict.due(ear.signal, ear.track, GRACE) is None
    assert ear.until(10**12) is HEALTHY


def test_on_purpose_outlives_absence_only() -> None:
    ear = Ear(signal(Domain()))
    ear.hears(0, FAILED, deliberate=True)
    ear.hears(1, ABSENT)
    assert ear.track.deliberate
    ear.hears(2, FAILED)
    assert not ear.track.deliberate


# --- properties of one track -----------------------------------------------------------------------------------------

STREAKS = st.one_of(st.integers(1, 5), st.sampled_from(["0ms", "50ms", "100ms", "250ms", "1000ms", "3000ms"]))
SIGNALS = st.builds(
    signal,
    st.sampled_from(SOURCES),
    fall=STREAKS,
    rise=STREAKS,
    fails_before=st.booleans(),
    fails_after=st.booleans(),
)
GAPS = st.one_of(st.integers(0, 400), st.sampled_from([99, 100, 101, 300, 1000, 2399, 2400, 5000, 20_000]))
HISTORIES = st.lists(st.tuples(GAPS, st.sampled_from(HealthState)), max_size=12)


@given(SIGNALS, HISTORIES, st.data())
@settings(max_examples=examples(200))
def test_due_is_exact(one: Signal, history: list[tuple[int, HealthState]], data: st.DataObject) -> None:
    """Before it nothing changes by itself; at it something does; and there is an end of it."""
    ear = Ear(one)
    for gap, state in history:
        ear.hears(ear.now + gap, state)
    for _ in range(5):
        due = verdict.due(one, ear.track, GRACE)
        if due is None:
            assert verdict.settle(one, ear.track, ear.now + 10**9, GRACE) is ear.track
            return
        assert due > ear.now
        for early in (due - 1, data.draw(st.integers(ear.now, due - 1))):
            assert verdict.settle(one, ear.track, early, GRACE) is ear.track
        settled = verdict.settle(one, ear.track, due, GRACE)
        assert settled is not ear.track
        assert settled.believed is not ear.track.believed or verdict.due(one, settled, GRACE) != due
        ear.track, ear.now = settled, due
    raise AssertionError("never at rest")


@given(SIGNALS, HISTORIES)
@settings(max_examples=examples(100))
def test_settling_twice_says_nothing_new(one: Signal, history: list[tuple[int, HealthState]]) -> None:
    ear = Ear(one)
    for gap, state in history:
        ear.hears(ear.now + gap, state)
        assert verdict.settle(one, ear.track, ear.now, GRACE) is ear.track


@given(SIGNALS, HISTORIES)
@settings(max_examples=examples(100))
def test_nobody_is_believed_healthy_without_having_said_so(one: Signal, history: list[tuple[int, HealthState]]) -> None:
    ear, good = Ear(one), 0
    for gap, state in history:
        before = ear.until(ear.now + gap)
        good = good + 1 if state in (HEALTHY, DEGRADED) else 0
        after = ear.hears(ear.now, state)
        if after in (HEALTHY, DEGRADED) and before not in (HEALTHY, DEGRADED):
            assert state is after
            assert good >= (one.rise.readings or 1)
        if after is FAILED and before is not FAILED:
            assert state is FAILED or (state is ABSENT and one.fails_after) or one.fall.ms == 0


# --- all signals of a segment ----------------------------------------------------------------------------------------


def tracks(**believed: HealthState) -> dict[verdict.Key, Track]:
    return {(name, None): Track(state, Reading(name, state, "so"), spoken=True) for name, state in believed.items()}


A, B, C = (signal(Domain(), name, required=False) for name in "abc")
MUST = signal(BEAT, "must")


@pytest.mark.parametrize(
    ("least", "believed", "state"),
    [
        (1, (HEALTHY, FAILED, FAILED), HEALTHY),
        (1, (DEGRADED, ABSENT, FAILED), HEALTHY),
        (1, (ABSENT, FAILED, FAILED), ABSENT),
        (1, (FAILED, FAILED, FAILED), FAILED),
        (2, (HEALTHY, DEGRADED, FAILED), HEALTHY),
        (2, (HEALTHY, ABSENT, FAILED), ABSENT),
        (2, (HEALTHY, FAILED, FAILED), FAILED),
        (2, (ABSENT, ABSENT, FAILED), ABSENT),
        (2, (ABSENT, FAILED, FAILED), FAILED),
        (3, (HEALTHY, HEALTHY, ABSENT), ABSENT),
        (3, (HEALTHY, HEALTHY, FAILED), FAILED),
    ],
)
def test_groups(least: int, believed: tuple[HealthState, ...], state: HealthState) -> None:
    of = health(A, B, C, groups=(Group("g", ("a", "b", "c"), least),))
    found = verdict.judge(of, tracks(**dict(zip("abc", believed, strict=True))), "wire")
    assert found.state is state
    assert found.deciding == ("a", "b", "c")


def test_the_weakest_decides_and_is_named() -> None:
    of = health(MUST, A, B, C, groups=(Group("g", ("a", "b"), 1),))
    told = tracks(must=HEALTHY, a=HEALTHY, b=FAILED, c=FAILED)
    assert verdict.judge(of, told, "wire") == verdict.Verdict(HEALTHY, ("must", "a", "b"))
    assert verdict.judge(of, told | tracks(a=FAILED), "wire") == verdict.Verdict(FAILED, ("a", "b"))
    assert verdict.judge(of, told | tracks(must=ABSENT, a=FAILED), "wire") == verdict.Verdict(FAILED, ("a", "b"))
    assert verdict.judge(of, told | tracks(must=ABSENT), "wire") == verdict.Verdict(ABSENT, ("must",))


def test_who_was_never_heard_is_absent_and_counts() -> None:
    """A required signal that nobody ever heard does not make the rest healthy."""
    of = health(MUST, signal(Domain(), "domain"))
    assert verdict.judge(of, tracks(domain=HEALTHY), "wire") == verdict.Verdict(ABSENT, ("must",))
    assert [str(one) for one in verdict.reasons(of, {}, "wire", verdict.judge(of, {}, "wire"), 0)] == [
        "must absent: nothing reported yet",
        "domain absent: nothing reported yet",
    ]
    assert verdict.judge(of, tracks(domain=FAILED), "wire").state is FAILED
    grouped = health(A, B, groups=(Group("g", ("a", "b"), 2),))
    assert verdict.judge(grouped, tracks(a=HEALTHY), "wire").state is ABSENT


def test_who_is_only_reported_has_no_say() -> None:
    assert verdict.judge(health(A), tracks(a=FAILED), "wire") == verdict.UNKNOWN
    assert verdict.judge(health(A, MUST), tracks(a=FAILED, must=HEALTHY), "wire").state is HEALTHY
    assert verdict.judge(health(), {}, "wire") == verdict.UNKNOWN


def test_a_signal_speaks_of_its_segment() -> None:
    of = health(MUST, signal(Domain(), "lan-only", segment="lan"), signal(Carrier(), "carrier"))
    assert [verdict.keys_of(one, BOTH) for one in of.signals.values()] == [
        (("must", None),),
        (("lan-only", "lan"),),
        (("carrier", "lan"), ("carrier", "wan")),
    ]
    up, down = (Track(state, Reading("x", state, "so"), spoken=True) for state in (HEALTHY, FAILED))
    told = {("must", None): up, ("lan-only", "lan"): down, ("carrier", "lan"): up, ("carrier", "wan"): up}
    assert verdict.judge(of, told, "lan") == verdict.Verdict(FAILED, ("lan-only",))
    assert verdict.judge(of, told, "wan") == verdict.Verdict(HEALTHY, ("must", "carrier"))
    assert verdict.judge(of, told | {("carrier", "wan"): down}, "wan") == verdict.Verdict(FAILED, ("carrier",))


def test_a_canary_speaks_of_guarded_segments_each_by_itself() -> None:
    of = health(MUST, CANARY, signal(Canary(segments=("wan", "dmz")), "others"))
    segments = (*BOTH, "dmz")
    assert verdict.keys_of(of.signals["canary"], segments) == (("canary", "lan"),)
    assert verdict.keys_of(of.signals["others"], segments) == (("others", "wan"), ("others", "dmz"))
    told = tracks(must=HEALTHY)
    assert verdict.judge(of, told, "lan") == verdict.Verdict(ABSENT, ("canary",))
    assert verdict.judge(of, told, "elsewhere") == verdict.Verdict(HEALTHY, ("must",))
    told["canary", "lan"] = Track(FAILED, Reading("canary", FAILED, "no probe"), spoken=True)
    assert verdict.judge(of, told, "lan") == verdict.Verdict(FAILED, ("canary",))
    assert verdict.judge(of, told, "wan") == verdict.Verdict(ABSENT, ("others",))


def test_a_canary_is_dark_when_the_vm_reboots() -> None:
    state = begin(rules(health(CANARY, signal(Carrier(), "carrier")), segments=BOTH), dict.fromkeys(BOTH, "inspect"), 0)
    for name in ("canary", "carrier"):
        state, _ = policy.step(state, Reading(name, HEALTHY, "so", "lan"), 0)
    assert state.segments["lan"].verdict.state is HEALTHY
    state, _ = policy.step(state, Rebooted("domain", "guest"), 1)
    assert state.tracks["canary", "lan"].believed is FAILED
    assert state.tracks["carrier", "lan"].believed is HEALTHY


def test_a_canary_goes_on_when_another_segment_gets_a_guard() -> None:
    def ruled(*guarded: str, negative: Negative | None = None) -> Rules:
        return rules(health(signal(Canary(negative, guarded), "canary")), segments=BOTH)

    state, _ = policy.step(
        begin(ruled("lan"), dict.fromkeys(BOTH, "inspect"), 0), Reading("canary", HEALTHY, "so", "lan"), 0
    )
    more, _ = policy.step(state, Declared(ruled(*BOTH)), 1)
    assert more.tracks.keys() == {("canary", "lan")}
    other, _ = policy.step(state, Declared(ruled("wan")), 1)
    assert not other.tracks
    # What must not come through has its say in each reading: those before say nothing of it.
    negative, _ = policy.step(state, Declared(ruled("lan", negative=Negative("x"))), 1)
    assert not negative.tracks


def test_on_purpose_also_where_it_is_not_yet_believed() -> None:
    """libvirt may tell later than the carrier, and its own fall may not be over."""
    of = health(signal(BEAT, "beat"), signal(Domain(), "domain", fall="500ms"))
    told = tracks(beat=FAILED, domain=HEALTHY)
    told["domain", None] = replace(told["domain", None], deliberate=True)
    assert verdict.judge(of, told, "wire").deliberate
    assert not verdict.judge(of, told | tracks(beat=HEALTHY), "wire").deliberate


def test_degraded_is_told() -> None:
    assert [str(one) for one in verdict.degraded(tracks(a=DEGRADED, b=HEALTHY))] == ["a degraded: so"]


ORDER = {HEALTHY: 0, ABSENT: 1, FAILED: 2}


def test_judge_is_total_and_monotone() -> None:
    """With every belief of every signal there is a verdict; a signal that gets worse never makes it better."""
    members = (*(replace(one, required=False) for one in (A, B, C)), MUST)
    for least in (1, 2, 3):
        of = health(*members, groups=(Group("g", ("a", "b", "c"), least),))
        for believed in itertools.product(HealthState, repeat=4):
            names = dict(zip(("a", "b", "c", "must"), believed, strict=True))
            found = verdict.judge(of, tracks(**names), "wire")
            assert found.deciding
            assert len(verdict.reasons(of, tracks(**names), "wire", found, 0)) == len(found.deciding)
            for name, was in names.items():
                for worse in (ABSENT, FAILED):
                    after = verdict.judge(of, tracks(**{**names, name: worse}), "wire")
                    if ORDER[worse] > ORDER.get(was, 0):
                        assert ORDER[after.state] >= ORDER[found.state]


@given(st.sampled_from(ALL_RULES), st.lists(st.sampled_from(HealthState), min_size=9, max_size=9), st.randoms())
def test_the_order_of_signals_and_tracks_is_irrelevant(
    rules: object, believed: list[HealthState], chance: random.Random
) -> None:
    of, keys = rules.health, list(rules.keys)  # type: ignore[attr-defined]
    told = {key: Track(state, Reading(key[0], state, "so")) for key, state in zip(keys, believed, strict=False)}
    shuffled = dict(chance.sample(list(told.items()), len(told)))
    signals = dict(chance.sample(list(of.signals.items()), len(of.signals)))
    for segment in rules.segments:  # type: ignore[attr-defined]
        one = verdict.judge(of, told, segment)
        other = verdict.judge(replace(of, signals=signals), shuffled, segment)
        assert (one.state, set(one.deciding), one.deliberate) == (other.state, set(other.deciding), other.deliberate)


@given(st.text(max_size=2 * MAX_REASON))
def test_a_reason_is_bounded_and_prints(text: str) -> None:
    reading = Reading("s", FAILED, text)
    assert len(reading.reason) <= MAX_REASON + 1
    assert reading.reason.isprintable()
    if len(text) <= MAX_REASON and text.isprintable():
        assert reading.reason == text
