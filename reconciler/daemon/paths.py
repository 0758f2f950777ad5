"""The paths of all segments, followed from change to change: each is told once, and since when it is so is kept.

What is kept ends with the machine's run: after a boot every path is a new one.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from reconciler.appliance.declared import Appliance
from reconciler.daemon.journal import Journal
from reconciler.health import policy
from reconciler.health.signal import HealthState
from reconciler.health.state import State
from reconciler.network.diff import Difference
from reconciler.network.path import Finding, Path, PathGuard, Taken, by_guard_alone, doubts_of, paths, recall_since

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
        self.guards: Mapping[str, PathGuard] = {}
        """What the guard's table had for each segment when it was looked at last."""
        self._seen_for: Any = None
        self._since = recall_since(kept or {})

    def look(
        self,
        appliance: Appliance,
        state: State,
        found: Difference | None,
        guards: Mapping[str, PathGuard],
        findings: Mapping[str, Sequence[Finding]],
        *,
        now: int,
        journal: Journal,
    ) -> None:
        """Where frames go by what was seen last, if any of it has changed. `found` None: it could not be seen."""
        self.guards = guards
        seen_for = (appliance, found, guards, findings, {name: one.verdict for name, one in state.segments.items()})
        if seen_for == self._seen_for:
            return
        self._seen_for = seen_for
        if found is None:
            taken = {name: by_guard_alone(guards.get(name)) for name in state.segments}
        else:
            taken = paths(appliance, found.actual, guards, doubts(appliance, state, found), findings, bound=found.bound)
        self.see(taken, now, journal)

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


def doubts(appliance: Appliance, state: State, found: Difference) -> Mapping[str, str]:
    """Why nobody can say that a VM gets what shall cross it, and inspects it."""
    doubted = doubts_of(appliance, found.warnings)
    for name, segment in state.segments.items():
        if segment.verdict.state is HealthState.FAILED:
            failed = "; ".join(["the VM has failed", *map(str, policy.explain(state, name))])
            doubted[name] = "; ".join(filter(None, (failed, doubted.get(name))))
    return doubted


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
