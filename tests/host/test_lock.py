"""One reconciler per appliance."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PATIENCE_S, ending

from reconciler.errors import HostError, TransientError
from reconciler.host.lock import lock

HOLDER = """
import sys
from pathlib import Path
from reconciler.host.lock import lock
with lock(Path(sys.argv[1]), "sku", 0, print):
    print("held", flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ending(subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], **pipes)) as program:  # type: ignore[call-overload]
        assert program.stdout.readline() == "held\n"
        yield program


def silent(_: str) -> None:
    raise AssertionError("there is nobody to wait for")


def test_who_holds_it_is_told_and_not_waited_for(holder: "subprocess.Popen[str]", tmp_path: Path) -> None:
    told = rf"another process is reconciling sku: pid {holder.pid} \(.*\); wait"
    with pytest.raises(TransientError, match=told), lock(tmp_path, "sku", 0, silent):
        raise AssertionError("two at once")


def test_who_waits_is_told_for_whom_once_and_gets_it(holder: "subprocess.Popen[str]", tmp_path: Path) -> None:
    told: list[str] = []

    def on_wait(text: str) -> None:
        told.append(text)
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()

    with lock(tmp_path, "sku", 60, on_wait):
        assert holder.wait(30) == 0
    assert len(told) == 1
    assert f"pid {holder.pid} (" in told[0]


def test_a_killed_holder_frees_it(holder: "subprocess.Popen[str]", tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    with lock(tmp_path, "sku", 0, silent):
        pass


@pytest.mark.usefixtures("holder")
def test_another_appliance_is_nobodys_hindrance(tmp_path: Path) -> None:
    with lock(tmp_path, "other", 0, silent):
        pass


def test_it_is_free_afterwards_also_after_a_failure(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lock(tmp_path, "sku", 0, silent):
            raise ZeroDivisionError


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff", b'{"pid": 1e999, "command": ""}', b"9" * 5000]
)
def test_a_holder_that_says_nothing_sensible_is_a_holder(tmp_path: Path, content: bytes) -> None:
    import fcntl

    path = tmp_path / "sku.lock"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(TransientError, match="it has not told who it is"), lock(tmp_path, "sku", 0, silent):
        pass
    os.close(descriptor)


def test_what_a_holder_says_is_escaped(tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / "sku.lock"
    path.write_text('{"pid": 7, "command": "\\u001b[8m\\n"}')
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(TransientError) as caught, lock(tmp_path, "sku", 0, silent):
        pass
    os.close(descriptor)
    assert str(caught.value).isprintable()


@pytest.mark.usefixtures("holder")
def test_a_wait_that_is_no_number_does_not_last_for_ever(tmp_path: Path) -> None:
    with pytest.raises(TransientError), lock(tmp_path, "sku", float("nan"), print):
        pass


def test_a_folder_that_cannot_be_made_is_told_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="RECONCILER_RUN_DIR"), lock(tmp_path / "file" / "run", "sku", 0, silent):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "sku.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(HostError), lock(tmp_path, "sku", 0, silent):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("found", [None, 0o644, 0o666])
def test_nobody_else_can_open_it_and_so_nobody_else_can_hold_it(tmp_path: Path, found: int | None) -> None:
    path = tmp_path / "sku.lock"
    if found is not None:
        path.touch()
        path.chmod(found)
    with lock(tmp_path, "sku", 0, silent):
        assert path.stat().st_mode & 0o7777 == 0o600
    assert path.stat().st_mode & 0o7777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_one_that_somebody_else_could_open_again_is_refused(tmp_path: Path) -> None:
    """Whose it is may lock it whatever its mode: that it waits for ever would be told of nobody."""
    path = tmp_path / "sku.lock"
    path.write_text("theirs")
    os.chown(path, 65534, 65534)
    with pytest.raises(HostError, match=r"sku\.lock: it is somebody else's"), lock(tmp_path, "sku", 0, silent):
        pass
    assert (path.read_text(), path.stat().st_uid) == ("theirs", 65534)


def test_what_is_no_file_of_its_own_is_neither_locked_nor_written(tmp_path: Path) -> None:
    path = tmp_path / "sku.lock"
    (tmp_path / "victim").write_text("precious")
    path.hardlink_to(tmp_path / "victim")
    with pytest.raises(HostError, match="remove it"), lock(tmp_path, "sku", 0, silent):
        pass
    assert (tmp_path / "victim").read_text() == "precious"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(HostError, match="remove it"), lock(tmp_path, "sku", 0, silent):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_local_user_does_not_keep_the_daemon_from_starting(tmp_path: Path) -> None:
    """Really: another user, who may enter the folder, tries to lock what an earlier run has left."""
    import subprocess

    folder = tmp_path / "run"
    with lock(folder, "sku", 0, silent):
        pass
    for outer in (folder, *folder.parents):
        if not outer.stat().st_mode & 0o001:
            outer.chmod(outer.stat().st_mode | 0o011)
    done = subprocess.run(
        ["flock", "--nonblock", str(folder / "sku.lock"), "true"],
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode
    assert "Permission denied" in done.stderr
