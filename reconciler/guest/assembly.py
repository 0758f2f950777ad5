"""The agent in one file, put together from the modules of `agent/`.

One file is copied into a VM, and read by whoever is to trust it: so it is text, with all comments, and not an archive.
The modules follow one another in the order of their imports. What ties them together in this house goes: what they
import from each other, and imports for the type checker alone. What they take from the standard library stands on top,
once. So no name may be given twice at the top of two modules; a test looks.
"""

import ast
from importlib.resources import files
from itertools import takewhile

# Each imports from those before it only.
MODULES = (
    "readings",
    "programs",
    "processes",
    "dialogues",
    "suricata",
    "section",
    "probes",
    "check",
    "channel",
    "listeners",
    "config",
    "beats",
    "__main__",
)
_PACKAGE = f"{__package__}.agent"


def module(name: str) -> str:
    """The text of one module of the agent."""
    return files(_PACKAGE).joinpath(f"{name}.py").read_text(encoding="utf-8")


def assemble() -> str:
    """The agent's text; the same modules give the same text."""
    libraries: set[str] = set()
    parts = [_part(name, libraries) for name in MODULES]
    head = f"#!/usr/bin/python3 -IS\n{module('__init__')}\nfrom __future__ import annotations\n\n"
    return head + "\n".join(f"import {name}" for name in sorted(libraries)) + "\n\n" + "\n\n\n".join(parts) + "\n"


def _part(name: str, libraries: set[str]) -> str:
    """What remains of a module; what it imports of the standard library goes into `libraries`."""
    text = module(name)
    docstring, *statements = ast.parse(text).body
    imports = list(takewhile(_is_import, statements))
    libraries |= {alias.name for statement in imports if isinstance(statement, ast.Import) for alias in statement.names}
    lines = text.splitlines()
    doc = "\n".join(lines[: docstring.end_lineno]).strip('"')
    heading = "\n".join(f"# {line}".rstrip() for line in [f"---- {name.strip('_')} ----", *doc.splitlines()])
    return heading + "\n\n\n" + "\n".join(lines[imports[-1].end_lineno :]).strip("\n")


def _is_import(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import():
            return True
        case ast.ImportFrom(module=str(name)):
            return name == "__future__" or name.startswith(_PACKAGE)
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
    return False
