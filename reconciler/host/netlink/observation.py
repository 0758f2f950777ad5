"""Reading the live network: only what is needed, and with the kernel's own filters where it has them."""

import contextlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.host import ioctl
from reconciler.host.netlink import codec
from reconciler.host.netlink.codec import RawLink
from reconciler.host.netlink.connection import Connection
from reconciler.network.state import Kind, Network, Setting, marked_by

_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge")
_BRIDGE_NETFILTER_NAMES = ("bridge-nf-call-arptables", "bridge-nf-call-ip6tables", "bridge-nf-call-iptables")
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")


def observe(connection: Connection, names: Collection[str] | None) -> Network:
    """The network as it is: all of it, or what concerns the interfaces `names` (see `Kernel.observe`)."""
    uplinks = _default_routes(connection)
    if names is None:
        raws = [codec.link(*answer) for answer in connection.dump(codec.get_links())]
        found = _Found({raw.index: raw for raw in raws})
    else:
        found = _concerning(connection, frozenset(names), uplinks)
    addresses = _addresses(connection)
    drivers = _drivers(found.links.values()) if names is None else {}
    links = []
    for raw in found.links.values():
        # An index that nothing is known of belongs to a master that vanished meanwhile: still somebody's.
        switch = found.name_of(raw.master) if raw.master else None
        links.append(raw.link(switch, addresses.get(raw.index, ()), drivers.get(raw.index)))
    routes = frozenset(found.links[index].name for index in uplinks if index in found.links)
    return Network(tuple(sorted(links, key=lambda link: link.nic.index if link.nic else 0)), routes, _firewalled())


@dataclass(slots=True)
class _Found:
    links: dict[int, RawLink] = field(default_factory=dict)

    def add(self, raws: Iterable[RawLink]) -> list[RawLink]:
        new = [raw for raw in raws if raw.index not in self.links]
        self.links.update((raw.index, raw) for raw in new)
        return new

    def name_of(self, index: int) -> str:
        return self.links[index].name if index in self.links else f"#{index}"


def _concerning(connection: Connection, names: frozenset[str], uplinks: Collection[int]) -> _Found:
    found = _Found()
    # A kernel that does not know the kind (its module is not loaded) does not filter either.
    for kind, wanted in (("bridge", Kind.BRIDGE), ("tun", Kind.TAP)):
        raws = (codec.link(*answer) for answer in connection.dump(codec.get_links(kind=kind)))
        found.add(raw for raw in raws if raw.kind is wanted)
    have = {raw.name for raw in found.links.values()}
    found.add(connection.look_up([name for name in names if name not in have]))
    ours = {raw.index for raw in found.links.values() if raw.name in names or marked_by(raw.settings[Setting.MARK])}
    answers = connection.dump(codec.get_links(family=codec.AF_BRIDGE))
    members = dict(codec.membership(*answer) for answer in answers)
    strangers = [index for index, master in members.items() if master in ours and index not in found.links]
    found.add(connection.look_up(strangers))
    _descend(connection, found, uplinks)
    masters = {raw.master for raw in found.links.values() if raw.master} - found.links.keys()
    found.add(connection.look_up(sorted(masters)))
    return found


def _descend(connection: Connection, found: _Found, uplinks: Collection[int]) -> None:
    """Add the interfaces that default routes lead over, down to the last VLAN's, bond's or bridge's NIC."""
    seen: set[int] = set()
    level = set(uplinks)
    while level:
        seen |= level
        found.add(connection.look_up(sorted(level - found.links.keys())))
        below: set[int] = set()
        for index in level & found.links.keys():
            if found.links[index].lower:
                below.add(found.links[index].lower)
            held = [codec.link(*answer) for answer in connection.dump(codec.get_links(master=index))]
            found.add(held)
            below |= {raw.index for raw in held}
        level = below - seen


def _addresses(connection: Connection) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for answer in connection.dump(codec.get_addresses()):
        index, address = codec.address(*answer)
        found[index] = (*found.get(index, ()), address)
    return found


def _default_routes(connection: Connection) -> frozenset[int]:
    hops: set[int] = set()
    for family in (codec.AF_INET, codec.AF_INET6):
        for answer in connection.dump(codec.get_routes(family)):
            hops.update(codec.default_route(*answer))
    return frozenset(hops)


def _drivers(raws: Iterable[RawLink]) -> dict[int, str]:
    drivers: dict[int, str] = {}
    with ioctl.DriverInfo() as info:
        for raw in raws:
            driver = info.of(raw.name)
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
