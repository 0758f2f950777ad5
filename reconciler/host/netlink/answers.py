"""What the kernel answers: bytes to links, addresses and routes. No I/O."""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from socket import inet_ntop
from typing import NamedTuple

from reconciler.host.netlink.rtnetlink import (
    ADDRGENMODES,
    AF_INET6,
    ATTRIBUTE,
    BRIDGE,
    DEVCONF_DISABLE_IPV6,
    IFA_ADDRESS,
    IFA_LOCAL,
    IFADDR,
    IFF_LOWER_UP,
    IFF_NOARP,
    IFF_PROMISC,
    IFF_RUNNING,
    IFF_TAP,
    IFF_UP,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_ALT_IFNAME,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINK,
    IFLA_LINK_NETNSID,
    IFLA_LINKINFO,
    IFLA_LINKMODE,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_OPERSTATE,
    IFLA_PARENT_DEV_BUS_NAME,
    IFLA_PARENT_DEV_NAME,
    IFLA_PERM_ADDRESS,
    IFLA_PROP_LIST,
    IFLA_TUN_PERSIST,
    IFLA_TUN_TYPE,
    IFLA_XDP,
    IFLA_XDP_ATTACHED,
    INET6,
    LINK_MODES,
    MEMBER,
    NDA_LLADDR,
    NDMSG,
    NEXTHOP,
    NEXTHOP_GROUP,
    NHA_GROUP,
    NHA_ID,
    NHA_OIF,
    NTF_EXT_LEARNED,
    NTF_SELF,
    NTF_STICKY,
    NUD_NOARP,
    NUD_PERMANENT,
    RTA_MULTIPATH,
    RTA_NH_ID,
    RTA_OIF,
    RTMSG,
    RTN_UNICAST,
    RTPROT_KERNEL,
    STATES,
    U32,
    USER_HZ_MS,
    WAITING,
    XDP_MODES,
    AttributePlace,
    attributes,
    string,
)
from reconciler.network.state import XEN_BACKEND, Kind, Link, Nic, Setting, Value


class Addresses(NamedTuple):
    """Of one link, with prefix length; of IPv6 less link-local ones."""

    inet: tuple[str, ...] = ()
    inet6: tuple[str, ...] = ()


@dataclass(slots=True)
class RawLink:
    """A link as one message tells it: its master is still an index, its addresses come in other messages."""

    index: int
    name: str
    kind: Kind
    master: int
    lower: int
    settings: dict[Setting, Value]
    type: str = ""
    xdp: str = ""
    altnames: tuple[str, ...] = ()
    pci: str | None = None
    bus: str | None = None
    mac: str | None = None
    carrier: bool = False
    physical: bool = False

    def link(
        self,
        switch: str | None,
        addresses: Addresses,
        lro: bool | None,
        driver: str | None,
        learnt: bool | None = None,
    ) -> Link:
        """The link, with what other messages and the driver told; None where it told nothing."""
        lower = (self.lower,) if self.lower else ()
        identity = (self.index, self.pci, self.mac, driver, self.altnames, self.carrier, self.physical, lower, self.bus)
        settings = {Setting.SWITCH: switch, **self.settings, Setting.ADDRESSES: addresses.inet}
        if lro is not None:
            settings[Setting.LRO] = lro
        if learnt is not None:
            settings[Setting.LEARNT] = learnt
        return Link(self.name, self.kind, settings, nic=Nic(*identity, addresses.inet6, self.xdp))


