"""The core of the daemon, without its loop: events in, decisions by the policy, and the network made to match.

What it decides and does, `daemon.telling` puts into words.

    events ──▶ policy ──▶ choice ──▶ audit ──▶ plan ──▶ execute ──▶ verify
                 ▲                     │
                 └──── carrier ────────┘

Whoever drives it (the loop, a simulation) calls `turn` when something was told, when links changed, and when `due_ms`
has come. Nothing here waits, and nothing here asks for the time but through `clock`.

In the order of a turn stands what must not be late: the guard's lease first, then the wire, then the log and the
memory, and the VM's restart last, when the attempt that it uses up is on disk.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from reconciler.appliance.declared import Appliance
from reconciler.daemon.failover import PreparedFailover
from reconciler.daemon.guard import GuardEffects
from reconciler.daemon.journal import Journal
from reconciler.daemon.memory import Memory
from reconciler.daemon.paths import Paths, doubts
from reconciler.daemon.telling import Telling
from reconciler.errors import HostError, TransientError
from reconciler.health import policy, record
from reconciler.health.signal import HealthState, Reading, Rebooted
from reconciler.health.state import (
    Choose,
    Decision,
    Declared,
    Event,
    Phase,
    RestartEnded,
    RestartVm,
    State,
    Tick,
    begin,
    rules_of,
)
from reconciler.host.signals import carrier
from reconciler.network.audit import Audit
from reconciler.network.conflict import Conflicts, Thing, about, suspects
from reconciler.network.cycle import Host, audit
from reconciler.network.desired import segments_of
from reconciler.network.diff import Change, Difference
from reconciler.network.path import Finding, PathGuard, Taken, paths
from reconciler.network.plan import Status, forgetting, plan
from reconciler.network.recognise import recognise
from reconciler.network.surroundings import Surroundings
from reconciler.warning import Warning

# Catches what no event told.
AUDIT_MS = 10_000
# What stands in the way is looked for so often; more seldom where it takes so long that this were worth mentioning.
SURVEY_MS = 1_000
_SURVEY_SHARE = 200
# After the network did not hold still, or the kernel refused to be read.
RETRY_MS = 100
REFUSED_MS = 1_000
# Carrier readings may change the choice, and the new choice what is looked at; more rounds than this are for later.
_ROUNDS = 4


class Booking(Protocol):
    """Where it is booked what was bypassed and cut; the contract stands with `daemon.books.Books`."""

    @property
    def due_ms(self) -> int:
        """When `look` has something to do although nothing happens."""
        ...

    def look(self, core: "Core", *, now_at_all: bool = False) -> None:
        """The paths were looked at."""
        ...

    def counted(self, segment: str, now_ms: int) -> dict[str, Any]:
        """What was bypassed and cut, as a part of the segment's status."""
        ...


