"""Where a segment's frames really go, as the kernel has it: through the VM, past it, or nowhere.

    a port ──▶ the guard ── leased, aside, off ──▶ the switch that holds the port ──▶ an adapter there, and the VM
                  │                                            └──▶ another port there
                  └──── joined, cut

Told by what is there, and not by what is wanted. A frame that enters at one port of a segment leaves at the others:
each *way* from port to port has a path, with its evidence, and a segment has the worst of its ways. A port without a
carrier is no end of the wire: its own ways are cut, but what is said of the segment is said of the ports that are, as
long as there are two of them.

A NIC whose port the file does not find any more (it was renamed) is still where it was: the guard's rules know it by
its index.
"""

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from reconciler.appliance.declared import Appliance, Segment
from reconciler.network.bind import Bound, bind
from reconciler.network.desired import choice_of, desired, segments_of
from reconciler.network.here import Here
from reconciler.network.state import Kind, Link, Network, Setting, index_of
from reconciler.warning import Severity, Warning


class Path(StrEnum):
    """Where frames go. The worst comes last."""

    INSPECTED = "inspected"  # every frame crosses the VM
    UNKNOWN = "unknown"  # it could not be seen
    BYPASSED = "bypassed"  # past the VM
    CUT = "cut"  # nowhere


_WORST = {path: number for number, path in enumerate(Path)}


def worse(path: Path) -> int:
    """The more, the worse."""
    return _WORST[path]


class Gate(StrEnum):
    """What the guard's table in the kernel has for a segment."""

    LEASED = "leased"  # the VM has the wire: the switches decide
    ASIDE = "aside"  # the switches decide, whatever the VM does
    JOINED = "joined"
    CUT = "cut"
    OFF = "off"  # it was taken away on purpose
    MISSING = "missing"  # the kernel has none
    UNKNOWN = "unknown"  # the kernel did not tell


