"""What must hold of an appliance's topologies before any of them may touch a wire.

Each topology becomes a graph: ports, switches and adapters are nodes, membership is an edge, and the VM is one node per
segment, joined to the segment's adapters (which wires a VM joins inside is the VM's business; that the *host* joins
none is ours). Then the promises are statements about paths:

- inspect: without the VM no two ports of a segment are connected, with it all are; each switch is one port, one adapter
- bypass: without the VM all ports of a segment are connected
- every topology: no path leads from one segment to another; no cycle (a frame would circle for ever, there is no
  spanning tree here); no management port; every data port has one place, or is detached on purpose

A flaw names the path in the graph that breaks the promise.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

from reconciler.appliance.declared import BYPASS, INSPECT, Appliance, Segment, Switch, Topology

Node = tuple[str, str]
DocumentPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Flaw:
    """A promise that does not hold: where in the file, what breaks it, what would be right."""

    path: DocumentPath
    what: str
    right: str


def prove(appliance: Appliance) -> list[Flaw]:
    """All flaws of all topologies; none, if every promise holds."""
    flaws = list(_one_segment_per_name(appliance))
    for topology in appliance.topologies.values():
        flaws += _places(appliance, topology)
        graph = graph_of(appliance, topology)
        flaws += _separate(appliance, topology, graph)
        flaws += _no_loop(topology, graph)
        if topology.name == INSPECT:
            flaws += _inspects(appliance, topology, graph)
        if topology.name == BYPASS:
            flaws += _bypasses(appliance, topology, graph)
    return flaws


def graph_of(appliance: Appliance, topology: Topology) -> "nx.Graph[Node]":
    """The topology as a graph, standby switches and resting adapters included."""
    graph: nx.Graph[Node] = nx.Graph()
    graph.add_nodes_from(("port", role) for role in appliance.data_ports)
    segment_of = {role: switch.segment for switch in appliance.topologies[INSPECT].switches for role in switch.adapters}
    for switch in (*topology.switches, *topology.standby):
        node = ("switch", switch.name)
        graph.add_node(node)
        graph.add_edges_from((node, ("port", role)) for role in switch.ports)
        graph.add_edges_from((node, ("adapter", role)) for role in switch.adapters)
        graph.add_edges_from((("adapter", role), ("vm", segment_of.get(role, ""))) for role in switch.adapters)
    return graph


def _without_vm(graph: "nx.Graph[Node]") -> "nx.Graph[Node]":
    return graph.subgraph([node for node in graph if node[0] != "vm"])


def _one_segment_per_name(appliance: Appliance) -> Iterator[Flaw]:
    """A switch that two topologies share must lie in one segment, or a choice per segment could not be carried out."""
    seen: dict[str, tuple[str, str]] = {}
    for topology in appliance.topologies.values():
        for switch in topology.switches:
            segment, first = seen.setdefault(switch.name, (switch.segment, topology.name))
            if segment != switch.segment:
                what = f"in segment `{switch.segment}` here, in `{segment}` in topology `{first}`"
                yield Flaw(_at(topology, switch), what, "a switch lies in one segment: use another name")


def _places(appliance: Appliance, topology: Topology) -> Iterator[Flaw]:
    """Every data port has exactly one place, every adapter at most one, and no management port has any."""
    held: Counter[Node] = Counter()
    for switch in topology.switches:
        for role in switch.ports:
            held["port", role] += 1
            if appliance.ports[role].management:
                what = f"the management port is in a switch: {_spell([('port', role), ('switch', switch.name)])}"
                yield Flaw(_at(topology, switch), what, "management ports are never switched: remove it")
        held.update(("adapter", role) for role in switch.adapters)
    held.update(("port", role) for role in topology.detached)
    for (kind, role), count in held.items():
        if count > 1:
            holders = [switch.name for switch in topology.switches if role in (switch.ports + switch.adapters)]
            holders += ["detached"] * (kind == "port" and role in topology.detached)
            what = f"{kind} `{role}` has {count} places: {', '.join(holders)}"
            yield Flaw(("topologies", topology.name), what, "a netdev is in at most one switch: leave one")
    for role in appliance.data_ports:
        if not held["port", role]:
            what = f"port `{role}` has no place"
            yield Flaw(("topologies", topology.name), what, "put it into a switch, or list it under `detached`")
    for role in topology.detached:
        if appliance.ports[role].management:
            what = f"management port `{role}` is listed as detached"
            yield Flaw(("topologies", topology.name, "detached"), what, "it is never switched anyway: remove it")


def _separate(appliance: Appliance, topology: Topology, graph: "nx.Graph[Node]") -> Iterator[Flaw]:
    """No path leads from one segment to another, through the VM's own segments or past it."""
    segment_of = {role: segment.name for segment in appliance.segments.values() for role in segment.ports}
    for component in nx.connected_components(_without_vm(graph)):
        first: dict[str, str] = {}
        for role in sorted(role for kind, role in component if kind == "port" and role in segment_of):
            first.setdefault(segment_of[role], role)
        for one, other in pairwise(first.values()):
            path = nx.shortest_path(_without_vm(graph), ("port", one), ("port", other))
            what = f"joins segments `{segment_of[one]}` and `{segment_of[other]}`: {_spell(path)}"
            yield Flaw(("topologies", topology.name), what, "keep them apart, or declare them one segment")
    yield from _adapters_in_their_segment(appliance, topology, segment_of)


