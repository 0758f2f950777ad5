"""What the daemon knows, as a value, and as people read it."""

import errno
import json
import re
from typing import Any

import click
import pytest
from guards import Guards, guarded
from keeping import BEAT, PROGRAMS, TWO_WIRES, Kept, beat, watched

from reconciler.cli import status_text
from reconciler.cli.status_text import exit_status, of_segment, short
from reconciler.cli.words import span
from reconciler.console import Said
from reconciler.daemon.status import FORMAT, status
from reconciler.errors import TransientError
from reconciler.guard.table import LeaseState
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import Ending, Hold, HoldPlaced, Phase, RestartEnded
from reconciler.network.state import Setting
from reconciler.warning import Severity, Warning


def told(kept: Kept) -> Any:
    """As whoever asks gets it."""
    return json.loads(json.dumps(status(kept.core, kept.core.see_paths(ask=True))))


def told_guarded(kept: Guards) -> Any:
    taken = kept.core.see_paths(ask=True)
    guard, warnings = kept.guarding.status(kept.core.paths.guards)
    return json.loads(json.dumps({**status(kept.core, taken, warnings), "guard": guard}))


def text(lines: Any) -> str:
    made = list(lines)
    assert all(isinstance(line, Said) and line.text.replace("\x1b", "").isprintable() for line in made)
    return "\n".join(click.unstyle(line.text) for line in made)


# Wide enough for anything.
WIDE = 10_000


def shown(found: Any, width: int = WIDE) -> Any:
    return status_text.shown(found, width)


def reasons(found: Any, **how: Any) -> Any:
    return status_text.reasons(found, WIDE, **how)


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
    assert text(shown(found)).startswith("● two  INSPECTED  as declared\n  wire  inspected  ")


def test_what_others_have_to_warn_of_stands_with_the_rest_the_worst_first() -> None:
    kept = Kept().inspected()
    kept.kernel.bridge_netfilter = ("bridge-nf-call-iptables",)
    kept.turn(changed=True)
    lost = Warning("x", Severity.ERROR, "log \x1b", "2 lines were lost")
    found = json.loads(json.dumps(status(kept.core, kept.core.see_paths(ask=True), [lost])))
    assert [one["code"] for one in found["warnings"]] == ["x", "bridge-netfilter"]
    assert "\nwarnings\n  error: log \\x1b: 2 lines were lost\n  warning: br_netfilter is on: " in text(shown(found))


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
    assert "VM restarting for 1 ms, restart 1 of 4, 9 min 59 s left" in text(shown(told(kept)))
    kept.turn(RestartEnded(kept.restarts[-1].asked_ms, Ending.UNREACHED, "no answer"))
    assert told(kept)["vm"]["unreached"] == 1
    shape = text(shown(told(kept)))
    assert "VM waiting for 0 ms, 1 s left" in shape
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
    assert shape.startswith("● two  CUT  wire: cut 0 ms (port inside: no interface matches name eth1)")
    assert "; the network is not as wanted\n  wire  cut  0 ms  wanted: inspect; VM " in shape
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
    """The exit status and the first line of `reconcile status`, less how long it has been so."""
    found = told_guarded(kept)
    (first, *_) = text(shown(found)).splitlines()
    return exit_status(found), re.sub(r" \d+ (ms|s|min)( \d+ s)?\b", "", first.removeprefix("● two  "))


def hang(kept: Guards) -> None:
    kept.wires.vm(dead=True)
    kept.wait(1_000)


def hold(kept: Guards, topology: str) -> None:
    kept.turn(HoldPlaced(Hold(topology, "alice", "a test", kept.now + 3_600_000)))
    kept.wait(1_000)


AS_DECLARED = "INSPECTED  as declared"
BY_GUARD = "NOT INSPECTED  wire: bypassed by the guard"
JOINED = "guard: no lease stands, and it forwards eth0 to eth1"


def test_inspected() -> None:
    assert seen(Guards().granted()) == (0, AS_DECLARED)


def test_the_guard_has_joined_the_wire_and_nothing_is_decided() -> None:
    """What is wanted is inspect, the network is as wanted, and the verdict healthy: that is not what frames do."""
    kept = Guards(guarded(signals=HARMLESS)).granted()
    hang(kept)
    assert kept.choice == "inspect"
    assert kept.core.converged
    assert seen(kept) == (4, f"{BY_GUARD} ({JOINED})")
    assert re.search(r"\n  wire  bypassed by the guard  \d+ ms  wanted: inspect; ", text(shown(told_guarded(kept))))


