"""The one door into the core: what wakes it, what must not keep it from waking, and what ends it."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from reconciler.daemon.journal import Journal
from reconciler.daemon.turns import QUEUE, Turns
from reconciler.errors import HostError, RequestError
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import Ending, HoldReleased, RestartEnded, Stalled
from reconciler.host import clock
from reconciler.host.service import Service

NEWS = Reading("beat", HealthState.HEALTHY, "beats")
ENDED = RestartEnded(7, Ending.DONE)
RELEASED = HoldReleased("root")


class Core:
    """One that notes its turns."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.looked: list[bool] = []
        self.due_ms = clock.now_ms() + 3_600_000
        self.error: Exception | None = None
        self.left: list[Any] = []
        self.listened = 0

    def start(self, remembered: Any, shift: int | None) -> None:
        self.turn((), changed=True)

    def turn(self, events: Any, *, changed: bool = False) -> None:
        self.events.append(tuple(events))
        self.looked.append(changed)
        if self.error:
            raise self.error

    def listen(self) -> None:
        self.listened += 1
        if self.error:
            raise self.error

    def leave(self, event: Any) -> None:
        self.left.append(event)


class Door:
    """Turns of such a core. `scene` runs on their loop."""

    def __init__(self) -> None:
        self.core = Core()
        self.told = io.StringIO()
        self.broken: list[Exception] = []
        self.turns = Turns(self.core, Service(), Journal(self.told, as_json=True), self.broken.append)  # type: ignore[arg-type]

    def __call__(self, scene: Callable[[Turns, Core], Awaitable[None]]) -> None:
        async def run() -> None:
            await scene(self.turns, self.core)
            self.turns.stop()

        asyncio.run(run())

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.told.getvalue().splitlines()]


@pytest.fixture
def door() -> Door:
    return Door()


async def passes() -> None:
    """A few rounds of the loop, and no time."""
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    end_ms = clock.now_ms() + 10_000
    while not condition():
        assert clock.now_ms() < end_ms, "it did not come to pass"
        await asyncio.sleep(0.001)


def test_news_are_taken_in_the_next_round_all_at_once(door: Door) -> None:
    async def scene(turns: Turns, core: Core) -> None:
        for _ in range(3):
            turns.tell(NEWS)
        await passes()
        assert core.events == [(NEWS, NEWS, NEWS)]

    door(scene)


def test_news_do_not_wait_for_the_pause_that_a_storm_of_links_has_earned(door: Door) -> None:
    async def scene(turns: Turns, core: Core) -> None:
        turns._not_before_ms = clock.now_ms() + 3_600_000
        turns.tell(NEWS)
        turns.wake(lambda: True)
        await until(lambda: bool(core.events))
        assert (core.events, core.looked) == ([(NEWS,)], [False])

    door(scene)


def test_a_flood_of_news_is_bounded_and_counted(door: Door) -> None:
    async def scene(turns: Turns, core: Core) -> None:
        for _ in range(QUEUE + 500):
            turns.tell(NEWS)
        assert turns.counters == {"bound": QUEUE, "dropped": 500}
        assert [(one.code, one.severity) for one in turns.warnings] == [("events-dropped", "warning")]
        assert "500 events" in turns.warnings[0].text
        await passes()
        assert [len(events) for events in core.events] == [QUEUE]

    door(scene)


def test_what_the_policy_waits_for_is_not_lost_in_a_flood(door: Door) -> None:
    async def scene(turns: Turns, core: Core) -> None:
        for _ in range(QUEUE + 500):
            turns.tell(NEWS)
        turns.tell_surely(ENDED)
        await passes()
        assert core.events[0][-1] == ENDED

    door(scene)


def test_what_is_no_news_wakes_nobody(door: Door) -> None:
    async def scene(turns: Turns, core: Core) -> None:
        turns.wake(lambda: False)
        await passes()
        assert core.events == []
        turns.wake(lambda: True)
        assert core.looked == [True]
        turns.probes()
        assert core.listened == 1

    door(scene)


