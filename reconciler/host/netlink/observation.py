"""Reading the live network: only what is needed, and with the kernel's own filters where it has them."""

import contextlib
import errno
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from reconciler.errors import HostError, TransientError
from reconciler.host.ioctl import Ethtool
from reconciler.host.netlink import answers, requests, rtnetlink
from reconciler.host.netlink.answers import Addresses, Fixed, RawLink
from reconciler.host.netlink.connection import Connection
from reconciler.host.netlink.sockets import Answer, RefusedError
from reconciler.network.state import Kind, Network, Setting, marked_by
from reconciler.network.surroundings import Station

_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge")
_BRIDGE_NETFILTER_NAMES = ("bridge-nf-call-arptables", "bridge-nf-call-ip6tables", "bridge-nf-call-iptables")
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_LINK_LOCAL = re.compile("fe[89ab][0-9a-f]:")  # fe80::/10


class Observer:
    """Looks at the network, again and again.

    The kernel tells most links in the very bytes of the last time: these are decoded once.
    """

    def __init__(self, connection: Connection, ethtool: Ethtool) -> None:
        self._connection = connection
        self._ethtool = ethtool
        self._last: dict[bytes, RawLink] = {}
        self._now: dict[bytes, RawLink] = {}

    def observe(self, names: Collection[str] | None) -> Network:
        """The network as it is: all of it, or what concerns the interfaces `names` (see `Kernel.observe`)."""
        self._last, self._now = self._now, {}
        routes = _routes(self._connection)
        addresses = _addresses(self._connection)
        if names is None:
            found = _Found({raw.index: raw for raw in self._dump(requests.get_links())})
        else:
            found = self._concerning(frozenset(names), routes.default | routes.other | addresses.keys())
        drivers = _drivers(self._ethtool, found.links.values()) if names is None else {}
        learnt, stations = _learnt(self._connection, found.links)
        links = []
        for _, raw in sorted(found.links.items()):
            # An index that nothing is known of belongs to a master that vanished meanwhile: still somebody's.
            switch = found.name_of(raw.master) if raw.master else None
            # Bridges and taps receive nothing from a wire.
            lro = self._ethtool.lro(raw.name) if raw.kind is Kind.OTHER else None
            here = addresses.get(raw.index, Addresses())
            links.append(raw.link(switch, here, lro, drivers.get(raw.index), learnt.get(raw.index)))
        return Network(
            tuple(links),
            found.names_of(routes.default),
            _firewalled(),
            found.names_of(routes.other),
            routes.unresolved,
            tuple(Station(found.name_of(one.interface), one.mac, one.how) for one in stations),
        )

    def decode(self, payload: bytes) -> RawLink:
        """The link that a message tells, which was perhaps decoded before."""
        raw = self._now.get(payload) or self._last.get(payload) or answers.link(payload, 0, len(payload))
        self._now[payload] = raw
        return raw

    def _dump(self, request: bytes) -> Iterator[RawLink]:
        return (self.decode(data[begin:end]) for data, begin, end in self._connection.ask(request, "list links"))

    def _look_up(self, which: Sequence[str | int]) -> Iterator[RawLink]:
        return map(self.decode, self._connection.look_up(which))

    def _concerning(self, names: frozenset[str], in_use: Collection[int]) -> "_Found":
        found = _Found()
        # A kernel that does not know the kind (its module is not loaded) does not filter either.
        for kind, wanted in (("bridge", Kind.BRIDGE), ("tun", Kind.TAP)):
            found.add(raw for raw in self._dump(requests.get_links(kind=kind)) if raw.kind is wanted)
        have = {raw.name for raw in found.links.values()}
        found.add(self._look_up([name for name in names if name not in have]))
        ours = {raw.index for raw in found.links.values() if raw.name in names or marked_by(raw.settings[Setting.MARK])}
        listed = self._connection.ask(requests.get_links(family=rtnetlink.AF_BRIDGE), "list members of bridges")
        members = dict(answers.membership(*answer) for answer in listed)
        strangers = [index for index, master in members.items() if master in ours and index not in found.links]
        found.add(self._look_up(strangers))
        self._descend(found, in_use)
        masters = {raw.master for raw in found.links.values() if raw.master} - found.links.keys()
        found.add(self._look_up(sorted(masters)))
        return found

    def _descend(self, found: "_Found", in_use: Collection[int]) -> None:
        """Add the interfaces with addresses and routes, down to the last VLAN's, bond's or bridge's NIC."""
        seen: set[int] = set()
        level = set(in_use)
        while level:
            seen |= level
            found.add(self._look_up(sorted(level - found.links.keys())))
            below: set[int] = set()
            for index in level & found.links.keys():
                if found.links[index].lower:
                    below.add(found.links[index].lower)
                held = list(self._dump(requests.get_links(master=index)))
                found.add(held)
                below |= {raw.index for raw in held}
            level = below - seen


@dataclass(slots=True)
class _Found:
    links: dict[int, RawLink] = field(default_factory=dict)

    def add(self, raws: Iterable[RawLink]) -> None:
        for raw in raws:
            self.links.setdefault(raw.index, raw)

    def name_of(self, index: int) -> str:
        return self.links[index].name if index in self.links else f"#{index}"

    def names_of(self, indexes: Iterable[int]) -> frozenset[str]:
        return frozenset(self.links[index].name for index in indexes if index in self.links)


