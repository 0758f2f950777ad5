"""What runs on the loop beside the turns: kept while it runs, and ended together."""

import asyncio
from collections.abc import Coroutine
from typing import Any


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
