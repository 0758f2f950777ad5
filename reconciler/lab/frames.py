"""Frames of every kind that a wire has to pass, and what becomes of them between the clients of a lab."""

import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Self

from reconciler.lab.forwarder import (
    AUXDATA_SPACE,
    ETH_P_ALL,
    PACKET_AUXDATA,
    PACKET_IGNORE_OUTGOING,
    SOL_PACKET,
    vlan_tag,
)
from reconciler.lab.lab import Lab
from reconciler.lab.namespaces import LabError, Namespace

__all__ = ["FRAMES", "Crossing", "Ear", "crossing", "fitting", "frame"]

_WIRE = "wire"
_SMALLEST = 60  # Ethernet's, without frame check sequence
_HEADER = 14
_LARGEST = 2**16
_UDP = 17
_DISCARD = 9
_IEEE_EXPERIMENTAL = 0x88B5, 0x88B6  # IEEE 802, local experimental ethertypes 1 and 2
_UNASSIGNED = 0x88B7
_BROADCAST = "ff:ff:ff:ff:ff:ff"
_STRANGER = "02:bb:00:00:00:09"
_JUMBO_MTU = 9000
_MTU = 1500

# The last of a series. No test has two at once on a wire, and no program of the lab sends such.
_series = count(1)


def frame(destination: str, ethertype: int, payload: bytes = b"", source: str = "02:aa:00:00:00:01") -> bytes:
    """An Ethernet frame, padded to the smallest. `ethertype`: or a length."""
    macs = bytes.fromhex((destination + source).replace(":", ""))
    return (macs + struct.pack("!H", ethertype) + payload).ljust(_SMALLEST, b"\0")


def _checksum(data: bytes) -> int:
    # RFC 1071; see source.py.
    return 0xFFFF - int.from_bytes(data.ljust(len(data) + len(data) % 2, b"\0"), "big") % 0xFFFF


def _udp(source: bytes, destination: bytes, text: bytes) -> bytes:
    length = 8 + len(text)
    pseudo = source + destination + struct.pack("!HH", _UDP, length)
    ports = struct.pack("!HHH", _DISCARD, _DISCARD, length)
    return ports + struct.pack("!H", _checksum(pseudo + ports + text)) + text


def _ipv4(destination: str, text: bytes = b"reconciler") -> bytes:
    """A UDP packet. Its source is one of those that RFC 2544 reserves for benchmarks: nobody answers."""
    addresses = socket.inet_aton("198.18.255.1") + socket.inet_aton(destination)
    datagram = _udp(addresses[:4], addresses[4:], text)
    fields = (0x45, 0, 20 + len(datagram), 0, 0x4000, 64, _UDP)
    checksum = _checksum(struct.pack("!BBHHHBBH", *fields, 0) + addresses)
    return struct.pack("!BBHHHBBH", *fields, checksum) + addresses + datagram


def _ipv6(destination: str) -> bytes:
    """A UDP packet; RFC 5180 reserves 2001:2::/48 for benchmarks."""
    source, target = (socket.inet_pton(socket.AF_INET6, address) for address in ("2001:2::1", destination))
    datagram = _udp(source, target, b"reconciler")
    return struct.pack("!IHBB", 0x60000000, len(datagram), _UDP, 64) + source + target + datagram


def _arp(target: str) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return head + bytes.fromhex("02aa00000001") + socket.inet_aton("198.18.255.1") + bytes(6) + socket.inet_aton(target)


def _tagged(tag: int, ethertype: int, payload: bytes) -> bytes:
    """What stands behind the ethertype of a tag: priority and VLAN, the ethertype inside, the payload."""
    return struct.pack("!HH", tag, ethertype) + payload


_BPDU = b"\x42\x42\x03"
_GARP = b"\x42\x42\x03\x00\x01"

