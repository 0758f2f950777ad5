"""The few nf_tables messages that the guard sends, and those that it reads. No I/O.

Why not libnftables here: it parses text and asks the kernel for all that the text may refer to, which takes
milliseconds; a failover is one batch that was encoded beforehand. Tables are made by libnftables (`nftables`), changes
of elements are encoded by pyroute2 (`encoder`), and the tests hold them against nft's.

Numbers are those of linux/netfilter/nfnetlink.h and nf_tables.h; strings end in a zero byte, numbers are big-endian.
Readers take the payload of one message from behind its nfgenmsg, and make the best of whatever bytes that is.
"""

import functools
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from reconciler.host.netlink import encoder
from reconciler.host.netlink.encoder import nest
from reconciler.host.netlink.rtnetlink import (
    ATTRIBUTE,
    HEADER,
    NLM_F_CREATE,
    NLM_F_DUMP,
    attribute,
    message,
    messages,
    numbered,
)

NLM_F_ACK = 0x4
NLA_TYPE_MASK = 0x3FFF
NFPROTO_UNSPEC, NFPROTO_NETDEV = 0, 5
NFNETLINK_V0 = 0
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17

NFT_MSG_GETTABLE, NFT_MSG_DELTABLE = 1, 2
NFT_MSG_GETCHAIN = 4
NFT_MSG_GETRULE = 7
NFT_MSG_GETSET = 10
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = 12, 13, 14
NFT_MSG_GETGEN = 16
NFT_MSG_GETOBJ = 19

NFTA_LIST_ELEM = 1
NFTA_DATA_VALUE = 1
NFTA_TABLE_NAME, NFTA_TABLE_FLAGS, NFTA_TABLE_HANDLE, NFTA_TABLE_USERDATA = 1, 2, 4, 6
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_TIMEOUT, NFTA_SET_ELEM_EXPIRATION = 1, 4, 5
NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA = 1, 2, 3, 4
NFT_OBJECT_COUNTER = 1
NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS = 1, 2
NFTA_GEN_ID = 1
NFTA_SET_NAME = 2
NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK = 3, 4
NFTA_HOOK_DEV, NFTA_HOOK_DEVS = 3, 4
NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS = 2, 4
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_IMMEDIATE_DATA = 2
# libnftnl/udata.h: what userspace keeps beside a table, as a row of type, length (a byte each) and value.
NFTNL_UDATA_TABLE_COMMENT = 0

NFGENMSG = struct.Struct(">BBH")
# The key of a lease: what `meta iiftype` says of every Ethernet device, in two bytes of the host's order. if_arp.h.
ARPHRD_ETHER = 1
LEASE_KEY = struct.pack("=H", ARPHRD_ETHER)

_U32 = struct.Struct(">I")
# An interface's index, as a rule loads it.
_INDEX = struct.Struct("=I")


class Element(NamedTuple):
    """An element of a set, alive when it was told.

    `timeout_ms` is its own, None where it has none (the set may have one). `expires_ms` is what is left of it, None: it
    stays for ever.
    """

    key: bytes
    timeout_ms: int | None
    expires_ms: int | None


class TableHead(NamedTuple):
    """A table by itself. `handle`: its number in the kernel, which no other table ever gets."""

    name: str
    comment: str | None
    handle: int


# --- what is sent ----------------------------------------------------------------------------------------------------


def flush(table: str, set_: str) -> bytes:
    """Delete all elements of a set, which may have none."""
    return _change(NFT_MSG_DELSETELEM, 0, table, set_)


def add(table: str, set_: str, key: bytes, timeout_ms: int | None = None) -> bytes:
    """Add an element to a set.

    One that is there stays; whether it gets the new timeout depends on the kernel (from 6.12 on it does). To renew one
    for sure, have a `flush` before it in the same batch: no frame sees the set in between.
    """
    timeout = () if timeout_ms is None else (("NFTA_SET_ELEM_TIMEOUT", timeout_ms),)
    element = nest(*timeout, ("NFTA_SET_ELEM_KEY", nest(("NFTA_DATA_VALUE", key))))
    return _change(NFT_MSG_NEWSETELEM, NLM_F_CREATE, table, set_, ("NFTA_SET_ELEM_LIST_ELEMENTS", [element]))


