"""Paths are followed: each change is told once, with its level, and since when it is so outlives the process."""

import json
from typing import Any

import pytest
from guards import Guards, guarded
from keeping import Kept

from reconciler.daemon.paths import PathChange, Paths
from reconciler.daemon.status import status
from reconciler.health.state import Hold, HoldPlaced
from reconciler.network.path import Finding, Path


def followed(kept: Kept) -> list[PathChange]:
    found: list[PathChange] = []
    kept.core.paths.changed = found.append
    return found


def lines(kept: Kept) -> list[tuple[Any, ...]]:
    told = [json.loads(line) for line in kept.told.getvalue().splitlines()]
    return [(one["level"], one["before"], one["path"], one["by"]) for one in told if one["event"] == "path"]


def segment(kept: Kept) -> Any:
    return status(kept.core, kept.core.see_paths(ask=True))["segments"][0]


def test_a_failure_is_told_once_and_so_is_the_return() -> None:
    kept = Guards().granted()
    kept.forget()
    found = followed(kept)
    kept.wires.dead = True
    kept.wait(5_000)
    assert lines(kept) == [("warning", "inspected", "bypassed", "guard")]
    (change,) = found
    assert (change.segment, change.before, change.now.path) == ("wire", Path.INSPECTED, Path.BYPASSED)
    assert change.at_ms == kept.core.paths.since("wire")
    kept.wires.dead = False
    kept.wait(60_000)
    assert [one[1:3] for one in lines(kept)] == [("inspected", "bypassed"), ("bypassed", "inspected")]
    assert [one.now.path for one in found] == [Path.BYPASSED, Path.INSPECTED]


def test_what_is_cut_is_critical() -> None:
    kept = Guards(guarded(on_failure={"fail": "closed"})).granted()
    kept.forget()
    kept.wires.dead = True
    kept.wait(5_000)
    assert lines(kept) == [("critical", "inspected", "cut", "guard")]


def test_the_time_is_that_of_the_path_and_not_of_the_decision() -> None:
    kept = Kept().inspected()
    began = kept.core.paths.since("wire")
    kept.wait(90_000)
    assert segment(kept)["path_ms"] == kept.now - began
    kept.turn(HoldPlaced(Hold("inspect", "eve", "tests", kept.now + 60_000)))
    assert segment(kept)["path_ms"] == kept.now - began, "held, and where it was"
    kept.turn(HoldPlaced(Hold("bypass", "eve", "tests", kept.now + 60_000)))
    assert (segment(kept)["path"], segment(kept)["path_ms"]) == ("bypassed", 0)
    assert segment(kept)["path_since"].endswith("Z")


class Note:
    def __init__(self) -> None:
        self.kept: Any = {}

    def write(self, value: Any) -> None:
        self.kept = json.loads(json.dumps(value))


def test_another_process_goes_on_from_it() -> None:
    note, kept = Note(), Kept()
    kept.core.paths = Paths(notes=note)
    kept.inspected()
    since = kept.core.paths.since("wire")
    kept.wait(30_000)
    kept.core = kept._new()
    kept.core.paths = Paths(notes=note, kept=note.kept)
    kept.forget()
    kept.start()
    assert (kept.core.paths.since("wire"), lines(kept)) == (since, [])


@pytest.mark.parametrize("kept", [{"wire": 3}, {"wire": ["sideways", 1]}, {"wire": ["cut", None]}, {"wire": ["cut"]}])
def test_what_is_no_memory_is_none(kept: Any) -> None:
    assert Paths(kept=kept).since("wire") is None


def test_a_dry_run_and_a_status_tell_the_same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Guards().granted()
    assert kept.core.guard is not None
    found = {"wire": (Finding(Path.CUT, "nothing leaves"),)}
    monkeypatch.setattr(type(kept.core.guard), "findings", lambda _: found)
    assert kept.core.look().taken["wire"] == kept.core.see_paths(ask=True)["wire"]
    assert kept.core.look().taken["wire"].evidence == "nothing leaves"
