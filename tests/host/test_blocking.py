"""Calls that block, and do not keep anybody waiting."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from reconciler.errors import TransientError
from reconciler.host.blocking import StuckError, Workers

FOREVER_S = 10


async def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end_s, "it did not come to pass"
        await asyncio.sleep(0.001)


class Gate:
    """What blocks until it is opened."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.entered = 0

    def __call__(self, result: str = "through") -> str:
        self.entered += 1
        assert self.event.wait(FOREVER_S)
        return result


def test_a_result_comes_back() -> None:
    async def scene() -> None:
        workers = Workers("test")
        assert await workers.call(lambda a, b: a + b, 2, 3, timeout_s=5) == 5
        assert workers.busy == 0

    asyncio.run(scene())


def test_it_runs_beside_the_loop_in_a_thread_that_no_exit_waits_for() -> None:
    async def scene() -> None:
        thread = await Workers("test").call(threading.current_thread, timeout_s=5)
        assert thread is not threading.current_thread()
        assert thread.daemon

    asyncio.run(scene())


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), TransientError("no")])
def test_whatever_it_raises_is_raised_here(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def scene() -> None:
        workers = Workers("test")
        caught: BaseException | None = None
        try:
            await workers.call(fail, timeout_s=5)
        except BaseException as raised:  # noqa: BLE001
            caught = raised
        assert caught is error
        assert workers.busy == 0

    asyncio.run(scene())


def test_the_loop_goes_on_and_who_is_late_is_abandoned() -> None:
    async def scene() -> None:
        workers, gate = Workers("test"), Gate()
        with pytest.raises(TimeoutError):
            await workers.call(gate, timeout_s=0.02)
        assert workers.busy == 1
        gate.event.set()
        await until(lambda: workers.busy == 0)

    asyncio.run(scene())


def test_no_more_than_the_limit_are_on_their_way() -> None:
    async def scene() -> None:
        workers, gate = Workers("stuck things", limit=2), Gate()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await workers.call(gate, timeout_s=0.01)
        with pytest.raises(StuckError, match=r"2 earlier calls \(stuck things\) have not come back"):
            await workers.call(gate, timeout_s=0.01)
        assert gate.entered == 2
        gate.event.set()
        await until(lambda: workers.busy == 0)
        assert await workers.call(gate, timeout_s=5) == "through"

    asyncio.run(scene())


@pytest.mark.parametrize("how", ["late", "cancelled"])
def test_a_result_that_nobody_waits_for_is_disposed_of(how: str) -> None:
    async def scene() -> None:
        workers, gate = Workers("test"), Gate()
        disposed: list[tuple[str, bool]] = []
        task = asyncio.create_task(
            workers.call(
                gate,
                "a connection",
                timeout_s=0.01 if how == "late" else 5,
                late=lambda result: disposed.append((result, threading.current_thread() is threading.main_thread())),
            )
        )
        await until(lambda: gate.entered == 1)
        if how == "cancelled":
            task.cancel()
        with pytest.raises((TimeoutError, asyncio.CancelledError)):
            await task
        gate.event.set()
        await until(lambda: bool(disposed))
        assert disposed == [("a connection", False)]
        await until(lambda: workers.busy == 0)

    asyncio.run(scene())


def test_disposal_is_never_refused() -> None:
    async def scene() -> None:
        workers, gate = Workers("test", limit=1), Gate()
        with pytest.raises(TimeoutError):
            await workers.call(gate, timeout_s=0.01)
        done: list[int] = []
        workers.dispose(done.append, 1)
        workers.dispose(lambda: 1 / 0)
        await until(lambda: done == [1] and workers.busy == 1)
        gate.event.set()
        await until(lambda: workers.busy == 0)

    asyncio.run(scene())


def test_a_result_after_the_loop_has_closed_is_disposed_of() -> None:
    gate = Gate()
    disposed: list[str] = []

    async def scene() -> None:
        with pytest.raises(TimeoutError):
            await Workers("test").call(gate, timeout_s=0.01, late=disposed.append)

    asyncio.run(scene())
    gate.event.set()
    end_s = time.monotonic() + 5
    while not disposed and time.monotonic() < end_s:
        time.sleep(0.001)
    assert disposed == ["through"]


def test_a_stuck_call_does_not_keep_the_process_from_ending() -> None:
    program = (
        "import asyncio, time\n"
        "from reconciler.host.blocking import Workers\n"
        "async def scene():\n"
        "    try: await Workers('x').call(time.sleep, 600, timeout_s=0.01)\n"
        "    except TimeoutError: print('abandoned')\n"
        "asyncio.run(scene())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert (done.stdout, done.stderr) == ("abandoned\n", "")
