"""The host's own connection to the world: what must go on working whatever we do."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from reconciler.network.state import Link, Network, Setting


def default_route_interfaces(actual: Network, ignore: Callable[[Link], bool] = lambda _: False) -> frozenset[str]:
    """The interfaces that default routes lead to, down to the NICs below them (VLANs, bonds, bridges).

    Links for which `ignore` holds are left out, and what is below them. Where it is not known where a default route
    leads, each interface with an address or a route may be meant.
    """
    first = [actual.by_name[name] for name in actual.default_route if name in actual.by_name]
    if actual.unresolved:
        first += [link for link in actual.links if _use(link, actual)]
    return frozenset(_Layers(actual).down(first, ignore))


def in_use(actual: Network, ignore: Callable[[Link], bool] = lambda _: False) -> Mapping[str, str]:
    """The interfaces that the host speaks over, each with how that is known: by an address or a route, on it or above.

    A link-local address of IPv6 says nothing: each interface gets one by itself. Links for which `ignore` holds are
    left out, and what is below them.
    """
    layers = _Layers(actual)
    uses = {name: use for name, link in actual.by_name.items() if (use := _use(link, actual)) and not ignore(link)}
    found = dict(uses)
    for above in sorted(uses):
        for name in layers.down([actual.by_name[above]], ignore):
            found.setdefault(name, f"carries `{above}`, which {uses[above]}")
    return found


def _use(link: Link, actual: Network) -> str:
    """What the host uses a link for by itself; '' for nothing."""
    inet = link.settings.get(Setting.ADDRESSES)
    addresses = (*(inet if isinstance(inet, tuple) else ()), *(link.nic.inet6 if link.nic else ()))
    if addresses:
        return f"has the address {addresses[0]}"
    return "has a route" if link.name in actual.routed else ""


class _Layers:
    """What stands on what: members of masters, and what VLANs and their like run over."""

    def __init__(self, actual: Network) -> None:
        self._by_index = {link.nic.index: link for link in actual.links if link.nic}
        self._members: dict[str, list[Link]] = {}
        for link in actual.links:
            if link.switch:
                self._members.setdefault(link.switch, []).append(link)

    def down(self, first: Iterable[Link], ignore: Callable[[Link], bool]) -> Iterator[str]:
        """The names of links and of all that is below them."""
        found: set[str] = set()
        pending = list(first)
        while pending:
            link = pending.pop()
            if link.name not in found and not ignore(link):
                found.add(link.name)
                yield link.name
                pending += self._members.get(link.name, ())
                lower = link.nic.lower if link.nic else ()
                pending += (self._by_index[index] for index in lower if index in self._by_index)
