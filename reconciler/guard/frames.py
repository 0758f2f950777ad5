"""The frames that prove the VM's path, byte by byte.

A probe goes from the *mark* (source address: who sent it, and in which direction) to the *token* (destination address:
what it is worth, for as long as it is worth something). Twelve bytes of it are the stamp, which the sender writes again
for each: sequence and time. They lie where nobody looks: in the payload, behind what the frame has to say, or in the
padding.
"""

import ipaddress
import struct
from dataclasses import dataclass

from reconciler.appliance.declared import Frame, Negative, Probe

ETHERTYPE = 0x88B5
"""IEEE Std 802, local experimental ethertype 1: nobody else's protocol, on no public network."""

STAMP_BYTES = 12
MIN_BYTES = 60
"""The least that Ethernet carries, without frame check sequence."""

HEADER_BYTES = 14
"""Addresses and ethertype."""
_IPV4, _ARP = 0x0800, 0x0806
_UDP = 17
_TTL = 64
_DONT_FRAGMENT = 0x4000


@dataclass(frozen=True, slots=True)
class Template:
    """A frame, and where in it the stamp is to be written, in bytes from its beginning."""

    frame: bytes
    stamp_at: int


def frame(probe: Probe, mark: bytes, token: bytes) -> Template:
    """The frame of a probe. `mark` and `token`: 6 bytes each.

    Raises:
        ValueError: the probe lacks an address or a port that its frame needs, or has one that is none.

    """
    match probe.frame:
        case Frame.ETHERNET:
            return _template(mark, token, ETHERTYPE, b"")
        case Frame.ARP:
            return _template(mark, token, _ARP, _who_has(mark, _address(probe.source), _address(probe.destination)))
        case Frame.UDP:
            return _template(mark, token, _IPV4, _datagram(probe.source, probe.destination, probe.port, b""))


def large(probe: Probe, mark: bytes, token: bytes, size: int) -> Template | None:
    """The frame of a probe, `size` bytes long; None for ARP, of which there is no such frame.

    Raises:
        ValueError: as `frame`.

    """
    match probe.frame:
        case Frame.ETHERNET:
            made = _template(mark, token, ETHERTYPE, b"")
            return Template(made.frame.ljust(size, b"\0"), made.stamp_at)
        case Frame.ARP:
            return None
        case Frame.UDP:
            small = frame(probe, mark, token)
            behind = max(0, size - small.stamp_at - STAMP_BYTES)
            body = _datagram(probe.source, probe.destination, probe.port, b"", bytes(behind))
            return _template(mark, token, _IPV4, body, behind)


def negative(canary: Negative, mark: bytes, token: bytes) -> Template:
    """The frame that must not come through: IPv4/UDP with the declared payload, the stamp behind it.

    Raises:
        ValueError: as `frame`; or the payload is not ASCII.

    """
    payload = canary.payload.encode("ascii")
    return _template(mark, token, _IPV4, _datagram(canary.source, canary.destination, canary.port, payload))


def _template(mark: bytes, token: bytes, ethertype: int, body: bytes, behind: int = 0) -> Template:
    """The frame whose stamp follows `body`; of a datagram it is a part, with `behind` bytes after it."""
    head = token + mark + struct.pack("!H", ethertype) + body
    stamp_at = len(head) - behind - STAMP_BYTES if ethertype == _IPV4 else len(head)
    return Template(head.ljust(max(MIN_BYTES, stamp_at + STAMP_BYTES), b"\0"), stamp_at)


def _who_has(mark: bytes, source: bytes, destination: bytes) -> bytes:
    """RFC 826: a request, of Ethernet and IPv4."""
    return struct.pack("!HHBBH", 1, _IPV4, 6, 4, 1) + mark + source + bytes(6) + destination


def _datagram(
    source: str | None, destination: str | None, port: int | None, payload: bytes, behind: bytes = b""
) -> bytes:
    """RFC 791 and RFC 768: payload with room for the stamp, without a checksum of UDP, which a stamp would change."""
    if port is None:
        raise ValueError("a probe over UDP needs a port")
    data = payload + bytes(STAMP_BYTES) + behind
    udp = struct.pack("!HHHH", port, port, 8 + len(data), 0) + data
    addresses = _address(source) + _address(destination)
    fields = (0x45, 0, 20 + len(udp), 0, _DONT_FRAGMENT, _TTL, _UDP)
    checksum = _checksum(struct.pack("!BBHHHBBH", *fields, 0) + addresses)
    return struct.pack("!BBHHHBBH", *fields, checksum) + addresses + udp


def _checksum(header: bytes) -> int:
    # RFC 1071. Because 2**16 leaves 1 when divided by 65535, the header as one integer has the remainder of the sum of
    # its words; and a header that is not all zero never sums up to zero.
    return 0xFFFF - (int.from_bytes(header, "big") % 0xFFFF or 0xFFFF)


def _address(text: str | None) -> bytes:
    if text is None:
        raise ValueError("this probe needs a source and a destination")
    return ipaddress.IPv4Address(text).packed
