"""libvirt's words for the state of a VM, and what each says of its health. Tables only.

The numbers are libvirt's ABI (libvirt-domain.h): written here by name, so that judging needs no libvirt. The tests
compare them with the library's own.
"""

from dataclasses import dataclass
from enum import IntEnum

from reconciler.health.signal import HealthState


class DomainState(IntEnum):
    """virDomainState."""

    NOSTATE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    SHUTOFF = 5
    CRASHED = 6
    PMSUSPENDED = 7


class DomainEvent(IntEnum):
    """virDomainEventType."""

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    SUSPENDED = 3
    RESUMED = 4
    STOPPED = 5
    SHUTDOWN = 6
    PMSUSPENDED = 7
    CRASHED = 8


@dataclass(frozen=True, slots=True)
class Condition:
    """What a state or an event says. `deliberate`: somebody wanted it so; a restart would undo it."""

    state: HealthState
    reason: str
    deliberate: bool = False


def _wanted(reason: str) -> Condition:
    return Condition(HealthState.FAILED, reason, deliberate=True)


def _broken(reason: str) -> Condition:
    return Condition(HealthState.FAILED, reason)


SHUTOFF_UNKNOWN = _broken("is shut off; libvirt does not know why")
_SHUT_DOWN = _wanted("was shut down by an operator or by the guest itself")
DESTROYED = _wanted("was switched off by an operator")
_MIGRATED = _wanted("was migrated to another host")
_SAVED = _wanted("was saved by an operator")
_PAUSED = _wanted("was paused by an operator")
_SNAPSHOT = _wanted("was set to a snapshot")
_IO_ERROR = _broken("is paused: an I/O error of its disk")
_WATCHDOG = _broken("is paused: its watchdog expired")
_HYPERVISOR_DIED = _broken("is shut off: the hypervisor died or the VM crashed")
_PANICKED = _broken("crashed: the guest panicked")
_MOVING = _wanted("is being migrated")
_POSTCOPY_FAILED = _broken("is paused: its migration broke off")

_OTHER_STATES: dict[int, Condition] = {
    DomainState.NOSTATE: Condition(HealthState.ABSENT, "has no state that libvirt knows"),
    DomainState.RUNNING: Condition(HealthState.HEALTHY, "runs"),
    DomainState.BLOCKED: Condition(HealthState.HEALTHY, "runs"),  # Xen: idle
    DomainState.PAUSED: _broken("is paused; libvirt does not know why"),
    DomainState.SHUTDOWN: _wanted("is shutting down"),
    DomainState.SHUTOFF: SHUTOFF_UNKNOWN,
    DomainState.CRASHED: _PANICKED,
    DomainState.PMSUSPENDED: _broken("sleeps: the guest suspended itself"),
}

# virDomainPausedReason and virDomainShutoffReason. What is not here is as above.
_PAUSED_REASONS = {
    1: _PAUSED,
    2: _MOVING,
    3: _SAVED,
    4: _wanted("is paused for a dump"),
    5: _IO_ERROR,
    6: _WATCHDOG,
    7: _SNAPSHOT,
    8: _wanted("is shutting down"),
    9: _wanted("is paused for a snapshot"),
    10: _broken("is paused: the guest crashed"),
    11: _wanted("is being started"),
    12: _MOVING,
    13: _POSTCOPY_FAILED,
}
_SHUTOFF_REASONS = {
    1: _SHUT_DOWN,
    2: DESTROYED,
    3: _HYPERVISOR_DIED,
    4: _MIGRATED,
    5: _SAVED,
    6: _broken("is shut off: it could not be started"),
    7: _SNAPSHOT,
    8: _broken("is shut off: libvirt gave it up"),
}
_REASONS: dict[int, dict[int, Condition]] = {DomainState.PAUSED: _PAUSED_REASONS, DomainState.SHUTOFF: _SHUTOFF_REASONS}

# Events that say by themselves what is the matter: told at once, while asking for the state may block. By event and
# detail (virDomainEventStoppedDetailType and so on). None: whatever the detail. "Suspended, paused" is not among them:
# it is an operator's pause, or a guest's panic, of which libvirt tells 2 ms later; the state tells them apart.
_EVENTS: dict[tuple[int, int | None], Condition] = {
    (DomainEvent.SUSPENDED, 2): _IO_ERROR,
    (DomainEvent.SUSPENDED, 3): _WATCHDOG,
    (DomainEvent.SUSPENDED, 6): _broken("is paused: the hypervisor failed"),
    (DomainEvent.SUSPENDED, 8): _POSTCOPY_FAILED,
    (DomainEvent.STOPPED, 0): _SHUT_DOWN,
    (DomainEvent.STOPPED, 1): DESTROYED,
    (DomainEvent.STOPPED, 2): _HYPERVISOR_DIED,
    (DomainEvent.STOPPED, 3): _MIGRATED,
    (DomainEvent.STOPPED, 4): _SAVED,
    (DomainEvent.STOPPED, 5): _HYPERVISOR_DIED,
    (DomainEvent.STOPPED, 6): _SNAPSHOT,
    (DomainEvent.SHUTDOWN, None): _wanted("is shutting down"),
    (DomainEvent.CRASHED, None): _PANICKED,
}


def of_state(life: int, reason: int) -> Condition:
    """What virDomainGetState told."""
    reasons = _REASONS.get(life, {})
    return reasons.get(reason) or _OTHER_STATES.get(life) or _broken(f"is in the unknown state {life}")


def of_event(event: int, detail: int) -> Condition | None:
    """What a lifecycle event says by itself; None where the state must be asked for."""
    return _EVENTS.get((event, detail)) or _EVENTS.get((event, None))
