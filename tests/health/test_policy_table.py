"""The table: complete, without a row too many, and what follows from it whatever happens."""

import collections
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest

from reconciler.appliance.declared import INSPECT
from reconciler.health import policy
from reconciler.health.policy import (
    AGAIN_MAX_MS,
    COURSES,
    LOST_MS,
    PHASES,
    SETTLE_MS,
    SegmentInput,
    VmInput,
    due,
    hold_down,
    step,
)
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import (
    Choose,
    Course,
    Decision,
    Declared,
    Ending,
    Hold,
    Phase,
    RestartEnded,
    RestartVm,
    Rules,
    SegmentState,
    State,
    Tick,
    VmState,
    begin,
)
from reconciler.health.verdict import Verdict

from .build import ALL_RULES, DOMAIN, HEARTBEAT, LADDER, answered, events, health, on_failure, rules

Key = TypeVar("Key")
Value = TypeVar("Value")
TIMED = {Phase.SETTLING, Phase.WAITING, Phase.RESTARTING, Phase.BOOTING}
ANSWERS = {VmInput.DONE, VmInput.REFUSED, VmInput.UNREACHED}


class Counted(dict[Key, Value]):
    """A table that knows which of its rows were asked for."""

    def __init__(self, table: Mapping[Key, Value]) -> None:
        super().__init__(table)
        self.asked: collections.Counter[Key] = collections.Counter()

    def __getitem__(self, key: Key) -> Value:
        self.asked[key] += 1
        return super().__getitem__(key)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> tuple[Counted[Any, Course], Counted[Any, Phase]]:
    courses, phases = Counted(COURSES), Counted(PHASES)
    monkeypatch.setattr(policy, "COURSES", courses)
    monkeypatch.setattr(policy, "PHASES", phases)
    return courses, phases


# --- by enumeration --------------------------------------------------------------------------------------------------


def every_state() -> Iterator[State]:
    """Every course, phase, verdict, deadline (over or not), number of attempts and hold that a state can have."""
    now, dead = 100_000, Verdict(HealthState.FAILED, ("beat",))
    verdicts = [replace(dead, state=state) for state in HealthState] + [replace(dead, deliberate=True)]
    failing = [on_failure(restart_first=first, first_attempts=2) for first in (False, True)]
    failing.append(on_failure(restart_first=True, first_attempts=9))
    attempts = range(sum(rung.attempts for rung in LADDER) + 2)
    holds: list[dict[str, Hold]] = [{}, {"wire": Hold("bypass", "alice", "tests", now + 1)}]
    # How many attempts were made, and how often in a row the next one could not be.
    made = [*((tried, 0) for tried in attempts), (0, 1), (1, 9)]
    for which, course, phase, verdict, since in itertools.product(failing, Course, Phase, verdicts, (now, 0)):
        of = rules(health(HEARTBEAT), which)
        begun = begin(of, {}, 0)
        for (tried, unreached), hold, over in itertools.product(made, holds, (False, True)):
            if unreached and phase not in (Phase.WAITING, Phase.RESTARTING):
                continue
            deadline = (now if over else now + 5) if phase in TIMED else None
            vm = VmState(phase, 0, deadline, tried + (unreached > 0 and phase is Phase.RESTARTING), unreached)
            segments = {"wire": SegmentState(course, since, 1, 0, verdict)}
            yield replace(begun, now_ms=now, segments=segments, vm=vm, holds=hold)


def test_the_table_has_exactly_the_rows_that_can_be_asked_for() -> None:
    seen, felt = set(), {(phase, VmInput.REBOOTED) for phase in Phase} | {(Phase.RESTARTING, one) for one in ANSWERS}
    for state in every_state():
        (segment,) = state.segments.values()
        seen.add((segment.course, policy._seen(state, segment)))
        felt.add((state.vm.phase, policy._felt(state)))
    assert seen == set(COURSES)
    # Where one segment is served and another is not: of a single one that cannot be.
    assert felt | {(Phase.WAITING, VmInput.UNKNOWN), (Phase.BOOTING, VmInput.UNKNOWN)} == set(PHASES)
    assert (Phase.WAITING, VmInput.UNKNOWN) not in felt


