"""Every console example of the README, docs/ and examples/ is run, in order, and prints what the page says it prints.

In a ```console block, a line that begins with `$ ` is a command; the lines after it are its output, where `…` stands for
anything (alone on a line: for any lines). `[exit N]` says how it ends, if not with 0. Commands run in the host namespace
of a fresh lab, one for each page.

A command that ends with ` &` goes on in the background: it is the daemon, and has begun when it can be asked. From then on
things happen by themselves: what only looks is repeated until it prints what the page says, for so long at most.
`<!-- lab: METHOD -->` between the blocks, which no reader sees, lets happen what the page tells.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from reconciler.lab.lab import Lab

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])


class Example(NamedTuple):
    command: str
    output: str
    status: int


class Event(NamedTuple):
    """What happens in the lab: a method of it, without arguments."""

    method: str


# How long the daemon has for what a page says it does.
PATIENCE_S = 20.0
LOOKS = ("reconcile status", "reconcile report", "reconcile why", "grep ")
EVENTS = ("kill_vm", "start_vm")


def steps(text: str) -> Iterator[Example | Event]:
    for found in re.finditer(r"^```console\n(.*?)^```$|^<!-- lab: (\w+) -->$", text, re.DOTALL | re.MULTILINE):
        if found[2]:
            assert found[2] in EVENTS
            yield Event(found[2])
            continue
        for part in re.split(r"^\$ ", found[1], flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            status = re.search(r"^\[exit (\d)\]\n", output, re.MULTILINE)
            yield Example(command, output.replace(status[0], "") if status else output, int(status[1]) if status else 0)


def pattern(expected: str) -> str:
    quoted = re.escape(expected)
    return quoted.replace("…\\\n", "(?s:.*)\n").replace("…", ".*")


PAGES_WITH_EXAMPLES = [page for page in PAGES if any(steps(page.read_text(encoding="utf-8")))]


def test_the_pages_have_examples() -> None:
    assert {page.name for page in PAGES_WITH_EXAMPLES} >= {"README.md", "vendor.md", "auditor.md", "operator.md"}


class Reader:
    """Somebody who types what a page says, at the host of a lab."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab, self._folder = lab, folder
        self._where: dict[str, Any] = {
            "cwd": folder,
            "env": {
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
                "RECONCILER_STATE_DIR": str(folder / "state"),
                "RECONCILER_RUN_DIR": str(folder / "run"),
                "PYTHONIOENCODING": "utf-8",
            },
        }

    def follow(self, step: Example | Event) -> None:
        if isinstance(step, Event):
            getattr(self._lab, step.method)()
        elif step.command.endswith(" &"):
            self._begin(step)
        else:
            self._try(step)

    def _begin(self, example: Example) -> None:
        assert (example.output, example.status) == ("", 0), "what goes on in the background has no end yet"
        command = example.command.removesuffix(" &")
        assert command.startswith("reconcile run ")
        daemon = self._lab.host.spawn(["sh", "-c", f"exec {command}"], **self._where)

        def listens() -> bool:
            assert daemon.poll() is None, f"$ {example.command}: ended with {daemon.returncode}"
            return any((self._folder / "run").glob("*.sock"))

        self._lab.wait_until(listens, PATIENCE_S, "the daemon")

    def _try(self, example: Example) -> None:
        deadline = time.monotonic() + (PATIENCE_S if example.command.startswith(LOOKS) else 0)
        while True:
            done = self._lab.run(
                ["sh", "-c", example.command], check=False, timeout_s=30, stderr=subprocess.STDOUT, **self._where
            )
            as_told = re.fullmatch(pattern(example.output), done.stdout) and done.returncode == example.status
            if as_told or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        assert re.fullmatch(pattern(example.output), done.stdout), f"$ {example.command}\n{done.stdout}"
        assert done.returncode == example.status, example.command


@pytest.mark.netns
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page in (ROOT / "README.md", ROOT / "docs" / "auditor.md") else pytest.mark.long)
        for page in PAGES_WITH_EXAMPLES
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
@pytest.mark.usefixtures("lab_root")
def test_examples_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    for folder in ("topologies", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    with Lab() as lab:
        reader = Reader(lab, tmp_path)
        for step in steps(page.read_text(encoding="utf-8")):
            reader.follow(step)
