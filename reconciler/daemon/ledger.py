"""The ledger, as the daemon writes it: booked on the loop, on disk by a thread, and nobody waits but who has to know.

Rows that the disk does not take wait in memory, so many of them, and are written when it does. What was acknowledged
(`wait`) is on disk.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler.daemon.journal import Journal
from reconciler.errors import HostError
from reconciler.health.state import Hold
from reconciler.host import clock, places
from reconciler.host.blocking import Appender, Saver
from reconciler.host.envelope import utc
from reconciler.host.ledgerfile import Booked, Found, LedgerFile
from reconciler.host.names import login_of, person
from reconciler.ledger import orders
from reconciler.ledger.entry import Entry, EntryKind
from reconciler.ledger.orders import Held, Moment
from reconciler.ledger.row import still_open
from reconciler.warning import Severity, Warning

# How often it is noted that the daemon lives: in /run; and, each so many times, on a disk that writing wears out.
_ALIVE_MS, _KEPT_EACH = 1_000, 60
# A copy of the file is evidence until its last row.
_QUIET_MS = 3_600_000
# One that lives no longer than this, and does nothing, is not worth a row.
_BEGUN_MS = 10_000


class Ledger:
    """The ledger of the appliance `sku`. `find` and `wait` block: they are for workers."""

    def __init__(
        self,
        folder: Path,
        run_folder: Path,
        sku: str,
        journal: Journal,
        *,
        file: Callable[[Path, Path, str], LedgerFile] = LedgerFile,
    ) -> None:
        self._file = file(folder, run_folder, sku)
        self._journal, self._boot = journal, clock.boot_id()
        self._appender = Appender(self._file.append, self._tried)
        self._marker = Saver(lambda now: self._file.mark(clock.wall_ms(), kept=now), again_s=60.0)
        self.open: dict[str, Entry] = {}
        """The intervals that go on, by their ids; those of earlier processes also."""
        self._found: Found | None = None
        self._alive_ms, self._marks, self._booked_ms = 0, 0, clock.now_ms()
        self._beginning: tuple[Booked, ...] = ()
        # Those of `open` that a row tells of, or will.
        self._kept: dict[str, Entry] = {}
        self._holds: Mapping[str, Hold] | None = None
        self._lost = 0
        self._lost_since: int | None = None
        self._trouble = ""

    def find(self) -> Found:
        """What earlier processes have left. Nothing may have been booked before.

        Raises:
            OSError: it cannot be read or written.

        """
        self._found = self._file.find()
        for text in self._found.amiss:
            self._journal.warn("ledger", Warning("ledger-amiss", Severity.WARNING, str(self._file.path), text))
        self.open, self._kept = dict(self._found.open), dict(self._found.open)
        return self._found

    def begin(self, segments: Iterable[str], *, guarded: bool) -> None:
        """A daemon begins: that, and that nobody has looked since the last one was alive, is booked soon.

        Not at once: one that ends again and again as soon as it has begun would fill the disk with it, and push out
        what is older. Until it is booked, the daemon does not count as alive.
        """
        found = self._found or Found()
        begun = orders.begun(segments, self.now(), found.alive_ms, stopped=found.stopped)
        self._beginning = tuple(self._stamped(entry) for entry in begun)
        if guarded and any(one.kind is EntryKind.GUARD_OFF for one in self.open.values()):
            # Set by hand meanwhile, or by a boot.
            self.guard_switched("", on=True)

    @property
    def left_ms(self) -> int | None:
        """When a daemon before this one was last known to run, UTC; None: there was none."""
        return self._found.alive_ms if self._found else None

    def end(self) -> None:
        """The daemon ends in order."""
        self.book(self.now().entry(EntryKind.STOP))

    def now(self) -> Moment:
        """This moment, for an entry."""
        return Moment(clock.wall_ms(), clock.now_ms(), self._boot)

    def book(self, entry: Entry) -> None:
        """Have an entry written. Never blocks, and never fails; see `warnings`."""
        still_open(self.open, entry)
        self._booked_ms = clock.now_ms()
        self._tell_beginning()
        self._add(self._stamped(entry))

    def _tell_beginning(self) -> None:
        beginning, self._beginning = self._beginning, ()
        for booked in beginning:
            self._add(booked)

    def _stamped(self, entry: Entry) -> Booked:
        return Booked(entry, clock.wall_ms(), clock.now_ms(), self._journal.digest)

    def _add(self, booked: Booked) -> None:
        if (self._lost_since is None or self._catch_up(booked)) and self._appender.add(booked):
            still_open(self._kept, booked.entry)
            return
        self._appender.again()
        self._lost += 1
        if self._lost_since is None:
            self._lost_since = booked.at_ms

    def _catch_up(self, now: Booked) -> bool:
        """Where entries found no room: say so, and what has become of the intervals that they spoke of."""
        since = self._lost_since or now.at_ms
        cause = f"{self._lost} entries found no room in memory while the disk took none"
        over = [
            replace(one, to_ms=max(now.at_ms, one.from_ms), precision_ms=max(0, now.at_ms - since))
            for name, one in self._kept.items()
            if name not in self.open
        ]
        begun = [one for name, one in self.open.items() if self._kept.get(name) != one]
        entries = (
            Entry(kind=EntryKind.LOST, from_ms=min(since, now.at_ms), to_ms=now.at_ms, cause=cause),
            *over,
            *begun,
        )
        if self._appender.room < len(entries) + 1:
            return False
        for entry in entries:
            self._appender.add(now.of(entry))
            still_open(self._kept, entry)
        self._lost, self._lost_since = 0, None
        return True

    def alive(self) -> None:
        """The daemon has turned: note it, seldom. Never blocks."""
        now = clock.now_ms()
        if self._beginning:
            if now - self._beginning[0].monotonic_ms < _BEGUN_MS:
                return
            self._tell_beginning()
        if now - self._booked_ms >= _QUIET_MS:
            self.book(self.now().entry(EntryKind.ALIVE))
        if now - self._alive_ms >= _ALIVE_MS:
            self._alive_ms, self._marks = now, self._marks + 1
            self._marker.write(self._marks % _KEPT_EACH == 1)

    def wait(self, timeout_s: float) -> None:
        """As `Saver.wait`: until what was booked so far is on disk; an OSError also where something was lost."""
        self._appender.wait(timeout_s)
        if self._lost:
            raise OSError(f"{self._lost} rows of the ledger found no room in memory")

    def status(self) -> dict[str, Any]:
        """For `status`: the last row and its hash, which tell whether rows were taken away from the end."""
        number, last = self._file.end
        return {"rows": number, "hash": last, "waiting": self._appender.waiting}

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """That rows are not on disk, where that is so."""
        if not self._trouble:
            return ()
        lost = f", {self._lost} are lost" if self._lost else ""
        text = f"{self._trouble}; {self._appender.waiting} rows wait in memory{lost}"
        return (self._unwritten(text),)

    def _unwritten(self, text: str) -> Warning:
        return Warning("ledger-unwritten", Severity.ERROR, "", text, "make room on the disk of the state folder")

    # What people order

    def holds(self, holds: Mapping[str, Hold]) -> None:
        """What is held now, by segments: book what is new, and what is over. Called often: mostly nothing is."""
        if holds == self._holds:
            return
        now = self.now()
        early = [name for name, hold in (self._holds or {}).items() if hold.until_ms > now.since_boot_ms]
        self._holds = holds
        known = {one.segment: one for one in self.open.values() if one.kind is EntryKind.HOLD}
        ahead = now.utc_ms - now.since_boot_ms
        held = {
            name: Held(hold.topology, hold.owner, hold.reason, utc(hold.until_ms + ahead))
            for name, hold in holds.items()
        }
        self._all(orders.holds_changed(known, held, now, early))

    def released(self, who: str, segment: str | None) -> None:
        """Somebody has released a segment, or all."""
        self.book(replace(self.now().entry(EntryKind.RELEASE, segment or ""), who=who, planned=True))

    def guard_switched(self, who: str, *, on: bool) -> None:
        """Somebody has set the guard, or taken it away."""
        self._all(orders.guard_switched(self.open.values(), self.now(), on=on, who=who))

    def reloaded(self, segments: Iterable[str], who: str, digest: str) -> None:
        """The file was read again, and is in force."""
        before = self._journal.digest or ""
        self._journal.digest = digest
        self.book(orders.reloaded(segments, self.now(), who, before, digest))

    def _all(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.book(entry)

    def _tried(self, failure: Exception | None) -> None:
        trouble = "" if failure is None else f"the ledger {self._file.path} cannot be written: {failure}"
        if trouble and not self._trouble:
            self._journal.warn("ledger", self._unwritten(trouble))
        elif self._trouble and not trouble:
            self._journal.tell("ledger", f"{self._file.path} can be written again")
        self._trouble = trouble


def guard_switched_by_hand(sku: str, digest: str | None, *, on: bool) -> None:
    """Write down that the guard was set, or taken away, where no daemon runs. Use it within the appliance's lock.

    Raises:
        HostError: it could not be written. It is done all the same, and at boot nobody is to wait for a disk.

    """
    file = LedgerFile(places.state_dir(), places.run_dir(), sku)
    now = Moment(clock.wall_ms(), clock.now_ms(), clock.boot_id())
    who = person(os.geteuid(), login_of(os.getpid()))
    try:
        entries = orders.guard_switched(file.find().open.values(), now, on=on, who=who)
        if entries:
            file.append([Booked(entry, now.utc_ms, now.since_boot_ms, digest) for entry in entries])
    except OSError as error:
        raise HostError(f"that is not in the ledger: {file.path}: {error.strerror}") from None
    finally:
        file.close()
