"""The daemon's one loop: everything that happens becomes an event in one bounded queue, and each turn empties it.

A turn is a callback, not a task: what is in the queue, whether links changed, and whether a deadline has come is all
handed to the keeper at once, and then the loop sleeps until the next news or the next deadline. The service manager's
watchdog is fed at the end of a turn, so that it watches what decides and not a timer beside it.
"""

import asyncio
import gc
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from reconciler.appliance.declared import Appliance
from reconciler.control.ask import digest, socket_of
from reconciler.control.requests import Requests
from reconciler.control.server import Control, RefusedError, Who
from reconciler.daemon.core import Keeper
from reconciler.daemon.journal import Journal
from reconciler.daemon.kernel_guard import KernelGuard
from reconciler.daemon.memory import Remembering
from reconciler.errors import HostError, ReconcilerError, UnreachedError
from reconciler.guard import events as guard
from reconciler.health.state import Ending, Event, Restart, RestartEnded
from reconciler.host import clock, places
from reconciler.host.blocking import Workers
from reconciler.host.hypervisor.driver import hypervisor_of
from reconciler.host.hypervisor.own_actions import Deeds
from reconciler.host.netlink import encoder
from reconciler.host.netlink.kernel import Kernel
from reconciler.host.netlink.watch import Watch
from reconciler.host.programs import running_programs
from reconciler.host.prover import prove
from reconciler.host.service import Service
from reconciler.host.signals.gather import gatherers
from reconciler.network.cycle import reconcile

# More than any appliance tells in a second; who tells more is not listened to.
QUEUE = 1_024
# Looking again after links changed may take so much of the time, whatever storm there is outside.
_SHARE = 4
_LEAST_PAUSE_MS, _MOST_PAUSE_MS = 2, 1_000
# Who is told to end has so long; what is left of the time is for whoever ends us if that was not enough.
_TO_END_S, _TO_FLUSH_S, LAST_RESORT_S = 0.8, 0.3, 1.8
# A file whose storage does not answer; its checker has a minute of its own.
_READ_S, _PROVE_S = 10.0, 70.0
# What an earlier process remembered; holds are worth a wait, but the wire cannot wait for ever.
_FIND_S = 5.0
# Who has to know that something is on disk waits so long. Then it goes without.
_KEEP_S, _KEEP_AT_END_S = 5.0, 0.4
# A turn that comes so much later than it was due comes after a stall: of the machine, or of this process.
_STALL_MS = 100
# A guard's table is many hooks, and for each the kernel may wait for all cores.
_INSTALL_S = 60.0


