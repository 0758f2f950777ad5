"""The guard's table in the kernel: set whole by libnftables, and from then on spoken to in messages of our own.

What is said on the failover path is encoded when the segments are known, and sent by one system call.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from reconciler.host.guard import nftables
from reconciler.host.guard.messages import LEASE_KEY, add, batch, flush
from reconciler.host.guard.netfilter import Netfilter
from reconciler.network.guard import Contents, Guarded, Ruleset, removal, table_of


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Messages of one segment, ready to be sent. `withdraw`: at once; `drain`: what the VM holds is let out first."""

    withdraw: bytes
    drain: bytes
    stand_aside: bytes


class Table:
    """The table of the appliance `sku`, in the network namespace that the thread is in. Close it."""

    def __init__(self, sku: str) -> None:
        self._name = table_of(sku)
        self._netfilter = Netfilter()
        self._prepared: dict[str, _Prepared] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the table stays."""
        self._netfilter.close()

    def install(self, ruleset: Ruleset) -> str | None:
        """Put the whole table in place of what there is; its fingerprint.

        Raises:
            HostError: libnftables is missing, or the kernel refused.

        """
        nftables.run(ruleset.text)
        return self.fingerprint()

    def remove(self) -> None:
        """Take the table away. It may be gone already.

        Raises:
            HostError: libnftables is missing, or the kernel refused.

        """
        if self._name in self._netfilter.tables():
            nftables.run(removal(self._name))

    def fingerprint(self) -> str | None:
        """What the table's rules amount to; None: there is no such table."""
        return self._netfilter.fingerprint(self._name)

    @property
    def port(self) -> int:
        """See `Netfilter.port`."""
        return self._netfilter.port

    def counters(self) -> Mapping[str, tuple[int, int]]:
        """Frames and bytes by counter."""
        return self._netfilter.counters(self._name)

    def contents(self, one: Guarded) -> Contents:
        """What the table holds for a segment."""
        granted = self._netfilter.elements(self._name, f"{one.name}/granted")
        aside = self._netfilter.elements(self._name, f"{one.name}/aside")
        return Contents(
            granted[0].key if granted else None,
            self.stands(one),
            None if not aside else aside[0].expires_ms or 0,
        )

    def stands(self, one: Guarded) -> bool:
        """Whether all leases of a segment stand."""
        return all(self._netfilter.elements(self._name, direction.lease) for direction in one.directions)

    def prepare(self, segments: Iterable[Guarded]) -> None:
        """Encode what may have to be said in a hurry."""
        self._prepared = {one.name: self._encode(one) for one in segments}

    def _encode(self, one: Guarded) -> _Prepared:
        nothing = self._emptied(one)
        drain = [add(self._name, f"{one.name}/drain", LEASE_KEY, one.guard.drain_ms)] if one.guard.drain_ms else []
        aside = add(self._name, f"{one.name}/aside", LEASE_KEY)
        return _Prepared(batch(nothing), batch([*nothing, *drain]), batch([*nothing, aside]))

    def _emptied(self, one: Guarded) -> list[bytes]:
        leases = [flush(self._name, direction.lease) for direction in one.directions]
        rest = [flush(self._name, f"{one.name}/{name}") for name in ("granted", "aside", "drain")]
        return [*leases, *rest]

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
        given = [add(self._name, direction.lease, LEASE_KEY, one.guard.lease_ms) for direction in one.directions]
        granted = add(self._name, f"{one.name}/granted", token)
        self._netfilter.send(batch([*self._emptied(one), granted, *given]))

    def renew(self, one: Guarded) -> None:
        """Begin the leases' time anew; for a guard whose lease the daemon renews."""
        messages = []
        for direction in one.directions:
            messages += [flush(self._name, direction.lease)]
            messages += [add(self._name, direction.lease, LEASE_KEY, one.guard.lease_ms)]
        self._netfilter.send(batch(messages))
