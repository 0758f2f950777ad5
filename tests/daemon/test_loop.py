"""The daemon as a whole, in this process: what blocks around it, what breaks in it, and its file read again."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keeping import TWO_WIRES, watched
from living import Living, until
from processes import PATIENCE_S
from worlds import two_ports_document

from reconciler.control import server as control
from reconciler.control.ask import digest
from reconciler.errors import HostError
from reconciler.host.signals.command import CommandGatherer
from reconciler.host.signals.heartbeat import HeartbeatGatherer

HEALTH = {"hold_down": "10ms", "hold_down_max": "1s", "grace": "10ms", "flap_memory": "1s"}
CARRIER = {"signals": {"wire": {"kind": "carrier"}}, **HEALTH}


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("RECONCILER_STATE_DIR", str(tmp_path))


@pytest.fixture
def two_wires(tmp_path: Path) -> Living:
    return Living(watched(**TWO_WIRES, health=CARRIER), tmp_path, file="two wires")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hangs until the end of a test."""
    made = threading.Event()
    yield made
    made.set()


async def fails_over_in_turn(living: Living) -> None:
    """The VM stops serving one segment, and then the other."""
    await living.goes_to("inspect")
    for segment, adapters in (("a", ("vif0", "vif1")), ("b", ("vif2", "vif3"))):
        living.plug(*adapters, on=False)
        await living.goes_to("bypass", segment)
    living.plug("vif0", "vif1", "vif2", "vif3", on=True)
    await living.goes_to("inspect")


def test_a_slow_fsync_delays_no_other_segment(
    two_wires: Living, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: gate.wait(PATIENCE_S))

    async def scene(living: Living) -> None:
        await fails_over_in_turn(living)
        assert (await living.status())["choice"] == {"a": "inspect", "b": "inspect"}

    two_wires.lives(scene)
    assert two_wires.told("bug") == []


def test_who_holds_waits_for_the_disk_and_nobody_else_does(
    two_wires: Living, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def slow(descriptor: int) -> None:
        gate.wait(PATIENCE_S)
        sync(descriptor)

    async def scene(living: Living) -> None:
        await living.goes_to("inspect")
        monkeypatch.setattr(os, "fsync", slow)
        hold = asyncio.create_task(living.ask("hold", topology="bypass", reason="x", seconds=60, segment="a"))
        await living.goes_to("bypass", "a")
        living.plug("vif2", "vif3", on=False)
        await living.goes_to("bypass", "b")
        assert not hold.done()
        gate.set()
        assert (await hold)["unkept"] == ""
        kept = json.loads((living.file.parent / "two.memory.json").read_text())
        assert kept["memory"]["holds"].keys() == {"a"}

    two_wires.lives(scene)


def test_slow_names_delay_no_failover(
    two_wires: Living, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "person", lambda *_: gate.wait(PATIENCE_S) and "somebody")
    monkeypatch.setattr(control, "_peer", lambda _: (os.getpid(), 4711))

    async def scene(living: Living) -> None:
        await living.goes_to("inspect")
        hold = asyncio.create_task(living.ask("hold", topology="inspect", reason="x", seconds=60, segment="b"))
        living.plug("vif0", "vif1", on=False)
        await living.goes_to("bypass", "a")
        await hold
        told = {one["name"]: one["hold"] for one in (await living.status())["segments"]}
        assert (told["a"], told["b"]["owner"]) == (None, "uid 4711")

    two_wires.lives(scene)


def test_it_remembers_what_it_decided(two_wires: Living, tmp_path: Path) -> None:
    async def scene(living: Living) -> None:
        await living.ask("hold", topology="bypass", reason="x", seconds=60)

    two_wires.lives(scene)
    again = Living(watched(**TWO_WIRES, health=CARRIER), tmp_path, file="two wires")

    async def found(living: Living) -> None:
        assert {one["hold"]["reason"] for one in (await living.status())["segments"]} == {"x"}

    again.lives(found)


# --- what breaks -----------------------------------------------------------------------------------------------------


def breaks(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "reconcile", "digest": digest(b"two wires")},
        {"do": "hold", "topology": "bypass", "reason": "x", "seconds": 60},
        {"do": "reload"},
    ],
    ids=lambda request: request["do"],
)
def test_a_bug_in_a_turn_that_somebody_asked_for_ends_the_process(
    two_wires: Living, monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any]
) -> None:
    from reconciler.daemon import loop

    of = watched(**TWO_WIRES, health=CARRIER)
    monkeypatch.setattr(loop, "prove", lambda *_: of)

    async def scene(living: Living) -> None:
        await living.goes_to("inspect")
        monkeypatch.setattr(type(living.daemon._turns.core), "turn", breaks)
        with pytest.raises(HostError, match="internal error ends the daemon"):
            await living.ask(**request_)

    with pytest.raises(ZeroDivisionError):
        two_wires.lives(scene)
    assert [line["level"] for line in two_wires.told("bug")] == ["critical"]