def link(data: bytes, offset: int, end: int) -> RawLink:
    """The link that an RTM_NEWLINK message tells."""
    _, _, index, flags, _ = IFINFO.unpack_from(data, offset)
    attrs = attributes(data, offset + 16, end)
    settings: dict[Setting, Value] = {
        Setting.UP: bool(flags & IFF_UP),
        Setting.ARP: not flags & IFF_NOARP,
        Setting.PROMISCUOUS: bool(flags & IFF_PROMISC),
        Setting.MARK: string(data, attrs[IFLA_IFALIAS]) if IFLA_IFALIAS in attrs else "",
    }
    if IFLA_MTU in attrs:
        settings[Setting.MTU] = _u32(data, attrs, IFLA_MTU)
    if IFLA_ADDRESS in attrs and attrs[IFLA_ADDRESS][1] - attrs[IFLA_ADDRESS][0] == 6:
        settings[Setting.MAC] = _mac(data, attrs[IFLA_ADDRESS])
    if IFLA_LINKMODE in attrs:
        settings[Setting.LINK_MODE] = _word(LINK_MODES, data[attrs[IFLA_LINKMODE][0]])
    running = bool(flags & IFF_RUNNING)
    kind, type_ = (
        _linkinfo(data, attrs[IFLA_LINKINFO], settings, running) if IFLA_LINKINFO in attrs else (Kind.OTHER, "")
    )
    if flags & IFF_LOWER_UP and kind is not Kind.BRIDGE and IFLA_OPERSTATE in attrs:
        settings[Setting.DORMANT] = data[attrs[IFLA_OPERSTATE][0]] in WAITING
    if IFLA_AF_SPEC in attrs:
        _inet6(data, attrs[IFLA_AF_SPEC], settings)
    lower = _u32(data, attrs, IFLA_LINK) if IFLA_LINK in attrs and IFLA_LINK_NETNSID not in attrs else 0
    raw = RawLink(index, string(data, attrs[IFLA_IFNAME]), kind, _u32(data, attrs, IFLA_MASTER), lower, settings, type_)
    if IFLA_XDP in attrs:
        raw.xdp = _xdp(data, attrs[IFLA_XDP])
    raw.carrier = bool(flags & IFF_LOWER_UP)
    _identity(data, attrs, raw)
    return raw


def _linkinfo(data: bytes, span: tuple[int, int], settings: dict[Setting, Value], running: bool) -> tuple[Kind, str]:
    info = attributes(data, *span)
    kind = Kind.OTHER
    name = string(data, info[IFLA_INFO_KIND]) if IFLA_INFO_KIND in info else ""
    if name == "bridge" and IFLA_INFO_DATA in info:
        kind = Kind.BRIDGE
        _BRIDGE_NEST.read(data, info[IFLA_INFO_DATA], settings)
    elif name == "tun" and IFLA_INFO_DATA in info:
        tun = attributes(data, *info[IFLA_INFO_DATA])
        if IFLA_TUN_TYPE in tun and data[tun[IFLA_TUN_TYPE][0]] == IFF_TAP:
            kind = Kind.TAP
            settings[Setting.PERSISTENT] = bool(data[tun[IFLA_TUN_PERSIST][0]])
    if IFLA_INFO_SLAVE_DATA in info and string(data, info[IFLA_INFO_SLAVE_KIND]) == "bridge":
        _MEMBER_NEST.read(data, info[IFLA_INFO_SLAVE_DATA], settings)
        if not running:
            # Without carrier the kernel disables the membership by itself, and enables it some time after the carrier
            # has come back: when it calls the link running.
            settings.pop(Setting.STATE, None)
    return kind, name


def _xdp(data: bytes, span: tuple[int, int]) -> str:
    attrs = attributes(data, *span)
    return _word(XDP_MODES, data[attrs[IFLA_XDP_ATTACHED][0]]) if IFLA_XDP_ATTACHED in attrs else ""


def _inet6(data: bytes, span: tuple[int, int], settings: dict[Setting, Value]) -> None:
    families = attributes(data, *span)
    if AF_INET6 in families:
        _INET6_NEST.read(data, families[AF_INET6], settings)


