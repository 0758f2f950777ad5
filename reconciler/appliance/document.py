"""YAML text to plain data, with the position of everything, inside bounds.

The file is hostile input: it is read event by event, so that a bound is hit before memory is spent. What appliance
files do not need is refused rather than interpreted: tags, several documents, keys that are not text, YAML 1.1.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from ruamel.yaml import YAML
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
    StreamEndEvent,
    StreamStartEvent,
)
from ruamel.yaml.reader import ReaderError

# An appliance of 1,024 ports, spelled out, takes 120 kB, 27,000 nodes and 6 levels. The bounds leave room beyond that.
MAX_BYTES = 1_048_576
MAX_NODES = 60_000
MAX_DEPTH = 24
MAX_ALIASES = 256

Data = dict[str, "Data"] | list["Data"] | str | int | float | bool | None
Path = tuple[str | int, ...]

# The core schema of YAML 1.2 (chapter 10.3.2). The lengths keep a hostile number from costing anything.
_CORE = (
    (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]{1,20}"), int),
    (re.compile(r"0o[0-7]{1,20}"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]{1,16}"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]{1,20}|[0-9]{1,20}(\.[0-9]{0,20})?)([eE][-+]?[0-9]{1,3})?"), float),
    (re.compile(r"([-+]?)\.(?:inf|Inf|INF)"), lambda text: float("-inf" if text[0] == "-" else "inf")),
    (re.compile(r"\.(?:nan|NaN|NAN)"), lambda _: float("nan")),
)


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
    """Plain data, and where each key and value of it stands."""

    data: Data
    keys: dict[Path, Position]
    values: dict[Path, Position]

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
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else show(step)
    return text


def show(text: str, limit: int = 60) -> str:
    """Hostile text for a person's terminal: control characters escaped, length bounded."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return clean if len(text) <= limit else clean[:limit] + "…"


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
        before = text[: error.start]
        place = Position(before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        _refuse(place, (), f"byte 0x{text[error.start]:02x} is not UTF-8", "save the file as UTF-8")


def _refuse(position: Position, path: Path, what: str, right: str) -> NoReturn:
    raise DocumentError(Mistake(position, path, what, right))


def _plain(value: str) -> Data:
    for pattern, construct in _CORE:
        if pattern.fullmatch(value):
            return construct(value)
    return value


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
    nodes: int = 0
    aliases: int = 0

    def document(self) -> Document:
        yaml = YAML(typ="safe", pure=True)
        try:
            return self._document(iter(yaml.parse(self.text)))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
            _refuse(place, (), f"not YAML: {show(str(error.problem or error.context), 200)}", str(error.context or ""))
        except ReaderError as error:
            before = self.text[: error.position]
            place = Position(before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
            _refuse(place, (), f"character U+{ord(self.text[error.position]):04X} is not allowed in YAML", "remove it")
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
            _refuse(Position(1, 1), (), f"not YAML: {show(str(error), 200) or type(error).__name__}", "")

    def _document(self, events: Iterator[Event]) -> Document:
        data: Data = None
        documents = 0
        for event in events:
            if isinstance(event, StreamStartEvent | StreamEndEvent):
                continue
            if isinstance(event, DocumentStartEvent):
                documents += 1
                self._check_start(event, documents)
            elif isinstance(event, NodeEvent):
                data = self._node(event, events, ())
        if documents == 0 or data is None:
            _refuse(Position(1, 1), (), "the file is empty", "`reconcile discover` writes a skeleton to start from")
        return Document(data, self.keys, self.values)

    def _check_start(self, event: DocumentStartEvent, documents: int) -> None:
        place = _position(event)
        if documents > 1:
            _refuse(place, (), "a second document begins here", "one appliance per file")
        if event.version and tuple(event.version) != (1, 2):
            _refuse(place, (), "the file asks for another YAML version", "write `%YAML 1.2` or leave the directive out")
        if event.tags:
            _refuse(place, (), "a %TAG directive", "tags are not used in appliance files: remove it")

    def _node(self, event: NodeEvent, events: Iterator[Event], path: Path) -> Data:
        place = _position(event)
        self.values[path] = place
        self._count(place, path, 1)
        if isinstance(event, AliasEvent):
            return self._alias(event, place, path)
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            _refuse(place, path, f"the tag {show(str(tag))}", "tags are not used in appliance files: remove it")
        before = self.nodes
        if len(path) > MAX_DEPTH:
            _refuse(place, path[:4], "nested too deeply", f"at most {MAX_DEPTH} levels are read")
        data: Data
        if isinstance(event, ScalarEvent):
            data = _plain(event.value) if event.implicit[0] and event.style is None else str(event.value)
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

    def _alias(self, event: AliasEvent, place: Position, path: Path) -> Data:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            _refuse(place, path, "too many aliases", f"at most {MAX_ALIASES} are read")
        anchor = self.anchors.get(event.anchor)
        if anchor is None:
            _refuse(place, path, f"the alias *{show(str(event.anchor))} has no anchor before it", "define it with &")
        self._count(place, path, anchor.nodes)
        return anchor.data

    def _sequence(self, events: Iterator[Event], path: Path) -> Data:
        items: list[Data] = []
        for event in events:
            if isinstance(event, SequenceEndEvent):
                break
            assert isinstance(event, NodeEvent)  # noqa: S101 - the parser's grammar gives nothing else here
            here = (*path, len(items))
            self.keys[here] = _position(event)
            items.append(self._node(event, events, here))
        return items

    def _mapping(self, events: Iterator[Event], path: Path) -> Data:
        data: dict[str, Data] = {}
        for event in events:
            if isinstance(event, MappingEndEvent):
                break
            key = self._key(event, path)
            here = (*path, key)
            if key in data:
                first = self.keys[here]
                _refuse(
                    _position(event), here, "this key stands twice", f"the first is in line {first.line}: remove one"
                )
            self.keys[here] = _position(event)
            value = next(events)
            assert isinstance(value, NodeEvent)  # noqa: S101 - as above
            data[key] = self._node(value, events, here)
        return data

    def _key(self, event: Event, path: Path) -> str:
        place = _position(event)
        self._count(place, path, 1)
        if not isinstance(event, ScalarEvent):
            _refuse(place, path, "a key that is not text", "keys are plain words")
        if event.anchor is not None or event.tag not in (None, "!"):
            _refuse(place, path, "an anchor or a tag on a key", "keys are plain words")
        if event.value == "<<" and event.style is None:
            _refuse(place, path, "merge keys (<<) are not YAML 1.2", "write the keys out, or use an alias as a value")
        return str(event.value)


def _position(event: Event) -> Position:
    return Position(event.start_mark.line + 1, event.start_mark.column + 1)
