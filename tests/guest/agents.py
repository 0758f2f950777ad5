"""The agent under test: as a module, and as the process that a VM would run."""

import atexit
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from reconciler.guest.files import guest_file

_FOLDER = tempfile.mkdtemp(prefix="agent-")
atexit.register(shutil.rmtree, _FOLDER)
# The one file that goes into a VM.
SOURCE = Path(_FOLDER) / "agent.py"
SOURCE.write_text(guest_file("agent"), encoding="utf-8")
DEADLINE_S = 10.0


def load_module() -> ModuleType:
    """The agent is copied into VMs, not imported; so it is loaded from its file here, too."""
    spec = importlib.util.spec_from_file_location("agent", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


agent = load_module()


def eventually(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait for a condition, and return its value."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        select.select([], [], [], 0.002)
    return value


class Host:
    """The host's end of a unix channel."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(DEADLINE_S)
        eventually(lambda: self.socket.connect_ex(str(path)) == 0, f"{path} to take connections")
        self._lines = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.socket.close()

    def line(self) -> bytes:
        return self._lines.readline()

    def beat(self) -> dict[str, Any]:
        beat: dict[str, Any] = json.loads(self.line())
        return beat

    def until(self, check: str, state: str) -> dict[str, Any]:
        """Read beats until one gives a check that state; return it."""
        seen = []
        deadline = time.monotonic() + 2 * DEADLINE_S
        while time.monotonic() < deadline:
            seen.append(self.beat())
            if seen[-1]["checks"][check]["state"] == state:
                return seen[-1]
        raise AssertionError(f"{check} never was {state}: {seen[-1]}")


class Running:
    """An agent in a process of its own."""

    def __init__(self, folder: Path, config: str, prefix: tuple[str, ...] = (), **popen_kwargs: Any) -> None:
        self.config = folder / "agent.conf"
        self.config.write_text(config, encoding="utf-8")
        self.errors = folder / "errors"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-I", "-S", str(SOURCE), "--config", str(self.config)],
                **{"stderr": errors, **popen_kwargs},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def log(self) -> str:
        return self.errors.read_text(encoding="ascii")

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(DEADLINE_S)


def serve(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(4)
    return listener


def children_of(pid: int) -> list[int]:
    return [int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in _words(task / "children")]


def _words(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
