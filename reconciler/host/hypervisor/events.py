"""libvirt's events on our loop: libvirtaio, behind a door that every thread may use.

libvirt asks its event implementation to watch descriptors and timers from whatever thread a call runs in. libvirtaio
hands that straight to the asyncio loop, which is for the loop's own thread only; and our calls all run in workers. So
each request is put on the loop's queue, in order, under a number of our own that can be returned at once. That a change
takes effect a moment later is what libvirt expects: its own default implementation does the same.

There is one event implementation in a process, for ever; it follows to the loop that was attached last.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable
from typing import Any

import libvirt
import libvirtaio


class _Inner(libvirtaio.virEventAsyncIOImpl):  # type: ignore[misc]  # without types it is Any
    """libvirtaio, but that nothing of it is left over when the loop ends.

    It frees what libvirt has let go of in a coroutine; one that the loop's end overtakes is never awaited, and Python
    complains of it. A callback is merely dropped, with all else that the process held.
    """

    def schedule_ff_callback(self, _: int, opaque: Any) -> None:
        """Free `opaque` in the next turn of the loop: not at once, libvirt holds its locks now."""
        self.loop.call_soon(self._free, opaque)

    def _free(self, opaque: Any) -> None:
        libvirt.virEventInvokeFreeCallback(opaque)
        self._pending_dec()


class _Door:
    """The six functions that libvirt asks for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._numbers = itertools.count(1)
        self.follow(loop)

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch on `loop` from now on. What was watched on another one is forgotten: that one is closed."""
        self.loop = loop
        self._inner = _Inner(loop)
        self._theirs: dict[int, int] = {}  # our number → libvirtaio's; touched on the loop only

    def register(self) -> None:
        libvirt.virEventRegisterImpl(
            lambda *request: self._add(self._inner._add_handle, request),  # noqa: SLF001
            lambda number, events: self._soon(self._change, self._inner._update_handle, number, events),  # noqa: SLF001
            lambda number: self._remove(self._inner._remove_handle, number),  # noqa: SLF001
            lambda *request: self._add(self._inner._add_timeout, request),  # noqa: SLF001
            lambda number, ms: self._soon(self._change, self._inner._update_timeout, number, ms),  # noqa: SLF001
            lambda number: self._remove(self._inner._remove_timeout, number),  # noqa: SLF001
        )

    def _soon(self, call: Callable[..., object], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: the process ends
            return

    def _add(self, how: Callable[..., int], request: tuple[Any, ...]) -> int:
        number = next(self._numbers)
        self._soon(self._added, number, how, request)
        return number

    def _added(self, number: int, how: Callable[..., int], request: tuple[Any, ...]) -> None:
        self._theirs[number] = how(*request)

    def _change(self, how: Callable[[int, int], object], number: int, value: int) -> None:
        theirs = self._theirs.get(number)
        if theirs is not None:
            how(theirs, value)

    def _remove(self, how: Callable[[int], object], number: int) -> int:
        self._soon(self._removed, how, number)
        return 0

    def _removed(self, how: Callable[[int], object], number: int) -> None:
        theirs = self._theirs.pop(number, None)
        if theirs is not None:
            how(theirs)


_lock = threading.Lock()
_door: _Door | None = None


def attach(loop: asyncio.AbstractEventLoop) -> None:
    """Deliver libvirt's events on `loop`. To be called before the first connection is opened; from any thread."""
    global _door  # noqa: PLW0603  # one for the process: libvirt has no more
    with _lock:
        if _door is None:
            _door = _Door(loop)
            _door.register()
            # libvirt would print each error to stderr, beside raising it.
            libvirt.registerErrorHandler(lambda *_: None, None)
        elif _door.loop is not loop:
            _door.follow(loop)
