"""What the daemon knows, as a value, and as people read it."""

import errno
import json
from typing import Any

import pytest
from guards import Guards, guarded
from keeping import BEAT, PROGRAMS, Kept, beat, watched

from reconciler.cli.status_text import _headline, exit_status, reasons, shown, span
from reconciler.console import Said
from reconciler.daemon.status import FORMAT, status
from reconciler.errors import TransientError
from reconciler.guard.table import LeaseState
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import Ending, Hold, HoldPlaced, RestartEnded
from reconciler.network.state import Setting
from reconciler.warning import Severity, Warning


def told(kept: Kept) -> Any:
    """As whoever asks gets it."""
    return json.loads(json.dumps(status(kept.core)))


def told_guarded(kept: Guards) -> Any:
    guard, warnings = kept.guarding.status()
    return json.loads(json.dumps({**status(kept.core, warnings), "guard": guard}))


def text(lines: Any) -> str:
    made = list(lines)
    assert all(
        isinstance(line, Said) and line.text.replace("\x1b", "").replace("\n", "").isprintable() for line in made
    )
    import click

    return "\n".join(click.unstyle(line.text) for line in made)


def test_a_well_appliance() -> None:
    kept = Kept().inspected()
    found = told(kept)
    assert found["format"] == FORMAT
    assert (found["sku"], found["choice"]) == ("two", {"wire": "inspect"})
    (segment,) = found["segments"]
    assert (segment["topology"], segment["course"], segment["verdict"], segment["hold"]) == (
        "inspect",
        "inspect",
        "healthy",
        None,
    )
    assert segment["why"] == ["wire (wire) healthy: carrier on vif0, vif1"]
    assert found["network"] == {
        "converged": True,
        "changes": 0,
        "repaired": 0,
    }
    assert found["warnings"] == []
    (signal,) = found["signals"]
    assert (signal["name"], signal["kind"], signal["segment"], signal["state"]) == (
        "wire",
        "carrier",
        "wire",
        "healthy",
    )
    assert text(shown(found)).startswith("two: inspected; the network is as wanted\nwire: inspect for")


def test_what_others_have_to_warn_of_stands_with_the_rest_the_worst_first() -> None:
    kept = Kept().inspected()
    kept.kernel.bridge_netfilter = ("bridge-nf-call-iptables",)
    kept.turn(changed=True)
    lost = Warning("x", Severity.ERROR, "log \x1b", "2 lines were lost")
    found = json.loads(json.dumps(status(kept.core, [lost])))
    assert [one["code"] for one in found["warnings"]] == ["x", "bridge-netfilter"]
    assert "\n  error: log \\x1b: 2 lines were lost\n  warning: br_netfilter is on: " in text(shown(found))


def test_what_was_never_heard_is_unknown_and_said_to_be() -> None:
    kept = Kept(watched(signals={"beat": BEAT})).start()
    found = told(kept)
    assert found["segments"][0]["verdict"] == "unknown"
    assert found["signals"][0]["observed_ms"] is None
    assert "nothing reported yet" in text(shown(found))


def test_a_failure_with_the_reasons_the_hold_down_and_the_restarts_to_come() -> None:
    kept = Kept(watched(vm=PROGRAMS)).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    found = told(kept)
    assert found["segments"][0]["verdict"] == "failed"
    assert found["vm"] == {
        "phase": "settling",
        "since_ms": 0,
        "attempts": 0,
        "attempts_declared": 4,
        "unreached": 0,
        "due_ms": 1_000,
    }
    kept.wait(1_001)
    assert "VM: restarting for 1 ms, restart 1 of 4, 9 min 59 s left" in text(shown(told(kept)))
    kept.turn(RestartEnded(kept.restarts[-1].asked_ms, Ending.UNREACHED, "no answer"))
    assert told(kept)["vm"]["unreached"] == 1
    shape = text(shown(told(kept)))
    assert "VM: waiting for 0 ms, 1 s left" in shape
    assert "  error: VM: nobody can be asked to restart it: no answer; it is asked again and again" in shape
    kept.power(on=True)
    kept.turn(changed=True)
    found = told(kept)
    assert found["segments"][0]["hold_down_left_ms"] == found["segments"][0]["hold_down_ms"] == 20_000
    assert "back to inspect in 20 s" in text(shown(found))
    why = text(reasons(found, all_of_them=True))
    assert "wire: inspect → bypass" in why
    assert "wire (wire) failed: vif0 has no carrier; vif1 has no carrier" in why


def test_only_the_latest_decisions_unless_all_are_asked_for() -> None:
    kept = Kept().inspected()
    for number in range(20):
        kept.turn(HoldPlaced(Hold("bypass", "root", f"test {number}", kept.now + 60_000)))
    found = told(kept)
    few, many = (text(reasons(found, all_of_them=every)).count(" ago  ") for every in (False, True))
    assert (few, many) == (8, len(found["decisions"]))
    assert many > 20


