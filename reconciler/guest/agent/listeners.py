"""Sockets to which the host connects to hear the beats."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct

from reconciler.guest.agent.channel import MAX_INPUT, Channel, Device
from reconciler.guest.agent.readings import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.guest.agent.readings import Log

MAX_ACCEPTS = 4  # connections taken per beat
HOST_CID = 2  # VMADDR_CID_HOST of linux/vm_sockets.h
SIOCOUTQ = 0x5411  # linux/sockios.h


class Listener(Channel):
    """A socket to which the host connects. One host at a time: the newest, because the one before may be gone."""

    _listener: socket.socket | None = None

    def close(self) -> None:
        """Let go of the host and of the socket."""
        if self._listener is not None:
            self._listener.close()
        super().close()

    def _listen(self) -> socket.socket:
        raise NotImplementedError

    def _trusted(self, _address: object) -> bool:
        return True

    def _lost(self) -> bool:
        """Return whether nobody can find the socket any more."""
        return False

    def _connect(self) -> None:
        if self._listener is not None and self._fd is None and self._lost():
            self._listener.close()
            self._listener = None
        if self._listener is None:
            self._listener = self._listen()
            self._listener.setblocking(False)
            self._say("listening")
        for _ in range(MAX_ACCEPTS):
            try:
                peer, address = self._listener.accept()
            except OSError as error:
                if self._fd is None and not isinstance(error, BlockingIOError):
                    raise
                return
            if self._trusted(address):
                peer.setblocking(False)
                self._disconnect("another connection")
                self._fd = peer.detach()
                self._say("connected")
            peer.close()

    def _discard_input(self, fd: int) -> None:
        try:
            if not os.read(fd, MAX_INPUT):
                self._disconnect("listening")
        except BlockingIOError:
            pass

    def _unread(self, fd: int) -> bool:
        try:
            (waiting,) = struct.unpack("i", fcntl.ioctl(fd, SIOCOUTQ, bytes(4)))
        except OSError:  # vsock has it in newer kernels only
            return False
        return bool(waiting)


class UnixListener(Listener):
    """A unix socket, for a VM that is a container."""

    _inode: tuple[int, int] | None = None

    def close(self) -> None:
        """Let go of all, and remove the socket."""
        if self._listener is not None and not self._lost():
            os.unlink(self._name)
        super().close()

    def _listen(self) -> socket.socket:
        if self._identity() is not None:
            os.unlink(self._name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self._name)
            os.chmod(self._name, 0o600)  # before listen(), until which nobody can connect
            listener.listen(MAX_ACCEPTS)
        except BaseException:
            listener.close()
            raise
        self._inode = self._identity()
        return listener

    def _lost(self) -> bool:
        return self._identity() != self._inode

    def _identity(self) -> tuple[int, int] | None:
        try:
            about = os.lstat(self._name)
        except FileNotFoundError:
            return None
        return (about.st_dev, about.st_ino) if stat.S_ISSOCK(about.st_mode) else None


class VsockListener(Listener):
    """A vsock port, to which only the host may connect."""

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            listener.bind((socket.VMADDR_CID_ANY, int(self._name)))
            listener.listen(MAX_ACCEPTS)
        except BaseException:
            listener.close()
            raise
        return listener

    def _trusted(self, address: object) -> bool:
        return isinstance(address, tuple) and address[0] == HOST_CID


def open_channel(name: str, log: Log) -> Channel:
    """Return the channel of a valid name."""
    kind, _, rest = name.partition(":")
    if kind == "unix":
        return UnixListener(rest, log)
    return VsockListener(rest, log) if kind == "vsock" else Device(name, log)
