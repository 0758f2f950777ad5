"""What only ioctls can do: a persistent tap, and the driver of a NIC. Numbers are those of if_tun.h and ethtool.h."""

import array
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple, Self

_TUN = "/dev/net/tun"
_IFF_TAP, _IFF_NO_PI, _IFF_TUN_EXCL = 0x0002, 0x1000, 0x8000
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_SIOCETHTOOL, _ETHTOOL_GDRVINFO = 0x8946, 0x3
_DRVINFO_BYTES = 196


def make_tap(name: str, before_persistent: Callable[[], None]) -> None:
    """Create a persistent tap.

    `before_persistent` runs while the tap exists but would vanish with this process: the place to mark it, so that no
    moment leaves an unmarked tap behind.

    Raises:
        OSError: as the kernel says.

    """
    descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _ifreq(name, _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL))
        before_persistent()
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def persist_tap(name: str) -> None:
    """Make an existing tap persistent again.

    Raises:
        OSError: as the kernel says; EBUSY while the VM holds its only queue.

    """
    descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _ifreq(name, _IFF_TAP | _IFF_NO_PI))
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def _ifreq(name: str, flags: int) -> bytes:
    return struct.pack("16sH22x", name.encode(), flags)


class Driver(NamedTuple):
    """Who drives a NIC, and where on which bus it is; '' where it has none."""

    name: str
    bus: str


class DriverInfo:
    """Asks for the drivers of NICs, by one socket. Works without privileges."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def of(self, interface: str) -> Driver | None:
        """The driver of an interface; None where it tells none."""
        info = array.array("B", struct.pack("=I", _ETHTOOL_GDRVINFO) + bytes(_DRVINFO_BYTES - 4))
        request = struct.pack("16sP16x", interface.encode(), info.buffer_info()[0])
        try:
            fcntl.ioctl(self._socket, _SIOCETHTOOL, request)
        except OSError:
            return None
        told = info.tobytes()
        # struct ethtool_drvinfo: cmd, driver[32], version[32], fw_version[32], bus_info[32]
        return Driver(_text(told[4:36]), _text(told[100:132]))


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")
