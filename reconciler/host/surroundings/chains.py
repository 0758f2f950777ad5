"""Base chains and flowtables of nftables that a frame of a wire may meet, of all families, and what their rules do.

Numbers are those of linux/netfilter/nf_tables.h, linux/netfilter.h and linux/netfilter_netdev.h.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from reconciler.guard.rules import comment_of, table_of
from reconciler.host.guard import messages
from reconciler.host.guard.messages import NFGENMSG, NFNETLINK_V0, TableHead, attributes, number, string
from reconciler.host.netlink.rtnetlink import NLM_F_DUMP, attribute, message
from reconciler.host.netlink.sockets import NetlinkSocket
from reconciler.network.surroundings import EGRESS, FLOWTABLE, INGRESS, Chain

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_ARP, NFPROTO_NETDEV, NFPROTO_BRIDGE, NFPROTO_IPV6 = 1, 2, 3, 5, 7, 10
NFT_MSG_GETFLOWTABLE = 23
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY = 1, 3, 4, 5
NFTA_HOOK_HOOKNUM, NFTA_HOOK_DEV, NFTA_HOOK_DEVS, NFTA_DEVICE_NAME, NFTA_DEVICE_PREFIX = 1, 3, 4, 1, 2
NFTA_FLOWTABLE_TABLE, NFTA_FLOWTABLE_NAME, NFTA_FLOWTABLE_HOOK = 1, 2, 3
NFTA_FLOWTABLE_HOOK_DEVS = 3
NFTA_RULE_TABLE, NFTA_RULE_EXPRESSIONS = 1, 4
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE = 2, 2, 1
NF_DROP, NF_STOLEN, NF_QUEUE = 0, 2, 3

_FAMILIES = {
    NFPROTO_INET: "inet",
    NFPROTO_IPV4: "ip",
    NFPROTO_ARP: "arp",
    NFPROTO_NETDEV: "netdev",
    NFPROTO_BRIDGE: "bridge",
    NFPROTO_IPV6: "ip6",
}
_NETDEV_HOOKS = {0: INGRESS, 1: EGRESS}
# A frame that passes a switch meets these. Of the families of IP, it does so where br_netfilter hands it to them.
_BRIDGED = {0: "prerouting", 2: "forward", 4: "postrouting"}
_INET_INGRESS = 5
_VERDICTS = {NF_DROP: "drop", NF_STOLEN: "steal", NF_QUEUE: "queue"}
_EXPRESSIONS = {"fwd": "forward", "dup": "mirror", "queue": "queue", "reject": "reject"}


class _Head(NamedTuple):
    family: int
    table: str
    chain: Chain


def generation(netfilter: NetlinkSocket) -> int:
    """The number of the rule set; RefusedError, where it may not be read."""
    ((data, begin, end),) = netfilter.ask(messages.get_generation(), "tell the generation")
    return messages.generation(data[begin + NFGENMSG.size : end])


def read(netfilter: NetlinkSocket, *, bridged: bool) -> tuple[Chain, ...]:
    """All that hang where frames of a wire pass. `bridged`: so do the hooks of the families of IP.

    Raises:
        RefusedError: it takes CAP_NET_ADMIN.

    """
    heads = [one for family, payload in _dump(netfilter, messages.NFT_MSG_GETCHAIN) if (one := _chain(family, payload))]
    heads = [one for one in heads if bridged or _sees_frames(one.family, one.chain.hook)]
    heads += [_flowtable(family, payload) for family, payload in _dump(netfilter, NFT_MSG_GETFLOWTABLE)]
    tables = [(family, messages.table(payload)) for family, payload in _dump(netfilter, messages.NFT_MSG_GETTABLE)]
    guards = {one.name: _guarded(one) for family, one in tables if family == NFPROTO_NETDEV}
    does: dict[tuple[int, str], tuple[str, ...]] = {}
    for head in heads:
        table = head.family, head.table
        if table not in does:
            # What our own rules do is known, and they are many. So may be those of a firewall, which only br_netfilter
            # makes a matter of ours: of it the policies are enough.
            own = head.family == NFPROTO_NETDEV and guards.get(head.table)
            does[table] = () if own or not _sees_frames(head.family, head.chain.hook) else _deeds(netfilter, *table)
    return tuple(
        replace(
            head.chain,
            guard=guards.get(head.table, "") if head.family == NFPROTO_NETDEV else "",
            does=tuple(dict.fromkeys((*head.chain.does, *does[head.family, head.table]))),
        )
        for head in heads
    )


def _guarded(table: TableHead) -> str:
    """The SKU of the appliance whose guard a table is; '' if it is none."""
    sku = (table.comment or "::").split(":")[1:2]
    return sku[0] if sku and (table.name, table.comment) == (table_of(sku[0]), comment_of(sku[0])) else ""


def _sees_frames(family: int, hook: str) -> bool:
    """Whether a chain sees frames of a wire, whatever br_netfilter does."""
    return family in (NFPROTO_NETDEV, NFPROTO_BRIDGE) or hook in (INGRESS, FLOWTABLE)


def _dump(netfilter: NetlinkSocket, kind: int, family: int = 0, body: bytes = b"") -> Iterator[tuple[int, bytes]]:
    head = NFGENMSG.pack(family, NFNETLINK_V0, 0)
    request = message(messages.NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_DUMP, head + body)
    for data, begin, end in netfilter.ask(request, "list rules"):
        yield data[begin], data[begin + NFGENMSG.size : end]


def _chain(family: int, payload: bytes) -> _Head | None:
    attrs = dict(attributes(payload))
    if NFTA_CHAIN_HOOK not in attrs or family not in _FAMILIES:
        return None
    hooked = dict(attributes(attrs[NFTA_CHAIN_HOOK]))
    at = number(hooked.get(NFTA_HOOK_HOOKNUM, b""))
    hook = _NETDEV_HOOKS.get(at) if family == NFPROTO_NETDEV else _BRIDGED.get(at)
    if family == NFPROTO_INET and at == _INET_INGRESS:
        hook = INGRESS
    if hook is None:
        return None
    table, name = (string(attrs.get(key, b"")) for key in (NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME))
    drops = NFTA_CHAIN_POLICY in attrs and number(attrs[NFTA_CHAIN_POLICY]) == NF_DROP
    devices = tuple(_devices(hooked.get(NFTA_HOOK_DEV), hooked.get(NFTA_HOOK_DEVS, b"")))
    return _Head(family, table, Chain(_FAMILIES[family], table, name, hook, devices, does=("drop",) if drops else ()))


def _flowtable(family: int, payload: bytes) -> _Head:
    attrs = dict(attributes(payload))
    table, name = (string(attrs.get(key, b"")) for key in (NFTA_FLOWTABLE_TABLE, NFTA_FLOWTABLE_NAME))
    hooked = dict(attributes(attrs.get(NFTA_FLOWTABLE_HOOK, b"")))
    devices = tuple(_devices(None, hooked.get(NFTA_FLOWTABLE_HOOK_DEVS, b"")))
    return _Head(family, table, Chain(_FAMILIES.get(family, "?"), table, name, FLOWTABLE, devices))


def _devices(one: bytes | None, several: bytes) -> Iterator[str]:
    if one is not None:
        yield string(one)
    for kind, name in attributes(several):
        if one is None or string(name) != string(one):
            yield string(name) + ("*" if kind == NFTA_DEVICE_PREFIX else "")


def _deeds(netfilter: NetlinkSocket, family: int, table: str) -> tuple[str, ...]:
    """What the rules of a table do to frames, whichever of its chains they are in."""
    name = attribute(NFTA_RULE_TABLE, table.encode() + b"\0")
    found: dict[str, None] = {}
    for _, payload in _dump(netfilter, messages.NFT_MSG_GETRULE, family, name):
        for _, listed in attributes(dict(attributes(payload)).get(NFTA_RULE_EXPRESSIONS, b"")):
            expression = dict(attributes(listed))
            does = _deed(string(expression.get(NFTA_EXPR_NAME, b"")), expression.get(NFTA_EXPR_DATA, b""))
            if does:
                found[does] = None
    return tuple(found)


def _deed(expression: str, data: bytes) -> str | None:
    if expression != "immediate":
        return _EXPRESSIONS.get(expression)
    value = dict(attributes(dict(attributes(data)).get(NFTA_IMMEDIATE_DATA, b"")))
    verdict = dict(attributes(value.get(NFTA_DATA_VERDICT, b"")))
    return _VERDICTS.get(number(verdict[NFTA_VERDICT_CODE])) if NFTA_VERDICT_CODE in verdict else None