def test_from_every_state_the_turning_ends(tables: tuple[Counted[Any, Course], Counted[Any, Phase]]) -> None:
    """In few turns, and a second tick at the same time finds nothing to do."""
    longest = 0
    for state in every_state():
        for table in tables:
            table.asked.clear()
        # As the end of a step has it: verdicts do not come from the tracks here.
        said: list[Any] = []
        turned = policy._turn_vm(state, Tick(), said, said)
        turned = policy._turn_segment(turned, "wire", said)
        longest = max(longest, *(table.asked.total() for table in tables))
        count = len(said)
        assert policy._turn_segment(policy._turn_vm(turned, Tick(), said, said), "wire", said) == turned
        assert len(said) == count
        the_deadline_is_the_documented_one(turned)
    assert longest <= 5


def test_no_row_can_go_round_for_ever() -> None:
    """Time alone leads through the phases only by way of RESTARTING, whose deadline is never over at once."""
    for level in (
        VmInput.HEALTHY,
        VmInput.UNKNOWN,
        VmInput.FAILED,
        VmInput.OVERDUE,
        VmInput.EXHAUSTED,
        VmInput.DELIBERATE,
    ):
        for phase in Phase:
            ring, at = [phase], phase
            while (at, level) in PHASES and PHASES[at, level] not in ring:
                at = PHASES[at, level]
                ring.append(at)
            following = PHASES.get((at, level), at)
            assert following is at or Phase.RESTARTING in ring[ring.index(following) :], (level, ring)
    for seen in SegmentInput:
        for course in Course:
            after = COURSES.get((course, seen), course)
            assert COURSES.get((after, seen), after) is after or (after, seen) == (
                Course.FALLBACK,
                SegmentInput.HEALTHY,
            )


def test_rows_say_what_the_theory_says() -> None:
    for (course, seen), after in COURSES.items():
        if seen is SegmentInput.FAILED:
            assert after is Course.FALLBACK
        if after is Course.INSPECT and course in (Course.FALLBACK, Course.PROVING):
            assert (course, seen) == (Course.PROVING, SegmentInput.PROVEN)
        if after is Course.ENDURE and course is not Course.ENDURE:
            assert (course, seen) == (Course.INSPECT, SegmentInput.SPARED)
        if seen is SegmentInput.UNKNOWN and course is not Course.PROVING:
            assert after is course
    for (phase, felt), next_phase in PHASES.items():
        if next_phase is Phase.RESTARTING and phase is not Phase.RESTARTING:
            assert felt is VmInput.OVERDUE
        if next_phase is not Phase.GIVEN_UP and phase is Phase.GIVEN_UP:
            assert felt is VmInput.HEALTHY
        if next_phase is Phase.GIVEN_UP and phase is not Phase.GIVEN_UP:
            assert felt is VmInput.EXHAUSTED
        if felt in ANSWERS:
            assert phase is Phase.RESTARTING
        if felt is VmInput.DELIBERATE and phase not in (Phase.RESTARTING, Phase.GIVEN_UP):
            assert next_phase is Phase.STOOD_DOWN


def the_deadline_is_the_documented_one(state: State) -> None:
    vm, failing = state.vm, state.rules.on_failure
    assert (vm.due_ms is not None) is (vm.phase in TIMED)
    if vm.due_ms is None or vm.since_ms != state.now_ms:
        return
    lasts = vm.due_ms - vm.since_ms
    if vm.phase is Phase.SETTLING:
        assert lasts == max(SETTLE_MS, state.grace_end_ms - vm.since_ms)
    elif vm.phase is Phase.WAITING:
        longest = AGAIN_MAX_MS if vm.unreached else failing.backoff_max_ms
        assert SETTLE_MS <= lasts <= max(SETTLE_MS, longest)
    elif vm.phase is Phase.RESTARTING:
        assert lasts == LOST_MS
    else:
        assert lasts == failing.boot_timeout_ms


