"""The vocabulary of the table of faults: modes, what must hold, scenes, and what was measured of one run."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from bench.faults.stage import Stage

LEASE_MS = 200
"""The default of `guard.lease`."""
SLACK_MS = 10
"""What the kernel and two cores may take beyond a lease."""


class Mode(StrEnum):
    """Who looks after the wire."""

    BOTH = "guard + daemon"
    GUARD = "guard alone"
    DAEMON = "daemon alone"
    HAND = "`ip -batch` by hand"


ALL = tuple(Mode)
GUARDED = (Mode.BOTH, Mode.GUARD)
KEPT = (Mode.BOTH, Mode.GUARD, Mode.DAEMON)


class Inside(StrEnum):
    """What forwards in the VM."""

    BRIDGE = "bridge"
    SLOW = "slow"
    SURICATA = "suricata"


@dataclass(frozen=True, slots=True)
class Setting:
    """A lab, and an appliance in it. `guard`: what the file says of it. `rate`: frames per second of each flow.

    `mtu`: of all cables, in bytes.
    """

    ports: int = 2
    segments: tuple[tuple[int, ...], ...] | None = None
    inside: Inside = Inside.BRIDGE
    guard: Mapping[str, str] = field(default_factory=dict)
    rate: int = 5_000
    mtu: int = 1_500


@dataclass(frozen=True, slots=True)
class Run:
    """One fault, as the wire saw it. Frames of all directions together, but for the outage.

    Attributes:
        detected_ms: From the last frame before the outage (from the fault, if there was none) until the daemon acted,
            by its journal. None: it did not, or there is none.
        outage_ms: The longest gap between two arrivals, in the direction where it was longer.
        repaired: Whether it lasted until somebody repaired the fault.
        lost: Frames lost in the first segment, from the fault until all is as it was.
        lost_after: Those of them that were sent after the outage had ended.
        elsewhere: Frames lost, duplicated or reordered in the other segments.
        duplicated: One too many.
        reordered: Behind a frame that was sent later.
        stale: They came out of the VM long after they went in.
        leaks: Probes on a client's wire.
        strays: What else arrived there and no client had sent.
        uninspected: What the guard let past the VM. None: there is no guard.
        trips: How often the guard tripped by itself.
        late_ms: How late the sources themselves were at worst.
    """

    detected_ms: float | None
    outage_ms: float
    repaired: bool
    lost: int
    lost_after: int
    elsewhere: int
    duplicated: int
    reordered: int
    stale: int
    leaks: int
    strays: int
    uninspected: int | None
    trips: int | None
    late_ms: float


class Bound(Protocol):
    """What must hold of all runs of a scene in one mode."""

    def __str__(self) -> str:
        """In a few words."""
        ...

    def broken(self, runs: Sequence[Run]) -> str:
        """How it does not hold; '' if it does."""
        ...


@dataclass(frozen=True, slots=True)
class Within:
    """An outage of at most so long, in every run."""

    ms: float

    def __str__(self) -> str:
        return f"≤ {self.ms:g} ms"

    def broken(self, runs: Sequence[Run]) -> str:
        """See `Bound`."""
        worst = max(run.outage_ms for run in runs)
        return f"{worst:.1f} ms" if worst > self.ms else ""


@dataclass(frozen=True, slots=True)
class Median:
    """An outage of at most so long, in the median."""

    ms: float

    def __str__(self) -> str:
        return f"median ≤ {self.ms:g} ms"

    def broken(self, runs: Sequence[Run]) -> str:
        """See `Bound`."""
        found = middle([run.outage_ms for run in runs])
        return f"{found:.1f} ms" if found > self.ms else ""


@dataclass(frozen=True, slots=True)
class Acts:
    """The daemon acts within so many milliseconds of the fault, in every run."""

    ms: float
    what: str

    def __str__(self) -> str:
        return f"{self.what} ≤ {self.ms:g} ms"

    def broken(self, runs: Sequence[Run]) -> str:
        """See `Bound`."""
        told = [run.detected_ms for run in runs]
        if None in told:
            return f"{told.count(None)} times never"
        worst = max(one for one in told if one is not None)
        return f"{worst:.0f} ms" if worst > self.ms else ""


@dataclass(frozen=True, slots=True)
class Zero:
    """These counts are 0 in every run."""

    what: str
    counts: tuple[str, ...]

    def __str__(self) -> str:
        return self.what

    def broken(self, runs: Sequence[Run]) -> str:
        """See `Bound`."""
        sums = {name: sum(getattr(run, name) or 0 for run in runs) for name in self.counts}
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sums.items() if count)


NOTHING_WRONG = Zero("nothing wrong", ("duplicated", "reordered", "stale", "leaks", "strays"))
NONE_LOST = Zero("none lost", ("lost",))
STILL_LEASED = Zero("not tripped", ("trips",))
ALL_INSPECTED = Zero("all inspected", ("uninspected",))
NOT_TRIPPED = Zero("not tripped, all inspected", ("trips", "uninspected"))
LOSSLESS = Zero("0 lost, 0 duplicated, 0 reordered", ("lost", "duplicated", "reordered", "leaks", "trips"))
ONLY_THERE = Zero("the other segment sees nothing", ("elsewhere",))

Expected = Mapping[Mode, tuple[Bound, ...]]


def hung(ms: float = LEASE_MS + SLACK_MS, *more: Bound) -> Expected:
    """What must hold when the VM forwards no more, and its links are up: the kernel joins the wire."""
    return dict.fromkeys(GUARDED, (Within(ms), NOTHING_WRONG, *more))


def tells(*more: Bound) -> Expected:
    """What must hold when the VM's death takes the carrier of its adapters: the daemon sees it at once."""
    return {**hung(LEASE_MS + SLACK_MS, *more), Mode.BOTH: (Median(SLACK_MS), NOTHING_WRONG, *more)}


def unmoved(*modes: Mode) -> Expected:
    """What must hold when a VM that forwards is left alone: nothing happens to a frame."""
    return dict.fromkeys(modes, (NONE_LOST, NOTHING_WRONG, NOT_TRIPPED))


Line = Mapping[str, Any]


def acts(line: Line) -> bool:
    """Whether a line of the journal tells that the daemon has seen to a failed VM."""
    moved = line["event"] == "decision" and str(line["what"]).startswith("inspect → ")
    return line["event"] == "tripped" or moved


@dataclass(frozen=True, slots=True)
class Scene:
    """A fault and what is expected of it.

    Attributes:
        name: What the table calls it.
        fault: Breaks something when entered, and repairs it when left.
        expected: By mode, what must hold.
        setting: Where.
        modes: Those that apply.
        lasts_s: How long it is left broken, in seconds, if entering it does not take as long as the fault does.
        most: At most so many runs, for one that takes long. None: as many as are asked for.
        afresh: So many runs on one stage, for a fault that must not be repeated there. None: all.
        told: Which line of the journal tells that the daemon acts.
        staged: What makes a stage for it. None: `stage.stage` does.
        loaded: Whether it burdens the machine, so that the sources may be late.
    """

    name: str
    fault: "Callable[[Stage], AbstractContextManager[object]]"
    expected: Expected = field(default_factory=dict)
    setting: Setting = Setting()
    modes: tuple[Mode, ...] = ALL
    lasts_s: float = 0.5
    most: int | None = None
    afresh: int | None = None
    told: Callable[[Line], bool] = acts
    staged: "Callable[[Setting, Mode], AbstractContextManager[Stage]] | None" = None
    loaded: bool = False


def middle(values: Sequence[float]) -> float:
    """The median of some values."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
