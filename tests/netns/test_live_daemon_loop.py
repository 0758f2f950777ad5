"""The daemon's loop by itself: what wakes it, and what must not keep it from waking. In a namespace of its own."""

import asyncio
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worlds import two_ports, two_ports_document

from reconciler.daemon.journal import Journal
from reconciler.daemon.loop import QUEUE, Daemon
from reconciler.errors import UnreachedError
from reconciler.health.signal import Reading, State
from reconciler.health.state import Ending, Restart, RestartEnded
from reconciler.host import clock
from reconciler.lab.namespaces import Namespace

pytestmark = pytest.mark.netns

NEWS = Reading("beat", State.HEALTHY, "beats")


class Turns:
    """A keeper that notes its turns."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.due_ms = clock.now_ms() + 3_600_000
        self.error: Exception | None = None
        self.left: list[RestartEnded] = []

    def leave(self, ended: RestartEnded) -> None:
        self.left.append(ended)

    def turn(self, events: Any, *, changed: bool = False) -> None:
        self.events.append(tuple(events))
        if self.error:
            raise self.error


@pytest.fixture
def told() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def daemon(tmp_path: Path, told: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("RECONCILER_STATE_DIR", str(tmp_path))
    text = json.dumps(two_ports_document()).encode()
    with Namespace("loop") as namespace, namespace.entered():
        made = Daemon(tmp_path / "a.yaml", text, two_ports(), Journal(told, as_json=True), group=None, stop=None)
        made._keeper = Turns()  # type: ignore[assignment]
        yield made
        made._watch.close()
        made._kernel.close()
        made._guard.close()


def turns(daemon: Daemon) -> Turns:
    assert isinstance(daemon._keeper, Turns)
    return daemon._keeper


def in_its_loop(daemon: Daemon, what: Any) -> None:
    async def run() -> None:
        daemon._ended = asyncio.get_running_loop().create_future()
        with contextlib.suppress(ZeroDivisionError):
            await what()
        daemon._over = True
        daemon._cancel()

    asyncio.run(run())


async def passes() -> None:
    """A few rounds of the loop, and no time."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_news_are_taken_in_the_next_round_all_at_once(daemon: Daemon) -> None:
    async def what() -> None:
        for _ in range(3):
            daemon._tell(NEWS)
        await passes()
        assert turns(daemon).events == [(NEWS, NEWS, NEWS)]

    in_its_loop(daemon, what)


def test_news_do_not_wait_for_the_pause_that_a_storm_of_links_has_earned(daemon: Daemon) -> None:
    async def what() -> None:
        daemon._not_before_ms = clock.now_ms() + 1_000
        daemon._tell(NEWS)
        daemon._links_changed()
        await passes()
        began = clock.now_ms()
        while not turns(daemon).events and clock.now_ms() < began + 500:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.001)
        assert turns(daemon).events == [(NEWS,)]

    in_its_loop(daemon, what)


def test_a_flood_of_news_is_bounded_and_counted(daemon: Daemon) -> None:
    async def what() -> None:
        for _ in range(QUEUE + 500):
            daemon._tell(NEWS)
        assert daemon._about()["queue"] == {"bound": QUEUE, "dropped": 500, "netlink_overruns": 0}
        await passes()
        assert [len(events) for events in turns(daemon).events] == [QUEUE]

    in_its_loop(daemon, what)


def test_the_end_of_a_restart_is_not_lost_in_a_flood(daemon: Daemon) -> None:
    """Whoever waits for it would wait for ten minutes."""

    class Restarts:
        async def restart(self, method: str) -> None:
            return

    async def what() -> None:
        daemon._hypervisor = Restarts()
        for _ in range(QUEUE):
            daemon._tell(NEWS)
        await daemon._restarting(Restart("reset", 1, 700))
        await passes()
        assert RestartEnded(700, Ending.DONE) in [event for events in turns(daemon).events for event in events]

    in_its_loop(daemon, what)


def test_a_restart_that_could_not_be_asked_for_is_told_so(daemon: Daemon) -> None:
    class Away:
        async def restart(self, method: str) -> None:
            raise UnreachedError("no answer")

    async def what() -> None:
        daemon._hypervisor = Away()
        daemon._restart(Restart("reset", 1, 700))
        await passes()
        assert turns(daemon).events == [(RestartEnded(700, Ending.UNREACHED, "no answer"),)]

    in_its_loop(daemon, what)


def test_a_restart_that_the_end_calls_off_before_it_began_is_remembered_so(daemon: Daemon) -> None:
    class Hangs:
        async def restart(self, method: str) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                raise UnreachedError("called off") from None

    async def what() -> None:
        daemon._hypervisor = Hangs()
        daemon._restart(Restart("reset", 1, 700))
        await passes()
        await daemon._close()
        assert turns(daemon).left == [RestartEnded(700, Ending.UNREACHED, "called off")]
        assert turns(daemon).events == []

    in_its_loop(daemon, what)


def test_a_restart_that_breaks_in_a_way_that_nobody_foresaw_has_an_end_too(daemon: Daemon, told: io.StringIO) -> None:
    class Breaks:
        async def restart(self, method: str) -> None:
            raise ZeroDivisionError(method)

    async def what() -> None:
        daemon._hypervisor = Breaks()
        daemon._restart(Restart("reset", 1, 700))
        await passes()
        (events,) = turns(daemon).events
        assert events == (RestartEnded(700, Ending.REFUSED, "internal error: ZeroDivisionError"),)

    in_its_loop(daemon, what)
    assert json.loads(told.getvalue())["event"] == "bug"


def test_a_bug_in_a_turn_ends_the_process_and_is_told(daemon: Daemon, told: io.StringIO) -> None:
    async def what() -> None:
        turns(daemon).error = ZeroDivisionError("division by zero")
        daemon._tell(NEWS)
        await passes()
        assert isinstance(daemon._ended.exception(), ZeroDivisionError)

    in_its_loop(daemon, what)
    line = json.loads(told.getvalue())
    assert (line["event"], line["level"]) == ("bug", "critical")
    assert line["text"].startswith("internal error: ZeroDivisionError: division by zero (")


def test_after_its_end_nothing_is_decided_any_more(daemon: Daemon) -> None:
    async def what() -> None:
        daemon._over = True
        daemon._tell(NEWS)
        daemon._tell_now(NEWS)
        daemon._links_changed()
        await passes()
        assert turns(daemon).events == []

    in_its_loop(daemon, what)
