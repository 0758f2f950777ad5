"""Asking a running daemon: the other end of its control socket, quick to import."""

import contextlib
import hashlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.errors import HostError, TransientError

SUFFIX = ".sock"
# What waits for the disk, for frames to leave the VM, or for a file to be proven; and what is answered at once.
_TIMEOUT_S, _AT_ONCE_S = 15.0, 5.0
_AT_ONCE = ("status", "choice", "audit")
# Who does not answer at once is looked at: a daemon that has not moved between two looks hangs, or was stopped.
_FIRST_LOOK_S, _LOOK_S = 0.25, 0.75
_BUSY_S = 0.02
_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid (linux/socket.h)
_MAX_ANSWER = 64 << 20


class NoDaemonError(HostError):
    """No daemon answers."""


class HungError(TransientError):
    """There is a daemon, and it does not answer."""


def socket_of(folder: Path, sku: str) -> Path:
    """Where the daemon of the appliance `sku` listens."""
    return folder / f"{sku}{SUFFIX}"


def digest(text: bytes) -> str:
    """By which two processes know that they speak of the same file."""
    return hashlib.sha256(text).hexdigest()


def running(folder: Path) -> Iterator[Path]:
    """The sockets of daemons that may be running."""
    try:
        yield from sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))
    except OSError:
        return


def ask(path: Path, **request: Any) -> dict[str, Any]:
    """What the daemon at `path` answers. One that was stopped, or hangs, costs a second.

    Raises:
        NoDaemonError: none listens there.
        HostError: it refuses, or may not be asked; says why.
        HungError: it does not answer.
        TransientError: it ended meanwhile.

    """
    patience = _Patience(at_once=request.get("do") in _AT_ONCE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        try:
            _connect(channel, path, patience)
            patience.watch(channel)
            # One that refuses before it has heard all says so nevertheless.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                channel.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_line(channel, patience))
        except TimeoutError:
            raise patience.over() from None
        except (OSError, ValueError, RecursionError):
            raise TransientError("the daemon ended while it answered; try again") from None
    if not isinstance(answer, dict):
        raise HostError(f"what answers at {path} is no daemon of ours")
    if not answer.pop("ok", False):
        raise HostError(str(answer.get("error", "the daemon refused, without a reason")))
    return answer


class _Patience:
    """How long a daemon is waited for. `at_once`: it is asked for what it has to wait for nobody, so it has to move."""

    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once
        self._seconds = _AT_ONCE_S if at_once else _TIMEOUT_S
        self._end_s = time.monotonic() + self._seconds
        self._look_s = time.monotonic() + _FIRST_LOOK_S
        self._pid = 0
        self._seen: str | None = None
        self._hangs = ""

    @property
    def left_s(self) -> float:
        """Until it is over, or the daemon is to be looked at."""
        return max(min(self._end_s, self._look_s) - time.monotonic(), 0.001)

    def watch(self, channel: socket.socket) -> None:
        """Look at who listens at the other end."""
        self._pid, _, _ = _UCRED.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        channel.settimeout(self.left_s)

    def look(self) -> None:
        """Go on waiting, if there is reason to.

        Raises:
            TimeoutError: there is none.

        """
        now_s = time.monotonic()
        if now_s >= self._end_s:
            raise TimeoutError
        if now_s < self._look_s:
            return
        seen, before = _state(self._pid), self._seen
        self._seen, self._look_s = seen, now_s + _LOOK_S
        # One that cannot be seen is given as long as it takes to see another one twice.
        stopped = seen.startswith(("T", "t"))
        # One that sleeps may be waiting itself, for the disk or for a name, where that is part of the answer.
        if before is not None and seen == before and (stopped or (self._at_once and not seen.startswith("R"))):
            self._hangs = "it was stopped (SIGSTOP)" if stopped else "it hangs; see its log"
            raise TimeoutError

    def over(self) -> HungError:
        """What to say of it."""
        who = f"the daemon (pid {self._pid})" if self._pid else "the daemon"
        return HungError(f"{who} does not answer: {self._hangs or f'not within {self._seconds:g} s; is it hung?'}")


def _state(pid: int) -> str:
    """What of a process changes as soon as it does anything: the state of its first thread, and how often it slept."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        return ""
    moved = [fields.get(f"{how}voluntary_ctxt_switches", "").strip() for how in ("", "non")]
    return " ".join([fields.get("State", "").strip()[:1], *moved])


def _connect(channel: socket.socket, path: Path, patience: _Patience) -> None:
    try:
        # Where too many wait already, the kernel does not let one wait with them, but says so at once.
        while True:
            channel.settimeout(patience.left_s)
            with contextlib.suppress(BlockingIOError):
                channel.connect(str(path))
                return
            patience.look()
            time.sleep(_BUSY_S)
    except TimeoutError:
        raise
    except PermissionError:
        raise HostError(
            f"may not ask the daemon at {path}: be root, or of the group that `reconcile run --group` names"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise NoDaemonError(f"no daemon answers at {path}: {reason}; start it: reconcile run") from None


def _line(channel: socket.socket, patience: _Patience) -> bytes:
    """The answer: one line, of a bounded size, in a bounded time."""
    parts: list[bytes] = []
    size = 0
    while True:
        channel.settimeout(patience.left_s)
        try:
            part = channel.recv(1 << 16)
        except TimeoutError:
            patience.look()
            continue
        if size:
            patience.look()
        parts.append(part)
        size += len(part)
        if not part or part.endswith(b"\n"):
            return b"".join(parts)
        if size > _MAX_ANSWER:
            raise ValueError("endless")
