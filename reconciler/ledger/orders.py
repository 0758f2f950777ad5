"""What people order, as entries: holds, releases, the guard taken away and set again, a file read again."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from reconciler.ledger.entry import Entry, EntryKind, interval_id


class Moment(NamedTuple):
    """Now: UTC in milliseconds since 1970; since the machine booted; and by which boot."""

    utc_ms: int
    since_boot_ms: int
    boot: str

    def entry(self, kind: EntryKind, segment: str = "") -> Entry:
        """An entry of this moment."""
        return Entry(kind=kind, segment=segment, from_ms=self.utc_ms, to_ms=self.utc_ms)

    def begun(self, kind: EntryKind, segment: str = "") -> Entry:
        """An interval that begins now."""
        made = interval_id(kind, segment, self.boot, self.since_boot_ms)
        return replace(self.entry(kind, segment), id=made, to_ms=None)


@dataclass(frozen=True, slots=True)
class Held:
    """A hold on one segment. `until`: UTC, as our JSON has it."""

    topology: str
    who: str
    reason: str
    until: str


def holds_changed(
    known: Mapping[str, Entry], holds: Mapping[str, Held], now: Moment, early: Collection[str] = ()
) -> tuple[Entry, ...]:
    """What the holds of all segments say that the entries `known`, by segments, do not.

    A hold that an earlier process wrote down goes on. `early`: segments whose holds ended before their time.
    """
    said: list[Entry] = []
    for segment, entry in known.items():
        after = holds.get(segment)
        if after is None or not _same(entry, after):
            how = "replaced by another" if after else "released" if segment in early else "its time was over"
            said.append(replace(entry, to_ms=max(now.utc_ms, entry.from_ms), cause=f"{entry.cause}; {how}"))
    for segment, hold in holds.items():
        if segment not in known or not _same(known[segment], hold):
            begun = now.begun(EntryKind.HOLD, segment)
            cause = f"held on {hold.topology}"
            until = (f"until {hold.until}",)
            said.append(replace(begun, planned=True, cause=cause, evidence=until, who=hold.who, reason=hold.reason))
    return tuple(said)


def _same(entry: Entry, hold: Held) -> bool:
    return (entry.cause, entry.who, entry.reason) == (f"held on {hold.topology}", hold.who, hold.reason)


def guard_switched(known: Iterable[Entry], now: Moment, *, on: bool, who: str = "") -> tuple[Entry, ...]:
    """The guard was set, or taken away, by somebody; '' where nobody can be named. `known`: what goes on."""
    off = [entry for entry in known if entry.kind is EntryKind.GUARD_OFF]
    if on:
        over = [replace(entry, to_ms=max(now.utc_ms, entry.from_ms)) for entry in off]
        return (*over, replace(now.entry(EntryKind.GUARD_ON), who=who, planned=True))
    if off:
        return ()
    return (replace(now.begun(EntryKind.GUARD_OFF), who=who, planned=True, cause="the guard was taken away"),)


def reloaded(segments: Iterable[str], now: Moment, who: str, before: str, after: str) -> Entry:
    """The file was read again; `before`, `after`: its digests."""
    cause = "the file has not changed" if before == after else f"the file {before[:12]} was replaced by {after[:12]}"
    return replace(now.entry(EntryKind.RELOAD), who=who, cause=cause, evidence=tuple(segments))


def begun(segments: Iterable[str], now: Moment, alive_ms: int | None, *, stopped: bool) -> tuple[Entry, ...]:
    """A daemon begins, and nobody has looked since the last one was alive (UTC); None: there was none."""
    start = replace(now.entry(EntryKind.START), evidence=tuple(segments))
    if alive_ms is None:
        return (start,)
    how = "the daemon was stopped" if stopped else "the daemon, or the machine, ended without a word"
    gap = replace(now.entry(EntryKind.NO_EVIDENCE), from_ms=min(alive_ms, now.utc_ms), cause=how)
    return gap, start
