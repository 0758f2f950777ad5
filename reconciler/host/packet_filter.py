"""Which frames a packet socket hears: classic BPF, which the kernel runs on each."""

import socket
import struct
from array import array
from collections.abc import Sequence

# asm-generic/socket.h; the socket module does not have it.
_SO_ATTACH_FILTER = 26
# linux/filter.h, linux/bpf_common.h: loads by absolute offset, jump if equal, return a constant.
LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
_JUMP_EQUAL, _RETURN = 0x15, 0x06
_PACKET_TYPE = 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PKTTYPE


def attach(to: socket.socket, wanted: Sequence[tuple[int, int, int]], keep: int) -> None:
    """Have a packet socket hear only what comes in and has these values, each loaded by `LOAD_...` from an offset.

    `keep`: so many bytes of each frame.

    Raises:
        OSError: the kernel refuses.

    """
    program = array("B", _program(wanted, keep))
    address, _ = program.buffer_info()
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program) // 8, address))


def _program(wanted: Sequence[tuple[int, int, int]], keep: int) -> bytes:
    program: list[tuple[int, int, int, int]] = []
    refuse = 2 * len(wanted) + 3
    for load, offset, value in wanted:
        program.append((load, 0, 0, offset))
        program.append((_JUMP_EQUAL, 0, refuse - len(program) - 1, value))
    program.append((LOAD_BYTE, 0, 0, _PACKET_TYPE))
    program.append((_JUMP_EQUAL, 1, 0, socket.PACKET_OUTGOING))
    program.append((_RETURN, 0, 0, keep))
    program.append((_RETURN, 0, 0, 0))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
