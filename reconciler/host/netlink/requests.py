"""What is asked of the kernel: look-ups, and operations to bytes. No I/O."""

import struct
from collections.abc import Callable, Mapping
from socket import inet_pton
from typing import Any

from reconciler.host.netlink.rtnetlink import (
    ADDRGENMODES,
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    BRIDGE,
    FLAGS,
    IFA_LOCAL,
    IFADDR,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_ALT_IFNAME,
    IFLA_EXT_MASK,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INET6_ADDR_GEN_MODE,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    MEMBER,
    NHMSG,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    RTEXT_FILTER_SKIP_STATS,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEXTHOP,
    RTM_GETROUTE,
    RTM_NEWLINK,
    RTM_SETLINK,
    RTMSG,
    STATES,
    U8,
    U32,
    USER_HZ_MS,
    attribute,
    message,
)
from reconciler.network.plan import AT_CREATION, MakeLink, Operation, RemoveLink, SetLink
from reconciler.network.state import Kind, Link, Setting, Value


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


def get_addresses() -> bytes:
    """A dump of all IPv4 addresses."""
    return message(RTM_GETADDR, NLM_F_DUMP, IFADDR.pack(AF_INET, 0, 0, 0, 0))


def get_routes(family: int) -> bytes:
    """A dump of all routes of a family."""
    return message(RTM_GETROUTE, NLM_F_DUMP, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def get_nexthops() -> bytes:
    """A dump of all nexthop objects (Linux 5.3)."""
    return message(RTM_GETNEXTHOP, NLM_F_DUMP, NHMSG.pack(AF_UNSPEC, 0, 0, 0))


def encode(operation: Operation, index_of: Mapping[str, int]) -> list[bytes]:
    """The messages of an operation, their sequence numbers still 0.

    Raises:
        KeyError: an interface that the operation names has no index.

    """
    match operation:
        case MakeLink(made):
            return [_make_bridge(made)]
        case RemoveLink(removed):
            return [message(RTM_DELLINK, 0, IFINFO.pack(AF_UNSPEC, 0, index_of[removed.name], 0, 0))]
        case SetLink(changed, setting, old, new):
            return _set(index_of[changed.name], setting, old, new, index_of)


def _make_bridge(made: Link) -> bytes:
    settings = {key: value for key, value in made.settings.items() if key in AT_CREATION[Kind.BRIDGE]}
    general = attribute(IFLA_IFNAME, made.name.encode() + b"\0")
    for setting, make in _GENERAL.items():
        if setting in settings:
            general += make(settings.pop(setting))
    special = b"".join(_entry(BRIDGE, setting, value) for setting, value in settings.items())
    info = attribute(IFLA_INFO_KIND, b"bridge") + attribute(IFLA_INFO_DATA, special)
    payload = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + general + attribute(IFLA_LINKINFO, info)
    return message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload)


_GENERAL: Mapping[Setting, Callable[[Any], bytes]] = {
    Setting.MAC: lambda value: attribute(IFLA_ADDRESS, bytes.fromhex(value.replace(":", ""))),
    Setting.MTU: lambda value: attribute(IFLA_MTU, U32.pack(value)),
    Setting.MARK: lambda value: attribute(IFLA_IFALIAS, value.encode()),
    Setting.ADDRGENMODE: lambda value: attribute(
        IFLA_AF_SPEC,
        attribute(AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, U8.pack(ADDRGENMODES.index(value)))),
    ),
}


def _set(index: int, setting: Setting, old: Value, new: Value, index_of: Mapping[str, int]) -> list[bytes]:
    plain = IFINFO.pack(AF_UNSPEC, 0, index, 0, 0)
    if setting is Setting.SWITCH:
        master = index_of[new] if isinstance(new, str) else 0
        return [message(RTM_SETLINK, 0, plain + attribute(IFLA_MASTER, U32.pack(master)))]
    if setting in FLAGS:
        flag, when = FLAGS[setting]
        return [message(RTM_SETLINK, 0, IFINFO.pack(AF_UNSPEC, 0, index, flag if new is when else 0, flag))]
    if setting in _GENERAL:
        return [message(RTM_SETLINK, 0, plain + _GENERAL[setting](new))]
    if setting is Setting.ADDRESSES:
        return [_delete_address(index, gone) for gone in (old if isinstance(old, tuple) else ())]
    if setting in BRIDGE:
        info = attribute(IFLA_INFO_KIND, b"bridge") + attribute(IFLA_INFO_DATA, _entry(BRIDGE, setting, new))
    else:
        info = attribute(IFLA_INFO_SLAVE_KIND, b"bridge")
        info += attribute(IFLA_INFO_SLAVE_DATA, _entry(MEMBER, setting, new))
    return [message(RTM_NEWLINK, 0, plain + attribute(IFLA_LINKINFO, info))]


def _entry(table: Mapping[Setting, tuple[int, struct.Struct]], setting: Setting, value: Value) -> bytes:
    number, width = table[setting]
    if setting is Setting.STATE:
        return attribute(number, width.pack(STATES.index(str(value))))
    assert isinstance(value, int)  # noqa: S101 - booleans and numbers are all that is left
    return attribute(number, width.pack(value // USER_HZ_MS if setting is Setting.AGEING else int(value)))


def _delete_address(index: int, gone: str) -> bytes:
    ip, prefix = gone.split("/")
    payload = IFADDR.pack(AF_INET, int(prefix), 0, 0, index)
    return message(RTM_DELADDR, 0, payload + attribute(IFA_LOCAL, inet_pton(AF_INET, ip)))
