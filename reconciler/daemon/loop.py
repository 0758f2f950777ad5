"""The daemon: its parts put together, its life from the first look to the last word, and its file read again.

What decides is the core; what turns it is `turns`, the one door; beside the turns run the sources, the restarts, and
whoever asks. Nothing here waits for anything that may block, but in `host.blocking`.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from reconciler.appliance.declared import Appliance
from reconciler.control.ask import digest, socket_of
from reconciler.control.requests import Requests
from reconciler.control.server import Control, Who
from reconciler.daemon.books import Books
from reconciler.daemon.core import Core
from reconciler.daemon.effects import Restarts
from reconciler.daemon.guard import Background
from reconciler.daemon.journal import Journal
from reconciler.daemon.ledger import Ledger
from reconciler.daemon.memory import Remembering
from reconciler.daemon.parts import Parts, PathFile, this_host
from reconciler.daemon.paths import Paths
from reconciler.daemon.sources import Sources
from reconciler.daemon.tasks import OneByOne, Tasks
from reconciler.daemon.turns import Turns
from reconciler.errors import HostError, ReconcilerError, RequestError
from reconciler.guard import events as guard
from reconciler.health.state import RestartVm
from reconciler.host import accepted, clock, places
from reconciler.host.accepted import InForce
from reconciler.host.blocking import Saver, Workers
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.path_notes import books_notes, recall_books, recall_paths
from reconciler.host.programs import running_programs
from reconciler.host.prover import prove
from reconciler.host.service import Service
from reconciler.ledger.booking import unended
from reconciler.ledger.orders import Moment
from reconciler.network.cycle import reconcile
from reconciler.warning import Severity, Warning

# Who is told to end has so long; what is left of the time is for whoever ends us if that was not enough.
_TO_END_S, _TO_FLUSH_S, LAST_RESORT_S = 0.8, 0.3, 1.8
# A file whose storage does not answer; its checker has a minute of its own.
_READ_S, _PROVE_S = 10.0, 70.0
# What an earlier process remembered; holds are worth a wait, but the wire cannot wait for ever.
_FIND_S = 5.0
# Who has to know that something is on disk waits so long. Then it goes without.
_KEEP_S, _KEEP_AT_END_S = 5.0, 0.4


def _moments() -> Callable[[], Moment]:
    boot = clock.boot_id()
    return lambda: Moment(clock.wall_ms(), clock.now_ms(), boot)


class Daemon:
    """Keeps the appliance of `file`; use it within the appliance's lock.

    `group`: whose members may ask and steer, beside root. `stop`: the topology to leave behind; None: what there is.
    `last_resort` is called when it is told to end: it may see to it that the process does, whatever hangs.
    """

    def __init__(
        self,
        file: Path,
        found: InForce,
        journal: Journal,
        *,
        group: str | None,
        stop: str | None,
        last_resort: Callable[[], None] = lambda: None,
        parts: Callable[[Appliance, Journal, Background], Parts] = this_host,
    ) -> None:
        self._file, self._in_force, self._journal, self._stop_topology = file, found, journal, stop
        self._accepted = Saver(lambda text: accepted.keep(file, text, places.state_dir()))
        appliance = found.appliance
        self._last_resort = last_resort
        self._files, self._keeping, self._tasks = Workers("files"), Workers("disk"), Tasks()
        self._guarding = OneByOne("guard", self._tasks, journal, self._guard_answered)
        self._parts = parts(appliance, journal, self._guarding.begin)
        self._memory = Remembering(places.state_dir(), appliance.sku, journal)
        self._ledger = Ledger(places.state_dir(), places.run_dir(), appliance.sku, journal)
        self._own_actions = OwnActions()
        self._books = Books(
            self._parts.kernel,
            self._parts.guard.effects,
            _moments(),
            journal,
            ledger=self._ledger.book,
            notes=Saver(books_notes(appliance.sku).write),
            kept=recall_books(appliance.sku),
        )
        core = Core(
            appliance,
            self._parts.kernel,
            clock.now_ms,
            journal,
            self._memory,
            self._restart,
            self._programs,
            self._parts.guard.effects,
            Paths(notes=PathFile(appliance.sku), kept=recall_paths(appliance.sku)),
            self._books,
        )
        self._service = Service()
        self._turns = Turns(core, self._service, journal, self._broken, self._turned)
        self._restarts = Restarts(
            appliance, self._own_actions, journal, self._tasks, kept=self._unkept, ended=self._turns.tell_surely
        )
        self._sources = Sources(self._turns.tell, self._own_actions, journal, self._tasks)
        self._requests = Requests(
            self._turns,
            reload=self._reload,
            about=self._about,
            switch_guard=self._switch_guard,
            released=self._ledger.released,
            unkept=self._unkept,
        )
        self._control = Control(socket_of(places.run_dir(), appliance.sku), group, self._answer, journal)
        self._began_ms = clock.now_ms()
        self._reading = asyncio.Lock()

    def run(self) -> None:
        """Until SIGTERM or SIGINT.

        Raises:
            ReconcilerError: it could not begin; says why.
            Exception: whatever was not foreseen. It is told already.

        """
        try:
            asyncio.run(self._serve())
        finally:
            self._parts.close()

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
        self._requests.digest = digest(self._in_force.text)
        await self._control.find_group()
        _, remembered = await asyncio.gather(self._found_ledger(), self._found())
        if self._ended.done():
            return False
        core, parts = self._turns.core, self._parts
        self._ledger.begin(core.appliance.segments, guarded=parts.guard.effects.on)
        for entry in unended(tuple(self._ledger.open.values()), self._books.accounts.values(), self._ledger.left_ms):
            self._ledger.book(entry)
        self._turns.start(*remembered)
        self._turned()
        for warning in self._in_force.warnings:
            self._journal.warn("reload", warning)
        self._accept()
        # A restart that our predecessor was at may have destroyed the VM: that was no operator.
        self._own_actions.destroyed = core.state.vm.attempts > 0
        loop.add_reader(parts.watch, self._turns.wake, self._links_changed)
        loop.add_reader(parts.guard.watch, self._turns.wake, parts.guard.disturbed)
        loop.add_reader(parts.guard.probing, self._turns.probes)
        await self._control.open()
        self._sources.change(core.appliance)
        # Nothing of what start-up made will be garbage: collections need not look at it again.
        gc.enable()
        gc.collect()
        gc.freeze()
        self._service.tell(READY="1", STATUS=f"keeping {core.appliance.sku}")
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
            what = f"what was remembered cannot be read within {_FIND_S:g} s: it begins without"
            self._journal.warn("memory", Warning("memory-unread", Severity.ERROR, "memory", what))
            return None, None

    async def _found_ledger(self) -> None:
        """What earlier processes have written down; where the disk does not answer, rows are written when it does."""
        try:
            await self._files.call(self._ledger.find, timeout_s=_FIND_S)
        except (TimeoutError, OSError) as error:
            what = f"the ledger cannot be read: {str(error) or f'its disk does not answer within {_FIND_S:g} s'}"
            self._journal.warn("ledger", Warning("ledger-unread", Severity.ERROR, "", what))

    def _turned(self) -> None:
        self._ledger.holds(self._turns.core.state.holds)
        self._ledger.alive()

    def _end(self) -> None:
        if not self._ended.done():
            self._last_resort()
            self._ended.set_result(None)

    def _broken(self, error: Exception) -> None:
        if not self._ended.done():
            self._last_resort()
            self._ended.set_exception(error)

    async def _close(self) -> None:
        self._service.tell(STOPPING="1")
        # What is left behind is nobody's to change any more: not even ours, hearing of our own last change.
        self._turns.stop()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._parts.watch)
        loop.remove_reader(self._parts.guard.watch)
        loop.remove_reader(self._parts.guard.probing)
        self._tasks.cancel()
        if self._stop_topology:
            appliance = self._turns.core.appliance
            choice = dict.fromkeys(appliance.segments, self._stop_topology)
            done = reconcile(self._parts.kernel, appliance, choice)
            state = "as wanted" if done.converged else "not as wanted"
            self._journal.tell("stop", f"stopped; left on {self._stop_topology}, {state}")
        else:
            self._journal.tell("stop", "stopped; the network stays as it is")
        # Whoever hangs is not waited for.
        await self._tasks.wait(_TO_END_S)
        self._turns.leave()
        await self._control.close()
        self._ledger.end()
        await self._unkept(_KEEP_AT_END_S)
        self._journal.flush(_TO_FLUSH_S)

    def _links_changed(self) -> bool:
        self._parts.watch.drain()
        return True

    def _stray(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody has caught, in a task or a callback that decides nothing."""
        if error := context.get("exception"):
            self._journal.bug(error, f" ({context['message']})")
        elif not self._turns.over:
            self._journal.warn(
                "bug", Warning("internal-error", Severity.ERROR, "", f"internal error: {context['message']}")
            )

    def _restart(self, effect: RestartVm) -> None:
        self._restarts.begin(effect)

    def _guard_answered(self, event: guard.Event) -> None:
        self._parts.guard.effects.deliver(event)
        self._turns.probes()

    def _programs(self, then: Callable[[Collection[str]], None]) -> None:
        self._tasks.start(self._find_programs(then))

    async def _find_programs(self, then: Callable[[Collection[str]], None]) -> None:
        names: Collection[str] = ()
        with contextlib.suppress(TimeoutError, OSError, ReconcilerError):
            names = await self._files.call(running_programs, timeout_s=_FIND_S)
        then(names)

    async def _unkept(self, timeout_s: float = _KEEP_S) -> str:
        """Wait until what was decided so far is on disk; why it is not, or ''."""

        def wait() -> None:
            self._memory.wait(timeout_s)
            self._parts.guard.notes.wait(timeout_s)
            self._ledger.wait(timeout_s)

        try:
            await self._keeping.call(wait, timeout_s=timeout_s)
        except TimeoutError:
            return f"the disk has not answered for {timeout_s:g} s"
        except (ReconcilerError, OSError) as error:
            return str(error)
        return ""

    # Reading the file again

    def _hang_up(self) -> None:
        self._tasks.start(self._reload_or_tell())

    async def _reload_or_tell(self) -> None:
        try:
            await self._reload("")
        except ReconcilerError as error:
            what = f"was not taken over, the old one stays in force: {error}"
            right = "correct it, and `reconcile reload`"
            self._journal.warn("reload", Warning("reload-refused", Severity.ERROR, str(self._file), what, right))

    async def _reload(self, who: str) -> None:
        """Read, check, and only then go over to the file as it is now. One after the other; `who` asks ('': a signal).

        Raises:
            ReconcilerError: it is broken, or another appliance's; the old one stays in force.

        """
        async with self._reading:
            await self._read_again(who)

    async def _read_again(self, who: str) -> None:
        if str(self._file) == "-":
            raise RequestError("the file came from standard input, which cannot be read again: restart")
        try:
            text = await self._files.call(places.read_file, self._file, timeout_s=_READ_S)
            appliance = await self._files.call(prove, text, str(self._file), places.state_dir(), timeout_s=_PROVE_S)
            restart_by_it = await self._files.call(self._restarts.change, appliance, timeout_s=_READ_S)
        except TimeoutError:
            raise HostError(f"cannot read {self._file}: its storage, or that of the state, does not answer") from None
        sku = self._turns.core.appliance.sku
        if appliance.sku != sku:
            raise RequestError(f"{self._file} is of {appliance.sku} now, and this daemon keeps {sku}: restart")

        def declare() -> None:
            restart_by_it()
            self._turns.enter(lambda core: core.declare(appliance))
            self._in_force = InForce(text, appliance)
            self._requests.digest = digest(text)
            self._ledger.reloaded(appliance.segments, who, self._requests.digest)

        # From here on nobody waits for anything.
        self._sources.change(appliance, declare)
        self._journal.tell("reload", f"{self._file} was reloaded")
        self._accept()

    def _accept(self) -> None:
        """Have what is in force kept, for a start that finds the file broken; unless this one has, or had no file."""
        if not self._in_force.warnings and str(self._file) != "-":
            self._accepted.write(self._in_force.text)

    # Who asks

    async def _answer(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        if self._turns.over:
            raise RequestError("the daemon is stopping")
        return await self._requests.answer(request, who)

    async def _switch_guard(self, on: bool, who: str) -> None:
        """Set the guard, or take it away, for somebody.

        Raises:
            ReconcilerError: it could not be done.

        """
        effects = self._parts.guard.effects

        def switch(_: Core) -> None:
            effects.switch(on=on)

        def done(core: Core) -> None:
            core.listen()
            effects.check(on=on)
            self._ledger.guard_switched(who, on=on)
            if not on:
                core.forget_stations()
            core.turn((), changed=True)

        self._turns.enter(switch)
        if not on:
            await self._guarding.idle()
        self._turns.enter(done)

    def _about(self) -> dict[str, Any]:
        """What a status tells that the core does not know; right after it has seen the paths."""
        guard, warnings = self._parts.guard.effects.status(self._turns.core.paths.guards)
        own = (
            *self._in_force.warnings,
            *warnings,
            *self._parts.guard.warnings,
            *self._memory.warnings,
            *self._turns.warnings,
            *self._ledger.warnings,
        )
        return {
            "pid": os.getpid(),
            # Whoever asks stands elsewhere, and compares with what is there now.
            "file": "-" if str(self._file) == "-" else str(self._file.absolute()),
            "running_ms": clock.now_ms() - self._began_ms,
            "guard": guard,
            "warnings": (*own, *self._journal.warnings),
            "ledger": self._ledger.status(),
            "log": {"lost": self._journal.lost},
            "queue": {**self._turns.counters, "netlink_overruns": self._parts.watch.lost},
        }
