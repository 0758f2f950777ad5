"""Restarting a VM by programs of the vendor's, where libvirt does not run it."""

from reconciler.appliance.declared import Programs
from reconciler.errors import HostError, TransientError
from reconciler.host.blocking import Workers
from reconciler.host.hypervisor.deeds import Deeds
from reconciler.host.hypervisor.program import Ended, Run

# A program that cannot be killed (it waits for a disk) is not waited for.
_TO_DIE_S = 2.0


class ProgramsHypervisor:
    """Restarts the VM by `start`, `stop`, `status` and `reset`."""

    def __init__(self, source: Programs, deeds: Deeds) -> None:
        self._source, self._deeds = source, deeds
        self._workers = Workers("the VM's programs")

    async def restart(self, method: str) -> None:
        """As `Hypervisor.restart`."""
        if method not in ("reset", "destroy-and-start"):
            raise HostError(f"no method to restart a VM: {method}")
        self._deeds.acting = True
        try:
            if method == "reset" and self._source.reset and await self.runs():
                await self._do("reset", self._source.reset)
            else:
                self._deeds.destroyed = True
                await self._do("stop", self._source.stop)
                await self._do("start", self._source.start)
            self._deeds.destroyed = False
        finally:
            self._deeds.acting = False

    async def runs(self) -> bool:
        """Whether the VM runs, as `status` says by its exit status.

        Raises:
            HostError: `status` cannot be started.
            TransientError: it says neither.

        """
        ended = await self._run(self._source.status)
        if ended.late or ended.flooded or ended.status not in (0, 1):
            raise TransientError(f"status ({self._source.status[0]}): {ended}")
        return ended.status == 0

    async def _do(self, what: str, argv: tuple[str, ...]) -> None:
        ended = await self._run(argv)
        if ended.status != 0 or ended.late or ended.flooded:
            raise TransientError(f"{what} ({argv[0]}): {ended}")

    async def _run(self, argv: tuple[str, ...]) -> Ended:
        timeout_s = self._source.timeout_ms / 1000
        # What `start` has started is the VM.
        run = Run(argv, timeout_s, leave_children=True)
        try:
            return await self._workers.call(run, timeout_s=timeout_s + _TO_DIE_S)
        except TimeoutError:
            raise TransientError(f"{argv[0]} hangs, and cannot be killed") from None
        finally:
            run.stop()
