"""One nf_tables socket: transactions in one system call, and what a table holds; and hearing that others change it."""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

from reconciler.errors import TransientError
from reconciler.host.guard import fingerprint, messages
from reconciler.host.guard.messages import NFGENMSG, Element, TableHead
from reconciler.host.netlink.sockets import EventSocket, NetlinkSocket, RefusedError

_NETLINK_NETFILTER, _NAME = 12, "nf_tables"
_NFNLGRP_NFTABLES = 7
_ATTEMPTS = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TableRead:
    """A table as the kernel listed it: by kind of request, the answers, among which those of other tables may be."""

    table: str
    fingerprint: str
    listed: Mapping[int, list[bytes]] = field(repr=False)

    @property
    def sets(self) -> frozenset[str]:
        """The names of its sets."""
        named = map(messages.set_name, self.listed[messages.NFT_MSG_GETSET])
        return frozenset(name for of, name in named if of == self.table)

    @property
    def hooks(self) -> Mapping[str, tuple[str, frozenset[int]]]:
        """By chain that hangs at an interface: that interface, and the indexes of those that its rules send out of."""
        out: dict[str, frozenset[int]] = {}
        for answer in filter(messages.may_forward, self.listed[messages.NFT_MSG_GETRULE]):
            of, chain, targets = messages.rule_targets(answer)
            if of == self.table:
                out[chain] = out.get(chain, frozenset()) | targets
        chains = map(messages.chain_device, self.listed[messages.NFT_MSG_GETCHAIN])
        return {
            name: (device, out.get(name, frozenset())) for of, name, device in chains if of == self.table and device
        }


class Netfilter:
    """An open socket to nf_tables of the network namespace that the calling thread is in. Close it.

    Every method raises `RefusedError` with the kernel's errno where the kernel refuses, and `TransientError` where
    rules came and went during each of ten attempts.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_NETLINK_NETFILTER, _NAME)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    @property
    def port(self) -> int:
        """The socket's address, by which a `NetfilterWatch` knows what was done here."""
        return self._socket.port

    def send(self, batch: bytes) -> None:
        """Have a batch of `messages.batch` carried out: wholly when this returns, or not at all when it raises.

        Raises:
            RefusedError: names the first message that failed.

        """
        failures = self._socket.send(batch, messages.describe(b"", 0))
        if failures:
            # That an answer was lost is the lesser news.
            first = min(failures, key=lambda position: (failures[position].errno == errno.ENOBUFS, position))
            raise RefusedError(messages.describe(batch, first), failures[first])

    def elements(self, table: str, set_: str) -> tuple[Element, ...]:
        """The elements of a set that are alive. ENOENT: there is no such set."""
        answers = self._ask(messages.get_elements(table, set_), f"list set {set_} of table {table}")
        return tuple(element for answer in answers for element in messages.elements(answer))

    def counters(self, table: str) -> Mapping[str, tuple[int, int]]:
        """Packets and bytes of all named counters of a table; none, if there is no such table."""
        return dict(map(messages.counter, self._ask(messages.get_counters(table), f"list counters of table {table}")))

    def generation(self) -> int:
        """The number of the namespace's rule set. A transaction raises it by one; one that changes nothing, by none.

        What frames do (`update @set`) and what expires does not raise it.
        """
        (answer,) = self._ask(messages.get_generation(), "tell the generation")
        return messages.generation(answer)

    def tables(self) -> Mapping[str, TableHead]:
        """All tables of the family netdev, by their names."""
        found = map(messages.table, self._ask(messages.get_tables(), "list tables"))
        return {table.name: table for table in found}

    def fingerprint(self, table: str) -> str | None:
        """A digest of a table's chains, rules, sets and objects: all but what traffic and time change.

        None: there is no such table. The same digest is promised for the same rules on the same running kernel only.
        Indexes of interfaces that rules forward to are part of it. Whether a chain's interface is still there is not:
        from kernel 6.16 on the chain outlives it, without an event. Links have to be watched, too.
        """
        return self._steady(lambda: self._fingerprint(table))

    def read(self, table: str) -> TableRead | None:
        """All of a table but what it holds, as of one moment. None: there is no such table."""
        return self._steady(lambda: self._read(table))

    def _steady(self, read: Callable[[], T]) -> T | None:
        """What was read while nobody changed anything; None where what was to be read is not there."""
        for _ in range(_ATTEMPTS):
            before = self.generation()
            listed: T | None
            try:
                listed = read()
            except RefusedError as error:
                if error.errno != errno.ENOENT:
                    raise
                listed = None
            if self.generation() == before:
                return listed
        raise TransientError("the rules changed under every attempt to read them; try again")

    def _fingerprint(self, table: str) -> str:
        return self._read(table).fingerprint

    def _read(self, table: str) -> TableRead:
        taken = fingerprint.Fingerprint(table)
        for answer in self._ask(messages.get_table(table), f"list table {table}"):
            taken.add(messages.NFT_MSG_GETTABLE, answer)
        listed = {kind: self._ask(messages.get_all(kind, table), f"list table {table}") for kind in fingerprint.PARTS}
        for kind, answers in listed.items():
            for answer in answers:
                taken.add(kind, answer)
                set_ = fingerprint.anonymous_set(answer) if kind == messages.NFT_MSG_GETSET else None
                if set_ is not None:
                    taken.add_elements(self._elements_as_listed(table, set_))
        return TableRead(table, taken.text(), listed)

    def _elements_as_listed(self, table: str, set_: str) -> list[bytes]:
        listed = self._ask(messages.get_elements(table, set_), f"list set {set_} of table {table}")
        return [
            element
            for answer in listed
            for _, element in messages.attributes(
                dict(messages.attributes(answer)).get(messages.NFTA_SET_ELEM_LIST_ELEMENTS, b"")
            )
        ]

    def _ask(self, request: bytes, what: str) -> list[bytes]:
        """All answers, without their nfgenmsg."""
        return [data[begin + NFGENMSG.size : end] for data, begin, end in self._socket.ask(request, what)]


class NetfilterWatch(EventSocket):
    """A socket that becomes readable when anybody changes rules or elements in the calling thread's network namespace.

    Frames that update sets, and elements that expire, are not told. Each transaction is; `own` is the port of the
    `Netfilter` whose transactions are no news, for the kernel stamps each event with the port of the socket that caused
    it.
    """

    def __init__(self, own: int = 0) -> None:
        super().__init__(_NETLINK_NETFILTER, _NAME, 1 << (_NFNLGRP_NFTABLES - 1))
        self._own = own

    def _is_news(self, datagram: bytes) -> bool:
        return not self._own or any(port != self._own for port in messages.causes(datagram))
