"""The ledger on disk: no row that was acknowledged is lost and none invented, whenever a process or its disk gives up."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from effort import examples
from ledgers import entry
from processes import ending

from reconciler.host import ledgerfile
from reconciler.host.ledgerfile import Booked, Disk, Found, LedgerFile, files, lines
from reconciler.ledger.chain import Break, ChainedRow, links, ordered
from reconciler.ledger.entry import EntryKind
from reconciler.ledger.row import Row, parse

DAY_MS = 86_400_000
_IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Killed(BaseException):
    """The process ends here, with all that it was about to do."""


class Faulty(Disk):
    """Ends the process, or refuses, after so many bytes; `synced` is what a power cut leaves for certain."""

    def __init__(self, room: int | None = None, *, kills: bool = False, no_sync: bool = False) -> None:
        self.room, self.kills, self.no_sync = room, kills, no_sync

    def write(self, descriptor: int, data: memoryview) -> int:  # type: ignore[override]
        if self.room is None:
            return os.write(descriptor, data)
        some = data[: self.room]
        self.room -= os.write(descriptor, some)
        if len(some) < len(data):
            if self.kills:
                raise Killed
            raise OSError(28, "No space left on device")
        return len(some)

    def sync(self, descriptor: int) -> None:  # type: ignore[override]
        if self.no_sync:
            raise OSError(5, "Input/output error")


def booked(number: int, at_ms: int = 1_000) -> Booked:
    return Booked(entry(EntryKind.CUT, at_ms, at_ms, cause=f"entry {number}"), at_ms, at_ms, "f" * 64)


def opened(folder: Path, disk: Disk | None = None, max_bytes: int = 1 << 20) -> LedgerFile:
    return LedgerFile(folder, folder, "sku", disk=disk, max_bytes=max_bytes)


def rows(folder: Path) -> list[Row]:
    found = []
    for path in files(folder, "sku"):
        if path.exists():
            with path.open("rb") as stream:
                found += [parse(text) for text in lines(stream)]
    return found


def whole(folder: Path) -> bool:
    text: list[bytes] = []
    for path in files(folder, "sku"):
        if path.exists():
            text += path.read_bytes().splitlines(keepends=True)
    found = [*links(text)]
    return not ordered(one for one in found if isinstance(one, ChainedRow))[1] and not any(
        isinstance(one, Break) for one in found
    )


def entries(folder: Path) -> list[str]:
    return [row.entry.cause for row in rows(folder) if row.entry.kind is EntryKind.CUT]


def test_rows_follow_each_other_over_processes(tmp_path: Path) -> None:
    for number in range(3):
        file = opened(tmp_path)
        file.find()
        file.append([booked(2 * number), booked(2 * number + 1)])
        file.close()
    assert entries(tmp_path) == [f"entry {number}" for number in range(6)]
    assert whole(tmp_path)
    assert rows(tmp_path)[-1].appliance == "sku"
    assert (tmp_path / "sku.ledger.jsonl").stat().st_mode & 0o777 == 0o600


def test_what_goes_on_is_found_again(tmp_path: Path) -> None:
    file = opened(tmp_path)
    holds = [
        entry(EntryKind.HOLD, 5, None, id="a"),
        entry(EntryKind.HOLD, 5, None, id="b"),
        entry(EntryKind.HOLD, 5, 9, id="a"),
    ]
    file.append([booked(0).of(one) for one in holds])
    file.mark(7_000, kept=True)
    found = opened(tmp_path).find()
    assert found == Found(open={"b": holds[1]}, alive_ms=7_000)
    file.append([booked(0).of(entry(EntryKind.STOP, 9, 9))])
    assert opened(tmp_path).find().stopped


def tried(folder: Path, seed: int) -> None:
    """Processes that end, or whose disk fills or fails, at any byte of any write; each time all is there again."""
    dice, acknowledged, given, number = random.Random(seed), list[str](), set[str](), 0
    for _ in range(4):
        kills = dice.random() < 0.5
        file = opened(folder, Faulty(kills=kills), max_bytes=dice.choice([2_000, 1 << 20]))
        for _ in range(dice.randrange(1, 4)):
            disk = file._disk
            assert isinstance(disk, Faulty)
            disk.room, disk.no_sync = dice.randrange(3_000), dice.random() < 0.1
            batch = [booked(number + one) for one in range(dice.randrange(1, 4))]
            number += len(batch)
            causes = [one.entry.cause for one in batch]
            given |= set(causes)
            try:
                file.append(batch)
            except Killed:
                break
            except OSError:
                assert not set(causes) & set(entries(folder))
                disk.room, disk.no_sync = None, False
                file.append(batch)
            # Nothing is acknowledged that was not synced.
            assert not disk.no_sync
            acknowledged += causes
        file.close()
        left = opened(folder, Faulty())
        left.find()
        left.append([booked(0).note(EntryKind.START, "")])
        left.close()
        assert whole(folder)
        there = entries(folder)
        kept = [one for one in acknowledged if one in there]
        # Those that an older file held went with it; of the others none.
        assert kept == acknowledged[len(acknowledged) - len(kept) :]
        if not any("dropped" in row.entry.cause for row in rows(folder)):
            assert kept == acknowledged
        assert len(there) == len(set(there))
        assert set(there) <= given


@pytest.mark.long
def test_no_row_is_lost_and_none_invented_wherever_it_ends() -> None:
    for seed in range(examples(1_000)):
        with tempfile.TemporaryDirectory(dir=_IN_MEMORY) as folder:
            tried(Path(folder), seed)


def test_a_power_cut_may_leave_anything_behind_the_last_row(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.append([booked(0)])
    path = tmp_path / "sku.ledger.jsonl"
    for number, rest in enumerate([b"\0" * 700, b'{"format":', b"\0" * 500 + b"\n", b"\n", b"}\n{"], 1):
        with path.open("ab") as stream:
            stream.write(rest)
        file = opened(tmp_path)
        amiss = file.find().amiss
        assert len(amiss) == 1
        assert f"its last {len(rest)} bytes were no row" in amiss[0]
        file.append([booked(number)])
        assert rows(tmp_path)[-2].entry.kind is EntryKind.REPAIRED
        assert rows(tmp_path)[-2].entry.cause == amiss[0]
    assert whole(tmp_path)
    assert entries(tmp_path) == [f"entry {number}" for number in range(6)]


_WRITER = """
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
sys.path[:0] = {path!r}
from test_ledgerfile import booked, opened
file = opened(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 1_000_000):
    file.append([booked(number)])
    print(number, flush=True)
