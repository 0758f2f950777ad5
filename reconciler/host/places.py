"""Where things lie on a host: state, locks and sockets."""

import os
import sys
from pathlib import Path

from reconciler.errors import HostError

DEFAULT_FILE = Path("/etc/reconciler/appliance.yaml")


def state_dir() -> Path:
    """What outlives a process: ``RECONCILER_STATE_DIR``, else /var/lib/reconciler, or a user's own cache folder."""
    if moved := os.environ.get("RECONCILER_STATE_DIR"):
        return Path(moved)
    if os.geteuid() == 0:
        return Path("/var/lib/reconciler")
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        # A user without a home: nothing is remembered.
        cache = "/nonexistent"
    return Path(cache) / "reconciler"


def run_dir() -> Path:
    """What ends with the machine's run: ``RECONCILER_RUN_DIR``, else /run/reconciler."""
    return Path(os.environ.get("RECONCILER_RUN_DIR") or "/run/reconciler")


def read_file(file: Path) -> bytes:
    """The content of a file that the user named; ``-`` is standard input.

    Raises:
        HostError: it cannot be read; says why.

    """
    if str(file) == "-" and sys.stdin is None:
        raise HostError("cannot read -: standard input is closed")
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        hint = "; name one with -f, or write one: reconcile discover" if file == DEFAULT_FILE else ""
        raise HostError(f"cannot read {file}: {error.strerror}{hint}") from None
