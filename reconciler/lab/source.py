"""The process that sends numbered frames, and the layout of these frames.

Standard library only and no import from this package: it is started by its path with ``python -I -S``, which takes a
quarter of the time of a start with site-packages. It also runs as ``python -m reconciler.lab.source``.

Conversation: it prints ``{"ready": true}``, sends from the first byte on its standard input until the second (or its
end), and prints the fields of `Sent`, each on a line. Where it cannot, it prints ``{"error": ...}`` and exits with 1.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass

# Ethernet 14, IPv4 20 and UDP 8 bytes, then what is ours: magic, stream, sequence, time of sending.
MAGIC = 0x1ABF
ETHERTYPE_IPV4 = 0x0800
UDP = 17
IP_OFFSET = 14
UDP_OFFSET = 34
PAYLOAD_OFFSET = 42
NUMBERS_OFFSET = 46  # sequence, time of sending
PAYLOAD = struct.Struct("!HHQQ")
NUMBERS = struct.Struct("!QQ")
MIN_SIZE = PAYLOAD_OFFSET + PAYLOAD.size
"""The smallest frame in bytes, without frame check sequence: 62, just over Ethernet's own 60."""
MAX_SIZE = 1500

MAX_STREAM = 0xFFFF
MIN_RATE = 100
MAX_RATE = 20_000

# The discard port; and RFC 2544 reserves 198.18.0.0/15 for benchmarks, so nobody answers.
_PORT = 9
_SOURCE_NET = bytes((198, 18))
_DESTINATION_NET = bytes((198, 19))

# A source that was stalled catches up in bursts no longer than this, at no more than four times its rate: neither a
# flood that overruns the queues under test (a veth's backlog holds 1,000), nor a rate that stays behind for ever.
BURST = 32
CATCH_UP = 4

_SECOND_NS = 1_000_000_000
_STDIN = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """What a source sent.

    Attributes:
        count: Frames that were due and numbered, 0 to count - 1.
        refused: How many of them the kernel refused to send, because the interface was down or gone.
        worst_lateness_s: The furthest that a frame was sent behind its time, in seconds. Part of any gap in the
            arrivals may be this and not the network.
        first_ns: When the first frame was sent, in ns of CLOCK_REALTIME, the clock of the kernel's receive timestamps.
        last_ns: When the last frame was sent, likewise.
    """

    count: int
    refused: int
    worst_lateness_s: float
    first_ns: int
    last_ns: int


def _checksum(total: int) -> int:
    # RFC 1071. Because 2**16 leaves 1 when divided by 65535, an integer of any width has the remainder of its words'
    # sum. No remainder gives 0xffff, which is also how UDP has to write a zero.
    return 0xFFFF - total % 0xFFFF


class StreamFrame:
    """One frame of a stream, renumbered in place for each sending."""

    def __init__(self, source: bytes, destination: bytes, stream: int, size: int) -> None:
        """Build the frame.

        Args:
            source: MAC address, 6 bytes.
            destination: MAC address, 6 bytes.
            stream: 0 to `MAX_STREAM`; receivers tell streams apart by it.
            size: Of the whole frame in bytes, `MIN_SIZE` to `MAX_SIZE`.
        """
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise ValueError(f"frame size {size} is not within {MIN_SIZE} to {MAX_SIZE} bytes")
        if not 0 <= stream <= MAX_STREAM:
            raise ValueError(f"stream {stream} is not within 0 to {MAX_STREAM}")
        number = stream.to_bytes(2, "big")
        addresses = _SOURCE_NET + number + _DESTINATION_NET + number
        fields = (0x45, 0, size - IP_OFFSET, 0, 0x4000, 64, UDP)
        header = struct.pack("!BBHHHBBH", *fields, 0) + addresses
        header = struct.pack("!BBHHHBBH", *fields, _checksum(int.from_bytes(header, "big"))) + addresses
        length = size - UDP_OFFSET
        datagram = struct.pack("!HHHH", _PORT, _PORT, length, 0) + struct.pack("!HH", MAGIC, stream)
        self.frame = bytearray(size)
        head = destination + source + struct.pack("!H", ETHERTYPE_IPV4) + header + datagram
        self.frame[: len(head)] = head
        # All that the UDP checksum covers except the numbers: pseudo header, UDP header, magic and stream.
        self._constant = int.from_bytes(addresses, "big") + UDP + length + int.from_bytes(datagram, "big")

    def number(self, sequence: int, sent_ns: int) -> bytearray:
        """Write the numbers and the checksum, and return the frame, which the next call changes again."""
        NUMBERS.pack_into(self.frame, NUMBERS_OFFSET, sequence, sent_ns)
        struct.pack_into("!H", self.frame, UDP_OFFSET + 6, _checksum(self._constant + sequence + sent_ns))
        return self.frame


