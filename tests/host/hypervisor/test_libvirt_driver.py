"""Restarting a domain: libvirt's built-in test driver, and a libvirt that refuses, races and hangs."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import libvirt
import pytest

from reconciler.appliance.declared import Libvirt
from reconciler.errors import HostError, TransientError, UnreachedError
from reconciler.host.blocking import StuckError
from reconciler.host.hypervisor import link
from reconciler.host.hypervisor.libvirt import LibvirtHypervisor
from reconciler.host.hypervisor.own_actions import OwnActions

VM = Libvirt("test:///default", "test")
IPS = Libvirt("qemu:///system", "ips")
METHODS = ("reset", "destroy-and-start")
RUNNING, PAUSED, SHUTOFF, CRASHED = 1, 3, 5, 6


# The test driver


@pytest.mark.parametrize("method", METHODS)
def test_a_domain_that_is_off_is_started(method: str) -> None:
    core = libvirt.open(VM.uri)  # the test driver forgets with its last connection
    try:
        domain = core.lookupByName(VM.domain)
        domain.destroy()
        asyncio.run(LibvirtHypervisor(VM, OwnActions()).restart(method))
        assert domain.state()[0] == RUNNING
    finally:
        core.close()


def test_a_domain_that_runs_is_destroyed_and_started() -> None:
    core = libvirt.open(VM.uri)
    try:
        domain = core.lookupByName(VM.domain)
        before = domain.ID()
        own_actions = OwnActions()
        asyncio.run(LibvirtHypervisor(VM, own_actions).restart("destroy-and-start"))
        # The same domain, another life.
        again = core.lookupByName(VM.domain)
        assert again.state()[0] == RUNNING
        assert again.ID() != before
        assert own_actions == OwnActions()
    finally:
        core.close()


def test_a_domain_that_nobody_defined() -> None:
    with pytest.raises(HostError, match="libvirt at test:///default has no domain nobody"):
        asyncio.run(LibvirtHypervisor(Libvirt(VM.uri, "nobody"), OwnActions()).restart("reset"))


def test_a_libvirt_that_is_not_there() -> None:
    source = Libvirt("qemu+unix:///system?socket=/no/such/socket", "ips")
    with pytest.raises(UnreachedError, match="libvirt is not reachable at "):
        asyncio.run(LibvirtHypervisor(source, OwnActions()).restart("reset"))


def test_a_method_that_is_none() -> None:
    with pytest.raises(HostError, match="no method to restart a VM: pray"):
        asyncio.run(LibvirtHypervisor(VM, OwnActions()).restart("pray"))


# A libvirt made to measure


class Broken(libvirt.libvirtError):
    """An error of libvirt with a code."""

    def __init__(self, name: str, domain: int = 0) -> None:
        code = getattr(libvirt, f"VIR_ERR_{name}")
        Exception.__init__(self, name)
        self.err = (code, domain, f"refused: {name}", 0, "", None, None, 0, 0)


class Domain:
    """A virDomain, and the connection that leads to it."""

    def __init__(self) -> None:
        self.life = RUNNING
        self.persistent = True
        self.done: list[str] = []
        self.trouble: dict[str, Exception] = {}
        self.gates: dict[str, threading.Event] = {}
        self.waits = threading.Event()
        self.seen: list[OwnActions] = []
        self.own_actions = OwnActions()
        self.open = 0

    def connect(self, uri: str, loop: asyncio.AbstractEventLoop) -> "Domain":
        self.open += 1
        return self

    def close(self) -> None:
        self.open -= 1

    def lookupByName(self, name: str) -> "Domain":  # noqa: N802
        self._ask("look-up")
        return self

    def _ask(self, what: str) -> None:
        if gate := self.gates.get(what):
            self.waits.set()
            assert gate.wait(10)
        if trouble := self.trouble.get(what):
            raise trouble

    def isActive(self) -> bool:  # noqa: N802
        return self.life != SHUTOFF

    def isPersistent(self) -> bool:  # noqa: N802
        return self.persistent

    def state(self) -> list[int]:
        return [self.life, 0]

    def _do(self, what: str, life: int) -> None:
        self.seen.append(OwnActions(self.own_actions.acting, self.own_actions.destroyed))
        self._ask(what)
        self.done.append(what)
        self.life = life

    def reset(self) -> None:
        self._do("reset", PAUSED if self.life in (CRASHED, PAUSED) else self.life)

    def resume(self) -> None:
        self._do("resume", RUNNING)

    def destroy(self) -> None:
        self._do("destroy", SHUTOFF)

    def create(self) -> None:
        self._do("create", RUNNING)


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[Domain]:
    made = Domain()
    monkeypatch.setattr(link, "connect", made.connect)
    monkeypatch.setattr(link, "close", lambda connection: connection.close())
    yield made
    for gate in made.gates.values():
        gate.set()


def restart(domain: Domain, method: str) -> None:
    asyncio.run(LibvirtHypervisor(IPS, domain.own_actions).restart(method))
    assert domain.open == 0
    assert not domain.own_actions.acting


@pytest.mark.parametrize(
    ("method", "life", "done"),
    [
        ("reset", RUNNING, ["reset"]),
        ("reset", SHUTOFF, ["create"]),
        ("reset", PAUSED, ["reset", "resume"]),
        ("reset", CRASHED, ["reset", "resume"]),
        ("destroy-and-start", RUNNING, ["destroy", "create"]),
        ("destroy-and-start", PAUSED, ["destroy", "create"]),
        ("destroy-and-start", CRASHED, ["destroy", "create"]),
        ("destroy-and-start", SHUTOFF, ["create"]),
    ],
)
def test_what_is_done_to_a_domain(domain: Domain, method: str, life: int, done: list[str]) -> None:
    domain.life = life
    restart(domain, method)
    assert domain.done == done
    assert domain.life == RUNNING
    assert all(own_actions.acting for own_actions in domain.seen)


def test_a_transient_domain_is_not_destroyed(domain: Domain) -> None:
    domain.persistent = False
    with pytest.raises(HostError, match="ips is transient"):
        restart(domain, "destroy-and-start")
    assert domain.done == []


@pytest.mark.parametrize("step", ["destroy", "create"])
def test_somebody_else_may_be_faster(domain: Domain, step: str) -> None:
    domain.trouble[step] = Broken("OPERATION_INVALID")
    restart(domain, "destroy-and-start")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("OPERATION_DENIED", HostError),
        ("AUTH_FAILED", HostError),
        ("ACCESS_DENIED", HostError),
        ("NO_SUPPORT", HostError),
        ("OPERATION_FAILED", TransientError),
        ("OPERATION_TIMEOUT", TransientError),
        ("INTERNAL_ERROR", TransientError),
        ("NO_DOMAIN", TransientError),
    ],
)
def test_a_refusal_says_whether_another_try_can_help(domain: Domain, code: str, kind: type[Exception]) -> None:
    domain.trouble["create"] = domain.trouble["reset"] = Broken(code)
    for method in METHODS:
        with pytest.raises(kind, match=f"libvirt: {method} of ips: refused: {code}") as caught:
            restart(domain, method)
        assert type(caught.value) is kind


def test_a_vm_that_we_destroyed_and_could_not_start_stays_ours(domain: Domain) -> None:
    domain.trouble["create"] = Broken("OPERATION_FAILED")
    with pytest.raises(TransientError):
        restart(domain, "destroy-and-start")
    assert domain.own_actions == OwnActions(destroyed=True)
    with pytest.raises(TransientError):
        restart(domain, "destroy-and-start")
    assert domain.own_actions == OwnActions(destroyed=True)
    domain.trouble.clear()
    restart(domain, "reset")
    assert domain.own_actions == OwnActions()


async def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end_s, "it did not come to pass"
        await asyncio.sleep(0.001)


def test_a_step_that_hangs_is_abandoned_and_no_further_one_begun(domain: Domain) -> None:
    async def scene() -> None:
        domain.gates["destroy"] = threading.Event()
        hypervisor = LibvirtHypervisor(IPS, domain.own_actions, {"destroy-and-start": 0.05})
        with pytest.raises(TransientError, match=r"destroy-and-start of ips took over 0\.05 s") as caught:
            await hypervisor.restart("destroy-and-start")
        # Nobody knows what becomes of it.
        assert not isinstance(caught.value, UnreachedError)
        assert domain.own_actions == OwnActions(destroyed=True)
        domain.gates["destroy"].set()
        await until(lambda: hypervisor._workers.busy == 0)
        assert domain.done == ["destroy"]

    asyncio.run(scene())


def test_cancelled_between_two_steps_it_begins_no_further_one(domain: Domain) -> None:
    async def scene() -> None:
        domain.gates["destroy"] = threading.Event()
        hypervisor = LibvirtHypervisor(IPS, domain.own_actions)
        task = asyncio.create_task(hypervisor.restart("destroy-and-start"))
        await until(lambda: bool(domain.seen))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        domain.gates["destroy"].set()
        await until(lambda: hypervisor._workers.busy == 0)
        assert domain.done == ["destroy"]
        assert domain.own_actions == OwnActions(destroyed=True)

    asyncio.run(scene())


LOST = Broken("SYSTEM_ERROR", libvirt.VIR_FROM_RPC)


@pytest.mark.parametrize("method", METHODS)
def test_a_libvirtd_that_dies_before_it_was_asked(domain: Domain, method: str) -> None:
    domain.trouble["look-up"] = LOST
    with pytest.raises(UnreachedError):
        restart(domain, method)
    assert domain.done == []
    assert domain.own_actions == OwnActions()


@pytest.mark.parametrize("method", METHODS)
def test_of_a_libvirtd_that_dies_while_it_is_asked_nobody_knows_what_it_has_done(domain: Domain, method: str) -> None:
    domain.trouble["reset"] = domain.trouble["create"] = LOST
    with pytest.raises(TransientError) as caught:
        restart(domain, method)
    assert not isinstance(caught.value, UnreachedError)


def test_what_libvirt_answers_before_the_first_step_is_an_answer(domain: Domain) -> None:
    domain.trouble["look-up"] = Broken("ACCESS_DENIED")
    with pytest.raises(HostError):
        restart(domain, "reset")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["too late", "called off"])
def test_a_libvirtd_that_hangs_before_it_was_asked_is_asked_for_nothing_later(
    domain: Domain, method: str, how: str
) -> None:
    async def scene() -> None:
        domain.gates["look-up"] = threading.Event()
        hypervisor = LibvirtHypervisor(IPS, domain.own_actions, {method: 0.05 if how == "too late" else 10})
        task = asyncio.create_task(hypervisor.restart(method))
        await until(domain.waits.is_set)
        if how == "called off":
            task.cancel()
        with pytest.raises(UnreachedError, match="does not answer within 0.05 s" if how == "too late" else how):
            await task
        assert domain.own_actions == OwnActions()
        domain.gates["look-up"].set()
        await until(lambda: hypervisor._workers.busy == 0)
        assert (domain.done, domain.open) == ([], 0)

    asyncio.run(scene())


def test_no_more_than_four_hang_at_once(domain: Domain) -> None:
    async def scene() -> None:
        domain.gates["reset"] = threading.Event()
        hypervisor = LibvirtHypervisor(IPS, domain.own_actions, {"reset": 0.01})
        for _ in range(4):
            with pytest.raises(TransientError, match="took over"):
                await hypervisor.restart("reset")
        with pytest.raises(StuckError, match="4 earlier calls") as caught:
            await hypervisor.restart("reset")
        assert isinstance(caught.value, UnreachedError)
        domain.gates["reset"].set()
        await until(lambda: hypervisor._workers.busy == 0)

    asyncio.run(scene())
