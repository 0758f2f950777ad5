"""Which topology each segment shall have, and what is done about the VM: the one state machine of this project.

    step(state, event, now) -> (state, effects)

Theory. An appliance is described by two regions that run side by side, as in a statechart:

- each *segment* is on a course of its own: inspected, or past the VM, or on its way back;
- the *VM* is in one phase: well, or somewhere on the ladder of restarts, or left alone on purpose.

Nothing else is remembered, apart from what the signals told (their tracks) and the operator's holds. Each step first
absorbs its event, then brings tracks and verdicts up to `now`, and then asks the table, first for the VM, then for each
segment, until nothing moves any more. What stands on the left of the table is the *level* (the verdict as it is now),
not an edge: a lost event delays a decision until the next one, and never makes it wrong.

    segment            VM
    INSPECT            STEADY       nothing to do
    ENDURE  failed, but the VM is restarted first        SETTLING     failed; who or what did it is not known yet
    FALLBACK           WAITING      before the next attempt
    PROVING  healthy, hold-down running                  RESTARTING   the hypervisor is at it
                       BOOTING      started or rebooted, not healthy yet
                       STOOD_DOWN   an operator stopped, paused or moved it
                       GIVEN_UP     the ladder is used up

    choice = the hold, where there is one; else `inspect` in INSPECT and ENDURE, else the fallback

Why it cannot go wrong:

- *Never late.* FAILED leads to FALLBACK from every course, in the step in which the verdict fails. Only ENDURE waits:
  it is entered only where the file says `restart-then-bypass`, and only while a restart is to come (`_spared`): from a
  hypervisor that could not be asked, none is.
- *Never hasty.* INSPECT is entered from FALLBACK only through PROVING, which any other verdict than healthy ends, and
  which lasts for the hold-down: doubled with every flap, up to a bound.
- *Never more restarts than declared.* RESTARTING is entered only by OVERDUE, which is what a passed deadline is called
  while attempts are left; entering it uses one up. They come back when every segment is inspected again, and the VM has
  not failed for a hold-down: also where traffic had not left it, a VM that flaps climbs the ladder to its end.
- *Never fewer.* An attempt for which the hypervisor could not be asked (UNREACHED) was none: it is given back, and made
  again after a pause that is bounded, and as soon as libvirt is heard of again. So GIVEN_UP follows only upon what the
  hypervisor has done, or refused, or was asked for without an answer. The last counts because nobody knows whether it
  was done, or will be: a QEMU that hangs makes each reset hang, and the ladder would never come to its next rung; and a
  libvirtd that wakes up carries out what it was asked for while it slept. It costs one attempt at most: the next one
  finds nobody who answers, and is UNREACHED. A process that was killed in RESTARTING does not know either. An answer
  counts for the restart that it answers, and for no later one.
- *Never against an operator.* A deliberate failure leads to STOOD_DOWN; while a hold stands, deadlines of the VM do not
  count.
- *Unknown changes nothing* but ending PROVING: a segment whose signals are all absent stays where it is. What has
  failed once is another matter: in ENDURE, WAITING and BOOTING, time passes until somebody is known to be healthy.

A failure is not acted upon at once by a restart: a VM that was shut down, or that reboots, looks like a dead one until
libvirt has told (0.2 s later, as measured), and behind the bypass nobody waits for it.

All times are milliseconds of one clock that never steps.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import assert_never

from reconciler.appliance.declared import HostPath, OnFailure
from reconciler.health import decisions, level, verdict
from reconciler.health.signal import HealthState, Reading, Rebooted
from reconciler.health.state import (
    Choose,
    Course,
    Decision,
    Declared,
    Effect,
    Ending,
    Event,
    Phase,
    RestartEnded,
    RestartVm,
    Rules,
    SegmentState,
    State,
    VmState,
)

# libvirt tells who stopped a VM up to 254 ms after its tap has died, and of a reboot after 300 ms.
SETTLE_MS = 1_000
# Drivers have time limits of their own; this is for an answer that got lost.
LOST_MS = 600_000
# Pauses between attempts to reach a hypervisor: the first one, doubled up to the last. They load nothing but a socket.
AGAIN_MS, AGAIN_MAX_MS = 1_000, 10_000
_MAX_DOUBLINGS = 20


class SegmentInput(Enum):
    """What a segment's course is asked about: its verdict, and what follows from it."""

    HEALTHY = 1
    UNKNOWN = 2
    FAILED = 3
    SPARED = 4  # failed, but the VM is restarted before the traffic leaves it
    PROVEN = 5  # healthy, and the hold-down is over


