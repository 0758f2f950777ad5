"""A first appliance file from the NICs of a machine, for a vendor to complete."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count
from types import MappingProxyType

from reconciler.network.bind import candidates, natural_order
from reconciler.network.default_route import default_route_interfaces, in_use
from reconciler.network.state import XEN_BACKEND, Kind, Link, Network, Nic, Setting, marked_by

# What a file can match by; the kernel allows more.
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_MAC = re.compile(r"(?!00(?::00){5})[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
_NAME = re.compile(r"[!#-.0-\[\]-~]{1,100}")


# What no file may say: it is for a person to fill in.
FILL_IN = "<fill in>"


def skeleton(
    actual: Network, product: str, vendor: str, *, virtual: bool = False, odd: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The text of a file that validates once each `FILL_IN` is filled in, with comments that say what to check.

    `virtual`: take virtual Ethernet interfaces for NICs, too (in a lab there are no others). `odd`: interfaces that
    carry no wire, with what they are.
    """
    own = _own(actual)
    nics_there = [link for link in actual.links if _is_nic(link, virtual)]
    every = sorted((link for link in nics_there if link.name not in odd or link.name in own), key=natural_order)
    matches = _matches(every, actual)
    nics = [link for link in every if link.name in matches]
    management = [link for link in nics if link.name in own]
    data = [link for link in nics if link.name not in own]
    ports = dict(zip(_names(len(data)), data, strict=True))
    missing = [f"change-me-{number}" for number in range(1, 3 - len(data))]
    roles = [*ports, *missing]
    free = (name for name in map("ips{}".format, count()) if name not in actual.by_name)
    return "\n".join(
        [
            *_head(product, vendor, actual),
            *(
                f"  # left out: {_comment(f'{link.name}: {odd[link.name]}')}"
                for link in nics_there
                if link not in every
            ),
            *_management(management, matches, own),
            *(line for role, link in ports.items() for line in _port(role, link, matches[link.name], actual)),
            *(line for role in missing for line in _missing(role)),
            *_segments(roles),
            *_vm(roles, free, [link.name for link in actual.links if _is_adapter(link)]),
            "topologies:",
            "  inspect: {pair: all} # a switch per data port, with the adapter of its name: traffic crosses the VM",
            "  bypass: {join: all} # a switch per segment, with all of its ports: traffic passes by the VM",
            "guard: {} # the kernel joins each wire by itself when nothing proves any more that the VM forwards",
            "",
        ]
    )


def _own(actual: Network) -> Mapping[str, str]:
    """The interfaces that the host itself uses, each with how that is known."""
    # What an appliance's switches carry is not the host's.
    ours = lambda link: link.kind is Kind.BRIDGE and marked_by(link.settings.get(Setting.MARK)) is not None  # noqa: E731
    leading = default_route_interfaces(actual, ours)
    return {**in_use(actual, ours), **dict.fromkeys(leading, "the default route leads here")}


def _is_nic(link: Link, virtual: bool) -> bool:
    if link.kind is not Kind.OTHER or link.nic is None or Setting.MAC not in link.settings or _is_adapter(link):
        return False
    return link.nic.physical or (virtual and link.name != "lo")


def _is_adapter(link: Link) -> bool:
    return link.nic is not None and link.nic.bus == XEN_BACKEND


def _names(count: int) -> list[str]:
    return ["outside", "inside"][:count] if count <= 2 else [f"port{number}" for number in range(1, count + 1)]


def _head(product: str, vendor: str, actual: Network) -> Iterator[str]:
    yield "# yaml-language-server: $schema=./appliance.schema.json"
    yield "# For your editor: reconcile schema > appliance.schema.json"
    yield "# A skeleton, from what this machine told. Check each line with a comment, then `reconcile validate` it."
    for line in candidates(actual):
        yield f"#   {_comment(line)}"
    yield "schema: reconciler/v1"
    yield "appliance:"
    said = f"; this machine says {_quoted(product)}" if product else ""
    yield f'  sku: "{FILL_IN}" # the model: names it in marks, locks and reports{said}'
    yield f"  vendor: {_quoted(vendor)}"
    yield "ports:"


