"""What of a table lasts: all but what traffic and time change. No I/O.

Left out are the handles (a table made from the same text has others), the numbers of uses, and what is counted. Of
what the kernel tells, only attributes that are known here count: a newer kernel tells more, such as how many elements
a set has. So two kernels may print the same table differently, and one kernel never does.
"""

import hashlib
from collections.abc import Iterator, Mapping

from reconciler.host.guard.messages import (
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETOBJ,
    NFT_MSG_GETRULE,
    NFT_MSG_GETSET,
    NFT_MSG_GETTABLE,
    NFTA_LIST_ELEM,
    NFTA_OBJ_NAME,
    NFTA_OBJ_TYPE,
    NFTA_TABLE_FLAGS,
    NFTA_TABLE_NAME,
    NFTA_TABLE_USERDATA,
    attributes,
    number,
    string,
)
from reconciler.host.netlink.rtnetlink import attribute

NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE, NFTA_CHAIN_FLAGS = 3, 4, 5, 7, 10
NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA = 2, 4, 7
NFTA_EXPR_NAME = 1
NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN = 2, 3, 4, 5
NFTA_SET_DATA_TYPE, NFTA_SET_DATA_LEN, NFTA_SET_POLICY, NFTA_SET_DESC = 6, 7, 8, 9
NFTA_SET_TIMEOUT, NFTA_SET_GC_INTERVAL, NFTA_SET_OBJ_TYPE, NFTA_SET_EXPR, NFTA_SET_EXPRESSIONS = 11, 12, 15, 17, 18
NFT_SET_ANONYMOUS = 0x1

# Beside the table's name, which is the first attribute of all. The comment of a table says whose it is.
_LASTING: Mapping[int, frozenset[int]] = {
    NFT_MSG_GETTABLE: frozenset({NFTA_TABLE_FLAGS, NFTA_TABLE_USERDATA}),
    NFT_MSG_GETCHAIN: frozenset(
        {NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE, NFTA_CHAIN_FLAGS}
    ),
    NFT_MSG_GETRULE: frozenset({NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA}),
    NFT_MSG_GETSET: frozenset(
        {
            NFTA_SET_NAME,
            NFTA_SET_FLAGS,
            NFTA_SET_KEY_TYPE,
            NFTA_SET_KEY_LEN,
            NFTA_SET_DATA_TYPE,
            NFTA_SET_DATA_LEN,
            NFTA_SET_POLICY,
            NFTA_SET_DESC,
            NFTA_SET_TIMEOUT,
            NFTA_SET_GC_INTERVAL,
            NFTA_SET_OBJ_TYPE,
            NFTA_SET_EXPR,
            NFTA_SET_EXPRESSIONS,
        }
    ),
    NFT_MSG_GETOBJ: frozenset({NFTA_OBJ_NAME, NFTA_OBJ_TYPE}),
}
# What a table consists of, in the order in which it is asked for.
PARTS = (NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETOBJ)

# Expressions of rules that tell what they have counted. That there is one lasts; none of ours has limits to forge.
_COUNTING = frozenset({"counter", "last", "quota", "connlimit"})


class Fingerprint:
    """A digest of one table, fed with what the kernel tells."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._digest = hashlib.sha256()

    def add(self, kind: int, payload: bytes) -> None:
        """Take in an answer to a request of this kind, if it is about our table."""
        attrs = list(attributes(payload))
        if string(dict(attrs).get(NFTA_TABLE_NAME, b"")) == self._table:
            self._take(kind, b"".join(_lasting(kind, attrs)))

    def add_elements(self, elements: list[bytes]) -> None:
        """Take in the elements of a set that belongs to a rule, in whatever order a hash table tells them."""
        for element in sorted(elements):
            self._take(0, element)

    def text(self) -> str:
        """The digest, as 64 hexadecimal digits."""
        return self._digest.hexdigest()

    def _take(self, kind: int, data: bytes) -> None:
        self._digest.update(kind.to_bytes(2, "big") + len(data).to_bytes(4, "big") + data)


def anonymous_set(payload: bytes) -> str | None:
    """The name of the set that a message tells of, if it is part of a rule: then its elements are, too."""
    attrs = dict(attributes(payload))
    return string(attrs.get(NFTA_SET_NAME, b"")) if number(attrs.get(NFTA_SET_FLAGS, b"")) & NFT_SET_ANONYMOUS else None


def _lasting(kind: int, attrs: list[tuple[int, bytes]]) -> Iterator[bytes]:
    lasting = _LASTING[kind]
    for at, value in attrs:
        if at in lasting:
            expressions = kind == NFT_MSG_GETRULE and at == NFTA_RULE_EXPRESSIONS
            yield attribute(at, b"".join(_expressions(value)) if expressions else value)


def _expressions(data: bytes) -> Iterator[bytes]:
    for _, expression in attributes(data):
        name = dict(attributes(expression)).get(NFTA_EXPR_NAME, b"")
        yield attribute(NFTA_LIST_ELEM, name if string(name) in _COUNTING else expression)