class VmInput(Enum):
    """What the VM's phase is asked about."""

    HEALTHY = 1  # every segment is that any signal speaks of
    UNKNOWN = 2  # not every such segment is healthy, and not every one has failed
    FAILED = 3  # every such segment has
    OVERDUE = 4  # failed, the phase's deadline has passed, and an attempt is left
    EXHAUSTED = 5  # the same, and none is left
    DELIBERATE = 6  # failed, and it is an operator's doing
    REBOOTED = 7  # the VM reboots by itself
    DONE = 8  # the hypervisor has restarted it
    REFUSED = 9  # the hypervisor could not
    UNREACHED = 10  # the hypervisor could not be asked


_ENDINGS = {Ending.DONE: VmInput.DONE, Ending.REFUSED: VmInput.REFUSED, Ending.UNREACHED: VmInput.UNREACHED}

C, P, S, F = Course, Phase, SegmentInput, VmInput

# fmt: off
COURSES: Mapping[tuple[Course, SegmentInput], Course] = {
    (C.INSPECT, S.HEALTHY): C.INSPECT,    (C.ENDURE, S.HEALTHY): C.INSPECT,
    (C.INSPECT, S.UNKNOWN): C.INSPECT,
    (C.INSPECT, S.FAILED):  C.FALLBACK,   (C.ENDURE, S.FAILED):  C.FALLBACK,
    (C.INSPECT, S.SPARED):  C.ENDURE,     (C.ENDURE, S.SPARED):  C.ENDURE,

    (C.FALLBACK, S.HEALTHY): C.PROVING,   (C.PROVING, S.HEALTHY): C.PROVING,
    (C.FALLBACK, S.UNKNOWN): C.FALLBACK,  (C.PROVING, S.UNKNOWN): C.FALLBACK,
    (C.FALLBACK, S.FAILED):  C.FALLBACK,  (C.PROVING, S.FAILED):  C.FALLBACK,
                                          (C.PROVING, S.PROVEN):  C.INSPECT,
}

PHASES: Mapping[tuple[Phase, VmInput], Phase] = {
    (P.STEADY, F.HEALTHY):         P.STEADY,      (P.SETTLING, F.HEALTHY):      P.STEADY,
    (P.STEADY, F.UNKNOWN):         P.STEADY,      (P.SETTLING, F.UNKNOWN):      P.STEADY,
    (P.STEADY, F.FAILED):          P.SETTLING,    (P.SETTLING, F.FAILED):       P.SETTLING,
                                                  (P.SETTLING, F.OVERDUE):      P.RESTARTING,
                                                  (P.SETTLING, F.EXHAUSTED):    P.GIVEN_UP,
    (P.STEADY, F.DELIBERATE):      P.STOOD_DOWN,  (P.SETTLING, F.DELIBERATE):   P.STOOD_DOWN,
    (P.STEADY, F.REBOOTED):        P.BOOTING,     (P.SETTLING, F.REBOOTED):     P.BOOTING,

    (P.WAITING, F.HEALTHY):        P.STEADY,      (P.RESTARTING, F.HEALTHY):    P.RESTARTING,
    (P.WAITING, F.UNKNOWN):        P.STEADY,      (P.RESTARTING, F.UNKNOWN):    P.RESTARTING,
    (P.WAITING, F.FAILED):         P.WAITING,     (P.RESTARTING, F.FAILED):     P.RESTARTING,
    (P.WAITING, F.OVERDUE):        P.RESTARTING,  (P.RESTARTING, F.OVERDUE):    P.WAITING,
    (P.WAITING, F.EXHAUSTED):      P.GIVEN_UP,    (P.RESTARTING, F.EXHAUSTED):  P.GIVEN_UP,
    (P.WAITING, F.DELIBERATE):     P.STOOD_DOWN,  (P.RESTARTING, F.DELIBERATE): P.RESTARTING,
    (P.WAITING, F.REBOOTED):       P.BOOTING,     (P.RESTARTING, F.REBOOTED):   P.RESTARTING,
                                                  (P.RESTARTING, F.DONE):       P.BOOTING,
                                                  (P.RESTARTING, F.REFUSED):    P.WAITING,
                                                  (P.RESTARTING, F.UNREACHED):  P.WAITING,

    (P.BOOTING, F.HEALTHY):        P.STEADY,      (P.STOOD_DOWN, F.HEALTHY):    P.STEADY,
    (P.BOOTING, F.UNKNOWN):        P.BOOTING,     (P.STOOD_DOWN, F.UNKNOWN):    P.STOOD_DOWN,
    (P.BOOTING, F.FAILED):         P.BOOTING,     (P.STOOD_DOWN, F.FAILED):     P.BOOTING,
    (P.BOOTING, F.OVERDUE):        P.WAITING,
    (P.BOOTING, F.EXHAUSTED):      P.GIVEN_UP,
    (P.BOOTING, F.DELIBERATE):     P.STOOD_DOWN,  (P.STOOD_DOWN, F.DELIBERATE): P.STOOD_DOWN,
    (P.BOOTING, F.REBOOTED):       P.BOOTING,     (P.STOOD_DOWN, F.REBOOTED):   P.BOOTING,

    # Only who repairs it by hand leads out of here.
    (P.GIVEN_UP, F.HEALTHY):       P.STEADY,      (P.GIVEN_UP, F.DELIBERATE):   P.GIVEN_UP,
    (P.GIVEN_UP, F.UNKNOWN):       P.GIVEN_UP,    (P.GIVEN_UP, F.REBOOTED):     P.GIVEN_UP,
    (P.GIVEN_UP, F.FAILED):        P.GIVEN_UP,
}
# fmt: on


