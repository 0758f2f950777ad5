"""A domain's life, told by states and events, in scenes."""

import pytest

from reconciler.health.signal import HealthState, Reading, Rebooted
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.signals.life import Biography, DomainFacts
from reconciler.host.signals.lifecycle import DomainEvent, DomainState

RUNS = DomainFacts(DomainState.RUNNING, 1, 7)
PAUSED = DomainFacts(DomainState.PAUSED, 1, 7)
SHUT_DOWN, DESTROYED, CRASHED, UNKNOWN = (DomainFacts(DomainState.SHUTOFF, reason) for reason in (1, 2, 3, 0))


class Scene:
    """A domain whose story is told; `said` is what was made of the latest of it."""

    def __init__(self) -> None:
        self.own_actions = OwnActions()
        self.judge = Biography("vm", "ips", self.own_actions)
        self.now_s = 1000.0

    def state(self, seen: DomainFacts | None, after_s: float = 1.0) -> str:
        self.now_s += after_s
        return said(self.judge.state(seen, self.now_s))

    def event(self, event: DomainEvent, detail: int = 0, after_s: float = 10.0) -> str:
        self.now_s += after_s
        return said(self.judge.event(event, detail, self.now_s))


def said(reading: Reading | None) -> str:
    if reading is None:
        return ""
    assert reading.signal == "vm"
    return f"{reading.state}{' (wanted)' if reading.deliberate else ''}: {reading.reason}"


@pytest.fixture
def vm() -> Scene:
    made = Scene()
    made.state(RUNS)
    return made


def test_it_runs(vm: Scene) -> None:
    assert vm.state(RUNS) == "healthy: ips runs"


def test_the_hypervisor_dies(vm: Scene) -> None:
    died = "failed: ips is shut off: the hypervisor died or the VM crashed"
    assert vm.event(DomainEvent.STOPPED, 5) == died
    assert vm.state(DomainFacts(DomainState.SHUTOFF, 6)) == "failed: ips is shut off: it could not be started"
    assert vm.state(CRASHED) == died
    assert vm.event(DomainEvent.STARTED) == ""
    assert vm.state(DomainFacts(DomainState.RUNNING, 1, 8)) == "healthy: ips runs"


def test_the_guest_panics_and_is_left_as_it_is(vm: Scene) -> None:
    panicked = "failed: ips crashed: the guest panicked"
    assert vm.event(DomainEvent.CRASHED) == panicked
    assert vm.state(DomainFacts(DomainState.CRASHED, 1, 7)) == panicked


def test_the_guest_panics_and_is_reset_by_libvirt(vm: Scene) -> None:
    panicked = "failed: ips crashed: the guest panicked"
    assert vm.event(DomainEvent.CRASHED) == panicked
    assert vm.state(RUNS) == panicked
    assert vm.event(DomainEvent.RESUMED) == ""
    assert vm.state(RUNS) == "healthy: ips runs"


def test_an_operator_shuts_it_down(vm: Scene) -> None:
    assert vm.event(DomainEvent.SHUTDOWN, 1) == "failed (wanted): ips is shutting down"
    assert vm.state(DomainFacts(DomainState.SHUTDOWN, 1, 7)) == "failed (wanted): ips is shutting down"
    assert vm.event(DomainEvent.STOPPED) == "failed (wanted): ips was shut down by an operator or by the guest itself"
    assert vm.state(SHUT_DOWN) == "failed (wanted): ips was shut down by an operator or by the guest itself"


def test_a_restarted_libvirtd_has_forgotten_why_it_is_off(vm: Scene) -> None:
    vm.state(DESTROYED)
    assert said(vm.judge.gone("no libvirtd")) == "absent: no libvirtd"
    assert vm.state(UNKNOWN) == "failed (wanted): ips is shut off, as somebody wanted it"
    assert vm.state(UNKNOWN) == "failed (wanted): ips is shut off, as somebody wanted it"


def test_off_since_the_host_started() -> None:
    fresh = Scene()
    assert fresh.state(UNKNOWN) == "failed: ips is shut off; libvirt does not know why"


def test_died_while_libvirtd_was_away(vm: Scene) -> None:
    vm.judge.gone("no libvirtd")
    assert vm.state(UNKNOWN) == "failed: ips is shut off; libvirt does not know why"


def test_it_is_paused_and_resumed(vm: Scene) -> None:
    assert vm.event(DomainEvent.SUSPENDED, 0) == ""
    assert vm.state(PAUSED) == "failed (wanted): ips was paused by an operator"
    assert vm.event(DomainEvent.RESUMED) == ""
    assert vm.state(RUNS) == "healthy: ips runs"


def test_it_is_migrated_away_and_undefined(vm: Scene) -> None:
    assert vm.event(DomainEvent.STOPPED, 3) == "failed (wanted): ips was migrated to another host"
    assert vm.state(None) == "failed (wanted): ips is not defined in libvirt"


def test_it_was_never_there() -> None:
    assert Scene().state(None) == "failed: ips is not defined in libvirt"


# Alarms