class _Nest:
    """Reads settings out of a nest of attributes.

    The kernel writes a nest of one kind and length the same way each time. So the first of each length is searched, and
    what was found becomes one struct that reads all later ones at once, headers included: if these are not what they
    were, the nest is searched as at first. This is half of the time of an observation.
    """

    def __init__(self, wanted: Mapping[Setting, AttributePlace], at: Mapping[Setting, int]) -> None:
        self._wanted = wanted
        self._at = at  # where in its attribute a value stands, if not at the beginning
        self._known: dict[int, tuple[struct.Struct, tuple[int, ...], tuple[Setting, ...]]] = {}

    def read(self, data: bytes, span: tuple[int, int], settings: dict[Setting, Value]) -> None:
        """Add what the nest tells to `settings`."""
        start, end = span
        if end - start < 4:
            return
        layout, headers, present = self._known.get(end - start, _NO_LAYOUT)
        values = layout.unpack_from(data, start)
        if values[::2] != headers:
            layout, headers, present = self._known[end - start] = self._search(data, start, end)
            values = layout.unpack_from(data, start)
        for setting, value in zip(present, values[1::2], strict=True):
            settings[setting] = _VALUE_OF[setting](value) if setting in _VALUE_OF else bool(value)

    def _search(self, data: bytes, start: int, end: int) -> tuple[struct.Struct, tuple[int, ...], tuple[Setting, ...]]:
        attrs = attributes(data, start, end)
        found = sorted(
            (attrs[number][0], width, setting)
            for setting, (_, number, width) in self._wanted.items()
            if number in attrs and attrs[number][0] + self._at.get(setting, 0) + width.size <= attrs[number][1]
        )
        layout, position = "=", start
        for payload, width, setting in found:
            skip = self._at.get(setting, 0)
            layout += f"{payload - 4 - position}xI{skip}x{width.format[1:]}"
            position = payload + skip + width.size
        headers = tuple(U32.unpack_from(data, payload - 4)[0] for payload, _, _ in found)
        return struct.Struct(layout), headers, tuple(setting for _, _, setting in found)


_NO_LAYOUT = (struct.Struct("=I"), (-1,), ())

# What a number means, where it is neither a yes or no nor has to be looked at in `_Nest.read`.
_VALUE_OF: Mapping[Setting, Callable[[int], Value]] = {
    Setting.GROUP_FWD_MASK: int,
    Setting.SWITCH_GROUP_FWD_MASK: int,
    Setting.FDB_MAX_LEARNED: int,
    Setting.AGEING: lambda ticks: ticks * USER_HZ_MS,
    Setting.STATE: lambda number: _word(STATES, number),
    Setting.ADDRGENMODE: lambda number: _word(ADDRGENMODES, number),
    Setting.IPV6: lambda disabled: not disabled,
}


_BRIDGE_NEST = _Nest(BRIDGE, {})
_MEMBER_NEST = _Nest(MEMBER, {})
_INET6_NEST = _Nest(INET6, {Setting.IPV6: 4 * DEVCONF_DISABLE_IPV6})


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if number < len(words) else str(number)


def _identity(data: bytes, attrs: dict[int, tuple[int, int]], raw: RawLink) -> None:
    if IFLA_PERM_ADDRESS in attrs:
        raw.mac = _mac(data, attrs[IFLA_PERM_ADDRESS])
    if IFLA_PARENT_DEV_NAME in attrs:
        if IFLA_PARENT_DEV_BUS_NAME in attrs:
            raw.bus = string(data, attrs[IFLA_PARENT_DEV_BUS_NAME])
        raw.physical = raw.bus != XEN_BACKEND
        if raw.bus == "pci":
            raw.pci = string(data, attrs[IFLA_PARENT_DEV_NAME])
    if IFLA_PROP_LIST in attrs:
        raw.altnames = tuple(_strings(data, attrs[IFLA_PROP_LIST], IFLA_ALT_IFNAME))


def membership(data: bytes, offset: int, end: int) -> tuple[int, int]:
    """Index and master's index of the link that an AF_BRIDGE message tells; master 0 if it has none."""
    index = IFINFO.unpack_from(data, offset)[2]
    return index, _u32(data, attributes(data, offset + 16, end), IFLA_MASTER)


class Fixed(NamedTuple):
    """A station that somebody has fixed; where: an index, of a member or of the switch itself."""

    interface: int
    mac: str
    how: str


