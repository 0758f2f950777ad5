"""Generated appliances, and fake hosts for them in every state that people and crashes leave hosts in."""

import copy
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import networkx as nx
from fake_kernel import FakeKernel
from hypothesis import strategies as st

from reconciler.appliance.declared import INSPECT, Appliance, Match
from reconciler.appliance.load import load
from reconciler.network.cycle import reconcile
from reconciler.network.desired import choice_of
from reconciler.network.state import Kind, Link, Network, Role, Setting, mark, pinned_mac

FOREIGN = ("docker0", "veth9", "vnet9", "other-sw", "mgmt0", "plain0")


@functools.lru_cache(maxsize=4096)
def appliance_of(text: str) -> Appliance:
    """The appliance of a generated file: it must load and be proven."""
    return load(text.encode(), "generated.yaml")


def appliance(**document: Any) -> Appliance:
    return appliance_of(json.dumps(document))


def two_ports(**more: Any) -> Appliance:
    """The smallest appliance, by names, with two taps; keywords replace sections."""
    return appliance(**two_ports_document(**more))


def two_ports_document(**more: Any) -> dict[str, Any]:
    return {
        "schema": "reconciler/v1",
        "appliance": {"sku": "two"},
        "ports": {
            "mgmt": {"match": {"name": "mgmt0"}, "role": "management"},
            "outside": {"match": {"name": "eth0"}},
            "inside": {"match": {"name": "eth1"}},
        },
        "vm": {"adapters": {"outside": {"tap": "tap0"}, "inside": {"tap": "tap1"}}},
        "topologies": {"inspect": {"pair": "all"}, "bypass": {"join": "all"}},
        **more,
    }


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """An appliance file: 2 to 6 ports, 1 or 2 segments, all kinds of adapters, topologies beyond the required ones."""
    count = draw(st.integers(2, 6))
    roles = [f"p{number}" for number in range(count)]
    cut = draw(st.integers(2, count - 2)) if count >= 4 and draw(st.booleans()) else count
    segments = {"a": roles[:cut], **({"b": roles[cut:]} if cut < count else {})}
    by_name = draw(st.booleans())
    taps = [draw(st.booleans()) for _ in roles]
    topologies: dict[str, Any] = {"inspect": {"pair": "all"}, "bypass": {"join": "all"}}
    if draw(st.booleans()):
        topologies["isolate"] = {"pair": "all", "detached": roles}
    if draw(st.booleans()):
        topologies["mirror"] = {
            "switches": {f"sw-m-{name}": {"ports": ports, "adapters": ports[:1]} for name, ports in segments.items()}
        }
    if draw(st.booleans()):
        # Shares the switches of `bypass`, and turns adapters and ports round in those of `inspect`.
        last = [ports[-1] for ports in segments.values()]
        topologies["partly"] = {
            "switches": {
                f"sw-{ports[0]}": {"ports": ports[:-1], "adapters": [ports[-1]]} for ports in segments.values()
            },
            "detached": last,
        }
    return {
        "schema": "reconciler/v1",
        "appliance": {"sku": draw(st.sampled_from(["sku", "x.1+2"]))},
        "ports": {
            "mgmt": {"match": {"name": "mgmt0"}, "role": "management"},
            **{
                role: {
                    "match": {"name": f"eth{n}"} if by_name else {"pci": f"0000:0{n}:00.0"},
                    "take_over": draw(st.integers(0, 9)) == 0,
                }
                for n, role in enumerate(roles)
            },
        },
        "segments": {
            name: {
                "ports": ports,
                "transparency": draw(st.sampled_from(["wire", "standard"])),
                "mtu": draw(st.sampled_from([1500, 9000])),
                "ageing": draw(st.sampled_from(["300s", "0s"])),
            }
            for name, ports in segments.items()
        },
        "vm": {
            "adapters": {
                role: {"tap": f"tap{n}"} if taps[n] else {"interface": f"vif{n}"} for n, role in enumerate(roles)
            }
        },
        "topologies": topologies,
    }


