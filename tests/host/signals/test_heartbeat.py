"""The heartbeat's channel, over real sockets."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ears import FAR, Ears, checks, line, running, until

from reconciler.appliance.declared import Heartbeat
from reconciler.health.signal import HealthState
from reconciler.host.signals import heartbeat
from reconciler.host.signals.heartbeat import HeartbeatGatherer

# Beats that follow each other at once are early; here each counts.
INTERVAL_MS = 1


class Hypervisor:
    """QEMU's end of the channel: listens, and talks to whoever comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guests: list[socket.socket] = []
        self.server: socket.socket | None = None

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.server.bind(str(self.path))
        self.server.listen(1)

    async def accept(self) -> socket.socket:
        assert self.server is not None
        guest, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(self.server), 5)
        self._guests.append(guest)
        return guest

    def close(self) -> None:
        for one in (*self._guests, self.server):
            if one:
                one.close()
        self._guests.clear()
        self.server = None


@pytest.fixture
def hypervisor(tmp_path: Path) -> Iterator[Hypervisor]:
    made = Hypervisor(tmp_path / "agent.sock")
    yield made
    made.close()


def gatherer(hypervisor: Hypervisor, ears: Ears, interval_ms: int = INTERVAL_MS) -> HeartbeatGatherer:
    return HeartbeatGatherer("hb", Heartbeat(interval_ms, socket=str(hypervisor.path)), ears)


def heard(watch: HeartbeatGatherer) -> int:
    return watch.beats.counters.beats + watch.beats.counters.early


def test_beats_arrive_and_their_end_is_told(hypervisor: Hypervisor) -> None:
    async def scene() -> None:
        ears = Ears()
        hypervisor.open()
        watch = gatherer(hypervisor, ears)
        async with running(watch):
            guest = await hypervisor.accept()
            seq = 0
            while len(ears.news) < 5:  # one that is read late makes the next one early
                guest.send(line(seq := seq + 1, interval_ms=INTERVAL_MS))
                await until(lambda: heard(watch) == seq)
                await asyncio.sleep(INTERVAL_MS / 1000)
            hypervisor.close()
            gone = await ears.hear_of(HealthState.ABSENT)
            assert gone.reason == f"{hypervisor.path} was closed by the hypervisor"
            assert ears.states == [HealthState.HEALTHY] * 5 + [HealthState.ABSENT]

    asyncio.run(scene())


def test_it_connects_whenever_the_channel_comes_and_as_often(hypervisor: Hypervisor) -> None:
    async def scene() -> None:
        ears = Ears()
        watch = gatherer(hypervisor, ears)
        async with running(watch):
            assert (await ears.hear(1))[0].reason == f"no connection to {hypervisor.path}: No such file or directory"
            for turn in range(5):
                hypervisor.open()
                guest = await hypervisor.accept()
                # A VM that restarted is another boot, and another run of the agent.
                guest.send(line(1, run=f"{turn:032x}", interval_ms=INTERVAL_MS))
                await ears.hear(2 * turn + 2)
                hypervisor.close()
                await ears.hear(2 * turn + 3)
        assert ears.states == [HealthState.ABSENT, *[HealthState.HEALTHY, HealthState.ABSENT] * 5]
        assert watch.beats.counters.restarts == 4

    asyncio.run(scene())


def test_absence_is_told_once(hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_LAST_RETRY_S", 0.001)
    monkeypatch.setattr(heartbeat, "_FIRST_RETRY_S", 0.001)

    async def scene() -> None:
        ears = Ears()
        async with running(gatherer(hypervisor, ears)):
            await ears.hear(1)
            hypervisor.open()
            for _ in range(20):
                (await hypervisor.accept()).close()  # a channel without an agent comes and goes
            hypervisor.close()
            hypervisor.path.unlink()
        assert ears.states == [HealthState.ABSENT]

    asyncio.run(scene())


def test_retries_become_rarer_but_never_stop(hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def short(pause_s: float) -> None:
        pauses.append(pause_s)
        await sleep(0)

    monkeypatch.setattr(heartbeat.asyncio, "sleep", short)

    async def scene() -> None:
        task = asyncio.create_task(gatherer(hypervisor, Ears()).run())
        while len(pauses) < 10:
            await sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scene())
    assert pauses[:10] == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1, 1, 1, 1])


def flood(seq: int) -> bytes:
    return b"".join(line(seq + n, interval_ms=INTERVAL_MS) for n in range(100))


