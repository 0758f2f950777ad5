"""The table of all warnings: what the source can make is what the page says, and nothing else."""

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from reconciler.warning import Severity

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "warnings.md"
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Made(NamedTuple):
    """A place that makes a warning: its code and severity as written there, and the function around it."""

    place: str
    code: ast.expr
    severity: ast.AST
    function: ast.FunctionDef | ast.AsyncFunctionDef | None


def made(tree: ast.Module, file: str) -> Iterator[Made]:
    def walk(node: ast.AST, function: ast.FunctionDef | ast.AsyncFunctionDef | None) -> Iterator[Made]:
        inner = node if isinstance(node, FUNCTIONS) else function
        name = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and name == "Beside":
            # A difference, which becomes an error where differences are not listed.
            yield Made(f"{file}:{node.lineno}", node.args[0], ast.parse("Severity.ERROR").body[0], inner)
        elif isinstance(node, ast.Call) and name == "Warning" and ast.unparse(node.args[0]) != "self.code":
            yield Made(f"{file}:{node.lineno}", node.args[0], node.args[1], inner)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inner)

    return walk(tree, None)


def codes(one: Made, tree: ast.Module) -> set[str]:
    """What is written there; or, where a helper hands it on, where the helper is called."""
    if isinstance(one.code, ast.Constant):
        return {str(one.code.value)}
    names = [each.arg for each in one.function.args.args] if one.function else []
    assert isinstance(one.code, ast.Name), f"{one.place}: the code is no literal"
    assert one.code.id in names, f"{one.place}: the code is no literal"
    assert one.function is not None
    where = names.index(one.code.id) - (names[0] == "self")
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == one.function.name:
            argument = node.args[where]
            assert isinstance(argument, ast.Constant), f"{one.place}: {ast.unparse(node)}: the code is no literal"
            found.add(str(argument.value))
    assert found, f"{one.place}: nobody calls it"
    return found


def severities(one: Made) -> set[str]:
    """What is written there; anything, where it depends on something."""
    named = {node.attr for node in ast.walk(one.severity) if isinstance(node, ast.Attribute)} & set(
        Severity.__members__
    )
    return {Severity[name].value for name in named} or {severity.value for severity in Severity}


@functools.cache
def in_the_source() -> dict[str, set[str]]:
    """The codes that the source can make, and the severities that each can have."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "reconciler").rglob("*.py")):
        if path.name == "warning.py" and path.parent.name == "reconciler":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for one in made(tree, path.name):
            for code in codes(one, tree):
                found[code] |= severities(one)
    return dict(found)


def on_the_page() -> list[tuple[str, set[str], str, str]]:
    return [
        (code, set(severity.split(", ")), meaning, remedy)
        for code, severity, meaning, remedy in ROW.findall(PAGE.read_text(encoding="utf-8"))
    ]


def test_the_page_tells_each_code_once_and_no_other() -> None:
    told = [code for code, *_ in on_the_page()]
    assert sorted(told) == sorted(in_the_source())
    assert len(told) == len(set(told))


def test_the_severities_are_those_that_each_can_have() -> None:
    every = {one.value for one in Severity}
    source = in_the_source()
    # Where it depends, the page may know better than the source says.
    wrong = [code for code, told, *_ in on_the_page() if told != source[code] and not (source[code] == every > told)]
    assert wrong == []


def test_each_row_says_what_it_means_and_what_to_do() -> None:
    assert all(meaning.strip() and remedy.strip() for _, _, meaning, remedy in on_the_page())


def test_what_is_no_literal_is_noticed() -> None:
    tree = ast.parse("def f(x):\n    return Warning('a' + x, Severity.NOTE, '', '')")
    (one,) = made(tree, "x.py")
    with pytest.raises(AssertionError, match=r"x\.py:2: the code is no literal"):
        codes(one, tree)