def test_a_hold() -> None:
    kept = Kept().inspected()
    kept.turn(HoldPlaced(Hold("bypass", "\x1b[8mmallory", "why \u202e not", kept.now + 90_000)))
    assert "held on bypass by \\x1b[8mmallory for 1 min 30 s more: why \\u202e not" in text(shown(told(kept)))


def test_a_problem_and_a_fight_and_that_the_network_is_not_as_wanted() -> None:
    kept = Kept().inspected()
    for _ in range(6):
        kept.kernel["eth0"].settings[Setting.MTU] = 1400
        kept.turn(changed=True)
    kept.kernel.remove("eth1")
    kept.turn(changed=True)
    found = told(kept)
    assert found["network"]["converged"] is False
    shape = text(shown(found))
    assert "two: wire is cut; the network is not as wanted\nwire: cut; wanted: inspect for " in shape
    assert "  error: port inside: no interface matches name eth1; this machine has:\n      eth0: " in shape
    assert "  warning: eth0: somebody keeps changing back its mtu; it is repaired ever more seldom; tell " in shape
    assert [(one["code"], one["severity"], one["about"]) for one in found["warnings"]] == [
        ("port-missing", "error", "port inside"),
        ("conflict", "warning", "eth0"),
    ]


def test_degraded_is_told_and_no_reason_to_bypass() -> None:
    kept = Kept(watched(signals={"beat": BEAT})).inspected_by_seconds()
    kept.now += 1_000
    kept.turn(beat(HealthState.DEGRADED, "drops \x1b grow"))
    found = told(kept)
    assert kept.choice == "inspect"
    assert [(one["code"], one["about"], one["text"]) for one in found["warnings"]] == [
        ("degraded", "signal beat", "degraded: drops ? grow")
    ]
    assert found["signals"][0]["state"] == "degraded"


def test_before_anything_was_found_it_can_be_asked_as_well() -> None:
    kept = Kept().start()
    kept.core.found = None
    assert told(kept)["network"]["converged"] is False


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (59_999, "59 s"),
        (60_000, "1 min"),
        (61_000, "1 min 1 s"),
        (3_600_000, "1 h"),
        (3_660_000, "1 h 1 min"),
        (86_400_000 * 30 + 3_600_000, "30 d 1 h"),
    ],
)
def test_spans(milliseconds: int, expected: str) -> None:
    assert span(milliseconds) == expected


# --- where frames go, and what `status` ends with --------------------------------------------------------------------

ISOLATE = {"isolate": {"pair": "all", "detached": ["outside", "inside"]}}
TOPOLOGIES = {"inspect": {"pair": "all"}, "bypass": {"join": "all"}, **ISOLATE}
# A canary that has no say: the guard trips, and nothing is decided.
HARMLESS = {"canary": {"kind": "canary", "required": False}}


def seen(kept: Guards) -> tuple[int, str]:
    """The exit status and the first line of `reconcile status`."""
    found = told_guarded(kept)
    (first, *_) = text(shown(found)).splitlines()
    return exit_status(found), first.removeprefix("two: ")


def hang(kept: Guards) -> None:
    kept.wires.vm(dead=True)
    kept.wait(1_000)


def hold(kept: Guards, topology: str) -> None:
    kept.turn(HoldPlaced(Hold(topology, "alice", "a test", kept.now + 3_600_000)))
    kept.wait(1_000)


WANTED = "the network is as wanted"
BY_GUARD = f"wire is bypassed by the guard; {WANTED}"


def test_inspected() -> None:
    assert seen(Guards().granted()) == (0, f"inspected; {WANTED}")


def test_the_guard_has_joined_the_wire_and_nothing_is_decided() -> None:
    """What is wanted is inspect, the network is as wanted, and the verdict healthy: that is not what frames do."""
    kept = Guards(guarded(signals=HARMLESS)).granted()
    hang(kept)
    assert kept.choice == "inspect"
    assert kept.core.converged
    assert seen(kept) == (4, BY_GUARD)
    assert "\nwire: bypassed by the guard; wanted: inspect for " in text(shown(told_guarded(kept)))


def test_the_guard_has_cut_the_wire_and_nothing_is_decided() -> None:
    kept = Guards(guarded(signals=HARMLESS, on_failure={"fail": "closed"})).granted()
    hang(kept)
    assert seen(kept) == (5, f"wire is cut by the guard; {WANTED}")


def test_held_on_inspect_with_a_hung_vm_the_guard_has_the_wire() -> None:
    kept = Guards().granted()
    hold(kept, "inspect")
    hang(kept)
    assert kept.choice == "inspect"
    assert seen(kept) == (4, BY_GUARD)


def test_bypassed_by_a_failure() -> None:
    kept = Guards().granted()
    hang(kept)
    assert kept.choice == "bypass"
    assert seen(kept)[0] == 4


