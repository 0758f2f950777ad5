"""What keeps other network managers off the appliance's interfaces: udev rules that mark them as somebody's already.

NetworkManager heeds NM_UNMANAGED and systemd-networkd ID_NET_MANAGED_BY; older releases of networkd heed the latter
with a .network file that matches it. So which interface is meant is said in one language only, and that one can say
almost all that a file's `match` can. But udev does not count the NICs of a driver, and knows no alternative names but
its own: such a port is looked up among the NICs of a machine.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from reconciler.appliance.declared import Appliance, Match
from reconciler.errors import ReconcilerError
from reconciler.network.bind import bind
from reconciler.network.desired import choice_of, desired
from reconciler.network.state import Network, Role

_END = "reconciler_end"
_MARK = 'ENV{NM_UNMANAGED}="1", ENV{ID_NET_MANAGED_BY}="reconciler"'
# In udev's patterns all others could mean something else than themselves.
_PLAIN = re.compile(r"[A-Za-z0-9_.@+:-]+")
# udev's own names of a NIC (systemd.net-naming-scheme(7)), of which the kernel keeps most as alternative names.
_UDEVS = "en"
_ALTERNATIVES = ("ID_NET_NAME_ONBOARD", "ID_NET_NAME_SLOT", "ID_NET_NAME_PATH", "ID_NET_NAME_MAC")
_IFNAMSIZ = 16
# A line of a rules file has 16 kB at most (UTIL_LINE_SIZE); an interface name 15 bytes.
_NAMES_IN_A_LINE = 20


class UnspeakableError(ReconcilerError):
    """What the file says of a port cannot be said in udev's rules; says what would be right."""


def takes_a_machine(appliance: Appliance) -> bool:
    """Whether udev cannot know a port by what the file says, so that it takes a machine's NICs to know it."""
    return any(not _plain(port.match) for port in appliance.ports.values())


def udev_rules(appliance: Appliance, actual: Network | None = None) -> str:
    """The rules for the data ports, adapters and switches of all topologies. Management ports are left to others.

    `actual`: the machine's NICs, where it `takes_a_machine`.

    Raises:
        UnspeakableError: a port cannot be told from others.

    """
    return "\n".join(_lines(appliance, _looked_up(appliance, actual))) + "\n"


def _lines(appliance: Appliance, match_of: Mapping[str, Match]) -> Iterator[str]:
    yield "# /etc/udev/rules.d/90-reconciler.rules, made by `reconcile unit --print networkmanager`: the interfaces of"
    yield f"# the appliance {appliance.sku}, which NetworkManager and systemd-networkd leave alone."
    yield f'SUBSYSTEM!="net", GOTO="{_END}"'
    yield f'ACTION=="remove", GOTO="{_END}"'
    ports = appliance.ports.values()
    for port in (port for port in ports if port.management and port.role in match_of):
        yield f"# management port {port.role}: as it was"
        yield from (f'{one}, GOTO="{_END}"' for one in _conditions(match_of[port.role]))
    for port in (port for port in ports if not port.management):
        yield f"# port {port.role}: {port.match}"
        yield from (f"{one}, {_MARK}" for one in _conditions(match_of[port.role]))
    yield "# adapters"
    yield from _named(adapter.interface for adapter in appliance.adapters.values())
    yield "# switches of all topologies"
    switches = (switch.name for topology in appliance.topologies.values() for switch in topology.switches)
    yield from _named(dict.fromkeys(switches))
    yield f'LABEL="{_END}"'


def _named(names: Iterable[str]) -> Iterator[str]:
    left = list(names)
    while left:
        some, left = left[:_NAMES_IN_A_LINE], left[_NAMES_IN_A_LINE:]
        yield f'ENV{{INTERFACE}}=="{"|".join(some)}", {_MARK}'


def _conditions(match: Match) -> Iterator[str]:
    """Of these alternatives one holds for the port's NIC, and none for another."""
    found = []
    if match.pci:
        found.append(f'KERNELS=="{match.pci}"')
    if match.mac:
        # What runs over a NIC, or holds it, often has its address.
        found.append(f'ATTR{{address}}=="{match.mac}", ENV{{DEVTYPE}}!="bond|bridge|macvlan|vlan"')
    if match.driver:
        found.append(f'ENV{{ID_NET_DRIVER}}=="{match.driver}"')
    if match.name is None:
        yield ", ".join(found)
        return
    for key in ("INTERFACE", *(_ALTERNATIVES if match.name.startswith(_UDEVS) else ())):
        yield ", ".join([*found, f'ENV{{{key}}}=="{match.name}"'])


def _plain(match: Match) -> bool:
    """Whether udev can find the NIC by this."""
    if match.name is not None:
        return bool(_PLAIN.fullmatch(match.name)) and (len(match.name) < _IFNAMSIZ or match.name.startswith(_UDEVS))
    return match.index is None or match.pci is not None or match.mac is not None


def _looked_up(appliance: Appliance, actual: Network | None) -> dict[str, Match]:
    """By what udev finds the NIC of each port: what the file says, or what that NIC is known by on this machine."""
    found = {role: port.match for role, port in appliance.ports.items() if _plain(port.match)}
    # Nobody is told anything of a management port; those that udev can find are only guarded against mistakes.
    missing = [port for role, port in appliance.ports.items() if role not in found and not port.management]
    if not missing:
        return found
    if actual is None:
        raise UnspeakableError(f"port {missing[0].role}: which NIC is {missing[0].match}, a machine must tell")
    bound = bind(appliance, desired(appliance, choice_of(appliance)), actual)
    name_of = {link.role.name: link.name for link in bound.desired.links if link.role and link.role.kind == "port"}
    for port in missing:
        if port.role not in name_of:
            what = (one.line for one in bound.problems if one.about == str(Role("port", port.role)))
            raise UnspeakableError(next(what, f"port {port.role}: not found on this machine"))
        name = name_of[port.role]
        nic = actual.by_name[name].nic
        known = Match(pci=nic.pci, mac=nic.mac) if nic and (nic.pci or nic.mac) else Match(name=name)
        if not _plain(known):
            raise UnspeakableError(f"port {port.role}: udev would take the name {name!a} for a pattern; rename it")
        found[port.role] = known
    return found
