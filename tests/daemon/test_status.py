"""What the daemon knows, as a value, and as people read it."""

import json
from typing import Any

import pytest
from keeping import BEAT, PROGRAMS, Kept, beat, watched

from reconciler.console import Said
from reconciler.daemon.shown import reasons, shown, span
from reconciler.daemon.status import FORMAT, status
from reconciler.health.signal import State
from reconciler.health.state import Ending, Hold, HoldPlaced, RestartEnded
from reconciler.network.state import Setting


def told(kept: Kept) -> Any:
    """As whoever asks gets it."""
    return json.loads(json.dumps(status(kept.keeper)))


def text(lines: Any) -> str:
    made = list(lines)
    assert all(isinstance(line, Said) and line.text.replace("\x1b", "").isprintable() for line in made)
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
        "problems": [],
        "fights": [],
        "mended": 0,
    }
    (signal,) = found["signals"]
    assert (signal["name"], signal["kind"], signal["segment"], signal["state"]) == (
        "wire",
        "carrier",
        "wire",
        "healthy",
    )
    assert text(shown(found)).startswith("two: the network is as wanted\nwire: inspect for")


def test_log_lines_that_nobody_could_read_are_told() -> None:
    found = told(Kept().inspected())
    assert "log" not in text(shown({**found, "log": {"lost": 0}}))
    assert "2 lines of the log were lost: its reader stalled" in text(shown({**found, "log": {"lost": 2}}))


def test_what_was_never_heard_is_unknown_and_said_to_be() -> None:
    kept = Kept(watched(signals={"beat": BEAT})).start()
    found = told(kept)
    assert found["segments"][0]["verdict"] == "unknown"
    assert found["signals"][0]["heard_ms"] is None
    assert "nothing heard yet" in text(shown(found))


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
    assert "VM: waiting for 0 ms, the hypervisor cannot be asked, 1 s left" in text(shown(told(kept)))
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
    for on in (False, True) * 10:
        kept.now += 1_100
        kept.power(on=on)
        kept.turn(changed=True)
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
    assert "two: the network is not as wanted" in shape
    assert "  problem: port inside: no interface matches name eth1" in shape
    assert "  somebody keeps changing back eth0 mtu" in shape


def test_degraded_is_told_and_no_reason_to_bypass() -> None:
    kept = Kept(watched(signals={"beat": BEAT})).inspected_by_seconds()
    kept.now += 1_000
    kept.turn(beat(State.DEGRADED, "drops \x1b grow"))
    found = told(kept)
    assert kept.choice == "inspect"
    assert found["degraded"] == ["beat degraded: drops ? grow"]
    assert found["signals"][0]["state"] == "degraded"


def test_before_anything_was_found_it_can_be_asked_as_well() -> None:
    kept = Kept().start()
    kept.keeper.found = None
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
