"""The core: adopts, decides, repairs, tells; one thing at a time, on a fake kernel."""

import errno
import itertools
import json
from typing import Any

import pytest
from fake_kernel import FakeKernel, Killed
from keeping import BEAT, PROGRAMS, Kept, beat, watched
from worlds import host, two_ports

from reconciler.daemon.core import AUDIT_MS, REFUSED_MS, RETRY_MS
from reconciler.daemon.telling import DECISIONS_KEPT
from reconciler.errors import HostError, TransientError
from reconciler.health import record
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import Ending, Hold, HoldPlaced, HoldReleased, Phase, RestartEnded
from reconciler.network.cycle import audit, reconcile
from reconciler.network.desired import choice_of
from reconciler.network.state import Kind, Setting


def on(kept: Kept) -> str:
    """Where the ports are."""
    return {("sw-bypass", "sw-bypass"): "bypass", ("sw-outside", "sw-inside"): "inspect"}[
        str(kept.where("eth0")), str(kept.where("eth1"))
    ]


# --- start -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["inspect", "bypass"])
def test_what_is_right_already_is_adopted_without_an_operation(topology: str) -> None:
    of = watched()
    kernel = host(of)
    reconcile(kernel, of, choice_of(of, topology))
    kernel.log.clear()
    kept = Kept(of, kernel).start()
    assert kept.choice == topology
    assert kernel.log == []
    kept.wait(3_000)
    assert kernel.log == []


def test_a_host_that_was_never_set_up_begins_past_the_vm_and_is_inspected_when_that_has_proven_itself() -> None:
    kept = Kept().start()
    assert (kept.choice, on(kept)) == ("bypass", "bypass")
    kept.wait(9_999)
    assert kept.choice == "bypass"
    kept.wait(1)
    assert (kept.choice, on(kept)) == ("inspect", "inspect")


def test_a_host_that_was_never_set_up_is_inspected_where_nothing_judges() -> None:
    kept = Kept(watched(signals={})).start()
    assert (kept.choice, on(kept)) == ("inspect", "inspect")


def test_the_first_line_says_what_was_found_and_what_is_wanted() -> None:
    kept = Kept().start()
    assert kept.lines[0]["event"] == "start"
    assert kept.lines[0]["text"] == "two: found no topology; wanted bypass"


def test_the_first_drift_after_an_adoption_is_drift_and_no_switch() -> None:
    of = watched()
    kernel = host(of)
    reconcile(kernel, of, choice_of(of))
    kept = Kept(of, kernel).start()
    kept.forget()
    kernel.enslave(kernel["eth0"], 0)
    kept.turn(changed=True)
    assert kept.events("switched", "repaired") == ["repaired"]
    assert kept.core.repaired == 1


def test_once_adopted_the_kernel_is_not_looked_at_for_each_beat() -> None:
    of = watched(signals={"beat": BEAT})
    kernel = host(of)
    reconcile(kernel, of, choice_of(of))
    kept = Kept(of, kernel).start()
    looks = 0
    genuine = kernel.observe

    def counted(names: Any = None) -> Any:
        nonlocal looks
        looks += 1
        return genuine(names)

    kernel.observe = counted  # type: ignore[method-assign]
    for _ in range(20):
        kept.now += 100
        kept.turn(beat())
    assert looks == 0


@pytest.mark.parametrize("error", [TransientError("in motion"), HostError("refused")])
def test_a_kernel_that_cannot_be_read_at_the_start_ends_the_process_with_a_sentence(error: Exception) -> None:
    kept = Kept()

    def refuse(_names: Any = None) -> Any:
        raise error

    kept.kernel.observe = refuse  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        kept.start()


def test_a_memory_that_is_none_is_told_and_of_no_consequence() -> None:
    kept = Kept()
    kept.memory = json.dumps({"format": "somebody's"})
    kept.start()
    assert kept.choice == "bypass"
    assert kept.events("memory") == ["memory"]


# --- failover and return ---------------------------------------------------------------------------------------------


