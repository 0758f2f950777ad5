"""Since when, and by how much, a guarded segment's wire was left to the guard: frames past the VM, or cut.

What that amounts to, with all that switches carry and cut, says `ledger.booking`.

The kernel counts. Its counters belong to one table, and start at zero with the next, so what is told here adds up what
each of them said; `handle` is the kernel's number for the table (NFTA_TABLE_HANDLE), which no other ever gets. Nothing
is carried over into a table that takes another one's place: whoever dies meanwhile, what a table says it has counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self


class Count(NamedTuple):
    """Frames, and bytes."""

    frames: int = 0
    size: int = 0

    def plus(self, more: "Count", less: "Count") -> "Count":
        """This, and what `more` has more than `less`."""
        return Count(self.frames + more.frames - less.frames, self.size + more.size - less.size)


NOTHING = Count()
# The kernel counts a lease in ticks of at most so long (HZ=100), and truncates.
TICK_MS = 10


@dataclass(frozen=True, slots=True)
class Exposure:
    """Times in milliseconds.

    `open_since`: since when no lease stands and nothing stands aside; None while the VM (or the switches) have the
    wire. `open_within`: how well that is known. `trips`: how often the kernel was first. `total`: all that was counted.
    `seen`: what the table `handle` had counted when it was last looked at.
    """

    open_since: int | None = None
    open_within: int = 0
    trips: int = 0
    total: Count = NOTHING
    seen: Count = NOTHING
    handle: int | None = None

    def opened(self, now: int, within: int = 0) -> Self:
        """The guard has the wire from now on, if it had it not already."""
        return self if self.open_since is not None else replace(self, open_since=now, open_within=within)

    def tripped(self, renewed: int, lease_ms: int, now: int, *, within: int = TICK_MS) -> Self:
        """It has it since a lease's time after it was renewed last, whatever was known before that."""
        if self.open_since is not None and self.open_since >= renewed:
            return self
        return replace(self, open_since=min(renewed + lease_ms, now), open_within=within)

    def closed(self) -> Self:
        """It has it no more."""
        return replace(self, open_since=None, open_within=0)

    def counted(self, now: Count, handle: int, *, late: bool = False) -> Self:
        """The counters of a table as they stand. One that was not seen before, or was reset, has counted from zero.

        `late`: so they stood a moment ago; perhaps more was seen since.
        """
        before = self.seen if handle == self.handle else NOTHING
        if now.frames < before.frames or now.size < before.size:
            if late:
                return self
            before = NOTHING
        return replace(self, total=self.total.plus(now, before), seen=now, handle=handle)

    def kept(self) -> dict[str, Any]:
        """What a later process is to go on from, as a JSON value."""
        return {
            "trips": self.trips,
            "open_since": self.open_since,
            "open_within": self.open_within,
            "total": list(self.total),
            "seen": list(self.seen),
            "handle": self.handle,
        }

    @classmethod
    def recall(cls, kept: Mapping[str, Any]) -> Self:
        """What an earlier process has kept, on a clock that all processes of a boot share.

        Raises:
            KeyError, TypeError, ValueError: it kept no such thing.

        """
        total, seen = (Count(*map(int, kept[name])) for name in ("total", "seen"))
        since, handle = (None if kept[name] is None else int(kept[name]) for name in ("open_since", "handle"))
        # Versions before this one did not know how well.
        within = int(kept.get("open_within", 0))
        return cls(since, within, int(kept["trips"]), total, seen, handle)


NO_EXPOSURE = Exposure()
