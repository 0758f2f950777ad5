"""What the guard's step is told, as values: what was decided, seen in the kernel, or heard of the prober."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.appliance.declared import Appliance
from reconciler.guard.effects import Effect
from reconciler.guard.orders import ProberReport
from reconciler.guard.rules import Contents, Guarded


@dataclass(frozen=True, slots=True)
class Chosen:
    """Segments shall have these topologies; of those that `failed`, what the VM still holds is not let out."""

    choice: Mapping[str, str]
    failed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Observed:
    """The network was looked at. `in_place`, `inspected`: see `SegmentGuard`."""

    bound: tuple[Guarded, ...]
    in_place: frozenset[str]
    inspected: frozenset[str]


@dataclass(frozen=True, slots=True)
class TableFound:
    """The answer to `FindTable`. `fingerprint` None: there is no such table.

    `contents`: of the segments that it knows. `handle` and `counted`: see `CountersRead`.
    """

    fingerprint: str | None = None
    contents: Mapping[str, Contents] = field(default_factory=dict)
    handle: int | None = None
    counted: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeasesFound:
    """The answer to `FindLeases`: the segments all of whose leases stand; of the others, `Contents.renewed_ms`."""

    standing: frozenset[str]
    renewed_ms: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CountersRead:
    """The answer to `Count`: the table's number in the kernel, and frames and bytes by counter."""

    handle: int | None
    counted: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Installed:
    """The table was put into the kernel. `before`: what the one that it replaced had counted at its last moment."""

    fingerprint: str | None
    before: CountersRead | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """The table was taken away; `handle` and `counted`: of its last moment."""

    handle: int | None = None
    counted: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotDone:
    """What was asked for could not be done."""

    effect: Effect
    reason: str


@dataclass(frozen=True, slots=True)
class ProberReported:
    """The prober has told something, oldest first."""

    reports: tuple[ProberReport, ...]


@dataclass(frozen=True, slots=True)
class ProberThere:
    """One was found, or started."""

    found: bool = False


@dataclass(frozen=True, slots=True)
class ProberStill:
    """None was started: one that was killed has yet to end."""


@dataclass(frozen=True, slots=True)
class ProberGone:
    """There is none any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Switched:
    """Somebody sets the guard, or takes it away until it is set again."""

    on: bool


@dataclass(frozen=True, slots=True)
class Declared:
    """The file was read again."""

    appliance: Appliance


@dataclass(frozen=True, slots=True)
class Disturbed:
    """Somebody has changed something in nf_tables."""


@dataclass(frozen=True, slots=True)
class Rebooted:
    """The VM boots: what the probes told is void, and is told again."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Chosen
    | Observed
    | TableFound
    | LeasesFound
    | CountersRead
    | Installed
    | Removed
    | NotDone
    | ProberReported
    | ProberThere
    | ProberStill
    | ProberGone
    | Switched
    | Declared
    | Disturbed
    | Rebooted
    | Tick
)