def test_the_carriers_loss_moves_the_ports_in_the_same_turn_and_its_return_after_the_hold_down() -> None:
    kept = Kept().inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    assert (kept.choice, on(kept)) == ("bypass", "bypass")
    assert kept.events("switched") == ["switched"]
    kept.power(on=True)
    kept.turn(changed=True)
    assert kept.choice == "bypass"
    # The second time within an hour: it flapped.
    kept.wait(19_999)
    assert on(kept) == "bypass"
    kept.wait(1)
    assert (kept.choice, on(kept)) == ("inspect", "inspect")


def test_a_switch_moves_two_ports_and_nothing_else() -> None:
    kept = Kept().inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    assert {(one.link.name, one.setting) for one, _ in kept.kernel.log} >= {
        ("eth0", Setting.SWITCH),
        ("eth1", Setting.SWITCH),
    }
    assert {one.link.name for one, _ in kept.kernel.log} == {"eth0", "eth1"}


def test_adapters_that_vanish_are_as_good_as_dead_and_found_again_when_they_come_back_with_other_indexes() -> None:
    kept = Kept().inspected()
    kept.kernel.remove("vif0")
    kept.kernel.remove("vif1")
    kept.turn(changed=True)
    assert on(kept) == "bypass"
    kept.kernel.add("vif1", up=True)
    kept.kernel.add("vif0", up=True)
    kept.turn(changed=True)
    assert (kept.where("vif0"), kept.where("vif1")) == ("sw-outside", "sw-inside")
    kept.wait(20_000)
    assert on(kept) == "inspect"


def test_no_event_is_needed_an_audit_comes_by_itself() -> None:
    kept = Kept().inspected()
    kept.power(on=False)
    kept.wait(AUDIT_MS + 1)
    assert on(kept) == "bypass"


def test_the_carrier_that_goes_between_the_act_and_the_second_look_is_heeded_at_once() -> None:
    kept = Kept(watched()).start()
    kept.wait(9_000)
    kept.forget()

    def meddle(_count: int, _kernel: FakeKernel) -> None:
        kept.power(on=False)

    kept.kernel.foreign_hand = meddle
    kept.wait(1_001)
    assert kept.choice == "bypass"
    kept.kernel.foreign_hand = None
    # A deadline of its own, not an event, and not the next audit.
    assert kept.core.due_ms <= kept.now + RETRY_MS or on(kept) == "bypass"
    kept.wait(RETRY_MS)
    assert on(kept) == "bypass"


def test_what_is_waiting_to_be_heard_is_heard_before_silence_is_judged() -> None:
    """The loop was stalled: beats came in time, and lie in the queue."""
    kept = Kept(watched(signals={"beat": BEAT})).start()
    for _ in range(12):
        kept.now += 1_000
        kept.turn(beat())
    assert kept.choice == "inspect"
    kept.now += 2_500
    kept.turn(beat())
    assert kept.choice == "inspect"
    kept.now += 2_500
    kept.turn()
    assert kept.choice == "bypass"


def test_a_vm_that_fails_at_the_end_of_its_hold_down_does_not_get_the_traffic_for_a_moment() -> None:
    kept = Kept(watched(signals={"beat": BEAT})).start()
    for _ in range(10):
        kept.now += 1_000
        kept.turn(beat())
    kept.now += 1_000
    kept.forget()
    kept.turn(beat(HealthState.FAILED), beat(HealthState.FAILED))
    assert kept.choice == "bypass"
    assert kept.kernel.log == []


# --- in which order --------------------------------------------------------------------------------------------------


def test_the_wire_comes_first_then_the_memory_then_the_restart() -> None:
    kept = Kept(watched(vm=PROGRAMS)).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    moved = len(kept.kernel.log)
    assert moved > 0
    assert kept.order == [f"memory after {moved} operations"]
    kept.order.clear()
    kept.wait(1_001)
    assert kept.order == [f"memory after {moved} operations", "restart reset"]
    assert json.loads(str(kept.memory))["vm"]["attempts"] == 1


def test_the_memory_is_written_when_it_changed_and_not_else() -> None:
    kept = Kept().inspected()
    kept.wait(60_000)
    assert kept.order == []


def test_the_end_of_a_restart_that_failed_is_told() -> None:
    kept = Kept(watched(vm=PROGRAMS)).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    kept.wait(1_001)
    kept.turn(RestartEnded(kept.restarts[-1].asked_ms, Ending.REFUSED, "no such VM"))
    assert kept.texts("restart") == ["VM: it was not restarted: no such VM"]