@dataclass(slots=True)
class Core:
    """Keeps one appliance's network as its health asks for.

    `clock`: milliseconds that never step. `restart`: starts what the ladder asks for; its end comes back as an event.
    `running` gives the names of the programs that run on this host to whom it is handed, at once or later. `paths`:
    follows where frames go; it is told at the end of each turn and when the guard was heard, after the wire was seen to
    and before anything is remembered. `books`: is told likewise, right after that.
    """

    appliance: Appliance
    host: Host
    clock: Callable[[], int]
    journal: Journal
    memory: Memory
    restart: Callable[[RestartVm], None]
    running: Callable[[Callable[[Collection[str]], None]], None] = lambda then: then(())
    guard: GuardEffects | None = None
    paths: Paths = field(default_factory=Paths)
    books: Booking | None = None
    state: State = field(init=False)
    found: Difference | None = field(init=False, default=None)
    conflicts: Conflicts = field(init=False, default_factory=Conflicts)
    telling: Telling = field(init=False)
    repaired: int = field(init=False, default=0)
    _observed: dict[tuple[str, str | None], Reading] = field(init=False, default_factory=dict)
    _pending: list[RestartVm] = field(init=False, default_factory=list)
    _look_ms: int = field(init=False, default=0)
    _survey_ms: int = field(init=False, default=0)
    _around: Surroundings = field(init=False, default_factory=Surroundings)
    _switched: bool = field(init=False, default=False)
    _remembered: Any = field(init=False, default=None)
    _prepared: PreparedFailover = field(init=False)
    _sent: tuple[Change, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        self.telling = Telling(self.journal)
        self._prepared = PreparedFailover(self.host)

    def start(self, remembered: Any = None, shift: int | None = None) -> None:
        """Adopt the network as it is, with what an earlier process remembered (see `health.record`).

        Raises:
            TransientError, HostError: the network could not be read.

        """
        rules, now = rules_of(self.appliance), self.clock()
        seen = self._audited(_any_choice(self.appliance))
        found = recognise(self.appliance, seen.bound, seen.actual)
        if remembered is None:
            self.state = begin(rules, found, now)
        else:
            try:
                self.state = record.recall(rules, found, remembered, now, shift)
            except ValueError as error:
                self.memory.useless(error)
                self.state = begin(rules, found, now)
        self._switched = True
        self.telling.begun(self.appliance.sku, found, self.state.choice)
        self._choose()
        self.turn((), changed=True)

    @property
    def due_ms(self) -> int:
        """When `turn` must be called although nothing happens."""
        moments = [
            self._look_ms,
            None if self.unread else self._survey_ms,
            policy.due(self.state),
            self.telling.due_ms,
            self.guard.due_ms if self.guard else None,
            self.books.due_ms if self.books else None,
        ]
        return min(moment for moment in moments if moment is not None)

    @property
    def drained_ms(self) -> int | None:
        """Until when interfaces wait to be moved, for what is inside the VM is let out first; None: nothing waits."""
        waits = [self.guard.waits_until(name) for name in self.state.segments] if self.guard else []
        return max((until for until in waits if until is not None), default=None)

    @property
    def converged(self) -> bool:
        """Whether the network is as wanted, as far as it could be looked at since that was decided."""
        found = self.found
        return not (found is None or found.changes or found.problems or self._switched or self.unread)

    @property
    def unread(self) -> Warning | None:
        """Why the network cannot be read; None where it can."""
        return self.telling.unread

    def turn(self, events: Iterable[Event], *, changed: bool = False) -> None:
        """Take events in, decide, and make the network match. `changed`: links may have changed."""
        with self.journal.gathered():
            # Whatever was told is heard before silence, or the end of a hold-down, is judged: it may have waited.
            now = self.clock()
            for event in tuple(events) or (Tick(),):
                self._step(event, now)
            if changed or self.clock() >= self._look_ms:
                self._converge()
            elif self.guard and self.clock() >= self.guard.due_ms:
                self._observe(self.guard.listen())
            self.see_paths()
            self.telling.counted(self.clock())
        self._remember()
        pending, self._pending = self._pending, []
        for effect in pending:
            self.restart(effect)
        if self.clock() >= self._survey_ms:
            with self.journal.gathered():
                self._survey()

    def leave(self, ended: RestartEnded) -> None:
        """The process ends, and with it a restart: what became of it is remembered, and acted upon by the next one."""
        if self.state.vm.phase is Phase.RESTARTING:
            self.state, _ = policy.step(self.state, ended, self.clock())
            self._remember()

    def listen(self) -> None:
        """Hear the guard's probes, which tell something ten times a second, and seldom anything new."""
        if self.guard:
            if news := self.guard.listen():
                self.turn(news)
            else:
                self.see_paths()

    def declare(self, appliance: Appliance) -> None:
        """Go on with a file that was reloaded."""
        self.appliance = appliance
        self._prepared.discard()
        if self.guard:
            self.guard.declare(appliance)
        self._observed.clear()
        self.conflicts.forget()
        self._switched = True
        self.turn((Declared(rules_of(appliance)),), changed=True)
        # The new file may have no guard where the old one had one.
        self.forget_stations()

    def forget_stations(self) -> None:
        """Switches may have the wire that a guard had: where stations were before it says nothing of now."""
        if self.found and (todo := forgetting(self.found)).operations:
            self.host.execute(todo, self.found.actual, lambda: False)

    def look(self) -> Audit:
        """All that a dry run tells. Changes nothing.

        Raises:
            TransientError, HostError: the network could not be read.

        """
        found = self.audit()
        guards, findings = self._told_by_guard(ask=True)
        beside, unseen = self.guard.compare(found) if self.guard else ((), ())
        doubted = doubts(self.appliance, self.state, found)
        taken = paths(self.appliance, found.actual, guards, doubted, findings, bound=found.bound)
        return Audit(found, beside, taken, unseen)

    def audit(self) -> Difference:
        """What differs now from what is wanted. Changes nothing.

        Raises:
            TransientError, HostError: the network could not be read.

        """
        return audit(self.host, self.appliance, self.state.choice)

    def see_paths(self, *, ask: bool = False) -> Mapping[str, Taken]:
        """Where frames go now, by what was seen last; `ask`: what the guard has, the kernel is asked for again."""
        guards, findings = self._told_by_guard(ask=ask)
        found = None if self.unread else self.found
        self.paths.look(self.appliance, self.state, found, guards, findings, now=self.clock(), journal=self.journal)
        if self.books:
            self.books.look(self, now_at_all=ask)
        return self.paths.taken

    def _told_by_guard(self, *, ask: bool) -> tuple[Mapping[str, PathGuard], Mapping[str, Sequence[Finding]]]:
        """What its table has for each segment, and what is counted says of their paths."""
        return (self.guard.path_guards(ask=ask), self.guard.findings()) if self.guard else ({}, {})

    # Deciding

    def _step(self, event: Event, now: int) -> None:
        if self.guard and isinstance(event, Rebooted):
            self.guard.forget()
        self.state, effects = policy.step(self.state, event, now)
        for effect in effects:
            match effect:
                case Choose():
                    self._choose()
                    self._switched, self._look_ms = True, self.state.now_ms
                case RestartVm():
                    self._pending.append(effect)
                case Decision():
                    self.telling.decided(effect, self.state.now_ms)
        if isinstance(event, RestartEnded):
            self.telling.restart_ended(event)

    def _choose(self) -> None:
        """Have the guard know first: by one message the kernel carries the wire past the VM; the switches follow."""
        if self.guard:
            failed = [name for name, one in self.state.segments.items() if one.verdict.state is HealthState.FAILED]
            self.guard.choose(self.state.choice, failed)
        self._send_prepared()

    def _send_prepared(self) -> None:
        """Send what was made ready for segments that go to their fallback now; all else follows after a look."""
        fallback = self.appliance.on_failure.fallback
        going = [name for name, topology in self.state.choice.items() if topology == fallback(name)]
        self._sent += self._prepared.fire(name for name in going if not (self.guard and self.guard.waits_until(name)))

    def _observe(self, news: Iterable[Reading]) -> None:
        now = self.clock()
        for reading in news:
            self._step(reading, now)

    # Reconciling

    def _converge(self) -> None:
        try:
            found = self._look()
            self._look_ms = self.clock() + AUDIT_MS
            if self._sent:
                self._note_sent(found)
            if found.changes:
                self._repair(found)
            else:
                self._switched = False
            if self.found and not self.found.changes and not self.found.problems and not self._switched:
                self._prepared.arm(self.appliance, self.state.choice, self.found.actual)
            if self.guard and self.found:
                self._observe(self.guard.settle(self.found))
        except (TransientError, HostError) as error:
            self._look_ms = self.clock() + (RETRY_MS if error.retry_helps else REFUSED_MS)
            self.telling.refused(error)

    def _look(self) -> Difference:
        """What differs from what is wanted, once the adapters' carrier has had its say."""
        for _ in range(_ROUNDS):
            choice = self.state.choice
            self.found = self._audited(choice)
            self._observe_carrier(self.found)
            if self.state.choice == choice:
                break
        assert self.found is not None  # noqa: S101 - the loop ran
        self.telling.looked(self.found, self.conflicts.calmed(self.clock()), self.clock())
        return self.found

    def _audited(self, choice: Mapping[str, str]) -> Difference:
        return audit(self.host, self.appliance, choice, self._around)

    def _survey(self) -> None:
        """Look for what stands in the way, now that all is done that is in a hurry."""
        began = self.clock()
        self._survey_ms = began + SURVEY_MS
        if self.found is None or self._switched or self.unread:
            return
        try:
            self._around = self.host.survey(self.found.actual)
        except TransientError:
            return
        except HostError:
            self._around = Surroundings(chains=None)
        self.found = replace(self.found, actual=replace(self.found.actual, surroundings=self._around))
        if self.guard:
            self.guard.obstructed(self.found)
        self.telling.surveyed(self.found, self.clock())
        now = self.clock()
        self._survey_ms = now + max(SURVEY_MS, _SURVEY_SHARE * (now - began))

    def _observe_carrier(self, found: Difference) -> None:
        now = self.clock()
        for reading in carrier.readings(self.appliance, found.actual):
            key = (reading.signal, reading.segment)
            if self._observed.get(key) != reading:
                self._observed[key] = reading
                self._step(reading, now)

    def _repair(self, found: Difference) -> None:
        now = self.clock()
        if until := self._draining(found):
            # Under the guard's cover nothing hurries, and what the VM still holds needs its switches.
            self._look_ms = until
            return
        switched, self._switched = self._switched, False
        if switched:
            self.conflicts.forget()
        changes = tuple(one for one in found.changes if self.conflicts.allowed(one, now, _index(one, found)))
        waiting = [change for change in found.changes if change not in changes]
        if changes:
            todo = plan(replace(found, changes=changes))
            outcomes = self.host.execute(todo, found.actual, lambda: False)
            after = self._look()
            if switched:
                self.telling.switched(self.state.choice, changes, outcomes, len(after.changes))
            else:
                self.repaired += 1
                self.telling.repaired(changes, outcomes, len(after.changes))
                self._note(changes, found, {about(one.operation) for one in outcomes if one.status is not Status.DONE})
            if after.changes:
                waiting = list(after.changes)
                self._look_ms = min(self._look_ms, now + REFUSED_MS)
        if (wait := self.conflicts.due(waiting)) is not None:
            self._look_ms = min(self._look_ms, max(wait, now + 1))

    def _draining(self, found: Difference) -> int | None:
        """Until when what has to be changed has to wait; None: it need not, or something cannot wait for it."""
        if not self.guard:
            return None
        places = segments_of(self.appliance)
        roles = {change.link.role for change in found.changes if change.link.role}
        waits = [self.guard.waits_until(places.get((role.kind, role.name), "")) for role in roles]
        return max((until for until in waits if until), default=None) if all(waits) else None

    def _note(self, changes: Iterable[Change], found: Difference, refused: Collection[Thing]) -> None:
        for change in changes:
            thing = about(change)
            gone = thing in refused
            if self.conflicts.repaired(change, self.clock(), _index(change, found), refused=gone):
                live = found.actual.by_name.get(change.link.name)
                blame = partial(self._blame, change, live.switch if live else None)
                # Nobody waits until all of /proc has been read.
                if gone:
                    blame(())
                else:
                    self.running(blame)

    def _blame(self, change: Change, holder: str | None, running: Collection[str]) -> None:
        thing, who = about(change), suspects(change, running, holder)
        if warning := self.conflicts.suspect(thing, who):
            self.telling.conflict(thing, who, warning)

    def _note_sent(self, found: Difference) -> None:
        left = {about(change) for change in found.changes}
        done = tuple(change for change in self._sent if about(change) not in left)
        self._sent = ()
        self.conflicts.forget()
        if done:
            self.telling.switched(self.state.choice, done, left=len(found.changes))

    def _remember(self) -> None:
        value = record.dump(self.state)
        if value != self._remembered:
            self._remembered = value
            self.memory.remember(self.state)


def _index(change: Change, found: Difference) -> int:
    """Which interface a change is about; 0: one that is not there."""
    live = found.actual.by_name.get(change.link.name)
    return live.nic.index if live and live.nic else 0


def _any_choice(appliance: Appliance) -> Mapping[str, str]:
    return dict.fromkeys(appliance.segments, next(iter(appliance.topologies)))
