"""The clocks: one that never steps, and the one on the wall."""

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now_ms() -> int:
    """Milliseconds since the machine booted, its sleep included: it never steps, and all processes agree on it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    """Milliseconds since 1970, as people and other machines count."""
    return time.time_ns() // 1_000_000


@cache
def boot_id() -> str:
    """Another one after each boot of the machine."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def synchronised() -> bool:
    """Whether the kernel takes the wall clock for right: adjtimex(2), without STA_UNSYNC and TIME_ERROR.

    Whoever keeps the time (chronyd, ntpd, systemd-timesyncd) tells it so.
    """
    import ctypes

    asked = ctypes.create_string_buffer(_TIMEX_BYTES)  # `modes` is zero: nothing is set
    return 0 <= _adjtimex()(asked) < _TIME_ERROR


_TIMEX_BYTES = 512  # struct timex has 208
_TIME_ERROR = 5


@cache
def _adjtimex() -> Callable[[Any], int]:
    import ctypes

    function: Callable[[Any], int] = ctypes.CDLL(None).adjtimex
    return function