@pytest.mark.long
def test_a_hypervisor_that_cannot_be_asked_uses_up_nothing_and_is_told_once() -> None:
    """Away for 77 s, and for an hour: the ladder is whole."""
    kept = Kept(watched(vm=PROGRAMS)).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    why = "/x cannot be started: No such file or directory"
    for _ in range(400):
        while len(kept.restarts) == 0:
            kept.wait(1_000)
        asked = kept.restarts.pop()
        assert (asked.method, asked.attempt) == ("reset", 1)
        kept.turn(RestartEnded(asked.asked_ms, Ending.UNREACHED, why))
    assert kept.texts("restart") == [f"VM: nobody can be asked to restart it: {why}; it is asked again and again"]
    assert len([text for text in kept.texts("decision") if "restart" in text]) == 2
    assert kept.core.state.vm.attempts == json.loads(str(kept.memory))["vm"]["attempts"] == 0
    kept.wait(11_000)
    kept.turn(RestartEnded(kept.restarts.pop().asked_ms, Ending.DONE))
    assert (kept.core.state.vm.phase, kept.core.state.vm.attempts) == (Phase.BOOTING, 1)


def test_a_restart_that_the_end_of_the_process_called_off_was_no_attempt() -> None:
    kept = Kept(watched(vm=PROGRAMS)).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    kept.wait(1_001)
    (asked,) = kept.restarts
    moved = len(kept.kernel.log)
    kept.core.leave(RestartEnded(asked.asked_ms, Ending.UNREACHED, "called off"))
    assert len(kept.kernel.log) == moved
    kept.killed_and_started()
    kept.wait(11_000)
    assert [one.attempt for one in kept.restarts] == [1, 1]


# --- drift -----------------------------------------------------------------------------------------------------------


def test_drift_is_repaired_and_told_with_what_it_was() -> None:
    kept = Kept().inspected()
    kept.kernel["eth0"].settings[Setting.MTU] = 1400
    kept.turn(changed=True)
    assert kept.kernel["eth0"].settings[Setting.MTU] == 1500
    assert kept.texts("repaired") == ["repaired, 1 change: port outside (eth0) mtu: 1400 → 1500"]
    assert kept.core.repaired == 1


def test_a_long_list_of_changes_is_cut_in_the_text_and_whole_in_the_data() -> None:
    kept = Kept().start()
    (line,) = [line for line in kept.lines if line["event"] == "switched"]
    assert line["text"].endswith("; …")
    assert len(line["changes"]) > 8


def test_what_the_kernel_refuses_is_told_and_tried_again() -> None:
    kept = Kept().inspected()
    kept.kernel["eth0"].settings[Setting.MTU] = 1400
    kept.kernel.fail_at = {0: errno.EBUSY}
    kept.turn(changed=True)
    assert kept.events("failed") == ["failed"]
    assert "EBUSY" in kept.texts("failed")[0]
    kept.wait(REFUSED_MS)
    assert kept.kernel["eth0"].settings[Setting.MTU] == 1500


def test_a_switch_of_which_the_kernel_refuses_a_part_is_finished_within_a_second() -> None:
    kept = Kept().inspected()
    kept.power(on=False)
    kept.kernel.fail_at = {0: errno.EBUSY}
    kept.turn(changed=True)
    assert kept.choice == "bypass"
    kept.wait(REFUSED_MS)
    assert on(kept) == "bypass"


def test_a_kernel_that_refuses_for_ever_is_not_asked_for_ever_and_nobody_is_blamed() -> None:
    kept = Kept().inspected()
    kept.programs = ("NetworkManager",)
    kept.kernel["eth0"].settings[Setting.MTU] = 1400
    kept.kernel.fail_at = dict.fromkeys(range(100_000), errno.EBUSY)
    kept.turn(changed=True)
    kept.wait(600_000)
    assert len(kept.kernel.log) < 30
    assert len(kept.lines) < 100
    assert kept.texts("conflict") == []
    assert "NetworkManager" not in kept.told.getvalue()


# --- conflicts ----------------------------------------------------------------------------------------------------------


