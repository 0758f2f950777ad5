"""What states and events of a libvirt domain add up to. No I/O, no clock.

The state is re-read all the time; events only come sooner. But an event can know what the state does not show: after
its watchdog expired a VM still "runs", and a watchdog that switches the VM off looks like a shutdown that somebody
wanted. So a failure that an event told is an *alarm*. It stands until the VM shows a new life (started, resumed,
rebooted), or has run on for a minute as if nothing was.
"""

from dataclasses import dataclass

from reconciler.health.signal import HealthState, News, Reading, Rebooted
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.signals.lifecycle import DESTROYED, SHUTOFF_UNKNOWN, Condition, DomainEvent, of_event, of_state

_ALARM_S = 60.0
# Xen tells of the start of a rebooted domain before it tells of its end: such an end says nothing.
_START_BEFORE_STOP_S = 2.0
_NEW_LIFE = (DomainEvent.STARTED, DomainEvent.RESUMED)
# virDomainEventIOErrorAction, virDomainEventWatchdogAction.
_IO_ERROR_PAUSED = 1
_WATCHDOG_DOES = {
    0: "nothing follows",
    1: "it is paused",
    2: "it is reset",
    3: "it is switched off",
    4: "it is shut down",
    6: "it gets an NMI",
}


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """What was read of a domain. `number`: its id, new with each start; -1 while it does not run."""

    life: int
    reason: int
    number: int = -1


class Biography:
    """The judge of one domain. Times are seconds of a clock that never goes back."""

    def __init__(self, signal: str, domain: str, own_actions: OwnActions) -> None:
        self._signal, self._domain, self._own_actions = signal, domain, own_actions
        self._alarm: Condition | None = None
        self._alarm_s = 0.0
        self._started_s = float("-inf")
        self._number = -1
        # Whether the last we knew of a VM that is down was that somebody wanted it so.
        self._wanted = False

    def state(self, seen: DomainFacts | None, now_s: float) -> Reading:
        """The state was read; None: there is no such domain."""
        if seen is None:
            # After a migration nothing may be left of it, and nobody shall start it here.
            return self._tell(Condition(HealthState.FAILED, "is not defined in libvirt", self._wanted))
        condition = of_state(seen.life, seen.reason)
        if seen.number not in (-1, self._number):
            if self._number != -1:
                self._alarm = None
            self._number = seen.number
        if condition.state is HealthState.HEALTHY:
            if self._alarm is not None and now_s - self._alarm_s > _ALARM_S:
                self._alarm = None
            if not self._own_actions.acting:
                self._own_actions.destroyed = False
            return self._tell(self._alarm or condition)
        if condition is SHUTOFF_UNKNOWN and self._wanted:
            # A restarted libvirtd has forgotten why; we have not.
            return self._tell(Condition(HealthState.FAILED, "is shut off, as somebody wanted it", deliberate=True))
        return self._tell(condition)

    def event(self, event: int, detail: int, now_s: float) -> Reading | None:
        """A lifecycle event came; None: it says nothing by itself."""
        if event in _NEW_LIFE:
            self._alarm = None
            if event == DomainEvent.STARTED:
                self._started_s = now_s
            return None
        if event == DomainEvent.STOPPED and now_s - self._started_s < _START_BEFORE_STOP_S:
            return None
        condition = of_event(event, detail)
        return None if condition is None else self._event(condition, now_s)

    def watchdog(self, action: int, now_s: float) -> Reading:
        """The VM's watchdog expired."""
        follows = _WATCHDOG_DOES.get(action, "what follows is not known")
        return self._event(Condition(HealthState.FAILED, f"hangs: its watchdog expired ({follows})"), now_s)

    def io_error(self, device: str, action: int, why: str, now_s: float) -> Reading:
        """A disk of the VM failed."""
        what = f"{device or 'a disk'}{f', {why}' if why else ''}"
        if action == _IO_ERROR_PAUSED:
            return self._event(Condition(HealthState.FAILED, f"is paused: an I/O error ({what})"), now_s)
        return self._tell(Condition(HealthState.DEGRADED, f"has an I/O error ({what})"))

    def reboot(self) -> News:
        """The VM reboots, by itself or by a reset of ours."""
        self._alarm = None
        return Rebooted(self._signal, f"{self._domain} reboots")

    def gone(self, reason: str) -> Reading:
        """Libvirt does not answer: nothing is known."""
        return Reading(self._signal, HealthState.ABSENT, reason)

    def _event(self, condition: Condition, now_s: float) -> Reading:
        if not condition.deliberate:
            self._alarm, self._alarm_s = condition, now_s
        return self._tell(condition)

    def _tell(self, condition: Condition) -> Reading:
        reason, deliberate = f"{self._domain} {condition.reason}", condition.deliberate
        # What we destroyed is off by a destroy; whoever shut it down since, or saved it, was somebody else.
        if deliberate and (self._own_actions.acting or (self._own_actions.destroyed and condition is DESTROYED)):
            reason, deliberate = f"{self._domain} is being restarted by the reconciler", False
        if deliberate and self._alarm is not None:
            reason, deliberate = f"{self._domain} {self._alarm.reason}", False
        if condition.state is not HealthState.ABSENT:
            self._wanted = deliberate
        return Reading(self._signal, condition.state, reason, deliberate=deliberate)
