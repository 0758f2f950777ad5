"""The guard's table, consent and prober, as the core drives them: what is said to the kernel, and in which order."""

import itertools
import json
from typing import Any

import pytest
from fake_guard import Ear
from guards import TO_INSIDE, TO_OUTSIDE, Guards, Later, guarded
from keeping import BEAT, beat

from reconciler.appliance.declared import Appliance
from reconciler.errors import HostError
from reconciler.guard.installing import ADOPT_MS
from reconciler.guard.table import LeaseState
from reconciler.health.signal import HealthState
from reconciler.health.state import Hold, HoldPlaced, HoldReleased
from reconciler.ledger.entry import Entry, EntryKind

DRAIN_MS, LEASE_MS = 100, 200
PROVEN_MS = 300
"""Orders, some probes, and the report of them."""


def hold(kept: Guards, topology: str = "bypass") -> None:
    kept.turn(HoldPlaced(Hold(topology, "alice", "tests", kept.now + 3_600_000)))


def release(kept: Guards) -> None:
    kept.turn(HoldReleased("alice"))


def ports(kept: Guards) -> set[str | None]:
    return {kept.where("eth0"), kept.where("eth1")}


INSPECTED, BYPASSED = {"sw-outside", "sw-inside"}, {"sw-bypass"}


# --- set for the first time ------------------------------------------------------------------------------------------


def test_a_wire_that_is_inspected_already_stays_so_until_the_vm_has_proven_itself() -> None:
    kept = Guards().adopting()
    assert kept.messages() == ["link", "install"]
    assert kept.held is LeaseState.ADOPTING
    assert kept.table.has("wire/aside")
    took = kept.until(lambda: kept.held is LeaseState.GRANTED)
    assert took <= PROVEN_MS
    assert kept.messages() == ["link", "install", "grant wire"]
    assert not kept.table.has("wire/aside")
    assert kept.table.opens("wire")
    assert kept.choice == "inspect"
    assert kept.texts("guard") == ["the guard was set"]
    kept.wait(20_000)
    assert kept.table.opens("wire")
    assert kept.table.installed == kept.wires.spawned == 1


def test_a_vm_that_never_proves_itself_loses_it() -> None:
    kept = Guards()
    kept.wires.vm(dead=True)
    kept.adopting()
    kept.until(lambda: not kept.table.opens("wire"), ADOPT_MS)
    kept.wait(ADOPT_MS)
    assert kept.choice == "bypass"
    assert ports(kept) == BYPASSED
    assert "grant wire" not in kept.messages()


def test_one_that_passes_no_probes_but_arp_is_not_called_dead_and_its_guard_trips_all_the_same() -> None:
    kept = Guards()
    kept.wires.vm(only_arp=True)
    kept.adopting()
    assert kept.until(lambda: not kept.table.opens("wire")) == ADOPT_MS
    kept.wait(2_000)
    assert kept.choice == "inspect"
    assert kept.held is LeaseState.NOTHING
    (path,) = kept.core.state.tracks.values()
    assert "give the guard another `probe`" in str(path)


def test_a_wire_that_is_not_inspected_gets_its_guard_tripped() -> None:
    kept = Guards()
    kept.start()
    assert kept.choice == "bypass"
    assert kept.held is LeaseState.NOTHING
    assert not kept.table.opens("wire")
    kept.until(lambda: kept.choice == "inspect")
    assert kept.table.opens("wire") is kept.table.has(TO_INSIDE) is (kept.held is LeaseState.GRANTED)


def test_killed_while_it_adopts_it_goes_on() -> None:
    kept = Guards()
    kept.wires.vm(dead=True)
    kept.adopting()
    kept.wait(500)
    kept.killed_and_started()
    assert kept.held is LeaseState.ADOPTING
    kept.wires.vm(dead=False)
    kept.until(lambda: kept.held is LeaseState.GRANTED, PROVEN_MS)
    assert kept.table.installed == 1
    kept = Guards()
    kept.wires.vm(only_arp=True)
    kept.adopting()
    kept.wait(500)
    kept.killed_and_started()
    assert kept.until(lambda: not kept.table.opens("wire")) == ADOPT_MS - 500
    assert kept.held is LeaseState.NOTHING


# --- switches on purpose ---------------------------------------------------------------------------------------------


def test_a_planned_switch_lets_out_what_the_vm_holds_and_only_then_moves_the_ports() -> None:
    kept = Guards().granted()
    hold(kept)
    assert kept.messages() == ["drain wire"]
    assert kept.table.has("wire/drain")
    assert not kept.table.opens("wire")
    assert ports(kept) == INSPECTED
    assert kept.core.drained_ms == kept.now + DRAIN_MS
    assert kept.until(lambda: ports(kept) == BYPASSED) == DRAIN_MS
    assert kept.messages() == ["drain wire", "link"]
    assert not kept.table.has("wire/drain")
    assert kept.core.drained_ms is None
    kept.wait(5_000)
    assert kept.messages() == ["drain wire", "link"]
    assert kept.core.converged


def test_back_the_ports_come_first_and_then_the_proof_with_another_token() -> None:
    kept = Guards().granted()
    old = kept.token
    hold(kept)
    kept.wait(1_000)
    kept.wires.vm(silent={TO_INSIDE})
    kept.wait(150)
    kept.forget()
    release(kept)
    kept.wait(40)
    assert kept.messages() == ["link"]
    assert ports(kept) == INSPECTED
    assert not kept.table.opens("wire")
    kept.wires.vm(silent=())
    kept.until(lambda: kept.held is LeaseState.GRANTED, PROVEN_MS)
    assert kept.messages() == ["link", "grant wire"]
    assert kept.token != old
    assert kept.table.opens("wire")