def fought(kept: Kept, rounds: int, every_ms: int = 300, name: str = "eth0") -> int:
    """Somebody takes a port out of its switch, whenever it is in one; how often it was put back."""
    done = len(kept.kernel.log)
    for _ in range(rounds):
        if kept.where(name) is not None:
            kept.kernel.enslave(kept.kernel[name], 0)
            kept.turn(changed=True)
        kept.wait(every_ms)
    return sum(getattr(one, "setting", None) is Setting.SWITCH for one, _ in kept.kernel.log[done:])


def test_a_fight_is_recognised_after_a_few_rounds_and_the_likely_one_is_named() -> None:
    kept = Kept().inspected()
    kept.programs = ("bash", "systemd-network", "NetworkManager", "libvirtd")
    fought(kept, 3)
    assert kept.events("conflict") == []
    fought(kept, 2)
    (line,) = [line for line in kept.lines if line["event"] == "conflict"]
    assert line["suspects"] == ["systemd-networkd", "NetworkManager"]
    assert (line["interface"], line["about"]) == ("eth0", "switch")
    assert kept.core.conflicts.under_way == (("eth0", "switch"),)


def test_a_fight_without_a_suspect_is_somebodys() -> None:
    kept = Kept().inspected()
    fought(kept, 6)
    assert "somebody keeps changing back its switch" in kept.texts("conflict")[0]


def test_libvirt_is_the_first_suspect_where_an_adapter_is_put_into_its_bridge() -> None:
    of = watched(
        vm={
            "adapters": {
                "outside": {"interface": "vif0", "take_over": True},
                "inside": {"interface": "vif1", "take_over": True},
            }
        }
    )
    kept = Kept(of).inspected()
    kept.programs = ("libvirtd", "NetworkManager")
    kept.kernel.add("virbr0", Kind.BRIDGE)
    for _ in range(4):
        kept.kernel.enslave(kept.kernel["vif0"], kept.kernel["virbr0"].index)
        kept.turn(changed=True)
        kept.wait(300)
    (line,) = [line for line in kept.lines if line["event"] == "conflict"]
    assert line["suspects"] == ["libvirtd", "NetworkManager"]


def test_a_fight_is_slowed_down_and_never_given_up() -> None:
    kept = Kept().inspected()
    first = fought(kept, 200)
    assert 4 <= first <= 12
    assert len(kept.lines) < 40
    later = fought(kept, 1_000, every_ms=1_000)
    # A move a minute, at least.
    assert 14 <= later <= 25


def test_a_fight_about_one_thing_does_not_slow_the_repairing_of_another() -> None:
    kept = Kept().inspected()
    fought(kept, 20)
    assert kept.core.conflicts.under_way
    kept.kernel["eth1"].settings[Setting.MTU] = 1400
    kept.turn(changed=True)
    assert kept.kernel["eth1"].settings[Setting.MTU] == 1500


def test_a_fight_does_not_delay_a_failover() -> None:
    kept = Kept().inspected()
    fought(kept, 30)
    kept.kernel.enslave(kept.kernel["eth0"], 0)
    kept.turn(changed=True)
    assert kept.where("eth0") is None
    kept.power(on=False)
    kept.turn(changed=True)
    assert on(kept) == "bypass"


def test_a_fight_that_nobody_fights_any_more_is_over() -> None:
    kept = Kept().inspected()
    fought(kept, 10)
    kept.wait(300_000)
    assert kept.where("eth0") == "sw-outside"
    assert kept.core.conflicts.under_way == ()
    assert kept.events("conflict", "calm") == ["conflict", "calm"]
    # And the next drift is repaired at once again.
    kept.kernel.enslave(kept.kernel["eth0"], 0)
    kept.turn(changed=True)
    assert kept.where("eth0") == "sw-outside"


def test_our_own_switching_to_and_fro_is_no_fight() -> None:
    kept = Kept().inspected()
    for number in range(12):
        if number % 2:
            kept.turn(HoldReleased("root"))
        else:
            kept.turn(HoldPlaced(Hold("bypass", "root", "a test", kept.now + 60_000)))
        kept.wait(100)
    assert kept.events("conflict", "repaired") == []
    assert len(kept.events("switched")) == 12