def test_pauses_double_up_to_their_bound() -> None:
    of = rules(health(HEARTBEAT), on_failure(backoff_ms=1_500, backoff_max_ms=4_000))
    state = begin(of, {}, 0)
    pauses = []
    for attempts in (0, 1, 2, 3, 99):
        waiting = policy._moved_vm(
            replace(state, vm=VmState(Phase.BOOTING, 0, 0, attempts)), Phase.WAITING, Tick(), [], []
        )
        pauses.append(waiting.vm.due_ms)
    assert pauses == [1_500, 1_500, 3_000, 4_000, 4_000]
    assert [policy._pause(of.on_failure, 3, vain) for vain in (1, 2, 3, 4, 5, 99)] == [
        1_000, 2_000, 4_000, 8_000, AGAIN_MAX_MS, AGAIN_MAX_MS,
    ]  # fmt: skip
    holds = [hold_down(of, SegmentState(Course.PROVING, flaps=flaps)) for flaps in (0, 1, 2, 3, 10**6)]
    assert holds == [2_000, 4_000, 8_000, 9_000, 9_000]


# --- by whatever happens ---------------------------------------------------------------------------------------------


@dataclass
class Witness:
    """Watches a history from outside, and knows by itself what may not happen."""

    state: State
    phase: Phase = Phase.STEADY
    failed_since: int | None = None
    dead_at: int | None = None
    healthy_since: dict[str, int] = field(default_factory=dict)
    restarts: list[str] = field(default_factory=list)

    def sees(self, after: State, effects: tuple[Any, ...], event: Any) -> None:
        before, self.state = self.state, after
        now = after.now_ms
        if isinstance(event, Declared):
            # Other segments, other ladders: whoever is judged again begins again.
            self.healthy_since = {name: since for name, since in self.healthy_since.items() if name in after.segments}
            self.restarts = self.restarts[: after.vm.attempts]
        self._no_failure_is_endured(after)
        self._nobody_goes_back_hastily(before, after, now)
        self._a_hold_holds(after)
        if isinstance(event, RestartEnded):
            self._answered(before, after, event)
        self._restarts_are_as_declared(after, effects, now)
        choices = [effect for effect in effects if isinstance(effect, Choose)]
        assert bool(choices) is (after.choice != before.choice or isinstance(event, Declared))
        assert all(choice.choice == after.choice for choice in choices)
        the_deadline_is_the_documented_one(after)
        assert (next_due := due(after)) is None or next_due > now
        assert now >= before.now_ms

    def _no_failure_is_endured(self, after: State) -> None:
        failing = after.rules.on_failure
        for segment in after.segments.values():
            if segment.verdict.state is HealthState.FAILED and segment.course is not Course.FALLBACK:
                assert segment.course is Course.ENDURE
                assert failing.restart_first
                assert not after.holds
                assert after.now_ms < segment.since_ms + failing.first_ms
                assert after.vm.phase in TIMED
                assert not after.vm.unreached
                assert after.vm.attempts <= failing.first_attempts

    def _nobody_goes_back_hastily(self, before: State, after: State, now: int) -> None:
        for name, segment in after.segments.items():
            if segment.verdict.state is not HealthState.HEALTHY:
                self.healthy_since.pop(name, None)
            since = self.healthy_since.setdefault(name, now) if segment.verdict.state is HealthState.HEALTHY else now
            if name not in before.segments:
                continue
            was = before.segments[name].course in (Course.FALLBACK, Course.PROVING)
            if was and segment.course in (Course.INSPECT, Course.ENDURE):
                assert now - since >= hold_down(after.rules, segment)
                assert segment.returned_ms == now
            # The topology follows the course, and nothing else but people.
            if not before.holds and not after.holds and before.rules is after.rules:
                back = before.choice[name] != INSPECT == after.choice[name]
                assert back is (was and segment.course in (Course.INSPECT, Course.ENDURE))

    def _a_hold_holds(self, after: State) -> None:
        for name, hold in after.holds.items():
            assert after.choice[name] == hold.topology
            assert after.now_ms < hold.until_ms

    def _answered(self, before: State, after: State, event: RestartEnded) -> None:
        """What could not be asked for was no attempt."""
        asked = before.vm.phase is Phase.RESTARTING and event.asked_ms == before.vm.since_ms
        if asked and event.ending is Ending.UNREACHED:
            assert after.vm.phase is not Phase.GIVEN_UP
            self.restarts.pop()

    def _restarts_are_as_declared(self, after: State, effects: tuple[Any, ...], now: int) -> None:
        verdicts = [one.verdict for one in after.segments.values() if one.verdict.deciding]
        # A VM that has failed, and serves nobody since, has not come back: not knowing is no better than failure.
        on_ladder = bool({self.phase, after.vm.phase} & {Phase.WAITING, Phase.BOOTING})
        down = on_ladder and all(one.state is not HealthState.HEALTHY for one in verdicts)
        dead = bool(verdicts) and (down or all(one.state is HealthState.FAILED for one in verdicts))
        dead = dead and not any(one.deliberate for one in verdicts)
        self.phase = after.vm.phase
        if verdicts and all(one.state is HealthState.FAILED for one in verdicts):
            self.dead_at = now
        if not dead:
            self.failed_since = None
        elif self.failed_since is None:
            self.failed_since = now
        asked = [effect for effect in effects if isinstance(effect, RestartVm)]
        assert len(asked) <= 1
        self.restarts += [effect.method for effect in asked]
        if asked:
            assert self.failed_since is not None
            assert now - self.failed_since >= SETTLE_MS
            assert not after.holds
            assert asked[0].attempt == after.vm.attempts == len(self.restarts)
        ladder = [rung.method for rung in after.rules.on_failure.ladder for _ in range(rung.attempts)]
        if asked:
            assert self.restarts == ladder[: len(self.restarts)]
        if self.restarts and after.vm.attempts == 0:
            inspected = all(one.course is Course.INSPECT for one in after.segments.values())
            assert inspected or not after.rules.on_failure.ladder
            if after.rules.on_failure.ladder:
                assert self.dead_at is None or now - self.dead_at >= after.rules.health.hold_down_ms
            self.restarts = []


