"""The events of the log: what the source tells is what the table says, and the table is what the page says."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

from reconciler.log_events import EVENTS, EventName

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "formats.md"


class Use(NamedTuple):
    """A place where something is told: the event, as it is written there, and the names of its data."""

    place: str
    event: ast.expr
    data: frozenset[str]
    function: ast.FunctionDef | ast.AsyncFunctionDef | None


def uses(tree: ast.Module, file: str) -> Iterator[Use]:
    """All calls that make a line: of a journal's `tell`, `warn` and `bug`, and of the guard's `Tell` and `Warn`."""

    def walk(node: ast.AST, function: ast.FunctionDef | ast.AsyncFunctionDef | None) -> Iterator[Use]:
        inner = node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(node, ast.Call):
            named = {one.arg: one.value for one in node.keywords if one.arg}
            match node.func:
                case ast.Attribute(attr="tell", value=of) if ast.unparse(of).endswith("journal"):
                    yield Use(f"{file}:{node.lineno}", node.args[0], frozenset(named) - {"level"}, inner)
                case ast.Attribute(attr="warn", value=of) if ast.unparse(of).endswith("journal"):
                    data = (frozenset(named) - {"level"}) | {"warning"}
                    yield Use(f"{file}:{node.lineno}", node.args[0], data, inner)
                case ast.Name(id="Warn"):
                    yield Use(f"{file}:{node.lineno}", node.args[0], frozenset({"warning"}), inner)
                case ast.Attribute(attr="bug", value=of) if ast.unparse(of).endswith("journal"):
                    event = named.get("event", ast.Constant("bug"))
                    yield Use(
                        f"{file}:{node.lineno}",
                        event,
                        (frozenset(named) - {"level", "event"}) | {"where", "warning"},
                        inner,
                    )
                case ast.Name(id="Tell" | "_Line"):
                    words = [one for one in node.args if not isinstance(one, ast.Call)]
                    data = named.get("data", node.args[-1])
                    keys = data.keys if isinstance(data, ast.Dict) else []
                    told = frozenset(key.value for key in keys if isinstance(key, ast.Constant))
                    yield Use(f"{file}:{node.lineno}", words[0], told, inner)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inner)

    return walk(tree, None)


def written(use: Use, tree: ast.Module) -> set[str]:
    """The events that a use can be: what is written there, or where its function is called."""
    match use.event:
        case ast.Constant(value=str(name)):
            return {name}
        case ast.IfExp(body=ast.Constant(value=str(one)), orelse=ast.Constant(value=str(other))):
            return {one, other}
        case ast.Name(id="event") if use.function and use.function.name in ("tell", "warn", "bug"):
            # The journal itself.
            return set()
        case ast.Name(id=name) if use.function and name in (names := [one.arg for one in use.function.args.args]):
            where = names.index(name) - (names[0] == "self")
            found = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == use.function.name:
                    argument = node.args[where]
                    assert isinstance(argument, ast.Constant), f"{use.place}: {ast.unparse(node)}"
                    found.add(argument.value)
            return found
        case ast.Name(id="event"):
            # Taken out of an effect, which was made elsewhere.
            return set()
    raise AssertionError(f"{use.place}: {ast.unparse(use.event)} is no event that can be read here")


def in_the_source() -> dict[str, set[str]]:
    """Each event that the source tells, with the names of its data, wherever it is told."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "reconciler").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for use in uses(tree, path.name):
            for name in written(use, tree):
                found[name] |= use.data
    return found


def test_the_source_tells_the_events_of_the_table_and_no_other() -> None:
    assert set(in_the_source()) == set(EVENTS) == set(get_args(EventName))


def test_each_event_has_the_data_of_the_table_and_no_other() -> None:
    told = in_the_source()
    assert {name: told[name] for name in EVENTS} == {name: set(logged.data) for name, logged in EVENTS.items()}


def _events_of(page: str) -> str:
    """The table of the events, and no other table."""
    return page.partition("| `event` | says | data |\n")[2].partition("\n\n")[0]


def test_the_page_has_the_table() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \| (.+?) \|(.*)\|$", _events_of(PAGE.read_text(encoding="utf-8")), re.MULTILINE)
    table = {name: (meaning, tuple(re.findall(r"`(\w+)`", data))) for name, meaning, data in rows if name in EVENTS}
    assert table == {name: tuple(logged) for name, logged in EVENTS.items()}
