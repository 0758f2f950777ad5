"""Any program as a signal, as monitoring plugins are: its exit status is the state, its first line the reason."""

from collections.abc import Callable

from reconciler.appliance.declared import Command
from reconciler.errors import HostError
from reconciler.health.signal import HealthState, News, Reading
from reconciler.host.blocking import StuckError, Workers
from reconciler.host.run import Ended, Run
from reconciler.host.signals.schedule import poll

# Monitoring plugins' development guidelines: OK, WARNING, CRITICAL. 3 is UNKNOWN, and so is whatever else.
_STATES = {0: HealthState.HEALTHY, 1: HealthState.DEGRADED, 2: HealthState.FAILED}
# Killing a program takes a moment; one that cannot be killed (it waits for a disk) is not waited for.
_TO_DIE_S = 1.0


class CommandGatherer:
    """Runs a program again and again; never two at once."""

    def __init__(self, signal: str, source: Command, publish: Callable[[News], None]) -> None:
        self._signal, self._source, self._publish = signal, source, publish
        self._workers = Workers(f"signal {signal}", limit=1)

    async def run(self) -> None:
        """Run the program at once and then on schedule, until cancelled."""
        await poll(self._source.every_ms, self._ask)

    async def _ask(self) -> None:
        timeout_s = self._source.timeout_ms / 1000
        run = Run(self._source.run, timeout_s, leave_children=False)
        try:
            state, reason = _result(await self._workers.call(run, timeout_s=timeout_s + _TO_DIE_S), timeout_s)
        except HostError as error:
            state, reason = HealthState.ABSENT, str(error)
        except (TimeoutError, StuckError):
            state, reason = HealthState.FAILED, "hangs, and cannot be killed"
        finally:
            run.stop()
        self._publish(Reading(self._signal, state, reason))


def _result(ended: Ended, timeout_s: float) -> tuple[HealthState, str]:
    if ended.late:
        return HealthState.FAILED, f"did not end within {timeout_s:g} s"
    if ended.flooded or ended.status not in _STATES:
        return HealthState.ABSENT, str(ended)
    # What follows the bar is for plotting.
    first = ended.out.strip().partition("\n")[0].partition("|")[0].strip()
    return _STATES[ended.status], first or f"exit status {ended.status}"
