"""The guard carried out: each effect of its step is done here, and what came of it is told to the step again.

Who drives it (the core) calls `choose` as soon as a decision is made, `settle` when the network was looked at, and
`listen` when something may have come from the prober, or a table has been put. What is on the failover path is
`choose`: a prepared message a segment.
"""

import socket
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, assert_never

from reconciler.appliance import declared
from reconciler.appliance.declared import INSPECT, Appliance
from reconciler.daemon.journal import LEVELS, Journal
from reconciler.errors import HostError, ReconcilerError, TransientError
from reconciler.guard import effects, events, orders, state, status, step, warnings
from reconciler.guard.compare import compare, unseen
from reconciler.guard.crossing import Crossings, CrossingSample, takes
from reconciler.guard.exposure import Exposure
from reconciler.guard.rules import Contents, Guarded, Ruleset, bind_guard, digest_of, lost_ports
from reconciler.guard.status import gate_of, hooks_of, known_gate
from reconciler.guard.table import LeaseState
from reconciler.health.signal import Reading
from reconciler.network.audit import Beside
from reconciler.network.counts import LinkCounts
from reconciler.network.desired import segments_of
from reconciler.network.diff import Difference
from reconciler.network.path import Finding, Gate, PathGuard, doubts_of
from reconciler.network.recognise import recognise
from reconciler.network.state import Role
from reconciler.warning import Warning

# Each effect has one answer at the most, and few answers ask for more. A step that goes on for longer is a bug.
_MOST_STEPS = 1_000

LinkReader = Callable[[Iterable[int]], Mapping[int, LinkCounts]]
"""What interfaces have counted, by their indexes; see `host.netlink.link_counts.LinkCounters`."""

Background = Callable[[Callable[[], events.Event], Callable[[str], events.Event]], events.Event | None]
"""Has work done that may take long. Returns what came of it; or None, and then it is delivered later: what came of it,
or the second function's event, which says why nothing did."""


class Table(Protocol):
    """The guard's table in the kernel; the contract stands with `host.guard.table.Table`."""

    def find(self, bound: Iterable[Guarded]) -> events.TableFound: ...  # noqa: D102
    def standing(self, bound: Iterable[Guarded]) -> events.LeasesFound: ...  # noqa: D102
    def contents(self, one: Guarded) -> Contents: ...  # noqa: D102
    def count(self) -> events.CountersRead: ...  # noqa: D102
    def fingerprint(self) -> str | None: ...  # noqa: D102
    def install(self, ruleset: Ruleset) -> events.Installed: ...  # noqa: D102
    def remove(self) -> events.Removed: ...  # noqa: D102
    def prepare(self, segments: Iterable[Guarded]) -> None: ...  # noqa: D102
    def withdraw(self, one: Guarded, *, drain: bool) -> None: ...  # noqa: D102
    def stand_aside(self, one: Guarded) -> None: ...  # noqa: D102
    def grant(self, one: Guarded, token: bytes) -> None: ...  # noqa: D102
    def renew(self, one: Guarded) -> None: ...  # noqa: D102


class ProberControl(Protocol):
    """The process that sends, hears and counts probes; see `host.guard.prober_client.Probing`."""

    @property
    def alive(self) -> bool: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def pid(self) -> int | None: ...  # noqa: D102
    def connect(self) -> bool: ...  # noqa: D102
    def spawn(self) -> bool: ...  # noqa: D102
    def order(self, orders: Sequence[orders.Order], sockets: Sequence[socket.socket], grace_ms: int) -> None: ...  # noqa: D102
    def consent(self) -> None: ...  # noqa: D102
    def end(self) -> None: ...  # noqa: D102
    def reports(self) -> Sequence[orders.ProberReport]: ...  # noqa: D102


class Notes(Protocol):
    """Where the guard's own memory outlives the process, as long as the machine runs."""

    def write(self, value: Any) -> None:
        """Keep it.

        Raises:
            OSError: it cannot be kept.

        """
        ...