def remove_table(handle: int) -> bytes:
    """Take a table away with all that is in it: this one, and none that has come to bear its name."""
    kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE
    return encoder.table(kind, 0, [("NFTA_TABLE_HANDLE", handle)], NFPROTO_NETDEV)


def _change(kind: int, flags: int, table: str, set_: str, *more: tuple[str, Any]) -> bytes:
    names = ("NFTA_SET_ELEM_LIST_TABLE", table), ("NFTA_SET_ELEM_LIST_SET", set_)
    return encoder.elements(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, [*names, *more], NFPROTO_NETDEV)


def batch(messages: Sequence[bytes]) -> bytes:
    """One transaction, as one datagram: all of the messages, or none.

    The sequence number of a message is its position, beginning with 1; 0 is the transaction's own.
    """
    begin, end = _marks()
    return numbered((begin, *messages, end))


@functools.cache
def _marks() -> tuple[bytes, bytes]:
    begin, end = (encoder.mark(kind, NFNL_SUBSYS_NFTABLES) for kind in (NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END))
    return begin, end


def describe(batch: bytes, sequence: int) -> str:
    """What a message of a batch is to do, in words."""
    for kind, _, number, begin, end in messages(batch):
        if number == sequence and kind >> 8 == NFNL_SUBSYS_NFTABLES:
            if kind & 0xFF == NFT_MSG_DELTABLE:
                return "remove the table"
            attrs = dict(attributes(batch[begin + NFGENMSG.size : end]))
            table, set_ = (string(attrs.get(at, b"")) for at in (NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET))
            verb = "flush" if kind & 0xFF == NFT_MSG_DELSETELEM else "add to"
            return f"{verb} set {set_} of table {table}"
    return "carry out the transaction"


# --- what is asked ---------------------------------------------------------------------------------------------------


def get_elements(table: str, set_: str) -> bytes:
    """Ask for all elements of a set."""
    return _request(NFT_MSG_GETSETELEM, NLM_F_DUMP, _set(table, set_))


def get_counters(table: str) -> bytes:
    """Ask for all named counters of a table."""
    kind = attribute(NFTA_OBJ_TYPE, _U32.pack(NFT_OBJECT_COUNTER))
    return _request(NFT_MSG_GETOBJ, NLM_F_DUMP, _name(NFTA_OBJ_TABLE, table) + kind)


def get_generation() -> bytes:
    """Ask for the number of the rule set, which every transaction that changes something raises."""
    return _request(NFT_MSG_GETGEN, NLM_F_ACK, b"")


def get_tables() -> bytes:
    """Ask for all tables of the family netdev."""
    return _request(NFT_MSG_GETTABLE, NLM_F_DUMP, b"")


def get_table(table: str) -> bytes:
    """Ask for one table."""
    return _request(NFT_MSG_GETTABLE, NLM_F_ACK, _name(NFTA_TABLE_NAME, table))


def get_all(kind: int, table: str) -> bytes:
    """Ask for all chains, rules, sets or objects. The kernel may tell of those of other tables, too."""
    # The table's name is the first attribute of each of these.
    return _request(kind, NLM_F_DUMP, _name(NFTA_TABLE_NAME, table))


def _request(kind: int, flags: int, body: bytes) -> bytes:
    family = NFPROTO_UNSPEC if kind == NFT_MSG_GETGEN else NFPROTO_NETDEV
    return message(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, NFGENMSG.pack(family, NFNETLINK_V0, 0) + body)


def _set(table: str, set_: str) -> bytes:
    return _name(NFTA_SET_ELEM_LIST_TABLE, table) + _name(NFTA_SET_ELEM_LIST_SET, set_)


def _name(number: int, name: str) -> bytes:
    return attribute(number, name.encode() + b"\0")


