"""What the daemon knows of the guard, as a JSON value: part of `reconcile status`."""

from collections.abc import Mapping
from typing import Any

from reconciler.daemon.guarding import Guarding
from reconciler.errors import ReconcilerError
from reconciler.guard.rules import Guarded
from reconciler.network.path import Gate


def guard_status(guarding: Guarding, pid: int | None) -> dict[str, Any] | None:
    """All of it; None where no segment is guarded. `pid`: the prober's. Times in milliseconds, or as the name says."""
    if not guarding.segments:
        return None
    trouble = guarding.trouble
    try:
        counted = guarding.table.counters()
    except ReconcilerError as error:
        counted, trouble = {}, trouble or str(error)
    bound, gates = {one.name: one for one in guarding.bound}, gates_of(guarding)
    report = guarding.probes.heard
    return {
        "on": guarding.on,
        "trouble": trouble,
        "prober": {
            "pid": pid,
            "alive": guarding.probes.reporting,
            "priority": report.priority if report else None,
            "late_worst_us": report.late_worst_us if report else None,
            "stalls": report.stalls if report else None,
        },
        "segments": [_segment(guarding, name, bound.get(name), gates[name], counted) for name in guarding.segments],
    }


def gates_of(guarding: Guarding) -> dict[str, Gate]:
    """What the kernel's table has for each guarded segment at this moment: asked for, and not remembered."""
    if not guarding.on:
        return dict.fromkeys(guarding.segments, Gate.OFF)
    # What has no ports to be bound to is not in the table.
    return dict.fromkeys(guarding.segments, Gate.MISSING) | {one.name: _gate(guarding, one) for one in guarding.bound}


def _gate(guarding: Guarding, one: Guarded) -> Gate:
    try:
        held = guarding.table.contents(one)
    except ReconcilerError:
        return _gate_without_contents(guarding)
    if held.held:
        return Gate.LEASED
    if held.aside_ms is not None:
        return Gate.ASIDE
    return Gate.CUT if one.guard.closed else Gate.JOINED


def _gate_without_contents(guarding: Guarding) -> Gate:
    try:
        return Gate.MISSING if guarding.table.fingerprint() is None else Gate.UNKNOWN
    except ReconcilerError:
        return Gate.UNKNOWN


def _segment(
    guarding: Guarding, name: str, one: Guarded | None, gate: Gate, counted: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    segment = guarding.segments[name]
    ports = [
        {"port": role, "frames": frames, "bytes": size}
        for role in guarding.appliance.segments[name].ports
        for frames, size in [counted.get(f"{name}/port/{role}", (0, 0))]
    ]
    now = guarding.clock()
    return {
        "name": name,
        "state": gate.value,
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
