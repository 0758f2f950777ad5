"""One class name, one meaning: a name is used again only where it is the same thing in another form."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "reconciler"

# The same thing twice, and which: docs/developer.md, Glossary.
TWICE = {
    "what the agent knows, and what the host reads of it": {"Check"},
    "frames and bytes: in the guard's counters, and in the books": {"Count"},
    "what any of the machines is told": {"Declared", "Rebooted", "Tick"},
}


def classes(text: str) -> list[str]:
    """The public classes of a module."""
    return [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]


def meanings(texts: dict[str, str]) -> dict[str, list[str]]:
    """The class names that more than one module has, and which. What is written, and what it declares, are one."""
    found = defaultdict(list)
    for place, text in texts.items():
        for name in classes(text):
            found[name].append("appliance" if place.startswith(("appliance/written", "appliance/declared")) else place)
    return {name: sorted(places) for name, places in found.items() if len(set(places)) > 1}


def test_a_class_name_has_one_meaning() -> None:
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    assert meanings(texts).keys() == set().union(*TWICE.values())


@pytest.mark.parametrize("other", ["health/state.py", "lab/talk.py"])
def test_a_name_with_two_meanings_is_found(other: str) -> None:
    texts = {"appliance/declared.py": "class Segment: ...", "appliance/written/network.py": "class Segment: ..."}
    assert meanings(texts) == {}
    assert meanings({**texts, other: "class Segment: ..."}) == {"Segment": ["appliance", "appliance", other]}