def test_a_bug_in_an_answer_that_changes_nothing_is_told_and_ends_nothing(
    two_wires: Living, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reconciler.control import requests

    async def scene(living: Living) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(requests, "status", breaks)
            with pytest.raises(HostError, match="internal error: ZeroDivisionError"):
                await living.status()
        assert (await living.status())["sku"] == "two"

    two_wires.lives(scene)
    (line,) = two_wires.told("bug")
    assert (line["level"], line["text"]) == (
        "error",
        f"internal error in an answer: ZeroDivisionError: a bug ({line['where'][-1]})",
    )


def test_bad_words_are_refused_and_end_nothing(two_wires: Living) -> None:
    async def scene(living: Living) -> None:
        for words in ({"do": "x"}, {"do": "hold", "topology": []}, {"do": "release"}, {"do": "guard", "on": True}):
            with pytest.raises(HostError):
                await living.ask(**words)
        await fails_over_in_turn(living)

    two_wires.lives(scene)
    assert two_wires.told("bug") == []


def test_a_source_that_raises_is_a_line_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_: Any) -> None:
        breaks()

    monkeypatch.setattr(CommandGatherer, "run", run)
    signals = {"odd": {"kind": "command", "run": ["/bin/true"]}}
    living = Living(watched(signals=signals), tmp_path)

    async def scene(living: Living) -> None:
        await until(lambda: bool(living.told("source")), "a line about it")

    living.lives(scene)
    line = living.told("source")[0]
    assert (line["level"], line["signal"]) == ("error", "odd")
    assert line["text"].startswith("internal error in the source of signal odd: ZeroDivisionError: a bug (")


# --- its file read again ----------------------------------------------------------------------------------------------


class Beats:
    """A heartbeat's source that beats each 20 ms as long as it is let; and one of another signal that ends slowly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.beating: list[Any] = []
        self.slow: list[str] = []

        async def beat(gatherer: Any) -> None:
            self.beating.append(gatherer)
            try:
                while True:
                    gatherer._publish(_beat(gatherer._signal))
                    await asyncio.sleep(0.02)
            finally:
                self.beating.remove(gatherer)

        async def slow(_: Any) -> None:
            self.slow.append("begins")
            try:
                await asyncio.sleep(3600)
            finally:
                self.slow.append("ends")
                await asyncio.sleep(1)

        monkeypatch.setattr(HeartbeatGatherer, "run", beat)
        monkeypatch.setattr(CommandGatherer, "run", slow)


def _beat(signal: str) -> Any:
    from reconciler.health.signal import HealthState, Reading

    return Reading(signal, HealthState.HEALTHY, "beats")


def document(**more: Any) -> dict[str, Any]:
    signals = {
        "beat": {"kind": "heartbeat", "socket": "/x", "interval": "100ms", "fall": 3, "rise": 1},
        "check": {"kind": "command", "run": ["/bin/true"], "required": False},
        **more.pop("signals", {}),
    }
    return two_ports_document(
        vm={"adapters": {"outside": {"interface": "vif0"}, "inside": {"interface": "vif1"}}},
        health={**HEALTH, "signals": signals, **more},
    )


def living_of(folder: Path, made: dict[str, Any]) -> Living:
    from worlds import appliance

    return Living(appliance(**made), folder, file=json.dumps(made))


@pytest.mark.long
def test_reloads_with_a_source_that_ends_slowly_fail_no_vm_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = Beats(monkeypatch)
    living = living_of(tmp_path, document())

    async def scene(living: Living) -> None:
        await living.goes_to("inspect")
        (beating,) = beats.beating
        for number in range(3):
            # Another program each time: its source is another one, and the old one takes its time to end.
            check = {"kind": "command", "run": ["/bin/echo", str(number)], "required": False}
            living.file.write_text(json.dumps(document(signals={"check": check})))
            await living.ask("reload")
        # Who has not changed was not disturbed.
        assert beats.beating == [beating]
        await until(lambda: beats.slow.count("ends") == 3, "the old ones to be told to end")

    living.lives(scene)
    assert beats.slow.index("ends") > 1
    assert beats.slow[:2] == ["begins", "begins"]
    switched = [line["text"] for line in living.told("decision") if "inspect → bypass" in line["text"]]
    assert switched == []
    assert [line["text"] for line in living.told("reload")] == [f"{living.file} was reloaded"] * 3


def test_a_source_that_has_changed_is_heard_instead_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = Beats(monkeypatch)
    living = living_of(tmp_path, document())

    async def scene(living: Living) -> None:
        await living.goes_to("inspect")
        (old,) = beats.beating
        other = {"kind": "heartbeat", "socket": "/y", "interval": "100ms", "fall": 3, "rise": 1}
        living.file.write_text(json.dumps(document(signals={"beat": other})))
        await living.ask("reload")
        await until(lambda: len(beats.beating) == 1 and old not in beats.beating, "the new source alone")
        # What the old one may still tell is not heard.
        heard: list[Any] = []
        monkeypatch.setattr(living.daemon._turns, "tell", heard.append)
        old._publish(_beat("beat"))
        assert heard == []

    living.lives(scene)
    assert [line for line in living.told("decision") if "bypass" in line["text"].partition("→")[2]] == []


def test_a_broken_file_leaves_everything_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats(monkeypatch)
    living = living_of(tmp_path, document())

    async def scene(living: Living) -> None:
        await living.goes_to("inspect")
        before = list(beats.beating)
        living.file.write_text("{")
        with pytest.raises(HostError):
            await living.ask("reload")
        assert beats.beating == before
        assert (await living.status())["choice"] == {"wire": "inspect"}

    living.lives(scene)
    assert beats.slow == ["begins", "ends"]
