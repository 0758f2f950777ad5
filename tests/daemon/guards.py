"""A core with its guard on a fake kernel: see `keeping`, and `fake_guard` for the table, the prober and the VM."""

import copy
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from fake_guard import REPORT_MS, FakeProber, Wires
from fake_kernel import FakeKernel
from keeping import Kept, watched
from worlds import converge, host

from reconciler.appliance.declared import Appliance
from reconciler.daemon.books import Books
from reconciler.daemon.core import Core
from reconciler.daemon.guard import Background, GuardEffects
from reconciler.guard.events import Event as GuardEvent
from reconciler.guard.state import SegmentGuard
from reconciler.guard.step import begin
from reconciler.guard.table import LeaseState
from reconciler.health.state import Event
from reconciler.ledger.entry import Entry
from reconciler.ledger.orders import Moment
from reconciler.network.desired import choice_of

TO_INSIDE, TO_OUTSIDE = "wire/lease/inside", "wire/lease/outside"


def guarded(guard: dict[str, Any] | None = None, **more: Any) -> Appliance:
    """Two ports, a guard, its canary, and a hold-down of ten seconds."""
    return watched(guard={} if guard is None else guard, **{"signals": {}, **more})


class Later:
    """Work in the background that does not come back until it is let."""

    def __init__(self, kept: "Guards") -> None:
        self.kept = kept
        self.works: deque[Callable[[], GuardEvent]] = deque()
        kept.background = self

    def __call__(self, work: Callable[[], GuardEvent], failed: Callable[[str], GuardEvent]) -> None:
        self.works.append(work)

    def come_back(self) -> None:
        """All of it, in the order in which it was begun."""
        while self.works:
            self.kept.guarding.deliver(self.works.popleft()())
            self.kept.core.listen()


UTC_MS = 1_700_000_000_000


class BooksNotes:
    """As `Notes` of the books."""

    def __init__(self) -> None:
        self.value: Any = None

    def write(self, value: Any) -> None:
        self.value = copy.deepcopy(value)


class Guards(Kept):
    """See the module. Time goes in steps of `step_ms`; the prober's reports come as they come."""

    def __init__(self, of: Appliance | None = None, kernel: FakeKernel | None = None, *, now: int = 10_000) -> None:
        of = of or guarded()
        kernel = kernel or host(of)
        self.now = now
        self.wires = Wires(lambda: self.now, kernel)
        self.table = self.wires.table
        self.notes: Any = {}
        self.full = False
        self.rows: dict[str, Entry] = {}
        self._books = BooksNotes()
        self.step_ms = 10
        self._random = itertools.count(1)
        self.background: Background = lambda work, _: work()
        self._reported_ms = 0
        self._states: tuple[Any, ...] = ()
        kernel.foreign_hand = lambda _, __: self.wires.order.append("link")
        super().__init__(of, kernel, now=now)

    def write(self, value: Any) -> None:
        """As `Notes`."""
        if self.full:
            raise OSError("No space left on device")
        self.notes = copy.deepcopy(value)

    def _new(self) -> Core:
        core = super()._new()
        core.guard = self.guarding = self._guard(core)
        self.books = Books(
            self.kernel,
            self.guarding,
            lambda: Moment(UTC_MS + self.now, self.now, "boot"),
            core.journal,
            ledger=self._booked,
            notes=self._books,
            kept=self._books.value,
        )
        core.books = self.books
        return core

    def _booked(self, entry: Entry) -> None:
        self.rows[entry.id] = entry

    def _guard(self, core: Core) -> GuardEffects:
        self.prober = FakeProber(self.wires)
        self.table.forget()
        notes = copy.deepcopy(self.notes)
        return GuardEffects(
            begin(self.of, *(bytes([next(self._random)]) * 16 for _ in range(2)), notes),
            table=self.table,
            prober=self.prober,
            listener=self.wires.ear,
            clock=lambda: self.now,
            journal=core.journal,
            notes=self,
            background=self._in_background,
        )

    def _in_background(self, *work: Any) -> GuardEvent | None:
        return self.background(*work)

    def turn(self, *events: Event, changed: bool = False) -> None:
        self.wires.advance()
        super().turn(*events, changed=changed)

    def _report(self) -> None:
        """The prober reports ten times a second, and when a direction has become another."""
        report = self.wires.report()
        states = (id(self.prober.process), *((one.name, one.state) for one in report.directions)) if report else ()
        if report and (states != self._states or self.now - self._reported_ms >= REPORT_MS):
            self._states, self._reported_ms = states, self.now
            self.prober.ready.append(report)
        if self.prober.ready or (self.prober.alive and self.wires.process is None):
            self.core.listen()

    def wait(self, milliseconds: int) -> None:
        end = self.now + milliseconds
        while self.now < end:
            self.now = min(self.now + self.step_ms, end)
            self._report()
            for _ in range(20):
                if self.core.due_ms > self.now:
                    break
                self.turn()
            else:
                raise AssertionError("it does not rest")

    def until(self, condition: Any, most_ms: int = 60_000) -> int:
        """Let time pass until something is so; how long it took."""
        began = self.now
        while not condition():
            assert self.now - began < most_ms, "in vain"
            self.wait(self.step_ms)
        return self.now - began

    def forget(self) -> None:
        super().forget()
        self.wires.order.clear()

    def granted(self) -> "Guards":
        """A start on a wire that was bypassed, until the VM has it."""
        converge(self.kernel, self.of, choice_of(self.of, "bypass"))
        self.start()
        self.until(lambda: self.held is LeaseState.GRANTED)
        assert self.choice == "inspect"
        self.forget()
        return self

    def adopting(self) -> "Guards":
        """A start on a wire that is inspected already, without a guard."""
        converge(self.kernel, self.of, choice_of(self.of))
        self.start()
        return self

    def die(self) -> None:
        """The process is killed."""
        self.core = None  # type: ignore[assignment]

    def sleep(self, milliseconds: int) -> None:
        """Time passes and no process is there."""
        self.now += milliseconds
        self.wires.advance()

    @property
    def held(self) -> LeaseState:
        return self.segment.held

    @property
    def segment(self) -> SegmentGuard:
        return self.guarding.state.segments["wire"]

    @property
    def token(self) -> str:
        (token,) = self.table.tokens("wire")
        return token

    def messages(self, *but: str) -> list[str]:
        """What was said to the kernel, in this order; moves of links in a row are one."""
        said = [one for one in self.wires.order if one not in but]
        return [one for one, _ in itertools.groupby(said)]
