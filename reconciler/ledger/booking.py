"""Where the frames of each segment went, booked by path: intervals that begin and end, and what went in them.

    a look: the path as the kernel has it, ──▶ book ──▶ the same account, further on; entries for the ledger
            and what was counted until now

Theory. Looks come often, and nothing is known but what they tell. What was counted between two of them belongs to:

    both say the guard has it, and it is one table     the guard's own counters: exact, whatever happens at the edges
    both say the same path, whoever carries it         what the NICs of its ports have sent meanwhile; what they have
                                                       received, where it is cut: exact if nothing moved while it was
                                                       read
    the path has changed, and it is one table          the guard's own counters: it counts what it takes, and no more
    else                                               what has left at the ports, less what the VM has emitted

Where none of these is sure, the figure is the least that it can be, and is marked so. Time: where the guard has the
wire, the kernel tells since when, though nobody was there; all else begins when it is first seen, and bears how long
before that it may have begun. What was open when a process ended goes on in the next one of the same boot.

The two counters, `passed` (went past the VM) and `cut`, are of one run of the machine; what intervals hold adds up to
them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from reconciler.ledger.entry import Counted, Entry, EntryKind, interval_id
from reconciler.ledger.orders import Moment

# How often an interval that goes on is told anew, if more was counted: so much a power cut can cost.
TELL_MS = 60_000
_COUNTED = (EntryKind.BYPASSED, EntryKind.CUT)
_PATHS = (*_COUNTED, EntryKind.UNKNOWN)
_SURE = {Counted.EXACT: 0, Counted.AT_LEAST: 1, Counted.NO: 2}


@dataclass(frozen=True, slots=True)
class Count:
    """Frames, and bytes."""

    frames: int = 0
    size: int = 0

    def plus(self, other: Self) -> Self:
        """Both together."""
        return replace(self, frames=self.frames + other.frames, size=self.size + other.size)

    def since(self, other: Self) -> Self:
        """What this has more than `other`; never less than nothing."""
        return replace(self, frames=max(0, self.frames - other.frames), size=max(0, self.size - other.size))

    def most(self, other: Self) -> Self:
        """The greater of both."""
        return self if (self.frames, self.size) >= (other.frames, other.size) else other


NOTHING = Count()
# No table in the kernel has this number.
NEITHER = 0


@dataclass(frozen=True, slots=True)
class ByGuard:
    """What the guard of a segment has taken from the VM, in all tables that it ever had: a figure that never falls.

    `table`: which of them stands now; None: none; `NEITHER`: one that is not counted yet. `cuts`: it drops what it
    takes.
    """

    taken: Count
    table: int | None
    cuts: bool = False


@dataclass(frozen=True, slots=True)
class OnWire:
    """What NICs have counted, since they are there. `ports`: which ones these are, by the kernel's numbers.

    `entered`, `left`: at the segment's ports. `emitted`: by its VM, through `adapters`, by their numbers. `still`:
    nothing entered while it was read beside the guard's counters.
    """

    ports: tuple[int, ...]
    entered: Count
    left: Count
    emitted: Count
    still: bool
    adapters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a segment at a moment.

    `kind`: of its path; None: inspected. `by_guard`: it is the guard's doing. `since_ms`: since when, where the kernel
    tells it, on the clock that never steps, and `within_ms`, how well that, or when it was seen, is known. `merges`:
    NICs hand over several frames as one, so the guard counts too few. The rest as in `Entry`.
    """

    kind: EntryKind | None
    by_guard: bool = False
    since_ms: int | None = None
    within_ms: int = 0
    merges: bool = False
    guard: ByGuard | None = None
    wire: OnWire | None = None
    planned: bool = False
    cause: str = ""
    evidence: tuple[str, ...] = ()
    who: str = ""
    reason: str = ""

    @property
    def _whose(self) -> tuple[object, ...]:
        return self.kind, self.planned, self.who, self.reason

    def goes_on(self, other: Self) -> bool:
        """Whether an interval that was this is still the same when it looks like `other`."""
        return self._whose == other._whose


