"""Dataclasses as JSON, and back: what was written is what is read, and nothing else is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from enum import Enum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import codec
from reconciler.appliance.declared import Appliance


class Word(StrEnum):
    YES = "yes"
    NO = "no"


class Level(Enum):
    LOW = 0
    HIGH = 1


@dataclass(frozen=True, slots=True)
class Empty:
    pass


@dataclass(frozen=True, slots=True)
class Leaf:
    text: str
    number: int | None = None
    sure: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    choice: Leaf | Empty | None
    by_name: Mapping[str, Leaf]
    by_word: Mapping[Word, tuple[Level, ...]]
    plain: str | int | bool | tuple[str, ...] | None
    leaf: Leaf | None = None
    names: frozenset[str] = field(default_factory=frozenset)


LEAVES = st.builds(Leaf, text=st.text(max_size=5), number=st.none() | st.integers(), sure=st.booleans())
TEXTS = st.lists(st.text(max_size=5), max_size=3)
WHOLES = st.builds(
    Whole,
    choice=LEAVES | st.builds(Empty) | st.none(),
    by_name=st.dictionaries(st.text(max_size=5), LEAVES, max_size=3),
    by_word=st.dictionaries(st.sampled_from(Word), st.lists(st.sampled_from(Level), max_size=3).map(tuple)),
    plain=st.one_of(st.text(max_size=5), st.integers(), st.booleans(), TEXTS.map(tuple), st.none()),
    leaf=LEAVES | st.none(),
    names=TEXTS.map(frozenset),
)
WHOLE = Whole(Leaf("a", 1), {"n": Leaf("b")}, {Word.YES: (Level.LOW, Level.HIGH)}, ("x",), Leaf("c"), frozenset("zy"))
WRITTEN = {
    "choice": {"Leaf": {"text": "a", "number": 1, "sure": False}},
    "by_name": {"n": {"text": "b", "number": None, "sure": False}},
    "by_word": {"yes": [0, 1]},
    "plain": ["x"],
    "leaf": {"text": "c", "number": None, "sure": False},
    "names": ["y", "z"],
}


def test_how_it_is_written() -> None:
    assert codec.dump(WHOLE) == WRITTEN
    assert list(codec.dump(WHOLE)["by_name"]["n"]) == ["text", "number", "sure"]


@given(WHOLES)
def test_what_was_written_is_what_is_read(whole: Whole) -> None:
    again = codec.parse(Whole, json.loads(json.dumps(codec.dump(whole))))
    assert again == whole
    assert type(again.plain) is type(whole.plain)
    assert list(again.by_name) == list(whole.by_name)


ALIEN = (None, True, 0, 7, 1.0, "", "yes", [], [3], {}, {"Leaf": 3}, {"Leaf": {}, "Empty": {}}, {"Word": "yes"})


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


@pytest.mark.parametrize("place", [place for place in places(WRITTEN) if place], ids=str)
def test_what_is_read_would_be_written_so_again_or_is_refused(place: tuple[Any, ...]) -> None:
    for alien in (..., *ALIEN):
        data = node = json.loads(json.dumps(WRITTEN))
        for step in place[:-1]:
            node = node[step]
        if alien is ...:
            del node[place[-1]]
        else:
            node[place[-1]] = alien
        try:
            found = codec.parse(Whole, data)
        except ValueError:
            continue
        data["names"].sort()  # a set in another order is the same set
        assert json.dumps(codec.dump(found)) == json.dumps(data), "nothing is made to fit"


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (int, True, "expected a whole number, found true or false"),
        (int, 1.0, "expected a whole number, found a number"),
        (str, None, "expected text, found null"),
        (Whole, [], "expected an object, found a list"),
        (Leaf, {"text": "a"}, "expected the fields of Leaf, no more and no fewer"),
        (Empty, {"x": 1}, "expected the fields of Empty, no more and no fewer"),
        (Leaf | Empty, {"Word": {}}, "expected an object with one of the keys Leaf, Empty"),
        (Leaf | Empty, {}, "expected an object with one of the keys Leaf, Empty"),
        (str | int | None, [], "expected text or a whole number or null, found a list"),
        (Word, "maybe", "no Word has this value"),
        (Level, False, "expected a whole number, found true or false"),
    ],
)
def test_what_is_said(kind: Any, data: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        codec.parse(kind, data)


@pytest.mark.parametrize(
    "kind", [Whole, Appliance, tuple[str, ...], frozenset[str], Mapping[str, int], Word, Leaf | Empty]
)
def test_depth_is_no_way_in(kind: Any) -> None:
    data: Any = []
    for _ in range(200_000):
        data = [data]
    with pytest.raises(ValueError, match="expected"):
        codec.parse(kind, data)
    while data:
        data = data.pop()  # else its end would need as much stack


@pytest.mark.parametrize(
    "kind",
    [float, object, Any, list[str], tuple[str, int], Mapping[int, str], str | Word, Mapping[str, int] | Leaf, "Leaf"],
    ids=str,
)
def test_what_has_no_form_is_the_programmers_mistake(kind: Any) -> None:
    with pytest.raises(TypeError):
        codec.codec(kind)
    with pytest.raises(TypeError):
        codec.codec(make_dataclass("Holder", [("inner", kind)]))
