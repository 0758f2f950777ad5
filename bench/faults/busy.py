"""Programs that burden the machine, for a bounded time."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.lab.namespaces import Namespace

_GIB = 2**30
# It ends by its own clock, by its share of the processor, and with us, whichever is first.
_SPIN = """
import os, resource, sys, time
seconds, priority = float(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1,) * 2)
if priority:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
end = time.monotonic() + seconds
while time.monotonic() < end:
    pass
"""
_FILL = """
import resource, sys, time
seconds, size = float(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (size + 2**28,) * 2)
end = time.monotonic() + seconds
while time.monotonic() < end:
    filled = b"x" * size
    del filled
"""


@contextlib.contextmanager
def spinning(place: Namespace, seconds: float, *, priority: int = 0, each: int = 1) -> Iterator[None]:
    """Busy loops, `each` on every core. `priority`: real-time (SCHED_FIFO), above all that is not; 0: none."""
    count = (os.cpu_count() or 1) * each
    with _running(place, count, _SPIN, seconds, priority):
        yield


@contextlib.contextmanager
def filling(place: Namespace, seconds: float, size: int = 4 * _GIB) -> Iterator[None]:
    """So many bytes of memory filled, let go, and filled again; a quarter of what is free, if that is less."""
    free = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemAvailable:")
    )
    with _running(place, 1, _FILL, seconds, min(size, free // 4)):
        yield


@contextlib.contextmanager
def _running(place: Namespace, count: int, program: str, *arguments: object) -> Iterator[None]:
    argv = [sys.executable, "-I", "-S", "-c", program, *map(str, arguments)]
    running: list[subprocess.Popen[Any]] = []
    try:
        while len(running) < count:
            running.append(place.spawn(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        yield
    finally:
        for one in running:
            one.kill()
        for one in running:
            one.wait()
