"""`status --watch` on a terminal: in place, at a bounded rate, and gone without a trace."""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

from processes import ending

HIDE, SHOW, CLEAR, HOME = "\x1b[?25l", "\x1b[?25h", "\x1b[2J", "\x1b[H"
# Looks at a file: each look is counted, and its lines are what is shown.
PROGRAM = """
import sys
from pathlib import Path
from reconciler.cli.watch import watch
from reconciler.console import Said
file, looks = Path(sys.argv[1]), 0
def look():
    global looks
    looks += 1
    return [Said(f"look {looks}"), *map(Said, file.read_text().splitlines())]
watch(look)
"""


class Terminal:
    """A terminal of 10 lines and 40 columns, and what was written there."""

    def __init__(self) -> None:
        self._reader, self.writer = pty.openpty()
        termios.tcsetwinsize(self.writer, (10, 40))
        os.set_blocking(self._reader, False)
        self.written = ""

    def read_until(self, *words: str) -> None:
        deadline = time.monotonic() + 30
        while not all(word in self.written for word in words):
            assert time.monotonic() < deadline, self.written
            try:
                self.written += os.read(self._reader, 1 << 16).decode()
            except BlockingIOError:
                time.sleep(0.01)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self.writer)


def started(terminal: Terminal, file: Path) -> "subprocess.Popen[bytes]":
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file)],
        stdin=subprocess.DEVNULL,
        stdout=terminal.writer,
        stderr=subprocess.PIPE,
        env={**environment, "PYTHONIOENCODING": "utf-8"},
    )


def test_on_a_terminal_it_is_drawn_over_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    file, terminal = tmp_path / "lines", Terminal()
    file.write_text("first\n")
    began = time.monotonic()
    with ending(started(terminal, file)) as watching:
        terminal.read_until("first", "look 2")
        file.write_text("\n".join(f"line {number}" for number in range(30)))
        terminal.read_until("… 23 more lines", "look 4")
        looks, lasted = int(re.findall(r"look (\d+)", terminal.written)[-1]), time.monotonic() - began
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=30)
    assert (watching.returncode, err) == (0, b"")
    terminal.read_until(SHOW)
    written = terminal.written
    terminal.close()
    # Twice a second, and what is there is never cleared away before it is written again.
    assert looks <= lasted / 0.25 + 2
    assert written.startswith(HIDE + CLEAR + HOME)
    assert written.count(CLEAR) == 1
    assert written.count(HOME) >= looks
    assert written.rstrip().endswith(SHOW)
    # Of ten lines, the last is left free: nothing scrolls.
    last = written.split(HOME)[-1]
    assert last.count("\n") == 9
    assert "line 6" in last
    assert "line 7" not in last


def test_elsewhere_only_what_is_new_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text("first, for 1 s\n")
    with ending(
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(file)], stdout=subprocess.PIPE, text=True)
    ) as watching:
        assert watching.stdout is not None
        assert [watching.stdout.readline() for _ in range(2)] == ["look 1\n", "first, for 1 s\n"]
        file.write_text("second\n")
        assert watching.stdout.readline() == "\n"
        assert watching.stdout.readline().startswith("look ")
        assert watching.stdout.readline() == "second\n"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=30) == 0
