"""Hearing that links changed: when, never what."""

import contextlib
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PATIENCE_S

from reconciler.host.netlink.watch import Watch
from reconciler.lab.namespaces import Namespace, set_link_up

pytestmark = pytest.mark.netns


@pytest.fixture
def here() -> Iterator[Namespace]:
    with Namespace("watched") as namespace, namespace.entered():
        yield namespace


def hears(watch: Watch, within_s: float = 5.0) -> bool:
    return bool(select.select([watch], [], [], within_s)[0])


def link(*words: str) -> None:
    subprocess.run(["ip", "link", *words], check=True, capture_output=True, timeout=PATIENCE_S)


@pytest.mark.usefixtures("here")
def test_it_hears_of_links_that_come_change_and_go() -> None:
    with contextlib.closing(Watch()) as watch:
        assert not hears(watch, 0)
        assert watch.drain() is False
        for words in (
            ("add", "one", "type", "veth", "peer", "name", "two"),
            ("set", "one", "up"),
            ("set", "two", "mtu", "1400"),
            ("set", "one", "alias", "x"),
            ("set", "one", "down"),
            ("set", "one", "name", "three"),
            ("delete", "three"),
        ):
            link(*words)
            assert hears(watch), words
            assert watch.drain() is True
            while hears(watch, 0.02):
                watch.drain()
        assert watch.lost == 0


@pytest.mark.usefixtures("here")
def test_it_hears_of_addresses_too_for_a_wire_has_none() -> None:
    with contextlib.closing(Watch()) as watch:
        for verb in ("add", "delete"):
            subprocess.run(["ip", "address", verb, "192.0.2.1/24", "dev", "lo"], timeout=PATIENCE_S, check=True)
            assert hears(watch), verb
            assert watch.drain() is True


@pytest.mark.usefixtures("here")
def test_it_hears_that_ipv6_was_enabled() -> None:
    link("add", "one", "type", "bridge")
    link("set", "one", "addrgenmode", "none")
    link("set", "one", "up")
    switch = Path("/proc/sys/net/ipv6/conf/one/disable_ipv6")
    switch.write_text("1")
    with contextlib.closing(Watch()) as watch:
        switch.write_text("0")
        assert hears(watch)


@pytest.mark.usefixtures("here")
def test_it_hears_nothing_of_another_namespace() -> None:
    with contextlib.closing(Watch()) as watch, Namespace("elsewhere") as elsewhere:
        with elsewhere.entered():
            link("add", "one", "type", "veth", "peer", "name", "two")
        assert not hears(watch, 0.1)


@pytest.mark.usefixtures("here")
def test_what_the_kernel_had_to_drop_is_counted_and_is_news() -> None:
    link("add", "one", "type", "veth", "peer", "name", "two")
    with contextlib.closing(Watch()) as watch:
        for number in range(6_000):
            set_link_up("one", up=number % 2 == 0)
        assert watch.drain() is True
        while watch.drain():
            pass
        assert watch.lost > 0
        # And it hears on.
        link("set", "one", "mtu", "1400")
        assert hears(watch)
        assert watch.drain() is True


@pytest.mark.usefixtures("here")
def test_one_drain_takes_a_bounded_number_and_the_rest_the_next() -> None:
    link("add", "one", "type", "veth", "peer", "name", "two")
    with contextlib.closing(Watch()) as watch:
        for number in range(300):
            set_link_up("one", up=number % 2 == 0)
        assert watch.drain() is True
        assert hears(watch, 0)
        rounds = 1
        while watch.drain():
            rounds += 1
            assert rounds < 1_000


@pytest.mark.usefixtures("here")
def test_a_closed_one_hears_nothing() -> None:
    watch = Watch()
    watch.close()
    with pytest.raises((OSError, ValueError)):
        select.select([watch], [], [], 0)
