"""What the kernel tells of a host's links, and when: what happened to the wire, without a word of whoever did it.

The listener is a program of its own, started by its path with ``python -I -S``: it imports nothing from this package,
and no thread of the bench keeps it from looking at the clock.
"""

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from reconciler.lab.namespaces import Namespace

# linux/rtnetlink.h, linux/if_link.h, linux/if.h: a message is a header of 16 bytes, struct ifinfomsg of 16, and
# attributes.
_RTMGRP_LINK = 1
_RTM_NEWLINK = 16
_IFLA_IFNAME = 3
_IFLA_MASTER = 10
_IFF_LOWER_UP = 0x10000
_HEADER = struct.Struct("=4xH14xiI")  # type of the message; index and flags of the link
_ATTRIBUTES = 32
_MAX_MESSAGE = 65_536
_END_S = 10.0


class Links:
    """Hears the links of a namespace from the moment when it is made. Times are in ns of CLOCK_REALTIME."""

    def __init__(self, namespace: "Namespace") -> None:
        near, far = socket.socketpair()
        with far:
            self._listener = namespace.spawn([sys.executable, "-I", "-S", __file__], stdin=far, stdout=far)
        self._near = near
        self._lines = near.makefile("r", encoding="utf-8")
        self._lines.readline()  # it listens
        with namespace.entered():
            self._names = dict(socket.if_nameindex())
        self._told: list[tuple[int, str, bool, str | None]] = []
        self._reader = threading.Thread(target=self._read, name="links")
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What is read ends with the listener.
        self._listener.kill()
        self._listener.wait(_END_S)
        self._reader.join(_END_S)
        self._lines.close()
        self._near.close()

    def _read(self) -> None:
        for line in self._lines:
            at_ns, name, carrier, master = json.loads(line)
            self._told.append((at_ns, name, carrier, self._names.get(master)))

    def lost(self, names: Iterable[str], since_ns: int) -> int | None:
        """When the first of these links was told to have no carrier; None: it was not yet."""
        wanted = set(names)
        return next((at for at, name, up, _ in self._told if at >= since_ns and name in wanted and not up), None)

    def moved(self, names: Iterable[str], switch: str, since_ns: int) -> int | None:
        """When the last of these links was told to be in a switch, which had its name before this was made."""
        first: dict[str, int] = {}
        for at, name, _, master in self._told:
            if at >= since_ns and master == switch:
                first.setdefault(name, at)
        came = [first.get(name) for name in names]
        return None if None in came else max(at for at in came if at is not None)


def _listen() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as links:
        links.bind((0, _RTMGRP_LINK))
        print("listens", flush=True)
        while True:
            message = links.recv(_MAX_MESSAGE)
            at_ns = time.time_ns()
            kind, _, flags = _HEADER.unpack_from(message)
            if kind == _RTM_NEWLINK:
                found = dict(_attributes(message))
                name = found[_IFLA_IFNAME].rstrip(b"\0").decode()
                master = int.from_bytes(found.get(_IFLA_MASTER, b""), sys.byteorder)
                print(json.dumps([at_ns, name, bool(flags & _IFF_LOWER_UP), master]), flush=True)


def _attributes(message: bytes) -> Iterable[tuple[int, bytes]]:
    place = _ATTRIBUTES
    while place + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, place)
        yield kind, message[place + 4 : place + length]
        place += max(4, length + 3 & ~3)


if __name__ == "__main__":
    _listen()
