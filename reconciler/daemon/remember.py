"""The policy's memory on disk: written when it changes, found by the next process, never a reason not to start."""

import logging
from pathlib import Path
from typing import Any

from reconciler.daemon.journal import Journal
from reconciler.health import record
from reconciler.health.state import State
from reconciler.host import clock
from reconciler.host.statefile import StateFile


class Remembering:
    """The memory of the appliance `sku` in `folder`."""

    def __init__(self, folder: Path, sku: str, journal: Journal) -> None:
        self._file = StateFile(folder / f"{sku}.memory.json")
        self._journal = journal
        self._failing = False

    def find(self) -> tuple[Any, int | None]:
        """What an earlier process remembered, or None; and after a reboot, by how much its times have moved."""
        try:
            found = self._file.read()
            if found is None:
                return None, None
            same = found["boot"] == clock.boot_id()
            # A wall clock that went back has nothing to say of how long the machine was off.
            passed = max(0, clock.wall_ms() - int(found["wall_ms"]))
            moved = clock.now_ms() - int(found["now_ms"]) - passed
            return found["memory"], None if same else moved
        except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
            self.useless(error)
            return None, None

    def useless(self, error: Exception) -> None:
        """Tell that what was found cannot be used, and set it aside for people to look at."""
        try:
            where = f"set aside as {self._file.set_aside()}"
        except OSError as refused:
            where = f"and it could not be set aside: {refused}"
        text = f"what was remembered cannot be used ({type(error).__name__}: {error}); {where}"
        self._journal.tell("memory", text, level=logging.WARNING)

    def remember(self, state: State) -> None:
        """Write what is worth keeping. A disk that does not take it is told once."""
        value = {
            "boot": clock.boot_id(),
            "now_ms": clock.now_ms(),
            "wall_ms": clock.wall_ms(),
            "memory": record.dump(state),
        }
        try:
            self._file.write(value)
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._journal.tell("memory", f"cannot write {self._file.path}: {error}", level=logging.ERROR)
            self._failing = True
