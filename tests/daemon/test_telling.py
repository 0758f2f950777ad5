"""How loudly a thing is told, and how often."""

from typing import Any

from keeping import PROGRAMS, Kept, watched

from reconciler.daemon.telling import FOLD_MS
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import Ending, Hold, HoldPlaced, RestartEnded

CARRIER = {"wire": {"kind": "carrier"}}
CANARY = {"canary": {"kind": "command", "run": ["/x"], "every": "10m", "fall": 1, "rise": 1, "required": False}}


def decisions(kept: Kept, begin: str = "") -> list[dict[str, Any]]:
    return [one for one in kept.lines if one["event"] == "decision" and one["what"].startswith(begin)]


def levels(kept: Kept) -> dict[str, str]:
    return {one["what"]: one["level"] for one in decisions(kept)}


def test_each_sort_of_news_has_its_level() -> None:
    kept = Kept(watched(vm=PROGRAMS, signals=CARRIER)).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    kept.wait(1_001)
    told = levels(kept)
    assert told["wire is failed"] == "warning"
    assert told["inspect → bypass"] == "warning"
    assert told["the VM has failed"] == "error"
    assert next(level for what, level in told.items() if what.startswith("restarting the VM")) == "warning"
    kept.turn(RestartEnded(kept.restarts[-1].asked_ms, Ending.DONE))
    kept.power(on=True)
    kept.turn(changed=True)
    kept.wait(20_000)
    told = levels(kept)
    assert {told["wire is healthy"], told["the VM boots"], told["the VM is healthy again"]} == {"info"}
    assert told["bypass → inspect"] == "info"


def test_given_up_is_critical() -> None:
    kept = Kept(watched(vm=PROGRAMS, signals=CARRIER)).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    while True:
        kept.wait(kept.core.due_ms - kept.now)
        if kept.restarts:
            kept.turn(RestartEnded(kept.restarts.pop().asked_ms, Ending.REFUSED, "no"))
        if given_up := [level for what, level in levels(kept).items() if what.startswith("given up")]:
            break
    assert given_up == ["critical"]


def test_a_segment_that_is_cut_when_it_fails_is_critical() -> None:
    kept = Kept(watched(signals=CARRIER, on_failure={"fail": "closed"})).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    assert levels(kept)["inspect → isolate"] == "critical"


def test_a_hold_is_a_warning_where_it_keeps_traffic_from_the_vm() -> None:
    kept = Kept().inspected()
    kept.turn(HoldPlaced(Hold("inspect", "ann", "a test", kept.now + 60_000)))
    kept.turn(HoldPlaced(Hold("bypass", "ann", "new cables", kept.now + 60_000)))
    assert levels(kept) == {"held on inspect by ann: a test": "info", "held on bypass by ann: new cables": "warning"}


def flapping(kept: Kept, times: int, every_ms: int) -> None:
    for number in range(times):
        state = HealthState.FAILED if number % 2 == 0 else HealthState.HEALTHY
        kept.turn(Reading("canary", state, f"{number} probes"))
        kept.wait(every_ms)


def test_what_flaps_is_a_line_and_a_count() -> None:
    kept = Kept(watched(signals=CANARY))
    kept.start()
    kept.turn(Reading("canary", HealthState.HEALTHY, "probes"))
    kept.wait(FOLD_MS + 1)
    kept.forget()
    flapping(kept, 40, 500)
    told = decisions(kept, "canary")
    assert [(one["what"], one["level"], one["times"]) for one in told] == [
        ("canary is failed", "warning", 1),
        ("canary is healthy", "info", 1),
        ("canary is failed", "warning", 1),
    ]
    kept.wait(FOLD_MS)
    told = decisions(kept, "canary")
    assert [(one["what"], one["times"]) for one in told[3:]] == [("canary is healthy", 37)]
    assert "after 37 changes within 60 s" in told[3]["text"]
    # And one entry is kept of those that are counted.
    kept_of_it = [one for one in kept.core.telling.decisions if one.decision.what.startswith("canary")]
    assert [one.times for one in kept_of_it[-4:]] == [1, 1, 1, 37]
    # Once it is quiet, the next change is told at once.
    kept.wait(2 * FOLD_MS)
    kept.forget()
    flapping(kept, 1, 0)
    assert [one["text"] for one in decisions(kept)] == ["canary is failed (canary failed: 0 probes)"]


def test_what_goes_on_flapping_is_a_line_a_minute() -> None:
    kept = Kept(watched(signals=CANARY))
    kept.start()
    flapping(kept, 1_200, 500)
    told = decisions(kept, "canary")
    assert len(told) <= 3 + 10
    assert 1_200 - 120 <= sum(one["times"] for one in told) <= 1_200


def test_a_failover_is_told_each_time_however_the_vm_flaps() -> None:
    kept = Kept(watched(signals=CARRIER)).inspected()
    for _ in range(20):
        kept.power(on=False)
        kept.turn(changed=True)
        kept.power(on=True)
        kept.turn(changed=True)
        kept.wait(1_000)
    left = [one for one in decisions(kept) if one["what"] == "inspect → bypass"]
    assert len(left) == 1
    assert len(decisions(kept, "healthy; stays on bypass")) <= 4
