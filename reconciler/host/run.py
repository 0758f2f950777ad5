"""Running a program of the vendor's, with a bound on everything: its time, its output, and what it leaves behind.

No shell, no standard input, an environment of our own, a session of its own. Blocking, and so for a worker: it waits
for the program, its output and a word from outside (`Run.stop`) at once.

The process is not reaped before its group was killed: until then nobody else can have its number.
"""

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

from reconciler.errors import HostError

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_MAX_OUTPUT = 65_536  # bytes in all; whoever says more is stopped
_KEPT = 4096  # bytes of each stream: the first of stdout, the last of stderr


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. `status`: its exit status, or minus the signal that killed it."""

    status: int
    out: str
    err: str
    late: bool = False
    flooded: bool = False
    stopped: bool = False

    def __str__(self) -> str:
        """For people: ``exit status 2: no such disk``."""
        if self.flooded:
            how = f"killed: it wrote more than {_MAX_OUTPUT} bytes"
        elif self.late:
            how = "killed: it took too long"
        elif self.status < 0:
            how = f"killed by signal {-self.status}"
        else:
            how = f"exit status {self.status}"
        said = (self.err.strip() or self.out.strip()).splitlines()
        return f"{how}: {said[-1].strip()}" if said else how


class Run:
    """One run of a program."""

    def __init__(self, argv: tuple[str, ...], timeout_s: float, *, leave_children: bool) -> None:
        """`leave_children`: what it started may live on if it ends well: a VM, say."""
        self._argv, self._timeout_s, self._leave_children = argv, timeout_s, leave_children
        self._stopped = False
        self._stop: int | None = None  # while it runs: what wakes the worker
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Kill it, from any thread, as soon as it runs; if it has ended, nothing."""
        with self._lock:
            self._stopped = True
            if self._stop is not None:
                os.eventfd_write(self._stop, 1)

    def __call__(self) -> Ended:
        """Run it to its end.

        Raises:
            HostError: it cannot be started.

        """
        with self._lock:
            stop = self._stop = os.eventfd(int(self._stopped), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            return self._run(stop)
        finally:
            with self._lock:
                os.close(stop)
                self._stop = None

    def _run(self, stop: int) -> Ended:
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            raise HostError(f"{self._argv[0]} cannot be started: {getattr(error, 'strerror', None) or error}") from None
        with process:
            watch = os.pidfd_open(process.pid)
            try:
                output = _Output(process)
                why = self._attend(watch, stop, output)
            finally:
                os.close(watch)
                if not (self._leave_children and _ended_well(process.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
            return output.ended(process.wait(), why)

    def _attend(self, watch: int, stop: int, output: "_Output") -> str:
        """Wait until it ended by itself (''), or why it shall be ended."""
        poller = select.poll()
        for descriptor in (watch, stop, *output.streams):
            poller.register(descriptor, select.POLLIN)
        end_s = time.monotonic() + self._timeout_s
        while (left_s := end_s - time.monotonic()) > 0:
            ready = {descriptor for descriptor, _ in poller.poll(left_s * 1000)}
            if stop in ready:
                return "stopped"
            for descriptor in ready & output.streams.keys():
                if not output.read(descriptor):
                    poller.unregister(descriptor)
            if output.total > _MAX_OUTPUT:
                return "flooded"
            if watch in ready:
                output.rest()
                return ""
        return "late"


def _ended_well(pid: int) -> bool:
    """Whether a child has ended with 0. Does not reap it."""
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return info is not None and info.si_code == os.CLD_EXITED and info.si_status == 0


class _Output:
    """What a program said, as much of it as is kept."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None  # noqa: S101  # for mypy: it was asked for
        assert process.stderr is not None  # noqa: S101
        self._out, self._err = process.stdout.fileno(), process.stderr.fileno()
        self.streams = {self._out: b"", self._err: b""}
        self.total = 0
        for stream in self.streams:
            os.set_blocking(stream, False)

    def read(self, stream: int) -> bool:
        """Read what is there; whether more can come."""
        try:
            data = os.read(stream, _KEPT)
        except BlockingIOError:
            return True
        self.total += len(data)
        kept = self.streams[stream] + data
        self.streams[stream] = kept[:_KEPT] if stream == self._out else kept[-_KEPT:]
        return bool(data)

    def rest(self) -> None:
        """Read what it wrote just before its end. Not until the streams end: what it started may hold them open."""
        for stream in self.streams:
            before = -1
            while self.total > before and self.total <= _MAX_OUTPUT:
                before = self.total
                self.read(stream)

    def ended(self, status: int, why: str) -> Ended:
        out, err = (self.streams[stream].decode("utf-8", "replace") for stream in (self._out, self._err))
        return Ended(status, out, err, why == "late", why == "flooded", why == "stopped")