@dataclass(frozen=True, slots=True)
class Sums:
    """What went past the VM, and what was cut, and for how long (in intervals that are over)."""

    passed: Count = NOTHING
    cut: Count = NOTHING
    bypassed_ms: int = 0
    cut_ms: int = 0

    def plus(self, kind: EntryKind, count: Count, ms: int = 0) -> Self:
        """With more of one of the two; of what is neither, nothing is added up."""
        if kind is EntryKind.BYPASSED:
            return replace(self, passed=self.passed.plus(count), bypassed_ms=self.bypassed_ms + ms)
        if kind is EntryKind.CUT:
            return replace(self, cut=self.cut.plus(count), cut_ms=self.cut_ms + ms)
        return self

    def since(self, other: Self) -> Self:
        """What this has more than `other`."""
        return replace(
            self,
            passed=self.passed.since(other.passed),
            cut=self.cut.since(other.cut),
            bypassed_ms=self.bypassed_ms - other.bypassed_ms,
            cut_ms=self.cut_ms - other.cut_ms,
        )


@dataclass(frozen=True, slots=True)
class Account:
    """What is known of a segment.

    `last`, `last_ms`: the last look at it, and when that was. `entry`: of the interval that goes on; None while it is
    inspected. `since_ms`: when that began, or the inspection; `begun_ms`: when the last of all intervals did.
    `told_ms`: when it was told last. `sums`: of all; `rest`: as they were when it was inspected last. `resumed`: nobody
    has looked since an earlier process did.
    """

    segment: str
    last: Look | None = None
    last_ms: int = 0
    since_ms: int = 0
    begun_ms: int = -1
    entry: Entry | None = None
    told_ms: int = 0
    sums: Sums = Sums()
    rest: Sums = Sums()
    resumed: bool = False

    def until(self, now_ms: int) -> Sums:
        """The sums, with the interval that goes on."""
        open_ms = max(0, now_ms - self.since_ms)
        return self.sums.plus(self.entry.kind, NOTHING, open_ms) if self.entry else self.sums

    def count(self, kind: EntryKind, count: Count, sure: Counted) -> Self:
        """So much went this way; into the interval that goes on, if it is one of that kind."""
        account = replace(self, sums=self.sums.plus(kind, count))
        entry = account.entry
        if entry is None or entry.kind is not kind:
            return account
        worse = max(entry.counted, sure, key=_SURE.__getitem__)
        frames, size = entry.frames + count.frames, entry.bytes + count.size
        return replace(account, entry=replace(entry, frames=frames, bytes=size, counted=worse))


def book(account: Account, look: Look, now: Moment) -> tuple[Account, tuple[Entry, ...]]:
    """A segment was looked at. Returns its account as it is then, and what the ledger is to have."""
    before = account.last
    if before is not None and before.kind is None:
        # Whoever is told one day that it is inspected again wants to know what was not.
        account = replace(account, rest=account.sums)
    if before is not None and before.goes_on(look):
        account, said = _goes_on(account, before, look, now)
    else:
        account, said = _changes(account, before, look, now)
    return replace(account, last=look, last_ms=now.since_boot_ms, resumed=False), said


def unended(open_ones: Iterable[Entry], accounts: Iterable[Account], alive_ms: int | None) -> tuple[Entry, ...]:
    """The ends of intervals that no process goes on with: the machine that they were on has ended, and nobody saw how.

    `alive_ms`: when a daemon was last known to run, UTC. From then on there is no evidence.
    """
    known = {one.entry.id for one in accounts if one.entry}
    return tuple(
        replace(one, to_ms=max(one.from_ms, alive_ms or 0), cause=f"{one.cause}; nobody saw its end")
        for one in open_ones
        if one.kind in _PATHS and one.id not in known
    )


