"""The one door into the core: every event, request and timer enters here, and nobody else turns it.

What the sources tell becomes an event in one bounded queue. A turn is a callback, not a task: what is in the queue,
whether links changed, and whether a deadline has come is all handed to the core at once, and then the loop sleeps until
the next news or the next deadline. Whoever asks for something has a turn of its own, and gets the answer from it. The
service manager's watchdog is fed at the end of a turn, so that it watches what decides and not a timer beside it.

Whatever enters, an error that nobody foresaw ends the process: it may have left half a turn done. The network stays as
it is, and the service manager starts another one. What is refused on purpose (a `ReconcilerError`) has changed nothing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from reconciler.daemon.core import Core
from reconciler.daemon.journal import Journal
from reconciler.errors import ReconcilerError, RequestError
from reconciler.health.state import Event, RestartEnded, Stalled
from reconciler.host import clock
from reconciler.host.service import Service
from reconciler.warning import Severity, Warning

# More than any appliance tells in a second; who tells more is not listened to.
QUEUE = 1_024
# Looking again after links changed may take so much of the time, whatever storm there is outside.
_SHARE = 4
_LEAST_PAUSE_MS, _MOST_PAUSE_MS = 2, 1_000
# A turn that comes so much later than it was due comes after a stall: of the machine, or of this process.
_STALL_MS = 100

_T = TypeVar("_T")


class Turns:
    """See the module. `core` is for others to look at.

    `broken` is told what ends the process. `turned` is called after each turn, and after the probes were heard.
    """

    def __init__(
        self,
        core: Core,
        service: Service,
        journal: Journal,
        broken: Callable[[Exception], None],
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self.core = core
        self._service, self._journal, self._broken, self._turned = service, journal, broken, turned
        self._queue: deque[Event] = deque()
        self._dropped = 0
        self._changed = False
        self._not_before_ms = 0
        self._fed_ms = 0
        self._due_ms: int | None = None
        self._over = False
        self._scheduled: asyncio.Handle | None = None

    def start(self, remembered: Any, shift: int | None) -> None:
        """Have the core adopt the network; see `Core.start`. From now on there are turns.

        Raises:
            TransientError, HostError: the network could not be read.

        """
        self.core.start(remembered, shift)
        self._arm()

    def stop(self) -> None:
        """No turns any more: what is left behind is nobody's to change, not even ours."""
        self._over = True
        self._cancel()

    def leave(self) -> None:
        """After `stop`: have the core remember how restarts ended that no turn has heard of."""
        for event in self._queue:
            if isinstance(event, RestartEnded):
                self.core.leave(event)

    @property
    def over(self) -> bool:
        """Whether there are no turns any more."""
        return self._over

    @property
    def counters(self) -> dict[str, int]:
        """For `status`."""
        return {"bound": QUEUE, "dropped": self._dropped}

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """That events were lost, if any."""
        if not self._dropped:
            return ()
        what = f"{self._dropped} events were dropped since it began: more than {QUEUE} came between two turns"
        right = "`reconcile why` tells which signal changes so often"
        return (Warning("events-dropped", Severity.WARNING, "daemon", what, right),)

    # Who enters

    def tell(self, event: Event) -> None:
        """An event for the next turn. A full queue loses it: who floods is not believed."""
        if len(self._queue) >= QUEUE:
            self._dropped += 1
            return
        self.tell_surely(event)

    def tell_surely(self, event: Event) -> None:
        """An event for the next turn that no flood of others may cost: one that the policy waits for."""
        self._queue.append(event)
        self._soon()

    def wake(self, drain: Callable[[], bool]) -> None:
        """A socket can be read: `drain` reads it, and says whether it is worth a look at the network."""
        self._safely(lambda: self._look_again() if drain() else None)

    def probes(self) -> None:
        """The guard's prober has told something."""
        self._safely(self._read_probes)

    def enter(self, act: Callable[[Core], _T]) -> _T:
        """Have the core do what somebody waits for, and what it gives.

        Raises:
            RequestError: the daemon is stopping, or ends because of this.
            ReconcilerError: it could not be done; whatever `act` raises on purpose.

        """
        if self._over:
            raise RequestError("the daemon is stopping")
        try:
            return act(self.core)
        except ReconcilerError:
            raise
        except Exception as error:
            self._break(error)
            raise RequestError("an internal error ends the daemon; its log says which") from error
        finally:
            self._arm()

    def decide(self, event: Event) -> None:
        """An event whose consequences somebody waits for: a turn at once.

        Raises:
            RequestError: as `enter`.

        """

        def turn(_: Core) -> None:
            self._queue.append(event)
            self._due_ms = None
            self._take_turn()

        self.enter(turn)

    # The turn

    def _look_again(self) -> None:
        self._changed = True
        if clock.now_ms() >= self._not_before_ms:
            self._turn()
        else:
            self._arm()

    def _read_probes(self) -> None:
        if self._stalled(clock.now_ms()):
            self._at(0)
            return
        self.core.listen()
        self._turned()
        self._arm()

    def _turn(self) -> None:
        self._safely(self._take_turn)

    def _safely(self, act: Callable[[], None]) -> None:
        if self._over:
            return
        try:
            act()
        except Exception as error:  # noqa: BLE001 - a callback's would be lost in the loop
            self._break(error)

    def _break(self, error: Exception) -> None:
        self.stop()
        self._journal.bug(error, level=logging.CRITICAL)
        self._broken(error)

    def _take_turn(self) -> None:
        self._cancel()
        began = clock.now_ms()
        if self._stalled(began):
            self._at(0)
            return
        changed = self._changed and began >= self._not_before_ms
        events, self._queue = self._queue, deque()
        self.core.turn(events, changed=changed)
        self._turned()
        ended = clock.now_ms()
        if changed:
            self._changed = False
            self._not_before_ms = ended + min(max((ended - began) * _SHARE, _LEAST_PAUSE_MS), _MOST_PAUSE_MS)
        if self._service.watchdog_ms and ended - self._fed_ms >= self._service.watchdog_ms // 2:
            self._fed_ms = ended
            self._service.tell(WATCHDOG="1")
        self._arm()

    def _stalled(self, now: int) -> bool:
        """Whether we were away for long: then what waits in the sockets is read before anybody's silence is judged.

        And as nobody was heard meanwhile, nobody was silent.
        """
        due, self._due_ms = self._due_ms, None
        if due is None or now - due <= _STALL_MS:
            return False
        self._queue.appendleft(Stalled(now - due))
        return True

    # When it comes

    def _soon(self) -> None:
        if self._over:
            return
        if self._scheduled is None or isinstance(self._scheduled, asyncio.TimerHandle):
            self._cancel()
            self._scheduled = asyncio.get_running_loop().call_soon(self._turn)

    def _arm(self) -> None:
        if self._over:
            return
        due = self.core.due_ms
        if self._changed:
            due = min(due, self._not_before_ms)
        if self._service.watchdog_ms:
            due = min(due, self._fed_ms + self._service.watchdog_ms // 2)
        # A turn that was about to come for what is in the queue is not put off by a storm of links outside.
        wait_ms = 0 if self._queue else max(0, due - clock.now_ms())
        self._due_ms = clock.now_ms() + wait_ms
        self._at(wait_ms)

    def _at(self, wait_ms: int) -> None:
        self._cancel()
        self._scheduled = asyncio.get_running_loop().call_later(wait_ms / 1_000, self._turn)

    def _cancel(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
