"""The network that an appliance asks for, when each of its segments is to have a given topology."""

from collections.abc import Iterator, Mapping

from reconciler.appliance.declared import INSPECT, Adapter, Appliance, Segment, Switch
from reconciler.network.state import MEMBERSHIP_DEFAULTS, Kind, Link, Network, Role, Setting, Value, mark, pinned_mac

# Which of the link-local groups 01:80:c2:00:00:0X a member lets through, one bit each. PAUSE (bit 1) belongs to one
# cable and the kernel refuses its bit; everything else passes on a wire, nothing on a standard bridge.
WIRE_GROUPS = 0xFFFD
STANDARD_GROUPS = 0x0000

# A wire has no address: nothing that stands in it may be seen from it.
_SILENT: Mapping[Setting, Value] = {
    Setting.ARP: False,
    Setting.ADDRGENMODE: "none",
    Setting.IPV6: False,
    Setting.ADDRESSES: (),
}

# With a carrier it forwards, and asks nobody for leave (RFC 2863's "dormant", which 802.1X clients use).
_READY: Mapping[Setting, Value] = {Setting.LINK_MODE: "default", Setting.DORMANT: False}

_PLAIN_SWITCH: Mapping[Setting, Value] = {
    Setting.SWITCH: None,
    Setting.STP: False,
    Setting.MULTICAST_SNOOPING: False,
    Setting.VLAN_FILTERING: False,
    Setting.SWITCH_GROUP_FWD_MASK: 0,
    Setting.NF_CALL_IPTABLES: False,
    Setting.NF_CALL_IP6TABLES: False,
    Setting.NF_CALL_ARPTABLES: False,
}

# A switch of so many members is a wire.
_WIRE_ENDS = 2
# How many stations a switch of more learns: those of a /20. What it does not know goes to all members, so beyond this
# nobody is cut off. Each takes 185 bytes, and 2 µs when its port leaves: without a bound, a flood of addresses takes
# all the memory there is, and the next switch of topology a second.
MOST_STATIONS = 4096

Choice = Mapping[str, str]


def choice_of(appliance: Appliance, topology: str = INSPECT) -> dict[str, str]:
    """The choice that gives every segment the same topology."""
    return dict.fromkeys(appliance.segments, topology)


def segments_of(appliance: Appliance) -> Mapping[tuple[str, str], str]:
    """The segment of each port, adapter and switch, by kind and role name."""
    found = {("port", role): segment.name for segment in appliance.segments.values() for role in segment.ports}
    found |= {("adapter", role): segment for role, segment in appliance.homes.items()}
    for topology in appliance.topologies.values():
        found |= {("switch", switch.name): switch.segment for switch in topology.switches}
    return found


def desired(appliance: Appliance, choice: Choice) -> Network:
    """The network in which each segment has its chosen topology: the union of the segments' switches.

    `choice` maps every segment's name to a topology's name. Ports have no interface name yet: see `bind`.

    Raises:
        KeyError: a segment without a choice, or a topology that is not declared.

    """
    switches = tuple(_chosen_switches(appliance, choice))
    holder = {("port", role): switch for switch, _ in switches for role in switch.ports}
    holder |= {("adapter", role): switch for switch, _ in switches for role in switch.adapters}
    active = {switch.name for switch, is_active in switches if is_active}
    # One that stands by is ready for its members.
    everywhere = (switch for topology in appliance.topologies.values() for switch in topology.switches)
    learning = {switch.name for switch in everywhere if _learns(switch)}
    links = [_switch(appliance, switch, learns=switch.name in learning) for switch, _ in switches]
    links += [
        _adapter(appliance, adapter, holder.get(("adapter", role)), active)
        for role, adapter in appliance.adapters.items()
    ]
    for segment in appliance.segments.values():
        links += [_port(segment, role, holder.get(("port", role))) for role in segment.ports]
    return Network(tuple(links))


def _chosen_switches(appliance: Appliance, choice: Choice) -> Iterator[tuple[Switch, bool]]:
    """The switches that stand, each with whether traffic crosses it (or it only stands by)."""
    for segment in appliance.segments:
        topology = appliance.topologies[choice[segment]]
        yield from ((switch, True) for switch in topology.switches if switch.segment == segment)
        yield from ((switch, False) for switch in topology.standby if switch.segment == segment)


def _switch(appliance: Appliance, switch: Switch, *, learns: bool) -> Link:
    role = Role("switch", switch.name)
    segment = appliance.segments[switch.segment]
    settings = {
        **_PLAIN_SWITCH,
        **_SILENT,
        Setting.MAC: pinned_mac(appliance.sku, role),
        Setting.MTU: segment.mtu,
        Setting.AGEING: segment.ageing_ms,
        Setting.MARK: mark(appliance.sku, role),
        Setting.UP: True,
    }
    if learns:
        settings[Setting.FDB_MAX_LEARNED] = MOST_STATIONS
    return Link(switch.name, Kind.BRIDGE, settings, role)


def _port(segment: Segment, role: str, holder: Switch | None) -> Link:
    # A port that leaves a bridge leaves promiscuous mode with it, and a real NIC's filter would drop frames until it
    # is in the next: so the promiscuity is our own. Frames that a NIC has joined cannot leave by another as they came,
    # and a bridge sees to that only while it holds the port; the guard forwards also where none does.
    settings = {
        **_SILENT,
        **_READY,
        Setting.MTU: segment.mtu,
        Setting.PROMISCUOUS: True,
        Setting.LRO: False,
        Setting.UP: True,
    }
    return Link("", Kind.OTHER, {**settings, **_membership(segment, holder)}, Role("port", role))


def _adapter(appliance: Appliance, adapter: Adapter, holder: Switch | None, active: set[str]) -> Link:
    role = Role("adapter", adapter.role)
    segment = appliance.segments[holder.segment] if holder else None
    settings: dict[Setting, Value] = {**_SILENT, **_READY, Setting.UP: True, **_membership(segment, holder)}
    if segment:
        settings[Setting.MTU] = segment.mtu
    if adapter.ours:
        settings |= {
            Setting.MAC: pinned_mac(appliance.sku, role),
            Setting.MARK: mark(appliance.sku, role),
            Setting.PERSISTENT: True,
        }
    # Somebody else's netdev comes and goes with the VM. Only where traffic is to cross it must it be there.
    required = adapter.ours or (holder is not None and holder.name in active)
    return Link(adapter.interface, Kind.TAP if adapter.ours else Kind.OTHER, settings, role, required=required)


def _membership(segment: Segment | None, holder: Switch | None) -> Mapping[Setting, Value]:
    if segment is None or holder is None:
        return {Setting.SWITCH: None}
    groups = WIRE_GROUPS if segment.wire_transparent else STANDARD_GROUPS
    membership = {Setting.SWITCH: holder.name, **MEMBERSHIP_DEFAULTS, Setting.GROUP_FWD_MASK: groups}
    # Between two members there is nothing to learn: what enters at one leaves at the other. A switch that learns all
    # the same is filled by a flood of addresses, and keeps a station cut off that moved, or that is seen at both.
    membership[Setting.LEARNING] = _learns(holder)
    if membership[Setting.LEARNING]:
        # What a switch that learns has learnt is nobody's business.
        del membership[Setting.LEARNT]
    return membership


def _learns(switch: Switch) -> bool:
    return len(switch.ports) + len(switch.adapters) > _WIRE_ENDS
