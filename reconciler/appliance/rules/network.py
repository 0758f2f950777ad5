"""Rules that tie one place of the file to another: every name that is used exists, every name that is made is unique.

They read the raw document, tolerant of whatever is wrong with its shape, so that all mistakes of a file come at once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from reconciler.appliance.declared import DEFAULT_SEGMENT
from reconciler.appliance.expand.network import joined_name, paired_name
from reconciler.appliance.rules import guard as references_of_guard
from reconciler.appliance.rules import health as references_of_care
from reconciler.appliance.rules.raw import get, items, mapping
from reconciler.appliance.written.fields import ROLE
from reconciler.appliance.written.network import REQUIRED_TOPOLOGIES
from reconciler.appliance.yaml.document import Document, Mistake, Path, spell
from reconciler.appliance.yaml.words import Guesser, shown


def mistakes(document: Document) -> Iterator[Mistake]:
    """Everything in `document` that refers to nothing, to the wrong kind of thing, or to one thing twice."""
    names = _Names.of(document.data)
    yield from _segments(document, names)
    topologies = mapping(document.data, "topologies")
    if isinstance(get(document.data, "topologies"), dict):
        yield from _required(document, names, tuple(topologies))
    for topology, form in topologies.items():
        yield from _topology(document, names, topology, form)
    yield from _unique(document, names)
    yield from references_of_care.mistakes(document, tuple(names.segments))
    yield from references_of_guard.mistakes(document, names.segments)


@dataclass(frozen=True, slots=True)
class _Names:
    """What the file declares; dicts where order and quick look-up both matter."""

    ports: dict[str, None]
    data_ports: dict[str, None]
    adapters: dict[str, None]
    segments: dict[str, tuple[str, ...]]
    # Data ports that may have been meant for management: nothing is missed for them.
    unsure: frozenset[str]
    # Of "port" and "adapter" those whose section is missing or broken: that is one mistake, not one per use.
    unreadable: frozenset[str]
    guesser: Guesser = field(default_factory=Guesser)

    @classmethod
    def of(cls, data: Any) -> "_Names":
        ports = mapping(data, "ports")
        data_ports = dict.fromkeys(role for role, port in ports.items() if _is_data(port))
        written = mapping(data, "segments")
        segments = {name: tuple(role for _, role in _segment_roles((), value)) for name, value in written.items()}
        if not segments:
            segments = {DEFAULT_SEGMENT: tuple(data_ports)}
        adapters = mapping(data, "vm", "adapters")
        readable = {"port": get(data, "ports"), "adapter": get(get(data, "vm"), "adapters")}
        unreadable = frozenset(kind for kind, section in readable.items() if not isinstance(section, dict))
        unsure = frozenset(role for role, port in ports.items() if _is_unsure(port))
        return cls(dict.fromkeys(ports), data_ports, dict.fromkeys(adapters), segments, unsure, unreadable)

    def switch_of(self, topology: str, segment: str) -> str:
        """What `join: all` calls the switch of `segment`."""
        return joined_name(topology, segment if len(self.segments) > 1 else None)


def _is_data(port: Any) -> bool:
    # A misspelt role was meant to say something else than the default.
    return get(port, "role") in (None, "data")


def _is_unsure(port: Any) -> bool:
    # A key that is not known may have been meant to be the role.
    return isinstance(port, dict) and "role" not in port and bool(set(port) - {"match", "take_over"})


def _segments(document: Document, names: _Names) -> Iterator[Mistake]:
    written = mapping(document.data, "segments")
    if not written:
        if len(names.data_ports) < 2 and len(names.ports) >= 2:
            what = f"{len(names.data_ports)} data port(s)"
            yield Mistake(document.value(("ports",)), ("ports",), what, "a wire joins at least two")
        return
    seen: dict[str, str] = {}
    for name, value in written.items():
        for path, role in _segment_roles(("segments", name), value):
            yield from _known(document, names, path, role, "port")
            if role in names.ports and role not in names.data_ports:
                what = f"the management port {shown(role)} in a segment"
                yield Mistake(document.value(path), path, what, "segments join data ports only: remove it")
            if role in seen:
                what = f"the port {shown(role)} is in segment `{seen[role]}` already"
                yield Mistake(document.value(path), path, what, "each data port belongs to exactly one segment")
            seen.setdefault(role, name)
    # What is missing from a broken segment is not missing from the file.
    sound = all(len(list(_segment_roles((), value))) > 1 for value in written.values())
    for role in names.data_ports:
        if sound and role not in seen and role not in names.unsure:
            right = "add it to one, or give it `role: management`"
            yield Mistake(document.key(("ports", role)), ("ports", role), "this data port is in no segment", right)


def _required(document: Document, names: _Names, topologies: tuple[str, ...]) -> Iterator[Mistake]:
    path: Path = ("topologies",)
    for name in REQUIRED_TOPOLOGIES:
        if name not in topologies:
            guess = names.guesser.closest(name, topologies)
            right = f"rename `{guess}`?" if guess and guess not in REQUIRED_TOPOLOGIES else "declare it"
            yield Mistake(document.key(path), path, f"the topology `{name}` is missing", right)


def _topology(document: Document, names: _Names, topology: str, form: Any) -> Iterator[Mistake]:
    root: Path = ("topologies", topology)
    for name, switch in mapping(form, "switches").items():
        path = (*root, "switches", name)
        yield from _roles(document, names, (*path, "ports"), get(switch, "ports"), "port")
        yield from _roles(document, names, (*path, "adapters"), get(switch, "adapters"), "adapter")
        if isinstance(switch, dict) and not any(switch.values()):
            right = "give it members or remove it"
            yield Mistake(document.key(path), path, "a switch without ports or adapters", right)
    yield from _roles(document, names, (*root, "detached"), get(form, "detached"), "port")
    yield from _short_form(document, names, topology, form)


def _roles(document: Document, names: _Names, path: Path, value: Any, kind: str) -> Iterator[Mistake]:
    """A list of roles: all known, none twice."""
    seen: set[str] = set()
    for at, role in items(path, value):
        yield from _known(document, names, at, role, kind)
        if role in seen:
            yield Mistake(document.value(at), at, f"{shown(role)} stands twice in this list", "remove one")
        seen.add(role)


def _short_form(document: Document, names: _Names, topology: str, form: Any) -> Iterator[Mistake]:
    left_out = {role for _, role in items((), get(form, "detached"))}
    if get(form, "pair") == "all":
        path: Path = ("topologies", topology, "pair")
        for role in names.data_ports:
            if role in left_out:
                continue
            if role not in names.adapters and role not in names.unsure and "adapter" not in names.unreadable:
                right = f"declare vm.adapters.{role}, or list the port under `detached`, or write `switches` out"
                yield Mistake(document.value(path), path, f"the port `{role}` has no adapter of its name", right)
            yield from _made_name(document, path, paired_name(role))
    if get(form, "join") == "all":
        path = ("topologies", topology, "join")
        for segment in names.segments:
            yield from _made_name(document, path, names.switch_of(topology, segment))


def _made_name(document: Document, path: Path, name: str) -> Iterator[Mistake]:
    # A name that is no name at all has been found where it stands.
    if len(name) > 15 and re.fullmatch(ROLE, name[:31]):
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
    adapters = mapping(document.data, "vm", "adapters")
    yield from _one_each(document, "mac", {("vm", "adapters", role): adapter for role, adapter in adapters.items()})
    ports = mapping(document.data, "ports")
    matches: dict[Path, Any] = {("ports", role, "match"): get(port, "match") for role, port in ports.items()}
    for key in ("pci", "mac", "name"):
        yield from _one_each(document, key, matches)
    counted: dict[Path, Any] = {}
    for path, match in matches.items():
        driver, index = get(match, "driver"), get(match, "index")
        if isinstance(driver, str) and isinstance(index, int):
            counted[path] = {"index": f"{driver} {index}"}
    yield from _one_each(document, "index", counted)


def _one_each(document: Document, key: str, things: dict[Path, Any]) -> Iterator[Mistake]:
    """No two of `things` have the same text at `key`."""
    seen: dict[str, Path] = {}
    for path, thing in things.items():
        value = get(thing, key)
        if not isinstance(value, str):
            continue
        first = seen.setdefault(value.lower() if key in ("pci", "mac") else value, path)
        if first != path:
            what = f"`{spell(first)}` has the same {key}"
            yield Mistake(document.value((*path, key)), (*path, key), what, "no two can be the same: change one")


def _interfaces(data: Any, names: _Names) -> Iterator[tuple[str, Path, str]]:
    """Every interface name that the file makes or relies on: the name, where it stands, whose it is."""
    for role, port in mapping(data, "ports").items():
        name = get(get(port, "match"), "name")
        if isinstance(name, str):
            yield name, ("ports", role, "match", "name"), f"the port `{role}`"
    for role, adapter in mapping(data, "vm", "adapters").items():
        for key in ("tap", "interface"):
            name = get(adapter, key)
            if isinstance(name, str):
                yield name, ("vm", "adapters", role, key), f"the adapter `{role}`"
    for topology, form in mapping(data, "topologies").items():
        root: Path = ("topologies", topology)
        for name in mapping(form, "switches"):
            yield name, (*root, "switches", name), "a switch"
        if get(form, "pair") == "all":
            for role in names.data_ports:
                yield paired_name(role), (*root, "pair"), "a switch"
        if get(form, "join") == "all":
            for segment in names.segments:
                yield names.switch_of(topology, segment), (*root, "join"), "a switch"


def _known(document: Document, names: _Names, path: Path, role: str, kind: str) -> Iterator[Mistake]:
    known = names.ports if kind == "port" else names.adapters
    if role not in known and kind not in names.unreadable:
        guess = names.guesser.closest(role, known)
        declared = ", ".join(islice(known, 20)) + (", …" if len(known) > 20 else "")
        right = f"did you mean `{guess}`?" if guess else f"declared are: {declared or 'none'}"
        yield Mistake(document.value(path), path, f"no {kind} is called {shown(role)}", right)


def _segment_roles(path: Path, value: Any) -> Iterator[tuple[Path, str]]:
    if isinstance(value, dict):
        return items((*path, "ports"), value.get("ports"))
    return items(path, value)
