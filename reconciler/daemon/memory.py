"""The policy's memory on disk: written when it changes, found by the next process, never a reason not to start.

It is written by a thread, and nobody waits for it but those who have to know that it is on disk (`wait`).
"""

from pathlib import Path
from typing import Any, Protocol

from reconciler.daemon.journal import Journal
from reconciler.health import record
from reconciler.health.state import State
from reconciler.host import clock
from reconciler.host.blocking import Saver
from reconciler.host.statefile import StateFile
from reconciler.warning import Severity, Warning


class Memory(Protocol):
    """Where the policy's state outlives the process."""

    def remember(self, state: State) -> None:
        """Keep what is worth keeping. Never raises: a full disk must not stop a failover."""
        ...

    def useless(self, error: Exception) -> None:
        """What it gave to begin with is no memory of ours. Never raises."""
        ...


class Remembering:
    """The memory of the appliance `sku` in `folder`. `find` and `wait` block: they are for workers."""

    def __init__(self, folder: Path, sku: str, journal: Journal) -> None:
        self._file = StateFile(folder / f"{sku}.memory.json")
        self._journal = journal
        self._saver = Saver(self._write, self._tried)
        self._useless: Exception | None = None
        self.warnings: tuple[Warning, ...] = ()
        """Why what is remembered is not on disk; none if it is."""

    def find(self) -> tuple[Any, int | None]:
        """What an earlier process remembered, or None; and after a reboot, by how much its times have moved."""
        self._file.sweep()
        try:
            found = self._file.read()
            if found is None:
                return None, None
            same = found["boot"] == clock.boot_id()
            # A wall clock that went back has nothing to say of how long the machine was off; for as long as it is on
            # again, time has passed in any case. Without that, one that boots over and over would hold for ever.
            passed = max(clock.now_ms(), clock.wall_ms() - int(found["wall_ms"]))
            moved = clock.now_ms() - int(found["now_ms"]) - passed
            return found["memory"], None if same else moved
        except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
            self._set_aside(error)
            return None, None

    def useless(self, error: Exception) -> None:
        """Tell that what was found cannot be used, and set it aside before another is written."""
        self._useless = error

    def _set_aside(self, error: Exception) -> None:
        try:
            where = f"set aside as {self._file.set_aside()}"
        except OSError as refused:
            where = f"and it could not be set aside: {refused}"
        what = f"what was remembered cannot be used ({type(error).__name__}: {error}), {where}"
        self._journal.warn("memory", Warning("memory-useless", Severity.WARNING, "memory", what))

    def remember(self, state: State) -> None:
        """Have written what is worth keeping. A disk that does not take it is told once."""
        self._saver.write(
            {
                "boot": clock.boot_id(),
                "now_ms": clock.now_ms(),
                "wall_ms": clock.wall_ms(),
                "memory": record.dump(state),
            }
        )

    def wait(self, timeout_s: float) -> None:
        """As `Saver.wait`: until what was remembered so far is on disk."""
        self._saver.wait(timeout_s)

    def _write(self, value: Any) -> None:
        error, self._useless = self._useless, None
        if error:
            self._set_aside(error)
        self._file.write(value)

    def _tried(self, failure: Exception | None) -> None:
        before, self.warnings = self.warnings, () if failure is None else (self._unwritten(failure),)
        if self.warnings and not before:
            self._journal.warn("memory", *self.warnings)
        elif before and not self.warnings:
            self._journal.tell("memory", f"{self._file.path} can be written again")

    def _unwritten(self, failure: Exception) -> Warning:
        what = f"cannot write {self._file.path}: {failure}"
        right = "a restart of the daemon would forget what was decided lately: give its disk room, or repair it"
        return Warning("memory-unwritten", Severity.ERROR, "memory", what, right)
