"""What allows the agent to be copied into any VM, and the files that come with it."""

import ast
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from agents import DEADLINE_S, SOURCE, agent

from reconciler.guest.assembly import MODULES, assemble, module
from reconciler.guest.files import FILES, guest_file

MAX_LINES = 250


def names(text: str) -> list[str]:
    """What a module defines at its top."""
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return found


def test_it_is_written_in_python_3_8() -> None:
    ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_python_3_8_runs_it(tmp_path: Path) -> None:
    python = shutil.which("python3.8")
    if (
        python is None
        or subprocess.run([python, "-V"], capture_output=True, timeout=DEADLINE_S, check=False).returncode
    ):
        pytest.skip("there is no Python 3.8 here")
    config = tmp_path / "agent.conf"
    config.write_text(guest_file("config"), encoding="utf-8")
    done = subprocess.run(
        [python, "-I", "-S", str(SOURCE), "--config", str(config), "--check"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{config}: valid, 1 checks\n")


def test_it_runs_as_a_program_too(tmp_path: Path) -> None:
    program = tmp_path / "reconciler-agent"
    program.write_text(assemble(), encoding="utf-8")
    program.chmod(0o700)
    done = subprocess.run([str(program), "--help"], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert "Tell the host how this VM's security software is." in done.stdout


def test_it_needs_the_standard_library_only() -> None:
    modules = set()
    for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            modules.add(node.module.partition(".")[0])
    assert modules <= sys.stdlib_module_names


class TestAssembly:
    def test_the_same_each_time(self) -> None:
        assert guest_file("agent") == assemble() == SOURCE.read_text(encoding="utf-8")

    def test_all_modules_are_in_it_and_none_is_long(self) -> None:
        folder = Path(__file__).parents[2] / "reconciler" / "guest" / "agent"
        found = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("*.py")}
        assert found.keys() == {"__init__", *MODULES}
        assert max(found.values()) <= MAX_LINES

    def test_nothing_is_lost_but_what_ties_modules_together(self) -> None:
        whole = assemble().splitlines()
        for name in MODULES:
            text = module(name)
            last = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom | ast.Import)][-1]
            lines = text.splitlines()[last.end_lineno :]
            while lines and not (lines[0] and lines[0][0].isalpha() and not lines[0].startswith("if TYPE_CHECKING")):
                del lines[0]
            start = whole.index(lines[0])
            assert whole[start : start + len(lines)] == lines

    def test_no_name_is_given_twice(self) -> None:
        counted = Counter(name for module_name in MODULES for name in names(module(module_name)))
        assert [name for name, count in counted.items() if count > 1] == []
        assert counted.keys() == set(names(assemble()))

    def test_modules_are_in_the_order_of_their_imports(self) -> None:
        """At run time, that is: what only the type checker imports may come later."""
        house = "reconciler.guest.agent."
        for number, name in enumerate(MODULES):
            own = [node.module for node in ast.parse(module(name)).body if isinstance(node, ast.ImportFrom)]
            needed = {(of or "").removeprefix(house) for of in own} - {"__future__"}
            assert needed <= set(MODULES[:number])

    def test_the_modules_run_as_they_lie_here_too(self, tmp_path: Path) -> None:
        config = tmp_path / "agent.conf"
        config.write_text(guest_file("config"), encoding="utf-8")
        command = [sys.executable, "-m", "reconciler.guest.agent", "--config", str(config), "--check"]
        subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=True)


def test_the_config_that_comes_with_it_is_valid(tmp_path: Path) -> None:
    config = tmp_path / "agent.conf"
    config.write_text(guest_file("config"), encoding="utf-8")
    assert agent.load(str(config)).channel == agent.DEFAULT_CHANNEL


def test_every_kind_of_check_in_the_config_that_comes_with_it_is_valid(tmp_path: Path) -> None:
    """What is commented out there is valid, too."""
    text = guest_file("config").partition("[check sshd]")[2]
    lines = [line.removeprefix("# ").split("        ")[0].rstrip() for line in text.splitlines()]
    config = tmp_path / "agent.conf"
    config.write_text("[check sshd]\n" + "\n".join(lines), encoding="utf-8")
    checks = agent.load(str(config)).checks
    assert len(checks) == len(agent.KINDS) + 1


@pytest.mark.parametrize("service", ["systemd", "openrc"])
def test_services_run_the_agent_where_they_say_it_lies(service: str) -> None:
    text = guest_file(service)
    assert "/usr/local/lib/reconciler-agent/agent.py" in text
    assert set(FILES) == {"agent", "config", "systemd", "openrc"}
