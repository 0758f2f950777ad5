"""What is known of the guard, as a JSON value: part of `reconcile status`. Times in milliseconds, unless named else."""

from collections.abc import Mapping
from typing import Any

from reconciler.guard.rules import Direction, Guarded
from reconciler.guard.state import Life, State
from reconciler.network.path import Gate


def status(
    state: State, gates: Mapping[str, Gate], now: int, *, pid: int | None, trouble: str = ""
) -> dict[str, Any] | None:
    """All of it; None where no segment is guarded.

    `gates`: what the kernel's table has for each segment just now. `pid`: the prober's. `trouble`: why the table could
    not be asked.
    """
    if not state.segments:
        return None
    bound = {one.name: one for one in state.bound}
    report = state.prober.report
    return {
        "on": state.on,
        "trouble": state.table.trouble or trouble,
        "prober": {
            "pid": pid,
            "alive": state.prober.life is Life.REPORTING,
            "trouble": state.prober.trouble,
            "priority": report.priority if report else None,
            "late_worst_us": report.late_worst_us if report else None,
            "stalls": report.stalls if report else None,
        },
        "segments": [_segment(state, name, bound.get(name), gates[name], now) for name in state.segments],
    }


def _segment(state: State, name: str, one: Guarded | None, gate: Gate, now: int) -> dict[str, Any]:
    exposure = state.segments[name].exposure
    return {
        "name": name,
        "state": gate.value,
        "lease_ms": one.guard.lease_ms if one else None,
        "trips": exposure.trips,
        "open_ms": exposure.lasted(now),
        "passed": {"frames": exposure.total.frames, "bytes": exposure.total.size},
        "directions": [_direction(state, way) for way in one.directions] if one else [],
    }


def _direction(state: State, way: Direction) -> dict[str, Any]:
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
