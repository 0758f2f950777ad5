"""The guest agent's ping, with an agent made to measure."""

import asyncio
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import libvirt
import pytest
from ears import Ears, running, until

from reconciler.appliance.declared import GuestPing, Libvirt
from reconciler.errors import TransientError
from reconciler.health.signal import HealthState, Reading
from reconciler.host.hypervisor import link
from reconciler.host.signals import guest_ping
from reconciler.host.signals.guest_ping import GuestPingGatherer

VM = Libvirt("qemu:///system", "ips")
THAWED, FROZEN = '{"return":"thawed"}', '{"return":"frozen"}'


class Broken(libvirt.libvirtError):
    """An error of libvirt with a code."""

    def __init__(self, name: str) -> None:
        code = getattr(libvirt, f"VIR_ERR_{name}")
        Exception.__init__(self, name)
        self.err = (code, 0, f"{name}\n of the test", 0, "", None, None, 0, 0)


class Agent:
    """qemu-guest-agent behind libvirt."""

    def __init__(self) -> None:
        self.ping: Exception | None = None
        self.status: str | Exception = THAWED
        self.asked: list[str] = []
        self.limits: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.defined = True
        self.opened = self.closed = 0
        self.down: Exception | None = None

    def connect(self, uri: str, loop: asyncio.AbstractEventLoop) -> "Agent":
        if self.down:
            raise self.down
        self.opened += 1
        return self

    def close(self) -> None:
        self.closed += 1

    def lookupByName(self, name: str) -> object:  # noqa: N802
        if not self.defined:
            raise Broken("NO_DOMAIN")
        return object()

    def command(self, domain: object, command: str, timeout_s: int, flags: int) -> str:
        self.asked.append(command)
        self.limits.add(timeout_s)
        assert self.gate.wait(10)
        if "fsfreeze-status" in command:
            if isinstance(self.status, Exception):
                raise self.status
            return self.status
        if self.ping:
            raise self.ping
        return '{"return":{}}'


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    made = Agent()
    monkeypatch.setattr(link, "connect", made.connect)
    monkeypatch.setattr(link, "close", lambda connection: connection.close())
    module: Any = types.ModuleType("libvirt_qemu")
    module.qemuAgentCommand = made.command
    monkeypatch.setitem(sys.modules, "libvirt_qemu", module)
    yield made
    made.gate.set()


def gatherer(ears: Ears, timeout_ms: int = 2000) -> GuestPingGatherer:
    return GuestPingGatherer("ga", GuestPing(1, timeout_ms), VM, ears)


def first() -> Reading:
    async def scene() -> Reading:
        ears = Ears()
        async with running(gatherer(ears)):
            return (await ears.hear(1))[0]

    return asyncio.run(scene())


def test_an_agent_that_answers_is_healthy(agent: Agent) -> None:
    assert first() == Reading("ga", HealthState.HEALTHY, "the guest agent answers")
    assert agent.limits == {2}


@pytest.mark.parametrize("name", ["AGENT_UNRESPONSIVE", "AGENT_UNSYNCED", "ARGUMENT_UNSUPPORTED"])
def test_an_agent_that_does_not_answer_has_failed(agent: Agent, name: str) -> None:
    agent.ping = Broken(name)
    assert first() == Reading("ga", HealthState.FAILED, f"the guest agent does not answer: {name} of the test")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("OPERATION_INVALID", "ips does not run"),
        ("NO_DOMAIN", "ips does not run"),
        ("SYSTEM_ERROR", "libvirt at qemu:///system: SYSTEM_ERROR of the test"),
        ("OPERATION_TIMEOUT", "libvirt at qemu:///system: OPERATION_TIMEOUT of the test"),
        ("NO_SUPPORT", "libvirt at qemu:///system: NO_SUPPORT of the test"),
    ],
)
def test_what_is_not_the_agents_fault_is_absence(agent: Agent, name: str, reason: str) -> None:
    agent.ping = Broken(name)
    assert first() == Reading("ga", HealthState.ABSENT, reason)


