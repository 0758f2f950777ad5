"""The policy's memory on disk: whatever lies there, the daemon starts; whatever goes wrong with it, the daemon runs."""

import io
import json
import math
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from keeping import PROGRAMS, Kept, watched

from reconciler.daemon.core import Core
from reconciler.daemon.journal import Journal
from reconciler.daemon.memory import Remembering
from reconciler.health import record
from reconciler.health.state import MAX_HOLD_MS, Course, Hold, HoldPlaced, Phase, State, begin, rules_of
from reconciler.host import clock

OF = watched(vm=PROGRAMS)


@pytest.fixture
def told() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def memory(tmp_path: Path, told: io.StringIO) -> Remembering:
    return Remembering(tmp_path, "two", Journal(told, as_json=True))


def state(now: int = 1_000) -> State:
    """One with something in every place."""
    kept = Kept(OF, now=now).inspected()
    kept.power(on=False)
    kept.turn(changed=True)
    kept.wait(1_001)
    kept.turn(HoldPlaced(Hold("bypass", "root", "why not", kept.now + 60_000)))
    return kept.core.state


def lines(told: io.StringIO) -> list[Any]:
    return [json.loads(line) for line in told.getvalue().splitlines()]


def remembered(memory: Remembering, given: State) -> None:
    """Remember it, and wait until it is written."""
    memory.remember(given)
    memory.wait(10)


def test_nothing_there_is_nothing_remembered(memory: Remembering, told: io.StringIO) -> None:
    assert memory.find() == (None, None)
    assert told.getvalue() == ""


def test_what_was_remembered_is_found_as_it_was(memory: Remembering) -> None:
    given = state()
    remembered(memory, given)
    found, shift = memory.find()
    assert found == record.dump(given)
    assert shift is None


