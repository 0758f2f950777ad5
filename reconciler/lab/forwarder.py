"""The process that forwards frames between the VM's adapters, each some milliseconds after it came.

Standard library only and no import from this package: it is started by its path with ``python -I -S``.

Conversation: it prints ``{"ready": true}`` and forwards until its standard input ends. Where it cannot, it prints
``{"error": ...}`` and exits with 1.

It is transparent: a packet that the sender left to the NIC to checksum or to cut (``PACKET_VNET_HDR``) is sent on as
just that, and a VLAN tag, which the kernel takes out of the frame, is put back.
"""

import argparse
import contextlib
import gc
import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

# linux/if_packet.h, linux/if_ether.h and asm-generic/socket.h
SOL_PACKET = 263
PACKET_AUXDATA = 8
_PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_VLAN_VALID, _VLAN_TPID_VALID = 1 << 4, 1 << 6
_ETHERTYPE_VLAN = 0x8100

# struct tpacket_auxdata: status, length, captured, mac, net, tag, type of tag
_AUXDATA = struct.Struct("=IIIHHHH")
AUXDATA_SPACE = socket.CMSG_SPACE(_AUXDATA.size)

# struct virtio_net_hdr: flags, kind of segments, length of headers, size of segments, start and offset of the checksum
_VNET = struct.Struct("=BBHHHH")
_NEEDS_CHECKSUM = 1
_MACS = 12
_TAG = 4

_LARGEST = 2**17  # more than the largest packet that is still to be cut
_BEAT_S = 0.0005
_AT_ONCE = 512  # frames of one adapter before another is looked at
_STDIN = 0
_PRIORITY = -15


def vlan_tag(ancillary: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The VLAN tag that the kernel took out of a received frame: 4 bytes that belong behind its MACs, or none."""
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tag, protocol = _AUXDATA.unpack(data)
            if status & _VLAN_VALID:
                return struct.pack("!HH", protocol if status & _VLAN_TPID_VALID else _ETHERTYPE_VLAN, tag)
    return b""


def retagged(packet: bytes, tag: bytes) -> bytes:
    """Put a VLAN tag back into a frame with a virtio header before it."""
    if not tag:
        return packet
    flags, kind, headers, size, start, offset = _VNET.unpack_from(packet)
    header = _VNET.pack(
        flags,
        kind,
        headers + _TAG if headers else 0,
        size,
        start + _TAG if flags & _NEEDS_CHECKSUM else start,
        offset,
    )
    behind = _VNET.size + _MACS
    return header + packet[_VNET.size : behind] + tag + packet[behind:]


def open_adapter(ifname: str, buffer: int) -> socket.socket:
    """A socket that gets and sends whole frames, and holds `buffer` bytes of them, as the kernel counts."""
    adapter = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    adapter.setblocking(False)
    for option in (PACKET_AUXDATA, _PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING):
        adapter.setsockopt(SOL_PACKET, option, 1)
    adapter.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    # Beyond what the machine allows to users. Refused in a user namespace; then it is as much as they may have.
    with contextlib.suppress(PermissionError):
        adapter.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
    adapter.bind((ifname, ETH_P_ALL))
    return adapter


class Forwarder:
    """Adapters, where each one's frames go, and the frames under way."""

    def __init__(self, ways: Mapping[socket.socket, Sequence[socket.socket]], delay_ns: int) -> None:
        self._ways = ways
        self._delay_ns = delay_ns
        self._buffer = bytearray(_LARGEST)
        self._view = memoryview(self._buffer)
        # In the order of reading, which is also that of their time: the delay is the same for all.
        self._held: deque[tuple[int, socket.socket, bytes]] = deque()

    def run(self) -> None:
        """Forward until standard input ends."""
        while True:
            # While frames are under way it looks for more at a steady beat: waking for each would cost twice as much.
            watched, wait_s = ((), _BEAT_S) if self._held else (self._ways, None)
            if _STDIN in select.select([_STDIN, *watched], [], [], wait_s)[0]:
                return
            for adapter in self._ways:
                self._take(adapter)
            self._emit()

    def _take(self, adapter: socket.socket) -> None:
        # An adapter that goes down says so once, in place of a frame.
        with contextlib.suppress(OSError):
            for _ in range(_AT_ONCE):
                size, ancillary, _, _ = adapter.recvmsg_into([self._buffer], AUXDATA_SPACE)
                due = time.monotonic_ns() + self._delay_ns
                packet = retagged(bytes(self._view[:size]), vlan_tag(ancillary))
                self._held.extend((due, other, packet) for other in self._ways[adapter])

    def _emit(self) -> None:
        now = time.monotonic_ns()
        while self._held and self._held[0][0] <= now:
            _, adapter, packet = self._held.popleft()
            # What an adapter cannot send is lost, as on a wire.
            with contextlib.suppress(OSError):
                adapter.send(packet)


def _prepare() -> None:
    """Keep the process from being late for reasons of its own."""
    gc.collect()
    gc.disable()
    # The VM that it stands for has a CPU of its own, and does not wait for its turn behind the programs of a test.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    with contextlib.suppress(OSError), open("/proc/self/timerslack_ns", "w", encoding="ascii") as slack:
        slack.write("1")


def main(argv: list[str] | None = None) -> int:
    """Hold the conversation that the module describes. Returns the exit status."""
    parser = argparse.ArgumentParser(description="forward frames between interfaces")
    parser.add_argument("segments", nargs="+", help="interfaces that are one wire, with commas between them")
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("--buffer", type=int, required=True, help="bytes that the kernel holds for each interface")
    options = parser.parse_args(argv)
    ways: dict[socket.socket, list[socket.socket]] = {}
    try:
        for segment in options.segments:
            adapters = [open_adapter(ifname, options.buffer) for ifname in segment.split(",")]
            ways |= {adapter: [other for other in adapters if other is not adapter] for adapter in adapters}
    except OSError as error:
        print(json.dumps({"error": f"{options.segments}: {error}"}), flush=True)
        return 1
    _prepare()
    print(json.dumps({"ready": True}), flush=True)
    Forwarder(ways, round(options.delay_ms * 1e6)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
