"""Calls that block, and do not keep anybody waiting."""

import asyncio
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.errors import TransientError
from reconciler.host.blocking import Appender, Outlet, Saver, StuckError, Workers

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


def test_a_system_without_a_thread_for_it_is_told_like_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scene() -> None:
        workers = Workers("calls")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(StuckError, match="calls: can't start new thread"):
                await workers.call(print, timeout_s=5)
        assert workers.busy == 0
        assert await workers.call(lambda: "through", timeout_s=5) == "through"

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


# --- lines to a reader who may stall ---------------------------------------------------------------------------------

PIPE = 4_096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of the least size: the end to read, the end to write."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE)
    yield ends
    for end in ends:
        os.close(end)


def lost(number: int) -> str:
    return f"lost {number}\n"


def read_until(descriptor: int, what: bytes) -> bytes:
    """What comes, up to `what`."""
    told = b""
    end_s = time.monotonic() + FOREVER_S
    os.set_blocking(descriptor, False)
    while not told.endswith(what):
        assert time.monotonic() < end_s, told[-200:]
        try:
            told += os.read(descriptor, 1)
        except BlockingIOError:
            time.sleep(0.001)
    return told


def test_lines_come_in_order_and_a_flush_waits_for_them(pipe: tuple[int, int]) -> None:
    outlet = Outlet(pipe[1], lost)
    for number in range(100):
        outlet.write(f"{number}\n")
    assert outlet.flush(FOREVER_S)
    assert os.read(pipe[0], PIPE).decode() == "".join(f"{number}\n" for number in range(100))
    assert outlet.lost == 0


def stuck(end: int) -> Outlet:
    """One whose thread waits for the reader with a line in its hands, and keeps ten characters."""
    os.write(end, b"x" * PIPE)
    outlet, end_s = Outlet(end, lost, bound=10), time.monotonic() + FOREVER_S
    outlet.write("taken\n")
    while outlet._waiting:
        assert time.monotonic() < end_s
        time.sleep(0.001)
    return outlet


def test_a_reader_that_stalls_keeps_nobody_waiting_and_is_told_what_it_missed(pipe: tuple[int, int]) -> None:
    outlet = stuck(pipe[1])
    for number in range(1_000):
        outlet.write(f"{number:04}\n")
    assert outlet.lost == 998
    assert not outlet.flush(0.01)
    told = read_until(pipe[0], b"lost 998\n")
    assert told.lstrip(b"x") == b"taken\n0000\n0001\nlost 998\n"
    # Told once; what comes then comes as ever.
    outlet.write("again\n")
    assert read_until(pipe[0], b"again\n") == b"again\n"
    assert outlet.lost == 998


def test_what_was_lost_is_told_where_it_is_missing(pipe: tuple[int, int]) -> None:
    outlet = stuck(pipe[1])
    outlet.write("kept\n")
    outlet.write("does not fit\n")
    outlet.write("fits\n")
    read_until(pipe[0], b"taken\nkept\nlost 1\nfits\n")


def test_a_reader_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outlet = Outlet(writer, lost)
    outlet.write("one\n")
    assert outlet.flush(FOREVER_S)
    assert outlet.lost == 1
    # Somebody is there again.
    again = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(again, writer)
    outlet.write("two\n")
    assert outlet.flush(FOREVER_S)
    assert (tmp_path / "log").read_text() == "lost 1\ntwo\n"
    os.close(again)
    os.close(writer)


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    outlet = Outlet(pipe[1], lost)
    for number in range(100):
        outlet.write(f"{number:099}\n")
    told = read_until(pipe[0], b"0099\n")
    assert told.count(b"\n") == 100
    assert outlet.lost == 0


# --- a file on a disk that may be slow or full -----------------------------------------------------------------------


