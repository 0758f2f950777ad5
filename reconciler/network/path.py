"""Where a segment's frames really go, as the kernel has it: through the VM, past it, or nowhere.

    a port ──▶ the guard ── leased, aside, off ──▶ the switch that holds the port ──▶ an adapter there, and the VM
                  │                                            └──▶ another port there
                  └──── joined, cut

Told by what is there, and not by what is wanted. A frame that enters at one port of a segment leaves at the others, so
a segment's path is the worst that any two of its ports have.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from reconciler.appliance.declared import Appliance
from reconciler.network.bind import bind
from reconciler.network.desired import choice_of, desired
from reconciler.network.state import Link, Network, Role, Setting


class Path(StrEnum):
    """Where frames go. The worst comes last."""

    INSPECTED = "inspected"  # every frame crosses the VM
    UNKNOWN = "unknown"  # it could not be seen
    BYPASSED = "bypassed"  # past the VM
    CUT = "cut"  # nowhere


_WORST = {path: number for number, path in enumerate(Path)}


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
class Taken:
    """A segment's path, and whether it is the guard's doing, and not the switches'."""

    path: Path
    by_guard: bool = False


def paths(appliance: Appliance, actual: Network, gates: Mapping[str, Gate]) -> dict[str, Taken]:
    """The path of each segment. `gates`: the guard's, where a segment has one."""
    bound = bind(appliance, desired(appliance, choice_of(appliance)), actual).desired
    live = {link.role: actual.by_name.get(link.name) for link in bound.links if link.role}
    serving: dict[str, set[str]] = {}
    for role, segment in appliance.homes.items():
        adapter = live.get(Role("adapter", role))
        if (
            adapter is not None
            and adapter.nic is not None
            and adapter.nic.carrier
            and (place := _place(adapter, actual))
        ):
            serving.setdefault(segment, set()).add(place)
    return {
        name: _path(
            [live.get(Role("port", role)) for role in segment.ports], serving.get(name, set()), gates.get(name), actual
        )
        for name, segment in appliance.segments.items()
    }


def _path(ports: list[Link | None], serving: set[str], gate: Gate | None, actual: Network) -> Taken:
    """`serving`: the switches that hold an adapter with somebody at its other end."""
    if gate is Gate.CUT:
        return Taken(Path.CUT, by_guard=True)
    if gate is Gate.JOINED:
        # It needs nothing but the ports.
        whole = all(port is not None and _up(port) for port in ports)
        return Taken(Path.BYPASSED, by_guard=True) if whole else Taken(Path.CUT)
    places = [None if port is None else _place(port, actual) for port in ports]
    pairs = [_between(one, other, serving) for one, other in itertools.combinations(places, 2)]
    path = max(pairs, key=_WORST.__getitem__, default=Path.CUT)
    return Taken(Path.UNKNOWN if gate is Gate.UNKNOWN and path is Path.INSPECTED else path)


def _between(one: str | None, other: str | None, serving: set[str]) -> Path:
    if one is not None and one == other:
        return Path.BYPASSED
    return Path.INSPECTED if {one, other} <= serving else Path.CUT


def _place(link: Link, actual: Network) -> str | None:
    """The switch to which a link leads, if both are up; somebody else's may not have been looked at."""
    if link.switch is None or not _up(link):
        return None
    switch = actual.by_name.get(link.switch)
    return link.switch if switch is None or _up(switch) else None


def _up(link: Link) -> bool:
    return link.settings.get(Setting.UP) is True