def _management(links: list[Link], matches: dict[str, str], own: Mapping[str, str]) -> Iterator[str]:
    if not links:
        yield "  # No NIC has an address or a default route: say which one is for management, or it will be switched:"
        yield '  # mgmt: {match: {pci: "0000:01:00.0"}, role: management}'
    for number, link in enumerate(links):
        role = "mgmt" if len(links) == 1 else f"mgmt{number}"
        yield f"  {role}: # {_comment(f'{link.name}: {own[link.name]}')}, so this is a guess. Never touched."
        yield f"    match: {matches[link.name]}"
        yield "    role: management"


def _port(role: str, link: Link, match: str, actual: Network) -> Iterator[str]:
    nic = link.nic or Nic(0)
    master = actual.by_name.get(link.switch or "")
    foreign = link.switch and (master is None or marked_by(master.settings.get(Setting.MARK)) is None)
    held = f"in {link.switch}, which is not ours: free it, or give it take_over: true" if foreign else ""
    known = ", ".join(filter(None, (nic.driver, nic.mac, _cable(link), held)))
    yield f"  {role}: # {_comment(f'{link.name}: {known}')}"
    yield f"    match: {match}"


def _cable(link: Link) -> str:
    if link.settings.get(Setting.UP) is False:
        # Nobody looks at the cable of an interface that is down.
        return "down"
    return "carrier" if link.nic and link.nic.carrier else "no carrier"


def _missing(role: str) -> Iterator[str]:
    yield f"  {role}: # This machine has too few NICs for a wire: say here how to find the one that is meant."
    yield f"    match: {{name: {role}}}"


def _segments(roles: list[str]) -> Iterator[str]:
    if len(roles) % 2:
        yield f'segments: "{FILL_IN}" # {len(roles)} data NICs make no pairs: which are the two ends of one wire?'
        yield f"#  wire1: [{roles[0]}, {roles[1]}]"
        yield "#  Each wire is bypassed for itself; a NIC that is in none goes out of `ports` and `adapters`, too."
        return
    yield "segments: # which ports are the two ends of one wire? Each wire is bypassed for itself."
    pairs = [roles[at : at + 2] for at in range(0, len(roles), 2)]
    for number, ports in enumerate(pairs, 1):
        guess = " # a guess: neighbours by PCI address" if len(pairs) > 1 else ""
        yield f"  wire{number if len(pairs) > 1 else ''}: [{', '.join(ports)}]{guess}"


def _vm(roles: list[str], names: Iterator[str], running: list[str]) -> Iterator[str]:
    yield "vm:"
    yield "  # libvirt: {uri: qemu:///system, domain: CHANGE-ME}"
    for name in running:
        yield f"  # {_comment(name)} is an adapter of a running Xen guest. Its name changes at each start: give it one"
        yield "  # there that does not (vifname), and write that below: {interface: NAME}"
    yield "  adapters: # one per data port; `tap` is made by us, `interface` by the hypervisor"
    for role, name in zip(roles, names, strict=False):
        yield f"    {role}: {{tap: {name}}}"


def _matches(nics: list[Link], actual: Network) -> dict[str, str]:
    """How to find each NIC, by its name; without those that nothing a file can say tells from the others.

    Two NICs can share a PCI function (some cards have two ports on one) or a MAC address.
    """
    times = Counter(one for link in actual.links if link.kind is Kind.OTHER for one in _keys(link))
    own = {link.name: next((one for one in _keys(link) if times[one] == 1), None) for link in nics}
    return {name: f"{{{one[0]}: {_quoted(one[1])}}}" for name, one in own.items() if one}


def _keys(link: Link) -> Iterator[tuple[str, str]]:
    nic = link.nic or Nic(0)
    for key, value, form in (("pci", nic.pci, _PCI), ("mac", nic.mac, _MAC), ("name", link.name, _NAME)):
        if value and form.fullmatch(value):
            yield key, value


def _quoted(text: str) -> str:
    return '"' + re.sub(r'[^ -~]|["\\]', "", text)[:100] + '"'


def _comment(text: str) -> str:
    return re.sub(r"[^ -~]", "?", text)