class World:
    """An appliance, a host for it, and what the segments shall have."""

    def __init__(self, of: Appliance, kernel: FakeKernel, choice: dict[str, str]) -> None:
        kernel.log.clear()
        self.appliance, self.kernel, self.choice = of, kernel, choice

    def __repr__(self) -> str:
        """What a person needs to see why a property failed."""
        adapters = {
            role: ("tap" if one.ours else "if") + f" {one.interface}" for role, one in self.appliance.adapters.items()
        }
        lines = [f"{link.name} {link.kind} in {link.switch}" for link in self.kernel.observe().links]
        topologies = {name: one.switches for name, one in self.appliance.topologies.items()}
        return f"World({self.choice=} {adapters=}\n{topologies=}\n" + "\n".join(lines) + ")"


def host(of: Appliance) -> FakeKernel:
    """A host that has what the appliance's file says, and things of others, and was never reconciled."""
    kernel = FakeKernel()
    kernel.add("lo", mac="00:00:00:00:00:00", mtu=65536, up=True, addresses=("127.0.0.1/8",))
    kernel.add("mgmt0", nic=_nic(99), up=True, addresses=("192.0.2.1/24",))
    kernel.default_route.add("mgmt0")
    for number, port in enumerate(port for port in of.ports.values() if not port.management):
        kernel.add(port.match.name or f"eth{number}", nic=_nic(number), up=True)
    for adapter in of.adapters.values():
        if not adapter.ours:
            kernel.add(adapter.interface, up=True)
    kernel.add("docker0", Kind.BRIDGE, up=True, addresses=("172.17.0.1/16",))
    kernel.add("veth9", switch="docker0", up=True)
    kernel.add("vnet9", Kind.TAP, mark="somebody's")
    kernel.add("other-sw", Kind.BRIDGE, mark=mark("other", Role("switch", "other-sw")))
    kernel.add("plain0", nic=_nic(98))
    return kernel


def _nic(number: int) -> dict[str, Any]:
    return {
        "pci": f"0000:0{number}:00.0" if number < 10 else f"0000:{number}:00.0",
        "mac": f"02:00:00:00:aa:{number:02x}",
        "driver": "igb",
        "physical": True,
    }


def converge(kernel: FakeKernel, of: Appliance, choice: dict[str, str]) -> None:
    """Reconcile; the host must allow it."""
    report = reconcile(kernel, of, choice)
    assert report.converged, report


@st.composite
def choices(draw: st.DrawFn, of: Appliance) -> dict[str, str]:
    return {segment: draw(st.sampled_from(sorted(of.topologies))) for segment in of.segments}


@st.composite
def converged_worlds(draw: st.DrawFn) -> World:
    """A host that is as some choice wants it, and another choice to go to."""
    of = appliance(**draw(documents()))
    kernel = host(of)
    converge(kernel, of, draw(choices(of)))
    return World(of, kernel, draw(choices(of)))


@st.composite
def worlds(draw: st.DrawFn, *, refusals: bool = True) -> World:
    """A host in any state. Without `refusals`, in none in which something must be refused."""
    of = appliance(**draw(documents()))
    kernel = host(of)
    if draw(st.booleans()):
        converge(kernel, of, draw(choices(of)))
    hands = [*HANDS, *(REFUSED_HANDS if refusals else ())]
    for hand in draw(st.lists(st.sampled_from(hands), max_size=6)):
        hand(draw, of, kernel)
    return World(of, kernel, draw(choices(of)))


# --- hands that tamper -----------------------------------------------------------------------------------------------

Hand = Callable[[st.DrawFn, Appliance, FakeKernel], None]
_VALUES: dict[Setting, list[Any]] = {
    Setting.MTU: [68, 1400, 9000],
    Setting.MAC: ["02:99:99:99:99:99"],
    Setting.ADDRGENMODE: ["eui64", "random", "none"],
    Setting.ADDRESSES: [("10.0.0.1/8",), ("10.0.0.1/8", "10.0.0.2/8")],
    Setting.AGEING: [0, 10],
    Setting.FDB_MAX_LEARNED: [0, 5],
    Setting.SWITCH_GROUP_FWD_MASK: [0xFFF8],
    Setting.GROUP_FWD_MASK: [0, 0xFFFD, 8],
    Setting.STATE: ["disabled", "blocking"],
}
# A tap or switch with these tampered is not known as ours any more.
_IDENTITY = (Setting.MARK, Setting.MAC)


