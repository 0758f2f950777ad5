"""What outlives the process: taken up as it was, and never fatal, whatever the file holds."""

import json
import random
from typing import Any

import pytest

from reconciler.health.policy import step
from reconciler.health.record import dump, recall
from reconciler.health.state import Course, Phase, Rules, State, begin

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
    # The hold-down counts anew: nobody has watched in between.
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


@pytest.mark.parametrize("data", [None, [], {}, "x", 3, {"format": "reconciler.memory/0"}])
def test_what_is_no_memory_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="not"):
        recall(ALL_RULES[0], {}, data, 0, None)
