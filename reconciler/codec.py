"""Values as JSON, and back, as the annotations of their classes have it.

    in Python                       in JSON
    None, bool, int, str            the same
    an enum                         the value of its member
    a dataclass                     an object with all its fields, no more and no fewer
    tuple[X, ...]                   a list
    frozenset[X]                    a list, sorted
    Mapping[str, X]                 an object, in the same order; an enum of texts is a key, too
    X | Y                           as X or Y, where JSON tells these apart (`str | int`, a dataclass `| None`);
                                    of several dataclasses an object, {"X": ...}, that has the class's name for its key

What is read is believed in nothing: whatever does not have exactly this form is refused with a ValueError, however deep
it is nested; what it says is never repeated. How a class is written and read is worked out once. Annotations must be
types: where they are texts (`from __future__ import annotations`), a TypeError says so.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

_T = TypeVar("_T")

_WORDS = {
    NoneType: "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}
_PLAIN = (NoneType, bool, int, str)


class Codec(NamedTuple):
    """How values of one kind are written and read; `json` is the Python type of what is written."""

    json: type
    dump: Callable[[Any], Any]
    parse: Callable[[Any], Any]


def dump(value: Any) -> Any:
    """A dataclass's value as a JSON value."""
    kind: Any = type(value)
    return codec(kind).dump(value)


def parse(kind: Callable[..., _T], data: Any) -> _T:
    """The value that `dump` made this JSON value of.

    Raises:
        ValueError: it did not.

    """
    found: _T = codec(kind).parse(data)
    return found


@cache
def codec(kind: Any) -> Codec:
    """How values of that type or annotation are written and read.

    Raises:
        TypeError: there is no form for these in JSON.

    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return Codec(kind, _same, _checked(kind))
    if origin in (Union, UnionType):
        return _union(inner)
    if origin is tuple and inner[1:] == (...,):
        return _list(inner[0], tuple)
    if origin is frozenset:
        return _list(inner[0], frozenset)
    if origin is Mapping:
        return _mapping(*inner)
    if is_dataclass(kind):
        return _object(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind)
    raise TypeError(f"{kind!r} has no form in JSON")


def _same(value: Any) -> Any:
    return value


def _checked(json: type) -> Callable[[Any], Any]:
    def parse(data: Any) -> Any:
        # Not isinstance: True is no number here.
        if type(data) is not json:
            raise _refusal((json,), data)
        return data

    return parse


def _enum(kind: type[Enum]) -> Codec:
    members = {member.value: member for member in kind}
    (json,) = {type(value) for value in members}
    checked = _checked(json)

    def parse(data: Any) -> Enum:
        if (found := members.get(checked(data))) is None:
            raise ValueError(f"no {kind.__name__} has this value")
        return found

    return Codec(json, lambda member: member.value, parse)


def _object(kind: Any) -> Codec:
    kinds: dict[str, Any] = {field.name: field.type for field in fields(kind)}
    inner = {name: codec(one) for name, one in kinds.items()}
    dumps = [(name, one.dump) for name, one in inner.items()]
    parses = [(name, one.parse) for name, one in inner.items()]
    checked = _checked(dict)

    def parse(data: Any) -> Any:
        if checked(data).keys() != inner.keys():
            raise ValueError(f"expected the fields of {kind.__name__}, no more and no fewer")
        return kind(**{name: parse(data[name]) for name, parse in parses})

    return Codec(dict, lambda value: {name: dump(getattr(value, name)) for name, dump in dumps}, parse)


def _list(of: Any, made: Callable[[Iterable[Any]], Any]) -> Codec:
    inner, checked = codec(of), _checked(list)
    ordered: Callable[[Iterable[Any]], Iterable[Any]] = sorted if made is frozenset else _same
    return Codec(
        list,
        lambda value: list(map(inner.dump, ordered(value))),
        lambda data: made(map(inner.parse, checked(data))),
    )


def _mapping(key: Any, value: Any) -> Codec:
    keys, values, checked = codec(key), codec(value), _checked(dict)
    if keys.json is not str:
        raise TypeError(f"{key!r} is no key in JSON")
    return Codec(
        dict,
        lambda mapping: {keys.dump(name): values.dump(one) for name, one in mapping.items()},
        lambda data: {keys.parse(name): values.parse(one) for name, one in checked(data).items()},
    )


def _union(kinds: tuple[Any, ...]) -> Codec:
    members = [(get_origin(kind) or kind, codec(kind)) for kind in kinds]
    objects = tuple(kind for kind, one in members if one.json is dict)
    if len(objects) > 1:
        members = [(kind, one) for kind, one in members if one.json is not dict]
        members.append((objects, _named(objects)))
    parses = {one.json: one.parse for _, one in members}
    if len(parses) < len(members):
        raise TypeError(f"JSON cannot tell {kinds} apart")

    def parse(data: Any) -> Any:
        if type(data) not in parses:
            raise _refusal(parses, data)
        return parses[type(data)](data)

    return Codec(object, lambda value: next(one.dump(value) for kind, one in members if isinstance(value, kind)), parse)


def _named(kinds: tuple[Any, ...]) -> Codec:
    """Of several dataclasses."""
    inner = {kind.__name__: codec(kind) for kind in kinds}
    checked = _checked(dict)

    def parse(data: Any) -> Any:
        name = next(iter(checked(data)), None)
        if len(data) != 1 or name not in inner:
            raise ValueError(f"expected an object with one of the keys {', '.join(inner)}")
        return inner[name].parse(data[name])

    return Codec(dict, lambda value: {type(value).__name__: inner[type(value).__name__].dump(value)}, parse)


def _refusal(expected: Iterable[type], data: Any) -> ValueError:
    return ValueError(f"expected {' or '.join(_WORDS[one] for one in expected)}, found {_WORDS[type(data)]}")
