"""rtnetlink's numbers and framing: messages, attributes, and which attribute holds which setting. No I/O.

Why not pyroute2 for what is read: decoding one link with it takes 190 to 750 µs, and importing it as long as a whole
dry run takes, where an observation of 64 ports has 25 ms (bench/README.md). These modules know the two dozen attributes
that are reconciled and nothing else. What is written, pyroute2 encodes (`changes`).

Numbers are those of linux/rtnetlink.h, nexthop.h, neighbour.h, if_link.h, if_bridge.h, if_tun.h and ipv6.h. Tests
compare them with pyroute2's, and what is read with what it reads.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from reconciler.network.state import Setting

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_GETNEIGH = 30
RTM_GETQDISC, RTM_GETTFILTER = 38, 46
RTM_GETSTATS = 94
RTM_NEWNEXTHOP, RTM_GETNEXTHOP = 104, 106
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x10, 0x300, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
IFF_UP, IFF_RUNNING, IFF_NOARP, IFF_PROMISC, IFF_LOWER_UP = 0x1, 0x40, 0x80, 0x100, 0x10000
RTN_UNICAST, RTPROT_KERNEL = 1, 2
RTEXT_FILTER_SKIP_STATS = 8
USER_HZ_MS = 10  # a bridge counts its ageing time in hundredths of a second

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_OPERSTATE, IFLA_LINKMODE = 16, 17
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 18, 20, 26, 29, 37
IFLA_PROP_LIST, IFLA_ALT_IFNAME, IFLA_PERM_ADDRESS = 52, 53, 54
IFLA_PARENT_DEV_NAME, IFLA_PARENT_DEV_BUS_NAME = 56, 57
IFLA_XDP, IFLA_XDP_ATTACHED = 43, 2
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_INET6_CONF, IFLA_INET6_ADDR_GEN_MODE, DEVCONF_DISABLE_IPV6 = 2, 8, 26
IFLA_TUN_TYPE, IFLA_TUN_PERSIST, IFF_TAP = 3, 6, 2
IFA_ADDRESS, IFA_LOCAL = 1, 2
NDA_MASTER, NDA_LLADDR, NUD_NOARP, NUD_PERMANENT = 9, 2, 0x40, 0x80
NTF_SELF, NTF_EXT_LEARNED, NTF_STICKY = 0x2, 0x10, 0x40
RTA_OIF, RTA_MULTIPATH, RTA_NH_ID = 4, 9, 30
NHA_ID, NHA_GROUP, NHA_OIF = 1, 2, 5

HEADER = struct.Struct("=LHHLL")
IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
NDMSG = struct.Struct("=BxxxiHBB")
TCMSG = struct.Struct("=BxxxiIII")
RTMSG = struct.Struct("=BBBBBBBBI")
ATTRIBUTE = struct.Struct("=HH")
NEXTHOP = struct.Struct("=HBBi")
NHMSG = struct.Struct("=BBBxI")
NEXTHOP_GROUP = struct.Struct("=IBBH")
U16, U32 = struct.Struct("=H"), struct.Struct("=I")
U8 = struct.Struct("=B")

ADDRGENMODES = ("eui64", "none", "stable_secret", "random")
LINK_MODES = ("default", "dormant", "testing")
# RFC 2863: what has a carrier and waits for somebody (IF_OPER_TESTING, IF_OPER_DORMANT).
WAITING = frozenset({4, 5})
XDP_MODES = ("", "driver", "generic", "hardware", "several")
STATES = ("disabled", "listening", "learning", "forwarding", "blocking")


class AttributePlace(NamedTuple):
    """Which attribute holds a setting: its name, by which pyroute2 writes it, and its number and width, to read it."""

    name: str
    number: int
    width: struct.Struct


# Of a bridge, of a membership in one, and of IPv6 on a link.
BRIDGE: Mapping[Setting, AttributePlace] = {
    Setting.AGEING: AttributePlace("IFLA_BR_AGEING_TIME", 4, U32),
    Setting.STP: AttributePlace("IFLA_BR_STP_STATE", 5, U32),
    Setting.VLAN_FILTERING: AttributePlace("IFLA_BR_VLAN_FILTERING", 7, U8),
    Setting.SWITCH_GROUP_FWD_MASK: AttributePlace("IFLA_BR_GROUP_FWD_MASK", 9, U16),
    Setting.MULTICAST_SNOOPING: AttributePlace("IFLA_BR_MCAST_SNOOPING", 23, U8),
    Setting.NF_CALL_IPTABLES: AttributePlace("IFLA_BR_NF_CALL_IPTABLES", 36, U8),
    Setting.NF_CALL_IP6TABLES: AttributePlace("IFLA_BR_NF_CALL_IP6TABLES", 37, U8),
    Setting.NF_CALL_ARPTABLES: AttributePlace("IFLA_BR_NF_CALL_ARPTABLES", 38, U8),
    Setting.FDB_MAX_LEARNED: AttributePlace("IFLA_BR_FDB_MAX_LEARNED", 49, U32),
}
MEMBER: Mapping[Setting, AttributePlace] = {
    Setting.STATE: AttributePlace("IFLA_BRPORT_STATE", 1, U8),
    Setting.HAIRPIN: AttributePlace("IFLA_BRPORT_MODE", 4, U8),
    Setting.BPDU_GUARD: AttributePlace("IFLA_BRPORT_GUARD", 5, U8),
    Setting.ROOT_BLOCK: AttributePlace("IFLA_BRPORT_PROTECT", 6, U8),
    Setting.LEARNING: AttributePlace("IFLA_BRPORT_LEARNING", 8, U8),
    Setting.FLOOD: AttributePlace("IFLA_BRPORT_UNICAST_FLOOD", 9, U8),
    Setting.PROXY_ARP: AttributePlace("IFLA_BRPORT_PROXYARP", 10, U8),
    Setting.MULTICAST_FLOOD: AttributePlace("IFLA_BRPORT_MCAST_FLOOD", 27, U8),
    Setting.BROADCAST_FLOOD: AttributePlace("IFLA_BRPORT_BCAST_FLOOD", 30, U8),
    Setting.GROUP_FWD_MASK: AttributePlace("IFLA_BRPORT_GROUP_FWD_MASK", 31, U16),
    Setting.NEIGHBOUR_SUPPRESSION: AttributePlace("IFLA_BRPORT_NEIGH_SUPPRESS", 32, U8),
    Setting.ISOLATED: AttributePlace("IFLA_BRPORT_ISOLATED", 33, U8),
    Setting.LOCKED: AttributePlace("IFLA_BRPORT_LOCKED", 39, U8),
}
INET6: Mapping[Setting, AttributePlace] = {
    Setting.IPV6: AttributePlace("IFLA_INET6_CONF", IFLA_INET6_CONF, U32),
    Setting.ADDRGENMODE: AttributePlace("IFLA_INET6_ADDR_GEN_MODE", IFLA_INET6_ADDR_GEN_MODE, U8),
}
FLAGS: Mapping[Setting, tuple[int, bool]] = {
    Setting.UP: (IFF_UP, True),
    Setting.ARP: (IFF_NOARP, False),
    Setting.PROMISCUOUS: (IFF_PROMISC, True),
}


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Type, flags, sequence number, begin and end of the payload of each message in a datagram."""
    offset, size = 0, len(data)
    while offset + 16 <= size:
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, flags, sequence, offset + 16, offset + length
        offset += (length + 3) & ~3


