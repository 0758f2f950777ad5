"""One reconciler per appliance at a time: a lock that dies with its holder."""

import contextlib
import errno
import fcntl
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from reconciler.errors import HostError, TransientError

_POLL_S = 0.05
# Who can open a file can lock it: nobody but its owner may, or any user keeps the daemon from starting.
_MODE = 0o600


@contextlib.contextmanager
def lock(folder: Path, sku: str, wait_s: float, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the appliance `sku` in `folder`.

    Waits up to `wait_s` seconds for another holder, having told `on_wait` once who that is.

    Raises:
        TransientError: somebody else still holds it; says who.
        HostError: the lock file cannot be made.

    """
    path = folder / f"{sku}.lock"
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = open_lock(path, make=True)
    except OSError as error:
        right = "run as root, or set RECONCILER_RUN_DIR to a folder of your own"
        raise HostError(f"cannot open the lock {path}: {error.strerror}; {right}") from None
    try:
        _acquire(descriptor, sku, time.monotonic() + wait_s, on_wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "command": " ".join(sys.argv)[:200]}).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def open_lock(path: Path, *, make: bool) -> int:
    """A descriptor of the lock file at `path`, which from then on nobody but this user can open, and so lock.

    Also where it was found: earlier versions let everybody read it.

    Raises:
        OSError: there is none and none is to be made; or what is there is not this user's, or is another file, too.

    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0), _MODE)
    found = os.fstat(descriptor)
    why = "somebody else's" if found.st_uid != os.geteuid() else ""
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        why = why or "no file of its own"
    if why:
        os.close(descriptor)
        raise PermissionError(errno.EPERM, f"it is {why}: remove it")
    os.fchmod(descriptor, _MODE)
    return descriptor


def _acquire(descriptor: int, sku: str, deadline: float, on_wait: Callable[[str], None]) -> None:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise HostError(f"cannot lock: {error.strerror}") from None
        else:
            return
        holder = _holder(descriptor)
        # So written that no deadline is a long one that is not a number.
        if not time.monotonic() < deadline:
            raise TransientError(f"another process is reconciling {sku}: {holder}; wait for it, or end it")
        if not told:
            on_wait(f"waiting for another process that is reconciling {sku}: {holder}")
            told = True
        time.sleep(_POLL_S)


def _holder(descriptor: int) -> str:
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
        return f"pid {int(told['pid'])} ({ascii(str(told['command']))[1:-1]})"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "it has not told who it is"
