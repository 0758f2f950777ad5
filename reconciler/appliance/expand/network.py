"""From what the vendor wrote to what it amounts to: short forms written out, defaults filled in."""

from collections.abc import Iterator
from dataclasses import replace

from reconciler.appliance.declared import (
    BYPASS,
    DEFAULT_SEGMENT,
    INSPECT,
    ISOLATE,
    Adapter,
    Appliance,
    Match,
    Port,
    Segment,
    Switch,
    Topology,
)
from reconciler.appliance.expand import guard as expand_guard
from reconciler.appliance.expand import health as expand_care
from reconciler.appliance.written import network as model
from reconciler.appliance.yaml.words import milliseconds


def expand(file: model.ApplianceFile) -> Appliance:
    """The appliance that `file` declares. Its references must hold (see `references`)."""
    ports = {role: _port(role, port) for role, port in file.ports.items()}
    adapters = {role: _adapter(role, adapter) for role, adapter in file.vm.adapters.items()}
    segments = segments_of(file, tuple(role for role, port in ports.items() if not port.management))
    places = _Places(segments)
    inspect = tuple(places.switch(*written) for written in written_out(file.topologies[INSPECT], INSPECT, segments))
    places.learn(inspect)
    own = {
        name: tuple(places.switch(*written) for written in written_out(form, name, segments))
        for name, form in file.topologies.items()
    }
    topologies = {
        name: Topology(name, switches, _standby(switches, own), tuple(file.topologies[name].detached))
        for name, switches in own.items()
    }
    on_failure = expand_care.on_failure(file, expand_guard.closed(file, segments))
    if on_failure.closed and ISOLATE not in topologies:
        detached = tuple(role for segment in segments.values() for role in segment.ports)
        topologies[ISOLATE] = Topology(ISOLATE, (), _standby((), own), detached)
    return Appliance(
        file.appliance.sku,
        ports,
        segments,
        adapters,
        topologies,
        expand_care.hypervisor(file.vm),
        expand_care.health(file.health, segments),
        on_failure,
    )


def segments_of(file: model.ApplianceFile, data_ports: tuple[str, ...]) -> dict[str, Segment]:
    """The segments by name; one of all data ports where the file has none."""
    if not file.segments:
        return {DEFAULT_SEGMENT: Segment(DEFAULT_SEGMENT, data_ports, guard=expand_guard.guard(file, None))}
    return {
        name: Segment(
            name,
            tuple(written.ports),
            written.transparency == "wire",
            written.mtu,
            milliseconds(written.ageing),
            expand_guard.guard(file, written),
        )
        for name, written in file.segments.items()
    }


def written_out(
    form: model.Topology, topology: str, segments: dict[str, Segment]
) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Name, ports and adapters of each switch of a topology."""
    if form.switches is not None:
        for name, switch in form.switches.items():
            yield name, tuple(switch.ports), tuple(switch.adapters)
        return
    detached = frozenset(form.detached)
    for segment in segments.values():
        ports = tuple(port for port in segment.ports if port not in detached)
        if form.pair:
            for port in ports:
                yield paired_name(port), (port,), (port,)
        elif ports:
            yield joined_name(topology, segment.name if len(segments) > 1 else None), ports, ()


def paired_name(port: str) -> str:
    """What `pair: all` calls the switch of a port."""
    return f"sw-{port}"


def joined_name(topology: str, segment: str | None) -> str:
    """What `join: all` calls the switch of a segment; None where there is only one."""
    return f"sw-{topology}" if segment is None else f"sw-{topology}-{segment}"


class _Places:
    """To which segment ports and adapters belong, and so the switches that hold them."""

    def __init__(self, segments: dict[str, Segment]) -> None:
        self._of_port = {role: segment.name for segment in segments.values() for role in segment.ports}
        self._of_adapter: dict[str, str] = {}

    def learn(self, inspect: tuple[Switch, ...]) -> None:
        """An adapter belongs to the wire that it inspects: the segment of the port beside it in `inspect`."""
        for switch in inspect:
            for role in switch.adapters:
                self._of_adapter.setdefault(role, switch.segment)

    def switch(self, name: str, ports: tuple[str, ...], adapters: tuple[str, ...]) -> Switch:
        """The switch with its segment: that of its first member that has one, else ''."""
        found = [self._of_port.get(role, "") for role in ports] + [self._of_adapter.get(role, "") for role in adapters]
        return Switch(name, next(filter(None, found), ""), ports, adapters)


def _standby(active: tuple[Switch, ...], own: dict[str, tuple[Switch, ...]]) -> tuple[Switch, ...]:
    """The other topologies' switches, empty but for the adapters that rest in their switch of `inspect`."""
    taken = {switch.name for switch in active}
    placed = {role for switch in active for role in switch.adapters}
    standby: dict[str, Switch] = {}
    # `inspect` first: a switch that several topologies use is the adapters' resting place.
    for topology in (INSPECT, BYPASS, *own):
        for switch in own[topology]:
            if switch.name in taken or switch.name in standby:
                continue
            resting = tuple(role for role in switch.adapters if role not in placed) if topology == INSPECT else ()
            standby[switch.name] = replace(switch, ports=(), adapters=resting)
    return tuple(standby.values())


def _port(role: str, port: model.Port) -> Port:
    match = port.match
    return Port(
        role,
        Match(match.pci, match.mac, match.driver, match.index, match.name),
        port.role == "management",
        port.take_over,
    )


def _adapter(role: str, adapter: model.Adapter) -> Adapter:
    return Adapter(
        role, adapter.tap or adapter.interface or "", adapter.tap is not None, adapter.mac, adapter.take_over
    )