def test_a_vm_that_comes_back_again_and_again_is_no_fight() -> None:
    """Each time its adapters are new, and as the hypervisor made them."""
    kept = Kept().inspected()
    for _ in range(8):
        for name in ("vif0", "vif1"):
            kept.kernel.remove(name)
        kept.turn(changed=True)
        kept.wait(500)
        for name in ("vif0", "vif1"):
            kept.kernel.add(name, up=True)
        kept.turn(changed=True)
        assert kept.where("vif0") == "sw-outside"
        kept.wait(500)
    assert kept.events("conflict") == []


# --- problems --------------------------------------------------------------------------------------------------------


def test_a_problem_is_told_once_and_when_it_is_solved() -> None:
    kept = Kept().inspected()
    nic = kept.kernel["eth1"].nic
    kept.kernel.remove("eth1")
    for _ in range(5):
        kept.turn(changed=True)
        kept.wait(AUDIT_MS)
    (told,) = kept.texts("problem")
    assert told.startswith("port inside: no interface matches name eth1")
    kept.kernel.add("eth1", nic=nic)
    kept.turn(changed=True)
    assert kept.texts("solved")[0].startswith("no longer: port inside")
    assert kept.where("eth1") == "sw-inside"


def test_a_problem_is_the_same_whatever_other_nics_come_and_go_meanwhile() -> None:
    kept = Kept().inspected()
    kept.kernel.remove("eth1")
    kept.turn(changed=True)
    for number in range(20):
        kept.kernel.add(f"other{number}", up=True, nic={"physical": True, "driver": "igb"})
        kept.kernel.plug(kept.kernel["eth0"], plugged=bool(number % 2))
        kept.turn(changed=True)
        kept.wait(10)
    assert problems(kept, "port-missing") == ["problem"]


def problems(kept: Kept, code: str) -> list[str]:
    """The events in which it was told that something of this code is so, and that it is not any more."""
    return [line["event"] for line in kept.lines if line.get("warning", {}).get("code") == code]


def test_a_cable_that_flaps_fills_no_log_and_in_the_end_the_log_says_how_it_is() -> None:
    kept = Kept().inspected()
    for number in range(21):
        kept.kernel.plug(kept.kernel["eth0"], plugged=bool(number % 2))
        kept.turn(changed=True)
        kept.wait(1_500)
    assert problems(kept, "port-no-carrier") == ["obstacle", "cleared"] * 3
    kept.wait(70_000)
    assert problems(kept, "port-no-carrier") == [*["obstacle", "cleared"] * 3, "obstacle"]


def test_one_port_that_is_missing_does_not_keep_the_other_from_its_place() -> None:
    kept = Kept().inspected()
    kept.kernel.remove("eth1")
    kept.power(on=False)
    kept.turn(changed=True)
    assert (kept.choice, kept.where("eth0")) == ("bypass", "sw-bypass")


# --- a kernel that cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "again_ms"), [(TransientError("in motion"), RETRY_MS), (HostError("refused"), REFUSED_MS)]
)
def test_a_kernel_that_cannot_be_read_is_told_and_read_again(error: Exception, again_ms: int) -> None:
    kept = Kept().inspected()
    genuine = kept.kernel.observe

    def refuse(_names: Any = None) -> Any:
        raise error

    kept.kernel.observe = refuse  # type: ignore[method-assign]
    kept.turn(changed=True)
    assert kept.texts("unread") == [f"network: it cannot be read: {error}"]
    assert kept.core.due_ms == kept.now + again_ms
    kept.kernel.observe = genuine  # type: ignore[method-assign]
    kept.power(on=False)
    kept.wait(again_ms)
    assert on(kept) == "bypass"


def test_a_kernel_that_cannot_be_read_for_long_does_not_fill_the_log() -> None:
    kept = Kept(watched(signals={"beat": {**BEAT, "interval": "100ms"}})).inspected_by_beats()
    kept.kernel.observe = _refusing  # type: ignore[method-assign]
    kept.turn(beat(HealthState.FAILED), beat(HealthState.FAILED))
    assert kept.choice == "bypass"
    for _ in range(600):
        kept.now += 100
        kept.turn(beat())
    assert len(kept.texts("unread")) <= 61


