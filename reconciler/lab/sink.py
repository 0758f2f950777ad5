"""A receiver of numbered frames that the kernel fills by itself.

The ring is memory shared with the kernel (PACKET_RX_RING, packet_mmap in the kernel's documentation). The kernel stamps
and stores each frame as it arrives, so it does not matter when Python gets round to looking: no reader thread, and no
frame that is missed because the machine was busy, unless the ring is full, which is detected.
"""

import contextlib
import mmap
import select
import socket
import struct
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Self

from reconciler.host.packet_filter import LOAD_BYTE, LOAD_HALF, LOAD_WORD, attach
from reconciler.lab.measure import Arrivals
from reconciler.lab.namespaces import LabError, Namespace
from reconciler.lab.source import ETHERTYPE_IPV4, MAGIC, MAX_STREAM, MIN_SIZE, UDP

# linux/if_packet.h and linux/if_ether.h
_SOL_PACKET = 263
_PACKET_RX_RING = 5
_PACKET_STATISTICS = 6
_PACKET_VERSION = 10
_TPACKET_V2 = 1
_ETH_P_ALL = 3

# A slot: struct tpacket2_hdr (32 bytes) and struct sockaddr_ll (20) are aligned up, the frame stands so that its IP
# header is aligned to 16. For Ethernet that is byte 66, and 62 bytes of frame end with the slot.
_SLOT_SIZE = 128
_FRAME_OFFSET = 66
_BLOCK_SIZE = 65_536
_SLOTS_PER_BLOCK = _BLOCK_SIZE // _SLOT_SIZE
# Columns of a slot seen as 32-bit words (status, seconds, nanoseconds) and as 64-bit words (sequence, time of sending).
_WORDS = _SLOT_SIZE // 4
_STATUS, _SECONDS, _NANOSECONDS = 0, 4, 5
_LONGS = _SLOT_SIZE // 8
_SEQUENCE, _SENT = (_FRAME_OFFSET + 46) // 8, (_FRAME_OFFSET + 54) // 8
_STATUS_KERNEL = 0

_SECOND_NS = 1_000_000_000


class Sink:
    """Receives one stream on an interface.

    Attributes:
        mac: The interface's MAC address, 6 bytes.
        stream: The stream that it receives.
        capacity: How many frames the ring holds between two harvests.
    """

    def __init__(self, namespace: Namespace, ifname: str, *, stream: int, capacity: int = 200_000) -> None:
        """Start to receive.

        Args:
            namespace: Where the interface is.
            ifname: The interface.
            stream: 0 to `source.MAX_STREAM`.
            capacity: Frames between two harvests, 128 bytes of kernel memory each; rounded up.

        Raises:
            LabError: There is no such interface, or the kernel refuses the ring.
        """
        if not 0 <= stream <= MAX_STREAM:
            raise ValueError(f"stream {stream} is not within 0 to {MAX_STREAM}")
        self.stream = stream
        blocks = -(-capacity // _SLOTS_PER_BLOCK)
        self.capacity = blocks * _SLOTS_PER_BLOCK
        self._sequences = array("Q")
        self._sent_ns = array("Q")
        self._received_ns = array("Q")
        self._next = 0
        with contextlib.ExitStack() as undo:
            try:
                with namespace.entered():
                    self._socket = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
                self._prepare(blocks)
                # Only now, with filter and ring in place, a protocol: every packet, because a socket for one protocol
                # is blind on the port of a bridge.
                self._socket.bind((ifname, _ETH_P_ALL))
                self._ring = mmap.mmap(self._socket.fileno(), blocks * _BLOCK_SIZE)
            except OSError as error:
                raise LabError(f"cannot receive on {ifname} in {namespace.name!r}: {error}") from error
            undo.pop_all()
        self.mac: bytes = self._socket.getsockname()[4]
        self._bytes = memoryview(self._ring)
        self._words = self._bytes.cast("I")
        self._longs = self._bytes.cast("Q")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, blocks: int) -> None:
        wanted = ((LOAD_HALF, 12, ETHERTYPE_IPV4), (LOAD_BYTE, 23, UDP), (LOAD_WORD, 42, MAGIC << 16 | self.stream))
        attach(self._socket, wanted, MIN_SIZE)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        ring = struct.pack("4I", _BLOCK_SIZE, blocks, _SLOT_SIZE, blocks * _SLOTS_PER_BLOCK)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, ring)

    def harvest(self) -> int:
        """Take what has arrived out of the ring, and give its slots back to the kernel.

        Returns:
            How many frames were taken.

        Raises:
            LabError: The ring was full and the kernel dropped frames: nothing measured here can be trusted.
        """
        taken = 0
        while ready := self._ready():
            self._take(self._next, ready)
            self._next = (self._next + ready) % self.capacity
            taken += ready
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        if dropped:
            raise LabError(
                f"the sink of stream {self.stream} dropped {dropped} frames itself: "
                f"its ring of {self.capacity} was full; harvest more often or give it more capacity"
            )
        return taken

    def _ready(self) -> int:
        """Count the filled slots from the next one on, at most up to the end of a block."""
        until = min(self.capacity, (self._next // _SLOTS_PER_BLOCK + 1) * _SLOTS_PER_BLOCK)
        statuses = self._words[self._next * _WORDS + _STATUS : until * _WORDS : _WORDS].tolist()
        return statuses.index(_STATUS_KERNEL) if _STATUS_KERNEL in statuses else len(statuses)

    def _take(self, first: int, count: int) -> None:
        def words(column: int) -> list[int]:
            return self._words[first * _WORDS + column : (first + count) * _WORDS : _WORDS].tolist()

        def longs(column: int) -> "array[int]":
            values = array("Q", self._longs[first * _LONGS + column : (first + count) * _LONGS : _LONGS].tolist())
            if sys.byteorder == "little":
                values.byteswap()
            return values

        self._sequences += longs(_SEQUENCE)
        self._sent_ns += longs(_SENT)
        self._received_ns.extend(
            seconds * _SECOND_NS + nanoseconds
            for seconds, nanoseconds in zip(words(_SECONDS), words(_NANOSECONDS), strict=True)
        )
        # The status goes last: from then on the kernel may write into the slot.
        released = memoryview(array("I", bytes(4 * count)))
        self._words[first * _WORDS + _STATUS : (first + count) * _WORDS : _WORDS] = released

    @property
    def arrived(self) -> int:
        """How many frames have been harvested so far, duplicates included."""
        return len(self._sequences)

    def arrivals(self) -> Arrivals:
        """Harvest, and return all that has arrived so far, in the order of arrival."""
        self.harvest()
        return Arrivals(self._sequences[:], self._sent_ns[:], self._received_ns[:])

    def drain(self, count: int, *, since_ns: int, patience_s: float) -> None:
        """Wait until `count` frames have arrived, or nothing has for `patience_s` after `since_ns` and the last frame.

        Args:
            count: How many were sent.
            since_ns: When the last of them was sent, in ns of CLOCK_REALTIME.
            patience_s: How long a frame may be under way, in seconds.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            self.harvest()
            newest = max(since_ns, self._received_ns[-1] if self._received_ns else 0)
            left_ns = newest + int(patience_s * _SECOND_NS) - time.time_ns()
            if self.arrived >= count or left_ns <= 0:
                return
            poll.poll(max(1, left_ns // 1_000_000))

    def close(self) -> None:
        """Give the ring back. May be called again."""
        views: Sequence[memoryview] = (self._words, self._longs, self._bytes)
        for view in views:
            view.release()
        self._ring.close()
        self._socket.close()
