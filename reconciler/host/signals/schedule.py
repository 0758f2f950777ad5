"""Asking again and again, at moments that do not drift."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn


async def poll(every_ms: int, ask: Callable[[], Awaitable[None]]) -> NoReturn:
    """Ask at once, and then each `every_ms`, until cancelled; one question at a time.

    The moments are multiples of the interval after the first, whatever the answers take. Moments that passed during an
    answer are left out, not made up for.
    """
    loop = asyncio.get_running_loop()
    every_s = every_ms / 1000
    next_s = loop.time()
    while True:
        await ask()
        next_s += every_s * max(1, -((next_s - loop.time()) // every_s))
        await asyncio.sleep(next_s - loop.time())
