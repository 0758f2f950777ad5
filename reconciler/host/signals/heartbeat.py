"""The channel of the agent's beats: QEMU's end of a virtio-serial port (a unix socket), or vsock.

It connects, for ever: a VM that restarts takes its socket away and brings a new one. Reading is a callback of the loop,
not a task: at ten beats a second each microsecond is paid ten times.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.appliance.declared import Heartbeat
from reconciler.health.signal import HealthState, News, Reading
from reconciler.host.signals.beats import Beats

_FIRST_RETRY_S, _LAST_RETRY_S = 0.02, 1.0
_FLOOD_PAUSE_S = 1.0
_CONNECT_S = 2.0
_READ_BYTES = 16_384  # of each turn of the loop: a flood does not keep others waiting


@dataclass(frozen=True, slots=True)
class _End:
    """Why a connection is over; `dropped`: by us."""

    reason: str
    dropped: bool = False


class HeartbeatGatherer:
    """Gathers the beats of one channel."""

    def __init__(self, signal: str, source: Heartbeat, publish: Callable[[News], None]) -> None:
        self._signal, self._source, self._publish = signal, source, publish
        self.beats = Beats(signal, source.interval_ms)
        self._absent = False
        self._where = source.socket or f"vsock {source.cid}:{source.port}"

    async def run(self) -> None:
        """Connect, read, connect again, until cancelled."""
        retry_s = _FIRST_RETRY_S
        while True:
            before = self.beats.counters.beats
            end = await self._attend()
            if self.beats.counters.beats > before:
                retry_s = _FIRST_RETRY_S
            if end.dropped:
                # What it did was told. Absent would be kinder than the truth.
                await asyncio.sleep(_FLOOD_PAUSE_S)
                continue
            if not self._absent:
                self._absent = True
                self._publish(Reading(self._signal, HealthState.ABSENT, end.reason))
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)

    async def _attend(self) -> _End:
        """One connection from its beginning to its end."""
        family = socket.AF_UNIX if self._source.socket else socket.AF_VSOCK
        address = self._source.socket or (self._source.cid, self._source.port)
        loop = asyncio.get_running_loop()
        try:
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as channel:
                async with asyncio.timeout(_CONNECT_S):
                    await loop.sock_connect(channel, address)
                self.beats.connected()
                end: asyncio.Future[_End] = loop.create_future()
                loop.add_reader(channel, self._readable, channel, end)
                try:
                    return await end
                finally:
                    loop.remove_reader(channel)
        except TimeoutError:
            return _End(f"no connection to {self._where} within {_CONNECT_S:g} s")
        except OSError as error:
            # Not strerror: asyncio writes its own.
            why = os.strerror(error.errno) if error.errno else str(error)
            return _End(f"no connection to {self._where}: {why}")

    def _readable(self, channel: socket.socket, end: "asyncio.Future[_End]") -> None:
        if end.done():
            return
        try:
            self._read(channel, end)
        except BlockingIOError:
            return
        except OSError as error:
            end.set_result(_End(f"{self._where}: {error.strerror or error}"))
        except Exception as error:  # noqa: BLE001  # a bug: for whoever runs us, not for the loop's handler
            end.set_exception(error)

    def _read(self, channel: socket.socket, end: "asyncio.Future[_End]") -> None:
        data = channel.recv(_READ_BYTES)
        if not data:
            end.set_result(_End(f"{self._where} was closed by the hypervisor"))
            return
        fed = self.beats.feed(data, time.monotonic() * 1000)
        for reading in fed.readings:
            self._absent = False
            self._publish(reading)
        if fed.drop:
            end.set_result(_End("flooded", dropped=True))
