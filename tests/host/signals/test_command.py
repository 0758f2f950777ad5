"""A program as a signal."""

import asyncio
from pathlib import Path

import pytest
from ears import Ears, running, until

from reconciler.appliance.declared import Command
from reconciler.health.signal import HealthState, Reading
from reconciler.host.signals.command import CommandGatherer

SH = "/bin/sh"
LONG_MS = 20_000


def command(*run: str, every_ms: int = LONG_MS, timeout_ms: int = LONG_MS) -> Command:
    return Command(run, every_ms, timeout_ms)


def first(source: Command) -> Reading:
    async def scene() -> Reading:
        ears = Ears()
        async with running(CommandGatherer("plugin", source, ears)):
            return (await ears.hear(1))[0]

    return asyncio.run(scene())


@pytest.mark.parametrize(
    ("script", "state", "reason"),
    [
        ("echo 'OK - 3 rules | rules=3'; echo more; exit 0", HealthState.HEALTHY, "OK - 3 rules"),
        ("echo WARNING; exit 1", HealthState.DEGRADED, "WARNING"),
        ("echo CRITICAL; exit 2", HealthState.FAILED, "CRITICAL"),
        ("echo UNKNOWN; exit 3", HealthState.ABSENT, "exit status 3: UNKNOWN"),
        ("exit 0", HealthState.HEALTHY, "exit status 0"),
        ("exit 4", HealthState.ABSENT, "exit status 4"),
        ("exit 127", HealthState.ABSENT, "exit status 127"),
        ("echo no >&2; exit 64", HealthState.ABSENT, "exit status 64: no"),
        ("kill -11 $$", HealthState.ABSENT, "killed by signal 11"),
        ("printf '\\033[2Jx\\377'; exit 0", HealthState.HEALTHY, "?[2Jx�"),
    ],
)
def test_the_exit_status_is_the_state(script: str, state: HealthState, reason: str) -> None:
    assert first(command(SH, "-c", script)) == Reading("plugin", state, reason)


def test_a_program_that_is_not_there_says_nothing_of_the_vm() -> None:
    reading = first(command("/no/such/plugin"))
    assert reading.state is HealthState.ABSENT
    assert reading.reason == "/no/such/plugin cannot be started: No such file or directory"


def test_one_that_hangs_has_failed() -> None:
    reading = first(command(SH, "-c", "sleep 60 & sleep 60", timeout_ms=50))
    assert reading == Reading("plugin", HealthState.FAILED, "did not end within 0.05 s")


def test_one_that_floods_says_nothing_of_the_vm() -> None:
    reading = first(command(SH, "-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"))
    assert reading.state is HealthState.ABSENT
    assert reading.reason.startswith("killed: it wrote more than 65536 bytes")


def test_it_runs_at_once_and_then_again_and_again(tmp_path: Path) -> None:
    async def scene() -> None:
        ears = Ears()
        script = f"echo x >> '{tmp_path / 'runs'}'; exit $(wc -l < '{tmp_path / 'runs'}')"
        async with running(CommandGatherer("plugin", command(SH, "-c", script, every_ms=5), ears)):
            assert [reading.state for reading in await ears.hear(3)] == [
                HealthState.DEGRADED,
                HealthState.FAILED,
                HealthState.ABSENT,
            ]

    asyncio.run(scene())


def test_two_never_run_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        ears = Ears()
        script = f"mkdir '{tmp_path / 'alone'}' || exit 2; sleep 0.05; rmdir '{tmp_path / 'alone'}'"
        async with running(CommandGatherer("plugin", command(SH, "-c", script, every_ms=1), ears)):
            assert {reading.state for reading in await ears.hear(4)} == {HealthState.HEALTHY}

    asyncio.run(scene())


def test_cancelled_it_leaves_no_process(tmp_path: Path) -> None:
    async def scene() -> None:
        script = f"sleep 60 & echo $! $$ > '{tmp_path / 'pids'}'; sleep 60"
        pids = tmp_path / "pids"
        async with running(CommandGatherer("plugin", command(SH, "-c", script), Ears())):
            await until(lambda: pids.exists() and pids.read_text(encoding="ascii").endswith("\n"))
        numbers = [int(word) for word in pids.read_text(encoding="ascii").split()]
        await until(lambda: not any(_runs(number) for number in numbers))

    asyncio.run(scene())


def _runs(number: int) -> bool:
    try:
        return bool(Path(f"/proc/{number}/exe").readlink())
    except OSError:
        return False
