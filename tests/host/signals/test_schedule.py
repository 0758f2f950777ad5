"""Asking again and again, on a clock that is moved by hand."""

import asyncio
from typing import Any

import pytest

from reconciler.host.signals import schedule
from reconciler.host.signals.schedule import poll


class Clock:
    """The loop's time, and its sleep."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    async def sleep(self, pause_s: float) -> None:
        assert pause_s >= 0
        self.now_s += pause_s


def asked_at(every_ms: int, *takes_s: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When questions are asked that take so long."""
    clock, moments = Clock(), list[float]()
    left = list(takes_s)

    class DoneError(Exception):
        pass

    async def ask() -> None:
        moments.append(round(clock.now_s - 1000, 3))
        if not left:
            raise DoneError
        clock.now_s += left.pop(0)

    class Asyncio:
        def __getattr__(self, name: str) -> Any:
            return {"get_running_loop": lambda: clock, "sleep": clock.sleep}[name]

    monkeypatch.setattr(schedule, "asyncio", Asyncio())
    with pytest.raises(DoneError):
        asyncio.run(poll(every_ms, ask))
    return moments


def test_the_first_question_is_asked_at_once_and_none_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_at(1000, 0.1, 0.9, 0.0, 0.5, monkeypatch=monkeypatch) == [0, 1, 2, 3, 4]


def test_what_was_missed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_at(1000, 2.5, 0.1, 1.0, 7.2, monkeypatch=monkeypatch) == [0, 3, 4, 5, 13]
