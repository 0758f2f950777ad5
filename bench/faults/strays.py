"""What arrives at the clients and no client has sent: probes that leak to a wire, and whatever else there may be."""

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterable
from typing import Self

from reconciler.lab.namespaces import Namespace
from reconciler.lab.source import ETHERTYPE_IPV4, MAGIC, PAYLOAD_OFFSET, UDP

_WIRE = "wire"
_PROTOCOL = 23  # of an IPv4 packet behind an Ethernet header
_SOURCE = slice(6, 11)
_LARGEST = 2**16
# linux/if_packet.h, linux/if_ether.h and asm-generic/socket.h
_SO_ATTACH_FILTER = 26
_ETH_P_ALL = 3
# linux/filter.h, linux/bpf_common.h: loads by absolute offset, jump if equal, return a constant.
_LOAD_HALF, _LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06
_PACKET_TYPE = 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PKTTYPE


def _filter() -> bytes:
    """Classic BPF that keeps incoming frames that are of no source of the lab's."""
    program = (
        (_LOAD_BYTE, 0, 0, _PACKET_TYPE),
        (_JUMP_EQUAL, 6, 0, socket.PACKET_OUTGOING),
        (_LOAD_HALF, 0, 0, 12),
        (_JUMP_EQUAL, 0, 5, ETHERTYPE_IPV4),
        (_LOAD_BYTE, 0, 0, _PROTOCOL),
        (_JUMP_EQUAL, 0, 3, UDP),
        (_LOAD_HALF, 0, 0, PAYLOAD_OFFSET),
        (_JUMP_EQUAL, 0, 1, MAGIC),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, _LARGEST - 1),
    )
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


class Strays:
    """Listens on the wires of some clients. Use it in a `with` statement."""

    def __init__(self, clients: Iterable[Namespace]) -> None:
        self._open = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            self._ears = [undo.enter_context(_ear(client)) for client in clients]
            self._open = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def counted(self, marks: Iterable[bytes]) -> tuple[int, int]:
        """How many frames were heard since the last time: of a source that begins with one of these, and others."""
        marks, heard = set(marks), []
        for ear in self._ears:
            # A wire that went down says so once, in place of a frame.
            for _ in range(2):
                with contextlib.suppress(OSError):
                    while True:
                        heard.append(ear.recv(_LARGEST))
        leaks = sum(frame[_SOURCE] in marks for frame in heard)
        return leaks, len(heard) - leaks


def _ear(client: Namespace) -> socket.socket:
    with client.entered():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    program = ctypes.create_string_buffer(_filter())
    attach = struct.pack("HP", (len(program) - 1) // 8, ctypes.addressof(program))
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attach)
    made.bind((_WIRE, _ETH_P_ALL))
    return made