def test_after_a_reboot_it_comes_with_the_shift_of_the_clocks(
    memory: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now_ms", lambda: 500_000)
    monkeypatch.setattr(clock, "wall_ms", lambda: 1_000_000_000)
    remembered(memory, state())
    # 90 s later, 5 s after the next boot.
    monkeypatch.setattr(clock, "boot_id", lambda: "another")
    monkeypatch.setattr(clock, "now_ms", lambda: 5_000)
    monkeypatch.setattr(clock, "wall_ms", lambda: 1_000_090_000)
    _, shift = memory.find()
    assert shift == 5_000 - 590_000


HOUR = 3_600_000
REAL = 1_700_000_000_000
"""A wall clock that is right."""


@pytest.mark.parametrize(
    ("before", "after", "left_s"),
    [
        (REAL, REAL + 60_000, (1740, 1735)),
        (REAL, REAL + 29 * 60_000, (60, 55)),
        (REAL, REAL + 31 * 60_000, (0, 0)),
        (REAL, 0, (1795, 1790)),  # no battery: 1970 until a time server is found
        (REAL + 10**13, REAL, (1795, 1790)),  # it had been far in the future
        (0, REAL, (0, 0)),  # written in 1970: nobody knows how long ago, and a hold ends rather than lasts
        (REAL, REAL - 1, (1795, 1790)),
        (REAL, REAL, (1795, 1790)),
    ],
)
def test_no_clock_makes_a_hold_last_longer_than_what_was_left_of_it(
    memory: Remembering,
    monkeypatch: pytest.MonkeyPatch,
    *,
    before: int,
    after: int,
    left_s: tuple[int, int],
) -> None:
    """Half an hour, a reboot whose wall clock says what it likes, and another one. A boot takes five seconds."""
    boots = [("one", 500_000, before), ("two", 5_000, after), ("three", 5_000, after)]

    def boot(name: str, now: int, wall: int) -> None:
        monkeypatch.setattr(clock, "boot_id", lambda: name)
        monkeypatch.setattr(clock, "now_ms", lambda: now)
        monkeypatch.setattr(clock, "wall_ms", lambda: wall)

    boot(*boots[0])
    held = Hold("bypass", "alice", "tests", 500_000 + 30 * 60_000)
    remembered(memory, replace(begin(rules_of(OF), {"wire": "bypass"}, 500_000), holds={"wire": held}))
    for one, left in zip(boots[1:], left_s, strict=True):
        boot(*one)
        found, shift = memory.find()
        again = record.recall(rules_of(OF), {"wire": "bypass"}, found, 5_000, shift)
        assert max(0, again.holds["wire"].until_ms - 5_000) == left * 1_000
        remembered(memory, again)


def test_a_machine_without_a_clock_that_boots_again_and_again_does_not_hold_for_ever(
    memory: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each boot is dead before a minute is over, so that nothing is written but what was left at its start."""
    monkeypatch.setattr(clock, "now_ms", lambda: 20_000)
    monkeypatch.setattr(clock, "wall_ms", lambda: 20_000)
    monkeypatch.setattr(clock, "boot_id", lambda: "0")
    held = Hold("bypass", "alice", "tests", 20_000 + 30 * 60_000)
    now = replace(begin(rules_of(OF), {"wire": "bypass"}, 20_000), holds={"wire": held})
    boots = 0
    while now.holds["wire"].until_ms > 20_000:
        remembered(memory, now)
        boots += 1
        monkeypatch.setattr(clock, "boot_id", lambda name=str(boots): name)
        now = record.recall(rules_of(OF), {"wire": "bypass"}, memory.find()[0], 20_000, memory.find()[1])
        assert boots <= 30 * 60 // 20


def test_a_clock_that_is_set_while_the_daemon_runs_changes_nothing_within_a_boot(
    memory: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = state()
    remembered(memory, given)
    for wall in (0, 10**15):
        monkeypatch.setattr(clock, "wall_ms", lambda wall=wall: wall)
        assert memory.find() == (record.dump(given), None)


def test_a_memory_that_claims_a_hold_without_an_end_is_not_believed() -> None:
    given = record.dump(state())
    given["holds"]["wire"]["until_ms"] = 10**18
    for shift in (None, 5_000):
        again = recalled(given, 1_000, shift)
        assert again.holds["wire"].until_ms <= 1_000 + MAX_HOLD_MS
    del given["holds"]["wire"]["left_ms"]  # of a version before
    assert recalled(given, 1_000, 5_000).holds["wire"].until_ms == 1_000 + MAX_HOLD_MS


def test_what_is_left_of_a_hold_is_written_again_each_minute() -> None:
    kept = Kept(OF).start()
    kept.turn(HoldPlaced(Hold("bypass", "alice", "tests", kept.now + HOUR)))
    written = []
    kept.on_remember = lambda: written.append(kept.now)
    kept.wait(10 * 60_000)
    assert 8 <= len(written) <= 20
    assert kept.memory is not None
    (left,) = (one["left_ms"] for one in json.loads(kept.memory)["holds"].values())
    assert left == 50 * 60_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        b"\x00" * 5_000,
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"boot": 1}',
        b'{"boot": "x", "now_ms": "1", "wall_ms": []}',
        b'{"boot": "x", "now_ms": 1e999, "wall_ms": 1, "memory": {}}',
        b'{"boot": "x", "now_ms": NaN, "wall_ms": 1, "memory": {}}',
        b'{"boot": "x", "now_ms": ' + b"9" * 5_000 + b', "wall_ms": 1, "memory": {}}',
        b" " * (2 << 20),
    ],
)
def test_what_is_no_memory_is_set_aside_and_told_once(
    memory: Remembering, tmp_path: Path, told: io.StringIO, content: bytes
) -> None:
    path = tmp_path / "two.memory.json"
    path.write_bytes(content)
    assert memory.find() == (None, None)
    (line,) = lines(told)
    assert (line["event"], line["level"]) == ("memory", "warning")
    assert "set aside as" in line["text"]
    assert len(line["text"]) < 1_000
    assert not path.exists()
    assert (tmp_path / "two.memory.json.set-aside").read_bytes() == content
    remembered(memory, state())
    assert memory.find()[0] is not None


def test_a_folder_in_its_place_is_set_aside(memory: Remembering, tmp_path: Path) -> None:
    (tmp_path / "two.memory.json").mkdir()
    assert memory.find() == (None, None)
    remembered(memory, state())
    assert memory.find()[0] is not None


def test_a_folder_that_cannot_be_written_is_told_once_and_again_when_it_fails_again(
    tmp_path: Path, told: io.StringIO
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    memory = Remembering(blocked / "state", "two", Journal(told, as_json=True))
    assert memory.find() == (None, None)
    told.truncate(0)
    told.seek(0)
    for _ in range(5):
        with pytest.raises(OSError, match="file"):
            remembered(memory, state())
    assert [line["level"] for line in lines(told)] == ["error"]
    assert [one.line for one in memory.warnings] == [lines(told)[0]["text"]]
    blocked.unlink()
    remembered(memory, state())
    assert memory.find()[0] is not None
    assert [line["level"] for line in lines(told)] == ["error", "info"]
    assert memory.warnings == ()


def test_a_file_that_cannot_be_set_aside_is_no_reason_not_to_start(
    memory: Remembering, tmp_path: Path, told: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two.memory.json").write_text("{")

    def refuse(_: Path, __: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    assert memory.find() == (None, None)
    assert "could not be set aside" in lines(told)[0]["text"]


# --- the record ------------------------------------------------------------------------------------------------------


def recalled(data: Any, now: int, shift: int | None = None, found: str | None = "bypass") -> State:
    return record.recall(rules_of(OF), {"wire": found}, json.loads(json.dumps(data)), now, shift)


def test_within_one_boot_everything_comes_back() -> None:
    given = state()
    again = recalled(record.dump(given), given.now_ms)
    # But who restarted the VM is dead, and the VM may be booting.
    assert (given.vm.phase, again.vm.phase) == (Phase.RESTARTING, Phase.BOOTING)
    assert {**record.dump(again), "vm": None} == {**record.dump(given), "vm": None}
    assert again.holds == given.holds
    assert again.vm.attempts == given.vm.attempts == 1


def test_after_a_reboot_holds_and_flaps_come_back_moved_and_the_vm_is_new() -> None:
    given = state(now=1_000_000)
    now = 5_000
    shift = now - (given.now_ms + 20_000)
    again = recalled(record.dump(given), now, shift, None)
    assert again.holds["wire"].until_ms - now == given.holds["wire"].until_ms - given.now_ms - 20_000
    assert again.vm.phase is Phase.STEADY
    assert again.vm.attempts == 0
    assert again.segments["wire"].flaps == given.segments["wire"].flaps
    returned = given.segments["wire"].returned_ms
    assert returned is not None
    assert again.segments["wire"].returned_ms == returned + shift


@pytest.mark.parametrize("course", list(Course))
def test_a_segment_that_was_on_its_way_back_begins_its_proof_again(course: Course) -> None:
    data = record.dump(state())
    data["segments"]["wire"]["course"] = course.value
    past = course in (Course.FALLBACK, Course.PROVING)
    again = recalled(data, 9_000, found="inspect")
    assert again.segments["wire"].course is (Course.FALLBACK if past else Course.INSPECT)
    assert recalled(data, 9_000, found=None).segments["wire"].course is again.segments["wire"].course
    data["holds"] = {}
    assert recalled(data, 9_000, found="bypass").segments["wire"].course is Course.FALLBACK


def test_of_what_the_file_no_longer_declares_nothing_comes_back() -> None:
    data = record.dump(state())
    data["segments"]["gone"] = {"course": "inspect", "flaps": 1, "returned_ms": None}
    data["holds"]["gone"] = dict(data["holds"]["wire"])
    data["holds"]["wire"]["topology"] = "gone"
    assert recalled(data, 9_000).holds == {}


def _twisted(data: Any, path: tuple[str, ...], value: Any) -> Any:
    made = json.loads(json.dumps(data))
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return made


PATHS = [
    ("format",),
    ("segments",),
    ("segments", "wire"),
    ("segments", "wire", "course"),
    ("segments", "wire", "flaps"),
    ("segments", "wire", "returned_ms"),
    ("vm",),
    ("vm", "phase"),
    ("vm", "attempts"),
    ("vm", "due_ms"),
    ("deliberate",),
    ("holds",),
    ("holds", "wire"),
    ("holds", "wire", "topology"),
    ("holds", "wire", "owner"),
    ("holds", "wire", "reason"),
    ("holds", "wire", "until_ms"),
]
ALIEN: list[Any] = [None, True, -1, 0, 1.5, math.inf, 10**300, "", "x" * 10_000, "\x1b", [], [1], {}, {"wire": 1}]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
@pytest.mark.parametrize("shift", [None, -1_000])
def test_any_value_in_any_place_gives_a_daemon_that_runs(path: tuple[str, ...], shift: int | None) -> None:
    """Either it is no memory, and told; or what it says is taken within bounds. Never does it end the daemon."""
    given = record.dump(state())
    for value in ALIEN:
        kept = Kept(OF)
        kept.memory = json.dumps(_twisted(given, path, value))
        kept.start(shift=shift)
        kept.wait(40_000)
        assert kept.core.state.vm.attempts <= 1_000_000


def test_a_memory_in_an_older_or_alien_form_is_set_aside_too(tmp_path: Path, told: io.StringIO) -> None:
    memory = Remembering(tmp_path, "two", Journal(told, as_json=True))
    given = {"boot": clock.boot_id(), "now_ms": 1, "wall_ms": 1, "memory": {"format": "reconciler.memory/0"}}
    (tmp_path / "two.memory.json").write_text(json.dumps(given))
    kept = Kept(OF)
    core = Core(OF, kept.kernel, lambda: kept.now, Journal(told, as_json=True), memory, kept._restart)
    core.start(*memory.find())
    memory.wait(10)
    assert json.loads((tmp_path / "two.memory.json.set-aside").read_text()) == given
    (line,) = [line for line in lines(told) if line["event"] == "memory"]
    assert "set aside as" in line["text"]
    assert memory.find()[0] == record.dump(core.state)


def test_no_process_remembers_more_than_one_that_begins() -> None:
    """What `dump` tells of a beginning is what `recall` makes of it."""
    given = begin(rules_of(OF), {"wire": "inspect"}, 1_000)
    again = recalled(record.dump(given), 1_000, found="inspect")
    assert record.dump(again) == record.dump(given)


def test_what_cut_writes_have_left_is_swept_at_start(memory: Remembering, tmp_path: Path) -> None:
    given = state()
    remembered(memory, given)
    for name in (".two.memory.json.abc", ".other.memory.json.abc", "two.memory.json.set-aside"):
        (tmp_path / name).write_text("{")
    assert memory.find()[0] == record.dump(given)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.memory.json.abc",
        "two.memory.json",
        "two.memory.json.set-aside",
    ]


def test_a_disk_that_does_not_answer_keeps_nobody_waiting_who_does_not_want_to(
    memory: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, genuine = threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        assert disk.wait(10)
        genuine(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    given = state()
    for _ in range(100):
        memory.remember(given)
    with pytest.raises(TimeoutError):
        memory.wait(0.01)
    disk.set()
    memory.wait(10)
    assert memory.find()[0] == record.dump(given)