"""


def test_a_process_that_is_killed_has_lost_nothing_that_it_had_acknowledged(tmp_path: Path) -> None:
    said = -1
    for _ in range(examples(20) // 4):
        code = _WRITER.format(path=sys.path)
        command = [sys.executable, "-c", code, str(tmp_path), str(said + 1)]
        with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
            assert process.stdout is not None
            for _ in range(7):
                said = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            said = max([said, *map(int, process.stdout.read().split())])
        file = opened(tmp_path)
        file.find()
        file.append([booked(0).note(EntryKind.START, "")])
        there = entries(tmp_path)
        assert there[: said + 1] == [f"entry {number}" for number in range(said + 1)]
        assert len(there) <= said + 2
        said = len(there) - 1
        assert whole(tmp_path)


def test_an_older_file_is_kept_until_all_of_it_is_of_age(tmp_path: Path) -> None:
    file = opened(tmp_path)
    for month in range(40):
        file.append([booked(month, at_ms=month * 30 * DAY_MS)])
        there = entries(tmp_path)
        assert {f"entry {one}" for one in range(max(0, month - 12), month + 1)} <= set(there)
    assert len(there) < 40
    assert whole(tmp_path)
    first = rows(tmp_path)[0]
    assert first.entry.kind is EntryKind.CONTINUED
    assert "dropped" not in first.entry.cause  # when it was made, what came before was in the older file
    newest = [row.entry.cause for row in rows(tmp_path) if row.entry.kind is EntryKind.CONTINUED][-1]
    assert f"rows 1 to {first.n - 1} were dropped" in newest


def test_it_grows_no_larger_than_its_bound_and_keeps_what_goes_on(tmp_path: Path) -> None:
    file = opened(tmp_path, max_bytes=4_000)
    hold = entry(EntryKind.HOLD, 5, None, id="kept", who="ann")
    file.append([booked(0).of(hold)])
    for number in range(60):
        file.append([booked(number)])
    assert sum(path.stat().st_size for path in files(tmp_path, "sku")) < 12_000
    assert whole(tmp_path)
    assert opened(tmp_path).find().open == {"kept": hold}
    file.append([booked(0).of(replace(hold, to_ms=9))])
    assert opened(tmp_path).find().open == {}


def test_what_began_in_the_older_file_and_ended_in_this_one_is_over(tmp_path: Path) -> None:
    file = opened(tmp_path, max_bytes=1)
    hold = entry(EntryKind.HOLD, 5, None, id='a "name"', segment="wan", cause='"to_ms":null, "id":"x"')
    file.append([booked(0).of(hold)])
    file.append([booked(1)])
    assert opened(tmp_path).find().open == {hold.id: hold}
    path = tmp_path / "sku.ledger.jsonl"
    # Also where a crash kept it from being written again when this file began.
    path.write_bytes(b"".join(text for text in path.read_bytes().splitlines(keepends=True) if b'"hold"' not in text))
    opened(tmp_path).append([booked(0).of(replace(hold, to_ms=9))])
    assert opened(tmp_path).find().open == {}


def test_who_was_let_in_stays_in(tmp_path: Path) -> None:
    file = opened(tmp_path, max_bytes=1)
    file.append([booked(0)])
    (tmp_path / "sku.ledger.jsonl").chmod(0o640)
    file.append([booked(1)])
    assert (tmp_path / "sku.ledger.jsonl").stat().st_mode & 0o777 == 0o640


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def taken_away(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def written_to(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"#" * 50)


@pytest.mark.parametrize("tamper", [emptied, taken_away, cut, written_to])
@pytest.mark.parametrize("running", [True, False])
def test_what_somebody_does_to_the_file_is_told_and_ends_nothing(tmp_path: Path, tamper: object, running: bool) -> None:
    file = opened(tmp_path)
    file.append([booked(0), booked(1)])
    file.append([booked(2)])
    file.mark(5_000, kept=True)
    assert callable(tamper)
    tamper(tmp_path / "sku.ledger.jsonl")
    if not running:
        file = opened(tmp_path)
        assert file.find().amiss
    file.append([booked(3)])
    assert rows(tmp_path)[-1].entry.cause == "entry 3"
    assert any(row.entry.kind is EntryKind.REPAIRED for row in rows(tmp_path))
    if tamper is not written_to:
        assert rows(tmp_path)[-1].n > 4  # what is gone has left its numbers


def test_rows_that_are_missing_at_the_end_are_told(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.append([booked(0), booked(1), booked(2)])
    file.mark(5_000, kept=True)
    path = tmp_path / "sku.ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    assert opened(tmp_path).find().amiss == ("rows 2 to 3 were written and are not there",)


def test_what_is_too_much_for_a_torn_row_is_left_alone(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.append([booked(0)])
    with (tmp_path / "sku.ledger.jsonl").open("ab") as stream:
        stream.write(b"x" * (3 << 20))
    file = opened(tmp_path, max_bytes=1 << 30)
    assert "left where they are" in file.find().amiss[0]
    file.append([booked(1)])
    assert (tmp_path / "sku.ledger.jsonl").stat().st_size > 3 << 20
    assert json.loads((tmp_path / "sku.ledger.jsonl").read_bytes().splitlines()[-1])["n"] == 3


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "sku.ledger.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        opened(tmp_path).append([booked(0)])
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("text", [b"", b"a b c", b"1 2", b"\xff" * 500, b"9" * 200])
def test_a_mark_that_says_nothing_is_no_mark(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "sku.ledger.mark").write_bytes(text)
    assert opened(tmp_path).find() == Found()
    assert ledgerfile.read_mark(tmp_path / "none") is None
