"""Which live interface plays which role: resolved again at every observation, never remembered."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from reconciler.appliance.declared import Appliance, Match, Port
from reconciler.network.state import Kind, Link, Network, Nic, Role, Setting
from reconciler.warning import Severity, Warning

_NO_MAC = "00:00:00:00:00:00"  # loopback's


# Codes of the warnings by which it is not known which NIC a port is.
NOT_FOUND = frozenset({"port-missing", "port-ambiguous", "port-shared"})


class Bound(NamedTuple):
    """The desired network with the names of the live interfaces in it, less what could not be found, and why.

    `problems`: about the roles that could not be found.
    """

    desired: Network
    management: frozenset[str]
    problems: tuple[Warning, ...]


def names_of(appliance: Appliance) -> frozenset[str] | None:
    """The interface names that suffice to bind and compare `appliance`; None where it takes a look at all NICs."""
    names = {port.match.name or "" for port in appliance.ports.values() if port.match == Match(name=port.match.name)}
    if len(names) < len(appliance.ports):
        return None
    names |= {adapter.interface for adapter in appliance.adapters.values()}
    for topology in appliance.topologies.values():
        names |= {switch.name for switch in topology.switches}
    return frozenset(names)


def bind(appliance: Appliance, desired: Network, actual: Network) -> Bound:
    """Find the live interface of each desired link.

    A switch or a tap of ours that is missing stays in the result: it is to be made. A port or somebody else's adapter
    that is missing is a problem, unless it is not required.
    """
    names: dict[str, str] = {}
    problems: list[Warning] = []
    nics = _Nics(actual)
    for port in appliance.ports.values():
        found = nics.matching(port.match)
        if len(found) == 1:
            names[port.role] = found[0].name
        else:
            problems.append(_not_found(port, found, actual))
    management = frozenset(
        names[port.role] for port in appliance.ports.values() if port.management and port.role in names
    )
    problems += _claimed_twice(appliance, names)
    claimed = {problem.about for problem in problems}
    links: list[Link] = []
    for link in desired.links:
        assert link.role is not None  # noqa: S101 - every desired link has one
        if link.role.kind == "port":
            if link.role.name in names and str(link.role) not in claimed:
                links.append(_at(link, actual.by_name[names[link.role.name]]))
        elif link.role.kind == "switch" or link.kind is Kind.TAP or link.name in actual.by_name:
            links.append(link)
        elif link.required:
            right = "start the VM, or correct vm.adapters in the file"
            what = f"no interface `{link.name}`"
            problems.append(Warning("adapter-missing", Severity.ERROR, str(link.role), what, right))
    return Bound(replace(desired, links=tuple(links)), management, tuple(problems))


class _Nics:
    """The live interfaces that a port can be, to be found by any key of a match without looking at all of them."""

    def __init__(self, actual: Network) -> None:
        self._by: dict[tuple[str, str], dict[str, Link]] = {}
        for link in actual.links:
            if link.nic is None or link.kind is not Kind.OTHER:
                continue
            for key in ("pci", "mac", "driver"):
                if value := getattr(link.nic, key):
                    self._by.setdefault((key, value), {})[link.name] = link
            for name in (link.name, *link.nic.altnames):
                self._by.setdefault(("name", name), {})[link.name] = link

    def matching(self, match: Match) -> list[Link]:
        """All live interfaces for which everything that `match` gives holds."""
        given = [self._by.get((key, value), {}) for key in _KEYS if (value := getattr(match, key))]
        names = min(given, key=len).keys() if given else ()
        found = [name for name in names if all(name in others for others in given)]
        if match.index is not None and match.driver is not None:
            of_driver = sorted(self._by.get(("driver", match.driver), {}).values(), key=natural_order)
            nth = {link.name for link in of_driver[match.index : match.index + 1]}
            found = [name for name in found if name in nth]
        return [given[0][name] for name in found]


_KEYS = ("name", "mac", "pci", "driver")


def candidates(actual: Network) -> Iterator[str]:
    """One line for each NIC of the machine, with what it can be matched by."""
    physical = [link for link in actual.links if link.nic and link.nic.physical]
    # A lab has no hardware: there, every Ethernet interface is a candidate.
    for link in sorted(physical or _ethernet(actual), key=natural_order):
        nic = link.nic or Nic(0)
        keys = (("pci", nic.pci), ("mac", nic.mac), ("driver", nic.driver))
        known = ", ".join(f"{key} {value or 'none'}" for key, value in keys)
        yield f"{link.name}: {known}, {'carrier' if nic.carrier else 'no carrier'}"


def natural_order(link: Link) -> tuple[str, list[tuple[int, str]]]:
    """Sort key of NICs: by PCI address, and without one by name, eth2 before eth10."""
    natural = [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", link.name)]
    return (link.nic.pci if link.nic and link.nic.pci else "~", natural)


def _ethernet(actual: Network) -> list[Link]:
    return [
        link for link in actual.links if link.kind is Kind.OTHER and link.settings.get(Setting.MAC, _NO_MAC) != _NO_MAC
    ]


def _at(link: Link, live: Link) -> Link:
    """The desired port at its NIC; its MAC address pinned to the NIC's own, where the NIC has one."""
    permanent = live.nic.mac if live.nic else None
    settings = {**link.settings, Setting.MAC: permanent} if permanent else link.settings
    return replace(link, name=live.name, settings=settings)


def _not_found(port: Port, found: Iterable[Link], actual: Network) -> Warning:
    names = [link.name for link in found]
    nics = list(candidates(actual))
    seen = "\n    ".join(["this machine has:", *nics]) if nics else "this machine has no NIC"
    about = str(Role("port", port.role))
    if not names:
        return Warning("port-missing", Severity.ERROR, about, f"no interface matches {port.match}", seen)
    what = f"{len(names)} interfaces match {port.match}: {', '.join(names)}"
    return Warning("port-ambiguous", Severity.ERROR, about, what, seen)


def _claimed_twice(appliance: Appliance, names: dict[str, str]) -> Iterator[Warning]:
    """Roles whose matches found the same NIC: none of the data ports among them may be touched."""
    roles_of: dict[str, list[str]] = {}
    for role, name in names.items():
        roles_of.setdefault(name, []).append(role)
    for name, roles in roles_of.items():
        if len(roles) < 2:
            continue
        for role in roles:
            if not appliance.ports[role].management:
                others = ", ".join(f"port {other}" for other in roles if other != role)
                what = f"`{name}` is also what {others} matches"
                about, right = str(Role("port", role)), "make the matches in the file distinct"
                yield Warning("port-shared", Severity.ERROR, about, what, right)