def test_what_was_proven_on_the_bypass_does_not_count_before_the_ports_are_back() -> None:
    """Also where the network cannot be looked at just then."""
    kept = Guards().granted()
    hold(kept)
    kept.wait(1_000)
    observe, kept.kernel.observe = kept.kernel.observe, refuses  # type: ignore[method-assign]
    kept.forget()
    release(kept)
    kept.wait(500)
    assert kept.messages() == []
    assert ports(kept) == BYPASSED
    kept.kernel.observe = observe  # type: ignore[method-assign]
    kept.until(lambda: kept.held is LeaseState.GRANTED, 3_000)
    assert kept.messages() == ["link", "grant wire"]


def refuses(_: Any = None) -> Any:
    raise HostError("it refuses to be read")


def test_back_before_the_drain_is_over_nothing_was_moved_and_yet_all_is_proven_again() -> None:
    kept = Guards().granted()
    old = kept.token
    hold(kept)
    kept.wait(50)
    assert kept.held is LeaseState.NOTHING
    release(kept)
    kept.until(lambda: kept.held is LeaseState.GRANTED, PROVEN_MS)
    assert kept.messages() == ["drain wire", "grant wire"]
    assert kept.token != old
    assert not kept.table.has("wire/drain")


def test_without_a_drain_nothing_waits() -> None:
    kept = Guards(guarded({"drain": "0s"})).granted()
    hold(kept)
    assert kept.messages() == ["withdraw wire", "link"]
    assert ports(kept) == BYPASSED


def test_a_port_that_is_not_in_place_keeps_the_lease_away() -> None:
    kept = Guards().granted()
    hold(kept)
    kept.wait(1_000)
    kept.kernel["eth0"].busy = True
    release(kept)
    kept.wait(3_000)
    assert kept.held is LeaseState.NOTHING
    kept.kernel["eth0"].busy = False
    kept.until(lambda: kept.held is LeaseState.GRANTED, 60_000)
    assert ports(kept) == INSPECTED


def test_in_a_topology_of_its_own_meaning_the_guard_stands_aside() -> None:
    more = {"inspect": {"pair": "all"}, "bypass": {"join": "all"}}
    mirror = {"switches": {"sw-m": {"ports": ["outside", "inside"], "adapters": ["outside"]}}}
    kept = Guards(guarded(topologies={**more, "mirror": mirror})).granted()
    old = kept.token
    hold(kept, "mirror")
    kept.wait(100)
    assert kept.messages() == ["stand aside wire", "link"]
    assert kept.table.opens("wire")
    assert kept.table.tokens("wire") == set()
    kept.killed_and_started()
    assert kept.held is LeaseState.ASIDE
    kept.wait(1_000)
    assert kept.messages() == ["stand aside wire", "link"]
    release(kept)
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    assert kept.messages() == ["stand aside wire", "link", "withdraw wire", "link", "grant wire"]
    assert kept.token != old


# --- failures that the daemon finds ----------------------------------------------------------------------------------


def test_after_a_failure_the_lease_goes_first_and_nothing_is_let_out() -> None:
    kept = Guards(guarded(signals={"beat": BEAT}))
    kept.start()
    for _ in range(20):
        kept.wait(1_000)
        kept.turn(beat())
    assert kept.held is LeaseState.GRANTED
    kept.forget()
    kept.turn(beat(HealthState.FAILED), beat(HealthState.FAILED))
    assert kept.messages() == ["withdraw wire", "link"]
    assert kept.held is LeaseState.NOTHING
    assert not kept.table.has("wire/drain")
    assert ports(kept) == BYPASSED


def test_when_its_carrier_goes_too() -> None:
    kept = Guards(guarded(signals={"carrier": {"kind": "carrier"}})).granted()
    kept.power(on=False)
    kept.turn(changed=True)
    assert kept.messages() == ["withdraw wire", "link"]
    assert kept.wires.spawned == 1


# --- trips -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", [{TO_INSIDE}, {TO_OUTSIDE}, {TO_INSIDE, TO_OUTSIDE}], ids=len)
def test_a_lease_that_runs_out_is_a_trip_and_a_failure(silent: set[str]) -> None:
    kept = Guards().granted()
    old = kept.token
    kept.wires.vm(silent=silent)
    assert kept.until(lambda: not kept.table.opens("wire")) <= LEASE_MS
    kept.until(lambda: kept.choice == "bypass", 100)
    assert kept.messages() == ["withdraw wire", "link"]
    assert kept.texts("tripped") == ["wire: bypassed by the guard, which has tripped: a lease of 200 ms ran out"]
    assert kept.segment.exposure.trips == 1
    assert len([one for one in kept.texts("decision") if "the guard tripped" in one and "inspect → bypass" in one]) == 1
    kept.wires.vm(silent=())
    took = kept.until(lambda: kept.held is LeaseState.GRANTED)
    assert took >= 10_000, "the hold-down"
    assert kept.token != old


def test_it_is_a_failure_also_when_the_path_is_there_again_a_moment_later() -> None:
    kept = Guards().granted()
    kept.wires.vm(dead=True)
    kept.now += LEASE_MS + 10
    kept.wires.vm(dead=False)
    kept.now += 40
    kept.until(lambda: kept.choice == "bypass", 200)
    assert kept.segment.exposure.trips == 1


def test_without_a_latch_the_wire_is_given_back_as_soon_as_it_is_proven_again() -> None:
    kept = Guards(guarded({"latch": False})).granted()
    old = kept.token
    kept.wires.vm(dead=True)
    kept.until(lambda: not kept.table.opens("wire"), LEASE_MS)
    kept.wait(1_000)
    assert kept.events("tripped") == ["tripped"]
    assert kept.events("decision") == []
    kept.wires.vm(dead=False)
    assert kept.until(lambda: kept.held is LeaseState.GRANTED) <= PROVEN_MS
    assert kept.messages() == ["withdraw wire", "grant wire"]
    assert kept.token != old
    assert kept.choice == "inspect"
    kept.wires.vm(dead=True)
    kept.until(lambda: kept.choice == "bypass", 5_000)
    assert kept.segment.exposure.trips == 2


