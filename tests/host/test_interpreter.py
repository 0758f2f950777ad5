"""Python that we start takes no code from where the caller happens to be, nor from where its environment leads.

A folder is of anybody's making; whoever types `reconcile` in it is root.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import traps
from commandline import environment
from processes import PATIENCE_S
from worlds import two_ports, two_ports_document

from reconciler.errors import HostError
from reconciler.host import prover
from reconciler.host.interpreter import isolated

ROOT = Path(__file__).parent.parent.parent
PRODUCT = ROOT / "reconciler"
# The one place, and what runs in a VM, where there is nothing else of ours.
MAY_NAME_PYTHON = {"host/interpreter.py", "guest/agent/__main__.py"}
# Those that say so elsewhere: the prober goes there itself, and programs of `vm.programs` are started there.
GOES_ELSEWHERE = {"host/guard/prober_client.py:_launch", "lab/rehearsal.py:_write"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PRODUCT.rglob("*.py")):
        yield str(path.relative_to(PRODUCT)), ast.parse(path.read_text(encoding="utf-8"))


def test_the_trap_springs_without_isolation(tmp_path: Path) -> None:
    """Else the tests below could not fail."""
    trap = traps.lay(tmp_path / "trap")
    for words, env in (
        (["-m", "reconciler"], {}),
        (["-c", "import json"], {}),
        (["-c", ""], {"PYTHONPATH": str(trap)}),
    ):
        assert not traps.sprung(trap)
        subprocess.run(
            [sys.executable, *words],
            cwd=trap,
            env=environment(**env),
            timeout=PATIENCE_S,
            capture_output=True,
            check=False,
        )
        assert traps.sprung(trap)
        traps.lay(trap)


def test_what_is_started_isolated_minds_neither_folder_nor_environment(tmp_path: Path) -> None:
    trap = traps.lay(tmp_path / "trap")
    env = environment(PYTHONPATH=str(trap), PYTHONHOME=str(trap), PYTHONSTARTUP=str(trap / "json.py"))
    for words in (["-c", "import json, reconciler"], ["-m", "reconciler.host.prover"]):
        done = subprocess.run(
            isolated(*words), cwd=trap, env=env, timeout=PATIENCE_S, capture_output=True, text=True, check=False
        )
        # The checker has no arguments here, and says so: it is ours.
        assert done.returncode == 0 or "main()" in done.stderr, done.stderr
        assert not traps.sprung(trap)


def test_a_file_is_judged_by_our_own_program_wherever_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    trap = traps.lay(tmp_path / "trap")
    monkeypatch.chdir(trap)
    monkeypatch.setenv("PYTHONPATH", f"{trap}:")
    # A folder that is named by its relative name is still the one that we mean.
    found = prover.prove(json.dumps(two_ports_document()).encode(), "a.yaml", Path("../state"))
    assert found == two_ports()
    assert not traps.sprung(trap)
    assert [*(tmp_path / "state" / "proven").iterdir()]


def test_what_a_checker_that_cannot_start_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho some >&2; printf 'No module named x\\033\\n' >&2; exit 1\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(HostError, match=r"ended with 1: No module named x\\x1b$"):
        prover.prove(b"{}", "a.yaml", tmp_path)


def test_only_one_place_of_the_program_names_the_interpreter() -> None:
    """Whoever starts Python asks for it there, and so gets it isolated."""
    named = {
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.executable", "sys._base_executable")
    }
    assert named == MAY_NAME_PYTHON
    texts = [
        (name, node.value)
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    # Nor by a name that PATH is searched for.
    assert [one for one in texts if re.fullmatch(r"(/usr/bin/(env )?)?python[0-9.]*", one[1])] == []
    # A line that starts a program begins with its interpreter.
    assert [one for one in texts if re.match(r"#!.*python(?!\S* -I)", one[1])] == []


def test_whoever_starts_python_does_so_in_the_root_folder() -> None:
    """Whose content is root's, and which nobody wants to unmount."""
    starting = {
        f"{name}:{node.name}": ast.unparse(node)
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and name not in MAY_NAME_PYTHON and "isolated(" in ast.unparse(node)
    }
    elsewhere = {where for where, text in starting.items() if "cwd='/'" not in text and "'cwd': '/'" not in text}
    assert elsewhere == GOES_ELSEWHERE
    assert len(starting) > len(elsewhere)


def test_processes_that_share_work_are_forked_and_not_started_again() -> None:
    """Python 3.14 would start them with `-c`, and so in the caller's folder."""
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and "ProcessPool" in ast.unparse(node.func):
                assert "get_context('fork')" in ast.unparse(node), f"{name}:{node.lineno}"
            if isinstance(node, ast.Constant):
                assert node.value not in ("spawn", "forkserver"), f"{name}:{node.lineno}"


def test_what_we_install_starts_python_isolated() -> None:
    """The units of the host start `reconcile`; those of the VM start its agent."""
    lines = [
        (path.name, line)
        for path in sorted(PRODUCT.rglob("*"))
        if path.suffix in (".service", ".openrc")
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#") and re.search(r"python|\$agent\b", line)
    ]
    assert len(lines) >= 5
    assert [
        one for one in lines if one[1] != "command=/usr/bin/python3" and " -I " not in one[1].replace('"', " ")
    ] == []
