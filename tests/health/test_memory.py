"""What outlives the process: taken up as it was, and never fatal, whatever the file holds."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from reconciler.health.policy import step
from reconciler.health.record import dump, recall
from reconciler.health.state import MAX_HOLD_MS, Course, Phase, Rules, State, begin

from .build import ALL_RULES, events

ALIEN = (None, True, -1, 0, 3, 10**18, 2.5, "", "inspect", "steady", "waiting", [], [3], {}, {"wire": 3})


def lived(of: Rules, seed: int) -> State:
    """A state after some history, without reloads."""
    chance = random.Random(seed)
    state = begin(of, dict.fromkeys(of.segments, "inspect"), 0)
    for event, _ in zip(events(chance, of), range(chance.randrange(150)), strict=False):
        if type(event).__name__ != "Declared":
            state, _ = step(state, event, state.now_ms + chance.choice([0, 50, 500]))
    return state


def memory(state: State) -> Any:
    return json.loads(json.dumps(dump(state)))


@pytest.mark.parametrize("seed", range(40))
def test_a_restart_of_the_daemon_changes_no_topology_and_gives_no_attempt_back(seed: int) -> None:
    of = ALL_RULES[seed % len(ALL_RULES)]
    before = lived(of, seed)
    after = recall(of, before.choice, memory(before), before.now_ms, None)
    assert after.choice == before.choice
    assert after.holds == before.holds
    assert after.vm.attempts == before.vm.attempts
    assert {name: one.flaps for name, one in after.segments.items()} == {
        name: one.flaps for name, one in before.segments.items()
    }
    # The hold-down counts again: nobody has watched in between.
    assert Course.PROVING not in {one.course for one in after.segments.values()}
    assert after.vm.phase is not Phase.RESTARTING


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = data.items() if isinstance(data, dict) else ()
    return [place for key, one in inner for place in ((*at, key), *places(one, (*at, key)))]


@pytest.mark.parametrize("seed", range(30))
def test_an_alien_memory_is_refused_or_can_be_lived_with(seed: int) -> None:
    of, chance = ALL_RULES[seed % len(ALL_RULES)], random.Random(seed)
    whole = memory(lived(of, seed))
    for place in places(whole):
        for alien in (..., *ALIEN):
            data = json.loads(json.dumps(whole))
            node = data
            for step_ in place[:-1]:
                node = node[step_]
            if alien is ...:
                del node[place[-1]]
            else:
                node[place[-1]] = alien
            shift = chance.choice([None, None, 5_000])
            try:
                state = recall(of, dict.fromkeys(of.segments, "bypass"), data, 1_000, shift)
            except ValueError:
                continue
            for event, _ in zip(events(chance, of), range(12), strict=False):
                state, _ = step(state, event, state.now_ms + 700)


ABSURD = (10**18, 2**63, -(10**18))


@pytest.mark.parametrize("shift", [None, 0, 5_000, -(10**13), 10**13])
@pytest.mark.parametrize("absurd", ABSURD)
def test_no_time_in_a_memory_reaches_further_than_one_of_its_kind_can(absurd: int, shift: int | None) -> None:
    """A hold: what was left of it. The VM's deadline: the phase's time. A return: not later than now."""
    of, now = ALL_RULES[0], 100_000
    whole = memory(replace(begin(of, dict.fromkeys(of.segments, "bypass"), 0), now_ms=90_000))
    name = next(iter(of.segments))
    hold = {"topology": "bypass", "owner": "a", "reason": "b", "until_ms": absurd, "left_ms": 120_000}
    whole["segments"][name]["returned_ms"] = absurd
    for phase in (Phase.SETTLING, Phase.WAITING, Phase.RESTARTING, Phase.BOOTING):
        data = {**whole, "holds": {name: hold}, "vm": {"phase": phase.value, "attempts": 1, "due_ms": absurd}}
        state = recall(of, dict.fromkeys(of.segments, "bypass"), data, now, shift)
        assert state.holds[name].until_ms <= now + 120_000
        returned = state.segments[name].returned_ms
        assert returned is not None
        assert returned <= now
        rules = of.on_failure
        longest = max(1_000, of.health.grace_ms, rules.backoff_max_ms, rules.boot_timeout_ms, 10_000)
        assert state.vm.due_ms is None or state.vm.due_ms <= now + longest


@pytest.mark.parametrize("shift", [None, 5_000])
def test_a_hold_that_does_not_say_what_was_left_of_it_lasts_no_longer_than_any(shift: int | None) -> None:
    of = ALL_RULES[0]
    name = next(iter(of.segments))
    data = memory(begin(of, dict.fromkeys(of.segments, "bypass"), 0))
    data["holds"] = {name: {"topology": "bypass", "owner": "a", "reason": "b", "until_ms": 10**18}}
    assert recall(of, {}, data, 7, shift).holds[name].until_ms == 7 + MAX_HOLD_MS


@pytest.mark.parametrize("data", [None, [], {}, "x", 3, {"format": "reconciler.memory/0"}])
def test_what_is_no_memory_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="not"):
        recall(ALL_RULES[0], {}, data, 0, None)
