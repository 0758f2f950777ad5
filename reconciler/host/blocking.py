"""Calls that may block, in threads that nobody waits for longer than agreed.

libvirt answers in a millisecond, or not for ten seconds when a QEMU is stopped. The loop must never wait for it, and
neither must the end of the process: `asyncio.to_thread` and ThreadPoolExecutor join their threads at exit, so that one
stuck call would keep the daemon from ending. Here a call has a thread of its own, a daemon thread; one that does not
come back in time is abandoned, and only so many may be on the way at once.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from reconciler.errors import TransientError

_T = TypeVar("_T")


class StuckError(TransientError):
    """As many calls as are allowed are still on the way; another one would only be one more."""


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
            StuckError: too many are on the way already.
            Exception: whatever `function` raises.

        """
        if self._busy >= self._limit:
            raise StuckError(f"{self._busy} earlier calls ({self._name}) have not come back")
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._start(future, late, function, *args)
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