def a_tick_before_it_is_due_changes_nothing(state: State, chance: random.Random) -> None:
    moment = due(state)
    end = state.now_ms + 10**9 if moment is None else moment - 1
    early = chance.choice([end, chance.randint(state.now_ms, end)])
    after, effects = step(state, Tick(), early)
    assert effects == ()
    assert replace(after, now_ms=state.now_ms) == state


def history(of: Rules, seed: int, steps: int, *, watched: bool = True) -> None:
    chance = random.Random(seed)
    found = {name: chance.choice(["inspect", "bypass", None]) for name in of.segments}
    state, now = begin(of, found, 0), 0
    witness = Witness(state)
    happenings = events(chance, of)
    for _ in range(steps):
        moment = due(state)
        if moment is not None and chance.random() < 0.3:
            now, event = moment, Tick()
        else:
            event = next(happenings)
            event = answered(event, state.vm) if chance.random() < 0.9 else event
            # Signals speak often, all else happens seldom; and now and then the shell is late.
            now += chance.choice([0, 0, 1, 20, 50, 90] if isinstance(event, Reading) else [0, 100, 700, 2_000])
            now = min(now, moment) if moment is not None and chance.random() < 0.8 else now
        before = state
        state, effects = step(state, event, now)
        now = state.now_ms
        if not watched:
            continue
        if chance.random() < 0.05:
            # Nothing but its arguments counts.
            assert step(before, event, state.now_ms) == (state, effects)
        witness.sees(state, effects, event)
        if chance.random() < 0.15:
            a_tick_before_it_is_due_changes_nothing(state, chance)


HISTORIES, STEPS = 8, 120


