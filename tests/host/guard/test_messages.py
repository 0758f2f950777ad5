"""The guard's nf_tables messages beside nft's own, and bytes that no kernel sends."""

import contextlib
import struct
from typing import Any

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.host.guard import fingerprint, messages
from reconciler.host.guard.messages import Element
from reconciler.host.netlink import rtnetlink
from reconciler.host.netlink.rtnetlink import attribute

TABLE = "reconciler-lab/x"
# What nft 1.0.6 sent, as strace showed it, from the header on and without NFTA_SET_ELEM_LIST_SET_ID: `nft add element netdev reconciler-lab/x
# edge/drain { ether timeout 5s }`, `... edge/granted { 02:01:02:03:04:05 }`, and `nft flush set netdev reconciler-lab/x edge/drain`.
NAME = b"\x15\x00\x01\x00reconciler-lab/x\x00\x00\x00\x00"
DRAIN = b"\x0f\x00\x02\x00edge/drain\x00\x00"
GRANTED = b"\x11\x00\x02\x00edge/granted\x00\x00\x00\x00"
NFT_ADD = (
    NAME
    + DRAIN
    + b"\x20\x00\x03\x80\x1c\x00\x01\x80\x0c\x00\x04\x00\x00\x00\x00\x00\x00\x00\x13\x88"
    + b"\x0c\x00\x01\x80\x06\x00\x01\x00\x01\x00\x00\x00"
)
NFT_ADD_MAC = (
    NAME + GRANTED + b"\x18\x00\x03\x80\x14\x00\x01\x80\x10\x00\x01\x80\x0a\x00\x01\x00\x02\x01\x02\x03\x04\x05\x00\x00"
)
NFT_FLUSH = NAME + DRAIN
BEGIN = b"\x14\x00\x00\x00\x10\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0a"


def _unmarked(data: bytes) -> bytes:
    """Without NLA_F_NESTED, which nft sets, pyroute2 does not, and the kernel does not ask for."""
    return data.replace(b"\x03\x80", b"\x03\x00").replace(b"\x01\x80", b"\x01\x00")


def test_messages_are_those_that_nft_sends() -> None:
    add = messages.add(TABLE, "edge/drain", messages.LEASE_KEY, 5_000)
    assert struct.unpack_from("=LHHLL", add) == (20 + len(NFT_ADD), 0x0A0C, 0x401, 0, 0)
    assert add[16:] == b"\x05\0\0\0" + _unmarked(NFT_ADD)
    mac = messages.add(TABLE, "edge/granted", bytes.fromhex("020102030405"))
    assert mac[20:] == _unmarked(NFT_ADD_MAC)
    flush = messages.flush(TABLE, "edge/drain")
    assert struct.unpack_from("=LHHLL", flush) == (20 + len(NFT_FLUSH), 0x0A0E, 0x1, 0, 0)
    assert flush[16:] == b"\x05\0\0\0" + NFT_FLUSH


def test_a_batch_is_framed_and_its_messages_are_numbered() -> None:
    flush, add = messages.flush(TABLE, "a"), messages.add(TABLE, "b", b"xy")
    batch = messages.batch([flush, add])
    assert batch.startswith(BEGIN)
    told = list(rtnetlink.messages(batch))
    assert [(kind, sequence) for kind, _, sequence, _, _ in told] == [(16, 0), (0x0A0E, 1), (0x0A0C, 2), (17, 3)]
    assert told[-1][4] == len(batch)
    assert all(flags & rtnetlink.NLM_F_REQUEST for _, flags, _, _, _ in told)


def test_a_message_of_a_batch_is_named() -> None:
    batch = messages.batch([messages.flush(TABLE, "a"), messages.add(TABLE, "b", b"xy"), messages.remove_table(7)])
    assert messages.describe(batch, 3) == "remove the table"
    assert messages.describe(batch, 1) == f"flush set a of table {TABLE}"
    assert messages.describe(batch, 2) == f"add to set b of table {TABLE}"
    for sequence in (0, 4, 99):
        assert messages.describe(batch, sequence) == "carry out the transaction"


def element(key: bytes, **numbers: int) -> bytes:
    """An element as the kernel tells it."""
    told = attribute(messages.NFTA_SET_ELEM_KEY | 0x8000, attribute(messages.NFTA_DATA_VALUE, key))
    for number in ("timeout", "expiration"):
        if number in numbers:
            at = {"timeout": messages.NFTA_SET_ELEM_TIMEOUT, "expiration": messages.NFTA_SET_ELEM_EXPIRATION}[number]
            told += attribute(at, struct.pack(">Q", numbers[number]))
    return attribute(messages.NFTA_LIST_ELEM | 0x8000, told)


def told_of(*elements: bytes) -> bytes:
    names = attribute(1, TABLE.encode() + b"\0") + attribute(2, b"s\0")
    return names + attribute(messages.NFTA_SET_ELEM_LIST_ELEMENTS | 0x8000, b"".join(elements))


def test_an_element_whose_time_is_up_is_not_told() -> None:
    payload = told_of(
        element(b"ab"), element(b"cd", timeout=200, expiration=0), element(b"ef", timeout=200, expiration=1)
    )
    assert list(messages.elements(payload)) == [Element(b"ab", None, None), Element(b"ef", 200, 1)]