FRAMES: Mapping[str, bytes] = {
    # Link-local protocols. Those that say a length in place of an ethertype are LLC.
    "STP": frame("01:80:c2:00:00:00", 0x0026, _BPDU),
    "PAUSE": frame("01:80:c2:00:00:01", 0x8808, b"\x00\x01"),
    "LACP": frame("01:80:c2:00:00:02", 0x8809, b"\x01\x01"),
    "EAPOL": frame("01:80:c2:00:00:03", 0x888E, b"\x01\x01"),
    "provider bridge": frame("01:80:c2:00:00:08", 0x0026, _BPDU),
    "MVRP": frame("01:80:c2:00:00:0d", 0x88F5),
    "LLDP": frame("01:80:c2:00:00:0e", 0x88CC, b"\x02\x07\x04"),
    "PTP": frame("01:80:c2:00:00:0e", 0x88F7),
    "GVRP": frame("01:80:c2:00:00:21", 0x0026, _GARP),
    "CDP": frame("01:00:0c:cc:cc:cc", 0x0020, b"\xaa\xaa\x03\x00\x00\x0c\x20\x00"),
    "multicast source": frame(_STRANGER, _UNASSIGNED, b"from a group", source="03:aa:00:00:00:01"),
    # Tags
    "802.1Q": frame(_BROADCAST, 0x8100, _tagged(100, 0x0800, _ipv4("198.19.255.1"))),
    "priority tag": frame(_BROADCAST, 0x8100, _tagged(5 << 13, 0x0800, _ipv4("198.19.255.1"))),
    "QinQ": frame(_BROADCAST, 0x88A8, _tagged(200, 0x8100, _tagged(100, 0x0800, _ipv4("198.19.255.1")))),
    "MACsec": frame(_STRANGER, 0x88E5, b"\x00\x00\x00\x00\x00\x01" + bytes(range(40))),
    # Packets
    "ARP": frame(_BROADCAST, 0x0806, _arp("198.19.255.1")),
    "IPv4 unicast": frame(_STRANGER, 0x0800, _ipv4("198.19.255.1")),
    "IPv4 multicast": frame("01:00:5e:00:00:fb", 0x0800, _ipv4("224.0.0.251")),
    "IPv4 broadcast": frame(_BROADCAST, 0x0800, _ipv4("255.255.255.255")),
    "IPv6 unicast": frame(_STRANGER, 0x86DD, _ipv6("2001:2::2")),
    "IPv6 multicast": frame("33:33:00:00:00:01", 0x86DD, _ipv6("ff02::1")),
    "jumbo": frame(_STRANGER, 0x0800, _ipv4("198.19.255.1", bytes(_JUMBO_MTU - 28))),
    # Experiments of others: ours are of the first kind, too
    "0x88B5": frame(_STRANGER, _IEEE_EXPERIMENTAL[0], b"a stranger's"),
    "0x88B6": frame(_STRANGER, _IEEE_EXPERIMENTAL[1], b"a stranger's"),
    "smallest": frame(_STRANGER, _UNASSIGNED),
}
"""The 25 kinds, by name."""


def fitting(mtu: int = _MTU) -> dict[str, bytes]:
    """Those of `FRAMES` that fit through cables of this MTU, in bytes: all but the jumbo, or all."""
    return {name: data for name, data in FRAMES.items() if len(data) <= mtu + _HEADER}