def test_a_watchdog_that_does_nothing_is_believed_all_the_same(vm: Scene) -> None:
    hangs = "failed: ips hangs: its watchdog expired (nothing follows)"
    assert said(vm.judge.watchdog(0, vm.now_s)) == hangs
    assert vm.state(RUNS) == hangs
    assert vm.state(RUNS, 50) == hangs
    # It has run on for a minute as if nothing was.
    assert vm.state(RUNS, 10) == "healthy: ips runs"


def test_a_watchdog_that_resets(vm: Scene) -> None:
    assert said(vm.judge.watchdog(2, vm.now_s)) == "failed: ips hangs: its watchdog expired (it is reset)"
    assert vm.judge.reboot() == Rebooted("vm", "ips reboots")
    assert vm.state(RUNS) == "healthy: ips runs"


@pytest.mark.parametrize("seen", [SHUT_DOWN, DomainFacts(DomainState.SHUTDOWN, 1, 7), DESTROYED])
def test_a_watchdog_that_switches_off_is_nobodys_wish(vm: Scene, seen: DomainFacts) -> None:
    vm.judge.watchdog(3, vm.now_s)
    off = "failed: ips hangs: its watchdog expired (it is switched off)"
    assert vm.event(DomainEvent.STOPPED, 0) == off
    assert vm.state(seen) == off
    # However long it stays off.
    assert vm.state(seen, 3600) == off


def test_a_new_id_is_a_new_life(vm: Scene) -> None:
    vm.judge.watchdog(0, vm.now_s)
    assert vm.state(DomainFacts(DomainState.RUNNING, 1, 8)) == "healthy: ips runs"


def test_an_action_that_is_not_known(vm: Scene) -> None:
    assert said(vm.judge.watchdog(99, vm.now_s)).endswith("its watchdog expired (what follows is not known)")


def test_a_full_disk(vm: Scene) -> None:
    assert said(vm.judge.io_error("virtio-disk0", 1, "enospc", vm.now_s)) == (
        "failed: ips is paused: an I/O error (virtio-disk0, enospc)"
    )
    assert vm.state(DomainFacts(DomainState.PAUSED, 5, 7)) == "failed: ips is paused: an I/O error of its disk"


def test_a_disk_error_that_the_guest_deals_with(vm: Scene) -> None:
    assert said(vm.judge.io_error("", 2, "", vm.now_s)) == "degraded: ips has an I/O error (a disk)"
    assert vm.state(RUNS) == "healthy: ips runs"


def test_xen_tells_of_the_start_before_the_end(vm: Scene) -> None:
    assert vm.event(DomainEvent.STARTED) == ""
    assert vm.event(DomainEvent.STOPPED, 1, after_s=0.5) == ""
    assert vm.state(DomainFacts(DomainState.RUNNING, 1, 8)) == "healthy: ips runs"
    assert vm.event(DomainEvent.STOPPED, 2) == "failed: ips is shut off: the hypervisor died or the VM crashed"


# OwnActions of our own


def test_what_we_destroy_is_nobody_elses_wish(vm: Scene) -> None:
    ours = "failed: ips is being restarted by the reconciler"
    vm.own_actions.acting = True
    assert vm.event(DomainEvent.STOPPED, 1) == ours
    assert vm.state(DESTROYED) == ours
    assert vm.state(DomainFacts(DomainState.PAUSED, 11, 8)) == ours
    vm.own_actions.acting = False
    assert vm.state(DomainFacts(DomainState.RUNNING, 1, 8)) == "healthy: ips runs"


def test_destroyed_by_us_and_not_started_again(vm: Scene) -> None:
    vm.own_actions.destroyed = True
    for _ in range(3):
        assert vm.state(DESTROYED) == "failed: ips is being restarted by the reconciler"
    # Somebody started it by hand; and then switched it off.
    assert vm.state(DomainFacts(DomainState.RUNNING, 1, 8)) == "healthy: ips runs"
    assert not vm.own_actions.destroyed
    assert vm.state(DESTROYED) == "failed (wanted): ips was switched off by an operator"


def test_shut_down_by_somebody_since_we_destroyed_it(vm: Scene) -> None:
    """We were not there to see it run in between."""
    vm.own_actions.destroyed = True
    assert vm.state(SHUT_DOWN) == "failed (wanted): ips was shut down by an operator or by the guest itself"
    assert vm.state(DomainFacts(DomainState.SHUTOFF, 5)) == "failed (wanted): ips was saved by an operator"


def test_running_while_we_are_at_it_settles_nothing(vm: Scene) -> None:
    vm.own_actions.acting = vm.own_actions.destroyed = True
    vm.state(RUNS)
    assert vm.own_actions.destroyed


def test_a_crash_during_our_restart_is_a_crash(vm: Scene) -> None:
    vm.own_actions.acting = True
    assert vm.state(CRASHED) == "failed: ips is shut off: the hypervisor died or the VM crashed"


def test_absence_is_no_opinion() -> None:
    assert Scene().judge.gone("why").state is HealthState.ABSENT
