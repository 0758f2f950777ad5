"""One gatherer for each signal, and none breaks another."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from ears import Ears, until
from worlds import two_ports

from reconciler.appliance.declared import Appliance
from reconciler.errors import HostError
from reconciler.health.signal import HealthState, News, Reading, Rebooted
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.signals import gather
from reconciler.host.signals.command import CommandGatherer
from reconciler.host.signals.domain import DomainGatherer
from reconciler.host.signals.gather import Gatherers, Supervised
from reconciler.host.signals.guest_ping import GuestPingGatherer
from reconciler.host.signals.heartbeat import HeartbeatGatherer
from reconciler.host.signals.http import HttpGatherer

VM = {"adapters": {"outside": {"tap": "tap0"}, "inside": {"tap": "tap1"}}}
LIBVIRT = {**VM, "libvirt": {"uri": "test:///default", "domain": "test"}}
SIGNALS: dict[str, Any] = {
    "agent": {"kind": "heartbeat", "socket": "/run/no/agent.sock"},
    "vm": {"kind": "domain"},
    "wire": {"kind": "carrier"},
    "ga": {"kind": "guest-ping"},
    "plugin": {"kind": "command", "run": ["/bin/true"]},
    "web": {"kind": "http", "url": "http://127.0.0.1:1/"},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_FIRST_RETRY_S", 0.001)


def test_each_signal_has_its_gatherer_but_carrier() -> None:
    made = gatherers(two_ports(vm=LIBVIRT, health={"signals": SIGNALS}), Ears())
    assert {one.signal: type(one.gatherer) for one in made} == {
        "agent": HeartbeatGatherer,
        "vm": DomainGatherer,
        "ga": GuestPingGatherer,
        "plugin": CommandGatherer,
        "web": HttpGatherer,
    }


def test_no_signals_no_gatherers() -> None:
    assert gatherers(two_ports(), Ears()) == []


def test_a_signal_of_a_segment_speaks_of_it() -> None:
    signals = {"plugin": {**SIGNALS["plugin"], "segment": "wire"}}

    async def scene() -> None:
        ears = Ears()
        (one,) = gatherers(two_ports(health={"signals": signals}), ears)
        task = asyncio.create_task(one.run())
        assert (await ears.hear(1))[0].segment == "wire"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scene())


def test_a_reboot_is_handed_on_as_it_is() -> None:
    heard: list[News] = []
    gather._about(heard.append, "edge")(Rebooted("vm", "it reboots"))
    assert heard == [Rebooted("vm", "it reboots")]


class Mishaps(list[tuple[str, str]]):
    """What broke, and by what."""

    def __call__(self, signal: str, error: Exception | None) -> None:
        self.append((signal, repr(error)))


def gatherers(appliance: Appliance, publish: Any) -> list[Supervised]:
    made = Gatherers(OwnActions(), Mishaps())
    return [made.supervised(wanted, publish) for wanted in made.wanted(appliance)]


class Broken:
    """Breaks as often as there are errors, then works."""

    def __init__(self, ears: Ears, *errors: Exception | None) -> None:
        self.ears, self.errors = ears, list(errors)

    async def run(self) -> None:
        if self.errors:
            error = self.errors.pop(0)
            if error:
                raise error
            return
        self.ears(Reading("x", HealthState.HEALTHY, "works"))
        await asyncio.Event().wait()


def test_a_broken_gatherer_is_told_logged_and_begun_again() -> None:
    async def scene() -> None:
        ears, mishaps = Ears(), Mishaps()
        broken = Broken(ears, ZeroDivisionError("a bug"), HostError("no libvirt"), None)
        task = asyncio.create_task(Supervised("x", broken, ears, mishaps).run())
        readings = await ears.hear(4)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [reading.state for reading in readings] == [HealthState.ABSENT] * 3 + [HealthState.HEALTHY]
        assert [reading.reason.partition(";")[0] for reading in readings[:3]] == [
            "gathering it broke (ZeroDivisionError: a bug)",
            "gathering it broke (HostError: no libvirt)",
            "gathering it broke (it ended by itself)",
        ]
        assert mishaps == [("x", "ZeroDivisionError('a bug')"), ("x", "HostError('no libvirt')"), ("x", "None")]

    asyncio.run(scene())


def test_others_go_on() -> None:
    async def scene() -> None:
        ears = Ears()
        signals = {"plugin": SIGNALS["plugin"]}
        made: list[Any] = gatherers(two_ports(health={"signals": signals}), ears)
        made.append(Supervised("x", Broken(ears, *[OSError()] * 3), ears, Mishaps()))
        tasks = [asyncio.create_task(one.run()) for one in made]
        await until(lambda: {"plugin", "x"} <= {reading.signal for reading in ears.readings})
        await ears.hear(5)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(ended, asyncio.CancelledError) for ended in await asyncio.gather(*tasks, return_exceptions=True)
        )

    asyncio.run(scene())


def test_the_pause_grows_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_FIRST_RETRY_S", 1.0)
    pauses: list[float] = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 9:
            raise asyncio.CancelledError

    monkeypatch.setattr(gather.asyncio, "sleep", sleep)
    ears = Ears()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Supervised("x", Broken(ears, *[OSError()] * 20), ears, Mishaps()).run())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_file_that_asks_for_libvirt_without_saying_where_is_refused() -> None:
    file = two_ports(vm=LIBVIRT, health={"signals": {"vm": SIGNALS["vm"]}})
    nowhere = replace(two_ports(), health=file.health)
    with pytest.raises(HostError, match="signal vm needs libvirt"):
        gatherers(nowhere, Ears())