def test_the_guard_has_cut_the_wire_and_nothing_is_decided() -> None:
    kept = Guards(guarded(signals=HARMLESS, on_failure={"fail": "closed"})).granted()
    hang(kept)
    assert seen(kept) == (
        5,
        "CUT  wire: cut by the guard (guard: no lease stands, and it drops what enters at eth0 (fail closed))",
    )


def test_held_on_inspect_with_a_hung_vm_the_guard_has_the_wire() -> None:
    kept = Guards().granted()
    hold(kept, "inspect")
    hang(kept)
    assert kept.choice == "inspect"
    assert seen(kept) == (4, f"{BY_GUARD} (VM failed)")


def test_bypassed_by_a_failure() -> None:
    kept = Guards().granted()
    hang(kept)
    assert kept.choice == "bypass"
    assert seen(kept)[0] == 4


def test_held_on_bypass_and_on_isolate() -> None:
    kept = Guards(guarded(topologies=TOPOLOGIES)).granted()
    hold(kept, "bypass")
    assert seen(kept) == (4, f"{BY_GUARD} (held by alice)")
    hold(kept, "isolate")
    assert seen(kept) == (5, "CUT  wire: cut (held by alice)")


def test_in_a_topology_of_its_own_meaning_the_switches_tell() -> None:
    mirror = {"switches": {"sw-m": {"ports": ["outside", "inside"], "adapters": ["outside"]}}}
    kept = Guards(guarded(topologies={**TOPOLOGIES, "mirror": mirror})).granted()
    hold(kept, "mirror")
    assert seen(kept) == (4, "NOT INSPECTED  wire: bypassed (switch sw-m holds eth0 and eth1)")
    assert "  on mirror; VM " in text(shown(told_guarded(kept)))


def test_without_the_guard_that_is_declared_it_is_not_as_declared() -> None:
    kept = Guards().granted()
    kept.guarding.switch(on=False)
    kept.turn(changed=True)
    assert seen(kept) == (3, "INSPECTED  the guard is off")
    hold(kept, "bypass")
    assert seen(kept) == (4, "NOT INSPECTED  wire: bypassed (held by alice); the guard is off")


def test_what_somebody_flushed_is_not_there_until_it_is_put_back() -> None:
    kept = Guards().granted()
    kept.table.flush()
    assert seen(kept) == (3, "INSPECTED  the guard is not set")
    kept.wait(20_000)
    assert seen(kept) == (0, AS_DECLARED)


def test_a_table_that_cannot_be_read_is_unknown_and_what_is_bypassed_is_so_all_the_same() -> None:
    kept = Guards().granted()
    kept.table.refuses = "EPERM"
    assert seen(kept) == (
        1,
        "UNKNOWN  wire: unknown whether inspected (guard: the kernel does not tell whether its leases stand); the guard is in trouble",
    )
    kept.table.refuses = ""
    hold(kept, "bypass")
    kept.table.refuses = "EPERM"
    assert seen(kept)[0] == 4


def codes(kept: Guards) -> list[tuple[str, str]]:
    return [(one["code"], one["about"]) for one in told_guarded(kept)["warnings"]]


def test_what_is_amiss_with_the_guard_is_a_warning_for_as_long_as_it_is() -> None:
    kept = Guards().granted()
    assert codes(kept) == []
    kept.table.refuses = "EPERM"
    assert codes(kept) == [("guard-unknown", "segment wire"), ("guard-unable", "guard")]
    kept.table.refuses = ""
    kept.wait(6_000)
    assert codes(kept) == []
    kept.table.flush()
    assert codes(kept) == [("guard-missing", "segment wire")]
    kept.wait(20_000)
    kept.prober.refuses = "cannot start the probe sender"
    kept.wires.kill_prober()
    kept.wait(5_000)
    assert ("no-probes", "guard") in codes(kept)
    kept.prober.refuses = ""
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    assert codes(kept) == []
    kept.guarding.switch(on=False)
    kept.turn(changed=True)
    assert codes(kept) == [("guard-off", "guard")]


