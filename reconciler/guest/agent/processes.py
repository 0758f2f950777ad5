"""The processes of this VM, as /proc has them."""

from __future__ import annotations

import os
import signal

from reconciler.guest.agent.readings import FAILED, HEALTHY, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.guest.agent.readings import Reading


def read_text(path: str, limit: int = 4096) -> str:
    """Return the beginning of a small file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(limit).strip()


def process_stat(pid: int) -> tuple[str, str, int, int] | None:
    """Return a process's name, state letter, parent and start time (proc(5)), or None if there is none."""
    try:
        text = read_text(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, fields[0], int(fields[1]), int(fields[19])


def processes() -> Iterator[tuple[int, tuple[str, str, int, int]]]:
    """Yield pid and stat of each process but this one."""
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        about = process_stat(pid)
        if about is not None and pid != os.getpid():
            yield pid, about


def kill_children() -> None:
    """Kill whatever programs run for checks at this moment, with their process groups."""
    for pid, (_, _, parent, _) in processes():
        if parent == os.getpid():
            try:
                os.killpg(pid, signal.SIGKILL)
            except OSError:
                pass  # it has just ended, or is another user's


def is_named(pid: int, comm: str, name: str) -> bool:
    """Return whether a process is called so, by the kernel (15 characters) or by its command line."""
    if comm == name[:15]:
        return True
    try:
        return os.path.basename(read_text(f"/proc/{pid}/cmdline").split("\0")[0]) == name
    except OSError:
        return False


def find_process(name: str) -> int | None:
    """Return the oldest living process of that name."""
    found = []
    for pid, (comm, state, _, started) in processes():
        if state not in "ZX" and is_named(pid, comm, name):
            found.append((started, pid))
    return min(found)[1] if found else None


def judge_process(pid: int, name: str) -> Reading:
    """Tell whether a process runs: not dead, not a zombie, not stopped, not another one that got its pid."""
    about = process_stat(pid)
    if about is None:
        return FAILED, f"no process {pid}"
    if about[1] in "ZX":
        return FAILED, f"pid {pid} is a zombie"
    if name and not is_named(pid, about[0], name):
        return FAILED, f"pid {pid} is {about[0]}, not {name}"
    if about[1] == "T":
        return FAILED, f"pid {pid} is stopped"
    return HEALTHY, f"pid {pid} is alive"
