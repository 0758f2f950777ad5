"""Restarting a VM that libvirt runs.

Every call may block: libvirt gives a stopped QEMU ten seconds before it kills it. So the whole restart is one call in a
worker. When its time is over it is abandoned, and then it begins no further step: a VM that somebody shut down
meanwhile is not started by a straggler.

Until the first step, libvirt was only looked at: what ends before it has not reached the VM, and never will. From then
on nobody knows what a libvirt that does not answer has done, or will do when it wakes up.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

from reconciler.appliance.declared import Libvirt
from reconciler.errors import HostError, TransientError, UnreachedError
from reconciler.host.blocking import Workers
from reconciler.host.hypervisor import link
from reconciler.host.hypervisor.own_actions import OwnActions

# A reset is a matter of milliseconds, but waits for ever for a QEMU that is stopped; libvirt kills one within 15 s.
_LIMITS_S = {"reset": 10.0, "destroy-and-start": 30.0}


class LibvirtHypervisor:
    """Restarts one domain."""

    def __init__(self, source: Libvirt, own_actions: OwnActions, limits_s: Mapping[str, float] = _LIMITS_S) -> None:
        self._source, self._own_actions, self._limits_s = source, own_actions, limits_s
        self._workers = Workers("libvirt restarts")

    async def restart(self, method: str) -> None:
        """As `Hypervisor.restart`."""
        limit_s = self._limits_s.get(method)
        if limit_s is None:
            raise HostError(f"no method to restart a VM: {method}")
        attempt = _Attempt(self._source, asyncio.get_running_loop())
        self._own_actions.acting = True
        try:
            await self._workers.call(attempt.run, method, timeout_s=limit_s)
        except TimeoutError:
            if attempt.abandon():
                raise TransientError(f"libvirt: {method} of {self._source.domain} took over {limit_s:g} s") from None
            raise UnreachedError(f"libvirt at {self._source.uri} does not answer within {limit_s:g} s") from None
        except asyncio.CancelledError:
            if attempt.abandon():
                raise
            raise UnreachedError(f"{method} of {self._source.domain} was called off") from None
        else:
            self._own_actions.destroyed = False
        finally:
            if attempt.abandon() and attempt.destroyed and not attempt.started:
                self._own_actions.destroyed = True
            self._own_actions.acting = False


class _Attempt:
    """One restart. `run` blocks; it is for a worker."""

    def __init__(self, source: Libvirt, loop: asyncio.AbstractEventLoop) -> None:
        self._source, self._loop = source, loop
        self._door = threading.Lock()
        self._asked = self._abandoned = False
        self.destroyed = self.started = False

    def abandon(self) -> bool:
        """Begin no further step; whether one was begun."""
        with self._door:
            self._abandoned = True
            return self._asked

    def run(self, method: str) -> None:
        try:
            libvirt = link.library()
        except HostError as error:
            raise UnreachedError(str(error)) from None
        connection = link.connect(self._source.uri, self._loop)
        try:
            domain = link.find(connection, self._source.domain)
            if domain is None:
                raise HostError(f"libvirt at {self._source.uri} has no domain {self._source.domain}")
            if method == "reset":
                self._reset(libvirt, domain)
            else:
                self._destroy_and_start(libvirt, domain)
        except libvirt.libvirtError as error:
            raise self._error(libvirt, method, error) from None
        finally:
            link.close(connection)

    def _reset(self, libvirt: Any, domain: Any) -> None:
        if not domain.isActive():
            self._start(libvirt, domain)
            return
        self._step(domain.reset)
        self.started = True
        # A VM that crashed, or was paused by its watchdog or an I/O error, is paused after the reset.
        if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
            self._step(domain.resume)

    def _destroy_and_start(self, libvirt: Any, domain: Any) -> None:
        if not domain.isPersistent():
            raise HostError(
                f"libvirt: {self._source.domain} is transient: destroyed, nothing of it is left to be started"
            )
        if domain.isActive():
            # Said before it is done: whoever sees the VM down must know whose doing it is.
            self.destroyed = True
            self._unless_so(libvirt, domain.destroy)
        self._start(libvirt, domain)

    def _start(self, libvirt: Any, domain: Any) -> None:
        self._unless_so(libvirt, domain.create)
        self.started = True

    def _unless_so(self, libvirt: Any, step: Callable[[], object]) -> None:
        """A step that is refused because it is so already has succeeded: somebody was faster."""
        try:
            self._step(step)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise

    def _step(self, step: Callable[[], object]) -> None:
        with self._door:
            if self._abandoned:
                raise TransientError("abandoned")
            self._asked = True
        step()

    def _error(self, libvirt: Any, method: str, error: Any) -> HostError | TransientError:
        text = f"libvirt: {method} of {self._source.domain}: {link.text(error)}"
        if not self._asked and error.get_error_domain() == libvirt.VIR_FROM_RPC:
            return UnreachedError(text)
        names = ("OPERATION_DENIED", "AUTH_FAILED", "ACCESS_DENIED", "NO_SUPPORT")
        hopeless = [getattr(libvirt, f"VIR_ERR_{name}") for name in names]
        return HostError(text) if error.get_error_code() in hopeless else TransientError(text)