def _goes_on(account: Account, before: Look, look: Look, now: Moment) -> tuple[Account, tuple[Entry, ...]]:
    if look.kind not in _COUNTED:
        # What the guard has counted, it had for a while in which nobody has looked.
        return _excursion(account, before, look, now)
    count, sure = _same_path(before, look)
    account = account.count(look.kind, count, sure)
    entry = account.entry
    if entry and count.frames and now.since_boot_ms - account.told_ms >= TELL_MS:
        return replace(account, told_ms=now.since_boot_ms), (entry,)
    return account, ()


def _excursion(account: Account, before: Look | None, look: Look, now: Moment) -> tuple[Account, tuple[Entry, ...]]:
    count, sure = _by_guard(before, look)
    if not count.frames or look.guard is None:
        return account, ()
    kind = EntryKind.CUT if look.guard.cuts else EntryKind.BYPASSED
    lasted_ms = now.since_boot_ms - account.last_ms if before else now.since_boot_ms
    begun = now.utc_ms - lasted_ms if before else now.utc_ms
    account = replace(account, begun_ms=max(now.since_boot_ms, account.begun_ms + 1))
    entry = Entry(
        kind=kind,
        id=interval_id(kind, account.segment, now.boot, account.begun_ms),
        segment=account.segment,
        from_ms=max(0, begun),
        to_ms=now.utc_ms,
        precision_ms=lasted_ms,
        cause="for a while the guard had the wire",
        evidence=("the guard's counters",),
        frames=count.frames,
        bytes=count.size,
        counted=sure,
    )
    return account.count(kind, count, sure), (entry,)


def _changes(account: Account, before: Look | None, look: Look, now: Moment) -> tuple[Account, tuple[Entry, ...]]:
    begins_ms, ends_ms, within_ms = _when(account, before, look, now)
    kind, count, sure = _on_the_way(before, look)
    said: list[Entry] = []
    if account.entry is not None and account.entry.kind is kind:
        account, count = account.count(kind, count, sure), NOTHING
    account, ended = _end(account, ends_ms, within_ms, now)
    said += ended
    account = _begin(account, look, begins_ms, within_ms, now)
    if count.frames and account.entry is not None and account.entry.kind is kind:
        account, count = account.count(kind, count, sure), NOTHING
    said += [account.entry] if account.entry else []
    if count.frames:
        account, more = _excursion(account, before, look, now)
        said += more
    return account, tuple(said)


def _end(account: Account, at_ms: int, within_ms: int, now: Moment) -> tuple[Account, tuple[Entry, ...]]:
    entry = account.entry
    if entry is None:
        return account, ()
    utc_ms = max(entry.from_ms, now.utc_ms - (now.since_boot_ms - at_ms))
    over = replace(entry, to_ms=utc_ms, precision_ms=max(entry.precision_ms, within_ms))
    sums = account.sums.plus(entry.kind, NOTHING, max(0, at_ms - account.since_ms))
    return replace(account, entry=None, sums=sums), (over,)


def _begin(account: Account, look: Look, at_ms: int, within_ms: int, now: Moment) -> Account:
    if look.kind not in _PATHS:
        return replace(account, since_ms=at_ms)
    # No two begin at the same moment: it is a part of their names.
    at_ms = max(at_ms, account.begun_ms + 1)
    account = replace(account, since_ms=at_ms, begun_ms=at_ms, told_ms=now.since_boot_ms)
    entry = Entry(
        kind=look.kind,
        id=interval_id(look.kind, account.segment, now.boot, at_ms),
        segment=account.segment,
        from_ms=max(0, now.utc_ms - (now.since_boot_ms - at_ms)),
        to_ms=None,
        precision_ms=within_ms,
        planned=look.planned,
        cause=look.cause,
        evidence=look.evidence,
        who=look.who,
        reason=look.reason,
        counted=Counted.NO if look.kind is EntryKind.UNKNOWN else Counted.EXACT,
    )
    return replace(account, entry=entry)