def _adapters_in_their_segment(appliance: Appliance, topology: Topology, segment_of: dict[str, str]) -> Iterator[Flaw]:
    home = {role: switch.segment for switch in appliance.topologies[INSPECT].switches for role in switch.adapters}
    for switch in topology.switches:
        segments = {segment_of.get(role, "") for role in switch.ports} - {""}
        for role in switch.adapters:
            if home.get(role) and segments - {home[role]}:
                what = f"adapter `{role}` inspects segment `{home[role]}`, and stands beside a port of another"
                yield Flaw(_at(topology, switch), what, "keep it in its own segment")


def _no_loop(topology: Topology, graph: "nx.Graph[Node]") -> Iterator[Flaw]:
    for cycle in nx.cycle_basis(graph):
        # Begin at a switch, so that the path reads from something the file has.
        start = next((i for i, node in enumerate(cycle) if node[0] == "switch"), 0)
        ring = [*cycle[start:], *cycle[: start + 1]]
        yield Flaw(("topologies", topology.name), f"a loop: {_spell(ring)}", "frames would circle: take one member out")


def _inspects(appliance: Appliance, topology: Topology, graph: "nx.Graph[Node]") -> Iterator[Flaw]:
    for switch in topology.switches:
        if (len(switch.ports), len(switch.adapters)) != (1, 1):
            what = f"holds {_count(switch.ports, 'port')} and {_count(switch.adapters, 'adapter')}"
            yield Flaw(_at(topology, switch), what, "in `inspect` each switch pairs exactly one port with one adapter")
    past = _without_vm(graph)
    for segment in appliance.segments.values():
        ports = _attached(segment, topology)
        for one, other in pairwise(ports):
            if nx.has_path(past, one, other):
                what = f"ports are connected without the VM: {_spell(nx.shortest_path(past, one, other))}"
                yield Flaw(("topologies", topology.name), what, "in `inspect` all traffic crosses the VM")
            elif not nx.has_path(graph, one, other):
                what = f"{_spell([one])} and {_spell([other])} are not connected through the VM"
                yield Flaw(("topologies", topology.name), what, f"segment `{segment.name}` needs a path between them")


def _bypasses(appliance: Appliance, topology: Topology, graph: "nx.Graph[Node]") -> Iterator[Flaw]:
    past = _without_vm(graph)
    for segment in appliance.segments.values():
        for one, other in pairwise(_attached(segment, topology)):
            if not nx.has_path(past, one, other):
                what = f"{_spell([one])} and {_spell([other])} are not connected"
                if nx.has_path(graph, one, other):
                    what += f" but through {_spell(nx.shortest_path(graph, one, other))}"
                right = f"in `bypass` one switch holds all ports of segment `{segment.name}`"
                yield Flaw(("topologies", topology.name), what, right)


def _attached(segment: Segment, topology: Topology) -> list[Node]:
    return [("port", role) for role in segment.ports if role not in topology.detached]


def _at(topology: Topology, switch: Switch) -> DocumentPath:
    return ("topologies", topology.name, "switches", switch.name)


def _spell(path: Iterable[Node]) -> str:
    return " – ".join("the VM" if kind == "vm" else f"{kind} {name}" for kind, name in path)


def _count(roles: tuple[str, ...], kind: str) -> str:
    names = f" ({', '.join(roles)})" if roles else ""
    return f"{len(roles)} {kind}{'' if len(roles) == 1 else 's'}{names}"
