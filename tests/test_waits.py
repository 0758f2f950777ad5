"""No test waits for ever: each wait for a program or a thread says for how long, and no block leaves a program behind."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(HERE.rglob("*.py"))
# It waits for its parent's end, which is what it is for; in the other, the program ends with the pipe that is read.
UNBOUNDED = {HERE / "vm" / "guardian.py", HERE / "vm" / "image.py"}


def endless(tree: ast.AST) -> Iterator[str]:
    """The places that wait without a bound."""
    awaited = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Await)}
    for one in ast.walk(tree):
        match one:
            case ast.Call(func=ast.Attribute(value=ast.Name("subprocess"), attr="run")) if not _named(one) & {
                "timeout"
            }:
                yield f"line {one.lineno}: subprocess.run without a timeout"
            # An asyncio object's `wait` is awaited; those are bounded by whoever runs the loop.
            case ast.Call(func=ast.Attribute(attr="wait" | "communicate" | "join"), args=[]) if (
                not _named(one) & {"timeout"} and id(one) not in awaited
            ):
                yield f"line {one.lineno}: {ast.unparse(one)} without a timeout"
            case ast.withitem(context_expr=ast.Call(func=ast.Attribute(attr="Popen" | "spawn"))):
                yield f"line {one.context_expr.lineno}: a program in a `with` of its own: use processes.ending"
            case _:
                pass


def _named(call: ast.Call) -> set[str | None]:
    return {keyword.arg for keyword in call.keywords}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HERE)))
def test_every_wait_has_an_end(file: Path) -> None:
    found = list(endless(ast.parse(file.read_text(encoding="utf-8"))))
    if file not in UNBOUNDED:
        assert found == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("subprocess.run(words)", 1),
        ("subprocess.run(words, timeout=3)", 0),
        ("process.wait()", 1),
        ("process.wait(3)", 0),
        ("thread.join(timeout=3)", 0),
        ("thread.join()", 1),
        ("with subprocess.Popen(words) as program: pass", 1),
        ("with ending(host.spawn(words)) as program: pass", 0),
        ("async def f(): await event.wait()", 0),
    ],
)
def test_an_endless_wait_is_found(code: str, found: int) -> None:
    assert len(list(endless(ast.parse(code)))) == found