# --- what is answered ------------------------------------------------------------------------------------------------


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and payload of each attribute in order; a list has the same number again and again."""
    offset, size = 0, len(data)
    while offset + ATTRIBUTE.size <= size:
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < ATTRIBUTE.size:
            return
        yield kind & NLA_TYPE_MASK, data[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def causes(data: bytes) -> Iterator[int]:
    """The ports of the sockets that caused the events of a datagram."""
    for _, _, _, begin, _ in messages(data):
        yield HEADER.unpack_from(data, begin - HEADER.size)[4]


def string(data: bytes) -> str:
    """The text of an attribute; bytes that are no UTF-8 are escaped."""
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def number(data: bytes) -> int:
    """The number of an attribute, whatever its width."""
    return int.from_bytes(data, "big")


def elements(payload: bytes) -> Iterator[Element]:
    """The elements that one message of a set tells of, without those whose time is up but that nobody has removed."""
    for _, listed in attributes(dict(attributes(payload)).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
        attrs = dict(attributes(listed))
        timeout_ms = number(attrs.get(NFTA_SET_ELEM_TIMEOUT, b"")) or None
        expires_ms = number(attrs[NFTA_SET_ELEM_EXPIRATION]) if NFTA_SET_ELEM_EXPIRATION in attrs else None
        if expires_ms != 0:
            key = dict(attributes(attrs.get(NFTA_SET_ELEM_KEY, b""))).get(NFTA_DATA_VALUE, b"")
            yield Element(key, timeout_ms, expires_ms)


def counter(payload: bytes) -> tuple[str, tuple[int, int]]:
    """The name of a counter; packets and bytes."""
    attrs = dict(attributes(payload))
    counts = dict(attributes(attrs.get(NFTA_OBJ_DATA, b"")))
    packets, octets = (number(counts.get(at, b"")) for at in (NFTA_COUNTER_PACKETS, NFTA_COUNTER_BYTES))
    return string(attrs.get(NFTA_OBJ_NAME, b"")), (packets, octets)


def generation(payload: bytes) -> int:
    """The number of the rule set."""
    return number(dict(attributes(payload)).get(NFTA_GEN_ID, b""))


def table(payload: bytes) -> TableHead:
    """A table."""
    attrs = dict(attributes(payload))
    name, userdata, handle = (attrs.get(key, b"") for key in (NFTA_TABLE_NAME, NFTA_TABLE_USERDATA, NFTA_TABLE_HANDLE))
    return TableHead(string(name), _comment(userdata), number(handle))


def _comment(userdata: bytes) -> str | None:
    while len(userdata) > 1:
        kind, length = userdata[0], userdata[1]
        if kind == NFTNL_UDATA_TABLE_COMMENT:
            return string(userdata[2 : 2 + length])
        userdata = userdata[2 + length :]
    return None


def set_name(payload: bytes) -> tuple[str, str]:
    """The table and the name of a set."""
    attrs = dict(attributes(payload))
    return string(attrs.get(NFTA_TABLE_NAME, b"")), string(attrs.get(NFTA_SET_NAME, b""))


def chain_device(payload: bytes) -> tuple[str, str, str]:
    """The table and the name of a chain, and the interface that it hangs at; '' where it hangs at none (any more)."""
    attrs = dict(attributes(payload))
    hook = dict(attributes(attrs.get(NFTA_CHAIN_HOOK, b"")))
    devices = [name for _, name in attributes(hook.get(NFTA_HOOK_DEVS, b""))]
    device = hook.get(NFTA_HOOK_DEV) or (devices[0] if devices else b"")
    return string(attrs.get(NFTA_TABLE_NAME, b"")), string(attrs.get(NFTA_CHAIN_NAME, b"")), string(device)


def may_forward(payload: bytes) -> bool:
    """Whether a rule has reason to be searched for interfaces that it sends frames out of."""
    return b"fwd\0" in payload or b"dup\0" in payload


def rule_targets(payload: bytes) -> tuple[str, str, frozenset[int]]:
    """The table and the chain of a rule, and the indexes of the interfaces that it sends frames out of (dup, fwd)."""
    attrs = dict(attributes(payload))
    found, loaded = set(), b""
    for _, expression in attributes(attrs.get(NFTA_RULE_EXPRESSIONS, b"")):
        one = dict(attributes(expression))
        name, data = string(one.get(NFTA_EXPR_NAME, b"")), dict(attributes(one.get(NFTA_EXPR_DATA, b"")))
        if name == "immediate":
            loaded = dict(attributes(data.get(NFTA_IMMEDIATE_DATA, b""))).get(NFTA_DATA_VALUE, b"")
        elif name in ("dup", "fwd") and len(loaded) == _INDEX.size:
            found.add(_INDEX.unpack(loaded)[0])
    return string(attrs.get(NFTA_TABLE_NAME, b"")), string(attrs.get(NFTA_RULE_CHAIN, b"")), frozenset(found)
