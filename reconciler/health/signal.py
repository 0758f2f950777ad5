"""What a signal tells: one reading after the other.

A source of evidence (`host.signals`) turns whatever it sees into readings; what a reading is worth, the verdict says
(`verdict`). Nobody else than the source knows how the evidence came in.
"""

from dataclasses import dataclass
from enum import StrEnum

# Reasons come from the VM, too. What is longer is cut, what does not print is replaced.
MAX_REASON = 200


class HealthState(StrEnum):
    """What a reading says of the VM."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # it works, less well than it should: worth a report, no reason to bypass
    FAILED = "failed"
    ABSENT = "absent"  # nothing can be said: no answer is no evidence


@dataclass(frozen=True, slots=True)
class Reading:
    """One piece of evidence.

    `signal` is the name in the file. `segment`: the one that it speaks of, None for all. `deliberate`: the failure is
    an operator's doing (a clean shutdown, a pause, a migration), and so nothing that a restart should undo.
    """

    signal: str
    state: HealthState
    reason: str
    segment: str | None = None
    deliberate: bool = False

    def __post_init__(self) -> None:
        text = self.reason
        if len(text) > MAX_REASON or not text.isprintable():
            clean = "".join(c if c.isprintable() else "?" for c in text[: MAX_REASON + 1])
            object.__setattr__(self, "reason", clean if len(clean) <= MAX_REASON else clean[:MAX_REASON] + "…")

    def __str__(self) -> str:
        where = f" ({self.segment})" if self.segment else ""
        return f"{self.signal}{where} {self.state}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Rebooted:
    """The VM reboots by itself: it will be dark for a while, and needs no restart."""

    signal: str
    reason: str


News = Reading | Rebooted
