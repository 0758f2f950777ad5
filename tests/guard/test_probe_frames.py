"""The frames that prove the VM's path, byte by byte."""

import socket
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.appliance.declared import Frame, Negative, Probe
from reconciler.guard.frames import STAMP_BYTES, Template, frame, large, negative

MARK, TOKEN = bytes.fromhex("02a1b2c3d407"), bytes.fromhex("06a1a2a3a4a5")
ADDRESSES = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
PORTS = st.integers(1, 65_535)


def sums_up(header: bytes) -> bool:
    """RFC 1071, word by word: with its checksum, a header adds up to all ones."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


def check(template: Template) -> None:
    assert template.frame[:12] == TOKEN + MARK
    assert 60 <= len(template.frame) <= 1_514
    assert 14 <= template.stamp_at <= len(template.frame) - STAMP_BYTES
    assert template.frame[template.stamp_at :][:STAMP_BYTES] == bytes(STAMP_BYTES)


def test_a_bare_frame() -> None:
    made = frame(Probe(), MARK, TOKEN)
    check(made)
    assert made == Template(TOKEN + MARK + b"\x88\xb5" + bytes(46), 14)


@pytest.mark.parametrize("size", [60, 1_514, 9_014, 65_549])
def test_a_large_frame_is_as_large_as_was_asked_for(size: int) -> None:
    made = large(Probe(), MARK, TOKEN, size)
    assert made == Template((TOKEN + MARK + b"\x88\xb5").ljust(size, b"\0"), 14)
    made = large(Probe(frame=Frame.UDP, source="192.0.2.1", destination="192.0.2.254", port=9), MARK, TOKEN, size)
    assert made is not None
    assert len(made.frame) == size
    assert made.stamp_at == 42
    assert struct.unpack_from("!H", made.frame, 16)[0] == max(size - 14, 40)
    assert struct.unpack_from("!H", made.frame, 38)[0] == max(size - 34, 20)
    assert sums_up(made.frame[14:34])


def test_there_is_no_large_arp() -> None:
    assert large(Probe(frame=Frame.ARP, source="192.0.2.1", destination="192.0.2.254"), MARK, TOKEN, 1_514) is None


def test_an_arp_request_has_the_stamp_in_its_padding() -> None:
    made = frame(Probe(frame=Frame.ARP, source="192.0.2.1", destination="192.0.2.254"), MARK, TOKEN)
    check(made)
    body = (
        bytes.fromhex("0806 0001 0800 06 04 0001") + MARK + bytes([192, 0, 2, 1]) + bytes(6) + bytes([192, 0, 2, 254])
    )
    assert made.frame == (TOKEN + MARK + body).ljust(60, b"\0")
    assert made.stamp_at == 42


def unpack(template: Template) -> tuple[str, str, int, int, bytes]:
    """Addresses, ports and payload of a well-formed IPv4/UDP frame."""
    ethertype, *header = struct.unpack_from("!HBBHHHBBH4s4s", template.frame, 12)
    assert ethertype == 0x0800
    version, tos, length, number, fragment, ttl, protocol, _, source, destination = header
    assert (version, tos, number, fragment, ttl, protocol) == (0x45, 0, 0, 0x4000, 64, 17)
    assert sums_up(template.frame[14:34])
    sport, dport, size, checksum = struct.unpack_from("!HHHH", template.frame, 34)
    assert (length, checksum) == (20 + size, 0)
    end = 14 + length
    assert template.frame[end:] == bytes(max(0, 60 - end))
    assert template.stamp_at == end - STAMP_BYTES
    addresses = socket.inet_ntoa(source), socket.inet_ntoa(destination)
    return *addresses, sport, dport, template.frame[42 : template.stamp_at]


@given(ADDRESSES, ADDRESSES, PORTS)
def test_a_datagram(source: str, destination: str, port: int) -> None:
    made = frame(Probe(frame=Frame.UDP, source=source, destination=destination, port=port), MARK, TOKEN)
    check(made)
    assert unpack(made) == (source, destination, port, port, b"")


@given(st.text(st.characters(max_codepoint=127), max_size=1_400), ADDRESSES, ADDRESSES, PORTS)
def test_what_must_not_come_through_has_its_payload_first(
    payload: str, source: str, destination: str, port: int
) -> None:
    made = negative(Negative(payload, source=source, destination=destination, port=port), MARK, TOKEN)
    check(made)
    assert unpack(made) == (source, destination, port, port, payload.encode())


@pytest.mark.parametrize(
    "probe",
    [
        Probe(frame=Frame.ARP, source="192.0.2.1"),
        Probe(frame=Frame.ARP, destination="192.0.2.1"),
        Probe(frame=Frame.UDP, source="192.0.2.1", destination="192.0.2.2"),
        Probe(frame=Frame.UDP, source="192.0.2.1", port=9),
        Probe(frame=Frame.UDP, source="192.0.2.1", destination="::1", port=9),
        Probe(frame=Frame.UDP, source="192.0.2.1", destination="x", port=9),
    ],
)
def test_a_probe_that_lacks_something_is_none(probe: Probe) -> None:
    with pytest.raises(ValueError, match=r"probe|4 octets|[Oo]nly"):
        frame(probe, MARK, TOKEN)


def test_a_payload_that_is_not_ascii_is_none() -> None:
    with pytest.raises(UnicodeEncodeError):
        negative(Negative("ä"), MARK, TOKEN)
