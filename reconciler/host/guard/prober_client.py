"""The daemon's end of the probe sender: finds the one that is there or starts one, gives orders, hears reports.

It has no loop of its own: watch `fileno` for reading, and call `reports`. Nothing here waits. When `alive` is false,
the prober has hung up or ended, hangs, or speaks another language (that of another version); `reason` says which. One
that hangs or is not understood has then been killed. `spawn` starts another when none is there any more.

Never two at a time: they would share the adapters' sockets, and each would hear half of what comes back. Those that
this process knows are ended by descriptors of their processes. Of others (a killed daemon's that nobody can connect to:
still starting, or without its socket's file) the lock tells that each prober inherits, and holds for as long as it
lives; its file names the process. One of which nothing is known but that it holds the lock was started a moment before
its daemon was killed. It has no orders, gets none, and ends by itself.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reconciler.errors import HostError
from reconciler.guard.frames import MIN_BYTES, STAMP_BYTES, Template
from reconciler.guard.orders import DirectionReport, LargeReport, Order, ProberReport
from reconciler.host.guard import prober
from reconciler.host.interpreter import isolated
from reconciler.host.lock import open_lock

_PROGRAM = Path(prober.__file__)
_MAX_MESSAGE = 180_000  # bytes: a report of as many directions as a guard may have
_KIND = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
_MAX_TEXT = 200
_MAX_NUMBER = 1 << 63
_MAX_REPORTS = 64  # reports taken in at once
# Directions, and sockets, in one message: 253 descriptors are the most (SCM_MAX_FD of linux/net/scm.h), and so many
# directions with the longest names and negative canaries of 1,400 bytes still are less than what a socket takes.
_PART = 32
# A few messages of orders at once, for a prober that is busy sending.
_SEND_BYTES = 1 << 20
_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid (linux/socket.h)
_STATES = frozenset({prober.UNPROVEN, prober.BACK, prober.LOST})


class Probing:
    """The prober of the appliance `sku`, whose socket is in `folder`."""

    def __init__(self, folder: Path, sku: str) -> None:
        self.path = folder / f"{sku}.prober"
        self._lock = folder / f"{sku}.prober.lock"
        self.pid: int | None = None
        self.reason = "not started"
        self._socket: socket.socket | None = None
        # Of whoever watches us: a socket that is closed may have its number again as another one a moment later.
        self._ready = select.epoll()
        # Descriptors of processes, so that no other that got the pid is ever killed: the prober's, and those of
        # former ones that have not ended yet, as far as is known.
        self._process = -1
        self._former: list[int] = []

    @property
    def alive(self) -> bool:
        """Whether somebody was there when last heard or spoken to."""
        return self._socket is not None

    def fileno(self) -> int:
        """What to watch for reading: the same whoever is there."""
        return self._ready.fileno()

    def connect(self) -> bool:
        """Take over the prober that is there, a predecessor's. Its report comes at once. Whether there is one."""
        self.close()
        link = socket.socket(socket.AF_UNIX, _KIND | socket.SOCK_NONBLOCK)
        try:
            link.connect(str(self.path))
            pid, uid, _ = _UCRED.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            if uid not in (0, os.geteuid()):
                raise PermissionError
            self._process = os.pidfd_open(pid)
        except OSError:
            link.close()
            return False
        self._take(link)
        self.pid, self.reason = pid, ""
        return True

    def spawn(self) -> bool:
        """Start a prober, if no other is there any more. Whether it was started.

        All others that can be found are killed first. One that was may take a moment to be gone (in a disk's sleep a
        long one): until then nothing is started, nothing waits here, and whoever calls calls again.

        Raises:
            HostError: it cannot be started, or its socket cannot be made.

        """
        # Whoever listens is told to end, too: the file of its socket is about to be another's.
        if self._others_live() or (self.connect() and self._others_live()):
            return False
        ours, theirs = socket.socketpair(socket.AF_UNIX, _KIND)
        ours.setblocking(False)
        with theirs, socket.socket(socket.AF_UNIX, _KIND) as listener:
            lock = -1
            try:
                self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                lock = open_lock(self._lock, make=True)
                if self._is_held(lock):
                    ours.close()
                    return False
                self._bind(listener)
                self.pid = _launch(listener.fileno(), theirs.fileno(), lock)
                os.pwrite(lock, f"{self.pid}".encode(), 0)
                self._process = os.pidfd_open(self.pid)
            except OSError as error:
                ours.close()
                raise HostError(f"cannot start the probe sender ({self.path}): {error}") from None
            finally:
                if lock >= 0:
                    os.close(lock)
        self._take(ours)
        self.reason = ""
        return True

    def _others_live(self) -> bool:
        """Kill all probers that this process knows. Whether one of them has yet to end."""
        if self.alive:
            self._lose("another one is started in its place", kill=True)
        for process in self._former:
            _kill(process)
        self._reap()
        return bool(self._former)

    def _is_held(self, lock: int) -> bool:
        """Take the lock, or have whoever holds it killed. Whether it is somebody else's."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._kill_holder(lock)
            return True
        # Until another one's stands there, nobody is to be killed for it.
        os.ftruncate(lock, 0)
        return False

    def _kill_holder(self, lock: int) -> None:
        try:
            process = os.pidfd_open(int(os.pread(lock, 20, 0)))
        except (ValueError, OverflowError, OSError):
            return
        try:
            # While it is held still, the one who wrote its number there lives, and the number is nobody else's.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            _kill(process)
            self._former.append(process)
        else:
            os.close(process)

    def _take(self, link: socket.socket) -> None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        self._socket = link
        self._ready.register(link, select.EPOLLIN)

    def _bind(self, listener: socket.socket) -> None:
        self.path.unlink(missing_ok=True)
        # Nobody gets in before the mode is what it shall be.
        mask = os.umask(0o177)
        try:
            listener.bind(str(self.path))
        finally:
            os.umask(mask)

    def order(self, directions: Sequence[Order], sockets: Sequence[socket.socket], grace_ms: int) -> None:
        """Have these directions probed instead of all before, until `grace_ms` after the last consent.

        The sockets (of `adapter_socket`) may be closed afterwards. A direction whose name and template stay keeps its
        state and its counters.

        """
        said = [_direction(direction) for direction in directions]
        # Each message is bounded by the kernel, in bytes and in descriptors.
        for number in range(0, max(len(said), len(sockets), 1), _PART):
            part = {"grace_ms": grace_ms, "directions": said[number : number + _PART]}
            if number + _PART < max(len(said), len(sockets)):
                part["more"] = True
            rights = array("i", (one.fileno() for one in sockets[number : number + _PART]))
            self._say(json.dumps(part).encode(), [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else [])

    def consent(self) -> None:
        """Let it go on."""
        self._say(b"{}", [])

    def end(self) -> None:
        """Have whoever is there end at once, and leave nothing behind. Does not wait for its end."""
        if not self.alive:
            self.connect()
        self._say(b'{"end": true}', [])
        self._lose("ended on purpose", kill=True)
        self._others_live()
        with contextlib.suppress(OSError):
            lock = open_lock(self._lock, make=False)
            try:
                self._is_held(lock)
            finally:
                os.close(lock)
        self.path.unlink(missing_ok=True)
        self._lock.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave it to itself and its grace, or to a successor."""
        if self._socket is not None:
            self._ready.unregister(self._socket)
            self._socket.close()
            self._socket = None
        if self._process >= 0:
            self._former.append(self._process)
            self._process = -1
        self._reap()

    def reports(self) -> list[ProberReport]:
        """The reports that came since the last call, oldest first."""
        self._reap()
        reports: list[ProberReport] = []
        while self._socket is not None and len(reports) < _MAX_REPORTS:
            try:
                data = self._socket.recv(_MAX_MESSAGE + 1)
                if not data:
                    # It may as well serve another daemon by now; whoever has the lock on the appliance.
                    self._lose("it has ended, or hung up")
                    break
                said = json.loads(data)
                if "refused" in said:
                    self._lose(f"it refused its orders: {_text(said['refused'])}")
                    break
                reports.append(_report(said))
            except BlockingIOError:
                break
            except OSError as error:
                self._lose(f"it has ended: {error.strerror}")
            except (ValueError, TypeError, LookupError, RecursionError) as error:
                self._lose(f"it speaks nonsense: {error!a:.{_MAX_TEXT}}", kill=True)
        return reports

    def _say(self, message: bytes, beside: list[Any]) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendmsg([message], beside)
        except BlockingIOError:
            self._lose("it hangs: it does not read what it is told", kill=True)
        except OSError as error:
            self._lose(f"it has ended: {error.strerror}")

    def _lose(self, reason: str, *, kill: bool = False) -> None:
        self.reason = reason
        if kill:
            self._end_process()
        self.close()
        self.pid = None

    def _end_process(self) -> None:
        if self._process >= 0:
            _kill(self._process)

    def _reap(self) -> None:
        for process in tuple(self._former):
            # So it is with everybody's process; a child is waited for, too.
            if _is_readable(process):
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, process, os.WEXITED | os.WNOHANG)
                self._former.remove(process)
                os.close(process)


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _kill(process: int) -> None:
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(process, signal.SIGKILL)