def pace(send: Callable[[int], None], rate: int, stopped: Callable[[float], bool]) -> tuple[int, int]:
    """Call `send` with 0, 1, 2 and so on, `rate` times a second, until `stopped`.

    Args:
        send: Sends the frame of that number.
        rate: Frames per second. Frame n is due n / rate seconds after the first, so errors do not add up.
        stopped: Waits for the seconds it is given, or less; says whether to stop.

    Returns:
        How many calls were made, and the worst lateness in ns.
    """
    start = time.monotonic_ns()
    sent = 0
    worst = 0
    while True:
        now = time.monotonic_ns()
        worst = max(worst, now - start - sent * _SECOND_NS // rate)
        due = (now - start) * rate // _SECOND_NS + 1
        burst = min(due - sent, BURST)
        for sequence in range(sent, sent + burst):
            send(sequence)
        sent += burst
        if burst == BURST:
            pause_ns = BURST * _SECOND_NS // (CATCH_UP * rate)
        else:
            pause_ns = start + sent * _SECOND_NS // rate - time.monotonic_ns()
        if stopped(max(pause_ns, 0) / _SECOND_NS):
            return sent, worst


def transmit(interface: socket.socket, template: StreamFrame, rate: int, stopped: Callable[[float], bool]) -> Sent:
    """Send the stream out of a bound packet socket until `stopped`."""
    first_ns = last_ns = refused = 0

    def send(sequence: int) -> None:
        nonlocal first_ns, last_ns, refused
        last_ns = time.time_ns()
        first_ns = first_ns or last_ns
        try:
            interface.send(template.number(sequence, last_ns))
        except OSError:
            # The interface is down, or gone with its VM. On a real wire this frame would be lost, so it counts.
            refused += 1

    count, worst_ns = pace(send, rate, stopped)
    return Sent(count, refused, worst_ns / _SECOND_NS, first_ns, last_ns)


def _stopped(wait_s: float) -> bool:
    return bool(select.select([_STDIN], [], [], wait_s)[0])


def _prepare() -> None:
    """Keep the process from being late for reasons of its own."""
    gc.collect()
    gc.disable()
    # Timers may be 50 us late by default, which is a whole period at 20,000 frames/s.
    with contextlib.suppress(OSError), open("/proc/self/timerslack_ns", "w", encoding="ascii") as slack:
        slack.write("1")


def main(argv: list[str] | None = None) -> int:
    """Hold the conversation that the module describes. Returns the exit status."""
    parser = argparse.ArgumentParser(description="send numbered frames out of an interface")
    parser.add_argument("ifname")
    parser.add_argument("--destination", required=True, help="MAC address")
    parser.add_argument("--rate", type=int, required=True, help="frames per second")
    parser.add_argument("--stream", type=int, default=0)
    parser.add_argument("--size", type=int, default=MIN_SIZE, help="bytes per frame")
    options = parser.parse_args(argv)
    destination = bytes.fromhex(options.destination.replace(":", ""))
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as interface:
            # Protocol 0: it sends only, and the kernel queues nothing to it.
            interface.bind((options.ifname, 0))
            template = StreamFrame(interface.getsockname()[4], destination, options.stream, options.size)
            _prepare()
            print(json.dumps({"ready": True}), flush=True)
            # Past Python's buffer, which would hide from select() what it read ahead.
            if not os.read(_STDIN, 1):
                return 0
            sent = transmit(interface, template, options.rate, _stopped)
    except (OSError, ValueError) as error:
        print(json.dumps({"error": f"{options.ifname}: {error}"}), flush=True)
        return 1
    print(json.dumps(asdict(sent)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
