"""Asking a running daemon: the other end of its control socket, quick to import."""

import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.errors import HostError, TransientError

SUFFIX = ".sock"
_TIMEOUT_S = 15.0
_BUSY_S = 0.02
_MAX_ANSWER = 64 << 20


class NoDaemonError(HostError):
    """No daemon answers."""


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
    """What the daemon at `path` answers.

    Raises:
        NoDaemonError: none listens there.
        HostError: it refuses, or may not be asked; says why.
        TransientError: it does not answer in time.

    """
    deadline = time.monotonic() + _TIMEOUT_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.settimeout(_TIMEOUT_S)
            _connect(channel, path, deadline)
            # One that refuses before it has heard all says so nevertheless.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                channel.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_line(channel, deadline))
        except TimeoutError:
            right = "is it hung? See its log"
            raise TransientError(f"the daemon does not answer within {_TIMEOUT_S:g} s; {right}") from None
        except (OSError, ValueError, RecursionError):
            raise TransientError("the daemon ended while it answered; try again") from None
    if not isinstance(answer, dict):
        raise HostError(f"what answers at {path} is no daemon of ours")
    if not answer.pop("ok", False):
        raise HostError(str(answer.get("error", "the daemon refused, without a reason")))
    return answer


def _connect(channel: socket.socket, path: Path, deadline: float) -> None:
    try:
        # Where too many wait already, the kernel does not let one wait with them, but says so at once.
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                channel.connect(str(path))
                return
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
    raise TimeoutError


def _line(channel: socket.socket, deadline: float) -> bytes:
    """The answer: one line, of a bounded size, in a bounded time."""
    parts: list[bytes] = []
    size = 0
    while True:
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        part = channel.recv(1 << 16)
        parts.append(part)
        size += len(part)
        if not part or part.endswith(b"\n"):
            return b"".join(parts)
        if size > _MAX_ANSWER:
            raise ValueError("endless")
