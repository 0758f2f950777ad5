"""What the daemon writes down: what people order, that it began and ended, and that nobody looked meanwhile."""

import errno
import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from keeping import TWO_WIRES, watched
from living import Living, until

from reconciler.control import server as control
from reconciler.daemon import ledger
from reconciler.daemon.journal import Journal
from reconciler.daemon.ledger import Ledger
from reconciler.errors import HostError
from reconciler.host import clock
from reconciler.host.ledgerfile import LedgerFile
from reconciler.ledger.chain import ChainedRow, links, ordered
from reconciler.ledger.entry import Entry, EntryKind
from reconciler.ledger.row import parse

CARRIER = {
    "signals": {"wire": {"kind": "carrier"}},
    "hold_down": "10ms", "hold_down_max": "1s", "grace": "10ms", "flap_memory": "1s",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("RECONCILER_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(ledger, "_BEGUN_MS", 0)
    monkeypatch.setattr(control, "login_of", lambda _: 1)


def living(folder: Path) -> Living:
    return Living(watched(**TWO_WIRES, health=CARRIER), folder, file="two wires")


def rows(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "two.ledger.jsonl").read_bytes().splitlines(keepends=True)
    found = [one for one in links(text) if isinstance(one, ChainedRow)]
    assert (len(found), ordered(found)[1]) == (len(text), ())
    return [json.loads(line) for line in text]


def entries(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    return [row["entry"] for row in rows(folder) if row["entry"]["kind"] in kinds]


def test_it_says_when_it_ran_and_that_nobody_looked_meanwhile(tmp_path: Path) -> None:
    for _ in range(2):

        async def scene(living: Living) -> None:
            await living.goes_to("inspect")
            await until((tmp_path / "two.ledger.alive").exists, "it to be noted that it lives")

        living(tmp_path).lives(scene)
    told = entries(tmp_path, "start", "stop", "no-evidence")
    assert [one["kind"] for one in told] == ["start", "stop", "no-evidence", "start", "stop"]
    assert told[0]["evidence"] == ["a", "b"]
    assert told[2]["cause"] == "the daemon was stopped"
    assert told[1]["from_ms"] <= told[2]["from_ms"] <= told[2]["to_ms"] == told[3]["from_ms"]
    assert all(row["appliance"] == "two" for row in rows(tmp_path))


def test_one_that_was_killed_has_said_nothing_and_the_next_one_says_that(tmp_path: Path) -> None:
    async def scene(living: Living) -> None:
        await living.goes_to("inspect")
        await until((tmp_path / "two.ledger.alive").exists, "it to be noted that it lives")
        living.daemon._ledger.end = lambda: None  # type: ignore[method-assign]

    living(tmp_path).lives(scene)
    alive = int((tmp_path / "two.ledger.alive").read_text().split()[2])
    assert not entries(tmp_path, "stop")
    # Who writes a row lives.
    alive = max(alive, *(parse(line).at_ms for line in (tmp_path / "two.ledger.jsonl").read_bytes().splitlines()))
    living(tmp_path).lives(scene)
    (gap,) = entries(tmp_path, "no-evidence")
    assert gap["cause"] == "the daemon, or the machine, ended without a word"
    assert gap["from_ms"] == alive


def test_a_daemon_that_ends_at_once_again_and_again_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_BEGUN_MS", 60_000)
    for _ in range(5):
        one = Ledger(tmp_path, tmp_path, "two", Journal(io.StringIO()))
        one.find()
        one.begin(["a"], guarded=False)
        one.alive()
        one.wait(5)
    assert not (tmp_path / "two.ledger.jsonl").exists()
    one.end()
    one.wait(5)
    assert [entry["kind"] for entry in entries(tmp_path, "start", "stop")] == ["start", "stop"]


def test_a_hold_is_an_interval_with_who_and_why_over_restarts(tmp_path: Path) -> None:
    async def held(living: Living) -> None:
        await living.goes_to("inspect")
        answer = await living.ask("hold", topology="bypass", reason="new cable", seconds=60, segment="a")
        assert answer["unkept"] == ""
        (entry,) = entries(tmp_path, "hold")  # on disk when it is acknowledged
        assert (entry["segment"], entry["to_ms"], entry["planned"]) == ("a", None, True)
        assert (entry["cause"], entry["reason"]) == ("held on bypass", "new cable")
        assert entry["who"] == "daemon as root"
        assert entry["evidence"][0].startswith("until 20")
        assert {one["name"]: one["hold"] and one["hold"]["owner"] for one in (await living.status())["segments"]} == {
            "a": "daemon as root", "b": None,
        }  # fmt: skip

    living(tmp_path).lives(held)

    async def released(living: Living) -> None:
        await living.ask("release")

    living(tmp_path).lives(released)
    begun, over = entries(tmp_path, "hold")
    assert over["id"] == begun["id"]
    assert over["from_ms"] == begun["from_ms"] < over["to_ms"]
    assert over["cause"] == "held on bypass; released"
    (release,) = entries(tmp_path, "release")
    assert (release["who"], release["segment"]) == ("daemon as root", "")


def test_a_hold_ends_by_itself_or_for_another(tmp_path: Path) -> None:
    async def scene(living: Living) -> None:
        await living.goes_to("inspect")
        await living.ask("hold", topology="bypass", reason="one", seconds=600)
        await living.ask("hold", topology="bypass", reason="two", seconds=0.2, segment="a")
        await until(lambda: any("time was over" in one["cause"] for one in entries(tmp_path, "hold")), "it to end")

    living(tmp_path).lives(scene)
    told = [(one["segment"], one["reason"], one["cause"]) for one in entries(tmp_path, "hold")]
    assert told == [
        ("a", "one", "held on bypass"),
        ("b", "one", "held on bypass"),
        ("a", "one", "held on bypass; replaced by another"),
        ("a", "two", "held on bypass"),
        ("a", "two", "held on bypass; its time was over"),
    ]


def test_a_reload_and_the_guard_s_coming_and_going_are_moments_with_a_name(tmp_path: Path) -> None:
    of = watched(**TWO_WIRES, health=CARRIER)
    one = Ledger(tmp_path, tmp_path, "two", Journal(io.StringIO(), digest="1" * 64))
    one.find()
    one.guard_switched("ann as root", on=False)
    one.guard_switched("bob", on=False)
    one.guard_switched("bob", on=True)
    one.reloaded(of.segments, "", "2" * 64)
    one.wait(5)
    told = entries(tmp_path, "guard-off", "guard-on", "reload")
    assert [(entry["kind"], entry["who"], entry["to_ms"] is None) for entry in told] == [
        ("guard-off", "ann as root", True),
        ("guard-off", "ann as root", False),
        ("guard-on", "bob", False),
        ("reload", "", False),
    ]
    assert told[-1]["cause"] == "the file 111111111111 was replaced by 222222222222"
    assert [row["digest"][0] for row in rows(tmp_path)] == ["1", "1", "1", "2"]


def test_a_guard_that_somebody_has_set_meanwhile_is_off_no_more(tmp_path: Path) -> None:
    for guarded in (False, True):
        one = Ledger(tmp_path, tmp_path, "two", Journal(io.StringIO()))
        one.find()
        one.begin(["a"], guarded=guarded)
        if not guarded:
            one.guard_switched("ann", on=False)
        one.wait(5)
    assert [entry["kind"] for entry in entries(tmp_path, "guard-off", "guard-on")] == ["guard-off"] * 2 + ["guard-on"]
    assert not one.open


class FullDisk(LedgerFile):
    """One that takes nothing while `full`."""

    full = True

    def append(self, batch: Any) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().append(batch)


def test_rows_wait_for_room_on_the_disk_and_that_is_told(tmp_path: Path) -> None:
    log = io.StringIO()
    one = Ledger(tmp_path, tmp_path, "two", Journal(log), file=FullDisk)
    one.find()
    for at in range(5_000):
        one.book(Entry(kind=EntryKind.HOLD, id=f"{at % 10}", from_ms=at, to_ms=None if at < 4_996 else at))
    with pytest.raises((OSError, TimeoutError)):
        one.wait(5)
    (told,) = one.warnings
    assert told.code == "ledger-unwritten"
    assert "No space left on device; 4096 rows wait in memory, 904 are lost" in told.text
    FullDisk.full = False
    try:
        one.book(Entry(kind=EntryKind.CUT, from_ms=1, to_ms=1))
        with pytest.raises(OSError, match="905 rows of the ledger found no room"):
            one.wait(20)
        one.book(Entry(kind=EntryKind.CUT, from_ms=2, to_ms=2))
        one.wait(20)
    finally:
        FullDisk.full = True
    assert not one.warnings
    lost = entries(tmp_path, "lost")
    assert len(lost) == 1
    assert "905 entries found no room" in lost[0]["cause"]
    there = entries(tmp_path, "hold", "cut")
    assert [entry["from_ms"] for entry in there[:4_096]] == list(range(4_096))
    # What had ended while there was no room for it has ended.
    ended = {entry["id"] for entry in there[4_096:] if entry["id"] and entry["to_ms"] is not None}
    assert ended == {"6", "7", "8", "9"}
    assert there[-1]["from_ms"] == 2
    assert [line for line in log.getvalue().splitlines() if "cannot be written" in line or "again" in line][1:]


def test_what_is_amiss_is_told_in_the_log(tmp_path: Path) -> None:
    async def scene(living: Living) -> None:
        await living.ask("hold", topology="bypass", reason="x", seconds=60)

    living(tmp_path).lives(scene)
    with (tmp_path / "two.ledger.jsonl").open("ab") as stream:
        stream.write(b'{"format": "reco')
    again = living(tmp_path)
    again.lives(scene)
    assert "its last 16 bytes were no row" in again.told("ledger")[0]["text"]
    assert "its last 16 bytes were no row" in entries(tmp_path, "repaired")[0]["cause"]


def test_a_disk_that_hangs_keeps_no_daemon_from_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(living: Living) -> None:
        await living.goes_to("inspect")

    gate = threading.Event()
    monkeypatch.setattr("reconciler.daemon.loop._FIND_S", 0.05)
    one = living(tmp_path)
    one.daemon._ledger.find = lambda: gate.wait(60)  # type: ignore[method-assign,assignment,return-value]
    try:
        one.lives(scene)
    finally:
        gate.set()
    assert "does not answer" in one.told("ledger")[0]["text"]
    # What it did is written down all the same.
    assert entries(tmp_path, "stop")


def test_a_guard_that_is_switched_by_hand_is_written_down_and_is_no_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "login_of", lambda _: 1)

    async def scene(living: Living) -> None:
        await living.goes_to("inspect")

    living(tmp_path).lives(scene)
    (stop,) = entries(tmp_path, "stop")
    ledger.guard_switched_by_hand("two", "3" * 64, on=False)
    ledger.guard_switched_by_hand("two", None, on=False)
    ledger.guard_switched_by_hand("two", None, on=True)
    assert [(one["kind"], one["to_ms"] is None) for one in entries(tmp_path, "guard-off", "guard-on")] == [
        ("guard-off", True),
        ("guard-off", False),
        ("guard-on", False),
    ]
    assert entries(tmp_path, "guard-off")[0]["who"].startswith("daemon")
    living(tmp_path).lives(scene)
    (gap,) = entries(tmp_path, "no-evidence")
    assert gap["cause"] == "the daemon was stopped"
    assert gap["from_ms"] <= stop["to_ms"] + 1_500
    assert gap["from_ms"] < entries(tmp_path, "guard-off")[0]["from_ms"]


def test_a_guard_that_cannot_be_written_down_is_told(tmp_path: Path) -> None:
    (tmp_path / "two.ledger.jsonl").mkdir()
    with pytest.raises(HostError, match=r"not in the ledger: .*two\.ledger\.jsonl"):
        ledger.guard_switched_by_hand("two", None, on=False)


def test_one_that_has_nothing_to_say_says_so_each_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Ledger(tmp_path, tmp_path, "two", Journal(io.StringIO()))
    one.find()
    one.begin(["a"], guarded=False)
    one.alive()
    now = clock.now_ms()
    for hours in (0.9, 1.1, 1.9, 2.2):
        monkeypatch.setattr(clock, "now_ms", lambda hours=hours: now + int(hours * 3_600_000))
        one.alive()
    one.wait(5)
    assert [row["entry"]["kind"] for row in rows(tmp_path)] == ["start", "alive", "alive"]


def test_who_holds_is_told_that_it_is_not_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def scene(living: Living) -> None:
        await living.goes_to("inspect")
        with monkeypatch.context() as disk:
            disk.setattr(living.daemon._ledger._file, "_put", full)
            answer = await living.ask("hold", topology="bypass", reason="x", seconds=60)
            assert "No space left on device" in answer["unkept"]
            assert answer["choice"] == {"a": "bypass", "b": "bypass"}
            assert [one["code"] for one in (await living.status())["warnings"]] == ["ledger-unwritten"]
        assert (await living.ask("release"))["unkept"] == ""
        assert len(entries(tmp_path, "hold")) == 4

    living(tmp_path).lives(scene)
