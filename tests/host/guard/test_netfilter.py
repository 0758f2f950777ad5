"""One nf_tables socket on a live kernel, beside nft's own program: each reads what the other did."""

import errno
import json
import re
import socket
from typing import Any

import pytest
from rules import GRANTED, LEASE, LONG_MS, SOON_S, TABLE, TOKEN, frame, nft, send

from reconciler.errors import HostError, TransientError
from reconciler.host.guard.messages import LEASE_KEY, Element, add, batch, flush
from reconciler.host.guard.netfilter import Netfilter, NetfilterWatch
from reconciler.host.netlink.sockets import Failure, RefusedError
from reconciler.lab.lab import wait_until
from reconciler.lab.namespaces import Namespace


def told_by_nft(set_: str) -> list[Any]:
    (told,) = (
        one["set"] for one in json.loads(nft("-j", "list", "set", "netdev", TABLE, set_))["nftables"] if "set" in one
    )
    return told.get("elem", [])


# --- elements --------------------------------------------------------------------------------------------------------


@pytest.mark.netns
def test_what_we_add_nft_reads(netfilter: Netfilter) -> None:
    netfilter.send(batch([add(TABLE, LEASE, LEASE_KEY, LONG_MS), add(TABLE, GRANTED, TOKEN)]))
    (lease,) = told_by_nft(LEASE)
    assert (lease["elem"]["val"], lease["elem"]["timeout"]) == ("ether", LONG_MS // 1000)
    assert told_by_nft(GRANTED) == [TOKEN.hex(":")]
    netfilter.send(batch([flush(TABLE, LEASE), flush(TABLE, GRANTED), flush(TABLE, "edge/drain")]))
    assert told_by_nft(LEASE) == told_by_nft(GRANTED) == []


@pytest.mark.netns
def test_what_nft_adds_we_read(netfilter: Netfilter) -> None:
    assert netfilter.elements(TABLE, LEASE) == ()
    nft("add", "element", "netdev", TABLE, LEASE, "{ ether timeout 10m }")
    nft("add", "element", "netdev", TABLE, "edge/aside", "{ ether }")
    nft("add", "element", "netdev", TABLE, GRANTED, f"{{ {TOKEN.hex(':')} }}")
    (lease,) = netfilter.elements(TABLE, LEASE)
    assert (lease.key, lease.timeout_ms) == (LEASE_KEY, LONG_MS)
    assert lease.expires_ms is not None
    assert 0 < lease.expires_ms <= LONG_MS
    assert netfilter.elements(TABLE, "edge/aside") == (Element(LEASE_KEY, None, None),)
    assert netfilter.elements(TABLE, GRANTED) == (Element(TOKEN, None, None),)


@pytest.mark.netns
def test_a_set_of_thousands_is_read_whole(netfilter: Netfilter) -> None:
    keys = {number.to_bytes(6, "big") for number in range(3_000)}
    for some in range(0, 3_000, 500):
        netfilter.send(batch([add(TABLE, GRANTED, key) for key in sorted(keys)[some : some + 500]]))
    assert {element.key for element in netfilter.elements(TABLE, GRANTED)} == keys
    netfilter.send(batch([flush(TABLE, GRANTED)]))
    assert netfilter.elements(TABLE, GRANTED) == ()


@pytest.mark.netns
def test_an_element_expires_and_is_no_longer_told(netfilter: Netfilter) -> None:
    netfilter.send(batch([add(TABLE, LEASE, LEASE_KEY, 50)]))
    wait_until(lambda: not netfilter.elements(TABLE, LEASE), SOON_S, "the lease to expire")


@pytest.mark.netns
def test_flushed_and_added_in_one_batch_is_renewed(netfilter: Netfilter) -> None:
    netfilter.send(batch([add(TABLE, LEASE, LEASE_KEY, LONG_MS // 2)]))
    netfilter.send(batch([flush(TABLE, LEASE), add(TABLE, LEASE, LEASE_KEY, LONG_MS)]))
    (element,) = netfilter.elements(TABLE, LEASE)
    assert element.timeout_ms == LONG_MS
    assert element.expires_ms is not None
    assert element.expires_ms > LONG_MS // 2


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.netns
@pytest.mark.parametrize(
    ("message", "said", "number"),
    [
        (flush("nowhere", LEASE), f"flush set {LEASE} of table nowhere", errno.ENOENT),
        (flush(TABLE, "nothing"), f"flush set nothing of table {TABLE}", errno.ENOENT),
        (add("nowhere", LEASE, LEASE_KEY), f"add to set {LEASE} of table nowhere", errno.ENOENT),
        (add(TABLE, "edge/drain", b"longer than 2"), f"add to set edge/drain of table {TABLE}", errno.EINVAL),
        (add(TABLE, GRANTED, TOKEN, 5), f"add to set {GRANTED} of table {TABLE}", errno.EINVAL),
    ],
    ids=["flush: table", "flush: set", "add: table", "add: length", "add: timeout"],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_batch_is_done_whole_or_not_at_all(
    netfilter: Netfilter, message: bytes, said: str, number: int, first: bool
) -> None:
    before = netfilter.generation()
    good = add(TABLE, LEASE, LEASE_KEY, LONG_MS)
    with pytest.raises(RefusedError, match=re.escape(f"the kernel refused to {said}: ")) as raised:
        netfilter.send(batch([message, good] if first else [good, message]))
    assert raised.value.errno == number
    assert isinstance(raised.value, HostError)
    assert netfilter.elements(TABLE, LEASE) == ()
    assert netfilter.generation() == before
    # And the socket is as good as new.
    netfilter.send(batch([good]))
    assert len(netfilter.elements(TABLE, LEASE)) == 1


@pytest.mark.netns
def test_the_first_of_several_failures_is_told(netfilter: Netfilter) -> None:
    with pytest.raises(RefusedError, match="flush set one "):
        netfilter.send(batch([flush(TABLE, "one"), flush(TABLE, "two")] * 50))
    netfilter.send(batch([flush(TABLE, LEASE)]))


@pytest.mark.netns
def test_what_is_not_there_is_told_apart(netfilter: Netfilter) -> None:
    for table, set_ in (("nowhere", LEASE), (TABLE, "nothing")):
        with pytest.raises(RefusedError, match=f"list set {set_} of table {table}") as raised:
            netfilter.elements(table, set_)
        assert raised.value.errno == errno.ENOENT
    assert netfilter.counters("nowhere") == {}
    assert netfilter.fingerprint("nowhere") is None


# --- counters, tables, generations -----------------------------------------------------------------------------------


@pytest.mark.netns
def test_counters_are_read_as_they_count(netfilter: Netfilter) -> None:
    nft("add", "table", "netdev", "other", "{ counter theirs { packets 1 bytes 1 }; quota q { 10 bytes }; }")
    assert netfilter.counters(TABLE) == {"edge/port/outside": (7, 420), "edge/port/inside": (0, 0)}
    send("far0", *[frame(b"\2\0\0\0\0\x55", b"\2\0\0\0\0\x66")] * 5)
    wait_until(lambda: netfilter.counters(TABLE)["edge/port/outside"] == (12, 650), SOON_S, "five frames of 46 bytes")


@pytest.mark.netns
def test_tables_are_told_with_their_comments(netfilter: Netfilter) -> None:
    nft("add", "table", "netdev", "plain")
    nft("add", "table", "ip", "elsewhere")
    found = netfilter.tables()
    assert {name: table.comment for name, table in found.items()} == {TABLE: "reconciler:lab+x:guard", "plain": None}
    assert len({table.handle for table in found.values()}) == len(found)


@pytest.mark.netns
def test_each_transaction_that_changes_something_raises_the_generation_by_one(netfilter: Netfilter) -> None:
    first = netfilter.generation()
    netfilter.send(batch([add(TABLE, LEASE, LEASE_KEY, LONG_MS), add(TABLE, GRANTED, TOKEN)]))
    assert netfilter.generation() == first + 1
    netfilter.send(batch([flush(TABLE, LEASE)]))
    assert netfilter.generation() == first + 2
    netfilter.send(batch([flush(TABLE, LEASE), flush(TABLE, "edge/drain")]))
    assert netfilter.generation() == first + 2
    nft("add", "table", "ip", "elsewhere")
    assert netfilter.generation() == first + 3


@pytest.mark.netns
def test_it_is_about_the_namespace_that_it_was_opened_in(table: str) -> None:
    with Netfilter() as opened, Namespace("elsewhere") as elsewhere, elsewhere.entered():
        assert set(opened.tables()) == {table}
        with Netfilter() as there:
            assert there.tables() == {}


# --- a socket that misbehaves: tests/host/test_sockets.py ------------------------------------------------------------


@pytest.fixture
def opened() -> Netfilter:
    made = Netfilter()
    made.close()
    return made


def test_rules_that_change_under_a_fingerprint_are_read_again(
    opened: Netfilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    generations = iter([1, 2, 2, 2])
    monkeypatch.setattr(opened, "generation", lambda: next(generations))
    monkeypatch.setattr(opened, "_fingerprint", lambda _: "x")
    assert opened.fingerprint(TABLE) == "x"
    assert list(generations) == []
    monkeypatch.setattr(opened, "generation", iter(range(100)).__next__)
    with pytest.raises(TransientError, match="try again"):
        opened.fingerprint(TABLE)


@pytest.mark.netns
def test_a_batch_that_cannot_be_sent_is_a_refusal(netfilter: Netfilter) -> None:
    with pytest.raises(RefusedError, match="carry out the transaction") as raised:
        netfilter.send(batch([add(TABLE, GRANTED, TOKEN)] * 100_000))
    assert raised.value.errno == errno.EMSGSIZE


def test_a_kernel_without_netfilter_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr(socket, "socket", refuse)
    for kind in (Netfilter, NetfilterWatch):
        with pytest.raises(RefusedError, match="speak nf_tables: EPROTONOSUPPORT: Protocol not supported"):
            kind()


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        (dict.fromkeys(range(4), errno.ENOBUFS), "carry out the transaction: ENOBUFS"),
        ({0: errno.ENOBUFS, 1: errno.ENOBUFS, 2: errno.ENOENT, 3: errno.EBUSY}, "flush set two .*: ENOENT"),
    ],
    ids=["all", "some"],
)
def test_an_answer_that_was_lost_is_a_refusal(
    opened: Netfilter, monkeypatch: pytest.MonkeyPatch, failures: dict[int, int], said: str
) -> None:
    told = {at: Failure(number) for at, number in failures.items()}
    monkeypatch.setattr(opened._socket, "send", lambda *_: told)
    with pytest.raises(RefusedError, match=said):
        opened.send(batch([flush(TABLE, "one"), flush(TABLE, "two")]))