def attributes(data: bytes, offset: int, end: int) -> dict[int, tuple[int, int]]:
    """Begin and end of each attribute's payload, by its number."""
    found: dict[int, tuple[int, int]] = {}
    unpack = ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = (offset + 4, offset + length)
        offset += (length + 3) & ~3
    return found


def failure(kind: int, data: bytes, offset: int, end: int, flags: int) -> tuple[int, str]:
    """The errno (0: none) and the kernel's own words of a message that ends an answer: NLMSG_ERROR or NLMSG_DONE."""
    if end - offset < 4:
        return 0, ""
    code = -struct.unpack_from("=i", data, offset)[0]
    if not flags & NLM_F_ACK_TLVS:
        return code, ""
    echoed = 0
    if kind == NLMSG_ERROR:
        # The message that it is about: its header, or all of it.
        echoed = 16 if flags & NLM_F_CAPPED else (HEADER.unpack_from(data, offset + 4)[0] + 3) & ~3
    attrs = attributes(data, offset + 4 + echoed, end)
    return code, string(data, attrs[NLMSGERR_ATTR_MSG]) if NLMSGERR_ATTR_MSG in attrs else ""


def string(data: bytes, span: tuple[int, int]) -> str:
    """The text of an attribute; bytes that are no UTF-8 are escaped."""
    return data[span[0] : span[1]].split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def attribute(number: int, payload: bytes) -> bytes:
    """An attribute, padded."""
    return ATTRIBUTE.pack(len(payload) + 4, number) + payload + b"\0" * (-len(payload) % 4)


def message(kind: int, flags: int, payload: bytes) -> bytes:
    """A request; its sequence number is the sender's to fill in."""
    return HEADER.pack(len(payload) + 16, kind, flags | NLM_F_REQUEST, 0, 0) + payload


def numbered(messages: Sequence[bytes], first: int = 0) -> bytes:
    """Messages, one behind the other, with sequence numbers from `first` on."""
    return b"".join(one[:8] + U32.pack(number) + one[12:] for number, one in enumerate(messages, first))
