"""Rules that tie one place of the file to another: every name that is used exists, every name that is made is unique.

They read the raw document, tolerant of whatever is wrong with its shape, so that all mistakes of a file come at once.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from reconciler.appliance.declared import DEFAULT_SEGMENT
from reconciler.appliance.document import Document, Mistake, Path
from reconciler.appliance.expand import joined_name, paired_name
from reconciler.appliance.model import INTERFACE, REQUIRED_TOPOLOGIES, shown
from reconciler.appliance.shape import closest


def mistakes(document: Document) -> Iterator[Mistake]:
    """Everything in `document` that refers to nothing, to the wrong kind of thing, or to one thing twice."""
    names = _Names.of(document.data)
    yield from _segments(document, names)
    topologies = _mapping(document.data, "topologies")
    if topologies:
        yield from _required(document, tuple(topologies))
    for topology, form in topologies.items():
        yield from _topology(document, names, topology, form)
    yield from _unique(document, names)


@dataclass(frozen=True, slots=True)
class _Names:
    ports: tuple[str, ...]
    management: frozenset[str]
    adapters: tuple[str, ...]
    segments: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, data: Any) -> "_Names":
        ports = _mapping(data, "ports")
        # A misspelt role was meant to say something else than the default.
        management = frozenset(role for role, port in ports.items() if _get(port, "role") not in (None, "data"))
        written = _mapping(data, "segments")
        segments = {name: tuple(role for _, role in _segment_roles((), value)) for name, value in written.items()}
        if not segments:
            segments = {DEFAULT_SEGMENT: tuple(role for role in ports if role not in management)}
        return cls(tuple(ports), management, tuple(_mapping(data, "vm", "adapters")), segments)

    @property
    def data_ports(self) -> tuple[str, ...]:
        return tuple(role for role in self.ports if role not in self.management)


def _segments(document: Document, names: _Names) -> Iterator[Mistake]:
    written = _mapping(document.data, "segments")
    if not written:
        if len(names.data_ports) < 2 and len(names.ports) >= 2:
            what = f"{len(names.data_ports)} data port(s)"
            yield Mistake(document.value(("ports",)), ("ports",), what, "a wire joins at least two")
        return
    seen: dict[str, str] = {}
    for name, value in written.items():
        for path, role in _segment_roles(("segments", name), value):
            yield from _known(document, path, role, "port", names.ports)
            if role in names.management:
                what = f"the management port {shown(role)} in a segment"
                yield Mistake(document.value(path), path, what, "segments join data ports only: remove it")
            if role in seen:
                what = f"the port {shown(role)} is in segment `{seen[role]}` already"
                yield Mistake(document.value(path), path, what, "each data port belongs to exactly one segment")
            seen.setdefault(role, name)
    for role in names.data_ports:
        if role not in seen:
            right = "add it to one, or give it `role: management`"
            yield Mistake(document.key(("ports", role)), ("ports", role), "this data port is in no segment", right)


def _required(document: Document, topologies: tuple[str, ...]) -> Iterator[Mistake]:
    path: Path = ("topologies",)
    for name in REQUIRED_TOPOLOGIES:
        if name not in topologies:
            guess = closest(name, topologies)
            right = f"rename `{guess}`?" if guess and guess not in REQUIRED_TOPOLOGIES else "declare it"
            yield Mistake(document.key(path), path, f"the topology `{name}` is missing", right)


def _topology(document: Document, names: _Names, topology: str, form: Any) -> Iterator[Mistake]:
    root: Path = ("topologies", topology)
    for name, switch in _mapping(form, "switches").items():
        path = (*root, "switches", name)
        for at, role in _items((*path, "ports"), _get(switch, "ports")):
            yield from _known(document, at, role, "port", names.ports)
        for at, role in _items((*path, "adapters"), _get(switch, "adapters")):
            yield from _known(document, at, role, "adapter", names.adapters)
        if switch == {} or (isinstance(switch, dict) and not any(switch.values())):
            right = "give it members or remove it"
            yield Mistake(document.key(path), path, "a switch without ports or adapters", right)
    for at, role in _items((*root, "detached"), _get(form, "detached")):
        yield from _known(document, at, role, "port", names.ports)
    yield from _short_form(document, names, topology, form)


def _short_form(document: Document, names: _Names, topology: str, form: Any) -> Iterator[Mistake]:
    detached = _get(form, "detached")
    left_out = detached if isinstance(detached, list) else []
    if _get(form, "pair") == "all":
        path: Path = ("topologies", topology, "pair")
        for role in names.data_ports:
            if role in left_out:
                continue
            if role not in names.adapters:
                right = f"declare vm.adapters.{role}, or list the port under `detached`, or write `switches` out"
                yield Mistake(document.value(path), path, f"the port `{role}` has no adapter of its name", right)
            yield from _made_name(document, path, paired_name(role))
    if _get(form, "join") == "all":
        path = ("topologies", topology, "join")
        for segment in names.segments:
            yield from _made_name(document, path, joined_name(topology, segment if len(names.segments) > 1 else None))


def _made_name(document: Document, path: Path, name: str) -> Iterator[Mistake]:
    if not re.fullmatch(INTERFACE, name):
        what = f"the short form would make a switch `{name}`, {len(name)} bytes long"
        yield Mistake(document.value(path), path, what, "interface names have at most 15: write `switches` out")


def _unique(document: Document, names: _Names) -> Iterator[Mistake]:
    """Interface names and MAC addresses that two different things claim."""
    claims: dict[str, str] = {}
    for name, path, owner in _interfaces(document.data, names):
        first = claims.setdefault(name, owner)
        if first != owner:
            what = f"the interface name `{name}` is that of {first} too"
            yield Mistake(document.value(path), path, what, "interface names are unique on a host: choose another")
    for key, things in (("mac", ("vm", "adapters")), ("mac", ("ports",)), ("pci", ("ports",)), ("name", ("ports",))):
        seen: dict[str, str] = {}
        for role, thing in _mapping(document.data, *things).items():
            path = (*things, role, "match", key) if things == ("ports",) else (*things, role, key)
            value = _get(_get(thing, "match") if things == ("ports",) else thing, key)
            if not isinstance(value, str):
                continue
            if value.lower() in seen:
                right = "no two can be the same: mend one"
                yield Mistake(document.value(path), path, f"`{seen[value.lower()]}` has the same {key}", right)
            seen.setdefault(value.lower(), role)


def _interfaces(data: Any, names: _Names) -> Iterator[tuple[str, Path, str]]:
    """Every interface name that the file makes or relies on: the name, where it stands, whose it is."""
    for role, port in _mapping(data, "ports").items():
        name = _get(_get(port, "match"), "name")
        if isinstance(name, str):
            yield name, ("ports", role, "match", "name"), f"the port `{role}`"
    for role, adapter in _mapping(data, "vm", "adapters").items():
        for key in ("tap", "interface"):
            name = _get(adapter, key)
            if isinstance(name, str):
                yield name, ("vm", "adapters", role, key), f"the adapter `{role}`"
    for topology, form in _mapping(data, "topologies").items():
        root: Path = ("topologies", topology)
        for name in _mapping(form, "switches"):
            yield name, (*root, "switches", name), "a switch"
        if _get(form, "pair") == "all":
            for role in names.data_ports:
                yield paired_name(role), (*root, "pair"), "a switch"
        if _get(form, "join") == "all":
            for segment in names.segments:
                name = joined_name(topology, segment if len(names.segments) > 1 else None)
                yield name, (*root, "join"), "a switch"


def _known(document: Document, path: Path, role: str, kind: str, known: Iterable[str]) -> Iterator[Mistake]:
    known = tuple(known)
    if role not in known:
        guess = closest(role, known)
        right = f"did you mean `{guess}`?" if guess else f"declared are: {', '.join(known[:20]) or 'none'}"
        yield Mistake(document.value(path), path, f"no {kind} is called {shown(role)}", right)


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _mapping(data: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        data = _get(data, key)
    return data if isinstance(data, dict) else {}


def _items(path: Path, data: Any) -> Iterator[tuple[Path, str]]:
    if isinstance(data, list):
        yield from (((*path, index), item) for index, item in enumerate(data) if isinstance(item, str))


def _segment_roles(path: Path, value: Any) -> Iterator[tuple[Path, str]]:
    if isinstance(value, dict):
        return _items((*path, "ports"), value.get("ports"))
    return _items(path, value)