def step(state: State, event: Event, now: int) -> tuple[State, tuple[Effect, ...]]:
    """The state after an event, and what is to be done. `now` may not lie before the last step's; if so, it is that."""
    choice, before = state.choice, state
    said: list[Decision] = []
    restarts: list[RestartVm] = []
    if level.answers_again(state, event):
        state = _sooner(state)
    state = level.absorbed(replace(state, now_ms=max(now, before.now_ms)), event, said)
    state = level.judged(state, before, event, said)
    if state.rules.on_failure.ladder:
        state = _turn_vm(state, event, said, restarts)
    for name in state.segments:
        state = _turn_segment(state, name, said)
    state = _recover(state)
    chosen = [Choose(state.choice)] if state.choice != choice or isinstance(event, Declared) else []
    return state, (*chosen, *restarts, *said)


def due(state: State) -> int | None:
    """When a `Tick` is needed although nothing happens; None: not before something does."""
    rules, moments = state.rules, [hold.until_ms for hold in state.holds.values()]
    moments.append(state.grace_end_ms)
    for key in rules.keys:
        track = state.tracks.get(key, verdict.UNOBSERVED)
        moment = verdict.due(rules.health.signals[key[0]], track, state.grace_end_ms)
        moments += [one for one in (moment, level.lapses_ms(state, key)) if one is not None]
    for segment in state.segments.values():
        if segment.course is Course.PROVING:
            moments.append(segment.since_ms + hold_down(rules, segment))
        elif segment.course is Course.ENDURE:
            moments.append(segment.since_ms + rules.on_failure.first_ms)
    if state.vm.due_ms is not None and not state.holds:
        moments.append(state.vm.due_ms)
    if state.vm.attempts and state.vm.phase is Phase.STEADY:
        moments.append(_recovers_ms(state))
    # What is due already waits for something else than time.
    return min((moment for moment in moments if moment > state.now_ms), default=None)


def hold_down(rules: Rules, segment: SegmentState) -> int:
    """How long a segment must be healthy before it is inspected again, in milliseconds."""
    health = rules.health
    return min(health.hold_down_ms << min(segment.flaps, _MAX_DOUBLINGS), health.hold_down_max_ms)


def explain(state: State, name: str) -> tuple[Reading, ...]:
    """The readings that a segment's verdict rests on."""
    return verdict.reasons(state.rules.health, state.tracks, name, state.segments[name].verdict, state.now_ms)


# The VM turns


def _turn_vm(state: State, event: Event, said: list[Decision], restarts: list[RestartVm]) -> State:
    if given := _input(state.vm, event):
        state = _moved_vm(state, PHASES[state.vm.phase, given], event, said, restarts)
    while True:
        phase = PHASES[state.vm.phase, _felt(state)]
        if phase is state.vm.phase:
            return state
        state = _moved_vm(state, phase, event, said, restarts)