def test_a_wire_that_fails_closed_is_cut() -> None:
    kept = Guards(guarded(on_failure={"fail": "closed"}))
    kept.adopting()
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    assert "fwd to" not in str(kept.table.rules)
    kept.wires.vm(dead=True)
    kept.until(lambda: kept.choice == "isolate", 400)
    assert kept.texts("tripped") == ["wire: cut by the guard, which has tripped: a lease of 200 ms ran out"]
    assert ports(kept) == {None}


def test_what_went_past_the_vm_is_told_when_it_has_the_wire_again() -> None:
    kept = Guards().granted()
    hold(kept)
    more(kept, 10)
    kept.wait(2_000)
    release(kept)
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    kept.turn()
    (told,) = kept.texts("inspected")
    assert "10 frames (740 bytes) went past the VM in 2." in told
    hold(kept)
    kept.wait(1_000)
    release(kept)
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    kept.turn()
    assert "0 frames (0 bytes)" in kept.texts("inspected")[1]


def passed(kept: Guards) -> int:
    """How many frames `status` tells of."""
    kept.core.see_paths(ask=True)
    frames = kept.books.counted("wire", kept.now)["passed"]["frames"]
    assert isinstance(frames, int)
    assert frames == sum(one.frames for one in rows(kept) if one.kind is EntryKind.BYPASSED)
    return frames


def rows(kept: Guards) -> list[Entry]:
    """The ledger, with what is known by now of the interval that goes on."""
    account = kept.books.accounts["wire"]
    return list((kept.rows | ({account.entry.id: account.entry} if account.entry else {})).values())


def told_of(kept: Guards) -> int:
    """How many frames the log has told of, in all its lines."""
    return sum(line["frames"] for line in kept.lines if "frames" in line)


def bypassed_with(kept: Guards, frames: int) -> None:
    """The VM has lost the wire, and so many frames go past it."""
    if kept.choice == "inspect":
        hold(kept)
        kept.wait(1_000)
    more(kept, frames)
    kept.wait(300)


def more(kept: Guards, frames: int) -> None:
    assert kept.table.carry("wire", frames)


def flushed(kept: Guards) -> None:
    kept.table.flush()
    kept.guarding.disturb()
    kept.turn(changed=True)


def off_and_on(kept: Guards) -> None:
    kept.guarding.switch(on=False)
    assert passed(kept) > 0, "while it is off, too"
    kept.wait(500)
    kept.guarding.switch(on=True)
    kept.turn(changed=True)


def other_file(kept: Guards) -> None:
    declare(kept, guarded({"lease": "400ms" if kept.of.segments["wire"].guard.lease_ms == 200 else "200ms"}))  # type: ignore[union-attr]


def no_guard_for_a_while(kept: Guards) -> None:
    declare(kept, guarded(**UNGUARDED))
    kept.wait(500)
    declare(kept, guarded())


def another_process(kept: Guards) -> None:
    kept.killed_and_started()


def another_process_after_a_flush(kept: Guards) -> None:
    kept.die()
    kept.table.flush()
    kept.killed_and_started()


ENDS = {
    "flush": [flushed],
    "flush while granted": [flushed],
    "twice": [flushed, flushed],
    "off and on": [off_and_on],
    "file": [other_file, other_file],
    "no guard": [no_guard_for_a_while],
    "process": [another_process, another_process],
    "process, flush": [another_process_after_a_flush],
    "all": [off_and_on, flushed, another_process, other_file, no_guard_for_a_while, another_process_after_a_flush],
}


@pytest.mark.parametrize("how", ENDS)
def test_whatever_becomes_of_the_table_nothing_that_was_counted_is_lost_or_invented(how: str) -> None:
    kept, total = Guards().granted(), 0
    for number, end in enumerate(ENDS[how]):
        bypassed_with(kept, 1_000 + number)
        total += 1_000 + number
        if "granted" in how:
            release(kept)
            kept.until(lambda: kept.held is LeaseState.GRANTED)
        end(kept)
        kept.wait(1_000)
        assert passed(kept) == total
        if kept.held is not LeaseState.GRANTED:
            more(kept, 7)
            total += 7
        assert passed(kept) == total
        kept.wait(300)
    release(kept)
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    kept.wait(300)
    assert passed(kept) == total
    if "process" not in how and how != "all":
        # What another process tells, it counts from when it began.
        assert told_of(kept) == total
    assert all(line["frames"] >= 0 for line in kept.lines if "frames" in line)
    assert kept.notes["segments"]["wire"]["total"] == [total, 60 * total]


def test_what_was_counted_until_a_moment_before_a_flush_is_not_lost() -> None:
    """Nobody can know what came after it was read last; and that was a tenth of a second ago."""
    kept = Guards().granted()
    hold(kept)
    kept.wait(1_000)
    kept.table.traffic = 1
    kept.wait(5_000)
    seen = next(iter(kept.table.passed.values()))[0]
    kept.table.traffic = 0
    flushed(kept)
    assert seen - 110 <= kept.notes["segments"]["wire"]["total"][0] <= seen
    assert passed(kept) == seen, "the NICs know"


def test_counters_that_cannot_be_read_are_no_reason_not_to_know() -> None:
    kept = Guards().granted()
    bypassed_with(kept, 1_000)
    kept.table.refuses = "No buffer space available"
    more(kept, 500)
    assert passed(kept) == 1_500, "the NICs know"
    _, told = kept.guarding.status(kept.guarding.path_guards(ask=True))
    assert [(one.code, one.text) for one in told if one.code == "guard-unable"] == [
        ("guard-unable", "it cannot do its work: No buffer space available")
    ]
    kept.table.refuses = ""
    kept.wait(300)
    assert passed(kept) == 1_500
    release(kept)
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    assert told_of(kept) == 1_500


def test_without_a_guard_its_time_does_not_go_on() -> None:
    kept = Guards().granted()
    bypassed_with(kept, 1_350)
    kept.guarding.switch(on=False)
    assert kept.segment.exposure.open_since is None
    kept.wait(60_000)
    kept.guarding.switch(on=True)
    kept.turn(changed=True)
    assert kept.segment.exposure.open_since is not None
    assert passed(kept) == 1_350


