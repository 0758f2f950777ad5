"""Every console example of the README, docs/ and examples/ is run, in order, and prints what the page says it prints.

In a ```console block, a line that begins with `$ ` is a command; the lines after it are its output, where `…` stands for
anything (alone on a line: for any lines). `[exit N]` says how it ends, if not with 0. Commands run in the host namespace
of a fresh lab, one for each page.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from reconciler.lab.lab import Lab

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])


class Example(NamedTuple):
    command: str
    output: str
    status: int


def examples(text: str) -> Iterator[Example]:
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            status = re.search(r"^\[exit (\d)\]\n", output, re.MULTILINE)
            yield Example(command, output.replace(status[0], "") if status else output, int(status[1]) if status else 0)


def pattern(expected: str) -> str:
    quoted = re.escape(expected)
    return quoted.replace("…\\\n", "(?s:.*)\n").replace("…", ".*")


PAGES_WITH_EXAMPLES = [page for page in PAGES if any(examples(page.read_text(encoding="utf-8")))]


def test_the_pages_have_examples() -> None:
    assert {page.name for page in PAGES_WITH_EXAMPLES} >= {"README.md", "vendor.md", "auditor.md", "operator.md"}


@pytest.mark.netns
@pytest.mark.parametrize("page", PAGES_WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.usefixtures("lab_root")
def test_examples_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    for folder in ("topologies", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "RECONCILER_STATE_DIR": str(tmp_path / "state"),
        "RECONCILER_RUN_DIR": str(tmp_path / "run"),
        "PYTHONIOENCODING": "utf-8",
    }
    with Lab() as lab:
        for example in examples(page.read_text(encoding="utf-8")):
            done = lab.run(
                ["sh", "-c", example.command],
                check=False,
                timeout_s=30,
                cwd=tmp_path,
                env=environment,
                stderr=subprocess.STDOUT,
            )
            assert re.fullmatch(pattern(example.output), done.stdout), f"$ {example.command}\n{done.stdout}"
            assert done.returncode == example.status, example.command
