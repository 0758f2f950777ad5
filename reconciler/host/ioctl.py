"""What only ioctls can do: a persistent tap; a NIC's driver and its large receive offload.

Numbers are those of if_tun.h, sockios.h and ethtool.h.
"""

import array
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple, Self

_TUN = "/dev/net/tun"
_IFF_TAP, _IFF_NO_PI, _IFF_TUN_EXCL = 0x0002, 0x1000, 0x8000
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_ROOT = 0
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO, _ETHTOOL_GFLAGS, _ETHTOOL_SFLAGS = 0x3, 0x25, 0x26
_ETHTOOL_GGRO = 0x2B
_ETH_FLAG_LRO = 1 << 15
_DRVINFO_BYTES = 196
_ETHTOOL_VALUE = struct.Struct("=II")  # struct ethtool_value: cmd, data


def make_tap(name: str, before_persistent: Callable[[], None]) -> None:
    """Create a persistent tap, which nobody but root can attach to (or who has CAP_NET_ADMIN).

    `before_persistent` runs while the tap exists but would vanish with this process: the place to mark it, so that no
    moment leaves an unmarked tap behind.

    Raises:
        OSError: as the kernel says.

    """
    descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _ifreq(name, _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL))
        before_persistent()
        _keep(descriptor)
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
        _keep(descriptor)
    finally:
        os.close(descriptor)


def _keep(descriptor: int) -> None:
    # Before it can be found without us: a tap without an owner is for whoever can open /dev/net/tun, on most systems
    # everybody. Who attaches while the VM is away is the VM, to the host and to the guard.
    fcntl.ioctl(descriptor, _TUNSETOWNER, _ROOT)
    fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)


def _ifreq(name: str, flags: int) -> bytes:
    return struct.pack("16sH22x", name.encode(), flags)


class Driver(NamedTuple):
    """Who drives a NIC, and where on which bus it is; '' where it has none."""

    name: str
    bus: str


class Ethtool:
    """Speaks to the drivers of NICs, by one socket, in the network namespace that the thread was in when it was made.

    Asking works without privileges.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def driver(self, interface: str) -> Driver | None:
        """The driver of an interface; None where it tells none."""
        try:
            answer = self._call(interface, struct.pack("=I", _ETHTOOL_GDRVINFO) + bytes(_DRVINFO_BYTES - 4))
        except OSError:
            return None
        # struct ethtool_drvinfo: cmd, driver[32], version[32], fw_version[32], bus_info[32]
        return Driver(_text(answer[4:36]), _text(answer[100:132]))

    def lro(self, interface: str) -> bool | None:
        """Whether large receive offload is on; False also where there is none, None where nothing is told."""
        try:
            return bool(self._flags(interface) & _ETH_FLAG_LRO)
        except OSError:
            return None

    def gro(self, interface: str) -> bool | None:
        """Whether generic receive offload is on; None where nothing is told."""
        try:
            return bool(_ETHTOOL_VALUE.unpack(self._call(interface, _ETHTOOL_VALUE.pack(_ETHTOOL_GGRO, 0)))[1])
        except OSError:
            return None

    def set_lro(self, interface: str, on: bool) -> None:
        """Turn large receive offload on or off.

        Raises:
            OSError: as the kernel says; EOPNOTSUPP where it cannot be had, or not be turned off.

        """
        flags = self._flags(interface)
        flags = flags | _ETH_FLAG_LRO if on else flags & ~_ETH_FLAG_LRO
        self._call(interface, _ETHTOOL_VALUE.pack(_ETHTOOL_SFLAGS, flags))

    def _flags(self, interface: str) -> int:
        answer: int = _ETHTOOL_VALUE.unpack(self._call(interface, _ETHTOOL_VALUE.pack(_ETHTOOL_GFLAGS, 0)))[1]
        return answer

    def _call(self, interface: str, command: bytes) -> bytes:
        """What the kernel makes of a command, whose structure it answers in."""
        answer = array.array("B", command)
        request = struct.pack("16sP16x", interface.encode(), answer.buffer_info()[0])
        fcntl.ioctl(self._socket, _SIOCETHTOOL, request)
        return answer.tobytes()


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")
