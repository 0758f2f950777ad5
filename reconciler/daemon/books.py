"""The books: what was bypassed and cut, from looks at the path, at the guard's counters and at those of NICs.

What follows from a look says `ledger.booking`; here is when there is one, and what is read for it. Nothing that costs
is read while every segment is inspected, under a guard, and nothing has changed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from reconciler import codec
from reconciler.appliance.declared import INSPECT, Appliance
from reconciler.daemon.core import Core
from reconciler.daemon.journal import Journal
from reconciler.errors import HostError
from reconciler.guard.exposure import Exposure
from reconciler.health import policy
from reconciler.health.signal import HealthState
from reconciler.ledger.booking import NEITHER, NOTHING, Account, ByGuard, Count, Look, OnWire, Sums, book
from reconciler.ledger.entry import Entry, EntryKind
from reconciler.ledger.orders import Moment
from reconciler.network.counts import LinkCounts
from reconciler.network.diff import Difference
from reconciler.network.here import Here
from reconciler.network.path import Path, Taken
from reconciler.network.state import index_of

# How often what goes past the VM is counted; and the share of the time that counting may take.
_EACH_MS, _SHARE = 200, 20
# How often it is kept that nothing has changed; and NICs are read where no guard counts.
ALIVE_MS = 1_000
# A change of switches is news at once, but the loop may be at something else.
_LATE_MS = 50
# So often the counters are read again until nothing has moved meanwhile.
_READS = 5
# Of what a link has counted, what has moved: frames and bytes, received and sent.
_MOVED = 4
# What leaves here and was not brought by the VM is known where each frame leaves once.
_PAIR = 2
# linux/if_ether.h: at the ingress of a device, a frame's header is behind it, and not counted by nft.
_ETH_HLEN = 14
_KINDS = {Path.BYPASSED: EntryKind.BYPASSED, Path.CUT: EntryKind.CUT, Path.UNKNOWN: EntryKind.UNKNOWN}


class Nics(Protocol):
    """Who reads what NICs have counted."""

    def count(self, indexes: Iterable[int]) -> Mapping[int, LinkCounts]:
        """By the kernel's numbers; those that are not there are left out. Raises HostError."""
        ...

    def merges(self, interfaces: Iterable[str]) -> bool:
        """Whether any hands over several frames as one."""
        ...


class CountingGuard(Protocol):
    """The guard, as far as it counts."""

    def counted(self) -> tuple[int | None, Mapping[str, Exposure]]:
        """The table that stands now, and what was counted of each segment, in that one and those before it."""
        ...

    @property
    def found(self) -> bool:
        """Whether it is known what an earlier process has left in the kernel, or why that cannot be."""
        ...

    def counts(self, segment: str) -> bool:
        """Whether a segment has a guard that is set."""
        ...


class BookNotes(Protocol):
    """Where the accounts outlive the process, as long as the machine runs."""

    def write(self, value: Any) -> None:
        """Have it kept. Never blocks, and never fails."""
        ...


@dataclass(frozen=True, slots=True)
class _Members:
    """A segment's ports and adapters on the live host: names and numbers."""

    ports: tuple[str, ...]
    indexes: tuple[int, ...]
    adapters: tuple[int, ...]


