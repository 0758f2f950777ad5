"""Programs that run for checks, with their limits of time."""

from __future__ import annotations

import errno
import os
import select
import signal
import time

from reconciler.guest.agent.readings import CannotRun

# What Python and `nohup` have this process ignore, and the programs that it starts must not.
INHERITED = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]


def spawn(argv: list[str], output: int) -> int:
    """Start a program in a process group of its own and return its pid, without subprocess, which costs memory."""
    actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, output, number) for number in (1, 2)]  # type: ignore[misc]
    try:
        return os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions, setpgroup=0, setsigdef=INHERITED)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise CannotRun("cannot start a process") from error
        raise


def run(argv: list[str], deadline: float) -> tuple[int, str]:
    """Run a program; return its exit status (negative: killed by that signal) and the beginning of its output.

    It is killed at the deadline. In any case, whatever it left behind in its process group is killed.
    """
    out, far = os.pipe()
    try:
        try:
            pid = spawn(argv, far)
        finally:
            os.close(far)
        try:
            output = read_until_exit(pid, out, deadline)
        finally:
            os.killpg(pid, signal.SIGKILL)  # the leader is not reaped yet, so the group is still its own
            status = os.waitpid(pid, 0)[1]
    finally:
        os.close(out)
    return (-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)), output


def read_until_exit(pid: int, out: int, deadline: float) -> str:
    """Return the beginning of what a child writes until it ends. It may close its output before, or leave it open."""
    output = b""
    poller = select.poll()
    poller.register(out, select.POLLIN)
    step_s = 0.05
    while True:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        left_s = seconds_left(deadline)
        if poller.poll(0 if ended else min(step_s, left_s) * 1000):
            chunk = os.read(out, 4096)
            output = (output + chunk)[:4096]
            if not chunk:
                poller.unregister(out)
                step_s = 0.002
        elif ended:
            return output.decode("utf-8", "replace")


def seconds_left(deadline: float) -> float:
    """Return how long it is until the deadline; raise TimeoutError if it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
