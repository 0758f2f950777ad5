"""A small file that outlives its process."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ending

from reconciler.host.statefile import StateFile


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "folder" / "state.json")


def test_what_was_written_is_read(file: StateFile) -> None:
    assert file.read() is None
    for value in ({"a": [1, None, "ü"]}, [], "x", {"other": 1}):
        file.write(value)
        assert file.read() == value
    assert [path.name for path in file.path.parent.iterdir()] == ["state.json"]


def test_nobody_else_may_read_it(file: StateFile) -> None:
    file.write({})
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"\x00", b"[" * 100_000, b" " * ((1 << 20) + 1)])
def test_what_is_no_json_value_of_reasonable_size_is_told_with_its_place(file: StateFile, content: bytes) -> None:
    file.path.parent.mkdir()
    file.path.write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.json"):
        file.read()


def test_what_cannot_be_used_is_set_aside_and_an_older_one_replaced(file: StateFile) -> None:
    for content in ("one", "two"):
        file.path.parent.mkdir(exist_ok=True)
        file.path.write_text(content)
        aside = file.set_aside()
        assert aside.read_text() == content
        assert not file.path.exists()
    assert len(list(file.path.parent.iterdir())) == 1


def test_a_write_that_fails_leaves_the_old_value_and_nothing_else(
    file: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write({"old": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.write({"new": 1})
    assert file.read() == {"old": 1}
    assert len(list(file.path.parent.iterdir())) == 1


def test_a_value_that_is_none_leaves_the_old_one(file: StateFile) -> None:
    file.write({"old": 1})
    with pytest.raises(TypeError):
        file.write({"new": object()})
    assert file.read() == {"old": 1}
    assert len(list(file.path.parent.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        StateFile(tmp_path / "file" / "state.json").write({})
    with pytest.raises(OSError, match="file"):
        StateFile(tmp_path / "file" / "state.json").read()


def test_a_link_in_its_place_is_replaced_and_not_followed(file: StateFile, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    file.path.parent.mkdir()
    file.path.symlink_to(tmp_path / "victim")
    file.write({})
    assert (tmp_path / "victim").read_text() == "precious"


WRITER = """
import sys
from pathlib import Path
from reconciler.host.statefile import StateFile
file = StateFile(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    file.write({"number": number, "filling": "x" * 50_000})
    if number == 3:
        print("writing", flush=True)
"""


def test_killed_while_it_writes_the_file_is_whole(file: StateFile) -> None:
    for _ in range(5):
        with ending(
            subprocess.Popen([sys.executable, "-c", WRITER, str(file.path)], stdout=subprocess.PIPE, text=True)
        ) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "writing\n"
            program.send_signal(signal.SIGKILL)
        assert json.loads(file.path.read_bytes())["number"] >= 3


def test_it_is_on_disk_with_its_name_when_it_is_written(file: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: the content, the name, the folder; and of a new folder its own name, too."""
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name.partition('json.')[0]}")

    def replaced(path: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    file.write({})
    assert steps == ["sync .state.", "replace", "sync folder", f"sync {file.path.parent.parent.name}"]
    steps.clear()
    file.write({})
    assert steps == ["sync .state.", "replace", "sync folder"]


def test_a_folder_that_cannot_be_synced_is_no_reason_to_fail(file: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def synced(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    file.write({"a": 1})
    assert file.read() == {"a": 1}


def test_what_killed_processes_have_left_is_swept(file: StateFile) -> None:
    file.sweep()
    words = [sys.executable, "-c", WRITER, str(file.path)]
    with ending(subprocess.Popen(words, stdout=subprocess.PIPE, text=True)) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "writing\n"
        program.send_signal(signal.SIGKILL)
    (file.path.parent / ".state.json.torn").write_text("{")
    (file.path.parent / "others").write_text("")
    file.sweep()
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["others", "state.json"]
