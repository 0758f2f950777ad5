"""All gatherers of an appliance, each under supervision.

A gatherer is one signal's source at work: it runs until it is cancelled, and publishes what it sees. How many readings
make a verdict is not its business.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, assert_never

from reconciler.appliance.declared import (
    Appliance,
    Canary,
    Carrier,
    Command,
    Domain,
    GuestPing,
    Heartbeat,
    HostPath,
    Http,
    Libvirt,
    Signal,
    Source,
)
from reconciler.errors import HostError
from reconciler.health.signal import HealthState, News, Reading
from reconciler.host.blocking import Workers
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.signals.command import CommandGatherer
from reconciler.host.signals.domain import DomainGatherer
from reconciler.host.signals.guest_ping import GuestPingGatherer
from reconciler.host.signals.heartbeat import HeartbeatGatherer
from reconciler.host.signals.http import HttpGatherer

_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0

Publish = Callable[[News], None]
Broke = Callable[[str, Exception | None], None]
"""Is told that the source of a signal broke, and by what; None: it ended by itself."""


class Gatherer(Protocol):
    """One signal's source at work."""

    async def run(self) -> None:
        """Publish, for ever; only cancelling ends it."""


class Supervised:
    """Runs a gatherer, and runs it again when it breaks: a mistake in one must not silence the others."""

    def __init__(self, signal: str, gatherer: Gatherer, publish: Publish, broke: Broke) -> None:
        self.signal, self.gatherer = signal, gatherer
        self._publish, self._broke = publish, broke

    async def run(self) -> None:
        """As a gatherer's; raises nothing but CancelledError."""
        retry_s = _FIRST_RETRY_S
        while True:
            began_s = time.monotonic()
            try:
                await self.gatherer.run()
                reason = "it ended by itself"
                self._broke(self.signal, None)
            except Exception as error:  # noqa: BLE001  # whatever it is: it is logged, and told
                self._broke(self.signal, error)
                reason = f"{type(error).__name__}: {error}"
            if time.monotonic() - began_s > _LAST_RETRY_S:
                retry_s = _FIRST_RETRY_S
            self._publish(
                Reading(self.signal, HealthState.ABSENT, f"gathering it broke ({reason}); again in {retry_s:g} s")
            )
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a source depends on: one of the same value gathers the same. `vm`: where it is, for who asks libvirt."""

    signal: str
    source: Source
    segment: str | None
    vm: Libvirt | None = None


class Gatherers:
    """Makes gatherers; however many are made one after the other, so many calls to libvirt are on their way at most."""

    def __init__(self, own_actions: OwnActions, broke: Broke) -> None:
        self._own_actions, self._broke = own_actions, broke
        self._workers = Workers("libvirt of signals")

    def wanted(self, appliance: Appliance) -> tuple[Wanted, ...]:
        """What is to be gathered: each declared signal but those which the network and the guard tell.

        Raises:
            HostError: a signal needs libvirt, and the file does not say where the VM is.

        """
        return tuple(
            Wanted(
                signal.name,
                signal.source,
                signal.segment,
                _libvirt(appliance, signal) if isinstance(signal.source, Domain | GuestPing) else None,
            )
            for signal in appliance.health.signals.values()
            if not isinstance(signal.source, Carrier | Canary | HostPath)
        )

    def supervised(self, wanted: Wanted, publish: Publish) -> Supervised:
        """The gatherer for it."""
        speak = _about(publish, wanted.segment)
        return Supervised(wanted.signal, self._gatherer(wanted, speak), speak, self._broke)

    def _gatherer(self, wanted: Wanted, speak: Publish) -> Gatherer:
        signal = wanted.signal
        match wanted.source:
            case Heartbeat() as source:
                return HeartbeatGatherer(signal, source, speak)
            case Domain():
                return DomainGatherer(signal, _known(wanted.vm), speak, self._own_actions, self._workers)
            case GuestPing() as source:
                return GuestPingGatherer(signal, source, _known(wanted.vm), speak)
            case Command() as source:
                return CommandGatherer(signal, source, speak)
            case Http() as source:
                return HttpGatherer(signal, source, speak)
            case Carrier() | Canary() | HostPath():
                raise ValueError(f"nothing gathers {wanted.source}")
        assert_never(wanted.source)


def _about(publish: Publish, segment: str | None) -> Publish:
    """Publishes readings as being about `segment`."""
    if segment is None:
        return publish
    return lambda news: publish(replace(news, segment=segment) if isinstance(news, Reading) else news)


def _libvirt(appliance: Appliance, signal: Signal) -> Libvirt:
    if isinstance(appliance.hypervisor, Libvirt):
        return appliance.hypervisor
    raise HostError(f"signal {signal.name} needs libvirt, and the file has no vm.libvirt")


def _known(vm: Libvirt | None) -> Libvirt:
    assert vm is not None  # noqa: S101 - for mypy: `wanted` has seen to it
    return vm
