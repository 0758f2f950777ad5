"""Programs that hang, flood, multiply and vanish."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.errors import HostError
from reconciler.host.run import Ended, Run

SH = "/bin/sh"
LONG_S = 30.0


def run(script: str, timeout_s: float = LONG_S, *, leave_children: bool = False) -> Ended:
    return Run((SH, "-c", script), timeout_s, leave_children=leave_children)()


def python(script: str, timeout_s: float = LONG_S) -> Ended:
    return Run((sys.executable, "-I", "-S", "-c", script), timeout_s, leave_children=False)()


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end_s, "it did not come to pass"
        time.sleep(0.001)


def lives(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def number_in(path: Path) -> int:
    until(lambda: path.exists() and path.read_text(encoding="ascii").endswith("\n"))
    return int(path.read_text(encoding="ascii"))


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 127, 255])
def test_the_exit_status_and_what_was_said(status: int) -> None:
    ended = run(f"echo out; echo err >&2; exit {status}")
    assert (ended.status, ended.out, ended.err) == (status, "out\n", "err\n")
    assert (ended.late, ended.flooded, ended.stopped) == (False, False, False)
    assert str(ended) == f"exit status {status}: err"


def test_a_program_that_kills_itself() -> None:
    assert str(run("kill -9 $$")) == "killed by signal 9"


def test_no_shell_reads_the_arguments() -> None:
    assert Run(("/bin/echo", "$HOME", "`id`", ";", "a  b"), LONG_S, leave_children=False)().out == "$HOME `id` ; a  b\n"


def test_it_starts_from_nothing() -> None:
    ended = run("env; pwd; cat; ls -l /proc/self/fd | wc -l; ps -o pgid= -p $$ 2>/dev/null || true")
    said = ended.out.splitlines()
    assert {word.partition("=")[0] for word in said if "=" in word} <= {"PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD"}
    assert "/" in said


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("/no/such/program", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
        ("/", "Permission denied"),
        ("/bin/sh\0", "embedded null byte"),
    ],
)
def test_what_cannot_be_started(program: str, why: str) -> None:
    with pytest.raises(HostError, match=f"cannot be started: {why}"):
        Run((program,), LONG_S, leave_children=False)()


def test_who_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    child, grandchild = tmp_path / "child", tmp_path / "grandchild"
    script = (
        f"trap '' TERM INT HUP; echo $$ > '{child}'; "
        f"({SH} -c \"trap '' TERM; echo \\$\\$ > '{grandchild}'; while :; do sleep 60; done\" &) ; sleep 60"
    )
    run_ = Run((SH, "-c", script), 0.5, leave_children=True)
    ended = run_()
    assert ended.late
    assert str(ended).startswith("killed: it took too long")
    for path in (child, grandchild):
        number = number_in(path)
        until(lambda number=number: not lives(number))


def test_a_grandchild_that_holds_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    began_s = time.monotonic()
    ended = run(f"sleep 60 & echo $! > '{tmp_path / 'pid'}'; echo done")
    assert (ended.status, ended.out) == (0, "done\n")
    assert time.monotonic() - began_s < 20
    # And, of a check, nothing is left.
    until(lambda: not lives(number_in(tmp_path / "pid")))


def test_a_vm_that_was_started_lives_on(tmp_path: Path) -> None:
    run(f"sleep 60 & echo $! > '{tmp_path / 'pid'}'", leave_children=True)
    number = number_in(tmp_path / "pid")
    try:
        assert lives(number)
    finally:
        os.kill(number, signal.SIGKILL)


def test_of_a_start_that_failed_nothing_is_left(tmp_path: Path) -> None:
    ended = run(f"sleep 60 & echo $! > '{tmp_path / 'pid'}'; exit 1", leave_children=True)
    assert ended.status == 1
    until(lambda: not lives(number_in(tmp_path / "pid")))


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_flood_of_output_is_stopped(stream: str) -> None:
    ended = python(f"import os\nwhile True: os.write({stream}, b'x' * 65536)")
    assert ended.flooded
    assert len(ended.out) <= 4096
    assert len(ended.err) <= 4096
    assert str(ended).startswith("killed: it wrote more than 65536 bytes")


def test_a_flood_just_before_the_end_is_stopped_too() -> None:
    ended = python("import os, fcntl\nfcntl.fcntl(1, 1031, 1 << 20)\nos.write(1, b'x' * 900_000)")
    assert len(ended.out) <= 4096


def test_the_beginning_of_the_output_and_the_end_of_the_errors_are_kept() -> None:
    ended = python(
        "import sys\n"
        "sys.stdout.write('first\\n' + 'x' * 20000 + '\\nlast\\n')\n"
        "sys.stderr.write('first\\n' + 'x' * 20000 + '\\nlast\\n')"
    )
    assert ended.out.startswith("first\n")
    assert ended.err.endswith("last\n")
    assert str(ended) == "exit status 0: last"


def test_output_that_is_no_text_is_shown_as_such() -> None:
    assert python("import os; os.write(1, bytes(range(128, 160)))").out == "�" * 32


def test_output_may_be_closed_early() -> None:
    assert run("exec >&- 2>&-; exit 2").status == 2


def test_it_can_be_stopped_from_outside(tmp_path: Path) -> None:
    run_ = Run((SH, "-c", f"echo $$ > '{tmp_path / 'pid'}'; sleep 60"), LONG_S, leave_children=True)
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(run_()))
    thread.start()
    number = number_in(tmp_path / "pid")
    run_.stop()
    thread.join(5)
    assert ended[0].stopped
    assert not lives(number)
    run_.stop()  # once more does nothing


def test_stopped_before_it_began_it_does_not_go_on() -> None:
    run_ = Run((SH, "-c", "sleep 60"), LONG_S, leave_children=False)
    run_.stop()
    assert run_().stopped


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_descriptor_is_left_open() -> None:
    before = open_files()
    for _ in range(5):
        run("true")
        run("sleep 60", 0.01)
        with pytest.raises(HostError):
            Run(("/no/such/program",), LONG_S, leave_children=False)()
    assert open_files() == before
