"""A domain of libvirt's built-in test driver, and a libvirtd that comes, goes and hangs."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest
from ears import Ears, running, until

from reconciler.appliance.declared import Libvirt
from reconciler.errors import HostError, TransientError
from reconciler.health.signal import HealthState, Rebooted
from reconciler.host.blocking import Workers
from reconciler.host.hypervisor import link
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.signals import domain
from reconciler.host.signals.domain import DomainGatherer

VM = Libvirt("test:///default", "test")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "_AGAIN_S", 0.05)
    monkeypatch.setattr(domain, "_FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(domain, "_LAST_RETRY_S", 0.01)


def gatherer(
    ears: Ears, vm: Libvirt = VM, own_actions: OwnActions | None = None, workers: Workers | None = None
) -> DomainGatherer:
    return DomainGatherer("vm", vm, ears, own_actions or OwnActions(), workers or Workers("test"))


class Operator:
    """Somebody else at the same libvirt. A thread of its own, as another program would be."""

    def __init__(self) -> None:
        self._workers = Workers("operator")

    async def __call__(self, deed: str, name: str = "test") -> None:
        await self._workers.call(self._do, deed, name, timeout_s=5)

    @staticmethod
    def _do(deed: str, name: str) -> None:
        connection = libvirt.open(VM.uri)
        getattr(connection.lookupByName(name), deed)()
        connection.close()


# The test driver


def test_an_operators_deeds_are_told_as_such() -> None:
    async def scene() -> None:
        ears, operator = Ears(), Operator()
        async with running(gatherer(ears)):
            await ears.hear_of(HealthState.HEALTHY)
            for deed, reason in (
                ("suspend", "test was paused by an operator"),
                ("resume", "test runs"),
                ("destroy", "test was switched off by an operator"),
                ("create", "test runs"),
                ("shutdown", "test was shut down by an operator or by the guest itself"),
                ("create", "test runs"),
            ):
                ears.news.clear()
                await operator(deed)
                await until(lambda reason=reason: reason in ears.reasons)
                told = next(reading for reading in ears.readings if reading.reason == reason)
                assert told.deliberate == (told.state is HealthState.FAILED)

    asyncio.run(scene(), debug=True)


def test_a_state_is_told_again_and_again() -> None:
    async def scene() -> None:
        ears = Ears()
        async with running(gatherer(ears)):
            assert {reading.state for reading in await ears.hear(5)} == {HealthState.HEALTHY}

    asyncio.run(scene())


def test_a_domain_may_be_named_by_its_uuid() -> None:
    async def scene() -> None:
        ears, operator = Ears(), Operator()
        async with running(gatherer(ears, Libvirt(VM.uri, "6695EB01-F6A4-8304-79AA-97F2502E193F"))):
            await ears.hear_of(HealthState.HEALTHY)
            await operator("suspend")
            assert (await ears.hear_of(HealthState.FAILED)).deliberate
            await operator("resume")

    asyncio.run(scene())


def test_a_domain_that_is_not_defined_has_failed() -> None:
    async def scene() -> None:
        ears = Ears()
        async with running(gatherer(ears, Libvirt(VM.uri, "nobody"))):
            reading = (await ears.hear(1))[0]
            assert (reading.state, reading.deliberate) == (HealthState.FAILED, False)
            assert reading.reason == "nobody is not defined in libvirt"

    asyncio.run(scene())


def test_our_own_deeds_are_not_an_operators() -> None:
    async def scene() -> None:
        ears, operator, own_actions = Ears(), Operator(), OwnActions(acting=True)
        async with running(gatherer(ears, own_actions=own_actions)):
            await ears.hear_of(HealthState.HEALTHY)
            await operator("destroy")
            failed = await ears.hear_of(HealthState.FAILED)
            assert not failed.deliberate
            await operator("create")

    asyncio.run(scene())


def test_another_loop_finds_libvirts_events_again() -> None:
    for _ in range(3):
        test_our_own_deeds_are_not_an_operators()


def test_cancelled_it_closes_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    genuine = link.close
    monkeypatch.setattr(link, "close", lambda one: (genuine(one), closed.append(threading.current_thread().name)))

    async def scene() -> None:
        ears, workers = Ears(), Workers("libvirt at work")
        async with running(gatherer(ears, workers=workers)):
            await ears.hear(1)
        await until(lambda: closed == ["libvirt at work"] and workers.busy == 0)

    asyncio.run(scene())


# A libvirtd made to measure


class Domain:
    """A virDomain."""

    def __init__(self, daemon: "Daemon", name: str = "ips") -> None:
        self._daemon, self._name = daemon, name

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:  # noqa: N802
        return "00000000-0000-0000-0000-000000000007"

    def ID(self) -> int:  # noqa: N802
        return 7

    def state(self) -> tuple[int, int]:
        self._daemon.call("state")
        return self._daemon.state


class Daemon:
    """libvirtd, as far as this side of a connection can tell. Hangs, breaks and tells what the tests want."""

    def __init__(self) -> None:
        self.state = (1, 1)
        self.connections = 0
        self.closed = 0
        self.trouble: dict[str, Exception] = {}
        self.gates: dict[str, threading.Event] = {}
        self.threads: set[str] = set()
        self.calls: list[str] = []
        self._callbacks: dict[int, Callable[..., None]] = {}
        self._on_close: Callable[..., None] | None = None

    def connect(self, uri: str, loop: asyncio.AbstractEventLoop) -> "Daemon":
        self.call("open")
        self.connections += 1
        return self

    def call(self, what: str) -> None:
        self.calls.append(what)
        self.threads.add(threading.current_thread().name)
        if gate := self.gates.get(what):
            assert gate.wait(10)
        if trouble := self.trouble.get(what):
            raise trouble

    # What a virConnect can do.

    def lookupByName(self, name: str) -> Domain:  # noqa: N802
        self.call("look up")
        return Domain(self, name)

    def domainEventRegisterAny(self, domain: None, event: int, callback: Callable[..., None], opaque: None) -> int:  # noqa: N802
        self.call("listen")
        self._callbacks[event] = callback
        return event

    def domainEventDeregisterAny(self, number: int) -> None:  # noqa: N802
        self._callbacks.pop(number, None)

    def registerCloseCallback(self, callback: Callable[..., None], opaque: None) -> None:  # noqa: N802
        self._on_close = callback

    def unregisterCloseCallback(self) -> None:  # noqa: N802
        self._on_close = None

    def close(self) -> None:
        self.call("close")
        self.closed += 1

    # What it tells by itself.

    def tell(self, event: str, *details: Any, name: str = "ips") -> None:
        self._callbacks[getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{event}")](self, Domain(self, name), *details, None)

    def die(self, reason: int = 1) -> None:
        assert self._on_close
        self._on_close(self, reason, None)


class Broken(libvirt.libvirtError):
    """An error of libvirt with a code."""

    def __init__(self, code: int = 38, message: str = "trouble") -> None:
        Exception.__init__(self, message)
        self._code = code
        self.err = (code, 0, message, 0, "", None, None, 0, 0)

    def get_error_code(self) -> int:
        return self._code


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    made = Daemon()
    monkeypatch.setattr(link, "connect", made.connect)
    monkeypatch.setattr(link, "close", lambda connection: connection.close())
    yield made
    for gate in made.gates.values():
        gate.set()


IPS = Libvirt("qemu:///system", "ips")


def test_an_event_is_told_although_the_state_cannot_be_read(daemon: Daemon) -> None:
    async def scene() -> None:
        ears = Ears()
        async with running(gatherer(ears, IPS)):
            await ears.hear(1)
            daemon.gates["state"] = threading.Event()
            daemon.tell("LIFECYCLE", 5, 5)
            failed = await ears.hear_of(HealthState.FAILED)
            assert failed.reason == "ips is shut off: the hypervisor died or the VM crashed"
            daemon.state = (5, 3)
            daemon.gates["state"].set()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("event", "details", "reason"),
    [
        ("LIFECYCLE", (8, 0), "ips crashed: the guest panicked"),
        ("LIFECYCLE", (3, 2), "ips is paused: an I/O error of its disk"),
        ("WATCHDOG", (0,), "ips hangs: its watchdog expired (nothing follows)"),
        (
            "IO_ERROR_REASON",
            ("/disk", "virtio-disk0", 1, "enospc"),
            "ips is paused: an I/O error (virtio-disk0, enospc)",
        ),
    ],
)
def test_events_of_each_kind_are_heard(daemon: Daemon, event: str, details: tuple[Any, ...], reason: str) -> None:
    async def scene() -> None:
        ears = Ears()
        async with running(gatherer(ears, IPS)):
            await ears.hear(1)
            daemon.tell(event, *details)
            assert (await ears.hear_of(HealthState.FAILED)).reason == reason

    asyncio.run(scene())


def test_a_reboot_is_told(daemon: Daemon) -> None:
    async def scene() -> None:
        ears = Ears()
        async with running(gatherer(ears, IPS)):
            await ears.hear(1)
            daemon.tell("REBOOT")
            await until(lambda: Rebooted("vm", "ips reboots") in ears.news)

    asyncio.run(scene())


def test_other_domains_are_none_of_our_business(daemon: Daemon) -> None:
    async def scene() -> None:
        ears = Ears()
        async with running(gatherer(ears, IPS)):
            await ears.hear(1)
            daemon.tell("LIFECYCLE", 5, 5, name="other")
            daemon.tell("REBOOT", name="other")
            daemon.tell("WATCHDOG", 0, name="other")
            daemon.tell("IO_ERROR_REASON", "", "", 1, "", name="other")
            await ears.hear(4)
            assert set(ears.states) == {HealthState.HEALTHY}
            assert len(ears.readings) == len(ears.news)

    asyncio.run(scene())


def test_an_event_from_another_thread_is_told_on_the_loop(daemon: Daemon) -> None:
    async def scene() -> None:
        ears = Ears()
        told_in: list[threading.Thread] = []

        def publish(news: Any) -> None:
            told_in.append(threading.current_thread())
            ears(news)

        async with running(DomainGatherer("vm", IPS, publish, OwnActions(), Workers("test"))):
            await ears.hear(1)
            await Workers("elsewhere").call(daemon.tell, "LIFECYCLE", 5, 5, timeout_s=5)
            await ears.hear_of(HealthState.FAILED)
        assert set(told_in) == {threading.main_thread()}

    asyncio.run(scene())


def test_no_call_runs_on_the_loop(daemon: Daemon) -> None:
    async def scene() -> None:
        ears, workers = Ears(), Workers("libvirt at work")
        async with running(gatherer(ears, IPS, workers=workers)):
            await ears.hear(3)
            daemon.tell("LIFECYCLE", 5, 5)
            await ears.hear(5)
        await until(lambda: daemon.closed == 1)
        assert daemon.threads == {"libvirt at work"}

    asyncio.run(scene())


def test_a_state_that_is_older_than_an_event_is_not_told(daemon: Daemon) -> None:
    async def scene() -> None:
        ears = Ears()
        daemon.gates["look up"] = threading.Event()
        daemon.gates["look up"].set()
        async with running(gatherer(ears, IPS)):
            await ears.hear(1)
            daemon.gates["look up"].clear()
            daemon.tell("LIFECYCLE", 4, 0)  # resumed: the state is read
            await until(lambda: bool(daemon.threads))
            before = len(ears.readings)
            daemon.tell("LIFECYCLE", 5, 5)
            daemon.state = (5, 3)
            await ears.hear_of(HealthState.FAILED)
            daemon.gates["look up"].set()
            await ears.hear(before + 4)
            assert set(ears.states[before + 1 :]) == {HealthState.FAILED}

    asyncio.run(scene())


@pytest.mark.parametrize("reason", [0, 1, 2, 99])
def test_a_libvirtd_that_goes_is_absent_and_comes_back(daemon: Daemon, reason: int) -> None:
    async def scene() -> None:
        ears = Ears()
        async with running(gatherer(ears, IPS)):
            for turn in range(1, 4):
                ears.news.clear()
                await ears.hear_of(HealthState.HEALTHY)
                assert daemon.connections == turn
                daemon.die(reason)
                gone = await ears.hear_of(HealthState.ABSENT)
                assert gone.reason.startswith("libvirt is not reachable at qemu:///system: ")
            await until(lambda: daemon.closed >= 3)

    asyncio.run(scene())


def test_a_libvirtd_that_is_not_there_is_told_once(daemon: Daemon) -> None:
    async def scene() -> None:
        ears = Ears()
        daemon.trouble["open"] = TransientError("libvirt is not reachable at qemu:///system: no socket")
        async with running(gatherer(ears, IPS)):
            await until(lambda: daemon.calls.count("open") > 5)
            assert ears.reasons == ["libvirt is not reachable at qemu:///system: no socket"]
            daemon.trouble.clear()
            await ears.hear_of(HealthState.HEALTHY)

    asyncio.run(scene())


def test_without_libvirt_python_the_reason_says_what_to_do(daemon: Daemon) -> None:
    async def scene() -> None:
        ears = Ears()
        daemon.trouble["open"] = HostError(link.MISSING)
        async with running(gatherer(ears, IPS)):
            assert "pip install libvirt-python" in (await ears.hear(1))[0].reason

    asyncio.run(scene())


def test_an_error_of_libvirt_is_absence(daemon: Daemon) -> None:
    async def scene() -> None:
        ears = Ears()
        daemon.trouble["state"] = Broken()
        async with running(gatherer(ears, IPS)):
            assert (await ears.hear(1))[0].reason == "libvirt at qemu:///system: trouble"
            daemon.trouble.clear()
            await ears.hear_of(HealthState.HEALTHY)

    asyncio.run(scene())


def test_a_domain_undefined_between_two_questions(daemon: Daemon) -> None:
    async def scene() -> None:
        ears = Ears()
        daemon.trouble["state"] = Broken(libvirt.VIR_ERR_NO_DOMAIN)
        async with running(gatherer(ears, IPS)):
            assert (await ears.hear(1))[0].reason == "ips is not defined in libvirt"

    asyncio.run(scene())


def test_a_libvirtd_that_hangs_is_absent_and_its_events_still_count(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "_ANSWER_S", 0.02)

    async def scene() -> None:
        ears, workers = Ears(), Workers("test")
        async with running(gatherer(ears, IPS, workers=workers)):
            await ears.hear(1)
            daemon.gates["state"] = threading.Event()
            assert (await ears.hear_of(HealthState.ABSENT)).reason == "libvirt does not answer"
            daemon.tell("LIFECYCLE", 8, 0)
            await ears.hear_of(HealthState.FAILED)
            assert workers.busy == 1
            daemon.gates["state"].set()
            await until(lambda: ears.reasons.count("ips crashed: the guest panicked") > 2)
            assert daemon.connections == 1

    asyncio.run(scene())


def test_hanging_for_ever_it_uses_no_more_threads_than_allowed(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "_GIVE_UP_S", 0.01)

    async def scene() -> None:
        ears, workers = Ears(), Workers("test")
        daemon.gates["state"] = threading.Event()
        async with running(gatherer(ears, IPS, workers=workers)):
            await until(lambda: workers.busy >= 4)
            await until(lambda: daemon.calls.count("open") >= 2)
            # Each connection that hangs is waited for by the one who will close it.
            assert workers.busy <= 8
            assert ears.states == [HealthState.ABSENT]
            daemon.gates["state"].set()
            await ears.hear_of(HealthState.HEALTHY)
        await until(lambda: workers.busy == 0)
        assert daemon.closed == daemon.connections

    asyncio.run(scene())
