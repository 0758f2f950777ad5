"""Asking a running daemon: the other end of its control socket, quick to import."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.errors import HostError, TransientError

SUFFIX = ".sock"
_TIMEOUT_S = 15.0
_MAX_ANSWER = 64 << 20


class NoDaemonError(HostError):
    """No daemon answers."""


def socket_of(folder: Path, sku: str) -> Path:
    """Where the daemon of the appliance `sku` listens."""
    return folder / f"{sku}{SUFFIX}"


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
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(_TIMEOUT_S)
            channel.connect(str(path))
            channel.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_all(channel))
    except TimeoutError:
        raise TransientError(f"the daemon does not answer within {_TIMEOUT_S:g} s; is it hung? See its log") from None
    except PermissionError:
        raise HostError(
            f"may not ask the daemon at {path}: be root, or of the group that `reconcile run --group` names"
        ) from None
    except OSError as error:
        raise NoDaemonError(f"no daemon answers at {path}: {error.strerror}; start it: reconcile run") from None
    except ValueError:
        raise TransientError("the daemon ended while it answered; try again") from None
    if not answer.pop("ok", False):
        raise HostError(str(answer.get("error", "the daemon refused, without a reason")))
    return dict(answer)


def _all(channel: socket.socket) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := channel.recv(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER:
            raise ValueError("endless")
    return b"".join(parts)
