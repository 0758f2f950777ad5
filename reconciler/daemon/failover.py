"""What a failure would ask for, made ready while all is well: then it is one system call.

Made from the last look at the network, and sent before the next one; what it did is then looked at, as always.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from reconciler.appliance.declared import INSPECT, Appliance
from reconciler.network.cycle import Host
from reconciler.network.desired import Choice, desired, segments_of
from reconciler.network.diff import Change, Difference, difference
from reconciler.network.plan import plan
from reconciler.network.state import Network


@dataclass(slots=True)
class PreparedFailover:
    """By segment the moves to its fallback, and what carries them out."""

    host: Host
    _moves: dict[str, tuple[tuple[Change, ...], Callable[[], object]]] = field(init=False, default_factory=dict)
    _made_for: tuple[Network, Mapping[str, str]] | None = field(init=False, default=None)

    def arm(self, appliance: Appliance, choice: Choice, actual: Network) -> None:
        """Make ready. `actual` is as `choice` wants it."""
        if self._made_for == (actual, choice):
            return
        fallback = {
            name: appliance.on_failure.fallback(name) if topology == INSPECT else topology
            for name, topology in choice.items()
        }
        then = difference(appliance, desired(appliance, fallback), actual)
        self._moves, self._made_for = {}, (actual, dict(choice))
        for name, changes in _by_segment(appliance, then).items():
            made = self.host.prepare(plan(replace(then, changes=changes)), actual)
            if made is not None:
                self._moves[name] = changes, made

    def discard(self) -> None:
        """What was made ready is for another file."""
        self._moves, self._made_for = {}, None

    def fire(self, segments: Iterable[str]) -> tuple[Change, ...]:
        """Carry out what is ready for these segments; the changes that this makes."""
        fired: tuple[Change, ...] = ()
        for name in segments:
            if name in self._moves:
                changes, send = self._moves.pop(name)
                self._made_for = None
                send()
                fired += changes
        return fired


def _by_segment(appliance: Appliance, found: Difference) -> dict[str, tuple[Change, ...]]:
    places, changes = segments_of(appliance), dict[str, tuple[Change, ...]]()
    for change in found.changes:
        if (role := change.link.role) and (name := places.get((role.kind, role.name))):
            changes[name] = (*changes.get(name, ()), change)
    return changes
