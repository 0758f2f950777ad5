"""What the daemon knows of the guard, as a JSON value: part of `reconcile status`."""

from collections.abc import Mapping
from typing import Any

from reconciler.daemon.exposure import Segment
from reconciler.daemon.guarding import Guarding
from reconciler.errors import ReconcilerError
from reconciler.health.consent import Held
from reconciler.network.guard import Guarded


def guard_status(guarding: Guarding, pid: int | None) -> dict[str, Any] | None:
    """All of it; None where no segment is guarded. `pid`: the prober's. Times in milliseconds, or as the name says."""
    if not guarding.segments:
        return None
    trouble = guarding.trouble
    try:
        counted = guarding.table.counters()
    except ReconcilerError as error:
        counted, trouble = {}, trouble or str(error)
    bound = {one.name: one for one in guarding.bound}
    report = guarding.probes.heard
    return {
        "on": guarding.on,
        "trouble": trouble,
        "prober": {
            "pid": pid,
            "alive": guarding.probes.prober.alive,
            "priority": report.priority if report else None,
            "late_worst_us": report.late_worst_us if report else None,
            "stalls": report.stalls if report else None,
        },
        "segments": [
            _segment(guarding, name, segment, bound.get(name), counted) for name, segment in guarding.segments.items()
        ],
    }


def _segment(
    guarding: Guarding, name: str, segment: Segment, one: Guarded | None, counted: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    closed = name in guarding.appliance.on_failure.closed
    ports = [
        {"port": role, "frames": frames, "bytes": size}
        for role in guarding.appliance.segments[name].ports
        for frames, size in [counted.get(f"{name}/port/{role}", (0, 0))]
    ]
    now = guarding.clock()
    return {
        "name": name,
        "state": _state(guarding, segment, closed=closed),
        "lease_ms": one.guard.lease_ms if one else None,
        "trips": segment.trips,
        "open_ms": segment.open_ms + (now - segment.open_since if segment.open_since is not None else 0),
        "passed": {
            "frames": sum(port["frames"] for port in ports),
            "bytes": sum(port["bytes"] for port in ports),
            "ports": ports,
        },
        "directions": [_direction(guarding, one, number) for number in range(len(one.adapters))] if one else [],
    }


def _state(guarding: Guarding, segment: Segment, *, closed: bool) -> str:
    if not guarding.on:
        return "off"
    match segment.held:
        case Held.GRANTED:
            return "leased"
        case Held.ADOPTING | Held.ASIDE:
            return "aside"
        case Held.NOTHING | Held.EXPIRED:
            return "cut" if closed else "joined"


def _direction(guarding: Guarding, one: Guarded, number: int) -> dict[str, Any]:
    direction = one.directions[number]
    told = guarding.canaries.told(direction.lease)
    return {
        "from": direction.source,
        "to": direction.target,
        "state": told.state if told else "unproven",
        "rtt_us": list(told.rtt_us) if told and told.rtt_us else None,
        "sent": told.sent if told else 0,
        "returned": told.returned if told else 0,
    }
