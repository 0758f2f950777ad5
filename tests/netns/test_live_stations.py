"""What switches of more than two members know of stations: bounded, and nothing that a change of path makes wrong.

The VM of these labs is a wire: what it has learnt is not what is asked here.
"""

import itertools
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from guarded import guarded
from test_live_learning import OTHER, STATION, TEST, arriving, stations
from test_wire import MARKER, apply, received, tap_on

from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.frames import frame
from reconciler.lab.lab import Lab
from reconciler.network.desired import MOST_STATIONS
from reconciler.network.state import Setting

pytestmark = pytest.mark.netns

FLOOD, AT_ONCE = 300_000, 50
EVERYBODY = "ff:ff:ff:ff:ff:ff"


def without_learning(lab: Lab) -> None:
    assert lab.vm is not None
    for index in range(len(lab.adapters)):
        words = ["ip", "link", "set", f"eth{index}", "type", "bridge_slave", "learning", "off"]
        lab.run(words, namespace=lab.vm)


@pytest.fixture
def three() -> Iterator[Lab]:
    with Lab(3) as made:
        without_learning(made)
        yield made


@contextmanager
def ends_of(lab: Lab) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(tap_on(client)) for client in lab.clients]


def hub(text: str) -> str:
    return text.replace("edge: [port0, port1, port2]", "edge: {ports: [port0, port1, port2], ageing: 0s}")


def reached_from_both(ends: list[socket.socket]) -> None:
    """One address at two ends, as of a router with a leg in two VLANs of one wire: heard from each, and reached."""
    for sender, receiver in itertools.chain.from_iterable(itertools.repeat((ends, ends[::-1]), 2)):
        assert arriving(sender, receiver, OTHER, STATION) == 3
        assert arriving(receiver, sender, STATION, OTHER) == 3


@pytest.mark.parametrize(("topology", "change"), [("inspect", str), ("inspect", hub), ("bypass", hub)])
def test_one_address_at_two_of_three_ends_is_reached_from_both(three: Lab, topology: str, change: object) -> None:
    apply(three, topology, change)  # type: ignore[arg-type]
    with ends_of(three) as ends:
        reached_from_both(ends[:2])


@pytest.mark.parametrize("ports", [2, 3])
def test_one_address_at_two_ends_is_reached_from_both_through_the_guard(ports: int, tmp_path: Path) -> None:
    with guarded(tmp_path, ports) as made:
        made.write()
        made.well()
        without_learning(made.lab)
        with ends_of(made.lab) as ends:
            reached_from_both(ends[:2])
            made.ask("hold", topology="bypass", reason="maintenance", seconds=100)
            made.passes_by()
            reached_from_both(ends[:2])
            made.ask("release")
            made.inspects()
            reached_from_both(ends[:2])
            made.lab.blackhole_vm()
            made.until(lambda: made.guard()["state"] == "joined", "the guard has the wire")
            reached_from_both(ends[:2])


@pytest.mark.parametrize("ports", [2, 3])
def test_a_station_that_moved_while_the_guard_had_the_wire_is_reached_after_it(ports: int, tmp_path: Path) -> None:
    with guarded(tmp_path, ports) as made, ends_of(made.lab) as ends:
        made.write()
        made.well()
        without_learning(made.lab)
        assert arriving(ends[0], ends[1], OTHER, STATION) == 3
        made.lab.blackhole_vm()
        made.until(lambda: made.guard()["state"] == "joined", "the guard has the wire")
        assert arriving(ends[1], ends[0], OTHER, STATION) == 3
        made.lab.unblock_vm()
        without_learning(made.lab)
        made.inspects()
        assert arriving(ends[0], ends[1], STATION, OTHER) == 3


def _flood(sender: socket.socket, receiver: socket.socket) -> None:
    for begin in range(0, FLOOD, AT_ONCE):
        for number in range(begin, begin + AT_ONCE):
            sender.send(frame(OTHER, TEST, source=(0x02BB << 32 | number).to_bytes(6).hex(":")))
        # In order, so what was sent before it has arrived; and is taken before there is no room for more.
        sender.send(frame(EVERYBODY, MARKER))
        received(receiver)


def test_a_flood_of_addresses_is_bounded_and_nobody_is_cut_off_by_it(three: Lab) -> None:
    apply(three, "bypass")
    with three.host.entered(), Kernel() as kernel:
        bounded = kernel.observe().by_name["sw-bypass"].settings.get(Setting.FDB_MAX_LEARNED)
    if bounded is None:
        pytest.skip("this kernel bounds nothing (Linux 6.7 does)")
    assert bounded == MOST_STATIONS < FLOOD
    with ends_of(three) as ends:
        _flood(ends[0], ends[1])
    with ends_of(three) as ends:
        assert len(stations(three, "sw-bypass")) == MOST_STATIONS
        # Who came too late to be learnt is reached like everybody: all hear it.
        assert arriving(ends[2], ends[1], OTHER, STATION) == 3
        assert arriving(ends[1], ends[2], STATION, OTHER) == 3
        apply(three, "inspect")
        apply(three, "bypass")
        assert stations(three, "sw-bypass") == []


def test_what_a_switch_has_learnt_behind_members_that_stay_goes_when_another_comes_back(three: Lab) -> None:
    """Of two topologies of a vendor's own: one port leaves a switch that goes on, and returns."""
    aside = (
        "aside: {switches: {sw-bypass: {ports: [port0, port1], adapters: [port0]}, "
        "sw-port2: {ports: [port2], adapters: [port2]}}}"
    )
    mirror = "mirror: {switches: {sw-bypass: {ports: [port0, port1, port2], adapters: [port0]}}}"

    def more(text: str) -> str:
        return text.replace("topologies:\n", f"topologies:\n  {aside}\n  {mirror}\n")

    with ends_of(three) as ends:
        apply(three, "aside", more)
        # Behind the VM, and so behind the adapter that stays.
        assert arriving(ends[2], ends[1], OTHER, STATION) == 3
        assert STATION in stations(three, "sw-bypass")
        apply(three, "mirror", more)
        assert stations(three, "sw-bypass") == []
        assert arriving(ends[1], ends[2], STATION, OTHER) == 3


def test_what_a_switch_has_learnt_before_the_guard_had_the_wire_goes_with_the_guard(tmp_path: Path) -> None:
    with guarded(tmp_path, 3) as made, ends_of(made.lab) as ends:
        made.write()
        made.well()
        made.ask("hold", topology="bypass", reason="maintenance", seconds=100)
        made.passes_by()
        made.ask("guard", on=False)
        assert arriving(ends[0], ends[1], OTHER, STATION) == 3
        assert STATION in stations(made.lab, "sw-bypass")
        made.ask("guard", on=True)
        made.until(lambda: made.guard()["state"] == "joined", "the guard has the wire")
        assert arriving(ends[1], ends[0], OTHER, STATION) == 3
        made.ask("guard", on=False)
        assert arriving(ends[0], ends[1], STATION, OTHER) == 3
