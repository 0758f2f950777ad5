"""Where things lie on a host: state, locks and sockets."""

import os
import sys
from pathlib import Path

from reconciler.errors import HostError

DEFAULT_FILE = Path("/etc/reconciler/appliance.yaml")

# The recorded state of a host with 10,000 interfaces has 8 MB. The appliance file has a bound of its own.
_MAX_BYTES = 33_554_432


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


def ledger_dir() -> Path:
    """Where the daemon writes its ledger, whoever asks: ``RECONCILER_STATE_DIR``, else /var/lib/reconciler."""
    return Path(os.environ.get("RECONCILER_STATE_DIR") or "/var/lib/reconciler")


def run_dir() -> Path:
    """What ends with the machine's run: ``RECONCILER_RUN_DIR``, else /run/reconciler."""
    return Path(os.environ.get("RECONCILER_RUN_DIR") or "/run/reconciler")


def read_file(file: Path) -> bytes:
    """The content of a file that the user named; ``-`` is standard input.

    Raises:
        HostError: it cannot be read, or is larger than anything that is read here; says why.

    """
    if str(file) == "-" and sys.stdin is None:
        raise HostError("cannot read -: standard input is closed")
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        hint = "; name one with -f, or write one: reconcile discover" if file == DEFAULT_FILE else ""
        raise HostError(f"cannot read {file}: {error.strerror}{hint}") from None
    if len(data) > _MAX_BYTES:
        raise HostError(f"cannot read {file}: it has more than {_MAX_BYTES} bytes; is it the file that you meant?")
    return data
