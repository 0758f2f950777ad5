"""Which programs run on this host."""

import contextlib
from pathlib import Path


def running_programs() -> frozenset[str]:
    """Their names, as the kernel keeps them: 15 characters at most."""
    names: set[str] = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            # It may have ended meanwhile.
            with contextlib.suppress(OSError):
                names.add((folder / "comm").read_text(encoding="utf-8", errors="replace").strip())
    return frozenset(names)
