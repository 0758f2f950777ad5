"""The core of the daemon, without its loop: events in, decisions by the policy, and the network made to match.

    events ──▶ policy ──▶ choice ──▶ audit ──▶ plan ──▶ execute ──▶ verify
                 ▲                     │
                 └──── carrier ────────┘

Whoever drives it (the loop, a simulation) calls `turn` when something was told, when links changed, and when `due_ms`
has come. Nothing here waits, and nothing here asks for the time but through `clock`.

In the order of a turn stands what must not be late: the guard's lease first, then the wire, then the log and the
memory, and the VM's restart last, when the attempt that it uses up is on disk.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from reconciler.appliance.declared import Appliance
from reconciler.daemon.failover import PreparedFailover
from reconciler.daemon.journal import Journal
from reconciler.errors import HostError, TransientError
from reconciler.health import policy, record
from reconciler.health.signal import Reading, Rebooted
from reconciler.health.signal import State as HealthState
from reconciler.health.state import (
    Choose,
    Decision,
    Declared,
    Ending,
    Event,
    Phase,
    Restart,
    RestartEnded,
    State,
    Tick,
    begin,
    rules_of,
)
from reconciler.host.signals import carrier
from reconciler.network import render
from reconciler.network.bind import Problem
from reconciler.network.conflict import Conflicts, Thing, about, suspects
from reconciler.network.cycle import Host, Report, audit
from reconciler.network.desired import segments_of
from reconciler.network.diff import Change, Difference
from reconciler.network.plan import Outcome, Plan, Status, plan
from reconciler.network.recognise import recognise

# Catches what no event told.
AUDIT_MS = 10_000
# After the network did not hold still, or the kernel refused to be read.
RETRY_MS = 100
REFUSED_MS = 1_000
# Carrier readings may change the choice, and the new choice what is looked at; more rounds than this are for later.
_ROUNDS = 4
DECISIONS_KEPT = 64
# The same decision, once more within so long, is not told again.
REPEATED_MS = 1_000
# In a log line; the whole plan is what `reconcile --dry-run` is for.
_CHANGES_TOLD = 8


class Memory(Protocol):
    """Where the policy's state outlives the process."""

    def remember(self, state: State) -> None:
        """Keep what is worth keeping. Never raises: a full disk must not stop a failover."""
        ...

    def useless(self, error: Exception) -> None:
        """What it gave to begin with is no memory of ours. Never raises."""
        ...