def test_what_could_not_be_looked_at_is_not_said_to_be_as_wanted() -> None:
    kept = Kept().inspected()
    assert kept.core.converged
    genuine = kept.kernel.observe
    kept.kernel.observe = _refusing  # type: ignore[method-assign]
    kept.turn(HoldPlaced(Hold("bypass", "root", "a test", kept.now + 60_000)))
    assert not kept.core.converged
    kept.kernel.observe = genuine  # type: ignore[method-assign]
    kept.wait(REFUSED_MS)
    assert kept.core.converged
    assert on(kept) == "bypass"


def _refusing(_names: Any = None) -> Any:
    raise HostError("refused")


# --- a file that was reloaded ---------------------------------------------------------------------------------------


def test_a_new_file_is_gone_over_to_at_once() -> None:
    kept = Kept().inspected()
    of = watched(segments={"wire": {"ports": ["outside", "inside"], "mtu": 9000}})
    kept.core.declare(of)
    assert kept.core.appliance is of
    assert kept.choice == "inspect"
    assert kept.kernel["eth0"].settings[Setting.MTU] == 9000
    assert not audit(kept.kernel, of, kept.core.state.choice).changes


def test_the_same_file_again_does_nothing() -> None:
    kept = Kept().inspected()
    kept.core.declare(watched())
    assert kept.kernel.log == []
    assert kept.events("switched", "repaired") == []
    kept.kernel["eth0"].settings[Setting.MTU] = 1400
    kept.turn(changed=True)
    assert kept.events("switched", "repaired") == ["repaired"]


def test_a_hold_outlives_a_new_file_unless_its_topology_does_not() -> None:
    isolating = {
        "inspect": {"pair": "all"},
        "bypass": {"join": "all"},
        "isolate": {"pair": "all", "detached": ["outside", "inside"]},
    }
    kept = Kept(watched(topologies=isolating)).inspected()
    kept.turn(HoldPlaced(Hold("isolate", "root", "a test", kept.now + 60_000)))
    kept.core.declare(watched(topologies=isolating, health={"hold_down": "20s", "signals": {}}))
    assert kept.choice == "isolate"
    kept.core.declare(watched())
    assert kept.choice != "isolate"
    assert not audit(kept.kernel, watched(), kept.core.state.choice).changes


# --- a death at every point ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["to bypass", "to inspect", "first"])
def test_killed_after_any_operation_the_next_process_brings_it_to_an_end(way: str) -> None:
    for count in itertools.count():
        kept = Kept()
        if way == "to bypass":
            kept.inspected()
            kept.power(on=False)
        elif way == "to inspect":
            kept.start()
            kept.wait(9_999)
        kept.kernel.kill_after = len(kept.kernel.log) + count
        try:
            if way == "first":
                kept.start()
            else:
                kept.wait(1)
                kept.turn(changed=True)
        except Killed:
            kept.killed_and_started()
        else:
            break
        wanted = "bypass"
        assert (kept.choice, on(kept)) == (wanted, wanted), count
        assert not audit(kept.kernel, kept.of, kept.core.state.choice).changes
        if way != "to bypass":
            kept.wait(10_000)
            assert (kept.choice, on(kept)) == ("inspect", "inspect")
    assert count > 2


def _killed() -> None:
    raise Killed


@pytest.mark.parametrize("survives", [False, True])
def test_killed_before_or_after_the_memory_of_a_failover_it_goes_on_past_the_vm(survives: bool) -> None:
    kept = Kept().inspected()
    kept.power(on=False)
    before = kept.memory
    kept.on_remember = _killed
    with pytest.raises(Killed):
        kept.turn(changed=True)
    assert kept.memory == before
    if survives:
        kept.memory = json.dumps(record.dump(kept.core.state))
    kept.power(on=True)
    kept.killed_and_started()
    assert kept.choice == "bypass"
    kept.wait(9_999)
    assert kept.choice == "bypass"


def test_killed_before_the_memory_of_an_isolation_it_stays_isolated() -> None:
    kept = Kept(watched(on_failure={"fail": "closed"})).inspected()
    kept.power(on=False)
    kept.on_remember = _killed
    with pytest.raises(Killed):
        kept.turn(changed=True)
    kept.power(on=True)
    kept.killed_and_started()
    assert kept.choice == "isolate"
    kept.wait(9_999)
    assert kept.choice == "isolate"