def _launch(*inherited: int) -> int:
    """Start the program with these descriptors. Not by `subprocess`, whose objects mind when a child outlives them."""
    # Its own output would be ours, which it outlives. A descriptor that becomes itself stays open.
    null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    kept = [(os.POSIX_SPAWN_DUP2, number, number) for number in inherited]
    program = isolated("-S", str(_PROGRAM), *map(str, inherited))
    return os.posix_spawn(
        program[0],
        program,
        os.environ,
        file_actions=[*null, *kept],
        setsid=True,
        # It ignores them, once it has come so far.
        setsigmask=(signal.SIGINT, signal.SIGHUP),
        setsigdef=(signal.SIGTERM, signal.SIGCHLD),
    )


def _direction(direction: Order) -> dict[str, Any]:
    negative = direction.negative
    return {
        "name": direction.name,
        "out": direction.out,
        "back": direction.back,
        **_stream(direction.template, direction.every_us),
        "lost_us": direction.lost_us,
        "negative": _stream(negative.template, negative.every_us) if negative else None,
        "large": [_stream(one.template, one.every_us) for one in direction.large],
    }


def _stream(template: Template, every_us: int) -> dict[str, Any]:
    # Of what ends in zeros, as frames do that are filled up to a size, these need not be said.
    frame = template.frame.rstrip(b"\0").ljust(max(MIN_BYTES, template.stamp_at + STAMP_BYTES), b"\0")
    size = len(template.frame)
    return {"frame": frame.hex(), "size": size, "stamp_at": template.stamp_at, "every_us": every_us}


