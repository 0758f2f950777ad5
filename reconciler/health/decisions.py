"""What the policy says of what it decides: in words, and how loudly."""

from collections.abc import Mapping
from typing import assert_never

from reconciler.appliance.declared import INSPECT
from reconciler.health.signal import HealthState, Reading, Rebooted
from reconciler.health.state import (
    RETURN,
    Course,
    Decision,
    Ending,
    Event,
    Phase,
    RestartEnded,
    SegmentState,
    State,
    VmState,
)
from reconciler.log_events import Level

# How loudly a phase is told; the others are no bad news.
_LEVELS: Mapping[Phase, Level] = {
    Phase.SETTLING: "error",
    Phase.WAITING: "error",
    Phase.RESTARTING: "warning",
    Phase.STOOD_DOWN: "warning",
    Phase.GIVEN_UP: "critical",
}


def of_the_vm(
    state: State, vm: VmState, event: Event, why: tuple[Reading, ...], method: str | None, *, healthy: bool
) -> Decision:
    """That the VM has entered a phase. `method`: of the attempt that `vm` counts; `healthy`: what all segments say."""
    words = _words(state, vm, event, method, healthy=healthy)
    return Decision(words, why, level=_LEVELS.get(vm.phase, "info"))


def of_a_segment(
    state: State, name: str, old: Course, new: SegmentState, *, why: tuple[Reading, ...], hold_down_ms: int
) -> Decision:
    """That a segment goes from one course to the next."""
    rules = state.rules
    fallback = rules.on_failure.fallback(name)
    words = {
        Course.INSPECT: f"{fallback if old is Course.PROVING else 'waiting'} → {INSPECT}",
        Course.ENDURE: f"stays on {INSPECT} while the VM is restarted",
        Course.FALLBACK: f"{INSPECT if old is not Course.PROVING else 'proving'} → {fallback}",
        Course.PROVING: f"healthy; stays on {fallback} for {hold_down_ms / 1000:g} s more",
    }
    held = f"; held on {state.holds[name].topology}" if name in state.holds else ""
    level: Level = "info"
    if new.course is Course.FALLBACK:
        level = "critical" if name in rules.on_failure.closed else "warning"
    elif new.course is Course.ENDURE:
        level = "warning"
    # Who has left the VM can begin to come back as often as the VM pleases.
    topic = RETURN if Course.PROVING in (new.course, old) and new.course is not Course.INSPECT else ""
    return Decision(words[new.course] + held, why, name, level, topic)


def _words(state: State, vm: VmState, event: Event, method: str | None, *, healthy: bool) -> str:
    attempts, rungs = vm.attempts, sum(rung.attempts for rung in state.rules.on_failure.ladder)
    refused = f" ({event.reason})" if isinstance(event, RestartEnded) and event.ending is not Ending.DONE else ""
    match vm.phase:
        case Phase.STEADY:
            if healthy:
                return "the VM is healthy again"
            some = any(segment.verdict.state is HealthState.HEALTHY for segment in state.segments.values())
            return "the VM serves some segments again" if some else "it is not certain any more that the VM has failed"
        case Phase.SETTLING:
            return "the VM has failed"
        case Phase.WAITING if vm.unreached:
            return f"the hypervisor could not be asked to restart the VM{refused}: no attempt; it is asked again"
        case Phase.WAITING:
            helped = f"restart {attempts} of {rungs} did not help" if attempts else "the VM does not come up by itself"
            return f"{helped}{refused}; waiting before the next"
        case Phase.RESTARTING:
            return f"restarting the VM: {method}, attempt {attempts} of {rungs}"
        case Phase.BOOTING:
            return f"the VM boots: {event.reason}" if isinstance(event, Rebooted) else "the VM boots"
        case Phase.STOOD_DOWN:
            return "the VM was stopped, paused or moved on purpose: it is not restarted"
        case Phase.GIVEN_UP:
            return f"given up after {attempts} of {rungs} restarts{refused}: repair the VM by hand"
        case _:
            assert_never(vm.phase)
