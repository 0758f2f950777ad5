"""What libvirt tells of the VM's life: its state on connect and each second, and its events as they come.

Events are told at once, where they say by themselves what is the matter; each also makes the state be read again. The
state is told each second even if it stays, so that `fall: 3` of this signal means something. No call to libvirt runs on
the loop; its callbacks do.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from reconciler.appliance.declared import Libvirt
from reconciler.errors import ReconcilerError, TransientError
from reconciler.health.signal import HealthState, News
from reconciler.host.blocking import Workers
from reconciler.host.hypervisor import link
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.signals.life import Biography, DomainFacts

_AGAIN_S = 1.0
_OPEN_S, _CLOSE_S = 10.0, 0.5
# libvirt keeps everybody waiting while it kills a QEMU that will not die: then nothing is known, but the connection and
# its events are as good as before. A libvirtd that is dead itself is found by the keepalive.
_ANSWER_S, _GIVE_UP_S = 5.0, 120.0
_FIRST_RETRY_S, _LAST_RETRY_S = 0.05, 1.0
# A state may be older than an event that came while it was read, or than whatever libvirt kept it waiting for: so often
# it is read again before it is told.
_REREADS, _STALE_S = 3, 0.5
_SILENT = "libvirt does not answer"
# virConnectCloseReason
_CLOSE_REASONS = {
    0: "the connection failed",
    1: "libvirtd closed the connection",
    2: "libvirtd does not answer",
    3: "the connection was closed here",
}


class DomainGatherer:
    """Gathers what libvirt tells of one domain."""

    def __init__(
        self, signal: str, source: Libvirt, publish: Callable[[News], None], own_actions: OwnActions, workers: Workers
    ) -> None:
        self._source, self._publish, self._workers = source, publish, workers
        self._judge = Biography(signal, source.domain, own_actions)
        self._dirty = asyncio.Event()
        self._retry_s = _FIRST_RETRY_S
        self._absent = False

    async def run(self) -> None:
        """Connect, follow, connect again, until cancelled."""
        while True:
            try:
                await self._attend()
            except (ReconcilerError, TimeoutError) as error:
                self._gone(str(error) or _SILENT)
            await asyncio.sleep(self._retry_s)
            self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)

    async def _attend(self) -> None:
        """One connection, from its beginning to its end, which is an error."""
        session = _Session(self._source, asyncio.get_running_loop(), self)
        try:
            await self._workers.call(session.open, timeout_s=_OPEN_S)
            while True:
                await self._read(session)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_S):
                        await self._dirty.wait()
        finally:
            session.over = True
            # While the loop still runs: libvirt frees its handles there. Whoever hangs is not waited for.
            await asyncio.wait([self._workers.dispose(session.close)], timeout=_CLOSE_S)

    async def _read(self, session: "_Session") -> None:
        for _ in range(_REREADS):
            self._dirty.clear()
            if session.lost:
                raise TransientError(f"libvirt is not reachable at {self._source.uri}: {session.lost}")
            began_s = time.monotonic()
            late = asyncio.get_running_loop().call_later(_ANSWER_S, self._gone, _SILENT)
            try:
                seen = await self._workers.call(session.read, timeout_s=_GIVE_UP_S)
            finally:
                late.cancel()
            if not self._dirty.is_set() and time.monotonic() - began_s < _STALE_S:
                break
        self._retry_s = _FIRST_RETRY_S
        self._tell(self._judge.state(seen, time.monotonic()))

    def _gone(self, reason: str) -> None:
        if not self._absent:
            self._tell(self._judge.gone(reason))

    def _tell(self, news: News | None) -> None:
        if news is not None:
            self._absent = getattr(news, "state", None) is HealthState.ABSENT
            self._publish(news)

    def reported(self, what: Callable[[Biography, float], News | None] | None) -> None:
        """Libvirt told something, on the loop; None: that the connection is gone."""
        if what is not None:
            self._tell(what(self._judge, time.monotonic()))
        self._dirty.set()


class _Session:
    """One connection. `open`, `read` and `close` block; they are for workers, and take turns.

    So a call that was abandoned may come back whenever it wants: `close` closes what it left behind.
    """

    def __init__(self, source: Libvirt, loop: asyncio.AbstractEventLoop, gatherer: DomainGatherer) -> None:
        self._source, self._loop, self._gatherer = source, loop, gatherer
        self._turn = threading.Lock()
        self._connection: Any = None
        self._callbacks: list[int] = []
        self.over = False
        self.lost = ""

    def open(self) -> None:
        """Connect and listen.

        Raises:
            HostError: libvirt-python is not installed.
            TransientError: nobody answers.

        """
        with self._turn:
            self._connection = link.connect(self._source.uri, self._loop)
            libvirt = link.library()
            with contextlib.suppress(libvirt.libvirtError):  # a driver inside this process cannot be lost
                self._connection.registerCloseCallback(self._closed, None)
            for event, callback in (
                (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle),
                (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._reboot),
                (libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG, self._watchdog),
                (libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, self._io_error),
            ):
                # Of all domains: ours may be defined later, or another time. Not every driver knows every event.
                with contextlib.suppress(libvirt.libvirtError):
                    self._callbacks.append(self._connection.domainEventRegisterAny(None, event, callback, None))

    def read(self) -> DomainFacts | None:
        """The domain as it is; None: there is none.

        Raises:
            TransientError: nobody answers.

        """
        libvirt = link.library()
        with self._turn:
            try:
                domain = link.find(self._connection, self._source.domain)
                if domain is None:
                    return None
                life, reason = domain.state()
                return DomainFacts(life, reason, domain.ID())
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None  # undefined in between
                raise TransientError(f"libvirt at {self._source.uri}: {link.text(error)}") from None

    def close(self) -> None:
        """Close what is open, after whoever is still at it."""
        with self._turn:
            if self._connection is None:
                return
            libvirt = link.library()
            # Callbacks hold the connection: it would stay open.
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.unregisterCloseCallback()
            for callback in self._callbacks:
                with contextlib.suppress(libvirt.libvirtError):
                    self._connection.domainEventDeregisterAny(callback)
            link.close(self._connection)
            self._connection = None

    # What libvirt calls: on the loop, or in the thread of a call that finds the connection broken.

    def _closed(self, _: Any, reason: int, __: Any) -> None:
        self.lost = _CLOSE_REASONS.get(reason, "the connection was lost")
        self._soon(None)

    def _lifecycle(self, _: Any, domain: Any, event: int, detail: int, __: Any) -> None:
        if link.is_it(domain, self._source.domain):
            self._soon(lambda judge, now_s: judge.event(event, detail, now_s))

    def _reboot(self, _: Any, domain: Any, __: Any) -> None:
        if link.is_it(domain, self._source.domain):
            self._soon(lambda judge, _: judge.reboot())

    def _watchdog(self, _: Any, domain: Any, action: int, __: Any) -> None:
        if link.is_it(domain, self._source.domain):
            self._soon(lambda judge, now_s: judge.watchdog(action, now_s))

    def _io_error(self, _: Any, domain: Any, __: str, device: str, action: int, why: str, ___: Any) -> None:
        if link.is_it(domain, self._source.domain):
            self._soon(lambda judge, now_s: judge.io_error(device, action, why, now_s))

    def _soon(self, what: Callable[[Biography, float], News | None] | None) -> None:
        def report() -> None:
            if not self.over:
                self._gatherer.reported(what)

        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(report)