def _report(said: dict[str, Any]) -> ProberReport:
    """Raises ValueError, TypeError or LookupError: it is no report."""
    return ProberReport(
        now_us=_number(said["now_us"]),
        directions=tuple(_direction_report(one) for one in said["directions"]),
        late_worst_us=_number(said["late_worst_us"]),
        late=_number(said["late"]),
        missed=_number(said["missed"]),
        stalls=_number(said["stalls"]),
        priority=_text(said["priority"]),
        kept=_text(said["kept"]),
        alone_ms=_number(said["alone_ms"]),
    )


def _direction_report(said: dict[str, Any]) -> DirectionReport:
    head = bytes.fromhex(said["frame"])
    if len(head) != 12 or said["state"] not in _STATES:
        raise ValueError("a direction without a frame or a state")
    rtt = said["rtt_us"]
    least, mean, greatest = (0, 0, 0) if rtt is None else map(_number, rtt)
    return DirectionReport(
        name=_text(said["name"]),
        head=head,
        state=said["state"],
        age_us=None if said["age_us"] is None else _number(said["age_us"]),
        sent=_number(said["sent"]),
        returned=_number(said["returned"]),
        errors=_number(said["errors"]),
        rtt_us=None if rtt is None else (least, mean, greatest),
        negative=_number(said["negative"]),
        # A prober that an earlier version has left tells none.
        large=tuple(LargeReport(*map(_number, one)) for one in said.get("large", ())),
    )


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise ValueError(f"{ascii(value)[:_MAX_TEXT]} is no number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError(f"{ascii(value)[:_MAX_TEXT]} is no text")
    return value
