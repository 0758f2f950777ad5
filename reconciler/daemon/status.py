"""What the daemon knows, as a JSON value: for `reconcile status`, and whoever else asks."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reconciler.appliance.declared import Signal
from reconciler.daemon.core import Core
from reconciler.health import policy, verdict
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import Course, SegmentState, State
from reconciler.health.verdict import Track
from reconciler.health.warnings import warnings as warnings_of_health
from reconciler.host.look import STATUS_FORMAT
from reconciler.host.path_notes import since
from reconciler.network.path import Taken, path_json
from reconciler.warning import Warning, worst_first

FORMAT = STATUS_FORMAT


def status(core: Core, taken: Mapping[str, Taken], warnings: Iterable[Warning] = ()) -> dict[str, Any]:
    """All of it; ages and remaining times in milliseconds, but for the guard's part (`guard.status`).

    `taken`: the paths as `Core.see_paths` has just seen them, by asking. `warnings`: bad news of what the core knows
    nothing of.
    """
    state, now = core.state, core.clock()
    found = core.found
    return {
        "format": FORMAT,
        "sku": core.appliance.sku,
        "choice": state.choice,
        "segments": [
            _segment(state, name, segment, now)
            | path_json(taken[name])
            | since(core.paths.since(name), now)
            | (core.books.counted(name, now) if core.books else {})
            for name, segment in state.segments.items()
        ],
        "vm": _vm(state, now),
        "signals": [
            _signal(state, signal, key, now)
            for signal in state.rules.health.signals.values()
            for key in _keys(state, signal)
        ],
        "warnings": [one.as_json() for one in worst_first((*_warnings(core), *warnings))],
        "network": {
            "converged": core.converged,
            "changes": len(found.changes) if found else None,
            "repaired": core.repaired,
        },
        "decisions": [
            {
                "age_ms": now - one.at_ms,
                "segment": one.decision.segment,
                "what": one.decision.what,
                "level": one.decision.level,
                "times": one.times,
                "why": [str(reading) for reading in one.decision.why],
            }
            for one in core.telling.decisions
        ],
    }


def _warnings(core: Core) -> Iterator[Warning]:
    """Bad news of the network and of the health."""
    if core.unread:
        yield core.unread
    if core.found:
        yield from core.found.warnings
    yield from core.conflicts.warnings
    yield from warnings_of_health(core.state, core.telling.unreached)


def _segment(state: State, name: str, segment: SegmentState, now: int) -> dict[str, Any]:
    hold = state.holds.get(name)
    left = None
    if segment.course is Course.PROVING:
        left = max(0, segment.since_ms + policy.hold_down(state.rules, segment) - now)
    return {
        "name": name,
        "topology": state.choice[name],
        "course": segment.course.value,
        "since_ms": now - segment.since_ms,
        "verdict": _verdict(segment.verdict.state),
        "why": [str(reading) for reading in policy.explain(state, name)],
        "flaps": segment.flaps,
        "hold_down_ms": policy.hold_down(state.rules, segment),
        "hold_down_left_ms": left,
        "hold": hold
        and {
            "topology": hold.topology,
            "owner": hold.owner,
            "reason": hold.reason,
            "left_ms": max(0, hold.until_ms - now),
        },
    }


def _vm(state: State, now: int) -> dict[str, Any]:
    vm = state.vm
    ladder = state.rules.on_failure.ladder
    return {
        "phase": vm.phase.value,
        "since_ms": now - vm.since_ms,
        "attempts": vm.attempts,
        "attempts_declared": sum(rung.attempts for rung in ladder),
        "unreached": vm.unreached,
        "due_ms": None if vm.due_ms is None else max(0, vm.due_ms - now),
    }


def _keys(state: State, signal: Signal) -> tuple[verdict.Key, ...]:
    return tuple(key for key in state.rules.keys if key[0] == signal.name)


def _signal(state: State, signal: Signal, key: verdict.Key, now: int) -> dict[str, Any]:
    track = state.tracks.get(key, Track())
    evidence: Reading = verdict.evidence(signal, track, now)
    return {
        "name": signal.name,
        "kind": type(signal.source).__name__.lower(),
        "segment": key[1],
        "required": signal.required,
        "state": track.believed.value,
        "reason": evidence.reason,
        "observed_ms": now - track.observed_ms if track.latest else None,
    }


def _verdict(state: HealthState) -> str:
    return "unknown" if state is HealthState.ABSENT else state.value