@pytest.mark.parametrize(
    "noise", [flood, lambda _: b"\n" * 10_000, lambda _: b"\xff" * 16_384], ids=["beats", "newlines", "bytes"]
)
def test_a_flood_is_dropped_told_and_given_another_chance(
    hypervisor: Hypervisor, noise: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_FLOOD_PAUSE_S", 0.01)

    async def scene() -> None:
        ears = Ears()
        watch = gatherer(hypervisor, ears, interval_ms=100)
        hypervisor.open()
        async with running(watch):
            for turn in range(3):
                guest = await hypervisor.accept()
                with contextlib.suppress(ConnectionError, TimeoutError):
                    for seq in range(1, 1_000_000, 100):
                        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(guest, noise(seq)), 5)
                await until(lambda turn=turn: watch.beats.counters.floods > turn)
            await ears.hear_of(HealthState.FAILED)
        assert ears.states[-1] is HealthState.FAILED
        assert ears.reasons[-1].startswith(("the agent floods its channel", "the agent sends what is no beat"))
        assert HealthState.ABSENT not in ears.states

    asyncio.run(scene())


def test_a_flood_does_not_starve_the_loop(hypervisor: Hypervisor) -> None:
    async def scene() -> None:
        hypervisor.open()
        watch = gatherer(hypervisor, Ears())
        async with running(watch):
            guest = await hypervisor.accept()
            guest.setblocking(False)
            turns = 0
            with contextlib.suppress(ConnectionError):
                while not watch.beats.counters.floods:
                    with contextlib.suppress(BlockingIOError):
                        guest.send(b"\n" * 10_000)
                    await asyncio.sleep(0)
                    turns += 1
            assert turns < 1000

    asyncio.run(scene())


def test_what_the_application_fails_is_told_with_its_reason(hypervisor: Hypervisor) -> None:
    async def scene() -> None:
        ears = Ears()
        hypervisor.open()
        async with running(gatherer(hypervisor, ears)):
            guest = await hypervisor.accept()
            guest.send(line(1, interval_ms=INTERVAL_MS, checks=checks(suricata="failed", disk="healthy")))
            assert (await ears.hear(1))[0].reason == "suricata: suricata is failed"

    asyncio.run(scene())


def test_a_mistake_of_ours_ends_it_with_the_mistake(hypervisor: Hypervisor) -> None:
    def broken(_: Any) -> None:
        raise ZeroDivisionError

    async def scene() -> None:
        hypervisor.open()
        watch = HeartbeatGatherer("hb", Heartbeat(INTERVAL_MS, socket=str(hypervisor.path)), broken)
        task = asyncio.create_task(watch.run())
        guest = await hypervisor.accept()
        guest.send(line(1, interval_ms=INTERVAL_MS))
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(task, 5)

    asyncio.run(scene())


def test_cancelled_it_leaves_nothing_open(hypervisor: Hypervisor) -> None:
    async def scene() -> None:
        hypervisor.open()
        async with running(gatherer(hypervisor, Ears())):
            guest = await hypervisor.accept()
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(guest, 1), 5) == b""

    asyncio.run(scene())


def test_vsock_without_a_guest_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_CONNECT_S", 0.1)

    async def scene() -> None:
        ears = Ears()
        async with running(HeartbeatGatherer("hb", Heartbeat(INTERVAL_MS, cid=FAR, port=5000), ears)):
            reading = (await ears.hear(1))[0]
        assert reading.state is HealthState.ABSENT
        assert reading.reason.startswith(f"no connection to vsock {FAR}:5000")

    asyncio.run(scene())


def test_a_beat_costs_little(hypervisor: Hypervisor) -> None:
    """Ten a second are allowed; two hundred microseconds each would be a fifth of a percent of a core."""
    number = 500

    async def scene() -> float:
        hypervisor.open()
        watch = gatherer(hypervisor, Ears())
        async with running(watch):
            guest = await hypervisor.accept()
            spent_s = 0.0
            for seq in range(1, number + 1):
                guest.send(line(seq, interval_ms=INTERVAL_MS))
                await asyncio.sleep(0.001)
                began_s = time.thread_time()
                await until(lambda seq=seq: heard(watch) == seq)
                spent_s += time.thread_time() - began_s
            return spent_s / number

    # Generous: two noisy cores.
    assert asyncio.run(scene()) < 0.001