class GuardEffects:
    """The guard of one appliance. `listener` opens an adapter's packet socket (`host.guard.probe_socket`)."""

    def __init__(
        self,
        begun: state.GuardState,
        *,
        table: Table,
        prober: ProberControl,
        listener: Callable[[str, bytes], socket.socket],
        clock: Callable[[], int],
        journal: Journal,
        notes: Notes,
        background: Background = lambda work, _: work(),
        links: LinkReader | None = None,
    ) -> None:
        self.state = begun
        self.prober = prober
        self._table, self._listener, self._clock = table, listener, clock
        self._journal, self._notes, self._background = journal, notes, background
        self._links = links
        self._crossing = Crossings()
        self._seen: tuple[Guarded, ...] = ()
        self._blocked: frozenset[str] = frozenset()
        self._sockets: dict[orders.ProbeEnd, socket.socket] = {}
        self._delivered: deque[events.Event] = deque()
        # While a prober is being started, in the background, nobody else asks it for anything.
        self._starting = self._unwanted = False

    @property
    def on(self) -> bool:
        """Whether the guard is set, or to be set."""
        return self.state.on and bool(self.state.segments)

    @property
    def due_ms(self) -> int:
        """When `listen` has something to do although nothing happens."""
        if self._delivered:
            return self._clock()
        due = step.due(self.state, self._clock())
        looks = self._crossing.due(self._watched) if self._links else None
        return due if looks is None else min(due, looks)

    def choose(self, choice: Mapping[str, str], failed: Iterable[str]) -> None:
        """Segments shall have these topologies; of those that `failed`, what the VM still holds is not let out."""
        self._step(events.Chosen(choice, frozenset(failed)))

    def waits_until(self, segment: str) -> int | None:
        """Until when a segment's ports have to stay where they are: frames are on their way out of the VM."""
        return step.waits_until(self.state, segment, self._clock())

    def settle(self, found: Difference) -> tuple[Reading, ...]:
        """The network was looked at. Returns the readings that have changed."""
        if not self.state.segments:
            return ()
        appliance = self.state.appliance
        bound = bind_guard(appliance, found.desired, found.actual, lost_ports(self.state.nics, found.problems))
        self._seen = tuple(bound)
        topologies = recognise(appliance, found.bound, found.actual)
        inspected = frozenset(name for name, topology in topologies.items() if topology == INSPECT)
        return self._step(events.Observed(bound, in_place(appliance, found), inspected))

    def listen(self) -> tuple[Reading, ...]:
        """Something may have come from the prober, a table may have been put, or time has passed; what is new."""
        reported: list[events.Event] = list(self._delivered)
        self._delivered.clear()
        if not self._starting:
            reported += self._of_the_prober()
        return self._step(*(reported or [events.Tick()])) + self._look_across()

    def _of_the_prober(self) -> Iterator[events.Event]:
        if self._unwanted:
            self._unwanted = False
            self.prober.end()
        if reports := tuple(self.prober.reports()):
            yield events.ProberReported(reports)
        if not self.prober.alive and self.state.prober.life is not state.ProberLife.NOBODY:
            yield events.ProberGone(self.prober.reason)

    def deliver(self, event: events.Event) -> None:
        """What came of work in the background: `listen` hears of it."""
        self._delivered.append(event)

    def disturb(self) -> None:
        """Somebody has changed something in nf_tables."""
        self._step(events.Disturbed())

    def declare(self, appliance: Appliance) -> None:
        """Go on with a file that was read again."""
        self._step(events.Declared(appliance))
        self._crossing = replace(self._crossing, told={})

    def forget(self) -> None:
        """What the probes told is void, and is told again."""
        self._step(events.Rebooted())

    def switch(self, *, on: bool) -> tuple[Reading, ...]:
        """Set the guard, or take every trace of it away until it is set again.

        Raises:
            HostError: as `check`.

        """
        news = self._step(events.Switched(on))
        self.check(on=on)
        return news

    def check(self, *, on: bool) -> None:
        """Whether it is as it was to be switched, once all that is done in the background has come back.

        Raises:
            HostError: the kernel refused.

        """
        if self.state.on is not on:
            raise HostError(f"the guard's table could not be taken away: {self.state.table.trouble}")

    def status(self, guards: Mapping[str, PathGuard]) -> tuple[dict[str, Any] | None, tuple[Warning, ...]]:
        """Its part of `reconcile status`, frames as they are counted now; and what is bad news about it.

        `guards`: as `path_guards` has just given them.
        """
        unseen = ""
        try:
            if self.on:
                self._step(self._table.count())
        except ReconcilerError as error:
            unseen = str(error)
        reported = status.status(self.state, guards, pid=self.prober.pid)
        return reported, tuple(warnings.warnings(self.state, guards, unseen))

    def counted(self) -> tuple[int | None, Mapping[str, Exposure]]:
        """The table that stands now, and what all tables have counted of each segment, also of former ones.

        None: there is none; 0: it cannot be read.
        """
        handle = None
        try:
            if self.on:
                found = self._table.count()
                self._step(found)
                handle = found.handle
        except ReconcilerError:
            # What was counted before is known in any case.
            handle = 0
        now = {name: one.exposure for name, one in self.state.segments.items()}
        return handle, {**self.state.former, **now}

    @property
    def found(self) -> bool:
        """Whether it is known what table an earlier process has left, or why that cannot be."""
        return not self.on or self.state.table.known or bool(self.state.table.trouble)

    def counts(self, segment: str) -> bool:
        """Whether a segment has a guard that is set."""
        return self.on and self.state.table.present and segment in self.state.segments

    def path_guards(self, *, ask: bool) -> dict[str, PathGuard]:
        """What the kernel's table has for each guarded segment: at this moment (`ask`), or when it was looked at."""
        if not self.state.on:
            return dict.fromkeys(self.state.segments, PathGuard(Gate.OFF))
        # What has no ports to be bound to is not in the table.
        return dict.fromkeys(self.state.segments, PathGuard(Gate.MISSING)) | {
            one.name: PathGuard(self._gate(one, ask=ask), hooks_of(one)) for one in self.state.bound
        }

    def _gate(self, one: Guarded, *, ask: bool) -> Gate:
        if not ask:
            return known_gate(self.state, one)
        try:
            return gate_of(one.guard, self._table.contents(one))
        except ReconcilerError:
            return self._gate_without_contents()

    def _gate_without_contents(self) -> Gate:
        try:
            return Gate.MISSING if self._table.count().handle is None else Gate.UNKNOWN
        except ReconcilerError:
            return Gate.UNKNOWN

    def compare(self, found: Difference) -> tuple[tuple[Beside, ...], tuple[Warning, ...]]:
        """What of the table in the kernel differs from the file's, and what could not be seen."""
        try:
            fingerprint = self._table.fingerprint()
        except ReconcilerError as error:
            return (), ((unseen(str(error)),) if self.state.segments else ())
        appliance, table = self.state.appliance, self.state.table
        bound = bind_guard(appliance, found.desired, found.actual, lost_ports(self.state.nics, found.problems))
        made = digest_of(appliance.sku, bound, self.state.secret)
        differs = compare(
            appliance,
            on=self.state.on,
            made=made,
            digest=table.digest,
            noted=table.fingerprint,
            fingerprint=fingerprint,
        )
        return tuple(differs), ()

    def obstructed(self, found: Difference) -> None:
        """It was looked for what stands in the way."""
        self._blocked = frozenset(doubts_of(self.state.appliance, found.warnings))

    def findings(self) -> Mapping[str, tuple[Finding, ...]]:
        """What is counted between ports and adapters says of the segments' paths."""
        return self._crossing.findings()

    @property
    def _watched(self) -> tuple[Guarded, ...]:
        """The segments whose frames are counted: between ports and adapters or, where the guard is off, at the VM."""
        return tuple(one for one in (self.state.bound if self.state.on else self._seen) if one.guard.loss)

    def _look_across(self) -> tuple[Reading, ...]:
        """See whether what enters leaves, where that is due."""
        now, watched = self._clock(), self._watched
        due = self._crossing.due(watched)
        if self._links is None or due is None or now < due:
            return ()
        if not self.state.on:
            return self._look_through(watched, self._links, now)
        segments, canaries = self.state.segments, self.state.canaries
        whole = {
            one.name
            for one in watched
            if segments[one.name].held is LeaseState.GRANTED and segments[one.name].inspected
        }
        waiting = {one.name for one in watched if not (one.guard.by_daemon or takes(one, canaries.back_ms, now))}
        try:
            indexes = [place.index for one in watched for place in (*one.ports, *one.adapters) if place.index]
            before, read, after = self._links(indexes), self._table.count(), self._links(indexes)
            sample, trouble = CrossingSample(now, read.handle, read.counted, before, after, canaries.sent(watched)), ""
        except ReconcilerError as error:
            sample, whole, trouble = CrossingSample(now, None, {}, {}, {}), set(), str(error)
        known = self._crossing.look(watched, whole, waiting, sample).settle(watched, whole, self._blocked, now)
        return self._news(known, whole, trouble)

    def _look_through(self, watched: tuple[Guarded, ...], read: LinkReader, now: int) -> tuple[Reading, ...]:
        """The guard is off: what is left to see is whether anything comes out of the VM."""
        links: Mapping[int, LinkCounts] = {}
        trouble = "the guard is off: of what crosses the VM only the links tell"
        try:
            links = read([place.index for one in watched for place in one.adapters if place.index])
        except ReconcilerError as error:
            trouble = str(error)
        return self._news(self._crossing.look_through(watched, links, now), set(), trouble)

    def _news(self, known: Crossings, whole: Collection[str], trouble: str) -> tuple[Reading, ...]:
        signals = self.state.appliance.health.signals
        sources = {
            name: one.source.segments for name, one in signals.items() if isinstance(one.source, declared.HostPath)
        }
        self._crossing, news = known.news(sources, whole, trouble)
        return news

    def close(self) -> None:
        """Close the sockets of this process; the prober has its own."""
        for one in self._sockets.values():
            one.close()
        self._sockets = {}

    # Steps

    def _step(self, *reported: events.Event) -> tuple[Reading, ...]:
        pending, news = deque(reported), list[Reading]()
        for _ in range(_MOST_STEPS):
            if not pending:
                return tuple(news)
            self.state, asked = step.step(self.state, pending.popleft(), self._clock())
            for effect in asked:
                if isinstance(effect, effects.Readings):
                    news += effect.readings
                elif (answer := self._answered(effect)) is not None:
                    pending.append(answer)
        raise AssertionError(f"the guard does not come to rest: {pending[0]}")

    def _answered(self, effect: effects.Effect) -> events.Event | None:
        try:
            return self._carry_out(effect)
        except ReconcilerError as error:
            return events.NotDone(effect, str(error))

    def _carry_out(self, effect: effects.Effect) -> events.Event | None:
        match effect:
            case effects.Withdraw(one, drain):
                self._table.withdraw(one, drain=drain)
            case effects.StandAside(one):
                self._table.stand_aside(one)
            case effects.Grant(one, token):
                self._table.grant(one, token)
            case effects.Renew(one):
                self._table.renew(one)
            case effects.Prepare(bound):
                self._table.prepare(bound)
            case effects.FindTable(bound):
                return self._slowly(effect, lambda: self._table.find(bound))
            case effects.FindLeases(bound):
                return self._table.standing(bound)
            case effects.ReadCounters():
                return self._table.count()
            case effects.Install(made):
                return self._slowly(effect, lambda: self._table.install(made))
            case effects.RemoveTable():
                return self._slowly(effect, self._table.remove)
            case effects.Tell(event, text, level, data):
                self._journal.tell(event, text, level=LEVELS[level], **data)
            case effects.Warn(event, warning):
                self._journal.warn(event, warning)
            case effects.Keep(value):
                self._keep(value)
            case effects.Readings():
                raise AssertionError("readings are for who asked")
            case _:
                return self._tell_prober(effect)
        return None

    def _slowly(self, effect: effects.Effect, find: Callable[[], events.Event]) -> events.Event | None:
        def refused(reason: str) -> events.Event:
            return events.NotDone(effect, reason)

        def work() -> events.Event:
            try:
                return find()
            except ReconcilerError as error:
                return refused(str(error))

        return self._background(work, refused)

    def _keep(self, value: Any) -> None:
        try:
            self._notes.write(value)
        except OSError as error:
            self._journal.warn("guard", warnings.unkept(error))

    def _tell_prober(
        self,
        effect: effects.FindProber | effects.StartProber | effects.EndProber | effects.GiveOrders | effects.Consent,
    ) -> events.Event | None:
        match effect:
            case effects.FindProber():
                return events.ProberThere(found=True) if self.prober.connect() else events.ProberGone("none is there")
            case effects.StartProber():
                return self._start_prober(effect)
            case effects.EndProber():
                if self._starting:
                    self._unwanted = True
                else:
                    self.prober.end()
                self.close()
                return events.ProberGone("ended on purpose")
            case effects.GiveOrders(wanted):
                self._order(wanted)
            case effects.Consent():
                self.prober.consent()
            case _:
                assert_never(effect)
        return None

    def _start_prober(self, effect: effects.StartProber) -> events.Event | None:
        if self._starting:
            raise TransientError("one is still being started: its disk does not answer")
        self._starting, self._unwanted = True, False

        def start() -> events.Event:
            try:
                return events.ProberThere() if self.prober.spawn() else events.ProberStill()
            finally:
                self._starting = False

        return self._slowly(effect, start)

    def _order(self, wanted: orders.Orders) -> None:
        sockets: dict[orders.ProbeEnd, socket.socket] = {}
        try:
            for end in wanted.ends:
                sockets[end] = self._sockets.get(end) or self._listener(end.interface, end.mark)
        except ReconcilerError:
            for end, one in sockets.items():
                if end not in self._sockets:
                    one.close()
            raise
        self.prober.order(wanted.orders, tuple(sockets.values()), wanted.grace_ms)
        for end, gone in self._sockets.items():
            if end not in sockets:
                gone.close()
        self._sockets = sockets


def in_place(appliance: Appliance, found: Difference) -> frozenset[str]:
    """The segments in which nothing is left to change that their traffic depends on."""
    place = {str(Role(*role)): segment for role, segment in segments_of(appliance).items()}
    things = [str(change.link.role) for change in found.changes] + [problem.about for problem in found.problems]
    in_motion = {place.get(thing) for thing in things}
    return frozenset(name for name in appliance.segments if name not in in_motion)
