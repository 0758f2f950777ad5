"""A switch of two members is a wire: it learns no station, so none can be cut off by what it has learnt."""

import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from test_wire import MARKER, apply, edge, received, tap_on

from reconciler.appliance.load import load
from reconciler.daemon.failover import PreparedFailover
from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.appliance import appliance_file
from reconciler.lab.frames import frame
from reconciler.lab.lab import Lab
from reconciler.network.cycle import audit, reconcile
from reconciler.network.desired import choice_of

pytestmark = pytest.mark.netns

FLOOD, AT_ONCE = 300_000, 50
TEST = 0x88B5  # IEEE 802 local experimental ethertype 1
STATION, OTHER = "02:aa:00:00:00:0a", "02:aa:00:00:00:0b"


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Its VM is a wire, too: what it has learnt is not what is asked here."""
    with Lab() as made:
        assert made.vm is not None
        for index in range(2):
            words = ["ip", "link", "set", f"eth{index}", "type", "bridge_slave", "learning", "off"]
            made.run(words, namespace=made.vm)
        yield made


@pytest.fixture
def ends(lab: Lab) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(tap_on(client)) for client in lab.clients]


def stations(lab: Lab, *switches: str) -> list[str]:
    """What these switches have learnt, or all of them."""
    told = json.loads(lab.run(["bridge", "-j", "fdb", "show"]).stdout)
    learnt = [one for one in told if one.get("state", "") == "" and "master" in one]
    return [one["mac"] for one in learnt if not switches or one["master"] in switches]


def arriving(sender: socket.socket, receiver: socket.socket, destination: str, source: str) -> int:
    """How many of three frames arrive. Those that follow them, and end the series, are for all."""
    for _ in range(3):
        sender.send(frame(destination, TEST, source=source))
    sender.send(frame("ff:ff:ff:ff:ff:ff", MARKER, source="02:aa:00:00:00:ee"))
    return of_ours(received(receiver))


def of_ours(frames: list[bytes]) -> int:
    """How many are of the test: an interface that was never set up may have spoken before it was."""
    return sum(data[12:14] == TEST.to_bytes(2) for data in frames)


@pytest.mark.parametrize("topology", ["inspect", "bypass"])
def test_a_flood_of_addresses_leaves_nothing_in_a_switch_of_two(
    lab: Lab, ends: list[socket.socket], topology: str
) -> None:
    apply(lab, topology)
    for begin in range(0, FLOOD, AT_ONCE):
        for sender, receiver in (ends, ends[::-1]):
            for number in range(begin, begin + AT_ONCE):
                sender.send(frame(OTHER, TEST, source=(0x02BB << 32 | number).to_bytes(6).hex(":")))
            # In order, so what was sent before it has arrived; and is taken before there is no room for more.
            sender.send(frame("ff:ff:ff:ff:ff:ff", MARKER))
            assert of_ours(received(receiver)) == AT_ONCE
    assert stations(lab) == []


def test_a_station_that_moved_during_a_bypass_is_reached_after_it(lab: Lab, ends: list[socket.socket]) -> None:
    apply(lab, "inspect")
    assert arriving(ends[0], ends[1], OTHER, STATION) == 3
    apply(lab, "bypass")
    # Now it is at the other end, and says so.
    assert arriving(ends[1], ends[0], OTHER, STATION) == 3
    apply(lab, "inspect")
    assert arriving(ends[0], ends[1], STATION, OTHER) == 3


@pytest.mark.parametrize("topology", ["inspect", "bypass"])
def test_one_address_at_both_ends_is_reached_from_both(lab: Lab, ends: list[socket.socket], topology: str) -> None:
    """As of a router with a leg in two VLANs of one wire."""
    apply(lab, topology)
    for sender, receiver in itertools.chain.from_iterable(itertools.repeat((ends, ends[::-1]), 2)):
        assert arriving(sender, receiver, OTHER, STATION) == 3
        assert arriving(receiver, sender, STATION, OTHER) == 3


def test_a_switch_of_more_learns_and_learns_no_more_when_it_is_a_wire_again(
    lab: Lab, ends: list[socket.socket]
) -> None:
    """One switch, of two members by one topology and of three by another."""

    def mirrored(text: str) -> str:
        mirror = "mirror: {switches: {sw-bypass: {ports: [outside, inside], adapters: [outside]}}}"
        return edge()(text).replace("topologies:\n", f"topologies:\n  {mirror}\n")

    apply(lab, "mirror", mirrored)
    assert arriving(ends[0], ends[1], OTHER, STATION) == 3
    assert STATION in stations(lab, "sw-bypass")
    apply(lab, "bypass", mirrored)
    assert stations(lab) == []
    assert arriving(ends[0], ends[1], OTHER, STATION) == 3
    assert stations(lab) == []
    apply(lab, "mirror", mirrored)
    assert arriving(ends[0], ends[1], OTHER, STATION) == 3
    assert STATION in stations(lab, "sw-bypass")


def test_what_was_learnt_by_somebodys_hand_goes(lab: Lab, ends: list[socket.socket]) -> None:
    apply(lab, "inspect")
    for command in (
        # Entries that came while somebody had learning on, and stayed when he put it off.
        "ip link set dev nic0 type bridge_slave learning on",
        "bridge fdb add 02:aa:00:00:00:77 dev vnet0 master dynamic",
    ):
        lab.run(command.split())
        assert arriving(ends[0], ends[1], OTHER, STATION) == 3
        lab.run(["ip", "link", "set", "dev", "nic0", "type", "bridge_slave", "learning", "off"])
        assert stations(lab) != []
        apply(lab, "inspect")
        assert stations(lab) == []


def test_the_moves_that_are_ready_for_a_failure_make_a_wire_too(lab: Lab, ends: list[socket.socket]) -> None:
    of = load(appliance_file(lab.ports, lab.adapters, lab.segments).encode(), "lab.yaml")
    inspect, bypass = choice_of(of), choice_of(of, "bypass")
    with lab.host.entered(), Kernel() as kernel:
        assert reconcile(kernel, of, inspect).converged
        armed = PreparedFailover(kernel)
        armed.arm(of, inspect, kernel.observe())
        assert armed.fire(of.segments)
        assert audit(kernel, of, bypass).changes == ()
    assert arriving(ends[0], ends[1], OTHER, STATION) == 3
    assert stations(lab) == []