def test_held_on_bypass_and_on_isolate() -> None:
    kept = Guards(guarded(topologies=TOPOLOGIES)).granted()
    hold(kept, "bypass")
    assert seen(kept) == (4, BY_GUARD)
    hold(kept, "isolate")
    assert seen(kept) == (5, f"wire is cut; {WANTED}")


def test_in_a_topology_of_its_own_meaning_the_switches_tell() -> None:
    mirror = {"switches": {"sw-m": {"ports": ["outside", "inside"], "adapters": ["outside"]}}}
    kept = Guards(guarded(topologies={**TOPOLOGIES, "mirror": mirror})).granted()
    hold(kept, "mirror")
    assert seen(kept) == (4, f"wire is bypassed; {WANTED}")
    assert "\nwire: mirror for " in text(shown(told_guarded(kept)))


def test_without_the_guard_that_is_declared_it_is_not_as_declared() -> None:
    kept = Guards().granted()
    kept.guarding.switch(on=False)
    kept.turn(changed=True)
    assert seen(kept) == (3, f"inspected; the guard is off; {WANTED}")
    hold(kept, "bypass")
    assert seen(kept) == (4, f"wire is bypassed; the guard is off; {WANTED}")


def test_what_somebody_flushed_is_not_there_until_it_is_put_back() -> None:
    kept = Guards().granted()
    kept.table.flush()
    assert seen(kept) == (3, f"inspected; the guard is not set; {WANTED}")
    kept.wait(20_000)
    assert seen(kept) == (0, f"inspected; {WANTED}")


def test_a_table_that_cannot_be_read_is_unknown_and_what_is_bypassed_is_so_all_the_same() -> None:
    kept = Guards().granted()
    kept.table.refuses = "EPERM"
    assert seen(kept) == (1, f"it is unknown whether wire is inspected; the guard is in trouble; {WANTED}")
    kept.table.refuses = ""
    hold(kept, "bypass")
    kept.table.refuses = "EPERM"
    assert seen(kept)[0] == 4


def test_a_vm_that_has_failed_inspects_nothing_although_frames_cross_it() -> None:
    web = {"kind": "http", "url": "http://192.0.2.1/", "fall": 1}
    kept = Guards(guarded(signals={"web": web})).adopting()
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    hold(kept, "inspect")
    assert seen(kept)[0] == 0
    kept.turn(Reading("web", HealthState.FAILED, "suricata is dead"))
    assert seen(kept) == (1, f"it is unknown whether wire is inspected; {WANTED}")


def test_a_network_that_is_not_as_wanted() -> None:
    kept = Guards().granted()
    first = len(kept.kernel.log)
    kept.kernel.fail_at = dict.fromkeys(range(first, first + 99), errno.EBUSY)
    kept.kernel["eth0"].settings[Setting.MTU] = 1400
    kept.turn(changed=True)
    assert seen(kept) == (3, "inspected; the network is not as wanted")


def unreadable(*_: Any) -> Any:
    raise TransientError("interrupted")


def test_a_network_that_cannot_be_read_and_what_the_guard_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Guards().granted()
    monkeypatch.setattr(kept.kernel, "observe", unreadable)
    kept.turn(changed=True)
    assert seen(kept)[0] == 1
    kept.wires.vm(dead=True)
    kept.wait(1_000)
    assert seen(kept) == (4, "wire is bypassed by the guard; the network is not as wanted")


def told_segments(*paths: tuple[str, str]) -> Any:
    """A status of so many segments, of which nothing else is told."""
    segments = [{"name": f"s{number}", "path": path, "path_by": by} for number, (path, by) in enumerate(paths)]
    return {"sku": "x", "segments": segments, "network": {"converged": True}, "guard": None, "warnings": []}


@pytest.mark.parametrize(
    ("paths", "expected", "first"),
    [
        ([("inspected", "switches")] * 2, 0, "inspected"),
        ([("inspected", "switches"), ("bypassed", "guard")], 4, "s1 is bypassed by the guard"),
        (
            [("bypassed", "switches"), ("unknown", "switches"), ("cut", "guard"), ("bypassed", "guard")],
            5,
            "s2 is cut by the guard; s3 is bypassed by the guard; s0 is bypassed; it is unknown whether s1 is inspected",
        ),
        ([("unknown", "switches"), ("inspected", "switches")], 1, "it is unknown whether s0 is inspected"),
        ([("bypassed", "switches")] * 6, 4, "s0, s1, s2, s3 and 2 more are bypassed"),
    ],
)
def test_of_several_segments_the_worst_comes_first(paths: list[tuple[str, str]], expected: int, first: str) -> None:
    found = told_segments(*paths)
    assert exit_status(found) == expected
    assert text([Said("; ".join(_headline(found)))]) == f"{first}; {WANTED}"
    found["network"]["converged"] = False
    assert exit_status(found) == (expected or 3)
