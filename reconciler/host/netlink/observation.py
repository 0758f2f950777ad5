"""Reading the live network: only what is needed, and with the kernel's own filters where it has them."""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.host.ioctl import Ethtool
from reconciler.host.netlink import answers, requests, rtnetlink
from reconciler.host.netlink.answers import RawLink
from reconciler.host.netlink.connection import Connection
from reconciler.network.state import Kind, Network, Setting, marked_by

_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge")
_BRIDGE_NETFILTER_NAMES = ("bridge-nf-call-arptables", "bridge-nf-call-ip6tables", "bridge-nf-call-iptables")
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")


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
        uplinks = _default_routes(self._connection)
        if names is None:
            found = _Found({raw.index: raw for raw in self._dump(requests.get_links())})
        else:
            found = self._concerning(frozenset(names), uplinks)
        addresses = _addresses(self._connection)
        drivers = _drivers(self._ethtool, found.links.values()) if names is None else {}
        links = []
        for _, raw in sorted(found.links.items()):
            # An index that nothing is known of belongs to a master that vanished meanwhile: still somebody's.
            switch = found.name_of(raw.master) if raw.master else None
            # Bridges and taps receive nothing from a wire.
            lro = self._ethtool.lro(raw.name) if raw.kind is Kind.OTHER else None
            links.append(raw.link(switch, addresses.get(raw.index, ()), lro, drivers.get(raw.index)))
        routes = frozenset(found.links[index].name for index in uplinks if index in found.links)
        return Network(tuple(links), routes, _firewalled())

    def _decode(self, payload: bytes) -> RawLink:
        raw = self._last.get(payload) or answers.link(payload, 0, len(payload))
        self._now[payload] = raw
        return raw

    def _dump(self, request: bytes) -> Iterator[RawLink]:
        return (self._decode(data[begin:end]) for data, begin, end in self._connection.dump(request))

    def _look_up(self, which: Sequence[str | int]) -> Iterator[RawLink]:
        return map(self._decode, self._connection.look_up(which))

    def _concerning(self, names: frozenset[str], uplinks: Collection[int]) -> "_Found":
        found = _Found()
        # A kernel that does not know the kind (its module is not loaded) does not filter either.
        for kind, wanted in (("bridge", Kind.BRIDGE), ("tun", Kind.TAP)):
            found.add(raw for raw in self._dump(requests.get_links(kind=kind)) if raw.kind is wanted)
        have = {raw.name for raw in found.links.values()}
        found.add(self._look_up([name for name in names if name not in have]))
        ours = {raw.index for raw in found.links.values() if raw.name in names or marked_by(raw.settings[Setting.MARK])}
        told = self._connection.dump(requests.get_links(family=rtnetlink.AF_BRIDGE))
        members = dict(answers.membership(*answer) for answer in told)
        strangers = [index for index, master in members.items() if master in ours and index not in found.links]
        found.add(self._look_up(strangers))
        self._descend(found, uplinks)
        masters = {raw.master for raw in found.links.values() if raw.master} - found.links.keys()
        found.add(self._look_up(sorted(masters)))
        return found

    def _descend(self, found: "_Found", uplinks: Collection[int]) -> None:
        """Add the interfaces that default routes lead over, down to the last VLAN's, bond's or bridge's NIC."""
        seen: set[int] = set()
        level = set(uplinks)
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


def _addresses(connection: Connection) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for answer in connection.dump(requests.get_addresses()):
        index, address = answers.address(*answer)
        found[index] = (*found.get(index, ()), address)
    return found


def _default_routes(connection: Connection) -> frozenset[int]:
    hops: set[int] = set()
    for family in (rtnetlink.AF_INET, rtnetlink.AF_INET6):
        for answer in connection.dump(requests.get_routes(family)):
            hops.update(answers.default_route(*answer))
    return frozenset(hops)


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
