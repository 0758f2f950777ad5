"""What runs on the loop beside the turns: kept while it runs, and ended together."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from reconciler.daemon.journal import Journal
from reconciler.errors import ReconcilerError
from reconciler.guard.events import Event
from reconciler.host.blocking import Workers

# A guard's table is many hooks, and for each the kernel may wait for all cores.
_GUARD_S = 60.0


class Tasks:
    """Tasks that nobody else holds."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have it run."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def cancel(self) -> None:
        """Have all of them end."""
        for task in self._running:
            task.cancel()

    async def wait(self, timeout_s: float) -> None:
        """Wait until all have ended, but no longer than this."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)


class OneByOne:
    """What the guard asks for and may take long: done by a worker, in the order in which it was asked for.

    `answered` is called on the loop with what came of each.
    """

    def __init__(self, name: str, tasks: Tasks, journal: Journal, answered: Callable[[Event], None]) -> None:
        # One may have been abandoned.
        self._workers = Workers(name, limit=2)
        self._tasks, self._journal, self._answered = tasks, journal, answered
        self._turn = asyncio.Lock()
        self._waiting: set[asyncio.Task[None]] = set()

    def begin(self, work: Callable[[], Event], failed: Callable[[str], Event]) -> None:
        """Have it done; `failed` makes the answer where it has none, from the reason."""
        task = self._tasks.start(self._do(work, failed))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def idle(self) -> None:
        """Wait until all that was begun so far has its answer."""
        if self._waiting:
            await asyncio.wait(self._waiting)

    async def _do(self, work: Callable[[], Event], failed: Callable[[str], Event]) -> None:
        async with self._turn:
            try:
                event = await self._workers.call(work, timeout_s=_GUARD_S)
            except (TimeoutError, ReconcilerError) as error:
                event = failed(str(error) or f"it has not come back within {_GUARD_S:.0f} s")
            except Exception as error:  # noqa: BLE001 - whatever it is: who waits for an answer gets one
                self._journal.bug(error, " in what the guard asked for")
                event = failed(f"internal error: {type(error).__name__}")
        self._answered(event)
