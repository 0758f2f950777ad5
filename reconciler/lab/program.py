"""A program of the lab in a process of its own, and the conversation with it.

Such a program uses the standard library only and imports nothing from this package, because it is started by its path
with ``python -I -S``, which takes a quarter of the time of a start with site-packages. It says a line of JSON once it
is ready, and one for each line it is told that asks for an answer; where it cannot, ``{"error": ...}``.
"""

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from reconciler.host.interpreter import isolated
from reconciler.lab.namespaces import LabError, Namespace, kill

# Far beyond what a busy machine takes to start a Python without site-packages, or to answer.
_ANSWER_S = 10.0


class Program:
    """A program, ready once constructed. It ends with a `with` statement, with its namespace, and with this process.

    Attributes:
        pid: Of the process.
        ready: What it said when it was ready.
    """

    def __init__(self, namespace: Namespace, path: Path, arguments: Iterable[object], what: str) -> None:
        """Start it and wait until it is ready.

        Args:
            namespace: Where it runs.
            path: Its file.
            arguments: Its command line.
            what: What messages call it.

        Raises:
            LabError: It died, or said that it cannot.
        """
        self._what = what
        with contextlib.ExitStack() as undo:
            self._conversation, far = socket.socketpair()
            undo.enter_context(self._conversation)
            self._answers = undo.enter_context(self._conversation.makefile("r", encoding="ascii"))
            with far:
                argv = isolated("-S", str(path), *map(str, arguments))
                self._process = namespace.spawn(argv, cwd="/", stdin=far, stdout=far)
            undo.callback(self.close)
            self.pid = self._process.pid
            self.ready = self._answer()
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _say(self, line: str = "") -> None:
        try:
            self._conversation.sendall(f"{line}\n".encode("ascii"))
        except OSError as error:
            raise LabError(f"{self._what} is gone") from error

    def _answer(self, timeout_s: float = _ANSWER_S) -> dict[str, Any]:
        self._conversation.settimeout(timeout_s)
        try:
            line = self._answers.readline()
        except TimeoutError as error:
            raise LabError(f"{self._what} did not answer within {timeout_s:g} s") from error
        except (OSError, ValueError) as error:
            raise LabError(f"{self._what} is gone") from error
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
            raise LabError(f"{self._what} died with status {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LabError(f"{self._what}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process. May be called again."""
        kill(self._process)
        self._answers.close()
        self._conversation.close()
