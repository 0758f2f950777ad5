"""Where things lie on a host: state, locks and sockets."""

import os
from pathlib import Path

DEFAULT_FILE = Path("/etc/reconciler/appliance.yaml")


def state_dir() -> Path:
    """What outlives a process: ``RECONCILER_STATE_DIR``, else /var/lib/reconciler, or a user's own cache folder."""
    if moved := os.environ.get("RECONCILER_STATE_DIR"):
        return Path(moved)
    if os.geteuid() == 0:
        return Path("/var/lib/reconciler")
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "reconciler"


def run_dir() -> Path:
    """What ends with the machine's run: ``RECONCILER_RUN_DIR``, else /run/reconciler."""
    return Path(os.environ.get("RECONCILER_RUN_DIR") or "/run/reconciler")
