"""The paths of all segments, followed from change to change: each is told once, and since when it is so is kept.

What is kept ends with the machine's run: after a boot every path is a new one.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from reconciler.daemon.journal import Journal
from reconciler.network.path import Path, Taken, recall_since

_LEVELS = {
    Path.INSPECTED: logging.INFO,
    Path.UNKNOWN: logging.WARNING,
    Path.BYPASSED: logging.WARNING,
    Path.CUT: logging.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class PathChange:
    """A segment's path has become another one.

    `before` None: it was not looked at until now. `at_ms`: by the core's clock.
    """

    segment: str
    before: Path | None
    now: Taken
    at_ms: int


class PathNotes(Protocol):
    """Where it is kept since when a path is what it is."""

    def write(self, value: Any) -> None:
        """Have it kept. Never blocks, and never fails."""
        ...


class Paths:
    """See the module. `changed` is called with each change; `notes` keeps what `kept` gave, for the next process."""

    def __init__(
        self,
        changed: Callable[[PathChange], None] = lambda _: None,
        notes: PathNotes | None = None,
        kept: Mapping[str, Any] | None = None,
    ) -> None:
        self._notes = notes
        self.changed = changed
        self.taken: dict[str, Taken] = {}
        self._since = recall_since(kept or {})

    def see(self, taken: Mapping[str, Taken], now: int, journal: Journal) -> None:
        """Where frames go at `now`, in milliseconds of a clock that all processes of a boot share."""
        news = []
        for name, one in taken.items():
            before = self._since.get(name)
            if before is None or before[0] is not one.path:
                self._since[name] = one.path, now
                news.append(PathChange(name, before and before[0], one, now))
        gone = self._since.keys() - taken.keys()
        for name in gone:
            del self._since[name]
        self.taken = dict(taken)
        for change in news:
            _tell(change, journal)
            self.changed(change)
        if (news or gone) and self._notes:
            self._notes.write({name: [path.value, since] for name, (path, since) in self._since.items()})

    def since(self, segment: str) -> int | None:
        """When the path of a segment became what it is; None: it was never seen."""
        found = self._since.get(segment)
        return found and found[1]


def _tell(change: PathChange, journal: Journal) -> None:
    one = change.now
    was = f", was {change.before}" if change.before else ""
    journal.tell(
        "path",
        f"{change.segment}: {one.path}{' by the guard' if one.by_guard else ''}{was} ({one.evidence})",
        level=_LEVELS[one.path],
        segment=change.segment,
        path=one.path.value,
        before=change.before and change.before.value,
        by="guard" if one.by_guard else "switches",
        evidence=one.evidence,
    )
