"""What may block, in threads that nobody waits for longer than agreed.

libvirt answers in a millisecond, or not for ten seconds when a QEMU is stopped; a disk, a name service or the reader
of the log may take as long. The loop must never wait for them, and neither must the end of the process:
`asyncio.to_thread` and ThreadPoolExecutor join their threads at exit, so that one stuck call would keep the daemon from
ending. Here all threads are daemon threads, and each kind of work has its bound:

- `Workers`: calls with a result. Each has a thread of its own; one that does not come back in time is abandoned, and
  only so many may be on the way at once.
- `Outlet`: text to a reader who may stall. What does not fit is lost, and counted.
- `Saver`: a file on a disk that may be slow or full. What was overtaken by something newer is never written.
- `Appender`: the same for a file to which all is added, in order. What does not fit is lost, and its giver told.
"""

import asyncio
import contextlib
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from reconciler.errors import UnreachedError

_T = TypeVar("_T")


def exit_within(seconds: float, status: int) -> None:
    """End this process after so long, if it has not ended by then, whatever hangs in it. Does not wait."""

    def end() -> None:
        time.sleep(seconds)
        os._exit(status)

    threading.Thread(target=end, name="last resort", daemon=True).start()


class StuckError(UnreachedError):
    """The call was not made: as many as are allowed are still on the way, and it would only be one more."""


class Workers:
    """At most `limit` blocking calls at once. Used from one event loop."""

    def __init__(self, name: str, limit: int = 4) -> None:
        self._name, self._limit = name, limit
        self._busy = 0

    @property
    def busy(self) -> int:
        """How many calls have not come back, abandoned ones included."""
        return self._busy

    async def call(
        self, function: Callable[..., _T], *args: Any, timeout_s: float, late: Callable[[_T], object] | None = None
    ) -> _T:
        """What `function(*args)` returns, computed in a thread.

        `late` takes, in a thread too, a result that came after nobody waited for it any more: a connection to be
        closed, say.

        Raises:
            TimeoutError: it has not come back within `timeout_s`; it is abandoned.
            StuckError: too many are on the way already, or the system has no thread for it.
            Exception: whatever `function` raises.

        """
        if self._busy >= self._limit:
            raise StuckError(f"{self._busy} earlier calls ({self._name}) have not come back")
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        try:
            self._start(future, late, function, *args)
        except RuntimeError as error:
            raise StuckError(f"{self._name}: {error}") from None
        async with asyncio.timeout(timeout_s):
            return await future

    def dispose(self, function: Callable[..., object], *args: Any) -> "asyncio.Future[None]":
        """Run `function(*args)`, whatever becomes of it: for what must be closed although closing may block.

        Never refused, because each thing is disposed of once, and `call` refuses to make more of them. Who wants to may
        wait for the future; what the function raises is nobody's.
        """

        def quietly() -> None:
            with contextlib.suppress(Exception):
                function(*args)

        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._start(future, None, quietly)
        return future

    def _start(
        self,
        future: "asyncio.Future[_T]",
        late: Callable[[_T], object] | None,
        function: Callable[..., _T],
        *args: Any,
    ) -> None:
        loop = future.get_loop()

        def work() -> None:
            result: Any = None
            failure: BaseException | None = None
            try:
                result = function(*args)
            except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                failure = error
            try:
                loop.call_soon_threadsafe(self._back, future, late, result, failure)
            except RuntimeError:  # the loop is closed: nobody is left to tell
                if late is not None and failure is None:
                    late(result)

        # Counted before it runs, and by the loop alone: no lock is needed.
        self._busy += 1
        try:
            threading.Thread(target=work, name=self._name, daemon=True).start()
        except RuntimeError:  # "can't start new thread"
            self._busy -= 1
            raise

    def _back(
        self, future: "asyncio.Future[Any]", late: Callable[[Any], object] | None, result: Any, failure: Any
    ) -> None:
        self._busy -= 1
        if not future.done():
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)
        elif failure is None and late is not None:
            self.dispose(late, result)


