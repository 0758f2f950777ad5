"""Keeping the guard: its table as it must be, consent given and taken, and what is known of it.

Who drives it (the keeper) calls `choose` as soon as a decision is made, `settle` when the network was looked at, and
`listen` when the prober has told something. What is on the failover path is `choose`: a prepared message a segment.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from reconciler.appliance.declared import INSPECT, Appliance
from reconciler.daemon.journal import Journal
from reconciler.daemon.probes import Probes
from reconciler.errors import HostError, ReconcilerError
from reconciler.guard.rules import Contents, Guarded, Ruleset, Stance, bind_guard, ruleset, stance
from reconciler.guard.state import Segment
from reconciler.guard.table import ACTS, Act, Held
from reconciler.health.signal import Reading
from reconciler.host.signals.canary import Canaries
from reconciler.network.desired import segments_of
from reconciler.network.diff import Difference
from reconciler.network.recognise import recognise

# A wire that is inspected already when the guard is set for the first time: so long the VM may take to prove itself
# before the guard trips. Some probes and their way through a slow VM.
ADOPT_MS = 2_000
# How often the kernel is asked whether leases still stand, and whether the table is what it was.
LOOK_MS = 100
CHECK_MS = 10_000
# After the table could not be set.
RETRY_MS = 5_000


class Table(Protocol):
    """The guard's table in the kernel; the contract stands with `host.guard.table.Table`."""

    def install(self, ruleset: Ruleset) -> str | None: ...  # noqa: D102
    def remove(self) -> None: ...  # noqa: D102
    def fingerprint(self) -> str | None: ...  # noqa: D102
    def counters(self) -> Mapping[str, tuple[int, int]]: ...  # noqa: D102
    def contents(self, one: Guarded) -> Contents: ...  # noqa: D102
    def stands(self, one: Guarded) -> bool: ...  # noqa: D102
    def prepare(self, segments: Iterable[Guarded]) -> None: ...  # noqa: D102
    def withdraw(self, one: Guarded, *, drain: bool) -> None: ...  # noqa: D102
    def stand_aside(self, one: Guarded) -> None: ...  # noqa: D102
    def grant(self, one: Guarded, token: bytes) -> None: ...  # noqa: D102
    def renew(self, one: Guarded) -> None: ...  # noqa: D102


class Notes(Protocol):
    """Where the guard's own memory outlives the process, as long as the machine runs: what `Guarding.notes` gives."""

    def write(self, value: Any) -> None:
        """Keep it.

        Raises:
            OSError: it cannot be kept.

        """
        ...