class Guard(Protocol):
    """The dead-man switch in the kernel; the contract stands with `daemon.guard.GuardEffects`."""

    @property
    def due_ms(self) -> int:
        """When `listen` has something to do although nothing happens."""
        ...

    def choose(self, choice: Mapping[str, str], failed: Collection[str]) -> None:
        """Segments shall have these topologies; those that `failed` at once, whatever the VM still holds."""
        ...

    def waits_until(self, segment: str) -> int | None:
        """Until when a segment's interfaces have to stay where they are; None: they may be moved."""
        ...

    def settle(self, found: Difference) -> tuple[Reading, ...]:
        """The network was looked at; what the guard's probes tell that is new."""
        ...

    def listen(self) -> tuple[Reading, ...]:
        """Something may have come from the probes, or time has passed; what is new."""
        ...

    def declare(self, appliance: Appliance) -> None:
        """The file was reloaded."""
        ...

    def forget(self) -> None:
        """What the probes told is void, and will be told again."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """A decision, when it was made."""

    at_ms: int
    decision: Decision


@dataclass(slots=True)
class Core:
    """Keeps one appliance's network as its health asks for.

    `clock`: milliseconds that never step. `restart`: starts what the ladder asks for; its end comes back as an event.
    `running`: the names of the programs that run on this host.
    """

    appliance: Appliance
    host: Host
    clock: Callable[[], int]
    journal: Journal
    memory: Memory
    restart: Callable[[Restart], None]
    running: Callable[[], Collection[str]] = lambda: ()
    guard: Guard | None = None
    state: State = field(init=False)
    found: Difference | None = field(init=False, default=None)
    conflicts: Conflicts = field(init=False, default_factory=Conflicts)
    decisions: list[Told] = field(init=False, default_factory=list)
    mended: int = field(init=False, default=0)
    _heard: dict[tuple[str, str | None], Reading] = field(init=False, default_factory=dict)
    _problems: dict[Any, Problem] = field(init=False, default_factory=dict)
    _unread: str = field(init=False, default="")
    _unreached: str = field(init=False, default="")
    _told: dict[tuple[str | None, str], int] = field(init=False, default_factory=dict)
    _pending: list[Restart] = field(init=False, default_factory=list)
    _look_ms: int = field(init=False, default=0)
    _switched: bool = field(init=False, default=False)
    _remembered: Any = field(init=False, default=None)
    _prepared: PreparedFailover = field(init=False)
    _sent: tuple[Change, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        self._prepared = PreparedFailover(self.host)

    def start(self, remembered: Any = None, shift: int | None = None) -> None:
        """Adopt the network as it is, with what an earlier process remembered (see `health.record`).

        Raises:
            TransientError, HostError: the network could not be read.

        """
        rules, now = rules_of(self.appliance), self.clock()
        found = recognise(self.appliance, audit(self.host, self.appliance, _any_choice(self.appliance)).actual)
        if remembered is None:
            self.state = begin(rules, found, now)
        else:
            try:
                self.state = record.recall(rules, found, remembered, now, shift)
            except ValueError as error:
                self.memory.useless(error)
                self.state = begin(rules, found, now)
        self._switched = True
        self.journal.tell(
            "start",
            f"{self.appliance.sku}: found {_spell(found)}; wanted {_spell(self.state.choice)}",
            found=dict(found),
        )
        self._choose()
        self.turn((), changed=True)

    @property
    def due_ms(self) -> int:
        """When `turn` must be called although nothing happens."""
        soonest = policy.due(self.state)
        moments = [self._look_ms, *([] if soonest is None else [soonest]), *([self.guard.due_ms] if self.guard else [])]
        return min(moments)

    @property
    def drained_ms(self) -> int | None:
        """Until when interfaces wait to be moved, for what is inside the VM is let out first; None: nothing waits."""
        waits = [self.guard.waits_until(name) for name in self.state.segments] if self.guard else []
        return max((until for until in waits if until is not None), default=None)

    @property
    def converged(self) -> bool:
        """Whether the network is as wanted, as far as it could be looked at since that was decided."""
        found = self.found
        return not (found is None or found.changes or found.problems or self._switched or self._unread)

    @property
    def unread(self) -> str:
        """Why the network cannot be read; '' where it can."""
        return self._unread

    def turn(self, events: Iterable[Event], *, changed: bool = False) -> None:
        """Take events in, decide, and make the network match. `changed`: links may have changed."""
        with self.journal.gathered():
            # Whatever was told is heard before silence, or the end of a hold-down, is judged: it may have waited.
            for event in tuple(events) or (Tick(),):
                self._step(event)
            if changed or self.clock() >= self._look_ms:
                self._converge()
            elif self.guard and self.clock() >= self.guard.due_ms:
                self._hear(self.guard.listen())
        self._remember()
        pending, self._pending = self._pending, []
        for effect in pending:
            self.restart(effect)

    def leave(self, ended: RestartEnded) -> None:
        """The process ends, and with it a restart: what became of it is remembered, and acted upon by the next one."""
        if self.state.vm.phase is Phase.RESTARTING:
            self.state, _ = policy.step(self.state, ended, self.clock())
            self._remember()

    def listen(self) -> None:
        """Hear the guard's probes, which tell something ten times a second, and seldom anything new."""
        if self.guard and (news := self.guard.listen()):
            self.turn(news)

    def declare(self, appliance: Appliance) -> None:
        """Go on with a file that was reloaded."""
        self.appliance = appliance
        self._prepared.discard()
        if self.guard:
            self.guard.declare(appliance)
        self._heard.clear()
        self.conflicts.forget()
        self._switched = True
        self.turn((Declared(rules_of(appliance)),), changed=True)

    def audit(self) -> Difference:
        """What differs now from what is wanted. Changes nothing.

        Raises:
            TransientError, HostError: the network could not be read.

        """
        return audit(self.host, self.appliance, self.state.choice)

    # Deciding

    def _step(self, event: Event) -> None:
        if self.guard and isinstance(event, Rebooted):
            self.guard.forget()
        self.state, effects = policy.step(self.state, event, self.clock())
        for effect in effects:
            match effect:
                case Choose():
                    self._choose()
                    self._switched, self._look_ms = True, self.state.now_ms
                case Restart():
                    self._pending.append(effect)
                case Decision():
                    self._decided(effect)
        if isinstance(event, RestartEnded):
            self._restart_ended(event)

    def _restart_ended(self, ended: RestartEnded) -> None:
        before, self._unreached = self._unreached, ended.reason if ended.ending is Ending.UNREACHED else ""
        if ended.ending is Ending.REFUSED:
            self.journal.tell("restart", f"the VM was not restarted: {ended.reason}", level=logging.ERROR)
        elif self._unreached != before:
            # Asked again and again, and told once.
            self.journal.tell("restart", f"nobody can be asked to restart the VM: {ended.reason}", level=logging.ERROR)

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

    def _hear(self, news: Iterable[Reading]) -> None:
        for reading in news:
            self._step(reading)

    def _decided(self, decision: Decision) -> None:
        now, thing = self.state.now_ms, (decision.segment, decision.what)
        told = {one: when for one, when in self._told.items() if now - when < REPEATED_MS}
        self._told = told if thing in told else {**told, thing: now}
        if thing in told and decision.routine:
            # A guest that changes its mind ten times a second fills neither the log nor the decisions that are kept.
            return
        self.decisions.append(Told(now, decision))
        del self.decisions[:-DECISIONS_KEPT]
        where = f"{decision.segment}: " if decision.segment else ""
        why = "; ".join(str(reading) for reading in decision.why)
        self.journal.tell(
            "decision",
            f"{where}{decision.what}{f' ({why})' if why else ''}",
            segment=decision.segment,
            what=decision.what,
            why=[str(reading) for reading in decision.why],
        )

    # Reconciling

    def _converge(self) -> None:
        try:
            found = self._look()
            self._look_ms = self.clock() + AUDIT_MS
            if self._sent:
                self._tell_sent(found)
            if found.changes:
                self._mend(found)
            else:
                self._switched = False
            if self.found and not self.found.changes and not self.found.problems and not self._switched:
                self._prepared.arm(self.appliance, self.state.choice, self.found.actual)
            if self.guard and self.found:
                self._hear(self.guard.settle(self.found))
        except (TransientError, HostError) as error:
            self._look_ms = self.clock() + (RETRY_MS if error.retry_helps else REFUSED_MS)
            if str(error) != self._unread:
                level = logging.WARNING if error.retry_helps else logging.ERROR
                self.journal.tell("unread", str(error), level=level)
            self._unread = str(error)

    def _look(self) -> Difference:
        """What differs from what is wanted, once the adapters' carrier has had its say."""
        for _ in range(_ROUNDS):
            choice = self.state.choice
            self.found = audit(self.host, self.appliance, choice)
            self._hear_carrier(self.found)
            if self.state.choice == choice:
                break
        assert self.found is not None  # noqa: S101 - the loop ran
        if self._unread:
            self._unread = ""
            self.journal.tell("read", "the network can be read again")
        self._tell_problems(self.found)
        for name, what in self.conflicts.calmed(self.clock()):
            self.journal.tell("calm", f"{name}: nobody changes back its {what} any more", interface=name, about=what)
        return self.found

    def _hear_carrier(self, found: Difference) -> None:
        for reading in carrier.readings(self.appliance, found.actual):
            key = (reading.signal, reading.segment)
            if self._heard.get(key) != reading:
                self._heard[key] = reading
                self._step(reading)

    def _mend(self, found: Difference) -> None:
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
            self._tell(found, changes, Report(found, todo, outcomes, after), switched=switched)
            if not switched:
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
            name, what = thing = about(change)
            if not self.conflicts.mended(change, self.clock(), _index(change, found), refused=thing in refused):
                continue
            if thing in refused:
                text = f"{name}: its {what} is refused again and again; trying ever more seldom"
                self.journal.tell("refused", text, level=logging.ERROR, interface=name, about=what)
                continue
            live = found.actual.by_name.get(name)
            names = suspects(change, self.running(), live.switch if live else None)
            who = f"probably {', '.join(names)}" if names else "somebody"
            self.journal.tell(
                "conflict",
                f"{name}: {who} keeps changing back its {what}; mending it ever more seldom. "
                "Tell that program to leave the appliance's interfaces alone",
                level=logging.WARNING,
                interface=name,
                about=what,
                suspects=list(names),
            )

    def _tell(self, found: Difference, changes: tuple[Change, ...], report: Report, *, switched: bool) -> None:
        self.mended += not switched
        failed = [one for one in report.outcomes if one.status is Status.FAILED]
        told = [_change(line) for line in map(render.line, changes)]
        listed = "; ".join(told[:_CHANGES_TOLD]) + ("; …" if len(told) > _CHANGES_TOLD else "")
        what = f"switched to {_spell(self.state.choice)}" if switched else "mended"
        left = f"; {len(report.after.changes)} still to make" if report.after.changes else ""
        self.journal.tell(
            "switched" if switched else "mended",
            f"{what}, {len(changes)} change{'s' if len(changes) != 1 else ''}{left}: {listed}",
            level=logging.INFO if not failed else logging.ERROR,
            changes=told,
            failed=[_failure(one) for one in failed],
        )
        for one in failed:
            self.journal.tell("failed", _failure(one), level=logging.ERROR)

    def _tell_sent(self, found: Difference) -> None:
        left = {about(change) for change in found.changes}
        done = tuple(change for change in self._sent if about(change) not in left)
        self._sent = ()
        self.conflicts.forget()
        if done:
            self._tell(found, done, Report(found, Plan((), ()), (), found), switched=True)

    def _tell_problems(self, found: Difference) -> None:
        # What would be right instead may name all NICs of the machine, and is no part of what is wrong.
        problems = {(one.code, one.role, one.what, one.interface): one for one in found.problems}
        for key in problems.keys() - self._problems.keys():
            problem = problems[key]
            self.journal.tell("problem", str(problem).split("\n")[0], level=logging.ERROR, code=problem.code)
        for key in self._problems.keys() - problems.keys():
            problem = self._problems[key]
            self.journal.tell("solved", f"no longer: {str(problem).split(chr(10))[0]}", code=problem.code)
        self._problems = problems

    def _remember(self) -> None:
        value = record.dump(self.state)
        if value != self._remembered:
            self._remembered = value
            self.memory.remember(self.state)


def _failure(outcome: Outcome) -> str:
    return f"{outcome.operation.link.label}: {render.operation_words(outcome.operation)}: {outcome.why}"


def _index(change: Change, found: Difference) -> int:
    """Which interface a change is about; 0: one that is not there."""
    live = found.actual.by_name.get(change.link.name)
    return live.nic.index if live and live.nic else 0


def _change(line: render.Line) -> str:
    if line.old is None or line.new is None:
        return f"{line.thing}: {line.new or line.old}"
    return f"{line.thing} {line.about}: {line.old} → {line.new}"


def _any_choice(appliance: Appliance) -> Mapping[str, str]:
    return dict.fromkeys(appliance.segments, next(iter(appliance.topologies)))


def _spell(choice: Mapping[str, str | None]) -> str:
    topologies = set(choice.values())
    if len(topologies) == 1:
        return topologies.pop() or "no topology"
    return ", ".join(f"{segment}={topology or 'none'}" for segment, topology in choice.items())
