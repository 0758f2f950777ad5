"""Which topology a live network is in already."""

from collections.abc import Mapping

from reconciler.appliance.declared import Appliance
from reconciler.network.bind import Bound
from reconciler.network.ownership import is_ours
from reconciler.network.state import Network


def recognise(appliance: Appliance, bound: Bound, actual: Network) -> Mapping[str, str | None]:
    """For each segment the topology in which all of its ports are where they belong; None: in none, or not found.

    `bound`: who is who, of whatever choice. Of several topologies that put the ports into the same places, the first in
    the file's order.
    """
    held = {
        link.role.name: actual.by_name[link.name].switch
        for link in bound.desired.links
        if link.role and link.role.kind == "port"
    }
    found: dict[str, str | None] = dict.fromkeys(appliance.segments)
    for topology, declared in appliance.topologies.items():
        place = {role: switch.name for switch in declared.switches for role in switch.ports}
        for name, segment in appliance.segments.items():
            if found[name] is None and all(role in held and held[role] == place.get(role) for role in segment.ports):
                found[name] = topology if _tells(appliance, topology, name, actual) else None
    return found


def _tells(appliance: Appliance, topology: str, segment: str, actual: Network) -> bool:
    """Whether the places of the ports are evidence of a topology.

    One that holds no port looks like a network that nobody has set up. Only where it is the fallback, and our switches
    are there already, it is where a failure has led to.
    """
    declared = appliance.topologies[topology]
    if any(switch.ports for switch in declared.switches if switch.segment == segment):
        return True
    stand = [switch.name for switch in (*declared.switches, *declared.standby) if switch.segment == segment]
    there = (actual.by_name.get(name) for name in stand)
    fallback = appliance.on_failure.fallback(segment)
    return topology == fallback and all(link and is_ours(appliance, link) for link in there)