def _learnt(connection: Connection, links: Mapping[int, RawLink]) -> tuple[dict[int, bool], list[Fixed]]:
    """Of members that do not learn, of switches with a mark: whether stations are known behind them all the same.

    And those that somebody has fixed. All these are a handful, if any. What a member that learns has learnt may be a
    great many.
    """
    members: dict[int, list[RawLink]] = {}
    for raw in links.values():
        master = links.get(raw.master)
        if master and master.kind is Kind.BRIDGE and marked_by(master.settings[Setting.MARK]):
            members.setdefault(raw.master, []).append(raw)
    found: dict[int, bool] = {}
    fixed: list[Fixed] = []
    own = {raw.settings.get(Setting.MAC) for raw in links.values()}
    for bridge, held in members.items():
        quiet = [raw.index for raw in held if raw.settings.get(Setting.LEARNING) is False]
        # One question is cheaper than two.
        asked = [requests.get_stations(bridge)] if len(quiet) == len(held) else map(_get_stations_behind, quiet)
        listed = [answer for request in asked for answer in _stations(connection, request)]
        behind = {answers.learnt(*answer) for answer in listed}
        found |= {index: index in behind for index in quiet}
        here = {bridge, *quiet}
        fixed += [one for answer in listed if (one := answers.fixed(*answer)) and one.interface in here]
    return found, [one for one in fixed if one.how != "permanent" or one.mac not in own]


def _get_stations_behind(member: int) -> bytes:
    return requests.get_stations(member=member)


def _stations(connection: Connection, request: bytes) -> list[Answer]:
    try:
        return connection.ask(request, "list stations")
    except RefusedError as error:
        if error.errno != errno.ENODEV:
            raise
        raise TransientError("a switch vanished while it was looked at; try again") from None


def _addresses(connection: Connection) -> dict[int, Addresses]:
    found: dict[int, Addresses] = {}
    for answer in connection.ask(requests.get_addresses(rtnetlink.AF_INET), "list addresses"):
        index, address = answers.address(*answer)
        found[index] = Addresses((*found.get(index, Addresses()).inet, address))
    for answer in connection.ask(requests.get_addresses(rtnetlink.AF_INET6), "list addresses"):
        index, address = answers.address(*answer)
        if not _LINK_LOCAL.match(address):
            inet, inet6 = found.get(index, Addresses())
            found[index] = Addresses(inet, (*inet6, address))
    return found


class _Routes(NamedTuple):
    """Indexes of the interfaces that routes lead to; numbers of nexthop objects of which that cannot be said."""

    default: frozenset[int]
    other: frozenset[int]
    unresolved: tuple[int, ...]


def _routes(connection: Connection) -> _Routes:
    default: set[int] = set()
    other: set[int] = set()
    objects: set[tuple[bool, int]] = set()
    for family in (rtnetlink.AF_INET, rtnetlink.AF_INET6):
        for answer in connection.ask(requests.get_routes(family), "list routes"):
            if (route := answers.route(*answer)) is None:
                continue
            (default if route.default else other).update(route.hops)
            if route.nexthop:
                objects.add((route.default, route.nexthop))
    unresolved: list[int] = []
    known = _nexthops(connection) if objects else {}
    for is_default, number in sorted(objects):
        hops = known.get(number, frozenset())
        (default if is_default else other).update(hops)
        if is_default and not hops:
            unresolved.append(number)
    return _Routes(frozenset(default), frozenset(other), tuple(unresolved))


def _nexthops(connection: Connection) -> dict[int, frozenset[int]]:
    """Where each nexthop object leads: indexes of interfaces, through its group, if it is one.

    None are told by a kernel that refuses to, and none for a group of which a member is not told.
    """
    try:
        listed = [
            answers.nexthop(*answer) for answer in connection.ask(requests.get_nexthops(), "list nexthop objects")
        ]
    except HostError:
        return {}
    hops = {number: frozenset(indexes) for number, indexes, _ in listed}
    groups = {number: [hops.get(one, frozenset()) for one in group] for number, _, group in listed if group}
    return hops | {number: frozenset().union(*members) for number, members in groups.items() if all(members)}


def _drivers(ethtool: Ethtool, raws: Iterable[RawLink]) -> dict[int, str]:
    drivers: dict[int, str] = {}
    for raw in raws:
        driver = ethtool.driver(raw.name)
        if driver is None:
            continue
        drivers[raw.index] = driver.name
        # A virtio NIC hangs on the virtio bus, and that on PCI: here the driver tells the address people know.
        if raw.physical and raw.pci is None and _PCI.fullmatch(driver.bus):
            raw.pci = driver.bus
    return drivers


def _firewalled() -> tuple[str, ...]:
    on = []
    for name in _BRIDGE_NETFILTER_NAMES:
        # Not there: br_netfilter is not loaded, and so not on.
        with contextlib.suppress(OSError):
            if (_BRIDGE_NETFILTER / name).read_text(encoding="ascii").strip() != "0":
                on.append(name)
    return tuple(on)