@dataclass(slots=True)
class Guarding:
    """The guard of one appliance. `notes`: see `Notes`; `remembered`: what they held when this process began."""

    appliance: Appliance
    table: Table
    probes: Probes
    clock: Callable[[], int]
    journal: Journal
    notes: Notes
    remembered: Mapping[str, Any] = field(default_factory=dict)
    canaries: Canaries = field(init=False, default_factory=Canaries)
    on: bool = field(init=False, default=True)
    segments: dict[str, Segment] = field(init=False, default_factory=dict)
    bound: tuple[Guarded, ...] = field(init=False, default=())
    # Somebody has changed something in nf_tables: what is ours is looked at again.
    suspicious: bool = field(init=False, default=True)
    _digest: str = field(init=False, default="")
    _fingerprint: str | None = field(init=False, default=None)
    _installed: bool = field(init=False, default=False)
    _in_place: dict[str, bool] = field(init=False, default_factory=dict)
    _looked_ms: int = field(init=False, default=0)
    _check_ms: int = field(init=False, default=0)
    _trouble: str = field(init=False, default="")
    _noted: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.segments = {name: Segment() for name, one in self.appliance.segments.items() if one.guard}
        self.on = bool(self.remembered.get("on", True))
        self._digest = str(self.remembered.get("digest", ""))
        self._fingerprint = self.remembered.get("fingerprint")
        for name, kept in dict(self.remembered.get("segments", {})).items():
            if name in self.segments:
                self.segments[name].recall(kept)

    # On the failover path

    def choose(self, choice: Mapping[str, str], failed: Iterable[str]) -> None:
        """Segments shall have these topologies; of those that `failed`, what the VM still holds is not let out."""
        failed = set(failed)
        for name, segment in self.segments.items():
            wanted = stance(self.appliance, name, choice[name])
            if wanted is not segment.stance:
                # What was in place was so for another topology.
                self._in_place.pop(name, None)
            segment.stance, segment.failed = wanted, name in failed
        for one in self.bound:
            segment = self.segments[one.name]
            if segment.failed and segment.draining_until > self.clock():
                # It left on purpose, and has failed since: what comes out of it now is not to be waited for.
                segment.draining_until = 0
            if ACTS[segment.stance, segment.held] is not Act.GRANT:
                self._act(one)

    def waits_until(self, segment: str) -> int | None:
        """Until when a segment's ports have to stay where they are: frames are on their way out of the VM."""
        known = self.segments.get(segment)
        return known.draining_until if known and known.draining_until > self.clock() else None

    # Off it

    @property
    def due_ms(self) -> int:
        """When `settle` or `listen` has something to do although nothing happens."""
        if not self._installed:
            return self.clock() + CHECK_MS  # nothing to do before the next look at the network
        now, moments = self.clock(), [self.probes.due_ms]
        for one in self.bound:
            segment = self.segments[one.name]
            moments += [moment for moment in (segment.draining_until, segment.adopting_until) if moment > now]
            if segment.held is Held.GRANTED and not self.probes.reporting:
                # Nobody tells that probes are missing.
                moments.append(self._looked_ms + LOOK_MS)
            if one.guard.by_daemon and segment.held is Held.GRANTED and not segment.failed:
                moments.append(max(segment.renewed_at + one.guard.lease_ms // 4, self._looked_ms + LOOK_MS))
        return min(moments)

    def settle(self, found: Difference) -> tuple[Reading, ...]:
        """Bring the table, the consent and the prober to where they should be with a network that was just looked at.

        Returns the readings that have changed.
        """
        if not self.segments:
            return ()
        bound = bind_guard(self.appliance, found.desired, found.actual)
        self._in_place = _in_place(self.appliance, found)
        if self.on:
            try:
                self._bring_up(bound, found)
            except ReconcilerError as error:
                self._suffer(error)
        return self.listen()

    def listen(self) -> tuple[Reading, ...]:
        """Hear the prober, look at the leases, and give consent where it is due; the readings that have changed."""
        if not self.on or not self.segments:
            return ()
        try:
            for report in self.probes.listen():
                self.canaries.hear(report.directions, self.clock())
                if any(one.state != "back" for one in report.directions):
                    # The kernel may have been first: whose trip it was is to be known before anybody acts upon it.
                    self._looked_ms = 0
            self._look()
            for one in self.bound:
                self._act(one)
        except ReconcilerError as error:
            self.suspicious = True
            self._suffer(error)
        news = self.canaries.news(self.appliance, self.bound, self.clock())
        if self._installed:
            # Before, it is not known what a predecessor's prober should be doing.
            self.probes.attend(self.bound)
        if not news:
            # What is news is acted upon first: no disk comes before the wire.
            self._note()
        return news

    def declare(self, appliance: Appliance) -> None:
        """Go on with a file that was read anew."""
        self.appliance = self.probes.appliance = appliance
        old, self.segments = self.segments, {name: Segment() for name, one in appliance.segments.items() if one.guard}
        self.segments |= {name: one for name, one in old.items() if name in self.segments}
        self.bound = tuple(one for one in self.bound if one.name in self.segments)
        self.suspicious = True
        self.canaries.forget()
        if old and not self.segments:
            try:
                self._take_away()
                self.journal.tell("guard", "the guard was taken away: the file declares none any more")
            except ReconcilerError as error:
                self._suffer(error)

    def forget(self) -> None:
        """What the probes told is void, and is told again."""
        self.canaries.forget()

    def _renew(self, name: str) -> None:
        """Nothing that is under way now proves anything any more."""
        self.probes.change(name)
        self.canaries.forget(name)

    def switch(self, *, on: bool) -> None:
        """Set the guard, or take every trace of it away until it is set again.

        Raises:
            HostError: the kernel refused.

        """
        if on is not self.on:
            if not on:
                self._take_away()
            self.on = on
            self.suspicious = True
            self._note()
            self.journal.tell("guard", "the guard is set again" if on else "the guard was taken away, as asked")

    def _take_away(self) -> None:
        self.probes.stop()
        self.table.remove()
        self._digest, self._fingerprint, self._installed, self.bound = "", None, False, ()
        for segment in self.segments.values():
            segment.hold(Held.NOTHING, self.clock())
            segment.open_since = None

    # The table

    def _bring_up(self, bound: tuple[Guarded, ...], found: Difference) -> None:
        now = self.clock()
        made = ruleset(self.appliance.sku, bound, self.probes.secret, {}, {})
        if made.digest == self._digest and not self.suspicious and now < self._check_ms:
            return
        live = self.table.fingerprint()
        self.suspicious, self._check_ms = False, now + CHECK_MS
        if live is not None and not self._installed:
            self._adopt(bound)
        if made.digest == self._digest and live is not None and live == self._fingerprint:
            self.table.prepare(bound)
            if not self._installed:
                self.journal.tell("guard", "the guard was found as it was left")
            self.bound, self._installed, self._trouble = bound, True, ""
            return
        self._replace(bound, found, live)

    def _adopt(self, bound: tuple[Guarded, ...]) -> None:
        """An earlier process has set the table: go on with what it holds."""
        for one in bound:
            segment = self.segments[one.name]
            try:
                held = self.table.contents(one)
            except HostError:
                # Of another version, or of another file: this segment had no guard.
                continue
            if held.token is not None:
                self.probes.take_over(one.name, held.token)
                segment.hold(Held.GRANTED if held.held else Held.EXPIRED, self.clock())
            elif held.aside_ms:
                segment.adopting_until = self.clock() + held.aside_ms
                segment.hold(Held.ADOPTING, self.clock())
            elif held.aside_ms is not None:
                segment.hold(Held.ASIDE, self.clock())
            else:
                segment.hold(Held.NOTHING, self.clock())

    def _replace(self, bound: tuple[Guarded, ...], found: Difference, live: str | None) -> None:
        """Set the table anew. What stands in it goes on standing, but for a VM that came back as another one."""
        now = self.clock()
        before = {one.name: one for one in self.bound}
        counted = self.table.counters() if live is not None else {}
        contents = {}
        for one in bound:
            segment, old = self.segments[one.name], before.get(one.name)
            if old is not None and old.adapters != one.adapters:
                # Who is behind others has proven nothing.
                self._renew(one.name)
                if segment.held in (Held.GRANTED, Held.ADOPTING):
                    segment.held = Held.EXPIRED
                    self._act(old)
            if live is not None and segment.held is Held.GRANTED and self._has_expired(one):
                # Nobody has looked since; and what has run out is given back by no other rules.
                segment.held = Held.EXPIRED
            if live is None and not self._installed and self._is_inspected(one, found):
                segment.adopting_until = now + ADOPT_MS
                segment.hold(Held.ADOPTING, self.clock())
            contents[one.name] = self._contents(one, segment, now)
        made = ruleset(self.appliance.sku, bound, self.probes.secret, contents, counted)
        self._fingerprint = self.table.install(made)
        self._digest = made.digest
        self.table.prepare(bound)
        if live is None and self._installed:
            self.journal.tell("guard", "the guard was put back: somebody had removed it", level=logging.WARNING)
        elif not self._installed:
            self.journal.tell("guard", "the guard was set")
        elif bound == self.bound:
            self.journal.tell("guard", "the guard was put right: somebody had changed it", level=logging.WARNING)
        self.bound, self._installed, self._trouble = bound, True, ""
        for one in bound:
            segment = self.segments[one.name]
            segment.hold(segment.held, self.clock())

    def _has_expired(self, one: Guarded) -> bool:
        try:
            return not self.table.stands(one)
        except HostError:
            # Somebody has taken a lease's set away: what the table held is what is put back.
            return False

    def _contents(self, one: Guarded, segment: Segment, now: int) -> Contents:
        match segment.held:
            case Held.GRANTED:
                return Contents(self.probes.token(one.name), held=True)
            case Held.ADOPTING:
                return Contents(aside_ms=max(1, segment.adopting_until - now))
            case Held.ASIDE:
                return Contents(aside_ms=0)
            case Held.NOTHING | Held.EXPIRED:
                return Contents()

    def _is_inspected(self, one: Guarded, found: Difference) -> bool:
        armed = self.segments[one.name].stance is Stance.ARMED
        return armed and recognise(self.appliance, found.actual)[one.name] == INSPECT

    # Consent

    def _look(self) -> None:
        """See whether what was granted still stands."""
        now = self.clock()
        if now - self._looked_ms < LOOK_MS:
            return
        self._looked_ms = now
        for one in self.bound:
            segment = self.segments[one.name]
            if segment.held is Held.ADOPTING and now >= segment.adopting_until:
                segment.hold(Held.NOTHING, self.clock())
            if segment.held is not Held.GRANTED:
                continue
            if not self.table.stands(one):
                segment.held = Held.EXPIRED
            elif one.guard.by_daemon and now - segment.renewed_at >= one.guard.lease_ms // 4 and not segment.failed:
                self.table.renew(one)
                segment.renewed_at = now

    def _act(self, one: Guarded) -> None:
        segment = self.segments[one.name]
        act = ACTS[segment.stance, segment.held]
        try:
            match act:
                case Act.LEAVE:
                    pass
                case Act.GRANT:
                    self._grant(one, segment)
                case Act.WITHDRAW:
                    self._withdraw(one, segment)
                case Act.STAND_ASIDE:
                    self.table.stand_aside(one)
                    segment.hold(Held.ASIDE, self.clock())
                    self._renew(one.name)
                case Act.TRIP:
                    self._trip(one, segment)
        except ReconcilerError as error:
            # Somebody has removed the table, or a part of it: it is put back, and then holds what it should. So is one
            # that looks as it was left, and did not obey.
            self.suspicious, self._fingerprint = True, None
            if act is not Act.GRANT:
                segment.hold(Held.NOTHING, self.clock())
                self._renew(one.name)
            self._suffer(error)

    def _grant(self, one: Guarded, segment: Segment) -> None:
        if not self._in_place.get(one.name) or not self._proven(one):
            return
        self.table.grant(one, self.probes.token(one.name))
        segment.renewed_at, opened = self.clock(), segment.open_since
        segment.hold(Held.GRANTED, self.clock())
        if opened is not None:
            self._tell_exposure(one, segment, self.clock() - opened)

    def _proven(self, one: Guarded) -> bool:
        if not self.probes.probed(one):
            # The verdict alone decides: the file has it so.
            return not self.segments[one.name].failed and all(place.index for place in one.adapters)
        return self.canaries.proven(one, self.probes.addresses(one), self.clock())

    def _withdraw(self, one: Guarded, segment: Segment) -> None:
        drain = segment.held is Held.GRANTED and not segment.failed and one.guard.drain_ms > 0
        self.table.withdraw(one, drain=drain)
        segment.draining_until = self.clock() + one.guard.drain_ms if drain else 0
        segment.hold(Held.NOTHING, self.clock())
        self._renew(one.name)

    def _trip(self, one: Guarded, segment: Segment) -> None:
        """The kernel was first. What may still be granted is withdrawn, so that nothing that comes late renews it."""
        segment.trips += 1
        segment.hold(Held.NOTHING, self.clock())
        self._renew(one.name)
        if one.guard.latch:
            self.canaries.trip(one.name)
        act = "cut" if one.guard.closed else "joined past the VM"
        self.table.withdraw(one, drain=False)
        self.journal.tell(
            "tripped",
            f"{one.name}: the guard tripped, and the wire is {act}: a lease of {one.guard.lease_ms} ms ran out",
            level=logging.WARNING,
            segment=one.name,
        )

    def _tell_exposure(self, one: Guarded, segment: Segment, lasted_ms: int) -> None:
        frames, size = self._passed(one)
        new, more = frames - segment.counted[0], size - segment.counted[1]
        segment.counted = frames, size
        what = "were cut" if one.guard.closed else "went past the VM"
        self.journal.tell(
            "armed",
            f"{one.name}: the VM has the wire again; {new} frames ({more} bytes) {what} in {lasted_ms / 1_000:.1f} s",
            segment=one.name,
            frames=new,
            bytes=more,
        )

    def _passed(self, one: Guarded) -> tuple[int, int]:
        counted = self.table.counters()
        found = [counted.get(f"{one.name}/port/{place.role}", (0, 0)) for place in one.ports]
        return sum(frames for frames, _ in found), sum(size for _, size in found)

    # For people

    def _suffer(self, error: ReconcilerError) -> None:
        self._check_ms = min(self._check_ms, self.clock() + RETRY_MS)
        if str(error) != self._trouble:
            self._trouble = str(error)
            self.journal.tell("guard", f"the guard cannot do its work: {error}", level=logging.ERROR)

    @property
    def trouble(self) -> str:
        """What keeps the guard from its work; '' if nothing does."""
        return self._trouble

    def _note(self) -> None:
        value = {
            "on": self.on,
            "secret": self.probes.secret.hex(),
            "digest": self._digest,
            "fingerprint": self._fingerprint,
            "segments": {name: one.kept() for name, one in self.segments.items()},
        }
        if value != self._noted:
            self._noted = value
            try:
                self.notes.write(value)
            except OSError as error:
                self.journal.tell("guard", f"what is known of the guard cannot be kept: {error}", level=logging.ERROR)


def _in_place(appliance: Appliance, found: Difference) -> dict[str, bool]:
    """For each segment whether nothing is left to change that its traffic depends on."""
    place = segments_of(appliance)
    roles = [change.link.role for change in found.changes] + [problem.role for problem in found.problems]
    in_motion = {place.get((role.kind, role.name)) for role in roles if role}
    return {name: name not in in_motion for name in appliance.segments}
