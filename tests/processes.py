"""Processes that a test starts or looks at: how they end, and whether they have."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# What takes longer than this hangs, also on a busy machine.
PATIENCE_S = 60.0


_IGNORED = "SIGINT SIGHUP SIGQUIT SIGCHLD SIGUSR1"
_BLOCKED = "SIGTERM SIGINT SIGCHLD SIGALRM"
_UNKIND = f"""
import os, signal, sys
for name in {_IGNORED!r}.split():
    signal.signal(getattr(signal, name), signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in {_BLOCKED!r}.split()])
os.execvp(sys.argv[1], sys.argv[1:])
"""
UNKINDLY = (sys.executable, "-c", _UNKIND)
"""Starts a program as the worst of supervisors would: signals ignored and blocked, also the one that tells of children."""


def inherited_signals(lines: Iterable[str]) -> list[set[int]]:
    """The signals that each line of /proc/PID/status names, but for those that the C library keeps to itself.

    It lets nobody set 32 and 33, and some supervisors hand 32 down ignored: no program can give it back.

    """
    numbers = [int(line.split()[1], 16) for line in lines]
    return [{one for one in signal.valid_signals() if mask >> (one - 1) & 1} for mask in numbers]


@contextlib.contextmanager
def ending(process: "subprocess.Popen[Any]") -> Iterator["subprocess.Popen[Any]"]:
    """A program that is killed at the end of the block, unless it has ended: `with Popen` alone would wait for ever."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def children() -> set[int]:
    """The pids of all children of this process, also of those that have ended and were not waited for."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        # A thread may end while we look, and what it started is another's child from then on.
        with contextlib.suppress(OSError):
            found |= set(map(int, (task / "children").read_text().split()))
    return found


def zombies() -> set[int]:
    """The pids of those children that have ended and were not waited for."""
    return set(filter(_has_ended, children()))


def _has_ended(pid: int) -> bool:
    """Whether a child is a zombie. Does not wait for it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False