def _when(account: Account, before: Look | None, look: Look, now: Moment) -> tuple[int, int, int]:
    """When the new path began, when the old one ended, and to within what that is known."""
    earliest = account.last_ms if before else 0
    if look.since_ms is not None and earliest - look.within_ms <= look.since_ms <= now.since_boot_ms:
        since = max(look.since_ms, account.since_ms)
        return since, since, look.within_ms
    if before is None:
        return now.since_boot_ms, now.since_boot_ms, 0
    passed_ms = now.since_boot_ms - account.last_ms
    if account.resumed:
        # Any time since somebody looked last. What is bad news is booked for as long as it may have been so.
        begins = account.last_ms if look.kind in _PATHS else now.since_boot_ms
        return begins, begins, passed_ms
    within_ms = passed_ms if look.since_ms is not None else look.within_ms
    return now.since_boot_ms, now.since_boot_ms, min(within_ms, passed_ms)


# What was counted between two looks


def _same_path(before: Look, look: Look) -> tuple[Count, Counted]:
    guard, sure = _by_guard(before, look)
    wire = _on_the_wire(before, look)
    if before.by_guard and look.by_guard and sure is Counted.EXACT:
        if look.merges and wire is not None:
            return guard.most(wire), Counted.AT_LEAST
        return guard, Counted.AT_LEAST if look.merges else sure
    if wire is None:
        return guard, Counted.AT_LEAST
    still = before.wire is not None and before.wire.still and look.wire is not None and look.wire.still
    return wire, Counted.EXACT if still else Counted.AT_LEAST


def _on_the_way(before: Look | None, look: Look) -> tuple[EntryKind, Count, Counted]:
    """What was counted while the path, or the reason for it, has changed: which way it went, and how much it was."""
    if before is not None and before.kind is look.kind and look.kind in _COUNTED:
        return look.kind, *_same_path(before, look)
    count, sure = _by_guard(before, look)
    kind = EntryKind.CUT if look.guard and look.guard.cuts else EntryKind.BYPASSED
    by_switches = [one for one in (before, look) if one and one.kind is EntryKind.BYPASSED and not one.by_guard]
    bypassed = EntryKind.BYPASSED in (look.kind, before and before.kind)
    if by_switches or (bypassed and sure is not Counted.EXACT):
        past = _past_the_vm(before, look)
        if past is not None:
            # Of a table that was not counted before, a part may be in what the NICs have told already.
            return EntryKind.BYPASSED, past, Counted.AT_LEAST
    return kind, count, sure


def _by_guard(before: Look | None, look: Look) -> tuple[Count, Counted]:
    """What the guard has taken. Of a table that is gone, nobody may have seen the last."""
    if look.guard is None:
        return NOTHING, Counted.AT_LEAST
    first = before.guard if before and before.guard else ByGuard(NOTHING, None)
    whole = look.guard.table != NEITHER and first.table in (None, look.guard.table)
    if first.table == NEITHER != look.guard.table and before and before.kind not in _COUNTED:
        # Nothing of what that table has counted was booked before.
        whole = True
    return look.guard.taken.since(first.taken), Counted.EXACT if whole else Counted.AT_LEAST


def _on_the_wire(before: Look, look: Look) -> Count | None:
    """What has gone out at the ports, or come in where it is cut, or it is not known how often what comes in goes out.

    None: they are other NICs, or they have begun anew.
    """
    one, other = before.wire, look.wire
    if one is None or other is None or one.ports != other.ports or other.entered.frames < one.entered.frames:
        return None
    if look.kind is EntryKind.BYPASSED and other.left != NOTHING:
        return other.left.since(one.left)
    return other.entered.since(one.entered)


def _past_the_vm(before: Look | None, look: Look) -> Count | None:
    """What has gone out at the ports that the VM has not brought; None: that cannot be told.

    Adapters that are gone have taken with them what they brought since somebody looked last.
    """
    one, other = before.wire if before else None, look.wire
    if one is None or other is None or one.ports != other.ports or one.adapters != other.adapters:
        return None
    if other.left == NOTHING:
        return None
    return other.left.since(one.left).since(other.emitted.since(one.emitted))
