"""What allows the agent to be copied into any VM, and the files that come with it."""

import ast
import sys
from pathlib import Path

import pytest
from agents import SOURCE, agent

from reconciler.guest.files import FILES, guest_file


def test_it_is_written_in_python_3_8() -> None:
    ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_it_needs_the_standard_library_only() -> None:
    modules = set()
    for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            modules.add(node.module.partition(".")[0])
    assert modules <= sys.stdlib_module_names


def test_it_prints_the_agent_itself() -> None:
    assert guest_file("agent") == SOURCE.read_text(encoding="utf-8")


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