def test_given_up_is_a_warning_until_the_vm_is_healthy() -> None:
    kept = Kept(watched(vm=PROGRAMS)).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    for _ in range(20):
        kept.wait(60_000)
        if kept.core.state.vm.phase is Phase.RESTARTING:
            kept.turn(RestartEnded(kept.restarts[-1].asked_ms, Ending.DONE, "started"))
    assert kept.core.state.vm.phase is Phase.GIVEN_UP
    assert ("given-up", "error", "VM") in found_in(kept)
    kept.power(on=True)
    kept.turn(changed=True)
    kept.wait(60_000)
    assert found_in(kept) == []


def found_in(kept: Kept) -> list[tuple[str, str, str]]:
    return [(one["code"], one["severity"], one["about"]) for one in told(kept)["warnings"]]


def test_a_vm_that_has_failed_inspects_nothing_although_frames_cross_it() -> None:
    web = {"kind": "http", "url": "http://192.0.2.1/", "fall": 1}
    kept = Guards(guarded(signals={"web": web})).adopting()
    kept.until(lambda: kept.held is LeaseState.GRANTED)
    hold(kept, "inspect")
    assert seen(kept)[0] == 0
    kept.turn(Reading("web", HealthState.FAILED, "suricata is dead"))
    assert seen(kept) == (1, "UNKNOWN  wire: unknown whether inspected (VM failed)")


def test_a_network_that_is_not_as_wanted() -> None:
    kept = Guards().granted()
    first = len(kept.kernel.log)
    kept.kernel.fail_at = dict.fromkeys(range(first, first + 99), errno.EBUSY)
    kept.kernel["eth0"].settings[Setting.MTU] = 1400
    kept.turn(changed=True)
    assert seen(kept) == (3, "INSPECTED  the network is not as wanted")


def unreadable(*_: Any) -> Any:
    raise TransientError("interrupted")


def test_a_network_that_cannot_be_read_and_what_the_guard_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Guards().granted()
    monkeypatch.setattr(kept.kernel, "observe", unreadable)
    kept.turn(changed=True)
    assert seen(kept)[0] == 1
    kept.wires.vm(dead=True)
    kept.wait(1_000)
    assert seen(kept) == (4, f"{BY_GUARD} (VM failed); the network is not as wanted")


def told_segments(*paths: tuple[str, str]) -> Any:
    """A status of so many segments, of which little else is told."""
    segments = [
        {
            "name": f"s{number}",
            "path": path,
            "path_by": by,
            "path_ms": 61_000,
            "since_ms": 61_000,
            "path_evidence": "so it is",
            "topology": "bypass",
            "verdict": "failed",
            "hold": None,
            "hold_down_left_ms": None,
            "flaps": 0,
        }
        for number, (path, by) in enumerate(paths)
    ]
    choice = {one["name"]: "bypass" for one in segments}
    more: dict[str, Any] = {"vm": None, "signals": [], "guard": None, "warnings": [], "decisions": []}
    return {"sku": "x", "choice": choice, "segments": segments, "network": {"converged": True}, **more}


@pytest.mark.parametrize(
    ("paths", "expected", "first"),
    [
        ([("inspected", "switches")] * 2, 0, "INSPECTED  as declared"),
        (
            [("inspected", "switches"), ("bypassed", "guard")],
            4,
            "NOT INSPECTED  s1: bypassed by the guard 1 min 1 s (VM failed)",
        ),
        (
            [("bypassed", "switches"), ("unknown", "switches"), ("cut", "guard"), ("bypassed", "guard")],
            5,
            (
                "CUT  s2: cut by the guard 1 min 1 s (so it is); s3: bypassed by the guard 1 min 1 s (VM failed); "
                "s0: bypassed 1 min 1 s (VM failed); s1: unknown whether inspected 1 min 1 s (VM failed)"
            ),
        ),
        (
            [("unknown", "switches"), ("inspected", "switches")],
            1,
            "UNKNOWN  s0: unknown whether inspected 1 min 1 s (VM failed)",
        ),
        ([("bypassed", "switches")] * 6, 4, "NOT INSPECTED  all 6 segments: bypassed 1 min 1 s (VM failed)"),
        (
            [("bypassed", "switches")] * 6 + [("inspected", "switches")],
            4,
            "NOT INSPECTED  s0, s1, s2, s3 and 2 more: bypassed 1 min 1 s (VM failed)",
        ),
    ],
)
def test_of_several_segments_the_worst_comes_first(paths: list[tuple[str, str]], expected: int, first: str) -> None:
    found = told_segments(*paths)
    assert exit_status(found) == expected
    assert text(shown(found)).splitlines()[0] == f"● x  {first}"
    found["network"]["converged"] = False
    assert exit_status(found) == (expected or 3)
    told_worse = text(shown(found)).splitlines()[0]
    assert told_worse == f"● x  {first}; the network is not as wanted".replace("as declared; ", "")


