"""What must hold of an appliance's topologies before any of them may touch a wire.

Each topology becomes a graph: ports, switches and adapters are nodes, membership is an edge, and the VM is one node per
segment, joined to the segment's adapters (which wires a VM joins inside is the VM's business; that the *host* joins
none is ours). Then the promises are statements about paths:

- inspect: without the VM no two ports of a segment are connected, with it all are; each switch is one port, one adapter
- bypass: without the VM all ports of a segment are connected
- every topology: no path leads from one segment to another; no cycle (a frame would circle for ever, there is no
  spanning tree here); no management port; every data port has one place, or is detached on purpose

A flaw names the path in the graph that breaks the promise: one path for each part of the graph, and how many
more there are, so that the proof of a large broken file stays linear in its size.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import networkx as nx

from reconciler.appliance.declared import BYPASS, INSPECT, Appliance, Segment, Switch, Topology

Node = tuple[str, str]
Graph: TypeAlias = "nx.Graph[Node]"
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
        past = graph_of(appliance, topology)
        through = _with_vm(appliance, past)
        flaws += _separate(appliance, topology, past)
        flaws += _no_loop(topology, through)
        if topology.name == INSPECT:
            flaws += _inspects(appliance, topology, past, through)
        if topology.name == BYPASS:
            flaws += _bypasses(appliance, topology, past, through)
    return flaws


def graph_of(appliance: Appliance, topology: Topology) -> Graph:
    """What the host joins in a topology, standby switches and resting adapters included, the VM left out."""
    graph: Graph = nx.Graph()
    graph.add_nodes_from(("port", role) for role in appliance.data_ports)
    for switch in (*topology.switches, *topology.standby):
        node = ("switch", switch.name)
        graph.add_node(node)
        graph.add_edges_from((node, ("port", role)) for role in switch.ports)
        graph.add_edges_from((node, ("adapter", role)) for role in switch.adapters)
    return graph


def _with_vm(appliance: Appliance, past: Graph) -> Graph:
    home = _homes(appliance)
    graph = past.copy()
    graph.add_edges_from(
        (node, ("vm", home[role])) for node in past for kind, role in [node] if kind == "adapter" and role in home
    )
    return graph


def _homes(appliance: Appliance) -> dict[str, str]:
    """To which segment each adapter belongs: the one that it inspects."""
    return {role: switch.segment for switch in appliance.topologies[INSPECT].switches for role in switch.adapters}


def _one_segment_per_name(appliance: Appliance) -> Iterator[Flaw]:
    """A switch lies in one segment, in all topologies, or a choice per segment could not be carried out."""
    seen: dict[str, tuple[str, str]] = {}
    for topology in appliance.topologies.values():
        for switch in topology.switches:
            if topology.name != INSPECT and not switch.segment and not switch.ports:
                what = "lies in no segment: it has no port, and no adapter that inspects one"
                yield Flaw(_at(topology, switch), what, "give it a port, or its adapters a place in `inspect`")
            segment, first = seen.setdefault(switch.name, (switch.segment, topology.name))
            if segment != switch.segment:
                what = f"in segment `{switch.segment}` here, in `{segment}` in topology `{first}`"
                yield Flaw(_at(topology, switch), what, "a switch lies in one segment: use another name")


def _places(appliance: Appliance, topology: Topology) -> Iterator[Flaw]:
    """Every data port has exactly one place, every adapter at most one, and no management port has any."""
    held: defaultdict[Node, list[str]] = defaultdict(list)
    for switch in topology.switches:
        for role in switch.ports:
            held["port", role].append(switch.name)
            if appliance.ports[role].management:
                what = f"the management port is in a switch: {_spell([('port', role), ('switch', switch.name)])}"
                yield Flaw(_at(topology, switch), what, "management ports are never switched: remove it")
        for role in switch.adapters:
            held["adapter", role].append(switch.name)
    for role in topology.detached:
        held["port", role].append("detached")
        if appliance.ports[role].management:
            what = f"management port `{role}` is listed as detached"
            yield Flaw(("topologies", topology.name, "detached"), what, "it is never switched anyway: remove it")
    for (kind, role), holders in held.items():
        if len(holders) > 1:
            what = f"{kind} `{role}` has {len(holders)} places: {', '.join(holders[:5])}"
            yield Flaw(("topologies", topology.name), what, "a netdev is in at most one switch: leave one")
    for role in appliance.data_ports:
        if ("port", role) not in held:
            what = f"port `{role}` has no place"
            yield Flaw(("topologies", topology.name), what, "put it into a switch, or list it under `detached`")


def _separate(appliance: Appliance, topology: Topology, past: Graph) -> Iterator[Flaw]:
    """No path leads from one segment to another."""
    part_of = _parts(past)
    first: dict[int, tuple[str, str]] = {}
    joined: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for segment in appliance.segments.values():
        for role in segment.ports:
            one, _ = first.setdefault(part_of["port", role], (segment.name, role))
            if one != segment.name:
                joined[part_of["port", role]].setdefault(segment.name, role)
    for part, others in joined.items():
        one, start = first[part]
        other, end = next(iter(others.items()))
        path = nx.shortest_path(past, ("port", start), ("port", end))
        what = f"joins segments `{one}` and `{other}`: {_spell(path)}" + _and_more(len(others) - 1, "segment")
        yield Flaw(("topologies", topology.name), what, "keep them apart, or declare them one segment")
    yield from _adapters_in_their_segment(appliance, topology)


def _adapters_in_their_segment(appliance: Appliance, topology: Topology) -> Iterator[Flaw]:
    segment_of = {role: segment.name for segment in appliance.segments.values() for role in segment.ports}
    home = _homes(appliance)
    for switch in topology.switches:
        segments = {segment_of.get(role, "") for role in switch.ports} - {""}
        segments |= {switch.segment} - {""}
        for role in switch.adapters:
            if home.get(role) and segments - {home[role]}:
                what = f"adapter `{role}` inspects segment `{home[role]}`, and stands in a switch of another"
                yield Flaw(_at(topology, switch), what, "keep it in its own segment")


def _no_loop(topology: Topology, through: Graph) -> Iterator[Flaw]:
    for part in nx.connected_components(through):
        within = through.subgraph(part)
        # What a tree of as many nodes does not have.
        extra = within.number_of_edges() - within.number_of_nodes() + 1
        if extra:
            # Begin at a switch, so that the path reads from something the file has; the same one in every run.
            start = min(node for node in part if node[0] == "switch")
            cycle = [one for one, *_ in nx.find_cycle(through, start)]
            first = next(index for index, node in enumerate(cycle) if node[0] == "switch")
            ring = [*cycle[first:], *cycle[: first + 1]]
            what = f"a loop: {_spell(ring)}" + _and_more(extra - 1, "loop")
            yield Flaw(("topologies", topology.name), what, "frames would circle: take one member out")


def _inspects(appliance: Appliance, topology: Topology, past: Graph, through: Graph) -> Iterator[Flaw]:
    for switch in topology.switches:
        if (len(switch.ports), len(switch.adapters)) != (1, 1):
            what = f"holds {_count(switch.ports, 'port')} and {_count(switch.adapters, 'adapter')}"
            yield Flaw(_at(topology, switch), what, "in `inspect` each switch pairs exactly one port with one adapter")
    part_past, part_through = _parts(past), _parts(through)
    for segment in appliance.segments.values():
        ports = _attached(segment, topology)
        joined = _by_part(ports, part_past)
        for one, *others in joined:
            if others:
                path = _spell(nx.shortest_path(past, one, others[0]))
                what = f"ports are connected without the VM: {path}" + _and_more(len(others) - 1, "port")
                yield Flaw(("topologies", topology.name), what, "in `inspect` all traffic crosses the VM")
        yield from _apart(topology, segment, _by_part(ports, part_through), "through the VM", "")


def _bypasses(appliance: Appliance, topology: Topology, past: Graph, through: Graph) -> Iterator[Flaw]:
    part_past, part_through = _parts(past), _parts(through)
    for segment in appliance.segments.values():
        islands = _by_part(_attached(segment, topology), part_past)
        but = ""
        if len(islands) > 1 and part_through[islands[0][0]] == part_through[islands[1][0]]:
            but = f" but through {_spell(nx.shortest_path(through, islands[0][0], islands[1][0]))}"
        yield from _apart(topology, segment, islands, "without the VM", but)


def _apart(topology: Topology, segment: Segment, islands: list[list[Node]], how: str, but: str) -> Iterator[Flaw]:
    if len(islands) > 1:
        what = f"{_spell([islands[0][0]])} and {_spell([islands[1][0]])} are not connected {how}{but}"
        right = f"segment `{segment.name}` is one wire: it needs a path between all of its ports"
        yield Flaw(("topologies", topology.name), what + _and_more(len(islands) - 2, "such part"), right)


def _parts(graph: Graph) -> dict[Node, int]:
    """To which connected part of the graph each node belongs."""
    return {node: index for index, part in enumerate(nx.connected_components(graph)) for node in part}


def _by_part(nodes: list[Node], part_of: dict[Node, int]) -> list[list[Node]]:
    groups: defaultdict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        groups[part_of[node]].append(node)
    return list(groups.values())


def _attached(segment: Segment, topology: Topology) -> list[Node]:
    detached = frozenset(topology.detached)
    return [("port", role) for role in segment.ports if role not in detached]


def _at(topology: Topology, switch: Switch) -> DocumentPath:
    return ("topologies", topology.name, "switches", switch.name)


def _spell(path: list[Node]) -> str:
    """The nodes of a path in words; of a long one its two ends."""
    words = ["the VM" if kind == "vm" else f"{kind} {name}" for kind, name in path]
    return " – ".join(words if len(words) <= 12 else [*words[:6], "…", *words[-6:]])


def _and_more(count: int, of_what: str) -> str:
    return f" (and {count} more {of_what}{'' if count == 1 else 's'})" if count else ""


def _count(roles: tuple[str, ...], kind: str) -> str:
    names = f" ({', '.join(roles[:5])})" if roles else ""
    return f"{len(roles)} {kind}{'' if len(roles) == 1 else 's'}{names}"
