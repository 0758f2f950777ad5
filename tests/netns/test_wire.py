"""What passes a wire, and what must never be seen from it, on real frames."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from reconciler.appliance.load import load
from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.appliance import appliance_file
from reconciler.lab.frames import FRAMES, Crossing, crossing, fitting, frame
from reconciler.lab.lab import MANAGEMENT_ADDRESS, Lab
from reconciler.lab.namespaces import Namespace
from reconciler.network.cycle import reconcile
from reconciler.network.desired import choice_of

pytestmark = pytest.mark.netns

_EVERY_PROTOCOL = 0x0003  # ETH_P_ALL
_DEADLINE_S = 5.0
_ETHERNET_MTU = 1500
MARKER = 0x88B6  # IEEE 802 local experimental ethertype 2: the last frame of a series


# From facts measured on this kernel family: with STP off and a port mask of 0xfffd all pass but these. PAUSE is for the
# other end of a cable, and a source that is a group is no source.
ENDS_ON_A_WIRE = ("PAUSE", "multicast source")
ENDS_ON_A_STANDARD_BRIDGE = (*ENDS_ON_A_WIRE, "LACP", "EAPOL", "provider bridge", "MVRP", "LLDP", "PTP")


@contextmanager
def tap_on(namespace: Namespace, interface: str = "wire") -> Iterator[socket.socket]:
    """A raw socket on the end of a wire."""
    with ExitStack() as stack:
        with namespace.entered():
            raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            raw.bind((interface, _EVERY_PROTOCOL))
        raw.settimeout(_DEADLINE_S)
        yield raw


def received(raw: socket.socket) -> list[bytes]:
    """All frames from the other end up to the marker."""
    frames = []
    while True:
        data, address = raw.recvfrom(2048)
        if address[2] == socket.PACKET_OUTGOING:
            continue
        if data[12:14] == struct.pack("!H", MARKER):
            return frames
        frames.append(data)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def apply(lab: Lab, topology: str, change: Callable[[str], str] = str) -> None:
    text = change(appliance_file(lab.ports, lab.adapters, lab.segments))
    appliance = load(text.encode(), "lab.yaml")
    with lab.host.entered(), Kernel() as kernel:
        report = reconcile(kernel, appliance, choice_of(appliance, topology))
    assert report.converged, report.after


def edge(**more: object) -> Callable[[str], str]:
    """Say more of the segment."""
    words = "".join(f", {key}: {value}" for key, value in more.items())
    return lambda text: text.replace("edge: [outside, inside]", f"edge: {{ports: [outside, inside]{words}}}")


def never_arriving(names: tuple[str, ...]) -> dict[tuple[int, str], int]:
    return {(1, name): 3 for name in names}


@pytest.mark.parametrize("topology", ["bypass", "inspect"])
def test_a_wire_passes_every_protocol_once_and_unchanged(topology: str) -> None:
    with Lab(mtu=9000) as lab:
        apply(lab, topology, edge(mtu=9000))
        assert crossing(lab, FRAMES) == Crossing(never_arriving(ENDS_ON_A_WIRE), {}, {})


def crosses(lab: Lab, behind: str) -> bool:
    """Whether a packet of 1500 bytes crosses the wire with this, in hex, between its Ethernet addresses and itself."""
    data = bytes.fromhex("02aa0000000b" + "02aa0000000a" + behind) + bytes(1500)
    with tap_on(lab.clients[0]) as here, tap_on(lab.clients[1]) as there:
        # A veth pair says so where a NIC would just drop it.
        with contextlib.suppress(OSError):
            here.send(data)
        here.send(frame("ff:ff:ff:ff:ff:ff", MARKER))
        return any(len(one) > _ETHERNET_MTU for one in received(there))


@pytest.mark.parametrize("topology", ["bypass", "inspect"])
@pytest.mark.parametrize(
    ("behind", "needs"),
    [
        pytest.param("8100000a0800", 1500, id="802.1Q"),
        pytest.param("884700064140", 1500, id="MPLS, one label"),
        pytest.param("88a8000a810000140800", 1504, id="QinQ"),
        pytest.param("88470006404000064140", 1504, id="MPLS, two labels"),
        pytest.param("88641100000105de0021", 1504, id="PPPoE"),
        pytest.param("88e5" + "00" * 32, 1528, id="MACsec"),
    ],
)
def test_what_is_before_a_packet_needs_an_mtu_that_has_room_for_it(topology: str, behind: str, needs: int) -> None:
    for mtu in {_ETHERNET_MTU, needs - 1, needs} - {_ETHERNET_MTU - 1}:
        with Lab(mtu=mtu) as lab:
            for client in lab.clients:
                lab.run(["ip", "link", "set", "wire", "mtu", "9000"], namespace=client)
            apply(lab, topology, edge(mtu=mtu))
            assert crosses(lab, behind) is (mtu >= needs)


def test_a_standard_switch_ends_link_local_protocols(lab: Lab) -> None:
    apply(lab, "bypass", edge(transparency="standard"))
    assert crossing(lab, fitting()) == Crossing(never_arriving(ENDS_ON_A_STANDARD_BRIDGE), {}, {})


def arp_request(target: str) -> bytes:
    body = struct.pack(
        "!HHBBH6s4s6s4s",
        1,
        0x0800,
        6,
        4,
        1,
        bytes.fromhex("02aa00000001"),
        bytes(4),
        bytes(6),
        socket.inet_aton(target),
    )
    return frame("ff:ff:ff:ff:ff:ff", 0x0806, body)


@pytest.mark.parametrize("topology", ["bypass", "inspect"])
def test_the_host_cannot_be_seen_from_the_wire(lab: Lab, topology: str) -> None:
    """Neither an answer nor a frame of the host's own: only what the other client sends comes out."""
    echo = bytes.fromhex(
        "6000000000083aff" + "fe80" + "00" * 13 + "01" + "ff02" + "00" * 13 + "01" + "8000" + "7bb7" + "00010001"
    )
    probes = [
        arp_request(MANAGEMENT_ADDRESS),
        frame("33:33:00:00:00:01", 0x86DD, echo),
        frame("01:80:c2:00:00:0e", 0x88CC, b"\x02\x07\x04"),
    ]
    apply(lab, topology)
    with tap_on(lab.clients[0]) as here, tap_on(lab.clients[1]) as there:
        for probe in probes:
            here.send(probe)
        # The other client answers with the marker: it ends what comes back to the first.
        assert [there.recv(2048) for _ in probes] == probes
        there.send(frame("ff:ff:ff:ff:ff:ff", MARKER))
        assert received(here) == []


def test_before_anything_is_applied_the_host_does_answer(lab: Lab) -> None:
    """The probe of the test above works: an unconfigured host is seen by it."""
    with tap_on(lab.clients[0]) as here:
        here.send(arp_request(MANAGEMENT_ADDRESS))
        while True:
            data = here.recv(2048)
            if data[12:14] == b"\x08\x06" and data[20:22] == b"\x00\x02":
                break
    assert data[28:32] == socket.inet_aton(MANAGEMENT_ADDRESS)
