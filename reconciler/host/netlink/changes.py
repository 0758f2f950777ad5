"""Operations to the messages that carry them out. No I/O."""

import functools
from collections.abc import Mapping
from typing import Any

from reconciler.host.netlink.encoder import address, link, nest
from reconciler.host.netlink.rtnetlink import (
    ADDRGENMODES,
    AF_INET,
    AF_UNSPEC,
    BRIDGE,
    FLAGS,
    IFINFO,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    LINK_MODES,
    MEMBER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWLINK,
    RTM_SETLINK,
    STATES,
    U32,
    USER_HZ_MS,
    attribute,
    message,
)
from reconciler.network.plan import AT_CREATION, MakeLink, Operation, RemoveLink, SetLink
from reconciler.network.state import Kind, Link, Setting, Value

# Where struct ifinfomsg and struct ifaddrmsg both have the interface's index, counted from the header on.
_INDEX_AT = 20


def encode(operation: Operation, index_of: Mapping[str, int]) -> list[bytes]:
    """The messages of an operation, their sequence numbers still 0.

    Raises:
        KeyError: an interface that the operation names has no index.

    """
    match operation:
        case MakeLink(made):
            return [_make_bridge(made)]
        case RemoveLink(removed):
            return [_about(index_of[removed.name], link(RTM_DELLINK, 0))]
        case SetLink(changed, Setting.ADDRESSES, old):
            gone = old if isinstance(old, tuple) else ()
            return [_about(index_of[changed.name], _delete_address(one)) for one in gone]
        case SetLink(changed, Setting.SWITCH, _, new):
            master = index_of[new] if isinstance(new, str) else 0
            return [_about(index_of[changed.name], _set(Setting.SWITCH, master))]
        case SetLink(Link(kind=Kind.BRIDGE) as changed, Setting.LEARNT):
            return [_about(index_of[changed.name], _bridge(("IFLA_BR_FDB_FLUSH", True)))]
        case SetLink(changed, Setting.FDB_MAX_LEARNED as setting, _, int() as new):
            return [_about(index_of[changed.name], _bound(BRIDGE[setting].number, new))]
        case SetLink(changed, setting, _, new):
            return [_about(index_of[changed.name], _set(setting, new))]


def _about(index: int, message: bytes) -> bytes:
    return message[:_INDEX_AT] + U32.pack(index) + message[_INDEX_AT + U32.size :]


def _make_bridge(made: Link) -> bytes:
    settings = {key: value for key, value in made.settings.items() if key in AT_CREATION[Kind.BRIDGE]}
    general = [_attribute(setting, value) for setting, value in settings.items() if setting not in BRIDGE]
    special = [_attribute(setting, value) for setting, value in settings.items() if setting in BRIDGE]
    info = nest(("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", nest(*special)))
    attributes = [("IFLA_IFNAME", made.name), *general, ("IFLA_LINKINFO", info)]
    return link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, attributes)


# To many links the same is done, and again and again. So it is encoded once, for no link in particular.
@functools.lru_cache(maxsize=1024)
def _set(setting: Setting, value: Value) -> bytes:
    if setting in FLAGS:
        flag, when = FLAGS[setting]
        return link(RTM_SETLINK, 0, ifi_flags=flag if value is when else 0, ifi_change=flag)
    if setting is Setting.LEARNT:
        return _member(_FORGET)
    named = _attribute(setting, value)
    if setting in BRIDGE:
        return _bridge(named)
    if setting in MEMBER:
        # Once it learns no more, in one message: what it learnt before the second of two came would stay.
        forget = [_FORGET] if (setting, value) == (Setting.LEARNING, False) else []
        return _member(named, *forget)
    return link(RTM_SETLINK, 0, [named])


_FORGET = ("IFLA_BRPORT_FLUSH", True)


def _bridge(named: tuple[str, Any]) -> bytes:
    info = nest(("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", nest(named)))
    return link(RTM_NEWLINK, 0, [("IFLA_LINKINFO", info)])


def _bound(number: int, value: int) -> bytes:
    """A number of a bridge that pyroute2 has no name for. A kernel that does not know it either passes over it."""
    info = attribute(IFLA_INFO_KIND, b"bridge") + attribute(IFLA_INFO_DATA, attribute(number, U32.pack(value)))
    return message(RTM_NEWLINK, 0, IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + attribute(IFLA_LINKINFO, info))


def _member(*attributes: tuple[str, Any]) -> bytes:
    info = nest(("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", nest(*attributes)))
    return link(RTM_NEWLINK, 0, [("IFLA_LINKINFO", info)])


def _attribute(setting: Setting, value: Any) -> tuple[str, Any]:
    match setting:
        case Setting.SWITCH:
            return "IFLA_MASTER", value
        case Setting.MAC:
            return "IFLA_ADDRESS", value
        case Setting.MTU:
            return "IFLA_MTU", value
        case Setting.MARK:
            return "IFLA_IFALIAS", value
        case Setting.LINK_MODE:
            return "IFLA_LINKMODE", LINK_MODES.index(value)
        case Setting.DORMANT:
            return "IFLA_OPERSTATE", "DORMANT" if value else "UP"
        case Setting.ADDRGENMODE:
            mode = "IFLA_INET6_ADDR_GEN_MODE", ADDRGENMODES.index(value)
            return "IFLA_AF_SPEC", nest(("AF_INET6", nest(mode)))
        case Setting.STATE:
            return MEMBER[setting].name, STATES.index(value)
        case Setting.AGEING:
            return BRIDGE[setting].name, value // USER_HZ_MS
        case _:
            return {**BRIDGE, **MEMBER}[setting].name, int(value)


def _delete_address(gone: str) -> bytes:
    ip, prefix = gone.split("/")
    return address(RTM_DELADDR, 0, [("IFA_LOCAL", ip)], family=AF_INET, prefixlen=int(prefix))
