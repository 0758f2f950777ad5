"""A proven appliance as JSON, and back."""

from dataclasses import asdict, replace
from typing import Any

from reconciler.appliance import declared
from reconciler.appliance.declared import (
    Adapter,
    Appliance,
    Canary,
    Frame,
    Group,
    Guard,
    Health,
    Hypervisor,
    Match,
    Negative,
    OnFailure,
    Port,
    Probe,
    Rung,
    Segment,
    Signal,
    Source,
    Streak,
    Switch,
    Topology,
)

# What a field may hold one kind or another of is stored beside the name of its class.
_KINDS = {
    kind.__name__: kind
    for kind in (
        declared.Heartbeat,
        declared.Domain,
        declared.Carrier,
        declared.Canary,
        declared.GuestPing,
        declared.Command,
        declared.Http,
        declared.Libvirt,
        declared.Programs,
    )
}


def dump(appliance: Appliance) -> dict[str, Any]:
    """The appliance as a JSON value."""
    data = asdict(appliance)
    for name, signal in appliance.health.signals.items():
        data["health"]["signals"][name]["kind"] = type(signal.source).__name__
    data["on_failure"]["closed"] = sorted(appliance.on_failure.closed)
    if appliance.hypervisor:
        data["hypervisor"]["kind"] = type(appliance.hypervisor).__name__
    return data


def parse(data: Any) -> Appliance:
    """The appliance that `dump` made this of.

    Raises:
        KeyError, TypeError, AttributeError: it did not.

    """
    return Appliance(
        sku=data["sku"],
        ports={role: Port(**{**port, "match": Match(**port["match"])}) for role, port in data["ports"].items()},
        segments={name: _segment(segment) for name, segment in data["segments"].items()},
        adapters={role: Adapter(**adapter) for role, adapter in data["adapters"].items()},
        topologies={name: _topology(topology) for name, topology in data["topologies"].items()},
        hypervisor=_hypervisor(data["hypervisor"]),
        health=_health(data["health"]),
        on_failure=_on_failure(data["on_failure"]),
    )


def _segment(data: Any) -> Segment:
    return Segment(**{**data, "ports": tuple(data["ports"]), "guard": _guard(data["guard"])})


def _guard(data: Any) -> Guard | None:
    if data is None:
        return None
    probe = data["probe"]
    return Guard(**{**data, "probe": Probe(**{**probe, "frame": Frame(probe["frame"])})})


def _on_failure(data: Any) -> OnFailure:
    ladder = tuple(Rung(**rung) for rung in data["ladder"])
    return OnFailure(**{**data, "closed": frozenset(data["closed"]), "ladder": ladder})


def _hypervisor(data: Any) -> Hypervisor | None:
    if data is None:
        return None
    made = _KINDS[data.pop("kind")](**_with_tuples(data))
    if not isinstance(made, Hypervisor):
        raise TypeError("no hypervisor")
    return made


def _health(data: Any) -> Health:
    signals = {name: _signal(signal) for name, signal in data["signals"].items()}
    groups = {name: Group(**_with_tuples(group)) for name, group in data["groups"].items()}
    return Health(**{**data, "signals": signals, "groups": groups})


def _signal(data: Any) -> Signal:
    source = _KINDS[data.pop("kind")](**_with_tuples(data["source"]))
    if not isinstance(source, Source):
        raise TypeError("no source of a signal")
    if isinstance(source, Canary) and source.negative is not None:
        source = replace(source, negative=Negative(**data["source"]["negative"]))
    return Signal(**{**data, "source": source, "fall": Streak(**data["fall"]), "rise": Streak(**data["rise"])})


def _with_tuples(data: Any) -> dict[str, Any]:
    """JSON knows no tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def _topology(data: Any) -> Topology:
    return Topology(
        name=data["name"],
        switches=tuple(map(_switch, data["switches"])),
        standby=tuple(map(_switch, data["standby"])),
        detached=tuple(data["detached"]),
    )


def _switch(data: Any) -> Switch:
    return Switch(data["name"], data["segment"], tuple(data["ports"]), tuple(data["adapters"]))