# --- another process -------------------------------------------------------------------------------------------------


def test_a_new_process_takes_over_what_it_finds() -> None:
    kept = Guards().granted()
    kept.wait(1_000)
    token, installed = kept.token, kept.table.installed
    kept.die()
    kept.sleep(20_000)
    assert kept.table.opens("wire"), "nobody needs to be alive for it"
    kept.killed_and_started()
    assert kept.held is LeaseState.GRANTED
    kept.wait(30_000)
    assert kept.table.opens("wire")
    assert kept.messages() == []
    assert (kept.token, kept.table.installed, kept.wires.spawned) == (token, installed, 1)
    assert kept.texts("guard") == ["the guard was found as it was left"]
    assert kept.events("tripped") == []


def test_one_with_another_file_replaces_the_rules_and_keeps_what_they_held() -> None:
    kept = Guards().granted()
    token, counted = kept.token, {"wire/port/outside": (5, 500)}
    kept.table.passed |= counted
    kept.of = guarded({"lease": "400ms"})
    kept.killed_and_started()
    assert kept.messages() == ["install"]
    assert kept.held is LeaseState.GRANTED
    assert kept.token == token
    assert passed(kept) == 5
    kept.wait(5_000)
    assert kept.table.opens("wire")
    assert kept.events("tripped") == []


@pytest.mark.parametrize("notes", [{}, "torn"])
def test_one_without_notes_too(notes: Any) -> None:
    kept = Guards().granted()
    token = kept.token
    kept.notes = {} if notes == {} else {**kept.notes, "fingerprint": None, "digest": "", "segments": {}}
    kept.killed_and_started()
    assert kept.messages() == ["install"]
    assert kept.held is LeaseState.GRANTED
    assert kept.token != token, "who knows what happened to its rules?"
    kept.wait(5_000)
    assert kept.table.opens("wire")
    assert kept.choice == "inspect"
    assert kept.wires.spawned == 1


def test_one_that_comes_after_the_grace_finds_it_tripped() -> None:
    kept = Guards(guarded({"grace": "10s"})).granted()
    kept.wait(1_000)
    kept.die()
    kept.sleep(12_000)
    assert not kept.table.opens("wire")
    kept.killed_and_started()
    assert kept.texts("tripped") != []
    assert kept.segment.exposure.trips == 1
    assert kept.choice == "bypass"
    assert kept.wires.spawned == 2
    kept.until(lambda: kept.held is LeaseState.GRANTED)


def test_nor_does_another_file_give_back_what_had_run_out() -> None:
    kept = Guards().granted()
    kept.die()
    kept.wires.vm(dead=True)
    kept.sleep(1_000)
    kept.wires.vm(dead=False)
    kept.sleep(1_000)
    kept.of = guarded({"lease": "400ms"})
    given: list[bool] = []
    kept.table.after_message = lambda _: given.append(kept.table.opens("wire"))
    kept.killed_and_started()
    assert kept.messages() == ["install", "withdraw wire", "link"]
    assert given == [False, False]
    assert kept.segment.exposure.trips == 1


def test_nor_do_other_rules_before_anybody_has_seen_it_run_out() -> None:
    kept = Guards().granted()
    kept.wires.vm(dead=True)
    kept.now += LEASE_MS + 10
    declare(kept, guarded({"lease": "400ms"}))
    assert not kept.table.opens("wire")
    assert kept.segment.exposure.trips == 1
    assert kept.messages() == ["withdraw wire", "install", "link"]


def test_one_that_cannot_look_at_the_network_leaves_the_prober_alone() -> None:
    kept = Guards().granted()
    kept.wait(1_000)
    kept.core = kept._new()
    observe = kept.kernel.observe
    looks = iter([1])
    kept.kernel.observe = lambda names=None: observe(names) if next(looks, None) else refuses()  # type: ignore[method-assign]
    kept.start()
    kept.wait(3_000)
    assert kept.guarding.state.bound == ()
    assert kept.table.opens("wire")
    kept.kernel.observe = observe  # type: ignore[method-assign]
    kept.wait(3_000)
    assert kept.held is LeaseState.GRANTED
    assert kept.messages() == []


def test_what_it_notes_outlives_it_and_trips_go_on_being_counted() -> None:
    kept = Guards().granted()
    kept.wires.vm(dead=True)
    kept.until(lambda: kept.choice == "bypass")
    kept.wait(1_000)
    assert json.loads(json.dumps(kept.notes)) == kept.notes
    kept.killed_and_started()
    assert kept.segment.exposure.trips == 1
    assert kept.messages() == ["withdraw wire", "link"]


def test_a_full_disk_does_not_stop_it() -> None:
    kept = Guards()
    kept.full = True
    kept.adopting()
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    assert any("cannot be kept" in text for text in kept.texts("guard"))


# --- adapters come and go --------------------------------------------------------------------------------------------


def test_adapters_that_come_back_as_others_are_trusted_when_they_are_proven() -> None:
    kept = Guards().granted()
    old = kept.token
    kept.wires.advance()
    for name in ("vif0", "vif1"):
        kept.kernel.remove(name)
        kept.kernel.add(name, up=True)
    kept.turn(changed=True)
    assert kept.held is LeaseState.NOTHING
    assert not kept.table.opens("wire")
    assert kept.table.tokens("wire") == set()
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    assert kept.token != old
    assert kept.wires.process is not None
    assert {(one.interface, one.index) for one in kept.wires.process.ears} == {
        (name, kept.kernel[name].index) for name in ("vif0", "vif1")
    }


def test_while_one_is_missing_no_probe_is_sent() -> None:
    kept = Guards().granted()
    kept.wires.advance()
    kept.kernel.remove("vif1")
    kept.turn(changed=True)
    assert not kept.table.opens("wire")
    kept.wait(1_000)
    assert kept.choice == "bypass"
    assert kept.wires.process is not None
    assert kept.wires.process.orders == {}
    kept.kernel.add("vif1", up=True)
    kept.turn(changed=True)
    kept.until(lambda: kept.held is LeaseState.GRANTED)


