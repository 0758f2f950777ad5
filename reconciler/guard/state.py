"""One guarded segment as it is, and for how long and by how much its wire was left uninspected."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.guard.rules import Stance
from reconciler.guard.table import Held


@dataclass(slots=True)
class Segment:
    """What is known of a guarded segment. Times in milliseconds.

    `failed`: the verdict on it, as the last choice had it. `open_since`: since when no lease stands and nothing stands
    aside; None while the VM has the wire (or the switches have). `open_ms`: for how long that was so before. `trips`:
    how often the kernel tripped it. `counted`: frames and bytes that had gone past the VM when it was granted last.
    """

    stance: Stance = Stance.TRIPPED
    held: Held = Held.NOTHING
    failed: bool = True
    draining_until: int = 0
    adopting_until: int = 0
    renewed_at: int = 0
    open_since: int | None = None
    open_ms: int = 0
    trips: int = 0
    counted: tuple[int, int] = (0, 0)

    def hold(self, held: Held, now: int) -> None:
        """The kernel's table holds this from now on."""
        self.held = held
        exposed = held in (Held.NOTHING, Held.EXPIRED)
        if exposed and self.open_since is None:
            self.open_since = now
        elif not exposed and self.open_since is not None:
            self.open_ms += now - self.open_since
            self.open_since = None

    def kept(self) -> dict[str, Any]:
        """What a later process is to go on from, as a JSON value."""
        return {
            "trips": self.trips,
            "open_ms": self.open_ms,
            "open_since": self.open_since,
            "counted": list(self.counted),
        }

    def recall(self, kept: Mapping[str, Any]) -> None:
        """Go on from what an earlier process has kept, on a clock that all processes share.

        Raises:
            KeyError, TypeError, ValueError: it kept no such thing.

        """
        self.trips, self.open_ms = int(kept["trips"]), int(kept["open_ms"])
        self.open_since = None if kept["open_since"] is None else int(kept["open_since"])
        frames, size = kept["counted"]
        self.counted = int(frames), int(size)
