"""Looking for what else may take frames off their way: traffic control, other people's rules, stations, links on links.

All of it is listed by the kernel in milliseconds, and none of it is needed to switch over: so it is looked for beside
the observations, now and then. Rules are listed again only when their generation says that there are others.
"""

import errno
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from reconciler.host.netlink import answers, requests
from reconciler.host.netlink.answers import RawLink
from reconciler.host.netlink.connection import Connection
from reconciler.host.netlink.rtnetlink import IFLA_INFO_KIND, attribute
from reconciler.host.netlink.sockets import NetlinkSocket, RefusedError
from reconciler.host.surroundings import chains, traffic
from reconciler.network.state import Kind, Network, Setting, marked_by
from reconciler.network.surroundings import EGRESS, INGRESS, QUEUE, Chain, Filter, Station, Surroundings, Upper

# Interfaces of these kinds name the one that they run over. With the modules that make them, and how links spell them.
_STACKED = {
    kind: (module, attribute(IFLA_INFO_KIND, kind.encode() + b"\0"))
    for kind, module in {
        "vlan": "8021q",
        **{name: name for name in ("macvlan", "macvtap", "ipvlan", "ipvtap", "macsec")},
    }.items()
}
_MODULES = Path("/sys/module")
_NETLINK_NETFILTER = 12
# No nf_tables in this kernel, or no privilege.
_UNREADABLE = frozenset({errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT})


class Surveyor:
    """Looks round, again and again. `decode`: a link from its message, which the observer has often decoded before."""

    def __init__(self, connection: Connection, decode: Callable[[bytes], RawLink]) -> None:
        self._connection = connection
        self._decode = decode
        self._netfilter: NetlinkSocket | None = None
        self._unknown: set[str] = set()  # kinds of interfaces that this kernel does not have
        self._known: tuple[tuple[object, ...], tuple[Chain, ...]] | None = None

    def close(self) -> None:
        """Close what was opened."""
        if self._netfilter:
            self._netfilter.close()

    def survey(self, actual: Network) -> Surroundings:
        """What there is beside the links of `actual`, which was observed just now."""
        names = {link.nic.index: link.name for link in actual.links if link.nic}
        return Surroundings(
            tuple(self._filters(names)),
            self._chains(names, bridged=bool(actual.bridge_netfilter)),
            tuple(self._stations(actual, names)),
            tuple(self._uppers(names)),
        )

    def _filters(self, names: Mapping[int, str]) -> Iterator[Filter]:
        for answer in self._connection.ask(requests.get_disciplines(), "list queueing disciplines"):
            found = traffic.discipline(*answer)
            if found is None or (name := names.get(found.interface)) is None:
                continue
            places = [(INGRESS, traffic.AT_INGRESS), (EGRESS, traffic.AT_EGRESS)]
            if not found.hooks:
                places = [(QUEUE, found.handle)]
                yield Filter(name, QUEUE, found.kind)
            elif found.kind == "ingress":
                del places[1]
            filters = [one for hook, at in places for one in self._filters_at(found.interface, name, hook, at)]
            if found.hooks and not filters:
                yield Filter(name, INGRESS, found.kind)
            yield from filters

    def _filters_at(self, interface: int, name: str, hook: str, at: int) -> Iterator[Filter]:
        try:
            answered = self._connection.ask(requests.get_filters(interface, at), "list filters")
        except RefusedError:
            return  # a discipline that takes none, or that is gone
        found = (traffic.filter_(*answer) for answer in answered)
        yield from dict.fromkeys(Filter(name, hook, one.kind, one.does) for one in found if one)

    def _chains(self, names: Mapping[int, str], *, bridged: bool) -> tuple[Chain, ...] | None:
        try:
            if self._netfilter is None:
                self._netfilter = NetlinkSocket(_NETLINK_NETFILTER, "nf_tables")
            generation = chains.generation(self._netfilter)
            # From some kernels on a chain goes by its interface's name, and renaming is no transaction.
            key = (generation, bridged, tuple(names.items()))
            if self._known is None or self._known[0] != key:
                self._known = key, chains.read(self._netfilter, bridged=bridged)
        except RefusedError as error:
            if error.errno not in _UNREADABLE:
                raise
            return None
        return self._known[1]

    def _stations(self, actual: Network, names: Mapping[int, str]) -> Iterator[Station]:
        learning = {link.switch for link in actual.links if link.settings.get(Setting.LEARNING)}
        macs = frozenset(str(link.settings.get(Setting.MAC)) for link in actual.links)
        for link in actual.links:
            ours = link.kind is Kind.BRIDGE and marked_by(link.settings.get(Setting.MARK))
            if not ours or link.name not in learning or link.nic is None:
                continue
            try:
                answered = self._connection.ask(requests.get_stations(link.nic.index), "list stations")
            except RefusedError as error:
                if error.errno != errno.ENODEV:
                    raise
                continue
            for answer in answered:
                fixed = answers.fixed(*answer)
                if fixed and fixed.interface in names and not (fixed.how == "permanent" and fixed.mac in macs):
                    yield Station(names[fixed.interface], fixed.mac, fixed.how)

    def _uppers(self, names: Mapping[int, str]) -> Iterator[Upper]:
        found: dict[str, Upper] = {}
        for kind, (module, spelt) in _STACKED.items():
            if kind in self._unknown and not (_MODULES / module).exists():
                continue  # nobody can have made one
            answered = self._connection.ask(requests.get_links(kind=kind), "list links")
            self._unknown.discard(kind)
            for data, several in itertools.groupby(answered, key=lambda answer: answer[0]):
                if spelt not in data:
                    self._unknown.add(kind)
                # Most of what was not asked for is none of these, and not worth being decoded.
                if any(one in data for _, one in _STACKED.values()):
                    for _, begin, end in several:
                        raw = self._decode(data[begin:end])
                        if raw.type in _STACKED and raw.lower in names:
                            found[raw.name] = Upper(raw.name, raw.type, names[raw.lower])
            if kind in self._unknown:
                break  # what does not know a kind does not filter by it: these were all links
        yield from found.values()