@pytest.mark.long
def test_killed_between_the_memory_and_the_restart_the_attempt_counts() -> None:
    kept = Kept(watched(vm=PROGRAMS)).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    kept.on_restart = _killed
    with pytest.raises(Killed):
        kept.wait(1_001)
    assert kept.restarts == []
    kept.killed_and_started()
    assert kept.core.state.vm.attempts == 1
    kept.wait(3_600_000)
    assert [one.attempt for one in kept.restarts] == [2, 3, 4]


@pytest.mark.long
def test_killed_again_and_again_the_ladder_still_ends() -> None:
    kept = Kept(watched(vm=PROGRAMS)).inspected()
    kept.power(on=False)
    for _ in range(40):
        kept.wait(100_000)
        kept.killed_and_started()
    assert [one.attempt for one in kept.restarts] == [1, 2, 3, 4]


def test_a_hold_outlives_the_process_and_ends_in_time() -> None:
    kept = Kept().inspected()
    kept.turn(HoldPlaced(Hold("bypass", "root", "a test", kept.now + 60_000)))
    kept.killed_and_started()
    assert (kept.choice, kept.core.state.holds["wire"].owner) == ("bypass", "root")
    kept.wait(59_999)
    assert kept.choice == "bypass"
    kept.wait(1)
    assert kept.choice == "inspect"


def test_a_hold_outlives_the_machine() -> None:
    kept = Kept(now=1_000_000).inspected()
    kept.turn(HoldPlaced(Hold("bypass", "root", "a test", kept.now + 60_000)))
    # It booted 20 s later, and its clock began again.
    then, kept.now = kept.now, 5_000
    kept.kernel = host(kept.of)
    kept.core = kept._new()
    kept.start(shift=5_000 - (then + 20_000))
    assert kept.choice == "bypass"
    left = kept.core.state.holds["wire"].until_ms - kept.now
    assert left == 40_000


def test_everything_that_is_remembered_comes_back_within_one_boot() -> None:
    of = watched(vm=PROGRAMS, signals={"wire": {"kind": "carrier"}})
    kept = Kept(of).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    kept.wait(1_001)
    kept.turn(HoldPlaced(Hold("bypass", "root", "a test", kept.now + 60_000)))
    first = json.loads(str(kept.memory))
    kept.killed_and_started()
    second = json.loads(str(kept.memory))
    assert second["holds"] == first["holds"]
    assert second["segments"] == first["segments"]
    assert second["vm"]["attempts"] == first["vm"]["attempts"] == 1


def test_where_frames_go_is_asked_after_the_wire_and_before_the_disk() -> None:
    kept = Kept().inspected()
    moved: list[int] = []
    kept.core.paths.changed = lambda _: moved.append(len(kept.kernel.log))
    kept.order.clear()
    kept.power(on=False)
    kept.turn(changed=True)
    assert moved == [len(kept.kernel.log)]
    assert kept.order == [f"memory after {moved[0]} operations"]
    kept.core.listen()
    assert len(moved) == 1, "nothing new"


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_what_is_kept_of_decisions_is_bounded() -> None:
    kept = Kept().inspected()
    for number in range(100):
        kept.turn(HoldPlaced(Hold("bypass", "root", f"test {number}", kept.now + 60_000)))
    assert len(kept.core.telling.decisions) == DECISIONS_KEPT


def test_a_stranger_in_the_switch_is_taken_out_and_nothing_else_is_done_to_it() -> None:
    kept = Kept().inspected()
    stranger = kept.kernel.add("stranger0", switch="sw-outside", up=True)
    before = dict(stranger.settings)
    kept.turn(changed=True)
    assert stranger.master == 0
    after = {key: value for key, value in before.items() if key in stranger.settings}
    assert stranger.settings == after


def test_an_appliance_of_taps_and_one_without_signals_is_kept_as_well() -> None:
    kept = Kept(two_ports()).start()
    assert on(kept) == "inspect"
    kept.kernel.remove("tap0")
    kept.turn(changed=True)
    assert kept.where("tap0") == "sw-outside"


def test_a_reading_of_a_signal_that_is_gone_is_nobodys() -> None:
    kept = Kept().inspected()
    kept.turn(Reading("old", HealthState.FAILED, "x"), Reading("wire", HealthState.FAILED, "x", "elsewhere"))
    assert kept.choice == "inspect"
