"""Bad news of health that is no verdict: readings worse than they should be, and a VM that nobody restarts."""

from collections.abc import Iterator

from reconciler.health import verdict
from reconciler.health.state import Phase, State
from reconciler.warning import Severity, Warning


def warnings(state: State, unreached: str = "") -> Iterator[Warning]:
    """All of it. `unreached`: why the hypervisor could not be asked lately, where that is known."""
    for reading in verdict.degraded(state.tracks):
        where = f" ({reading.segment})" if reading.segment else ""
        yield Warning("degraded", Severity.WARNING, f"signal {reading.signal}{where}", f"degraded: {reading.reason}")
    if state.vm.unreached:
        yield nobody_restarts(unreached)
    if state.vm.phase is Phase.GIVEN_UP:
        what = "it is not restarted any more: no attempt that the file declares is left"
        yield Warning("given-up", Severity.ERROR, "VM", what, "repair it; once it is healthy, all goes on by itself")


def nobody_restarts(why: str) -> Warning:
    """The hypervisor, or the program that stands for it, cannot be asked."""
    what = "nobody can be asked to restart it" + (f": {why}" if why else "")
    return Warning("hypervisor-unreached", Severity.ERROR, "VM", what, "it is asked again and again")
