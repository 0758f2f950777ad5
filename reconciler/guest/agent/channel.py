"""Descriptors that take beats: the device by which they reach the host, and the watchdog."""

from __future__ import annotations

import errno
import os
import stat

from reconciler.guest.agent.readings import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.guest.agent.readings import Log

MAX_INPUT = 4096  # bytes from the host that are read per beat


class Channel:
    """A descriptor that takes beats, or does not; it is opened again for ever."""

    def __init__(self, name: str, log: Log) -> None:
        self._name = name
        self._log = log
        self._said = ""
        self._fd: int | None = None
        self._rest = b""  # of a line that was begun

    def send(self, line: bytes) -> bool:
        """Send a beat now or never; return whether it was sent."""
        try:
            self._connect()
            if self._fd is not None:
                self._discard_input(self._fd)
            if self._fd is None or self._unread(self._fd):
                return False
            while self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
            self._rest = line[os.write(self._fd, line) :]
        except BlockingIOError:
            return False
        except OSError as error:
            self._disconnect(error.strerror or repr(error))
            return False
        return True

    def close(self) -> None:
        """Let go of the channel."""
        self._disconnect("closed")

    def _connect(self) -> None:
        raise NotImplementedError

    def _discard_input(self, fd: int) -> None:
        try:
            os.read(fd, MAX_INPUT)
        except BlockingIOError:
            pass

    def _unread(self, _fd: int) -> bool:
        """Return whether the host has not even read the last beat, as far as this can be known."""
        return False

    def _disconnect(self, why: str) -> None:
        self._rest = b""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        self._say(why)

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._log(f"{self._name}: {text}")


class Device(Channel):
    """A character device: a port of virtio-serial, whose other end is a socket on the host."""

    def _connect(self) -> None:
        if self._fd is not None:
            return
        # O_NONBLOCK, because writing blocks while the host is not connected.
        fd = os.open(self._name, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.ENODEV, "not a character device")
        self._fd = fd
        self._say("open")


class Watchdog(Channel):
    """A kernel watchdog, which resets the VM unless it is petted. Opening it arms it; `V` then closing disarms it."""

    def _connect(self) -> None:
        if self._fd is None:
            self._fd = os.open(self._name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._say("armed")

    def _discard_input(self, fd: int) -> None:
        """There is none."""

    def discard(self) -> None:
        """Let the VM live on without this agent."""
        if self._fd is not None:
            self.send(b"V")