class Ear:
    """Takes in all that arrives at an interface, whole, and sends raw frames out of it.

    Attributes:
        frames: What has been taken in.
    """

    def __init__(self, namespace: Namespace, ifname: str = _WIRE) -> None:
        """Begin to listen.

        Raises:
            OSError: There is no such interface.
        """
        self.frames: list[bytes] = []
        with ExitStack() as undo:
            with namespace.entered():
                self._socket = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            self._socket.setblocking(False)
            for option in (PACKET_AUXDATA, PACKET_IGNORE_OUTGOING):
                self._socket.setsockopt(SOL_PACKET, option, 1)
            self._socket.bind((ifname, ETH_P_ALL))
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Send a frame.

        Raises:
            OSError: It is too long for the interface, or that is down.
        """
        self._socket.send(data)

    def take(self) -> list[bytes]:
        """Take in what has arrived since the last time, and return it."""
        taken = []
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_LARGEST, AUXDATA_SPACE)
            except BlockingIOError:
                break
            taken.append(data[:12] + vlan_tag(ancillary) + data[12:])
        self.frames += taken
        return taken


@dataclass(frozen=True, slots=True)
class Crossing:
    """What became of frames that were to arrive at some clients unchanged and as often as sent, and nowhere else.

    Attributes:
        missing: How many copies of which frame did not arrive at which client, by its index and the frame's name.
        surplus: How many copies arrived beyond those expected; at the sender and other clients none are.
        strange: What else arrived at which client: frames that were changed, or somebody else's.
    """

    missing: Mapping[tuple[int, str], int]
    surplus: Mapping[tuple[int, str], int]
    strange: Mapping[int, tuple[bytes, ...]]

    @property
    def exact(self) -> bool:
        """Whether every copy arrived byte by byte, exactly once, and nothing else did."""
        return not (self.missing or self.surplus or self.strange)


def crossing(
    lab: Lab,
    frames: Mapping[str, bytes],
    sender: int = 0,
    receivers: Collection[int] | None = None,
    *,
    copies: int = 3,
    patience_s: float = 0.3,
) -> Crossing:
    """Send frames out of one client, and compare what arrives at all of them.

    Args:
        lab: With clients, whose wires nobody else uses meanwhile (or `strange` tells of it).
        frames: Different from each other.
        sender: Index of the client that sends.
        receivers: Indices of those that shall get them. Default: the others of its segment.
        copies: How often to send each frame.
        patience_s: How long to wait for a missing frame since the last one that arrived, in seconds.

    Raises:
        LabError: The lab has no clients, or a frame could not be sent.
    """
    if not lab.clients:
        raise LabError("this lab was built without clients")
    expected = _peers(lab, sender) if receivers is None else set(receivers)
    end = frame(_BROADCAST, _UNASSIGNED, b"end of series %d" % next(_series))
    known = {data: name for name, data in frames.items()}
    with ExitStack() as stack:
        ears = [stack.enter_context(Ear(client)) for client in lab.clients]
        try:
            for data in list(frames.values()) * copies:
                ears[sender].send(data)
            wanted = len(frames) * copies
            _listen(ears, known, lambda: all(_ours(ears[one], known) >= wanted for one in expected), patience_s)
            # It comes behind everything that is still under way.
            ears[sender].send(end)
        except OSError as error:
            raise LabError(f"client {sender} cannot send: {error}") from error
        _listen(ears, [end], lambda: all(end in ears[one].frames for one in expected), patience_s)
        for ear in ears:
            ear.take()
        return _judge(ears, known, end, dict.fromkeys(expected, copies))


def _peers(lab: Lab, sender: int) -> set[int]:
    return {one for segment in lab.segments if sender in segment for one in segment} - {sender}


def _ours(ear: Ear, known: Collection[bytes]) -> int:
    return sum(data in known for data in ear.frames)


def _listen(ears: Sequence[Ear], awaited: Collection[bytes], done: Callable[[], bool], patience_s: float) -> None:
    """Take in what arrives until `done`, or until none of what is awaited has arrived for so long."""
    deadline = time.monotonic() + patience_s
    while not done() and (left := deadline - time.monotonic()) > 0:
        for ear in select.select(ears, [], [], left)[0]:
            if any(data in awaited for data in ear.take()):
                deadline = time.monotonic() + patience_s


def _judge(ears: Iterable[Ear], known: Mapping[bytes, str], end: bytes, expected: Mapping[int, int]) -> Crossing:
    missing: dict[tuple[int, str], int] = {}
    surplus: dict[tuple[int, str], int] = {}
    strange: dict[int, tuple[bytes, ...]] = {}
    for client, ear in enumerate(ears):
        arrived = Counter(known[data] for data in ear.frames if data in known)
        for name in known.values():
            difference = arrived[name] - expected.get(client, 0)
            if difference:
                (missing if difference < 0 else surplus)[client, name] = abs(difference)
        others = tuple(data for data in ear.frames if data not in known and data != end)
        if others:
            strange[client] = others
    return Crossing(missing, surplus, strange)
