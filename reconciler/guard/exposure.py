"""For how long, and by how much, a guarded segment's wire was left to the guard: frames past the VM, or cut.

The kernel counts. Its counters belong to one table, and start at zero with the next, so what is told here adds up what
each of them said; `handle` is the kernel's number for the table (NFTA_TABLE_HANDLE), which no other ever gets.
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


@dataclass(frozen=True, slots=True)
class Exposure:
    """Times in milliseconds.

    `open_since`: since when no lease stands and nothing stands aside; None while the VM (or the switches) have the
    wire. `open_ms`: for how long that was so before. `trips`: how often the kernel was first. `total`: all that was
    counted; `told`: how much of it was told already. `seen`: what the table `handle` had counted when it was last
    looked at. `carried`: what a table that is on its way into the kernel begins with: should we die before we
    hear of its number, that much of what it has counted is booked already.
    """

    open_since: int | None = None
    open_ms: int = 0
    trips: int = 0
    total: Count = NOTHING
    told: Count = NOTHING
    seen: Count = NOTHING
    handle: int | None = None
    carried: Count = NOTHING

    def opened(self, now: int) -> Self:
        """The guard has the wire from now on, if it had it not already."""
        return self if self.open_since is not None else replace(self, open_since=now)

    def closed(self, now: int) -> Self:
        """It has it no more."""
        if self.open_since is None:
            return self
        return replace(self, open_ms=self.open_ms + now - self.open_since, open_since=None)

    def lasted(self, now: int) -> int:
        """For how long the guard had the wire, in all."""
        return self.open_ms + (now - self.open_since if self.open_since is not None else 0)

    def counted(self, now: Count, handle: int) -> Self:
        """The counters of a table as they stand. One that was not seen before, or was reset, has counted from zero."""
        before = self.seen if handle == self.handle else self.carried
        if now.frames < before.frames or now.size < before.size:
            before = NOTHING
        return replace(self, total=self.total.plus(now, before), seen=now, handle=handle)

    def told_now(self) -> tuple[Self, Count]:
        """What is new since it was told last."""
        return replace(self, told=self.total), NOTHING.plus(self.total, self.told)

    def kept(self) -> dict[str, Any]:
        """What a later process is to go on from, as a JSON value."""
        return {
            "trips": self.trips,
            "open_ms": self.open_ms,
            "open_since": self.open_since,
            "total": list(self.total),
            "told": list(self.told),
            "seen": list(self.seen),
            "handle": self.handle,
            "carried": list(self.carried),
        }

    @classmethod
    def recall(cls, kept: Mapping[str, Any]) -> Self:
        """What an earlier process has kept, on a clock that all processes of a boot share.

        Raises:
            KeyError, TypeError, ValueError: it kept no such thing.

        """
        total, told, seen, carried = (Count(*map(int, kept[name])) for name in ("total", "told", "seen", "carried"))
        since, handle = (None if kept[name] is None else int(kept[name]) for name in ("open_since", "handle"))
        return cls(since, int(kept["open_ms"]), int(kept["trips"]), total, told, seen, handle, carried)


NO_EXPOSURE = Exposure()