class Daemon:
    """Keeps the appliance of `file`; use it within the appliance's lock.

    `group`: whose members may ask and steer, beside root. `stop`: the topology to leave behind; None: what there is.
    `last_resort` is called when it is told to end: it may see to it that the process does, whatever hangs.
    """

    def __init__(
        self,
        file: Path,
        text: bytes,
        appliance: Appliance,
        journal: Journal,
        *,
        group: str | None,
        stop: str | None,
        last_resort: Callable[[], None] = lambda: None,
    ) -> None:
        self._file, self._text, self._journal, self._stop_topology = file, text, journal, stop
        self._last_resort = last_resort
        self._files, self._keeping = Workers("files"), Workers("disk")
        encoder.load()  # no module is imported when the VM has failed
        self._kernel, self._watch = Kernel(), Watch()
        self._installs = Workers("nftables", limit=2)
        self._guard = KernelGuard(appliance, journal, self._in_background)
        self._memory = Remembering(places.state_dir(), appliance.sku, journal)
        self._service = Service()
        self._deeds = Deeds()
        self._hypervisor = hypervisor_of(appliance, self._deeds)
        self._keeper = Keeper(
            appliance,
            self._kernel,
            clock.now_ms,
            journal,
            self._memory,
            self._restart,
            running_programs,
            self._guard.effects,
        )
        self._requests = Requests(
            self._keeper,
            tell=self._tell_now,
            reload=self._reload,
            about=self._about,
            switch_guard=self._switch_guard,
            unkept=self._unkept,
        )
        tell = partial(journal.tell, "control", level=logging.WARNING)
        self._control = Control(socket_of(places.run_dir(), appliance.sku), group, self._answer, tell)
        self._queue: deque[Event] = deque()
        self._dropped = 0
        self._changed = False
        self._not_before_ms = 0
        self._fed_ms = 0
        self._due_ms: int | None = None
        self._began_ms = clock.now_ms()
        self._over = False
        self._reading = asyncio.Lock()
        self._scheduled: asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._gatherers: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Until SIGTERM or SIGINT.

        Raises:
            ReconcilerError: it could not begin; says why.

        """
        try:
            asyncio.run(self._serve())
        finally:
            self._guard.close()
            self._watch.close()
            self._kernel.close()

    async def _serve(self) -> None:
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            if not await self._begin():
                self._journal.tell("stop", "stopped before it had begun")
                return
        except ReconcilerError:
            raise
        except Exception as error:
            self._journal.bug(error, level=logging.CRITICAL)
            raise
        try:
            await self._ended
        finally:
            await self._close()

    async def _begin(self) -> bool:
        """Whether it has begun; it has not if it was told to end meanwhile."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._stray)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        self._requests.digest = digest(self._text)
        await self._control.find_group()
        remembered = await self._found()
        if self._ended.done():
            return False
        self._keeper.start(*remembered)
        # A restart that our predecessor was at may have destroyed the VM: that was no operator.
        self._deeds.destroyed = self._keeper.state.vm.attempts > 0
        loop.add_reader(self._watch, self._links_changed)
        loop.add_reader(self._guard.watch, self._rules_changed)
        loop.add_reader(self._guard.probing, self._probes_told)
        await self._control.open()
        self._gather()
        self._arm()
        # Nothing of what start-up made will be garbage: collections need not look at it again.
        gc.enable()
        gc.collect()
        gc.freeze()
        self._service.tell(READY="1", STATUS=f"keeping {self._keeper.appliance.sku}")
        return True

    async def _found(self) -> tuple[Any, int | None]:
        """What an earlier process remembered, unless its disk does not answer, or we are to end."""
        finding = asyncio.create_task(self._files.call(self._memory.find, timeout_s=_FIND_S))
        self._ended.add_done_callback(lambda _: finding.cancel())
        try:
            return await finding
        except asyncio.CancelledError:
            if not self._ended.done():
                raise
            return None, None
        except TimeoutError:
            text = f"what was remembered cannot be read within {_FIND_S:g} s: it begins without"
            self._journal.tell("memory", text, level=logging.ERROR)
            return None, None

    async def _close(self) -> None:
        self._service.tell(STOPPING="1")
        # What is left behind is nobody's to change any more: not even ours, hearing of our own last change.
        self._over = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._watch)
        loop.remove_reader(self._guard.watch)
        loop.remove_reader(self._guard.probing)
        self._cancel()
        tasks = {*self._tasks, *self._gatherers}
        for task in tasks:
            task.cancel()
        if self._stop_topology:
            choice = dict.fromkeys(self._keeper.appliance.segments, self._stop_topology)
            done = reconcile(self._kernel, self._keeper.appliance, choice)
            state = "as wanted" if done.converged else "not as wanted"
            self._journal.tell("stop", f"stopped; left on {self._stop_topology}, {state}")
        else:
            self._journal.tell("stop", "stopped; the network stays as it is")
        if tasks:
            # Whoever hangs is not waited for.
            await asyncio.wait(tasks, timeout=_TO_END_S)
        for event in self._queue:
            if isinstance(event, RestartEnded):
                self._keeper.leave(event)
        await self._control.close()
        await self._unkept(_KEEP_AT_END_S)
        self._journal.flush(_TO_FLUSH_S)

    # Turns

    def _tell(self, event: Event) -> None:
        """An event for the next turn. A full queue loses it: who floods is not believed."""
        if len(self._queue) >= QUEUE:
            self._dropped += 1
            return
        self._queue.append(event)
        self._soon()

    def _tell_now(self, event: Event) -> None:
        """An event whose consequences somebody waits for."""
        self._queue.append(event)
        self._due_ms = None
        self._turn()

    def _links_changed(self) -> None:
        self._watch.drain()
        self._look_again()

    def _look_again(self) -> None:
        self._changed = True
        if clock.now_ms() >= self._not_before_ms:
            self._turn()
        else:
            self._arm()

    def _rules_changed(self) -> None:
        """Somebody has changed rules of nf_tables: ours are looked at as links are."""
        if self._guard.disturbed():
            self._look_again()

    def _probes_told(self) -> None:
        if self._stalled(clock.now_ms()):
            self._at(0)
            return
        try:
            self._keeper.listen()
        except Exception as error:  # noqa: BLE001 - a callback's would be lost in the loop
            self._break(error)
        else:
            self._arm()

    def _soon(self) -> None:
        if self._over:
            return
        if self._scheduled is None or isinstance(self._scheduled, asyncio.TimerHandle):
            self._cancel()
            self._scheduled = asyncio.get_running_loop().call_soon(self._turn)

    def _at(self, wait_ms: int) -> None:
        self._cancel()
        if self._over:
            return
        self._scheduled = asyncio.get_running_loop().call_later(wait_ms / 1_000, self._turn)

    def _cancel(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None

    def _turn(self) -> None:
        if self._over:
            return
        try:
            self._take_turn()
        except Exception as error:  # noqa: BLE001 - a callback's would be lost in the loop
            self._break(error)

    def _break(self, error: Exception) -> None:
        """Something that was not foreseen: the network stays as it is, and the service manager starts us anew."""
        self._journal.bug(error, level=logging.CRITICAL)
        if not self._ended.done():
            self._ended.set_exception(error)

    def _stray(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody has caught, in a task or a callback that decides nothing."""
        if error := context.get("exception"):
            self._journal.bug(error, f" ({context['message']})")
        elif not self._over:
            self._journal.tell("bug", f"internal error: {context['message']}", level=logging.ERROR)

    def _take_turn(self) -> None:
        self._cancel()
        began = clock.now_ms()
        if self._stalled(began):
            self._at(0)
            return
        changed = self._changed and began >= self._not_before_ms
        events, self._queue = self._queue, deque()
        self._keeper.turn(events, changed=changed)
        ended = clock.now_ms()
        if changed:
            self._changed = False
            self._not_before_ms = ended + min(max((ended - began) * _SHARE, _LEAST_PAUSE_MS), _MOST_PAUSE_MS)
        if self._service.watchdog_ms and ended - self._fed_ms >= self._service.watchdog_ms // 2:
            self._fed_ms = ended
            self._service.tell(WATCHDOG="1")
        self._arm()

    def _stalled(self, now: int) -> bool:
        """Whether we were away for long: then what waits in the sockets is read before anybody's silence is judged."""
        due, self._due_ms = self._due_ms, None
        return due is not None and now - due > _STALL_MS

    def _arm(self) -> None:
        due = self._keeper.due_ms
        if self._changed:
            due = min(due, self._not_before_ms)
        if self._service.watchdog_ms:
            due = min(due, self._fed_ms + self._service.watchdog_ms // 2)
        # A turn that was about to come for what is in the queue is not put off by a storm of links outside.
        wait_ms = 0 if self._queue else max(0, due - clock.now_ms())
        self._due_ms = clock.now_ms() + wait_ms
        self._at(wait_ms)

    # What it starts

    def _in_background(self, work: Callable[[], guard.Event], failed: Callable[[str], guard.Event]) -> None:
        self._start(self._deliver(work, failed), self._tasks)

    async def _deliver(self, work: Callable[[], guard.Event], failed: Callable[[str], guard.Event]) -> None:
        try:
            event = await self._installs.call(work, timeout_s=_INSTALL_S)
        except (TimeoutError, ReconcilerError) as error:
            event = failed(str(error) or f"the kernel has not taken the table within {_INSTALL_S:.0f} s")
        self._guard.effects.deliver(event)
        self._probes_told()

    def _start(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _gather(self) -> None:
        for gatherer in gatherers(self._keeper.appliance, self._tell, self._deeds, self._source_broke):
            self._start(gatherer.run(), self._gatherers)

    def _source_broke(self, signal: str, error: Exception | None) -> None:
        if error is None or isinstance(error, ReconcilerError):
            text = f"signal {signal}: its source broke: {error or 'it ended by itself'}"
            self._journal.tell("source", text, level=logging.ERROR, signal=signal)
        else:
            self._journal.bug(error, f" in the source of signal {signal}", event="source", signal=signal)

    def _restart(self, effect: Restart) -> None:
        self._start(self._restarting(effect), self._tasks)

    async def _unkept(self, timeout_s: float = _KEEP_S) -> str:
        """Wait until what was decided so far is on disk; why it is not, or ''."""

        def wait() -> None:
            self._memory.wait(timeout_s)
            self._guard.notes.wait(timeout_s)

        try:
            await self._keeping.call(wait, timeout_s=timeout_s)
        except TimeoutError:
            return f"the disk has not answered for {timeout_s:g} s"
        except (ReconcilerError, OSError) as error:
            return str(error)
        return ""

    async def _restarting(self, effect: Restart) -> None:
        # The attempt that it uses up is remembered first, so that no restart of ours gives the VM more than declared;
        # but a disk that does not take it must not leave the VM dead.
        await self._unkept()
        # No flood may cost this one: the policy waits for it, and asks for one restart at a time.
        ended = await self._restarted(effect)
        # Only now: each turn puts another queue in place of the one that it empties.
        self._queue.append(ended)
        self._soon()

    async def _restarted(self, effect: Restart) -> RestartEnded:
        if self._hypervisor is None:
            return RestartEnded(effect.asked_ms, Ending.REFUSED, "the file declares nothing that runs the VM")
        ending, reason = Ending.DONE, ""
        try:
            await self._hypervisor.restart(effect.method)
        except UnreachedError as error:
            ending, reason = Ending.UNREACHED, str(error)
        except ReconcilerError as error:
            ending, reason = Ending.REFUSED, str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is: who waits for an answer gets one
            self._journal.bug(error, " in a restart")
            ending, reason = Ending.REFUSED, f"internal error: {type(error).__name__}"
        return RestartEnded(effect.asked_ms, ending, reason)

    # Reading the file anew

    def _hang_up(self) -> None:
        self._start(self._reload_or_tell(), self._tasks)

    async def _reload_or_tell(self) -> None:
        try:
            await self._reload()
        except ReconcilerError as error:
            text = f"{self._file} was not taken over, the old one stays in force: {error}"
            self._journal.tell("reload", text, level=logging.ERROR)

    async def _reload(self) -> None:
        """Read, check, and only then go over to the file as it is now. One after the other, whoever asks.

        Raises:
            ReconcilerError: it is broken, or another appliance's; the old one stays in force.

        """
        async with self._reading:
            await self._read_anew()

    async def _read_anew(self) -> None:
        if str(self._file) == "-":
            raise RefusedError("the file came from standard input, which cannot be read again: restart")
        try:
            text = await self._files.call(places.read_file, self._file, timeout_s=_READ_S)
            appliance = await self._files.call(prove, text, str(self._file), places.state_dir(), timeout_s=_PROVE_S)
        except TimeoutError:
            raise HostError(f"cannot read {self._file}: its storage, or that of the state, does not answer") from None
        if appliance.sku != self._keeper.appliance.sku:
            raise RefusedError(
                f"{self._file} is of {appliance.sku} now, and this daemon keeps {self._keeper.appliance.sku}: restart"
            )
        hypervisor = hypervisor_of(appliance, self._deeds)
        for task in self._gatherers:
            task.cancel()
        await asyncio.gather(*self._gatherers, return_exceptions=True)
        if self._over:
            raise RefusedError("the daemon is stopping")
        self._hypervisor = hypervisor
        self._text, self._requests.digest = text, digest(text)
        self._keeper.declare(appliance)
        self._gather()
        self._arm()
        self._journal.tell("reload", f"{self._file} was read anew")

    def _switch_guard(self, on: bool) -> None:
        """Set the guard, or take it away.

        Raises:
            ReconcilerError: it could not be done.

        """
        self._guard.effects.switch(on=on)
        self._changed = True
        self._turn()

    def _end(self) -> None:
        if not self._ended.done():
            self._last_resort()
            self._ended.set_result(None)

    async def _answer(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        if self._over:
            raise RefusedError("the daemon is stopping")
        return await self._requests.answer(request, who)

    def _about(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "file": str(self._file),
            "running_ms": clock.now_ms() - self._began_ms,
            "guard": self._guard.effects.status(),
            "memory": {"trouble": self._memory.trouble},
            "log": {"lost": self._journal.lost},
            "queue": {"bound": QUEUE, "dropped": self._dropped, "netlink_overruns": self._watch.lost},
        }