def fixed(data: bytes, offset: int, end: int) -> Fixed | None:
    """The station of an AF_BRIDGE RTM_NEWNEIGH message, if it stays until it is taken away; None: frames teach it.

    How: static; external, which a program taught; permanent, which the host itself is: the kernel makes such for the
    addresses of a switch and of its members.
    """
    _, index, state, flags, _ = NDMSG.unpack_from(data, offset)
    how = "permanent" if state & NUD_PERMANENT else "static" if state & NUD_NOARP else ""
    if flags & (NTF_EXT_LEARNED | NTF_STICKY):
        how = "external" if flags & NTF_EXT_LEARNED else "static"
    # What a NIC's own filter lets in is no station of a switch.
    if not how or flags & NTF_SELF:
        return None
    attrs = attributes(data, offset + NDMSG.size, end)
    return Fixed(index, _mac(data, attrs[NDA_LLADDR]), how) if NDA_LLADDR in attrs else None


def learnt(data: bytes, offset: int, end: int) -> int:
    """The member's index, of a station that a bridge has learnt, as an AF_BRIDGE RTM_NEWNEIGH message tells it; else 0.

    What somebody has fixed (static, permanent, or learnt by another program), no flush takes away.
    """
    del end
    _, index, state, flags, _ = NDMSG.unpack_from(data, offset)
    return 0 if state & (NUD_NOARP | NUD_PERMANENT) or flags & NTF_EXT_LEARNED else index


def address(data: bytes, offset: int, end: int) -> tuple[int, str]:
    """Interface index and address with prefix length of an RTM_NEWADDR message."""
    family, prefix, _, _, index = IFADDR.unpack_from(data, offset)
    attrs = attributes(data, offset + 8, end)
    # Of a link with two ends IFA_ADDRESS is the other one; IPv6 tells the local one only where there is another.
    start, stop = attrs[IFA_LOCAL] if IFA_LOCAL in attrs else attrs[IFA_ADDRESS]
    return index, f"{inet_ntop(family, data[start:stop])}/{prefix}"


class Route(NamedTuple):
    """Where a route leads: the indexes of interfaces, or the number of a nexthop object that knows them (else 0).

    `default`: it is one for all addresses, or for half of them: two such take the place of a default route.
    """

    default: bool
    hops: tuple[int, ...]
    nexthop: int


def route(data: bytes, offset: int, end: int) -> Route | None:
    """The route that an RTM_NEWROUTE message tells; None: it leads nowhere, or came by itself with an address."""
    _, prefix, _, _, _, protocol, _, kind, _ = RTMSG.unpack_from(data, offset)
    default = prefix <= 1
    if kind != RTN_UNICAST or (protocol == RTPROT_KERNEL and not default):
        return None
    attrs = attributes(data, offset + 12, end)
    hops: list[int] = [_u32(data, attrs, RTA_OIF)] if RTA_OIF in attrs else []
    if RTA_MULTIPATH in attrs:
        at, stop = attrs[RTA_MULTIPATH]
        while at + 8 <= stop:
            length, _, _, index = NEXTHOP.unpack_from(data, at)
            hops.append(index)
            at += max((length + 3) & ~3, 8)
    # With net.ipv4.nexthop_compat_mode (the default) the kernel tells the interfaces, too.
    return Route(default, tuple(hops), 0 if hops else _u32(data, attrs, RTA_NH_ID))


def nexthop(data: bytes, offset: int, end: int) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Number, interface indexes and members of the nexthop object that an RTM_NEWNEXTHOP message tells.

    A group has members, by their numbers, and no interface of its own; a blackhole has neither.
    """
    attrs = attributes(data, offset + 8, end)
    begin, stop = attrs.get(NHA_GROUP, (0, 0))
    group = tuple(NEXTHOP_GROUP.unpack_from(data, at)[0] for at in range(begin, stop - 7, 8))
    hops = (_u32(data, attrs, NHA_OIF),) if NHA_OIF in attrs else ()
    return _u32(data, attrs, NHA_ID), hops, group


def _strings(data: bytes, span: tuple[int, int], number: int) -> Iterator[str]:
    offset, end = span
    while offset + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        if kind & 0x3FFF == number:
            yield string(data, (offset + 4, offset + length))
        offset += (length + 3) & ~3


def _u32(data: bytes, attrs: dict[int, tuple[int, int]], number: int) -> int:
    value: int = U32.unpack_from(data, attrs[number][0])[0] if number in attrs else 0
    return value


def _mac(data: bytes, span: tuple[int, int]) -> str:
    return data[span[0] : span[1]].hex(":")