def test_what_the_old_ones_proved_is_no_proof_for_others_although_nothing_was_granted() -> None:
    kept = Guards().granted()
    hold(kept)
    kept.wait(1_000)
    old = kept.segment.token
    for name in ("vif0", "vif1"):
        kept.kernel.remove(name)
        kept.kernel.add(name, up=True)
    kept.turn(changed=True)
    assert kept.segment.token != old


# --- strangers -------------------------------------------------------------------------------------------------------


def sent(kept: Guards) -> set[str]:
    """What probes bear that are being sent."""
    assert kept.wires.process is not None
    return {one.template.frame[:6].hex(":") for one in kept.wires.process.orders.values() if not one.name.endswith("?")}


def no_install(what: str) -> None:
    if what == "install":
        raise HostError("Operation not supported")


def test_what_somebody_flushed_is_put_back_with_another_token() -> None:
    kept = Guards().granted()
    token = kept.token
    kept.table.flush()
    kept.guarding.disturb()
    kept.turn(changed=True)
    assert kept.messages() == ["install"]
    assert kept.held is LeaseState.GRANTED
    assert kept.token != token, "the old one may have been seen on the wire"
    assert kept.texts("guard")[-1].startswith("guard: it was put back: somebody had removed it; ")
    kept.wait(5_000)
    assert kept.table.opens("wire")
    assert kept.events("tripped") == []


def test_while_there_is_no_table_nothing_is_sent() -> None:
    kept = Guards().granted()
    old = kept.token
    kept.table.before_message = no_install
    kept.table.flush()
    kept.guarding.disturb()
    kept.turn(changed=True)
    assert sent(kept) == set()
    ears = kept.wires.process and kept.wires.process.ears
    kept.wait(30_000)
    assert sent(kept) == set()
    assert kept.wires.process
    assert kept.wires.process.ears == ears, "they need not be opened again"
    kept.wires.kill_prober()
    kept.wait(1_000)
    assert sent(kept) == set()
    kept.table.before_message = lambda _: None
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    assert sent(kept) == {kept.token} != {old}
    assert (kept.wires.spawned, kept.events("tripped")) == (2, [])


def test_a_vm_that_dies_lives_on_no_flush_after_another() -> None:
    kept = Guards().granted()
    kept.wires.vm(dead=True)
    for _ in range(20):
        kept.table.flush()
        kept.guarding.disturb()
        kept.turn(changed=True)
        kept.wait(90)
    assert kept.choice == "bypass"
    assert not kept.table.opens("wire")


@pytest.mark.parametrize("tampered", [True, False])
def test_rules_that_were_changed_are_put_right_with_another_token_and_others_of_ours_with_the_same(
    tampered: bool,
) -> None:
    kept = Guards().granted()
    token = kept.token
    if tampered:
        kept.table.tamper()
    declare(kept, guarded({"lease": "400ms"}))
    assert kept.held is LeaseState.GRANTED
    assert (kept.token != token) is tampered
    assert sent(kept) == {kept.token}
    kept.wait(5_000)
    assert kept.table.opens("wire")
    assert kept.events("tripped") == []


def test_off_and_on_again_its_token_is_another() -> None:
    kept = Guards().granted()
    seen = [kept.token]
    kept.guarding.switch(on=False)
    kept.guarding.switch(on=True)
    kept.turn(changed=True)
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    seen.append(kept.token)
    declare(kept, guarded(**UNGUARDED))
    declare(kept, guarded())
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    assert len({*seen, kept.token}) == 3


def test_without_news_of_it_that_is_seen_when_a_lease_is_looked_at() -> None:
    kept = Guards().granted()
    kept.table.flush()
    kept.wait(200)
    assert kept.table.installed == 2
    assert kept.held is LeaseState.GRANTED
    assert kept.table.opens("wire")
    assert len(kept.texts("guard")) == 2, "told once that it is gone, and once that it is back"


def test_in_bypass_it_is_put_back_tripped() -> None:
    kept = Guards().granted()
    hold(kept)
    kept.wait(1_000)
    kept.table.flush()
    kept.guarding.disturb()
    kept.turn(changed=True)
    assert kept.held is LeaseState.NOTHING
    assert not kept.table.opens("wire")


def test_a_failure_while_the_table_is_gone_is_no_consent_later() -> None:
    kept = Guards(guarded(signals={"carrier": {"kind": "carrier"}})).granted()
    token = kept.token
    kept.table.flush()
    kept.power(on=False)
    kept.turn(changed=True)
    assert ports(kept) == BYPASSED
    kept.wait(1_000)
    assert kept.table.rules is not None
    assert kept.table.tokens("wire") == set()
    assert not kept.table.opens("wire")
    assert kept.segment.token != token


def test_rules_of_somebody_elses_are_put_right() -> None:
    kept = Guards().granted()
    kept.table.tamper()
    kept.guarding.disturb()
    kept.turn(changed=True)
    assert "stranger" not in str(kept.table.rules)
    assert kept.texts("guard")[-1].startswith("guard: it was put right: somebody had changed it; ")
    kept.wait(1_000)
    assert kept.table.opens("wire")


# --- in the background -----------------------------------------------------------------------------------------------


def test_a_prober_that_is_slow_to_be_started_keeps_nobody_waiting_and_is_asked_for_once() -> None:
    kept = Guards().granted()
    later = Later(kept)
    kept.wires.process = None
    kept.wait(5_000)
    assert (len(later.works), kept.wires.spawned) == (1, 1)
    assert kept.choice == "bypass"
    later.come_back()
    kept.until(lambda: kept.choice == "inspect", 30_000)
    assert kept.wires.spawned == 2


def test_a_prober_that_is_still_being_started_is_not_started_twice() -> None:
    kept = Guards().granted()
    later = Later(kept)
    kept.wires.process = None
    kept.wait(60_000)
    later.come_back()
    assert kept.wires.spawned == 2
    (line,) = kept.texts("prober")
    assert "one is still being started: its disk does not answer" in line


