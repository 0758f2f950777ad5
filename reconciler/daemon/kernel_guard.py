"""The guard with all that it takes on a live host: its table in the kernel, the prober, and their notes."""

import contextlib
import io
import os
from collections.abc import Sequence
from typing import Any

from reconciler.appliance.declared import Appliance
from reconciler.daemon.guard import Background, GuardEffects
from reconciler.daemon.journal import Journal
from reconciler.errors import HostError, ReconcilerError
from reconciler.guard import step
from reconciler.guard.events import Removed
from reconciler.guard.orders import ProberReport
from reconciler.guard.warnings import unkept
from reconciler.host import clock, places
from reconciler.host.blocking import Saver
from reconciler.host.guard.netfilter import NetfilterWatch
from reconciler.host.guard.probe_socket import adapter_socket
from reconciler.host.guard.prober_client import Probing
from reconciler.host.guard.table import KernelTable
from reconciler.host.netlink.link_counts import LinkCounters
from reconciler.host.statefile import StateFile
from reconciler.network.diff import Difference
from reconciler.warning import Warning


class KernelGuard:
    """See the module. What is kept lies where it ends with the machine's run, as the table does."""

    def __init__(self, appliance: Appliance, journal: Journal, background: Background = lambda work, _: work()) -> None:
        self.table = KernelTable(appliance.sku)
        self.watch = NetfilterWatch(self.table.port)
        self.links = LinkCounters()
        self.probing = Probing(places.run_dir(), appliance.sku)
        file = notes_of(appliance.sku)
        file.sweep()
        if not any(segment.guard for segment in appliance.segments.values()):
            self._tidy(file, journal)
        self._journal = journal
        self.warnings: tuple[Warning, ...] = ()
        """Why what is known of the guard is not on disk; none if it is."""
        self.notes = Saver(file.write, self._tried)
        self.effects = GuardEffects(
            step.begin(appliance, *_random(), _kept(file, journal)),
            table=self.table,
            prober=self.probing,
            listener=adapter_socket,
            clock=clock.now_ms,
            journal=journal,
            notes=self.notes,
            background=background,
            links=self.links,
        )

    def _tried(self, failure: Exception | None) -> None:
        before, self.warnings = self.warnings, () if failure is None else (unkept(failure),)
        if self.warnings and self.warnings != before:
            self._journal.warn("guard", *self.warnings)

    def _tidy(self, file: StateFile, journal: Journal) -> None:
        """What an earlier process has left of a guard that is not declared any more goes, but for what was counted."""
        with contextlib.suppress(ReconcilerError, OSError):
            self.probing.end()
            _forget(file, self.table.remove(), journal)

    def disturbed(self) -> bool:
        """Somebody may have changed rules: whether it is worth a look."""
        if self.watch.drain():
            self.effects.disturb()
            return self.effects.on
        return False

    def close(self) -> None:
        """Leave the guard as it is; the prober goes on for its grace."""
        self.effects.close()
        self.probing.close()
        self.watch.close()
        self.table.close()
        self.links.close()


def set_guard(appliance: Appliance, found: Difference) -> None:
    """Set the guard's table where no daemon runs, without consent: tripped, until a daemon gives it. Counters go on.

    Use it within the appliance's lock.

    Raises:
        HostError: the kernel refused, or what a daemon needs to take over cannot be kept.

    """
    notes, journal = notes_of(appliance.sku), Journal(io.StringIO())
    kept = _kept(notes, journal)
    begun = step.begin(appliance, *_random(), {**kept, "on": True} if kept else None)
    with KernelTable(appliance.sku) as table:
        guard = GuardEffects(
            begun,
            table=table,
            prober=_Nobody(),
            listener=adapter_socket,
            clock=clock.now_ms,
            journal=journal,
            notes=notes,
        )
        fallback = {name: appliance.on_failure.fallback(name) for name in appliance.segments}
        guard.choose(fallback, appliance.segments)
        guard.settle(found)
    if guard.state.table.trouble:
        raise HostError(guard.state.table.trouble)


def remove_guard(sku: str) -> None:
    """Take the table away, end the prober, and forget both, but for what was counted.

    Use it within the appliance's lock.

    Raises:
        HostError: the kernel refused, or what was counted cannot be kept.

    """
    Probing(places.run_dir(), sku).end()
    with KernelTable(sku) as table:
        gone = table.remove()
    notes = notes_of(sku)
    try:
        _forget(notes, gone, Journal(io.StringIO()))
    except OSError as error:
        raise HostError(f"the guard was taken away, and {notes.path} cannot be written: {error.strerror}") from None


def _forget(notes: StateFile, gone: Removed, journal: Journal) -> None:
    """Raises OSError: the notes cannot be written."""
    left = step.taken_away(_kept(notes, journal), gone)
    if left is None:
        notes.path.unlink(missing_ok=True)
    else:
        notes.write(left)


def notes_of(sku: str) -> StateFile:
    """Where the guard's secret lies, and what its table looked like when it was set."""
    return StateFile(places.run_dir() / f"{sku}.guard.json")


class _Nobody:
    """No prober is looked for or started by hand."""

    alive, reason, pid = False, "", None

    def connect(self) -> bool:
        return False

    def spawn(self) -> bool:
        return True

    def order(self, *_: Any) -> None: ...
    def consent(self) -> None: ...
    def end(self) -> None: ...
    def reports(self) -> Sequence[ProberReport]:
        return ()


def _random() -> tuple[bytes, bytes]:
    return os.urandom(step.SECRET_BYTES), os.urandom(step.NONCE_BYTES)


def _kept(notes: StateFile, journal: Journal) -> dict[str, Any]:
    """What was written, as far as it is of its kind."""
    try:
        found = notes.read()
        if found is None:
            return {}
        step.recall(found)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        journal.tell("guard", f"what was known of the guard cannot be used: {type(error).__name__}: {error}")
        return {}
    return dict(found)
