"""What passes a wire, and what must never be seen from it, on real frames."""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from reconciler.appliance.load import load
from reconciler.cycle import reconcile
from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.appliance import appliance_file
from reconciler.lab.lab import MANAGEMENT_ADDRESS, Lab
from reconciler.lab.namespaces import Namespace
from reconciler.network.desired import choice_of

pytestmark = pytest.mark.netns

_EVERY_PROTOCOL = 0x0003  # ETH_P_ALL
_DEADLINE_S = 5.0
MARKER = 0x88B6  # IEEE 802 local experimental ethertype 2: the last frame of a series


def frame(destination: str, ethertype: int, payload: bytes = b"", source: str = "02:aa:00:00:00:01") -> bytes:
    macs = bytes.fromhex((destination + source).replace(":", ""))
    return (macs + struct.pack("!H", ethertype) + payload).ljust(60, b"\0")


# From facts measured on this kernel family: with STP off and a port mask of 0xfffd all pass but PAUSE.
PASS_A_WIRE = {
    "STP": frame("01:80:c2:00:00:00", 0x0026, b"\x42\x42\x03"),
    "LACP": frame("01:80:c2:00:00:02", 0x8809, b"\x01\x01"),
    "EAPOL": frame("01:80:c2:00:00:03", 0x888E, b"\x01\x01"),
    "provider bridge": frame("01:80:c2:00:00:08", 0x0026, b"\x42\x42\x03"),
    "MVRP": frame("01:80:c2:00:00:0d", 0x88F5),
    "LLDP": frame("01:80:c2:00:00:0e", 0x88CC, b"\x02\x07\x04"),
    "PTP": frame("01:80:c2:00:00:0e", 0x88F7),
    "CDP": frame("01:00:0c:cc:cc:cc", 0x0020, b"\xaa\xaa\x03\x00\x00\x0c\x20\x00"),
    "IPv6 multicast": frame("33:33:00:00:00:01", 0x86DD),
    "IPv4 multicast": frame("01:00:5e:00:00:fb", 0x0800),
    "broadcast": frame("ff:ff:ff:ff:ff:ff", 0x0806),
    "unknown unicast": frame("02:bb:00:00:00:09", 0x88B7),
}
PAUSE = frame("01:80:c2:00:00:01", 0x8808, b"\x00\x01")
ENDS_ON_A_STANDARD_BRIDGE = ("LACP", "EAPOL", "provider bridge", "MVRP", "LLDP", "PTP")


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


def across(lab: Lab, frames: list[bytes]) -> list[bytes]:
    """What arrives at the second client of frames that the first one sends."""
    with tap_on(lab.clients[1]) as there, tap_on(lab.clients[0]) as here:
        for one in (*frames, frame("ff:ff:ff:ff:ff:ff", MARKER)):
            here.send(one)
        return received(there)


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


def standard(text: str) -> str:
    return text.replace("edge: [outside, inside]", "edge: {ports: [outside, inside], transparency: standard}")


@pytest.mark.parametrize("topology", ["bypass", "inspect"])
def test_a_wire_passes_link_local_protocols_once_and_unchanged(lab: Lab, topology: str) -> None:
    apply(lab, topology)
    expected = list(PASS_A_WIRE.values())
    assert across(lab, expected) == expected


def test_pause_ends_at_the_next_bridge(lab: Lab) -> None:
    apply(lab, "bypass")
    assert across(lab, [PAUSE]) == []


def test_a_standard_switch_ends_link_local_protocols(lab: Lab) -> None:
    apply(lab, "bypass", standard)
    expected = [one for name, one in PASS_A_WIRE.items() if name not in ENDS_ON_A_STANDARD_BRIDGE]
    assert across(lab, list(PASS_A_WIRE.values())) == expected


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