def test_a_prober_that_is_not_wanted_any_more_ends_as_soon_as_it_has_begun() -> None:
    kept = Guards().granted()
    later = Later(kept)
    kept.wires.process = None
    kept.until(lambda: bool(later.works), 5_000)
    kept.guarding.switch(on=False)
    later.come_back()
    assert kept.wires.spawned == 2
    assert kept.table.rules is kept.wires.process is None


def test_a_table_that_takes_long_to_be_taken_away_keeps_nobody_waiting() -> None:
    kept = Guards().granted()
    later = Later(kept)
    kept.guarding.switch(on=False)
    kept.wait(1_000)
    assert kept.table.rules is not None
    assert kept.table.opens("wire"), "no probes are sent any more, and the wire does not wait for them"
    hold(kept)
    kept.wait(1_000)
    assert ports(kept) == BYPASSED
    later.come_back()
    kept.guarding.check(on=False)
    assert kept.table.rules is None
    assert kept.texts("guard")[-1] == "the guard was taken away: as asked"


def test_one_that_could_not_be_taken_away_then_is_kept_and_who_asked_is_told() -> None:
    kept = Guards().granted()
    later = Later(kept)
    kept.guarding.switch(on=False)
    kept.table.refuses = "nftables: Operation not permitted"
    later.come_back()
    with pytest.raises(HostError, match=r"could not be taken away: .*Operation not permitted"):
        kept.guarding.check(on=False)
    assert kept.guarding.on


# --- off, and on again -----------------------------------------------------------------------------------------------


def test_taken_away_it_leaves_no_trace_and_stays_so() -> None:
    kept = Guards().granted()
    kept.guarding.switch(on=False)
    assert kept.messages() == ["stand aside wire", "remove"]
    assert kept.table.rules is kept.wires.process is None
    kept.wait(12_000)
    kept.killed_and_started()
    kept.wait(12_000)
    assert kept.table.rules is kept.wires.process is None
    assert not kept.guarding.on
    assert kept.choice == "inspect"
    hold(kept)
    kept.wait(1_000)
    assert ports(kept) == BYPASSED
    release(kept)
    kept.wait(1_000)
    kept.guarding.switch(on=True)
    kept.turn(changed=True)
    assert kept.held is LeaseState.ADOPTING
    kept.until(lambda: kept.held is LeaseState.GRANTED, PROVEN_MS)
    assert kept.messages() == ["stand aside wire", "remove", "link", "install", "grant wire"]


SILENT = {"before": "absent", "after": "failed"}
TOO_OLD_MS = 2_000
"""Of what the canary told, in a file that says nothing else."""


def canary(kept: Guards) -> HealthState:
    (found,) = (one for (name, _), one in kept.core.state.tracks.items() if name in ("path", "canary"))
    return found.believed


@pytest.mark.parametrize("silence", ["absent", "failed"])
def test_without_the_guard_the_canary_says_nothing_and_the_file_says_what_that_is_worth(silence: str) -> None:
    kept = Guards(guarded(signals={"path": {"kind": "canary", "absent": {"after": silence}}})).granted()
    kept.wait(30_000)
    assert canary(kept) is HealthState.HEALTHY
    kept.turn(*kept.guarding.switch(on=False))
    kept.wires.vm(dead=True)
    assert canary(kept) is (HealthState.ABSENT if silence == "absent" else HealthState.FAILED)
    assert kept.choice == ("inspect" if silence == "absent" else "bypass")
    (track,) = kept.core.state.tracks.values()
    assert "the guard is off: no probes are sent" in str(track)
    kept.wait(30_000)
    assert canary(kept) is not HealthState.HEALTHY
    kept.killed_and_started()
    kept.wait(30_000)
    assert not kept.core.state.tracks or canary(kept) is not HealthState.HEALTHY


@pytest.mark.parametrize("why", ["prober", "hangs", "slow", "table"])
def test_nor_does_it_say_anything_while_nobody_tells_of_probes(why: str) -> None:
    kept = Guards().granted()
    kept.wires.start_ms = 10_000_000
    if why == "prober":
        kept.prober.refuses = "cannot start the probe sender"
    if why in ("prober", "slow"):
        kept.wires.kill_prober()
    elif why == "hangs":
        assert kept.wires.process
        kept.wires.process.hung = True
    else:
        kept.table.before_message = no_install
        kept.table.flush()
        kept.guarding.disturb()
        kept.turn(changed=True)
    kept.wait(TOO_OLD_MS + 500)
    assert canary(kept) is HealthState.ABSENT
    kept.wait(60_000)
    assert canary(kept) is HealthState.ABSENT


def strict() -> Guards:
    """Where silence is a failure, so that a moment too much of it costs a healthy VM the wire."""
    return Guards(guarded({"lease": "5s"}, signals={"path": {"kind": "canary", "absent": SILENT}})).granted()


@pytest.mark.parametrize("what", ["daemon", "prober", "flush", "reload", "file", "stall", "switch"])
def test_what_is_over_within_a_moment_costs_a_healthy_vm_nothing(what: str) -> None:
    kept = strict()
    kept.wait(5_000)
    if what == "daemon":
        kept.killed_and_started()
    elif what == "prober":
        kept.wires.start_ms = 700
        kept.wires.kill_prober()
    elif what == "flush":
        kept.table.flush()
        kept.guarding.disturb()
        kept.turn(changed=True)
    elif what == "reload":
        declare(kept, guarded({"lease": "6s"}, signals={"path": {"kind": "canary", "absent": SILENT}}))
    elif what == "file":
        kept.guarding.forget()
    elif what == "stall":
        # The prober has gone on, and what it told is heard first.
        kept.now += 4_000
    else:
        kept.turn(HoldPlaced(Hold("inspect", "alice", "tests", kept.now + 60_000)))
    kept.wait(10_000)
    assert kept.choice == "inspect"
    assert kept.held is LeaseState.GRANTED
    assert canary(kept) is HealthState.HEALTHY
    assert kept.events("tripped", "switched") == []


