"""Restarting a VM by programs of the vendor's, where libvirt does not run it."""

import asyncio
import os

from reconciler.appliance.declared import Programs
from reconciler.errors import HostError, TransientError, UnreachedError
from reconciler.host.blocking import Workers
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.run import Ended, Run

# A program that cannot be killed (it waits for a disk) is not waited for.
_TO_DIE_S = 2.0


class ProgramsHypervisor:
    """Restarts the VM by `start`, `stop`, `status` and `reset`."""

    def __init__(self, source: Programs, own_actions: OwnActions) -> None:
        self._source, self._own_actions = source, own_actions
        self._asked = False  # whether the restart under way has begun to do something
        self._workers = Workers("the VM's programs")

    async def restart(self, method: str) -> None:
        """As `Hypervisor.restart`."""
        if method not in ("reset", "destroy-and-start"):
            raise HostError(f"no method to restart a VM: {method}")
        self._own_actions.acting, self._asked = True, False
        try:
            if method == "reset" and self._source.reset and await self.runs():
                await self._do("reset", self._source.reset)
            else:
                await self._check_startable()
                self._own_actions.destroyed = True
                await self._do("stop", self._source.stop)
                await self._do("start", self._source.start)
            self._own_actions.destroyed = False
        except asyncio.CancelledError:
            if self._asked:
                raise
            raise UnreachedError(f"{method} was called off") from None
        finally:
            self._own_actions.acting = False

    async def runs(self) -> bool:
        """Whether the VM runs, as `status` says by its exit status.

        Raises:
            UnreachedError: `status` cannot be started.
            TransientError: it says neither.

        """
        ended = await self._run(self._source.status)
        if ended.late or ended.flooded or ended.status not in (0, 1):
            raise TransientError(f"status ({self._source.status[0]}): {ended}")
        return ended.status == 0

    async def _check_startable(self) -> None:
        """Who cannot start the VM does not stop it."""
        program = self._source.start[0]
        try:
            there = await self._workers.call(os.access, program, os.X_OK, timeout_s=_TO_DIE_S)
        except TimeoutError:
            raise UnreachedError(f"{program} cannot be started: its disk hangs") from None
        if not there:
            raise UnreachedError(f"{program} cannot be started: it is not there, or no program")

    async def _do(self, what: str, argv: tuple[str, ...]) -> None:
        first, self._asked = not self._asked, True
        try:
            ended = await self._run(argv)
        except UnreachedError as error:
            if first:
                raise
            # Half of it is done.
            raise TransientError(str(error)) from None
        if ended.status != 0 or ended.late or ended.flooded:
            raise TransientError(f"{what} ({argv[0]}): {ended}")

    async def _run(self, argv: tuple[str, ...]) -> Ended:
        timeout_s = self._source.timeout_ms / 1000
        # What `start` has started is the VM.
        run = Run(argv, timeout_s, leave_children=True)
        try:
            return await self._workers.call(run, timeout_s=timeout_s + _TO_DIE_S)
        except HostError as error:
            raise UnreachedError(str(error)) from None
        except TimeoutError:
            raise TransientError(f"{argv[0]} hangs, and cannot be killed") from None
        finally:
            run.stop()
