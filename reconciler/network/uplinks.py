"""The host's own connection to the world: what must go on working whatever we do."""

from collections.abc import Callable, Iterator

from reconciler.network.state import Link, Network, Setting


def uplinks(actual: Network, ignore: Callable[[Link], bool] = lambda _: False) -> frozenset[str]:
    """The interfaces that default routes lead to, down to the NICs below them (VLANs, bonds, bridges).

    Links for which `ignore` holds are left out, and what is below them. Where it is not known where a default route
    leads, each interface with an address or a route may be meant.
    """
    by_index = {link.nic.index: link for link in actual.links if link.nic}
    members: dict[str, list[Link]] = {}
    for link in actual.links:
        if link.switch:
            members.setdefault(link.switch, []).append(link)
    found: set[str] = set()
    pending = [actual.by_name[name] for name in actual.default_route if name in actual.by_name]
    if actual.unresolved:
        pending += [link for link in actual.links if link.settings.get(Setting.ADDRESSES) or link.name in actual.routed]
    while pending:
        link = pending.pop()
        if link.name not in found and not ignore(link):
            found.add(link.name)
            pending += _below(link, by_index, members)
    return frozenset(found)


def _below(link: Link, by_index: dict[int, Link], members: dict[str, list[Link]]) -> Iterator[Link]:
    yield from members.get(link.name, ())
    if link.nic:
        yield from (by_index[index] for index in link.nic.lower if index in by_index)