def test_what_cannot_be_taken_away_is_not_off() -> None:
    kept = Guards().granted()
    kept.table.refuses = "Operation not permitted"
    with pytest.raises(HostError, match="not permitted"):
        kept.guarding.switch(on=False)
    kept.table.refuses = ""
    kept.guarding.switch(on=False)
    assert kept.table.rules is None


# --- reading the file again -------------------------------------------------------------------------------------------


UNGUARDED: dict[str, Any] = {"segments": {"wire": {"ports": ["outside", "inside"], "guard": "off"}}}


def declare(kept: Guards, of: Appliance) -> None:
    kept.of = of
    kept.wires.advance()
    kept.core.declare(of)


def test_a_file_without_a_guard_takes_it_away_and_one_with_it_sets_it() -> None:
    kept = Guards().granted()
    declare(kept, guarded(**UNGUARDED))
    assert kept.table.rules is kept.wires.process is None
    kept.wait(1_000)
    assert kept.choice == "inspect"
    declare(kept, guarded())
    assert kept.held is LeaseState.ADOPTING
    kept.until(lambda: kept.held is LeaseState.GRANTED, PROVEN_MS)
    assert kept.messages() == ["stand aside wire", "remove", "install", "grant wire"]


def test_what_cannot_be_taken_away_then_is_told() -> None:
    kept = Guards().granted()
    kept.table.refuses = "Operation not permitted"
    declare(kept, guarded(**UNGUARDED))
    assert any("Operation not permitted" in text for text in kept.texts("guard"))


def test_other_rules_hold_what_the_old_ones_held() -> None:
    kept = Guards().granted()
    token = kept.token
    declare(kept, guarded({"lease": "400ms", "probe": "50ms"}))
    assert kept.messages() == ["install"]
    assert (kept.held, kept.token) == (LeaseState.GRANTED, token)
    kept.wait(5_000)
    assert kept.table.opens("wire")
    assert kept.events("tripped") == []
    assert kept.wires.process is not None
    assert {one.every_us for one in kept.wires.process.orders.values()} == {50_000}


def test_what_is_no_part_of_the_rules_changes_without_them() -> None:
    kept = Guards(guarded({"drain": "0s"})).granted()
    declare(kept, guarded({"drain": "300ms", "grace": "1m"}))
    assert kept.messages() == []
    hold(kept)
    assert kept.messages() == ["drain wire"]
    assert kept.table.has("wire/drain")
    kept.wait(290)
    assert kept.table.has("wire/drain")


# --- a lease by the daemon -------------------------------------------------------------------------------------------

BY_DAEMON = {"lease": "1s", "lease_by": "daemon"}


def by_daemon() -> Guards:
    kept = Guards(guarded(BY_DAEMON, signals={"beat": {**BEAT, "absent": {"before": "failed", "after": "failed"}}}))
    kept.start()
    for _ in range(30):
        kept.wait(500)
        kept.turn(beat())
    assert kept.held is LeaseState.GRANTED
    kept.forget()
    return kept


def test_the_daemon_renews_on_its_verdict() -> None:
    kept = by_daemon()
    assert kept.wires.process is not None
    assert kept.wires.process.orders == {}
    for _ in range(20):
        kept.wait(500)
        kept.turn(beat())
        assert kept.table.opens("wire")
    assert set(kept.messages()) == {"renew wire"}
    kept.forget()
    kept.turn(beat(HealthState.FAILED), beat(HealthState.FAILED))
    assert kept.messages() == ["withdraw wire", "link"]
    kept.wait(5_000)
    assert kept.messages() == ["withdraw wire", "link"]


def test_dead_it_renews_nothing() -> None:
    kept = by_daemon()
    kept.die()
    kept.sleep(1_001)
    assert not kept.table.opens("wire")
    kept.killed_and_started()
    assert kept.segment.exposure.trips == 1
    assert kept.texts("tripped") != []


def test_a_table_that_is_gone_is_no_reason_to_hurry() -> None:
    kept = by_daemon()
    kept.table.refuses = "No buffer space available"
    kept.wait(3_000)
    assert len([one for one in kept.texts("guard") if "No buffer space" in one]) == 1


# --- the prober ------------------------------------------------------------------------------------------------------


def test_a_prober_that_dies_is_replaced_and_the_lease_stands() -> None:
    kept = Guards().granted()
    token = kept.token
    kept.wires.kill_prober()
    kept.wait(1_000)
    assert kept.wires.spawned == 2
    assert (kept.held, kept.token) == (LeaseState.GRANTED, token)
    assert kept.events("tripped", "decision") == []
    kept.wait(5_000)
    assert kept.table.opens("wire")


def test_one_that_takes_long_to_come_up_is_waited_for() -> None:
    kept = Guards()
    kept.wires.start_ms = 1_600
    kept.adopting()
    kept.until(lambda: kept.held is LeaseState.GRANTED, 2_000)
    kept.wait(5_000)
    assert kept.wires.spawned == 1
    assert kept.texts("prober") == []


def pauses(kept: Guards) -> list[int]:
    times = kept.wires.spawned_at
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_one_that_never_comes_up_is_ended_after_ten_seconds_and_tried_again_ever_more_seldom() -> None:
    kept = Guards()
    kept.wires.start_ms = 1_000_000
    kept.adopting()
    kept.wait(300_000)
    assert all(10_000 <= one < 10_030 for one in pauses(kept)[:3])
    assert 16_000 <= pauses(kept)[3] < 16_020
    assert all(30_000 <= one < 30_020 for one in pauses(kept)[4:])
    assert kept.texts("prober")[0] == "guard: the prober has told nothing for 10 s: another one is started"
    kept.wires.start_ms = 0
    kept.until(lambda: kept.held is LeaseState.GRANTED)