def _input(vm: VmState, event: Event) -> VmInput | None:
    """What an event says of the VM by itself; an answer to an earlier restart than this one says nothing any more."""
    if isinstance(event, Rebooted):
        return VmInput.REBOOTED
    if isinstance(event, RestartEnded) and vm.phase is Phase.RESTARTING and event.asked_ms == vm.since_ms:
        return _ENDINGS[event.ending]
    return None


def _felt(state: State) -> VmInput:
    """What the verdicts, and the time, say of the VM."""
    # What goes missing between ports and adapters is the host's doing: no restart of the VM brings it back.
    verdicts = [one.verdict for one in state.segments.values() if one.verdict.deciding and not _by_host(state, one)]
    if not verdicts:
        return VmInput.UNKNOWN
    if all(one.state is HealthState.HEALTHY for one in verdicts):
        return VmInput.HEALTHY
    if not all(one.state is HealthState.FAILED for one in verdicts) and not _down_still(state):
        return VmInput.UNKNOWN
    if any(one.deliberate for one in verdicts):
        return VmInput.DELIBERATE
    vm = state.vm
    if vm.due_ms is None or state.now_ms < vm.due_ms or state.holds:
        return VmInput.FAILED
    return VmInput.OVERDUE if _method(state.rules, vm.attempts + 1) else VmInput.EXHAUSTED


def _by_host(state: State, segment: SegmentState) -> bool:
    """Whether a segment has failed by nothing but what is counted on the host's half of its path."""
    signals = state.rules.health.signals
    failed = segment.verdict.state is HealthState.FAILED
    return failed and all(
        name in signals and isinstance(signals[name].source, HostPath) for name in segment.verdict.deciding
    )


def _down_still(state: State) -> bool:
    """Whether the VM, which has failed, serves nobody yet: until it does, not knowing is no better than failure."""
    healthy = any(one.verdict.state is HealthState.HEALTHY for one in state.segments.values())
    return state.vm.phase in (Phase.WAITING, Phase.BOOTING) and not healthy


def _method(rules: Rules, attempt: int) -> str | None:
    """How the ladder has the VM restarted in this attempt, the first being 1; None when it is used up."""
    for rung in rules.on_failure.ladder:
        if attempt <= rung.attempts:
            return rung.method
        attempt -= rung.attempts
    return None


def _moved_vm(state: State, phase: Phase, event: Event, said: list[Decision], restarts: list[RestartVm]) -> State:
    """The VM in its next phase, with the phase's deadline, and what is said and done on entering it."""
    old, now, rules = state.vm, state.now_ms, state.rules.on_failure
    if phase is old.phase:
        return state
    attempts, unreached = old.attempts, 0
    if phase is Phase.RESTARTING:
        attempts, unreached = attempts + 1, old.unreached
    elif _input(old, event) is VmInput.UNREACHED:
        attempts, unreached = attempts - 1, old.unreached + 1
    lasts = {
        Phase.SETTLING: max(SETTLE_MS, state.grace_end_ms - now),
        Phase.WAITING: _pause(rules, attempts, unreached),
        Phase.RESTARTING: LOST_MS,
        Phase.BOOTING: rules.boot_timeout_ms,
    }
    due_ms = now + lasts[phase] if phase in lasts else None
    if phase is Phase.RESTARTING and (method := _method(state.rules, attempts)):
        restarts.append(RestartVm(method, attempts, now))
    new = VmState(phase, now, due_ms, attempts, unreached)
    if not (unreached and old.unreached):
        # That it is tried in vain is said once, not for as long as the hypervisor is away.
        why = tuple(dict.fromkeys(reading for name in state.segments for reading in explain(state, name)))
        method = _method(state.rules, attempts)
        said.append(decisions.of_the_vm(state, new, event, why, method, healthy=_felt(state) is VmInput.HEALTHY))
    if phase is Phase.STOOD_DOWN and old.phase in (Phase.STEADY, Phase.SETTLING):
        state = replace(state, segments={name: _no_flap(one) for name, one in state.segments.items()})
    return replace(state, vm=new)