class Books:
    """See the module. `ledger` takes entries; `kept` is what `notes` were given in this run of the machine, or none."""

    def __init__(
        self,
        nics: Nics,
        guard: CountingGuard | None,
        moment: Callable[[], Moment],
        journal: Journal,
        *,
        ledger: Callable[[Entry], None] = lambda _: None,
        notes: BookNotes | None = None,
        kept: Any = None,
    ) -> None:
        self._nics, self._guard, self._moment, self._journal = nics, guard, moment, journal
        self._ledger, self._notes = ledger, notes
        self.accounts = recall(kept)
        self._looked_for: tuple[Any, ...] = None, None, None
        self._looked_ms = self._next_ms = self._kept_ms = 0
        self._members_for: tuple[Any, ...] = None, None
        self._members: dict[str, _Members] = {}
        self._merging: dict[tuple[str, ...], bool] = {}

    @property
    def due_ms(self) -> int:
        """When `look` has something to do although nothing happens."""
        return min(self._next_ms, self._kept_ms + ALIVE_MS)

    def look(self, core: Core, *, now_at_all: bool = False) -> None:
        """Take in where frames go, if that has changed, or it is time; or in any case."""
        now, taken = self._moment(), core.paths.taken
        if self._guard and not self._guard.found:
            # Before, nobody knows where frames go, and since when.
            self._next_ms = self._kept_ms = now.since_boot_ms + ALIVE_MS
            return
        looked_for = taken, core.state.holds, core.appliance
        changed = any(one is not other for one, other in zip(looked_for, self._looked_for, strict=True))
        if now_at_all or changed or now.since_boot_ms >= self._next_ms:
            self._looked_for = looked_for
            self._book(core, taken, now)
            self._set_next(now)
        elif now.since_boot_ms - self._kept_ms < ALIVE_MS:
            return
        self._keep(now)

    def counted(self, segment: str, now_ms: int) -> dict[str, Any]:
        """Since the machine booted: frames and bytes that went past the VM, and those that were cut, and how long."""
        sums = self.accounts[segment].until(now_ms) if segment in self.accounts else Sums()
        return {
            "passed": {"frames": sums.passed.frames, "bytes": sums.passed.size, "ms": sums.bypassed_ms},
            "cut": {"frames": sums.cut.frames, "bytes": sums.cut.size, "ms": sums.cut_ms},
        }

    def _book(self, core: Core, taken: Mapping[str, Taken], now: Moment) -> None:
        read = self._read(core, taken)
        for name, one in taken.items():
            guard, since, wire, merges = read[name]
            look = _look(core, name, one, since)
            look = replace(look, guard=guard, wire=wire, merges=merges)
            before = self.accounts.get(name) or Account(name)
            self.accounts[name], entries = book(before, look, now)
            for entry in entries:
                self._ledger(entry)
            if before.last and before.last.kind in (EntryKind.BYPASSED, EntryKind.CUT) and look.kind is None:
                self._tell(self.accounts[name])
        for gone in self.accounts.keys() - taken.keys():
            # It may be declared again, and what was counted is still true.
            account = self.accounts[gone]
            self.accounts[gone], entries = book(
                account, Look(None, guard=account.last.guard if account.last else None), now
            )
            for entry in entries:
                self._ledger(entry)

    def _set_next(self, now: Moment) -> None:
        took_ms = self._moment().since_boot_ms - now.since_boot_ms
        open_ones = [one for one in self.accounts.values() if one.entry and one.entry.kind is not EntryKind.UNKNOWN]
        unwatched = [one for one in self.accounts if not (self._guard and self._guard.counts(one))]
        each_ms = max(_EACH_MS if open_ones else ALIVE_MS, took_ms * _SHARE)
        self._next_ms = now.since_boot_ms + each_ms if open_ones or unwatched else 1 << 62

    def _keep(self, now: Moment) -> None:
        self._kept_ms = now.since_boot_ms
        if self._notes:
            accounts = {name: codec.dump(one) for name, one in self.accounts.items()}
            self._notes.write({"boot": now.boot, "at_ms": now.since_boot_ms, "accounts": accounts})

    def _tell(self, account: Account) -> None:
        """The VM has a segment again: what was not inspected since it had it last."""
        sums = account.sums.since(account.rest)
        said = []
        if sums.bypassed_ms or sums.passed.frames or not sums.cut_ms:
            what = f"{sums.passed.frames} frames ({sums.passed.size} bytes) went past the VM"
            said.append(f"{what} in {sums.bypassed_ms / 1_000:.1f} s")
        if sums.cut_ms or sums.cut.frames:
            said.append(f"{sums.cut.frames} frames ({sums.cut.size} bytes) were cut in {sums.cut_ms / 1_000:.1f} s")
        self._journal.tell(
            "inspected",
            f"{account.segment}: inspected again; {'; '.join(said)}",
            segment=account.segment,
            frames=sums.passed.frames,
            bytes=sums.passed.size,
            cut_frames=sums.cut.frames,
            cut_bytes=sums.cut.size,
        )

    # What is read

    def _read(
        self, core: Core, taken: Mapping[str, Taken]
    ) -> dict[str, tuple[ByGuard | None, tuple[int | None, int], OnWire | None, bool]]:
        members = self._live(core.appliance, core.found)
        ports = [index for name in taken for index in members[name].indexes]
        adapters = [index for name in taken for index in members[name].adapters]
        handle: int | None = None
        exposures: Mapping[str, Exposure] = {}
        for _ in range(_READS):
            first = self._counted((*ports, *adapters))
            if self._guard:
                handle, exposures = self._guard.counted()
            second = self._counted(ports)
            if all(first.get(index, _NONE)[:_MOVED] == second.get(index, _NONE)[:_MOVED] for index in ports):
                break
        return {
            name: (
                _by_guard(core.appliance, name, exposures.get(name), handle),
                (exposures[name].open_since, exposures[name].open_within) if name in exposures else (None, 0),
                _on_wire(members[name], first, second),
                self._merges(members[name].ports),
            )
            for name in taken
        }

    def _counted(self, indexes: Iterable[int]) -> Mapping[int, LinkCounts]:
        try:
            return self._nics.count(indexes)
        except HostError:
            return {}

    def _merges(self, interfaces: tuple[str, ...]) -> bool:
        if interfaces not in self._merging:
            self._merging[interfaces] = self._nics.merges(interfaces)
        return self._merging[interfaces]

    def _live(self, appliance: Appliance, found: Difference | None) -> dict[str, _Members]:
        if self._members_for[0] is not appliance or self._members_for[1] is not found:
            self._members_for, self._merging = (appliance, found), {}
            self._members = members_of(appliance, found)
        return self._members


