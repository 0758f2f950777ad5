"""What is bad news about the guard: it is away, it cannot do its work, or nobody sends its probes."""

from collections.abc import Iterator, Mapping

from reconciler.guard.state import GuardState, ProberLife, ProberState
from reconciler.network.path import Gate, PathGuard
from reconciler.warning import Severity, Warning

_SET = "reconcile guard on"


def warnings(state: GuardState, guards: Mapping[str, PathGuard], unseen: str = "") -> Iterator[Warning]:
    """All of it. `guards`: what the kernel's table has for each segment; `unseen`: why it could not be asked."""
    if not state.segments:
        return
    if not state.on:
        yield Warning(
            "guard-off", Severity.ERROR, "guard", "it is off: a failure is the daemon's alone to act upon", _SET
        )
        return
    for name, guard in guards.items():
        if guard.gate is Gate.MISSING:
            right = "it is put back once its ports are there; if it stays away, the log says why"
            yield Warning("guard-missing", Severity.ERROR, f"segment {name}", "its guard is not in the kernel", right)
        elif guard.gate is Gate.UNKNOWN:
            what = "the kernel does not tell what its guard does"
            yield Warning("guard-unknown", Severity.ERROR, f"segment {name}", what)
    if why := state.table.trouble or unseen:
        yield unable(why)
    yield from _of_prober(state.prober)


def _of_prober(prober: ProberState) -> Iterator[Warning]:
    priority = prober.report.priority if prober.report else ""
    if prober.life is not ProberLife.REPORTING:
        yield no_probes(prober.trouble or "the process that sends them has not begun")
    elif priority and not priority.startswith("fifo"):
        what = f"the process that sends probes has no real-time priority ({priority}): load may trip the guard"
        yield Warning("prober-priority", Severity.WARNING, "guard", what, "let the daemon set it: CAP_SYS_NICE")


def unable(why: str) -> Warning:
    """Something that it takes could not be done."""
    return Warning(
        "guard-unable", Severity.ERROR, "guard", f"it cannot do its work: {why}", "it is tried again and again"
    )


def no_probes(why: str) -> Warning:
    """Nobody sends probes, so that nothing renews a lease."""
    return Warning("no-probes", Severity.ERROR, "guard", f"no probes are sent: {why}", "it is tried again and again")


def prober_hangs(how: str) -> Warning:
    """The process that sends probes was killed, for it told nothing."""
    return Warning("prober-hangs", Severity.WARNING, "guard", f"the prober {how}: another one is started")


def tampered(repaired: str) -> Warning:
    """Somebody changed the table, and it is as it should be again."""
    right = "tell whoever flushes or restores the host's rules to leave this table alone"
    return Warning("guard-tampered", Severity.WARNING, "guard", f"it was {repaired}", right)


def unkept(error: Exception) -> Warning:
    """What the next process needs to go on with the table as it is, is not on disk."""
    what, right = f"what is known of it cannot be kept: {error}", "give the disk room, or repair it"
    return Warning("guard-unkept", Severity.ERROR, "guard", what, f"a daemon that restarts would set it again: {right}")
