"""The guard's table in the kernel: set whole by libnftables, and from then on spoken to in messages of our own.

What is said on the failover path is encoded when the segments are known, and sent by one system call.
"""

import contextlib
import errno
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from reconciler.errors import HostError
from reconciler.guard.events import CountersRead, Installed, LeasesFound, Removed, TableFound
from reconciler.guard.rules import REMEMBERED_MS, Contents, Guarded, Ruleset, comment_of, table_of
from reconciler.host import clock
from reconciler.host.guard import nftables
from reconciler.host.guard.messages import LEASE_KEY, TableHead, add, batch, flush, remove_table
from reconciler.host.guard.netfilter import Netfilter
from reconciler.host.netlink.sockets import RefusedError


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is said of one segment, ready to be sent. `withdraw`: at once; `drain`: what the VM holds is let out first.

    A grant is what is `emptied` before it, the token, and the leases that are `given`.
    """

    withdraw: bytes
    drain: bytes
    stand_aside: bytes
    renew: bytes
    emptied: tuple[bytes, ...]
    given: tuple[bytes, ...]


class KernelTable:
    """The table of the appliance `sku`, in the network namespace that the thread is in. Close it."""

    def __init__(self, sku: str) -> None:
        self._name, self._comment = table_of(sku), comment_of(sku)
        self._netfilter = Netfilter()
        self._prepared: dict[str, _Prepared] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the table stays."""
        self._netfilter.close()

    def install(self, ruleset: Ruleset) -> Installed:
        """Put the whole table in place of what there is; what that has counted until then is told.

        It takes long (libnftables, and the kernel's waits for each hook), and may be called in another thread.

        Raises:
            HostError: libnftables is missing, the kernel refused, or the table of that name is not ours.

        """
        with Netfilter() as own:
            found = self._found(own)
            before = CountersRead(found.handle, own.counters(self._name)) if found else None
            nftables.run(ruleset.text)
            return Installed(own.fingerprint(self._name), before)

    def remove(self) -> Removed:
        """Take the table away, with what it had counted. It may be gone already. May be called in another thread.

        Raises:
            HostError: the kernel refused, or the table of that name is not ours.

        """
        with Netfilter() as own:
            found = self._found(own)
            if found is None:
                return Removed()
            counted = own.counters(self._name)
            try:
                own.send(batch([remove_table(found.handle)]))
            except RefusedError as error:
                # Somebody was faster.
                if error.errno != errno.ENOENT:
                    raise
            return Removed(found.handle, counted)

    def _found(self, netfilter: Netfilter) -> TableHead | None:
        """The table, if it is there.

        Raises:
            HostError: there is one of that name which is not ours.

        """
        found = netfilter.tables().get(self._name)
        if found is not None and found.comment != self._comment:
            whose = f"bears the comment {found.comment!a:.80}" if found.comment else "bears no comment of ours"
            raise HostError(f"the table netdev {self._name} was not made by us: it {whose}; rename it, or remove it")
        return found

    def find(self, bound: Iterable[Guarded]) -> TableFound:
        """What stands in the kernel, and what it holds of these segments. May be called in another thread.

        Raises:
            HostError: the kernel refused, or the table of that name is not ours.

        """
        with Netfilter() as own:
            if (found := self._found(own)) is None:
                return TableFound()
            contents = {}
            for one in bound:
                # Of another version, or of another file: this segment had no guard.
                with contextlib.suppress(RefusedError):
                    contents[one.name] = self._contents(own, one)
            return TableFound(own.fingerprint(self._name), contents, found.handle, own.counters(self._name))

    def fingerprint(self) -> str | None:
        """What the table's rules amount to; None: there is no such table."""
        return self._netfilter.fingerprint(self._name)

    @property
    def port(self) -> int:
        """See `Netfilter.port`."""
        return self._netfilter.port

    def count(self) -> CountersRead:
        """Frames and bytes by counter, and whose they are."""
        found = self._found(self._netfilter)
        return (
            CountersRead(None, {})
            if found is None
            else CountersRead(found.handle, self._netfilter.counters(self._name))
        )

    def standing(self, bound: Iterable[Guarded]) -> LeasesFound:
        """The segments all of whose leases stand; and of the others, when they were renewed last."""
        bound = tuple(bound)
        standing = frozenset(one.name for one in bound if self.stands(one))
        fallen = (one for one in bound if one.name not in standing)
        return LeasesFound(standing, {one.name: self._renewed_ms(self._netfilter, one) for one in fallen})

    def contents(self, one: Guarded) -> Contents:
        """What the table holds for a segment."""
        return self._contents(self._netfilter, one)

    def _contents(self, netfilter: Netfilter, one: Guarded) -> Contents:
        granted = netfilter.elements(self._name, f"{one.name}/granted")
        aside = netfilter.elements(self._name, f"{one.name}/aside")
        return Contents(
            granted[0].key if granted else None,
            self._stands(netfilter, one),
            None if not aside else aside[0].expires_ms or 0,
            self._renewed_ms(netfilter, one),
        )

    def _renewed_ms(self, netfilter: Netfilter, one: Guarded) -> int | None:
        # Who is told may be at something else: how long ago it is says nothing by then.
        now = clock.now_ms()
        found = [netfilter.elements(self._name, direction.renewed) for direction in one.directions]
        return min((now - REMEMBERED_MS + (each[0].expires_ms or 0) for each in found if each), default=None)

    def stands(self, one: Guarded) -> bool:
        """Whether all leases of a segment stand."""
        return self._stands(self._netfilter, one)

    def _stands(self, netfilter: Netfilter, one: Guarded) -> bool:
        return all(netfilter.elements(self._name, direction.lease) for direction in one.directions)

    def prepare(self, segments: Iterable[Guarded]) -> None:
        """Encode all that will be said of these segments but for the tokens."""
        self._prepared = {
            one.name: _encoded(
                self._name,
                one.name,
                tuple((direction.lease, direction.renewed) for direction in one.directions),
                one.guard.lease_ms,
                one.guard.drain_ms,
            )
            for one in segments
        }

    def withdraw(self, one: Guarded, *, drain: bool) -> None:
        """No lease can stand from now on. `drain`: what the VM still holds is let out for a while."""
        prepared = self._prepared[one.name]
        self._netfilter.send(prepared.drain if drain else prepared.withdraw)
        # A probe that was past its look-ups when the first message came may have renewed a lease behind it.
        self._netfilter.send(prepared.drain if drain else prepared.withdraw)

    def stand_aside(self, one: Guarded) -> None:
        """Let everything pass from now on."""
        self._netfilter.send(self._prepared[one.name].stand_aside)

    def grant(self, one: Guarded, token: bytes) -> None:
        """Let leases stand, for one lease's time, and probes that bear the token renew them."""
        prepared = self._prepared[one.name]
        granted = add(self._name, f"{one.name}/granted", token)
        self._netfilter.send(batch([*prepared.emptied, granted, *prepared.given]))

    def renew(self, one: Guarded) -> None:
        """Begin the leases' time again; for a guard whose lease the daemon renews."""
        self._netfilter.send(self._prepared[one.name].renew)


# Asked for whenever the table was looked at; and what is said depends on little.
@functools.lru_cache(maxsize=1024)
def _encoded(table: str, segment: str, leases: tuple[tuple[str, str], ...], lease_ms: int, drain_ms: int) -> _Prepared:
    flushed = [flush(table, lease) for lease, _ in leases]
    given = [add(table, lease, LEASE_KEY, lease_ms) for lease, _ in leases]
    for _, renewed in leases:
        given += [flush(table, renewed), add(table, renewed, LEASE_KEY, REMEMBERED_MS)]
    emptied = [*flushed, *(flush(table, f"{segment}/{name}") for name in ("granted", "aside", "drain"))]
    drain = [add(table, f"{segment}/drain", LEASE_KEY, drain_ms)] if drain_ms else []
    aside = add(table, f"{segment}/aside", LEASE_KEY)
    return _Prepared(
        withdraw=batch(emptied),
        drain=batch([*emptied, *drain]),
        stand_aside=batch([*emptied, aside]),
        renew=batch([*flushed, *given]),
        emptied=tuple(emptied),
        given=tuple(given),
    )