def matching(match: Match, network: Network) -> list[Link]:
    """What generated matches find: they give a PCI address or a name."""
    return [
        link for link in network.links if link.nic and (match.name == link.name or match.pci == (link.nic.pci or 0))
    ]


def names_of_ports(of: Appliance, network: Network) -> list[str]:
    """Live names of the data ports that can be told."""
    found = [matching(of.ports[role].match, network) for role in of.data_ports]
    return [links[0].name for links in found if len(links) == 1]


def owned(of: Appliance, kernel: FakeKernel) -> list[str]:
    """Names of what is this appliance's to change."""
    network = kernel.observe()
    made = [link.name for link in network.links if str(link.settings[Setting.MARK]).startswith(f"reconciler:{of.sku}:")]
    adapters = [adapter.interface for adapter in of.adapters.values() if kernel.named(adapter.interface)]
    return sorted({*made, *adapters, *names_of_ports(of, network)})


def _switches(of: Appliance, kernel: FakeKernel) -> list[str]:
    return [name for name in owned(of, kernel) if kernel[name].kind is Kind.BRIDGE]


def twist(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Give one setting another value."""
    device = kernel[draw(st.sampled_from(owned(of, kernel)))]
    seen = kernel.observe().by_name[device.name].settings
    hidden = {Setting.LEARNT} - seen.keys()
    able = [one for one in device.settings if one not in (*_IDENTITY, *hidden, Setting.PERSISTENT)]
    if device.kind is Kind.OTHER:
        able.append(Setting.MAC)
        # See `dwell`.
        able.remove(Setting.ADDRESSES)
    setting = draw(st.sampled_from(able))
    if setting is Setting.UP:
        kernel.set_up(device, not device.settings[setting])
        return
    old = device.settings[setting]
    device.settings[setting] = draw(st.sampled_from(_VALUES[setting])) if setting in _VALUES else not old


def move(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Put a port or an adapter elsewhere, or nowhere."""
    movable = [name for name in owned(of, kernel) if kernel[name].kind is not Kind.BRIDGE]
    targets = [None, *_switches(of, kernel)]
    target = draw(st.sampled_from(targets))
    kernel.enslave(kernel[draw(st.sampled_from(movable))], kernel[target].index if target else 0)


def lose(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Delete a switch or a tap of ours, or a hypervisor's interface."""
    ports = names_of_ports(of, kernel.observe())
    if gone := [name for name in owned(of, kernel) if name not in ports]:
        kernel.remove(draw(st.sampled_from(gone)))


def rename(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    if (found := _switches(of, kernel)) and kernel.named("renamed0") is None:
        kernel.rename(draw(st.sampled_from(found)), "renamed0")


def unmark(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """As a process leaves a switch that died between making and marking it."""
    if found := [name for name in _switches(of, kernel) if kernel[name].settings[Setting.MAC] == _pinned(of, name)]:
        device = kernel[draw(st.sampled_from(found))]
        device.settings[Setting.MARK] = ""
        # Nothing has gone through it yet.
        for member in kernel.devices.values():
            if member.master == device.index:
                member.settings[Setting.LEARNT] = False


def _pinned(of: Appliance, name: str) -> str:
    return pinned_mac(of.sku, Role("switch", name))


def intrude(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Put a stranger into a switch of ours."""
    if (found := _switches(of, kernel)) and kernel.named("stranger0") is None:
        kernel.add("stranger0", switch=draw(st.sampled_from(found)), up=True)


def litter(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Leave something with our mark that nobody declares, perhaps with a port in it."""
    kind, name = draw(st.sampled_from([(Kind.BRIDGE, "old-sw"), (Kind.TAP, "old-tap"), (Kind.BRIDGE, "old-sw2")]))
    if kernel.named(name) is None:
        kernel.add(name, kind, mark=mark(of.sku, Role("switch" if kind is Kind.BRIDGE else "adapter", name)))
        ports = names_of_ports(of, kernel.observe())
        if kind is Kind.BRIDGE and ports and draw(st.booleans()):
            kernel.enslave(kernel[draw(st.sampled_from(ports))], kernel[name].index)


HANDS: list[Hand] = [twist, twist, move, move, lose, rename, unmark, intrude, litter]


def pull(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Take a NIC out of the machine."""
    if ports := names_of_ports(of, kernel.observe()):
        kernel.remove(draw(st.sampled_from(ports)))


def occupy(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Put a port or a hypervisor's interface into somebody else's bridge."""
    able = [name for name in owned(of, kernel) if kernel[name].kind is Kind.OTHER]
    if able:
        kernel.enslave(kernel[draw(st.sampled_from(able))], kernel["docker0"].index)


def reroute(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Lead a default route over a port."""
    if ports := names_of_ports(of, kernel.observe()):
        kernel.default_route.add(draw(st.sampled_from(ports)))


def dwell(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Use a port or a hypervisor's interface: a reason to leave it alone, unless it is part of a wire already."""
    able = [name for name in owned(of, kernel) if kernel[name].kind is Kind.OTHER]
    if able:
        device = kernel[draw(st.sampled_from(able))]
        match draw(st.sampled_from(["inet", "inet6", "route"])):
            case "inet":
                device.settings[Setting.ADDRESSES] = draw(st.sampled_from(_VALUES[Setting.ADDRESSES]))
            case "inet6" if device.settings[Setting.IPV6]:
                device.nic["inet6"] = ("2001:db8::1/64",)
            case _:
                kernel.routed.add(device.name)


def squat(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Take the name of a switch or tap for something else."""
    names = [switch.name for topology in of.topologies.values() for switch in topology.switches]
    names += [adapter.interface for adapter in of.adapters.values() if adapter.ours]
    if free := sorted({name for name in names if kernel.named(name) is None}):
        kernel.add(draw(st.sampled_from(free)), draw(st.sampled_from(list(Kind))))


def trap(draw: st.DrawFn, of: Appliance, kernel: FakeKernel) -> None:
    """Put the management port into a switch of ours."""
    if found := _switches(of, kernel):
        kernel.enslave(kernel["mgmt0"], kernel[draw(st.sampled_from(found))].index)


REFUSED_HANDS: list[Hand] = [pull, occupy, reroute, dwell, dwell, squat, trap]


# --- what a frame could do -------------------------------------------------------------------------------------------


def ways(of: Appliance, network: Network) -> "nx.Graph[tuple[str, str]]":
    """Where frames can go: ports, switches and adapters, and the VM as one node per segment."""
    graph: nx.Graph[tuple[str, str]] = nx.Graph()
    home = {role: s.segment for s in of.topologies[INSPECT].switches for role in s.adapters}
    bridges = {link.name for link in network.links if link.kind is Kind.BRIDGE}
    for link in network.links:
        if link.switch in bridges:
            graph.add_edge(("link", link.name), ("switch", str(link.switch)))
    for role, adapter in of.adapters.items():
        if adapter.interface in network.by_name and role in home:
            graph.add_edge(("link", adapter.interface), ("vm", home[role]))
    return graph


def has_loop(of: Appliance, network: Network) -> bool:
    return not nx.is_forest(graph) if (graph := ways(of, network)) else False


def joined_segments(of: Appliance, network: Network) -> bool:
    """Whether a frame could get from a port of one segment to a port of another."""
    graph = ways(of, network)
    for nodes in nx.connected_components(graph):
        names = {name for kind, name in nodes if kind == "link"}
        found = {
            segment.name
            for segment in of.segments.values()
            for role in segment.ports
            for link in matching(of.ports[role].match, network)
            if link.name in names
        }
        if len(found) > 1:
            return True
    return False


def prefixes(world: World) -> Iterator[int]:
    """Every number of operations after which a process could die."""
    rehearsal = copy.deepcopy(world.kernel)
    reconcile(rehearsal, world.appliance, world.choice)
    yield from range(len(rehearsal.log))


def inspect_of(of: Appliance) -> dict[str, str]:
    return choice_of(of)