def test_no_such_domain_is_absence(agent: Agent) -> None:
    agent.defined = False
    assert first() == Reading("ga", HealthState.ABSENT, "ips is not defined in libvirt")


def test_no_libvirt_is_absence(agent: Agent) -> None:
    agent.down = TransientError("libvirt is not reachable")
    assert first() == Reading("ga", HealthState.ABSENT, "libvirt is not reachable")


def test_it_connects_again_when_libvirt_broke(agent: Agent) -> None:
    async def scene() -> None:
        ears = Ears()
        async with running(gatherer(ears)):
            await ears.hear_of(HealthState.HEALTHY)
            agent.ping = Broken("SYSTEM_ERROR")
            await ears.hear_of(HealthState.ABSENT)
            agent.ping = None
            await ears.hear_of(HealthState.HEALTHY, len(ears.readings))
        await until(lambda: agent.closed == agent.opened)
        assert agent.opened > 1

    asyncio.run(scene())


# Freezes


def test_while_it_is_frozen_nothing_is_said(agent: Agent) -> None:
    async def scene() -> None:
        ears = Ears()
        agent.status = FROZEN
        async with running(gatherer(ears)):
            assert (await ears.hear(1))[0] == Reading("ga", HealthState.ABSENT, guest_ping.FROZEN)
            # The agent itself waits for a disk now.
            agent.ping = Broken("AGENT_UNRESPONSIVE")
            await ears.hear(len(ears.readings) + 3)
            assert set(ears.states) == {HealthState.ABSENT}
            agent.ping, agent.status = None, THAWED
            await ears.hear_of(HealthState.HEALTHY)
            agent.ping = Broken("AGENT_UNRESPONSIVE")
            await ears.hear_of(HealthState.FAILED)

    asyncio.run(scene())


@pytest.mark.parametrize("silent", [True, False])
def test_a_freeze_that_lasts_too_long_is_not_believed(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(guest_ping, "_FREEZE_MAX_S", 0.05)

    async def scene() -> None:
        ears = Ears()
        agent.status = FROZEN
        async with running(gatherer(ears)):
            await ears.hear_of(HealthState.ABSENT)
            if silent:
                agent.ping = Broken("AGENT_UNRESPONSIVE")
            await ears.hear_of(HealthState.FAILED if silent else HealthState.HEALTHY)

    asyncio.run(scene())


def test_an_agent_that_knows_no_freeze_is_asked_once(agent: Agent) -> None:
    async def scene() -> None:
        ears = Ears()
        agent.status = Broken("INTERNAL_ERROR")  # "The command guest-fsfreeze-status has not been found"
        async with running(gatherer(ears)):
            assert {reading.state for reading in await ears.hear(4)} == {HealthState.HEALTHY}
        assert sum("fsfreeze" in command for command in agent.asked) == 1

    asyncio.run(scene())


@pytest.mark.parametrize("status", ["", "{}", "[]", "x" * 1_000_000 + '"frozen"', "\0"])
def test_an_answer_of_garbage_is_no_freeze(agent: Agent, status: str) -> None:
    agent.status = status
    assert first().state is HealthState.HEALTHY


# Time


def test_a_late_answer_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_ping._Agent, "ping", lambda *_: (HealthState.HEALTHY, "the guest agent answers", 31.4))

    async def scene() -> None:
        ears = Ears()
        async with running(gatherer(ears, timeout_ms=30)):
            assert (await ears.hear(1))[0] == Reading("ga", HealthState.FAILED, "the guest agent took 31 ms to answer")

    asyncio.run(scene())


def test_a_libvirt_that_hangs_is_absence_and_is_asked_no_second_question(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_ping, "_MARGIN_S", -1.95)

    async def scene() -> None:
        ears = Ears()
        agent.gate.clear()
        async with running(gatherer(ears, timeout_ms=1000)):
            told = await ears.hear(4)
            assert {reading.state for reading in told} == {HealthState.ABSENT}
            assert told[0].reason == "libvirt does not answer"
            assert len(agent.asked) == 1
            agent.gate.set()
            await ears.hear_of(HealthState.HEALTHY)

    asyncio.run(scene())
