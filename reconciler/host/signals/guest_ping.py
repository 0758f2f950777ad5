"""The QEMU guest agent's answer to a ping, through libvirt.

While the guest's file systems are frozen for a backup, silence is no evidence: most of the guest waits by order. The
agent says so itself, with each answer; so a freeze is known of from the last answer before the silence.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from reconciler.appliance.declared import GuestPing, Libvirt
from reconciler.errors import ReconcilerError, TransientError
from reconciler.health.signal import HealthState, News, Reading
from reconciler.host.blocking import Workers
from reconciler.host.hypervisor import link
from reconciler.host.signals.schedule import poll

_PING, _FREEZE = '{"execute":"guest-ping"}', '{"execute":"guest-fsfreeze-status"}'
# A freeze that lasts longer is not believed any more.
_FREEZE_MAX_S = 120.0
# Beyond what libvirt itself waits for the agent: then it is libvirt that does not answer.
_MARGIN_S = 2.0
_CLOSE_S = 0.5
FROZEN = "its file systems are frozen, as for a backup"


class GuestPingGatherer:
    """Pings again and again; never twice at once."""

    def __init__(self, signal: str, source: GuestPing, vm: Libvirt, publish: Callable[[News], None]) -> None:
        self._signal, self._source, self._publish = signal, source, publish
        self._workers = Workers(f"signal {signal}", limit=1)
        self._agent = _Agent(vm)

    async def run(self) -> None:
        """Ping at once and then on schedule, until cancelled."""
        try:
            await poll(self._source.every_ms, self._ask)
        finally:
            # While the loop still runs: libvirt frees its handles there. Whoever hangs is not waited for.
            await asyncio.wait([self._workers.dispose(self._agent.close)], timeout=_CLOSE_S)

    async def _ask(self) -> None:
        # libvirt counts this time limit in whole seconds.
        whole_s = math.ceil(self._source.timeout_ms / 1000)
        loop = asyncio.get_running_loop()
        try:
            answer = await self._workers.call(self._agent.ping, loop, whole_s, timeout_s=2 * whole_s + _MARGIN_S)
            state, reason = self._judged(*answer)
        except ReconcilerError as error:
            state, reason = HealthState.ABSENT, str(error)
        except TimeoutError:
            state, reason = HealthState.ABSENT, "libvirt does not answer"
        self._publish(Reading(self._signal, state, reason))

    def _judged(self, state: HealthState, reason: str, took_ms: float) -> tuple[HealthState, str]:
        if state is HealthState.HEALTHY and took_ms > self._source.timeout_ms:
            return HealthState.FAILED, f"the guest agent took {took_ms:.0f} ms to answer"
        return state, reason


class _Agent:
    """The agent's end of a connection to libvirt. Blocks; for workers, one at a time."""

    def __init__(self, vm: Libvirt) -> None:
        self._vm = vm
        self._turn = threading.Lock()
        self._connection: Any = None
        self._tells_freeze = True
        self._frozen_s = float("-inf")

    def ping(self, loop: asyncio.AbstractEventLoop, timeout_s: int) -> tuple[HealthState, str, float]:
        """State, reason and how long the agent took, in milliseconds.

        Raises:
            HostError: libvirt-python is not installed.
            TransientError: libvirt or the VM is not there to be asked.

        """
        libvirt = link.library()
        with self._turn:
            if self._connection is None:
                self._connection = link.connect(self._vm.uri, loop)
            try:
                return self._ping(timeout_s)
            except libvirt.libvirtError as error:
                if error.get_error_code() in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                    raise TransientError(f"{self._vm.domain} does not run") from None
                self._drop()
                raise TransientError(f"libvirt at {self._vm.uri}: {link.text(error)}") from None

    def _ping(self, timeout_s: int) -> tuple[HealthState, str, float]:
        import libvirt_qemu

        libvirt = link.library()
        domain = link.find(self._connection, self._vm.domain)
        if domain is None:
            raise TransientError(f"{self._vm.domain} is not defined in libvirt")
        began_s = time.monotonic()
        try:
            libvirt_qemu.qemuAgentCommand(domain, _PING, timeout_s, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in _silences(libvirt):
                raise
            if time.monotonic() - self._frozen_s < _FREEZE_MAX_S:
                return HealthState.ABSENT, FROZEN, 0.0
            return HealthState.FAILED, f"the guest agent does not answer: {link.text(error)}", 0.0
        took_ms = (time.monotonic() - began_s) * 1000
        if self._is_frozen(domain, timeout_s):
            return HealthState.ABSENT, FROZEN, took_ms
        return HealthState.HEALTHY, "the guest agent answers", took_ms

    def _is_frozen(self, domain: Any, timeout_s: int) -> bool:
        import libvirt_qemu

        if not self._tells_freeze:
            return False
        now_s = time.monotonic()
        try:
            answer = libvirt_qemu.qemuAgentCommand(domain, _FREEZE, timeout_s, 0)
        except link.library().libvirtError as error:
            # Some agents do not know the question, or may not answer it: one that answers pings is not asked again.
            self._tells_freeze = error.get_error_code() in _silences(link.library())
            return False
        frozen = '"frozen"' in answer[:1000]
        if not frozen:
            self._frozen_s = float("-inf")
        elif self._frozen_s == float("-inf"):
            self._frozen_s = now_s
        return frozen and now_s - self._frozen_s < _FREEZE_MAX_S

    def close(self) -> None:
        """Close the connection."""
        with self._turn:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            link.close(self._connection)
        self._connection, self._tells_freeze = None, True


def _silences(libvirt: Any) -> tuple[int, ...]:
    """Errors that mean: the VM runs, and no agent in it answers."""
    # The last one: the VM has no channel for an agent.
    names = ("AGENT_UNRESPONSIVE", "AGENT_UNSYNCED", "AGENT_COMMAND_TIMEOUT", "ARGUMENT_UNSUPPORTED")
    return tuple(getattr(libvirt, f"VIR_ERR_{name}") for name in names if hasattr(libvirt, f"VIR_ERR_{name}"))
