"""What is asked of the kernel about links, addresses and routes. No I/O."""

from reconciler.host.netlink.rtnetlink import (
    AF_BRIDGE,
    AF_UNSPEC,
    IFADDR,
    IFINFO,
    IFLA_ALT_IFNAME,
    IFLA_EXT_MASK,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    NDA_MASTER,
    NDMSG,
    NHMSG,
    NLM_F_DUMP,
    RTEXT_FILTER_SKIP_STATS,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETNEXTHOP,
    RTM_GETQDISC,
    RTM_GETROUTE,
    RTM_GETTFILTER,
    RTMSG,
    TCMSG,
    U32,
    attribute,
    message,
)


def get_links(family: int = AF_UNSPEC, kind: str | None = None, master: int = 0) -> bytes:
    """A dump of links; the kernel filters by kind and by master, and leaves the counters out."""
    payload = IFINFO.pack(family, 0, 0, 0, 0)
    if family == AF_UNSPEC:
        payload += attribute(IFLA_EXT_MASK, U32.pack(RTEXT_FILTER_SKIP_STATS))
    if kind:
        payload += attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode()))
    if master:
        payload += attribute(IFLA_MASTER, U32.pack(master))
    return message(RTM_GETLINK, NLM_F_DUMP, payload)


def get_link(which: str | int) -> bytes:
    """One link by name (alternative names, too) or by index."""
    mask = attribute(IFLA_EXT_MASK, U32.pack(RTEXT_FILTER_SKIP_STATS))
    if isinstance(which, int):
        return message(RTM_GETLINK, 0, IFINFO.pack(AF_UNSPEC, 0, which, 0, 0) + mask)
    name = attribute(IFLA_ALT_IFNAME, which.encode() + b"\0")
    return message(RTM_GETLINK, 0, IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + mask + name)


def get_addresses(family: int) -> bytes:
    """A dump of all addresses of a family."""
    return message(RTM_GETADDR, NLM_F_DUMP, IFADDR.pack(family, 0, 0, 0, 0))


def get_routes(family: int) -> bytes:
    """A dump of all routes of a family."""
    return message(RTM_GETROUTE, NLM_F_DUMP, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def get_stations(bridge: int = 0, member: int = 0) -> bytes:
    """A dump of the stations that a bridge knows, or those behind one member; by their indexes."""
    master = attribute(NDA_MASTER, U32.pack(bridge)) if bridge else b""
    return message(RTM_GETNEIGH, NLM_F_DUMP, NDMSG.pack(AF_BRIDGE, member, 0, 0, 0) + master)


def get_nexthops() -> bytes:
    """A dump of all nexthop objects (Linux 5.3)."""
    return message(RTM_GETNEXTHOP, NLM_F_DUMP, NHMSG.pack(AF_UNSPEC, 0, 0, 0))


def get_disciplines() -> bytes:
    """A dump of all queueing disciplines of traffic control."""
    return message(RTM_GETQDISC, NLM_F_DUMP, TCMSG.pack(AF_UNSPEC, 0, 0, 0, 0))


def get_filters(interface: int, parent: int) -> bytes:
    """A dump of the filters at a place of an interface: a discipline's handle, or one of the hooks."""
    return message(RTM_GETTFILTER, NLM_F_DUMP, TCMSG.pack(AF_UNSPEC, interface, 0, parent, 0))
