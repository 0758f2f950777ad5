"""What libvirt's words mean, and that they are libvirt's."""

import libvirt
import pytest

from reconciler.health.signal import HealthState
from reconciler.host.signals import lifecycle
from reconciler.host.signals.lifecycle import DomainEvent, DomainState, of_event, of_state

HEALTHY, FAILED, ABSENT, WANTED = "healthy", "failed", "absent", "failed, deliberate"


def word(condition: lifecycle.Condition) -> str:
    return f"{condition.state}, deliberate" if condition.deliberate else str(condition.state)


def test_the_numbers_are_those_of_libvirt() -> None:
    assert {life.name: life.value for life in DomainState} == {
        life.name: getattr(libvirt, f"VIR_DOMAIN_{life.name}") for life in DomainState
    }
    assert {event.name: event.value for event in DomainEvent} == {
        event.name: getattr(libvirt, f"VIR_DOMAIN_EVENT_{event.name}") for event in DomainEvent
    }


STATES = {
    "RUNNING_UNKNOWN": HEALTHY,
    "RUNNING_BOOTED": HEALTHY,
    "RUNNING_MIGRATED": HEALTHY,
    "RUNNING_RESTORED": HEALTHY,
    "RUNNING_UNPAUSED": HEALTHY,
    "RUNNING_CRASHED": HEALTHY,
    "RUNNING_POSTCOPY": HEALTHY,
    "PAUSED_UNKNOWN": FAILED,
    "PAUSED_USER": WANTED,
    "PAUSED_MIGRATION": WANTED,
    "PAUSED_SAVE": WANTED,
    "PAUSED_DUMP": WANTED,
    "PAUSED_IOERROR": FAILED,
    "PAUSED_WATCHDOG": FAILED,
    "PAUSED_FROM_SNAPSHOT": WANTED,
    "PAUSED_SHUTTING_DOWN": WANTED,
    "PAUSED_SNAPSHOT": WANTED,
    "PAUSED_CRASHED": FAILED,
    "PAUSED_STARTING_UP": WANTED,
    "PAUSED_POSTCOPY": WANTED,
    "PAUSED_POSTCOPY_FAILED": FAILED,
    "SHUTOFF_UNKNOWN": FAILED,
    "SHUTOFF_SHUTDOWN": WANTED,
    "SHUTOFF_DESTROYED": WANTED,
    "SHUTOFF_CRASHED": FAILED,
    "SHUTOFF_MIGRATED": WANTED,
    "SHUTOFF_SAVED": WANTED,
    "SHUTOFF_FAILED": FAILED,
    "SHUTOFF_FROM_SNAPSHOT": WANTED,
    "SHUTOFF_DAEMON": FAILED,
    "CRASHED_UNKNOWN": FAILED,
    "CRASHED_PANICKED": FAILED,
    "PMSUSPENDED_UNKNOWN": FAILED,
    "NOSTATE_UNKNOWN": ABSENT,
    "BLOCKED_UNKNOWN": HEALTHY,
    "SHUTDOWN_UNKNOWN": WANTED,
    "SHUTDOWN_USER": WANTED,
}


@pytest.mark.parametrize(("name", "expected"), STATES.items())
def test_a_state_says(name: str, expected: str) -> None:
    life = DomainState[name.partition("_")[0]]
    assert word(of_state(life, getattr(libvirt, f"VIR_DOMAIN_{name}"))) == expected


def test_every_reason_of_libvirt_for_a_pause_and_an_end_is_known() -> None:
    for life in ("PAUSED", "SHUTOFF"):
        prefix = f"VIR_DOMAIN_{life}_"
        known = {name[len("VIR_DOMAIN_") :] for name in vars(libvirt) if name.startswith(prefix)}
        # Newer versions of libvirt know API_ERROR: what is not in the table has failed.
        assert known - {"PAUSED_API_ERROR", "PAUSED_LAST", "SHUTOFF_LAST"} <= set(STATES)


@pytest.mark.parametrize(("life", "reason"), [(3, 99), (5, 99), (5, -1), (8, 0), (99, 99), (-1, 0)])
def test_what_is_not_known_has_failed_and_is_nobodys_wish(life: int, reason: int) -> None:
    assert word(of_state(life, reason)) == FAILED


EVENTS = {
    "SUSPENDED_IOERROR": FAILED,
    "SUSPENDED_WATCHDOG": FAILED,
    "SUSPENDED_API_ERROR": FAILED,
    "SUSPENDED_POSTCOPY_FAILED": FAILED,
    "STOPPED_SHUTDOWN": WANTED,
    "STOPPED_DESTROYED": WANTED,
    "STOPPED_CRASHED": FAILED,
    "STOPPED_MIGRATED": WANTED,
    "STOPPED_SAVED": WANTED,
    "STOPPED_FAILED": FAILED,
    "STOPPED_FROM_SNAPSHOT": WANTED,
    "SHUTDOWN_FINISHED": WANTED,
    "SHUTDOWN_GUEST": WANTED,
    "SHUTDOWN_HOST": WANTED,
    "CRASHED_PANICKED": FAILED,
    "CRASHED_CRASHLOADED": FAILED,
    # For these the state is asked.
    "SUSPENDED_PAUSED": None,
    "SUSPENDED_MIGRATED": None,
    "SUSPENDED_RESTORED": None,
    "SUSPENDED_FROM_SNAPSHOT": None,
    "SUSPENDED_POSTCOPY": None,
    "STARTED_BOOTED": None,
    "RESUMED_UNPAUSED": None,
    "UNDEFINED_REMOVED": None,
}


@pytest.mark.parametrize(("name", "expected"), EVENTS.items())
def test_an_event_says(name: str, expected: str | None) -> None:
    event = DomainEvent[name.partition("_")[0]]
    found = of_event(event, getattr(libvirt, f"VIR_DOMAIN_EVENT_{name}"))
    assert (found and word(found)) == expected


@pytest.mark.parametrize(("event", "detail"), [(5, 99), (3, -1), (9, 0), (-1, 0), (99, 99)])
def test_an_event_that_is_not_known_says_nothing(event: int, detail: int) -> None:
    assert of_event(event, detail) is None


def test_no_condition_speaks_of_health_but_running() -> None:
    said = [of_state(life, reason) for life in range(10) for reason in range(20)]
    assert {one.reason for one in said if one.state is HealthState.HEALTHY} == {"runs"}