@dataclass(frozen=True, slots=True)
class Hook:
    """Where the guard's rules for a port are.

    `index`: of the NIC at whose ingress they hang; `out`: of those to which they forward.
    """

    index: int
    out: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PathGuard:
    """The guard of one segment, as the kernel has it: its gate, and its rules by port role; None: where they ought."""

    gate: Gate
    hooks: Mapping[str, Hook] | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """Where frames go that enter at the port `source`, on their way to the port `target`; roles both.

    `by_guard`: it is the guard's doing, and not the switches'. `evidence`: what shows it, for people.
    """

    source: str
    target: str
    path: Path
    evidence: str
    by_guard: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """A segment's path, and all of its ways. `by_guard` and `evidence`: of the worst of them."""

    path: Path
    by_guard: bool = False
    evidence: str = ""
    ways: tuple[Way, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What counters say of frames that enter at the port `source` and leave at `target`; roles, None: at any.

    It holds where the switches have the wire; `always`: whoever has it.
    """

    path: Path
    evidence: str
    source: str | None = None
    target: str | None = None
    always: bool = False


UNSEEN = Taken(Path.UNKNOWN, evidence="the network could not be looked at")


def paths(
    appliance: Appliance,
    actual: Network,
    guards: Mapping[str, PathGuard],
    doubts: Mapping[str, str] | None = None,
    findings: Mapping[str, Sequence[Finding]] | None = None,
    *,
    bound: Bound | None = None,
) -> dict[str, Taken]:
    """The path of each segment.

    `guards`: the guard of each segment that has one. `doubts`: why it is not known of a segment whether what shall
    cross the VM does, and is inspected there. `findings`: what counters say of segments that the VM has. `bound`: who
    is who, where that is known.
    """
    here = Here(appliance, actual, bound or bind(appliance, desired(appliance, choice_of(appliance)), actual))
    said = {name: _Said((doubts or {}).get(name, ""), (findings or {}).get(name, ())) for name in appliance.segments}
    return {
        name: _taken(segment, _Segment(here, segment, guards.get(name), said[name]))
        for name, segment in appliance.segments.items()
    }


# Warnings of what takes frames off their way, or some of them, by what it says of itself (see `obstacles`).
_IN_THE_WAY = frozenset({"rules", "traffic-control", "stacked", "station-fixed"})


def doubts_of(appliance: Appliance, warnings: Iterable[Warning]) -> dict[str, str]:
    """By segment, why nobody can say that what shall cross the VM does: something drops or diverts frames."""
    places = {f"{kind} {name}": segment for (kind, name), segment in segments_of(appliance).items()}
    found: dict[str, list[str]] = {}
    for one in warnings:
        if one.code in _IN_THE_WAY and one.severity is Severity.ERROR:
            for segment in [places[one.about]] if one.about in places else appliance.segments:
                found.setdefault(segment, []).append(one.text)
    return {segment: "; ".join(texts) for segment, texts in found.items()}


def by_guard_alone(guard: PathGuard | None) -> Taken:
    """What can be said where the network cannot be read."""
    gate = guard.gate if guard else None
    if gate not in (Gate.JOINED, Gate.CUT):
        return UNSEEN
    path = Path.BYPASSED if gate is Gate.JOINED else Path.CUT
    return Taken(path, by_guard=True, evidence=f"guard: no lease stands; {UNSEEN.evidence}")


def recall_since(kept: Mapping[str, Any]) -> dict[str, tuple[Path, int]]:
    """By segment the path that was kept, and since when it was that; what is no such thing is left out."""
    found = {}
    for name, one in kept.items():
        with contextlib.suppress(ValueError, TypeError):
            path, since_ms = one
            found[name] = Path(path), int(since_ms)
    return found


def path_json(taken: Taken) -> dict[str, Any]:
    """A segment's path as a JSON value."""
    return {
        "path": taken.path.value,
        "path_by": _by(taken.by_guard),
        "path_evidence": taken.evidence,
        "ways": [
            {
                "from": way.source,
                "to": way.target,
                "path": way.path.value,
                "by": _by(way.by_guard),
                "evidence": way.evidence,
            }
            for way in taken.ways
        ],
    }


def _by(guard: bool) -> str:
    return "guard" if guard else "switches"


# A wire has at least so many.
_ENDS = 2


def _taken(segment: Segment, at: "_Segment") -> Taken:
    ways = tuple(at.way(source, target) for source, target in itertools.permutations(segment.ports, 2))
    live = {role for role in segment.ports if not at.is_unplugged(role)}
    if len(live) < _ENDS:
        return Taken(Path.CUT, evidence="; ".join(dict.fromkeys(way.evidence for way in ways)), ways=ways)
    worst = max((way for way in ways if {way.source, way.target} <= live), key=lambda way: worse(way.path))
    return Taken(worst.path, worst.by_guard, worst.evidence, ways)


class _Said(NamedTuple):
    """What others say of a segment: see `paths`."""

    doubt: str
    findings: Sequence[Finding]


class _Segment:
    """One segment on the live host: its ports where they are, and what is between them."""

    def __init__(self, here: Here, segment: Segment, guard: PathGuard | None, said: _Said) -> None:
        self._here, self._guard, self._said = here, guard, said
        hooks = (guard.hooks if guard else None) or {}
        self._ports = {
            role: here.link("port", role) or (here.by_index.get(hooks[role].index) if role in hooks else None)
            for role in segment.ports
        }
        self._missing = {role for role, port in self._ports.items() if port is None}
        adapters = {role: here.link("adapter", role) for role in here.adapters.get(segment.name, ())}
        self._adapters = [(role, link) for role, link in adapters.items() if link is not None]
        self._lost_adapters = [role for role, link in adapters.items() if link is None]
        strangers = list(here.strangers(segment.name)) if self._missing else []
        if len(strangers) == len(self._missing) == 1:
            # The one may be the other.
            self._ports[next(iter(self._missing))] = strangers[0]

    def is_unplugged(self, role: str) -> bool:
        """Whether a port is there and all that is missing is somebody at its other end."""
        port = self._ports[role]
        return port is not None and _up(port) and not _carrier(port)

    def way(self, source: str, target: str) -> Way:
        found = self._way(source, target)
        unsure = self._missing & {source, target}
        if unsure and found.path is not Path.CUT:
            role = min(unsure)
            port = self._ports[role]
            text = f"{self._here.missing(role)}; {port.name if port else ''} may be it"
            return replace(found, path=Path.UNKNOWN, by_guard=False, evidence=text)
        return found

    def _way(self, source: str, target: str) -> Way:
        for role in (source, target):
            if why := self._dead(role):
                return Way(source, target, Path.CUT, why)
        for found in self._said.findings:
            if found.always and found.source in (None, source) and found.target in (None, target):
                return Way(source, target, found.path, found.evidence)
        one, other = self._port(source), self._port(target)
        gate = self._guard.gate if self._guard else None
        if gate in (Gate.JOINED, Gate.CUT):
            hook = self._hook(source, one)
            if hook is not None:
                return self._by_guard(source, target, hook)
            path, text = self._by_switches(one, other)
            text = f"no rule of the guard hangs at {one.name}, and {text}"
            # What the VM emits, the guard drops.
            return Way(source, target, Path.CUT if path is Path.INSPECTED else path, text)
        path, text = self._by_switches(one, other)
        if path is Path.INSPECTED and gate is Gate.UNKNOWN:
            return Way(source, target, Path.UNKNOWN, "guard: the kernel does not tell whether its leases stand")
        for found in self._said.findings if path is Path.INSPECTED else ():
            if found.source in (None, source) and found.target in (None, target):
                return Way(source, target, found.path, found.evidence)
        if path is Path.INSPECTED and self._said.doubt:
            return Way(source, target, Path.UNKNOWN, f"{text}; {self._said.doubt}")
        return Way(source, target, path, text)

    def _dead(self, role: str) -> str:
        """Why a port is no end of a wire; '' if it is."""
        port = self._ports[role]
        if port is None:
            return self._here.missing(role)
        if not _up(port):
            return f"port {role}: {port.name} is down"
        return "" if _carrier(port) else f"port {role}: {port.name} has no carrier"

    def _port(self, role: str) -> Link:
        port = self._ports[role]
        assert port is not None  # noqa: S101 - it is not dead
        return port

    def _hook(self, role: str, port: Link) -> Hook | None:
        """The guard's rules for a port, if they hang at the NIC that it is."""
        hooks = self._guard.hooks if self._guard else {}
        if hooks is None:
            # They were not looked at, and are where they ought to be.
            return Hook(index_of(port), frozenset(self._here.by_index))
        hook = hooks.get(role)
        return hook if hook is not None and hook.index == index_of(port) else None

    def _by_guard(self, source: str, target: str, hook: Hook) -> Way:
        one, other = self._port(source), self._port(target)
        if self._guard is not None and self._guard.gate is Gate.CUT:
            text = f"guard: no lease stands, and it drops what enters at {one.name} (fail closed)"
            return Way(source, target, Path.CUT, text, by_guard=True)
        if index_of(other) not in hook.out:
            text = f"guard: no lease stands, and its rules at {one.name} do not lead to {other.name}"
            return Way(source, target, Path.CUT, text, by_guard=True)
        text = f"guard: no lease stands, and it forwards {one.name} to {other.name}"
        return Way(source, target, Path.BYPASSED, text, by_guard=True)

    def _by_switches(self, one: Link, other: Link) -> tuple[Path, str]:
        for port in (one, other):
            if why := self._out_of_switch(port):
                return Path.CUT, why
        held = [port.switch or "" for port in (one, other)]
        for switch in held:
            master = self._here.actual.by_name.get(switch)
            if master is not None and master.kind is not Kind.BRIDGE:
                return Path.UNKNOWN, f"{switch} is no switch, and what it does with frames is not known"
        if held[0] == held[1]:
            if all(port.settings.get(Setting.ISOLATED) is True for port in (one, other)):
                return Path.CUT, f"switch {held[0]} keeps {one.name} and {other.name} apart (isolated)"
            return Path.BYPASSED, f"switch {held[0]} holds {one.name} and {other.name}"
        crossed = []
        for switch in held:
            adapter, why = self._served(switch)
            if adapter is None:
                return Path.CUT, why
            crossed.append(adapter)
        text = f"{one.name} → {held[0]} → {crossed[0].name} → the VM → {crossed[1].name} → {held[1]} → {other.name}"
        return Path.INSPECTED, text

    def _out_of_switch(self, link: Link) -> str:
        """Why no switch forwards for a link; '' if one does. Somebody else's may not have been looked at."""
        if link.switch is None:
            return f"{link.name} is in no switch"
        switch = self._here.actual.by_name.get(link.switch)
        if switch is None or switch.kind is not Kind.BRIDGE:
            return ""
        if not _up(switch):
            return f"switch {switch.name} is down"
        state = link.settings.get(Setting.STATE, "disabled")
        return "" if state == "forwarding" else f"switch {switch.name} does not forward for {link.name} ({state})"

    def _served(self, switch: str) -> tuple[Link | None, str]:
        """An adapter in a switch with somebody at its other end; or why there is none."""
        reasons = []
        for role, link in self._adapters:
            if link.switch != switch:
                continue
            if not _up(link):
                reasons.append(f"adapter {role}: {link.name} is down")
            elif not _carrier(link):
                reasons.append(f"adapter {role}: {link.name} has no carrier, so no VM is behind it")
            elif why := self._out_of_switch(link):
                reasons.append(why)
            else:
                return link, ""
        lost = [f"adapter {role} is not there" for role in self._lost_adapters]
        return None, "; ".join(reasons or [f"no adapter of the VM is in {switch}", *lost])


def _carrier(link: Link) -> bool:
    return link.nic is not None and link.nic.carrier


def _up(link: Link) -> bool:
    return link.settings.get(Setting.UP) is True