def _no_flap(segment: SegmentState) -> SegmentState:
    """A segment that left the VM because somebody stopped it, which was counted before that was known."""
    if segment.course is not Course.FALLBACK:
        return segment
    return replace(segment, flaps=max(0, segment.flaps - 1))


def _pause(rules: OnFailure, attempts: int, unreached: int) -> int:
    """How long to wait for the next attempt, after so many of them, and so many in vain to make the next."""
    if unreached:
        return min(AGAIN_MS << min(unreached - 1, _MAX_DOUBLINGS), AGAIN_MAX_MS)
    doublings = min(max(attempts - 1, 0), _MAX_DOUBLINGS)
    return max(SETTLE_MS, min(rules.backoff_ms << doublings, rules.backoff_max_ms))


def _sooner(state: State) -> State:
    """The hypervisor is heard of again: what could not be asked of it is asked now, after the shortest pause."""
    vm = state.vm
    if vm.due_ms is None or not vm.unreached or vm.phase is not Phase.WAITING:
        return state
    return replace(state, vm=replace(vm, due_ms=min(vm.due_ms, vm.since_ms + AGAIN_MS)))


def _recover(state: State) -> State:
    """Attempts come back when all is well: every segment inspected, the VM healthy, and no failure for a hold-down."""
    if state.vm.attempts == 0 or state.vm.phase is not Phase.STEADY:
        return state
    if any(segment.course is not Course.INSPECT for segment in state.segments.values()):
        return state
    if state.now_ms < _recovers_ms(state) or _felt(state) is not VmInput.HEALTHY:
        return state
    return replace(state, vm=replace(state.vm, attempts=0))


def _recovers_ms(state: State) -> int:
    return state.vm.since_ms + max(hold_down(state.rules, segment) for segment in state.segments.values())


# The segments turn


def _turn_segment(state: State, name: str, said: list[Decision]) -> State:
    while True:
        segment = state.segments[name]
        course = COURSES[segment.course, _seen(state, segment)]
        if course is segment.course:
            return state
        state = replace(state, segments={**state.segments, name: _moved_segment(state, name, segment, course, said)})


def _seen(state: State, segment: SegmentState) -> SegmentInput:
    match segment.verdict.state:
        case HealthState.HEALTHY | HealthState.DEGRADED:
            over = segment.since_ms + hold_down(state.rules, segment) <= state.now_ms
            return SegmentInput.PROVEN if segment.course is Course.PROVING and over else SegmentInput.HEALTHY
        case HealthState.ABSENT if segment.course is not Course.ENDURE:
            return SegmentInput.UNKNOWN
        case HealthState.FAILED | HealthState.ABSENT:
            return SegmentInput.SPARED if _spared(state, segment) else SegmentInput.FAILED
        case _:
            assert_never(segment.verdict.state)


def _spared(state: State, segment: SegmentState) -> bool:
    """Whether the traffic waits for a restart: the file has it so, one is to come, and it is not taking too long."""
    rules, vm = state.rules.on_failure, state.vm
    if vm.unreached or not rules.restart_first or segment.course not in (Course.INSPECT, Course.ENDURE) or state.holds:
        return False
    if segment.course is Course.ENDURE and segment.since_ms + rules.first_ms <= state.now_ms:
        return False
    if vm.phase in (Phase.RESTARTING, Phase.BOOTING):
        return vm.attempts <= rules.first_attempts
    to_come = vm.attempts < rules.first_attempts and _method(state.rules, vm.attempts + 1) is not None
    return vm.phase in (Phase.SETTLING, Phase.WAITING) and to_come


def _moved_segment(state: State, name: str, old: SegmentState, course: Course, said: list[Decision]) -> SegmentState:
    now, rules = state.now_ms, state.rules
    flaps, returned = old.flaps, old.returned_ms
    if course is Course.FALLBACK and old.course in (Course.INSPECT, Course.ENDURE):
        soon = returned is not None and now - returned < rules.health.flap_memory_ms
        flaps = flaps + 1 if soon else 0
    if course is Course.INSPECT and old.course is Course.PROVING:
        returned = now
    new = SegmentState(course, now, flaps, returned, old.verdict)
    why, hold_ms = explain(state, name), hold_down(rules, new)
    said.append(decisions.of_a_segment(state, name, old.course, new, why=why, hold_down_ms=hold_ms))
    return new