class Disk:
    """What a saver writes to: slow, or full, as a test wants it."""

    def __init__(self) -> None:
        self.free, self.full = threading.Event(), False
        self.free.set()
        self.begun: list[object] = []
        self.written: list[object] = []
        self.tried: list[Exception | None] = []

    def __call__(self, value: object) -> None:
        self.begun.append(value)
        assert self.free.wait(FOREVER_S)
        if self.full:
            raise OSError(28, "No space left on device")
        self.written.append(value)


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + FOREVER_S
    while not condition():
        assert time.monotonic() < end_s, "it did not come to pass"
        time.sleep(0.001)


def test_what_is_given_is_written_and_who_wants_to_waits_for_it() -> None:
    disk = Disk()
    saver = Saver(disk, disk.tried.append)
    saver.wait(0)
    for number in (1, 2):
        saver.write(number)
        saver.wait(FOREVER_S)
        assert disk.written[-1] == number
    assert disk.tried == [None, None]
    # Between two writes there is no thread.
    wait_for(lambda: "saver" not in {thread.name for thread in threading.enumerate()})


def test_what_was_overtaken_is_never_written() -> None:
    disk = Disk()
    disk.free.clear()
    saver = Saver(disk)
    saver.write("first")
    wait_for(lambda: disk.begun == ["first"])
    for number in range(1_000):
        saver.write(number)
    with pytest.raises(TimeoutError):
        saver.wait(0.01)
    disk.free.set()
    saver.wait(FOREVER_S)
    assert disk.written == ["first", 999]


def test_who_waits_is_told_that_it_could_not_be_written_and_it_is_tried_again() -> None:
    disk = Disk()
    disk.full = True
    saver = Saver(disk, disk.tried.append, again_s=0.01)
    saver.write("a")
    with pytest.raises(OSError, match="No space"):
        saver.wait(FOREVER_S)
    wait_for(lambda: len(disk.tried) > 2)
    disk.full = False
    wait_for(lambda: disk.written == ["a"])
    wait_for(lambda: disk.tried[-1] is None)
    saver.wait(0)


def test_something_newer_is_written_at_once_after_a_failure() -> None:
    disk = Disk()
    disk.full = True
    saver = Saver(disk, again_s=3_600)
    saver.write("a")
    with pytest.raises(OSError, match="No space"):
        saver.wait(FOREVER_S)
    disk.full = False
    saver.write("b")
    saver.wait(FOREVER_S)
    assert disk.written == ["b"]


def test_a_value_that_cannot_be_written_at_all_is_told_like_any_other_failure() -> None:
    def write(value: object) -> None:
        raise TypeError(str(value))

    saver = Saver(write, again_s=3_600)
    saver.write("a")
    with pytest.raises(TypeError, match="a"):
        saver.wait(FOREVER_S)


def test_a_system_that_has_no_thread_for_it_is_told_and_the_next_value_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = Disk()
    saver = Saver(disk, disk.tried.append)
    with monkeypatch.context() as patch:
        patch.setattr(
            threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread"))
        )
        saver.write("a")
        with pytest.raises(RuntimeError, match="new thread"):
            saver.wait(0)
    saver.write("b")
    saver.wait(FOREVER_S)
    assert disk.written == ["b"]


def test_all_that_is_added_is_written_in_order_and_many_at_once() -> None:
    disk = Disk()
    disk.free.clear()
    appender = Appender(disk, at_once=3)
    appender.add(0)
    wait_for(lambda: disk.begun == [[0]])
    for number in range(1, 8):
        assert appender.add(number)
    assert appender.waiting == 8
    disk.free.set()
    appender.wait(FOREVER_S)
    assert disk.written == [[0], [1, 2, 3], [4, 5, 6], [7]]
    assert appender.waiting == 0


def test_what_a_full_disk_does_not_take_waits_and_what_finds_no_room_is_refused() -> None:
    disk = Disk()
    disk.full = True
    appender = Appender(disk, disk.tried.append, again_s=FOREVER_S, bound=2)
    assert [appender.add(number) for number in range(3)] == [True, True, False]
    with pytest.raises(OSError, match="No space"):
        appender.wait(FOREVER_S)
    disk.full = False
    appender.again()
    appender.wait(FOREVER_S)
    assert [one for batch in disk.written for one in batch] == [0, 1]
    assert appender.add(3)
