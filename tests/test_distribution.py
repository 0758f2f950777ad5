"""Under which name this is installed, and that nobody is told to install what is somebody else's.

A name that we do not hold on the public index is whoever holds it, and installs are done by root: so documents and
messages name a path, a wheel, or one of those projects that this one declares to need.
"""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOLD = [
    path
    for path in sorted(
        [
            *ROOT.glob("*"),
            *(
                one
                for folder in (".ci", "reconciler", "docs", "examples", "topologies", "bench")
                for one in (ROOT / folder).rglob("*")
            ),
        ]
    )
    if path.is_file() and path.suffix not in (".pyc", ".svg", ".png", ".gz")
]
_INSTALL = re.compile(r"\b(?:pip[x3]?|uv(?: tool)?)\s+(?:install|run|add|inject)\b(.*)")
_WITH_VALUE = {"-c", "--constraint", "-r", "--requirement", "--target", "--prefix", "--root", "--python"}


def texts(path: Path) -> Iterator[str]:
    """What a file tells, in lines that are whole."""
    text = path.read_text(encoding="utf-8")
    yield text.replace("\\\n", " ")
    if path.suffix == ".py":
        # A message that is written in several parts.
        yield from (
            node.value
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )


def installed(text: str) -> Iterator[str]:
    """What the commands in a text would install."""
    for found in _INSTALL.finditer(text):
        # A message or a page goes on behind the command.
        command = re.split(r"[`;|]|,\s|&&|\s#\s|\"\s*$", found[1])[0]
        try:
            words = iter(shlex.split(command))
        except ValueError:
            words = iter(command.split())
        for word in words:
            if word in _WITH_VALUE:
                next(words, None)
            elif not word.startswith("-"):
                yield word


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ;@]", name)[0]).lower()


def is_ours_or_declared(word: str) -> bool:
    extras = PROJECT["optional-dependencies"].values()
    known = {canonical(one) for one in [*PROJECT["dependencies"], *(one for extra in extras for one in extra)]}
    return bool(re.match(r"[./]|\$\(?\w", word) or re.search(r"/|\.whl\b", word)) or canonical(word) in known


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("pip install 'reconciler[libvirt]'", False),
        ("pip3 install reconciler", False),
        ("/opt/x/bin/pip install --upgrade lan-bypass   # ours", False),
        ("python3 -m pip install -c constraints.txt requests", False),
        ("not installed: pip install libvirt_python; or another", True),
        ("pip install '.[libvirt]'", True),
        ("pip install './lan_bypass-0.1.0-py3-none-any.whl[libvirt]'", True),
        ("pipx install /srv/checkout", True),
        ("uv tool install reconciler", False),
    ],
)
def test_the_search_finds_names_of_others(text: str, fine: bool) -> None:
    found = [*installed(text)]
    assert found
    assert all(map(is_ours_or_declared, found)) is fine


def test_no_document_and_no_message_has_anybody_install_a_strangers_package() -> None:
    found = [(path, word) for path in TOLD for text in texts(path) for word in installed(text)]
    assert {path.name for path, _ in found} >= {"operator.md", "Makefile", "link.py"}
    assert [(str(path.relative_to(ROOT)), word) for path, word in found if not is_ours_or_declared(word)] == []


def test_the_distribution_has_a_name_of_its_own_and_command_and_package_keep_theirs() -> None:
    assert PROJECT["name"] == "lan-bypass"
    assert {name: where.split(".")[0] for name, where in PROJECT["scripts"].items()} == {"reconcile": "reconciler"}
    assert (ROOT / "reconciler" / "__init__.py").is_file()


def test_nothing_asks_for_the_metadata_of_a_distribution_that_is_not_ours() -> None:
    """Which would be that of a stranger's that is installed beside it, or none."""
    for path in (ROOT / "reconciler").rglob("*.py"):
        assert "importlib.metadata" not in path.read_text(encoding="utf-8"), path
