"""What is known of the guard, as a JSON value: part of `reconcile status`. Times in milliseconds, unless named else."""

from collections.abc import Mapping
from typing import Any, assert_never

from reconciler.appliance.declared import Guard
from reconciler.guard.rules import Contents, Direction, Guarded
from reconciler.guard.state import GuardState, ProberLife
from reconciler.guard.table import LeaseState
from reconciler.network.path import Gate, Hook, PathGuard


def gate_of(guard: Guard, held: Contents) -> Gate:
    """What the table does with a segment of which it holds this."""
    if held.held:
        return Gate.LEASED
    if held.aside_ms is not None:
        return Gate.ASIDE
    return Gate.CUT if guard.closed else Gate.JOINED


def known_gate(state: GuardState, one: Guarded) -> Gate:
    """The same, by what the step knows."""
    if not state.table.present:
        return Gate.MISSING
    match state.segments[one.name].held:
        case LeaseState.GRANTED:
            return Gate.LEASED
        case LeaseState.ASIDE | LeaseState.ADOPTING:
            return Gate.ASIDE
        case LeaseState.NOTHING | LeaseState.EXPIRED:
            return Gate.CUT if one.guard.closed else Gate.JOINED
        case never:
            assert_never(never)


def hooks_of(one: Guarded) -> dict[str, Hook]:
    """Where a segment's rules are, in a table that is for it as it is bound here."""
    there = [place for place in one.ports if place.index]
    return {
        place.role: Hook(place.index, frozenset(peer.index for peer in there if peer is not place)) for place in there
    }


def status(state: GuardState, guards: Mapping[str, PathGuard], *, pid: int | None) -> dict[str, Any] | None:
    """All of it; None where no segment is guarded.

    `guards`: what the kernel's table has for each segment just now. `pid`: the prober's.
    """
    if not state.segments:
        return None
    bound = {one.name: one for one in state.bound}
    report = state.prober.report
    return {
        "on": state.on,
        "prober": {
            "pid": pid,
            "alive": state.prober.life is ProberLife.REPORTING,
            "priority": report.priority if report else None,
            "late_worst_us": report.late_worst_us if report else None,
            "stalls": report.stalls if report else None,
        },
        "segments": [_segment(state, name, bound.get(name), guards[name].gate) for name in state.segments],
    }


def _segment(state: GuardState, name: str, one: Guarded | None, gate: Gate) -> dict[str, Any]:
    exposure = state.segments[name].exposure
    return {
        "name": name,
        "state": gate.value,
        "lease_ms": one.guard.lease_ms if one else None,
        "trips": exposure.trips,
        "directions": [_direction(state, way) for way in one.directions] if one else [],
    }


def _direction(state: GuardState, way: Direction) -> dict[str, Any]:
    known = state.canaries.ways.get(way.lease)
    reported = known.reported if known else None
    return {
        "from": way.source,
        "to": way.target,
        "state": reported.state if reported else "unproven",
        "rtt_us": list(reported.rtt_us) if reported and reported.rtt_us else None,
        "sent": reported.sent if reported else 0,
        "returned": reported.returned if reported else 0,
    }