class Outlet:
    """Lines to a descriptor, written by a thread: who writes here never waits for who reads there.

    Up to `bound` characters wait for the reader. A line that does not fit is lost; so is one that the kernel refuses.
    How many were lost is told to the reader in a line by itself (`lost_line` makes it), where they are missing.
    """

    def __init__(self, descriptor: int, lost_line: Callable[[int], str], bound: int = 1 << 18) -> None:
        self._descriptor, self._lost_line, self._bound = descriptor, lost_line, bound
        self._waiting: deque[str] = deque()
        self._size = 0
        # Held for moments only: never while anything is written.
        self._changed = threading.Condition()
        self._writing = False
        self._untold = 0
        self.lost = 0
        threading.Thread(target=self._write_for_ever, name="log", daemon=True).start()

    def write(self, line: str) -> None:
        """Have a line written, which ends with a newline. Never blocks, and never fails."""
        with self._changed:
            if self._size + len(line) > self._bound:
                self._lose(1)
                return
            self._admit_loss()
            self._put(line)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is written, but no longer than this; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._writing, timeout_s)

    def _put(self, line: str) -> None:
        self._waiting.append(line)
        self._size += len(line)
        self._changed.notify_all()

    def _lose(self, number: int) -> None:
        self.lost += number
        self._untold += number

    def _admit_loss(self) -> None:
        if self._untold:
            number, self._untold = self._untold, 0
            self._put(self._lost_line(number))

    def _write_for_ever(self) -> None:
        while True:
            lines = self._take()
            written = self._write(b"".join(line.encode("utf-8", "backslashreplace") for line in lines))
            with self._changed:
                self._writing = False
                if not written:
                    self._lose(len(lines))
                elif not self._waiting:
                    # Nobody may have more to say for long.
                    self._admit_loss()
                self._changed.notify_all()

    def _take(self) -> tuple[str, ...]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            lines = tuple(self._waiting)
            self._waiting.clear()
            self._size, self._writing = 0, True
            return lines

    def _write(self, data: bytes) -> bool:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                # Whoever shares it with us has made it so.
                poller = select.poll()
                poller.register(self._descriptor, select.POLLOUT)
                poller.poll()
            except OSError:
                return False
        return True


class Saver:
    """Has the newest of what it is given written, by a thread: who gives never waits for the disk.

    `write` writes a value, or raises; one that failed is written again each `again_s`, unless a newer one comes.
    `tried` is told, by the thread, how each attempt ended: None, or by what it failed.
    """

    def __init__(
        self,
        write: Callable[[Any], object],
        tried: Callable[[Exception | None], object] = lambda _: None,
        again_s: float = 10.0,
    ) -> None:
        self._do_write, self._on_tried, self._again_s = write, tried, again_s
        # Held for moments only: never while anything is written.
        self._changed = threading.Condition()
        self._newest: Any = None
        self._given = self._tried = 0
        self._failure: Exception | None = None
        self._working = False

    def write(self, value: Any) -> None:
        """Have a value written, in place of any other that waits. Never blocks, and never fails."""
        with self._changed:
            self._newest, self._given = value, self._given + 1
            self._changed.notify_all()
            if not self._working:
                self._begin()

    def wait(self, timeout_s: float) -> None:
        """Wait until what was given so far, or something newer, is on disk. Blocks.

        Raises:
            TimeoutError: it has not got there yet.
            Exception: it could not be written this time; whatever `write` raises.

        """
        with self._changed:
            given = self._given
            if not self._changed.wait_for(lambda: self._tried >= given, timeout_s):
                raise TimeoutError(f"the disk has not answered for {timeout_s:g} s")
            if self._failure is not None:
                raise self._failure

    def _begin(self) -> None:
        try:
            threading.Thread(target=self._work, name="saver", daemon=True).start()
            self._working = True
        except RuntimeError as error:  # "can't start new thread"; the next value tries it again
            self._tried, self._failure = self._given, error
            self._on_tried(error)

    def _work(self) -> None:
        while (next_one := self._next()) is not None:
            number, value = next_one
            failure: Exception | None = None
            try:
                self._do_write(value)
            except Exception as error:  # noqa: BLE001 - whatever it is: it is told, and tried again
                failure = error
            self._on_tried(failure)
            with self._changed:
                self._tried, self._failure = number, failure
                self._changed.notify_all()

    def _next(self) -> tuple[int, Any] | None:
        """What to write now, with its number; None: all is written, and the thread ends."""
        with self._changed:
            if self._failure is not None:
                self._changed.wait_for(lambda: self._tried != self._given, self._again_s)
            elif self._tried == self._given:
                self._working = False
                return None
            return self._given, self._newest


class Appender(Saver):
    """Has all that it is given written, in order, by a thread: as a `Saver`, with `append` for several values at once.

    Up to `bound` values wait, of which it gets `at_once` at most, again and again until it takes them. One that does
    not fit is lost: `add` says so.
    """

    def __init__(
        self,
        append: Callable[[Sequence[Any]], object],
        tried: Callable[[Exception | None], object] = lambda _: None,
        again_s: float = 10.0,
        bound: int = 4_096,
        at_once: int = 256,
    ) -> None:
        super().__init__(self._append_all, tried, again_s)
        self._append, self._bound, self._at_once = append, bound, at_once
        self._waiting: deque[Any] = deque()

    @property
    def waiting(self) -> int:
        """How many are not written yet."""
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many more may wait."""
        return self._bound - len(self._waiting)

    def add(self, value: Any) -> bool:
        """Have a value written after all others; whether there was room for it. Never blocks, and never fails."""
        with self._changed:
            if self.room <= 0:
                return False
            self._waiting.append(value)
            self.write(None)
            return True

    def again(self) -> None:
        """Have what waits tried again at once."""
        self.write(None)

    def _append_all(self, _: None) -> None:
        while batch := list(itertools.islice(self._waiting.copy(), self._at_once)):
            self._append(batch)
            with self._changed:
                for _one in batch:
                    self._waiting.popleft()