def test_one_that_ends_again_and_again_is_started_ever_more_seldom() -> None:
    kept = Guards().granted()
    kept.wait(20_000)
    kept.wires.spawned_at.clear()
    for _ in range(20_000):
        kept.wires.kill_prober()
        kept.wait(10)
    assert [round(one, -2) for one in pauses(kept)[:6]] == [2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    kept.wait(10_000)
    # Whoever goes on for long has begun again.
    kept.wires.kill_prober()
    kept.wires.spawned_at.clear()
    kept.wait(20)
    assert len(kept.wires.spawned_at) == 1
    kept.wires.kill_prober()
    kept.wait(2_020)
    assert len(kept.wires.spawned_at) == 2


@pytest.mark.parametrize("whose", ["ours", "a predecessor's"])
def test_one_that_hangs_is_replaced_as_soon_as_it_is_gone(whose: str) -> None:
    kept = Guards().granted()
    kept.wait(10_000)
    if whose != "ours":
        kept.die()
    assert kept.wires.process is not None
    kept.wires.process.hung = True
    kept.wires.end_ms = 300
    if whose != "ours":
        kept.killed_and_started()
    spawned = kept.wires.spawned
    took = kept.until(lambda: kept.wires.spawned > spawned, 5_000)
    assert 1_200 <= took <= 3_100
    assert kept.texts("prober") == ["guard: the prober hangs: another one is started"]
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    kept.wait(10_000)
    assert kept.wires.spawned == spawned + 1


def test_one_that_a_predecessor_was_about_to_start_is_no_other_beside_ours() -> None:
    """It has no orders, and never gets any."""
    kept = Guards()
    kept.wires.start_ms = 500
    kept.adopting()
    kept.wait(100)
    first = kept.wires.process
    assert first is not None
    kept.die()
    kept.killed_and_started()
    kept.until(lambda: kept.held is LeaseState.GRANTED, 3_000)
    assert first is not kept.wires.process
    assert first.orders == {}
    assert kept.wires.spawned == 2


def test_the_guard_that_is_set_again_waits_for_no_pause() -> None:
    kept = Guards().granted()
    for _ in range(1_000):
        kept.wires.kill_prober()
        kept.wait(10)
    spawned = kept.wires.spawned
    kept.guarding.switch(on=False)
    kept.guarding.switch(on=True)
    kept.turn(changed=True)
    kept.until(lambda: kept.wires.spawned > spawned, 50)


def test_one_that_cannot_be_started_is_told_once_and_tried_again() -> None:
    kept = Guards().granted()
    kept.prober.refuses = "cannot start the probe sender"
    kept.wires.kill_prober()
    kept.wait(5_000)
    assert kept.texts("prober") == [
        "guard: no probes are sent: cannot start the probe sender; it is tried again and again"
    ]
    assert not kept.table.opens("wire")
    kept.prober.refuses = ""
    kept.until(lambda: kept.held is LeaseState.GRANTED)


def test_an_adapter_that_nobody_can_listen_at_costs_the_others_nothing() -> None:
    kept = Guards().granted()

    def ear(interface: str, _: bytes) -> Ear:
        raise HostError(f"cannot listen at {interface}")

    kept.guarding._listener = ear
    kept.wires.advance()
    kept.kernel.remove("vif1")
    kept.kernel.add("vif1", up=True)
    kept.turn(changed=True)
    kept.wait(60_000)
    assert kept.wires.process is not None
    assert kept.wires.spawned == 1
    assert kept.texts("prober") == ["guard: no probes are sent: cannot listen at vif1; it is tried again and again"]
    kept.guarding._listener = kept.wires.ear
    kept.until(lambda: kept.held is LeaseState.GRANTED)


# --- a kernel that refuses -------------------------------------------------------------------------------------------


def test_a_table_that_cannot_be_set_is_told_once_tried_again_and_stops_no_switch() -> None:
    kept = Guards()
    kept.table.refuses = "libnftables is not installed"
    kept.adopting()
    assert kept.texts("guard") == [
        "guard: it cannot do its work: libnftables is not installed; it is tried again and again"
    ]
    assert kept.guarding.state.table.trouble == "libnftables is not installed"
    kept.wait(1_000)
    hold(kept)
    assert ports(kept) == BYPASSED
    release(kept)
    assert ports(kept) == INSPECTED
    assert len(kept.texts("guard")) == 1
    kept.table.refuses = ""
    kept.until(lambda: kept.held is LeaseState.GRANTED, 12_000)
    assert kept.guarding.state.table.trouble == ""


def test_while_the_table_cannot_be_read_the_prober_goes_on() -> None:
    kept = Guards(guarded({"grace": "5s"})).granted()
    kept.table.refuses = "No buffer space available"
    kept.wait(20_000)
    kept.table.refuses = ""
    kept.wait(11_000)
    assert kept.wires.spawned == 1
    assert kept.held is LeaseState.GRANTED
    assert kept.table.opens("wire")
    assert kept.events("tripped") == []


def test_a_refused_withdrawal_stops_no_switch_and_is_made_good() -> None:
    kept = Guards(guarded(signals={"carrier": {"kind": "carrier"}})).granted()
    token, refused = kept.token, []

    def refuse(what: str) -> None:
        if what == "withdraw wire":
            refused.append(what)
            raise HostError("No buffer space available")

    kept.table.before_message = refuse
    kept.power(on=False)
    kept.turn(changed=True)
    assert refused
    assert ports(kept) == BYPASSED
    assert kept.table.tokens("wire") == set()
    assert not kept.table.opens("wire")
    assert kept.segment.token != token


def test_a_refused_grant_is_tried_again() -> None:
    kept = Guards()
    refused = []

    def refuse(what: str) -> None:
        if what == "grant wire" and len(refused) < 3:
            refused.append(what)
            raise HostError("No buffer space available")

    kept.table.before_message = refuse
    kept.adopting()
    kept.until(lambda: kept.held is LeaseState.GRANTED, 2_000)
    assert len(refused) == 3
    assert kept.table.opens("wire")