@pytest.mark.parametrize("number", range(len(ALL_RULES)))
def test_no_history_breaks_a_promise(number: int) -> None:
    for seed in range(HISTORIES):
        try:
            history(ALL_RULES[number], seed, STEPS)
        except BaseException as error:
            error.add_note(f"history(ALL_RULES[{number}], {seed}, {STEPS})")
            raise


@pytest.mark.long
def test_histories_reach_every_row(tables: tuple[Counted[Any, Course], Counted[Any, Phase]]) -> None:
    seed = 0
    while any(set(table.asked) < set(table) for table in tables) and seed < 400:
        history(ALL_RULES[seed % len(ALL_RULES)], 1_000 + seed, STEPS, watched=False)
        seed += 1
    for table in tables:
        assert set(table) - set(table.asked) == set()


def test_a_clock_that_goes_back_stands_still() -> None:
    state, _ = step(begin(ALL_RULES[0], {"wire": "inspect"}, 1_000), Tick(), 1_000)
    after, effects = step(state, Tick(), 0)
    assert (after, effects) == (state, ())


def away(vain: int) -> State:
    """A VM that has failed, for which the hypervisor could not be asked so often, just now."""
    state = begin(rules(health(HEARTBEAT, DOMAIN)), {"wire": "inspect"}, 0)
    state, _ = step(state, Reading("domain", HealthState.HEALTHY, "runs"), 0)
    state, _ = step(state, Reading("domain", HealthState.ABSENT, "gone"), 0)
    state, _ = step(state, Reading("beat", HealthState.HEALTHY, "up"), 0)
    state, _ = step(state, Reading("beat", HealthState.HEALTHY, "up"), 0)
    while state.vm.unreached < vain:
        moment = due(state)
        assert moment is not None
        state, _ = step(state, Tick(), moment)
        if state.vm.phase is Phase.RESTARTING:
            assert state.vm.attempts == 1
            state, _ = step(state, RestartEnded(state.now_ms, Ending.UNREACHED, "no answer"), moment)
    return state


def test_a_hypervisor_that_is_heard_of_again_is_asked_soon() -> None:
    """A second after the last time at the earliest; by what it tells once more, no sooner."""
    for vain in (1, 5, 40):
        state = away(vain)
        began = state.now_ms
        assert (state.vm.phase, state.vm.attempts, state.vm.unreached) == (Phase.WAITING, 0, vain)
        assert state.vm.due_ms == began + policy._pause(state.rules.on_failure, 0, vain)
        again, _ = step(state, Reading("domain", HealthState.FAILED, "is shut off"), began + 10)
        assert again.vm.due_ms == began + 1_000
        early, _ = step(state, Reading("domain", HealthState.ABSENT, "gone"), began + 10)
        assert early.vm == state.vm
    late, effects = step(state, Reading("domain", HealthState.FAILED, "is shut off"), began + 7_000)
    assert [type(one) for one in effects].count(RestartVm) == 1
    assert late.vm.attempts == 1


def test_a_hypervisor_that_answers_and_cannot_be_asked_is_not_asked_more_often_for_it() -> None:
    state = away(1)
    state, _ = step(state, Reading("domain", HealthState.FAILED, "is shut off"), state.now_ms)
    for vain in range(2, 9):
        state, _ = step(state, Tick(), due(state) or 0)
        state, _ = step(state, RestartEnded(state.now_ms, Ending.UNREACHED, "no right"), state.now_ms)
        assert state.vm.unreached == vain
        waits = state.vm.due_ms
        state, _ = step(state, Reading("domain", HealthState.FAILED, "is shut off"), state.now_ms + 100)
        assert state.vm.due_ms == waits


def test_what_cannot_be_asked_for_is_said_once() -> None:
    told: list[str] = []
    state = away(1)
    for _ in range(50):
        for event in (Tick(), RestartEnded(due(state) or 0, Ending.UNREACHED, "no answer")):
            state, effects = step(state, event, due(state) or 0 if isinstance(event, Tick) else state.now_ms)
            told += [one.what for one in effects if isinstance(one, Decision)]
    assert (state.vm.attempts, state.vm.unreached) == (0, 51)
    assert told == []
