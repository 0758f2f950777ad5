"""Whoever starts the product from a folder of somebody else's runs nothing that lies there."""

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds import two_ports_document

import reconciler
from reconciler.appliance.declared import Appliance
from reconciler.host.prover import prove

PRODUCT = Path(reconciler.__file__).parent


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the caller stands in, where everything that Python might import leaves a trace."""
    folder = tmp_path / "trap"
    sprung = tmp_path / "sprung"
    for name in ("reconciler", "json", "click", "pydantic"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"open({str(sprung)!r}, 'a').write({name!r})\n")
    (folder / "sitecustomize.py").write_text(f"open({str(sprung)!r}, 'a').write('sitecustomize')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}")
    return sprung


def test_a_file_is_proven_by_our_code_alone(trap: Path, tmp_path: Path) -> None:
    proven = prove(json.dumps(two_ports_document()).encode(), "appliance.yaml", tmp_path / "state")
    assert isinstance(proven, Appliance)
    assert not trap.exists(), trap.read_text()


def test_a_folder_for_the_store_that_is_named_from_here_is_the_one_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prove(json.dumps(two_ports_document()).encode(), "appliance.yaml", Path("state"))
    assert list((tmp_path / "state").rglob("*.json"))


def starts() -> Iterator[tuple[str, list[ast.expr]]]:
    """Each list of words in the product that begins with this interpreter."""
    for path in sorted(PRODUCT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable":
                yield f"{path.relative_to(PRODUCT)}:{node.lineno}", node.elts[1:]


def test_python_is_started_isolated_everywhere() -> None:
    found = dict(starts())
    assert found, "the product starts Python"
    for where, words in found.items():
        told = [ast.unparse(word) for word in words]
        # The agent goes on as it was started: its unit says -I.
        assert told[0] in ("'-I'", "*options"), f"{where}: {told}"


def test_no_other_spelling_of_the_interpreter_escapes_this() -> None:
    """Whoever writes `python3`, or keeps the interpreter in a variable first, has to look here."""
    named = [
        f"{path.relative_to(PRODUCT)}"
        for path in sorted(PRODUCT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.executable"
    ]
    assert sorted(set(named) - {where.split(":")[0] for where, _ in starts()}) == []
