"""A proven appliance as JSON, and back."""

from dataclasses import asdict
from typing import Any

from reconciler.appliance.declared import Adapter, Appliance, Match, Port, Segment, Switch, Topology


def dump(appliance: Appliance) -> dict[str, Any]:
    """The appliance as a JSON value."""
    return asdict(appliance)


def parse(data: Any) -> Appliance:
    """The appliance that `dump` made this of.

    Raises:
        KeyError, TypeError, AttributeError: it did not.

    """
    return Appliance(
        sku=data["sku"],
        ports={role: Port(**{**port, "match": Match(**port["match"])}) for role, port in data["ports"].items()},
        segments={
            name: Segment(**{**segment, "ports": tuple(segment["ports"])}) for name, segment in data["segments"].items()
        },
        adapters={role: Adapter(**adapter) for role, adapter in data["adapters"].items()},
        topologies={name: _topology(topology) for name, topology in data["topologies"].items()},
    )


def _topology(data: Any) -> Topology:
    return Topology(
        name=data["name"],
        switches=tuple(map(_switch, data["switches"])),
        standby=tuple(map(_switch, data["standby"])),
        detached=tuple(data["detached"]),
    )


def _switch(data: Any) -> Switch:
    return Switch(data["name"], data["segment"], tuple(data["ports"]), tuple(data["adapters"]))
