"""What the policy asks for beside switching, carried out: restarts of the VM. How they end comes back as an event."""

from collections.abc import Awaitable, Callable

from reconciler.appliance.declared import Appliance
from reconciler.daemon.journal import Journal
from reconciler.daemon.tasks import Tasks
from reconciler.errors import ReconcilerError, UnreachedError
from reconciler.health.state import Ending, RestartEnded, RestartVm
from reconciler.host.hypervisor.driver import Hypervisor, hypervisor_of
from reconciler.host.hypervisor.own_actions import OwnActions


class Restarts:
    """Restarts one appliance's VM. `kept` waits until what was decided is on disk, and `ended` is told how it ended."""

    def __init__(
        self,
        appliance: Appliance,
        own_actions: OwnActions,
        journal: Journal,
        tasks: Tasks,
        *,
        kept: Callable[[], Awaitable[object]],
        ended: Callable[[RestartEnded], None],
    ) -> None:
        self._own_actions, self._journal, self._tasks = own_actions, journal, tasks
        self._kept, self._ended = kept, ended
        self._declared = appliance.hypervisor
        self._hypervisor = hypervisor_of(appliance, own_actions)

    def change(self, appliance: Appliance) -> Callable[[], None]:
        """What makes the hypervisor of this file the one that restarts the VM from now on.

        Raises:
            HostError: it cannot be asked for anything. Nothing was changed.

        """
        declared = appliance.hypervisor
        # One that stays is not asked twice at once: it knows of the calls that have not come back.
        hypervisor = self._hypervisor if declared == self._declared else hypervisor_of(appliance, self._own_actions)

        def go_over() -> None:
            self._declared, self._hypervisor = declared, hypervisor

        return go_over

    def begin(self, effect: RestartVm) -> None:
        """Have the VM restarted."""
        self._tasks.start(self._restart(effect, self._hypervisor))

    async def _restart(self, effect: RestartVm, hypervisor: Hypervisor | None) -> None:
        # The attempt that it uses up is remembered first, so that no restart of ours gives the VM more than declared;
        # but a disk that does not take it must not leave the VM dead.
        await self._kept()
        ending, reason = await self._end_of(effect, hypervisor)
        self._ended(RestartEnded(effect.asked_ms, ending, reason))

    async def _end_of(self, effect: RestartVm, hypervisor: Hypervisor | None) -> tuple[Ending, str]:
        if hypervisor is None:
            return Ending.REFUSED, "the file declares nothing that runs the VM"
        try:
            await hypervisor.restart(effect.method)
        except UnreachedError as error:
            return Ending.UNREACHED, str(error)
        except ReconcilerError as error:
            return Ending.REFUSED, str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is: who waits for an answer gets one
            self._journal.bug(error, " in a restart")
            return Ending.REFUSED, f"internal error: {type(error).__name__}"
        return Ending.DONE, ""
