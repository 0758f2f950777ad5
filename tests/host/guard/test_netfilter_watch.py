"""Hearing that somebody changed the rules: not what, and not what frames do."""

import contextlib
import select
import struct

import pytest
from rules import CHAIN, GRANTED, LEASE, LONG_MS, SOON_S, TABLE, TOKEN, nft, probe

from reconciler.host.guard import messages
from reconciler.host.guard.messages import LEASE_KEY, add, batch, flush
from reconciler.host.guard.netfilter import Netfilter, NetfilterWatch
from reconciler.lab.lab import wait_until

QUIET_S = 0.1


def hears(watch: NetfilterWatch, within_s: float = SOON_S) -> bool:
    return bool(select.select([watch], [], [], within_s)[0])


@pytest.mark.netns
def test_others_transactions_are_news_and_our_own_are_not(netfilter: Netfilter) -> None:
    with contextlib.closing(NetfilterWatch()) as all_, contextlib.closing(NetfilterWatch(netfilter.port)) as others:
        assert (all_.drain(), others.drain()) == (False, False)
        netfilter.send(batch([add(TABLE, LEASE, LEASE_KEY, LONG_MS), add(TABLE, GRANTED, TOKEN)]))
        assert hears(all_)
        assert (all_.drain(), others.drain()) == (True, False)
        for command in (f"add rule {CHAIN} accept", "add table ip elsewhere", f"flush set netdev {TABLE} {LEASE}"):
            nft(command)
            assert hears(others), command
            assert (all_.drain(), others.drain()) == (True, True)
        with Netfilter() as second:
            second.send(batch([add(TABLE, LEASE, LEASE_KEY, LONG_MS)]))
            assert others.drain() is True
        assert all_.lost == others.lost == 0


@pytest.mark.netns
def test_frames_that_renew_and_elements_that_expire_are_no_events(netfilter: Netfilter) -> None:
    netfilter.send(batch([add(TABLE, GRANTED, TOKEN), add(TABLE, "edge/drain", LEASE_KEY, 50)]))
    generation = netfilter.generation()
    with contextlib.closing(NetfilterWatch()) as watch:
        probe()
        wait_until(lambda: bool(netfilter.elements(TABLE, LEASE)), SOON_S, "the probe to renew the lease")
        wait_until(lambda: not netfilter.elements(TABLE, "edge/drain"), SOON_S, "the element to expire")
        assert not hears(watch, QUIET_S)
        assert watch.drain() is False
    assert netfilter.generation() == generation


@pytest.mark.netns
def test_what_the_kernel_had_to_drop_is_counted_and_is_news(netfilter: Netfilter) -> None:
    turn = batch([flush(TABLE, GRANTED), *(add(TABLE, GRANTED, number.to_bytes(6, "big")) for number in range(200))])
    with contextlib.closing(NetfilterWatch(netfilter.port)) as watch:
        for _ in range(50):
            netfilter.send(turn)
        rounds, news = 0, False
        while hears(watch, 0):
            news |= watch.drain()
            rounds += 1
            assert rounds < 1_000
        assert watch.lost > 0
        assert news
        nft("add", "table", "ip", "elsewhere")
        assert hears(watch)
        assert watch.drain() is True


def test_a_closed_watch_hears_nothing() -> None:
    watch = NetfilterWatch()
    watch.close()
    with pytest.raises((OSError, ValueError)):
        select.select([watch], [], [], 0)


def test_a_datagram_of_several_events_is_news_if_one_of_them_is() -> None:
    def event(port: int) -> bytes:
        return struct.pack("=LHHLL", 20, 0x0A0C, 0, 0, port) + bytes(4)

    assert list(messages.causes(event(5) + event(6))) == [5, 6]
