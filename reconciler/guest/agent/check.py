"""One check: its thread, its limit of time, and what the beats say about it."""

from __future__ import annotations

import errno
import socket
import threading
import time

from reconciler.guest.agent.readings import DEGRADED, FAILED, HEALTHY, TYPE_CHECKING, CannotRun, next_due

if TYPE_CHECKING:
    from reconciler.guest.agent.readings import Probe, Reading

RUNS_TO_FAIL = 2  # one slow or failed run proves nothing: it is repeated at once, and that one is believed
OVERDUE_S = 2.0  # a check that begins later than this means that checks do not run
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Check:
    """One check: a thread that probes, and what the beats say about it."""

    def __init__(
        self,
        name: str,
        probe: Probe,
        *,
        every_s: float,
        timeout_s: float,
        tolerate_s: float = 0.0,
        on_silence: str = FAILED,
        on_failure: str = FAILED,
    ) -> None:
        self.name = name
        self._probe = probe
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._tolerate_s = tolerate_s
        self._on_silence = on_silence
        self._on_failure = on_failure
        self._thread: threading.Thread | None = None
        # Whether the probe runs; since when, or when it is due; the last reading; how many runs in a row have failed;
        # why it could not be run. One tuple, because its thread replaces it while the main thread reads it.
        self._progress: tuple[bool, float, Reading | None, int, str] = (False, 0.0, None, 0, "")
        # Only what was healthy before is tolerated: software that is still starting does not inspect yet.
        self._tolerable = False
        self._failed_since: float | None = None

    def start(self) -> None:
        """Start the thread, if it is not there yet; raises CannotRun."""
        if self._thread is not None:
            return
        self._progress = (False, time.monotonic(), None, 0, "")
        thread = threading.Thread(target=self._loop, name=self.name, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            raise CannotRun("cannot start a thread") from error
        self._thread = thread

    def _loop(self) -> None:
        due = time.monotonic()
        reading: Reading | None = None
        failures = 0
        while True:
            began, obstacle = time.monotonic(), ""
            self._progress = (True, began, reading, failures, obstacle)
            try:
                reading = self._read(began + self._timeout_s)
                failures = failures + 1 if reading[0] == FAILED else 0
            except CannotRun as error:
                obstacle = str(error)
            now = time.monotonic()
            due = now if failures == 1 and not obstacle else next_due(due, self._every_s, now)
            self._progress = (False, due, reading, failures, obstacle)
            # Not Event.wait: before Python 3.11 it waits by the clock on the wall, which may be set back.
            time.sleep(due - now)

    def _read(self, deadline: float) -> Reading:
        try:
            reading = self._probe(deadline)
        except (TimeoutError, socket.timeout):
            return self._silence()
        except MemoryError as error:
            raise CannotRun("out of memory") from error
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise CannotRun(str(error)) from error
            text = error.strerror or repr(error)
            reading = FAILED, f"{error.filename}: {text}" if error.filename else text
        except CannotRun:
            raise
        except Exception as error:  # noqa: BLE001  # a check with a bug is a failed check, not the end of its thread
            reading = FAILED, repr(error)
        return reading if time.monotonic() <= deadline else self._silence()

    def _silence(self) -> Reading:
        return self._on_silence, f"no answer within {self._timeout_s * 1000:.0f} ms"

    def obstacle(self, now: float) -> str:
        """Return why there is nothing to say about this check, or an empty text."""
        running, at, reading, _, obstacle = self._progress
        if obstacle:
            return f"{self.name}: {obstacle}"
        if not running and now - at > OVERDUE_S:
            return f"{self.name}: its thread does not come round"
        if reading is None and not (running and now - at > self._timeout_s):
            return f"{self.name}: no result yet"
        return ""

    def judge(self, now: float) -> Reading:
        """Return what is to be said at this moment."""
        running, at, reading, failures, _ = self._progress
        if reading is None or (running and now - at > self._timeout_s):
            reading = self._silence()
            # One that never comes back stands for all the runs that it keeps from being made.
            failures += int((now - at) / self._timeout_s)
        state, reason = reading
        if state != FAILED:
            self._failed_since = None
            self._tolerable = self._tolerable or state == HEALTHY
            return reading
        if self._failed_since is None:
            self._failed_since = now
        if failures < RUNS_TO_FAIL and self._tolerable:
            return DEGRADED, f"{reason}; asked again"
        self._tolerable = self._tolerable and now - self._failed_since < self._tolerate_s
        return (DEGRADED if self._tolerable else self._on_failure), reason
