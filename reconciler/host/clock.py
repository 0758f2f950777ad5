"""The clocks: one that never steps, and the one on the wall."""

import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now_ms() -> int:
    """Milliseconds since the machine booted, its sleep included: it never steps, and all processes agree on it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    """Milliseconds since 1970, as people and other machines count."""
    return time.time_ns() // 1_000_000


def boot_id() -> str:
    """Another one after each boot of the machine."""
    return _BOOT_ID.read_text(encoding="ascii").strip()