# --- as it is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("segments", [1, 2, 12])
@pytest.mark.parametrize("path", ["inspected", "bypassed", "cut", "unknown"])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(segments: int, path: str, width: int) -> None:
    kept = Kept(watched(vm=PROGRAMS)).inspected()
    kept.turn(HoldPlaced(Hold("bypass", "alice", "new cables in the rack; call me before you change it", 99_000)))
    kept.power(on=False)
    kept.turn(changed=True)
    found = told(kept)
    one = {**found["segments"][0], "path": path}
    names = [f"segment-{number}" for number in range(segments)]
    found |= {"choice": dict.fromkeys(names, "bypass"), "segments": [{**one, "name": name} for name in names]}
    whole = text(shown(found))
    lines = text(shown(found, width)).splitlines()
    longest = max(map(len, whole.split()))
    # What stands in columns is one piece; the rest goes on where there is room.
    assert all(len(line) <= max(width, longest + width // 2) for line in lines)
    if width == 80:
        assert all(len(line) <= width for line in lines)
    assert " ".join(lines).split() == whole.split()
    assert not any(line.endswith(" ") for line in lines)


# What a daemon puts around it.
ENVELOPE = {"time": "", "host": "", "version": "", "digest": ""}
SIX_WIRES = {
    "ports": {
        "mgmt": {"match": {"name": "mgmt0"}, "role": "management"},
        **{f"p{number}": {"match": {"name": f"eth{number}"}} for number in range(12)},
    },
    "segments": {f"s{number}": [f"p{2 * number}", f"p{2 * number + 1}"] for number in range(6)},
    "vm": {"adapters": {f"p{number}": {"interface": f"vif{number}"} for number in range(12)}},
}


def test_a_segment_can_be_asked_for_alone_and_an_unknown_one_names_those_that_are() -> None:
    kept = Kept(watched(**TWO_WIRES, signals={"wire": {"kind": "carrier"}})).start()
    found = told(kept)
    alone = of_segment(found, "b")
    assert [one["name"] for one in alone["segments"]] == ["b"]
    assert {one["segment"] for one in alone["signals"]} == {"b"}
    assert {one["segment"] for one in alone["decisions"]} <= {"b", None}
    assert of_segment(found, None) == found
    with pytest.raises(click.UsageError, match="no segment is called 'wan'; two declares: a, b"):
        of_segment(found, "wan")


def test_in_short_each_segment_is_a_line_that_begins_with_its_name_and_its_path() -> None:
    found = told_segments(("inspected", "switches"), ("bypassed", "guard"), ("cut", "switches"))
    assert text(short(found, None)).splitlines() == [
        "s0  inspected  1 min 1 s",
        "s1  bypassed   1 min 1 s  VM failed",
        "s2  cut        1 min 1 s  so it is",
    ]
    assert text(short(found, 24)).splitlines()[1] == "s1  bypassed   1 min 1…"


def test_why_tells_what_was_decided_since() -> None:
    kept = Kept().inspected()
    kept.wait(100_000)
    kept.turn(HoldPlaced(Hold("bypass", "alice", "a test", kept.now + 60_000)))
    kept.wait(5_000)
    found = told(kept)
    assert len(found["decisions"]) > 1
    since = text(reasons(found, since_ms=10_000))
    assert since.count(" ago  ") == 1
    assert "held on bypass by alice: a test" in since
    assert "nothing was decided in the last 1 s" in text(reasons(found, since_ms=1_000))
    assert [one["age_ms"] for one in status_text.why_json({**ENVELOPE, **found}, 10_000)["decisions"]] == [5_000]


def test_what_many_segments_decided_at_once_is_one_event() -> None:
    kept = Kept(watched(**SIX_WIRES, signals={"wire": {"kind": "carrier"}})).start()
    kept.turn(HoldPlaced(Hold("bypass", "alice", "a test", kept.now + 60_000)))
    found = text(shown(told(kept)))
    assert "  0 ms ago  all 6 segments: held on bypass by alice: a test" in found
    assert found.count("held on bypass by alice") == 2