def test_a_deadline_is_a_turn(door: Door) -> None:
    async def scene(turns: Turns, core: Core) -> None:
        core.due_ms = clock.now_ms() + 20
        turns.start(None, None)
        before = len(core.events)
        await until(lambda: len(core.events) > before)
        assert clock.now_ms() >= core.due_ms

    door(scene)


def test_who_waits_for_a_decision_has_it_at_once_after_what_came_before(door: Door) -> None:
    async def scene(turns: Turns, core: Core) -> None:
        turns.tell(NEWS)
        turns.decide(RELEASED)
        assert core.events == [(NEWS, RELEASED)]
        # Nothing is left over, and it sleeps until the core is due.
        await passes()
        assert core.events == [(NEWS, RELEASED)]

    door(scene)


def test_who_enters_gets_what_it_asked_for_or_why_not(door: Door) -> None:
    def refuse(_: Any) -> None:
        raise HostError("the kernel refused")

    async def scene(turns: Turns, core: Core) -> None:
        assert turns.enter(lambda core: core.due_ms) == core.due_ms
        with pytest.raises(HostError, match="the kernel refused"):
            turns.enter(refuse)
        turns.tell(NEWS)
        await passes()
        assert core.events == [(NEWS,)]

    door(scene)
    assert door.broken == []
    assert door.lines == []


BUG = ZeroDivisionError("division by zero")


def _broken(_: Any) -> None:
    raise BUG


@pytest.mark.parametrize(
    "enter",
    [
        lambda turns: turns.tell(NEWS),
        lambda turns: turns.wake(lambda: True),
        lambda turns: turns.wake(lambda: 1 / 0),
        lambda turns: turns.probes(),
        lambda turns: turns.decide(RELEASED),
        lambda turns: turns.enter(_broken),
        lambda turns: turns.enter(lambda core: core.turn((), changed=True)),
    ],
    ids=["event", "links", "socket", "probes", "decision", "request", "turn of a request"],
)
def test_a_bug_ends_it_whoever_entered_and_half_a_turn_is_followed_by_none(
    door: Door, enter: Callable[[Turns], None]
) -> None:
    async def scene(turns: Turns, core: Core) -> None:
        core.error = BUG
        try:
            enter(turns)
        except RequestError as error:
            assert str(error) == "an internal error ends the daemon; its log says which"  # noqa: PT017
        await passes()
        assert [type(error) for error in door.broken] == [ZeroDivisionError]
        assert turns.over
        core.error, seen = None, len(core.events)
        turns.tell(NEWS)
        turns.wake(lambda: True)
        turns.probes()
        with pytest.raises(RequestError, match="stopping"):
            turns.decide(RELEASED)
        with pytest.raises(RequestError, match="stopping"):
            turns.enter(lambda core: core.turn(()))
        await passes()
        assert len(core.events) == seen

    door(scene)
    (line,) = door.lines
    assert (line["event"], line["level"]) == ("bug", "critical")
    assert line["text"].startswith("internal error: ZeroDivisionError: division by zero (")


def test_what_nobody_heard_any_more_of_a_restart_is_left_to_the_next_process(door: Door) -> None:
    async def scene(turns: Turns, core: Core) -> None:
        turns.tell(NEWS)
        turns.tell_surely(ENDED)
        turns.stop()
        turns.leave()
        await passes()
        assert (core.left, core.events) == ([ENDED], [])

    door(scene)


def test_whoever_was_away_says_for_how_long_before_anybody_is_judged(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(turns: Turns, core: Core) -> None:
        turns.start(None, None)
        core.events.clear()
        due = turns._due_ms
        assert due is not None
        monkeypatch.setattr(clock, "now_ms", lambda: due + 600_000)
        turned, turn = asyncio.get_running_loop().create_future(), core.turn
        monkeypatch.setattr(
            core, "turn", lambda *events, **how: (turn(*events, **how), turned.done() or turned.set_result(None))
        )
        turns.tell(NEWS)
        await asyncio.wait_for(turned, 60)
        assert core.events[:1] == [(Stalled(600_000), NEWS)]

    door(scene)
