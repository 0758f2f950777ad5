"""What the tests of gatherers share: somebody who listens, and beats as the agent sends them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from reconciler.health.signal import HealthState, News, Reading
from reconciler.host.signals.gather import Gatherer

BOOT = "8a8a5f8e-37f1-4a3e-9a0c-0d5b8b0f7c11"
RUN = "0123456789abcdef0123456789abcdef"
DEADLINE_S = 10.0
FAR = 4_000_000_000  # the vsock address of a guest that is not there


class Ears:
    """Hears all that a gatherer publishes, and when."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self.at_s: list[float] = []

    def __call__(self, news: News) -> None:
        self.news.append(news)
        self.at_s.append(time.monotonic())

    @property
    def readings(self) -> list[Reading]:
        return [news for news in self.news if isinstance(news, Reading)]

    @property
    def states(self) -> list[HealthState]:
        return [reading.state for reading in self.readings]

    @property
    def reasons(self) -> list[str]:
        return [reading.reason for reading in self.readings]

    async def hear(self, number: int) -> list[Reading]:
        """The first `number` readings, as soon as there are so many."""
        await until(lambda: len(self.readings) >= number)
        return self.readings[:number]

    async def hear_of(self, state: HealthState, after: int = 0) -> Reading:
        """The first reading of that state after so many others."""
        await until(lambda: state in self.states[after:])
        return next(reading for reading in self.readings[after:] if reading.state is state)


async def until(condition: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
    """Wait for a condition."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come to pass"
        await asyncio.sleep(0.001)


@asynccontextmanager
async def running(gatherer: Gatherer) -> AsyncIterator["asyncio.Task[None]"]:
    """The gatherer at work; cancelled at the end, which must not take long."""
    task = asyncio.create_task(gatherer.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5)


def beat(seq: Any = 1, **more: Any) -> dict[str, Any]:
    """A beat as the agent sends it, or another one."""
    checks = {"suricata": {"state": "healthy", "reason": "pid 312 runs"}}
    return {"v": 1, "boot": BOOT, "run": RUN, "seq": seq, "interval_ms": 100, "checks": checks, **more}


def line(seq: Any = 1, **more: Any) -> bytes:
    """A beat as it crosses the channel."""
    return json.dumps(beat(seq, **more), separators=(",", ":")).encode() + b"\n"


def checks(**states: str) -> dict[str, Any]:
    """Checks by name, each with a reason."""
    return {name: {"state": state, "reason": f"{name} is {state}"} for name, state in states.items()}
