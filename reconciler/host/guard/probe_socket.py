"""A packet socket on an adapter that hears nothing but our own probes, whatever else passes there."""

import contextlib
import socket

from reconciler.errors import HostError
from reconciler.host.packet_filter import LOAD_BYTE, LOAD_WORD, attach

SECRET = 5
"""Bytes of a mark that are the same for all probes of a guard; the sixth is the direction's number."""

# asm-generic/socket.h, linux/if_packet.h, linux/if_ether.h; the socket module does not have them.
_SO_LOCK_FILTER = 44
_SO_TIMESTAMPNS = 35
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_ETH_P_ALL = 3

_SOURCE = 6  # where an Ethernet frame has its source address
_WHOLE = 0xFFFF

# Some eighty small frames: two seconds of two probes in flight. A VM that floods us with our own mark fills no more.
_RECEIVE_BYTES = 65_536


def adapter_socket(interface: str, mark: bytes) -> socket.socket:
    """A non-blocking packet socket that sends out of `interface` and hears the probes that arrive there.

    It hears what comes in with the first `SECRET` bytes of `mark` (6 bytes) as source, before any rule of nftables
    sees it, with the kernel's time of arrival (SO_TIMESTAMPNS). The filter is locked: whoever gets the socket cannot
    make it hear more.

    Raises:
        HostError: there is no such interface, or the kernel refuses.

    """
    # Protocol 0: nothing is queued before the filter is in place.
    try:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except OSError as error:
        raise HostError(f"cannot open a packet socket: {error.strerror}; it takes the capability CAP_NET_RAW") from None
    try:
        secret = ((LOAD_WORD, _SOURCE, int.from_bytes(mark[:4], "big")), (LOAD_BYTE, _SOURCE + 4, mark[4]))
        attach(made, secret, _WHOLE)
        made.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        # Spares the filter what we send. A kernel before 4.20 does not have it; the filter refuses that, too.
        with contextlib.suppress(OSError):
            made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        # Every protocol, because a socket for one is blind on the port of a bridge.
        made.bind((interface, _ETH_P_ALL))
    except OSError as error:
        made.close()
        raise HostError(f"cannot hear probes on {interface}: {error.strerror}") from None
    return made
