"""Hearing that links changed: when, never what. Whoever is told looks again."""

import errno
import socket

# linux/rtnetlink.h: bind() takes groups as a bit mask. Addresses, and that IPv6 is on again, are no part of what is
# told of a link; and a wire has neither.
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFINFO = 1 << 0, 1 << 4, 1 << 11
_SO_RCVBUFFORCE = 33
_RECEIVE = 1 << 16
# A storm that fills this is told by ENOBUFS, which says the same as any event: look again.
_BUFFER = 1 << 20
_READS_AT_ONCE = 256


class Watch:
    """A socket that becomes readable when any link of the calling thread's network namespace changes."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFINFO))
        self.lost = 0
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except OSError:
            # Without the privilege for more, the default size has to do.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take what has come, a bounded number of datagrams at a time; whether there was anything.

        `lost` counts how often the kernel had more to tell than the buffer holds.
        """
        heard = False
        for _ in range(_READS_AT_ONCE):
            try:
                self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return heard
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
            heard = True
        return heard

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