_NONE = LinkCounts(0, 0, 0, 0, 0, 0)


def recall(kept: Any) -> dict[str, Account]:
    """The accounts that were kept, for a process that goes on with them; none, if it is nothing of ours."""
    try:
        at_ms = int(kept["at_ms"])
        found = {str(name): codec.parse(Account, one) for name, one in kept["accounts"].items()}
    except (TypeError, ValueError, KeyError, AttributeError):
        return {}
    return {name: replace(one, last_ms=max(at_ms, one.last_ms), resumed=True) for name, one in found.items()}


def members_of(appliance: Appliance, found: Difference | None) -> dict[str, _Members]:
    """Who is who on the live host, by segments."""
    if found is None:
        return dict.fromkeys(appliance.segments, _Members((), (), ()))
    here = Here(appliance, found.actual, found.bound)
    made = {}
    for name, segment in appliance.segments.items():
        ports = [link for role in segment.ports if (link := here.link("port", role)) and link.nic]
        adapters = [link for role in here.adapters.get(name, ()) if (link := here.link("adapter", role)) and link.nic]
        made[name] = _Members(
            tuple(link.name for link in ports), tuple(map(index_of, ports)), tuple(map(index_of, adapters))
        )
    return made


def _look(core: Core, name: str, taken: Taken, since: tuple[int | None, int]) -> Look:
    """A segment's path, and why it is that, in so far as it is not inspected."""
    kind = _KINDS.get(taken.path)
    if kind is None:
        return Look(None, within_ms=_LATE_MS)
    since_ms, within_ms = since if taken.by_guard and since[0] is not None else (None, _LATE_MS)
    hold = core.state.holds.get(name)
    planned = hold is not None and hold.topology != INSPECT and core.state.choice[name] == hold.topology
    verdict = core.state.segments[name].verdict
    if planned and hold:
        cause = f"held on {hold.topology}"
    elif verdict.state is HealthState.FAILED:
        cause = "; ".join(map(str, policy.explain(core.state, name)))
    else:
        cause = taken.evidence
    return Look(
        kind,
        taken.by_guard,
        since_ms,
        within_ms,
        planned=planned,
        cause=cause,
        evidence=(taken.evidence,),
        who=hold.owner if planned and hold else "",
        reason=hold.reason if planned and hold else "",
    )


def _by_guard(appliance: Appliance, name: str, exposure: Exposure | None, handle: int | None) -> ByGuard | None:
    if exposure is None:
        return None
    guard = appliance.segments[name].guard
    # The counters of a table are booked when the last of the one before was; until then it is neither of them.
    table = handle if handle is None or handle == exposure.handle else NEITHER
    frames, size = exposure.total
    return ByGuard(Count(frames, size + _ETH_HLEN * frames), table, cuts=bool(guard and guard.closed))


def _on_wire(members: _Members, first: Mapping[int, LinkCounts], second: Mapping[int, LinkCounts]) -> OnWire | None:
    if not members.indexes or not all(index in second for index in members.indexes):
        return None
    still = all(first.get(index, _NONE)[:_MOVED] == second[index][:_MOVED] for index in members.indexes)
    ports = [second[index] for index in members.indexes]
    adapters = tuple(index for index in members.adapters if index in first)
    emitted = [first[index] for index in adapters]
    pair = len(ports) == _PAIR
    return OnWire(
        members.indexes,
        Count(sum(one.received for one in ports), sum(one.received_bytes for one in ports)),
        Count(sum(one.sent for one in ports), sum(one.sent_bytes for one in ports)) if pair else NOTHING,
        Count(sum(one.received for one in emitted), sum(one.received_bytes for one in emitted)) if pair else NOTHING,
        still,
        adapters,
    )