def test_an_element_may_stay_for_ever_or_for_as_long_as_the_set_says() -> None:
    payload = told_of(element(b"ab", timeout=0), element(b"cd", expiration=7))
    assert list(messages.elements(payload)) == [Element(b"ab", None, None), Element(b"cd", None, 7)]


@pytest.mark.parametrize(
    ("userdata", "comment"),
    [
        (b"", None),
        (b"\0\4abc\0", "abc"),
        (b"\7\1x\0\4abc\0", "abc"),
        (b"\7\1x", None),
        (b"\0", None),
        (b"\0\0", ""),
        (b"\0\xffab", "ab"),
    ],
)
def test_the_comment_of_a_table_is_read(userdata: bytes, comment: str | None) -> None:
    payload = attribute(messages.NFTA_TABLE_NAME, b"t\0") + attribute(messages.NFTA_TABLE_USERDATA, userdata)
    assert messages.table(payload)[:2] == ("t", comment)


# --- what counts for a fingerprint -----------------------------------------------------------------------------------


def printed(*parts: tuple[int, bytes]) -> str:
    taken = fingerprint.Fingerprint("t")
    for kind, payload in parts:
        taken.add(kind, payload)
    return taken.text()


def rule(*expressions: bytes, table: bytes = b"t", handle: int = 1) -> tuple[int, bytes]:
    lists = attribute(fingerprint.NFTA_RULE_EXPRESSIONS, b"".join(attribute(1, one) for one in expressions))
    return messages.NFT_MSG_GETRULE, (
        attribute(1, table + b"\0") + attribute(2, b"c\0") + attribute(3, struct.pack(">Q", handle)) + lists
    )


def expression(name: bytes, data: bytes) -> bytes:
    return attribute(1, name + b"\0") + attribute(2, data)


def test_the_order_of_rules_counts_and_their_handles_do_not() -> None:
    one, two = expression(b"meta", b"1"), expression(b"cmp", b"2")
    assert printed(rule(one), rule(two)) != printed(rule(two), rule(one))
    assert printed(rule(one), rule(two)) != printed(rule(one, two))
    assert printed(rule(one, handle=4)) == printed(rule(one, handle=5))


def test_what_another_table_has_does_not_count() -> None:
    assert printed(rule(expression(b"meta", b"1"), table=b"other")) == printed()


@pytest.mark.parametrize("name", [b"counter", b"last", b"quota", b"connlimit"])
def test_what_an_expression_has_counted_does_not_count(name: bytes) -> None:
    assert printed(rule(expression(name, b"1"))) == printed(rule(expression(name, b"2")))
    assert printed(rule(expression(name, b"1"))) != printed(rule())
    assert printed(rule(expression(b"limit", b"1"))) != printed(rule(expression(b"limit", b"2")))


def test_the_elements_of_a_set_of_a_rule_count_in_any_order() -> None:
    def of(*elements: bytes) -> str:
        taken = fingerprint.Fingerprint("t")
        taken.add_elements(list(elements))
        return taken.text()

    assert of(b"a", b"b") == of(b"b", b"a")
    assert of(b"a", b"b") != of(b"a", b"c")
    assert of(b"a", b"b") != of(b"ab")


# --- bytes that no kernel sends --------------------------------------------------------------------------------------

READERS: list[Any] = [
    lambda data: list(messages.elements(data)),
    messages.counter,
    messages.generation,
    messages.table,
    fingerprint.anonymous_set,
]


def _read_all(data: bytes) -> None:
    """Whatever comes, reading it ends, and raises nothing."""
    for reader in READERS:
        reader(data)
    taken = fingerprint.Fingerprint("t")
    for kind in (messages.NFT_MSG_GETTABLE, *fingerprint.PARTS):
        taken.add(kind, data)
    assert len(taken.text()) == 64
    list(messages.causes(data))
    messages.describe(data, 1)
    with contextlib.suppress(struct.error):
        for kind, flags, _, begin, end in rtnetlink.messages(data):
            rtnetlink.failure(kind, data, begin, end, flags)


def _sample() -> bytes:
    return b"".join(
        [
            attribute(1, b"t\0"),
            attribute(2, b"c\0"),
            told_of(element(b"ab", timeout=200, expiration=7)),
            rule(expression(b"counter", attribute(1, bytes(8))))[1],
            attribute(6, b"\0\4abc\0"),
        ]
    )


@given(st.binary(max_size=400))
@settings(max_examples=examples(500))
def test_garbage_ends(data: bytes) -> None:
    _read_all(data)


@given(st.data())
@settings(max_examples=examples(500))
def test_a_message_with_any_bytes_wrong_or_missing_ends(data: st.DataObject) -> None:
    for sample in (_sample(), messages.batch([messages.add(TABLE, "a", b"xy", 5)])):
        changed = bytearray(sample)
        for _ in range(data.draw(st.integers(1, 4))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(changed)))
        _read_all(bytes(changed[:cut]))
        _read_all(bytes(changed))
