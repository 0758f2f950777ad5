"""YAML text to plain data, with the position of everything, inside bounds.

The file is hostile input: it is read event by event, so that a bound is hit before memory is spent. What appliance
files do not need is refused rather than interpreted: tags, several documents, keys that are not text, YAML 1.1.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
)
from ruamel.yaml.reader import ReaderError

from reconciler.appliance.yaml.parser import Parser, Refused
from reconciler.appliance.yaml.words import lookalike, show

# An appliance of 1,024 ports, spelled out, takes 150 kB, 25,000 nodes and 6 levels. The bounds leave room beyond that,
# and keep the worst file that they admit below 3 s of the parser's time.
MAX_BYTES = 524_288
MAX_NODES = 40_000
MAX_DEPTH = 24
MAX_ALIASES = 256

Data = dict[str, "Data"] | list["Data"] | str | int | float | bool | None
Path = tuple[str | int, ...]

# Python converts decimal digits in quadratic time; longer numbers than this are out of every range here anyway.
_MAX_DIGITS = 32


def _number(convert: Callable[[str], int | float]) -> Callable[[str], int | float]:
    return lambda text: convert(text) if len(text) <= _MAX_DIGITS else math.inf


# The core schema of YAML 1.2 (chapter 10.3.2).
_CORE: tuple[tuple[re.Pattern[str], Callable[[str], "Data"]], ...] = (
    (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), _number(int)),
    (re.compile(r"0o[0-7]+"), _number(lambda text: int(text, 0))),
    (re.compile(r"0x[0-9a-fA-F]+"), _number(lambda text: int(text, 0))),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), _number(float)),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: -math.inf if text[0] == "-" else math.inf),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda _: math.nan),
)
_LEADING_ZERO = re.compile(rf"[-+]?0[0-9]{{1,{_MAX_DIGITS - 2}}}")
# What a plain scalar must begin with to be anything but text. Most are text: this spares them nine patterns.
_CORE_BEGINS = frozenset("~nNtTfF-+.0123456789")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the file; line and column count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in a file: where, what, and what would be right."""

    position: Position
    path: Path
    what: str
    right: str

    def __post_init__(self) -> None:
        # Names out of the file stand in both; the file is hostile, and this ends up on a terminal.
        object.__setattr__(self, "what", show(self.what, 600))
        object.__setattr__(self, "right", show(self.right, 600))

    def __str__(self) -> str:
        """``line:column: path: what; right``: the caller puts the file's name before it."""
        where = f"{self.position.line}:{self.position.column}: "
        path = f"{spell(self.path)}: " if self.path else ""
        return where + path + self.what + (f"; {self.right}" if self.right else "")


class DocumentError(Exception):
    """The text is not a document that can be read at all; carries the one `Mistake` that ended the reading."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data, where each key and value of it stands, and what is refused in it although it can be read."""

    data: Data
    keys: dict[Path, Position]
    values: dict[Path, Position]
    mistakes: tuple[Mistake, ...] = ()

    def key(self, path: Path) -> Position:
        """Where the key (or list item) at `path` stands, else where its nearest existing parent does."""
        while path and path not in self.keys:
            path = path[:-1]
        return self.keys.get(path, Position(1, 1))

    def value(self, path: Path) -> Position:
        """Where the value at `path` stands, else where its nearest existing parent does."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Position(1, 1))


def spell(path: Path) -> str:
    """A path as people write it: ``topologies.inspect.switches.sw0.ports[1]``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{show(step)}" if text else show(step)
    return text


def read(text: bytes) -> Document:
    """The document that `text` holds.

    Raises:
        DocumentError: not UTF-8, not YAML 1.2, outside the bounds, or using a feature that is refused.

    """
    return _Reader(_decode(text)).document()


def _decode(text: bytes) -> str:
    if len(text) > MAX_BYTES:
        _refuse(Position(1, 1), (), f"the file has {len(text)} bytes", f"at most {MAX_BYTES} are read")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # "utf-8-sig" counts from behind the byte order mark.
        text = text.removeprefix(b"\xef\xbb\xbf")
        place = _place(text[: error.start].decode("utf-8", errors="replace"))
        _refuse(place, (), f"byte 0x{text[error.start]:02x} is not UTF-8", "save the file as UTF-8")


def lines_of(text: str) -> list[str]:
    """The lines of a file; they end where YAML 1.2 ends them (chapter 5.4)."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def oddity(text: str, place: Position) -> Mistake | None:
    """A character that only looks like what YAML wants, in the line where the reading ended or in the one before it."""
    lines = lines_of(text)
    for line in (place.line, place.line - 1):
        if 0 < line <= len(lines) and (found := lookalike(lines[line - 1])):
            column, what, right = found
            return Mistake(Position(line, column + 1), (), what, right)
    return None


def _place(before: str) -> Position:
    """The position behind `before`."""
    lines = lines_of(before)
    return Position(len(lines), len(lines[-1]) + 1)


def _refuse(position: Position, path: Path, what: str, right: str) -> NoReturn:
    raise DocumentError(Mistake(position, path, what, right))


def _plain(value: str) -> Data:
    if value and value[0] not in _CORE_BEGINS:
        return value
    for pattern, construct in _CORE:
        if pattern.fullmatch(value):
            return construct(value)
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class _Anchor:
    data: Data
    nodes: int


@dataclass(slots=True)
class _Reader:
    text: str
    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)
    anchors: dict[str, _Anchor] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    nodes: int = 0
    aliases: int = 0

    def document(self) -> Document:
        place = Position(1, 1)
        try:
            parser = Parser(self.text)
            try:
                return self._document(parser.events())
            finally:
                place = Position(*parser.place())
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            if mark:
                place = Position(mark.line + 1, mark.column + 1)
            if culprit := oddity(self.text, place):
                _refuse(culprit.position, (), culprit.what, culprit.right)
            problem, context = str(error.problem or error.context), str(error.context or "")
            _refuse(place, (), f"not YAML: {show(problem, 200)}", show(context, 200))
        except ReaderError as error:
            what = f"character U+{ord(self.text[error.position]):04X} is not allowed in YAML"
            _refuse(_place(self.text[: error.position]), (), what, "remove it")
        except Refused as error:
            _refuse(Position(*error.place), (), error.what, error.right)
        except (
            YAMLError,
            ValueError,
            IndexError,
            AttributeError,
            AssertionError,
            TypeError,
            NotImplementedError,
        ) as error:
            # The parser's own slips on mangled input: still an answer with a place, never a traceback.
            _refuse(place, (), f"not YAML: {show(str(error), 200) or type(error).__name__}", "")

    def _document(self, events: Iterator[Any]) -> Document:
        data: Data = None
        documents = 0
        for event in events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    _refuse(_position(event), (), "a second document begins here", "one appliance per file")
            elif isinstance(event, NodeEvent):
                data = self._node(event, events, ())
        if documents == 0 or data is None:
            _refuse(Position(1, 1), (), "the file is empty", "`reconcile discover` writes a skeleton to start from")
        return Document(data, self.keys, self.values, tuple(self.mistakes))

    def _node(self, event: NodeEvent, events: Iterator[Any], path: Path) -> Data:
        place = self.values[path] = _position(event)
        self._count(place, path, 1)
        if isinstance(event, AliasEvent):
            return self._alias(event, place, path)
        before = self.nodes
        if len(path) > MAX_DEPTH:
            _refuse(place, path[:4], "nested too deeply", f"at most {MAX_DEPTH} levels are read")
        data: Data
        if isinstance(event, ScalarEvent):
            data = _plain(event.value) if event.style is None else event.value
            self._check_characters(event.value, place, path)
            if event.style is None and _LEADING_ZERO.fullmatch(event.value):
                what = f"the number {show(event.value)} begins with a zero: some readers take it for octal"
                self.mistakes.append(Mistake(place, path, what, f"write {data}, or quote it if it is text"))
        elif isinstance(event, MappingStartEvent):
            data = self._mapping(events, path)
        else:
            data = self._sequence(events, path)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchor(data, self.nodes - before + 1)
        return data

    def _count(self, place: Position, path: Path, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            _refuse(place, path[:4], "too many values", f"at most {MAX_NODES} are read, aliases written out")

    def _check_characters(self, text: str, place: Position, path: Path) -> None:
        # Only an escape such as "\ud800" can make one, and no encoding can write it down.
        if not text.isascii() and _SURROGATE.search(text):
            self.mistakes.append(Mistake(place, path, "half a surrogate pair", "write the character itself"))

    def _alias(self, event: AliasEvent, place: Position, path: Path) -> Data:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            _refuse(place, path, "too many aliases", f"at most {MAX_ALIASES} are read")
        anchor = self.anchors.get(event.anchor)
        if anchor is None:
            _refuse(place, path, f"the alias *{show(event.anchor)} has no anchor before it", "define it with &")
        self._count(place, path, anchor.nodes)
        return anchor.data

    def _sequence(self, events: Iterator[Any], path: Path) -> Data:
        items: list[Data] = []
        for event in events:
            if isinstance(event, SequenceEndEvent):
                break
            here = (*path, len(items))
            self.keys[here] = _position(event)
            items.append(self._node(event, events, here))
        return items

    def _mapping(self, events: Iterator[Any], path: Path) -> Data:
        data: dict[str, Data] = {}
        for event in events:
            if isinstance(event, MappingEndEvent):
                break
            key = self._key(event, path)
            here = (*path, key)
            if key in data:
                right = f"the first is in line {self.keys[here].line}: remove one"
                self.mistakes.append(Mistake(_position(event), here, "this key stands twice", right))
                # Read all the same, to its end and for its anchors, but under a path of its own, and dropped.
                self._node(next(events), events, (*path, f"{key} (again)"))
                continue
            if key == "<<" and event.style is None:
                right = "write the keys out, or use an alias as a value"
                self.mistakes.append(Mistake(_position(event), path, "merge keys (<<) are not YAML 1.2", right))
                self._node(next(events), events, here)
                continue
            self.keys[here] = _position(event)
            data[key] = self._node(next(events), events, here)
        return data

    def _key(self, event: Event, path: Path) -> str:
        place = _position(event)
        self._count(place, path, 1)
        if not isinstance(event, ScalarEvent):
            _refuse(place, path, "a key that is not text", "keys are plain words")
        key = str(event.value)
        self._check_characters(key, place, path)
        if event.anchor is not None:
            self.mistakes.append(Mistake(place, path, "an anchor on a key", "anchors are for values: remove it"))
        elif event.style is None and not isinstance(_plain(key), str):
            self.mistakes.append(Mistake(place, path, f"the key {show(key) or '(nothing)'} is not text", "quote it"))
        return key


def _position(event: Event) -> Position:
    mark = event.start_mark
    return Position(mark.line + 1, mark.column + 1)
