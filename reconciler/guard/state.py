"""What the guard's step remembers: values only. It is told `events`, asks for `effects`, and what follows says `step`.

Times are milliseconds of one clock that never steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from reconciler.appliance.declared import Appliance
from reconciler.guard.canary import Canaries
from reconciler.guard.exposure import NO_EXPOSURE, Exposure
from reconciler.guard.orders import Orders, ProberReport
from reconciler.guard.rules import Contents, Guarded, Stance
from reconciler.guard.table import LeaseState


@dataclass(frozen=True, slots=True)
class SegmentGuard:
    """What is known of a guarded segment.

    `failed`: the verdict on it, as the last choice had it. `token`: what its probes bear. `in_place`: nothing is left
    to change in the network that its traffic depends on. `inspected`: its ports are where `inspect` has them.
    """

    token: bytes
    stance: Stance = Stance.TRIPPED
    held: LeaseState = LeaseState.NOTHING
    failed: bool = True
    in_place: bool = False
    inspected: bool = False
    draining_until: int = 0
    adopting_until: int = 0
    renewed_at: int = 0
    exposure: Exposure = NO_EXPOSURE


class ProberLife(Enum):
    """Where the prober is."""

    NOBODY = "nobody"
    STARTING = "starting"  # there, and has not reported yet
    REPORTING = "reporting"


@dataclass(frozen=True, slots=True)
class ProberState:
    """The process that sends probes, as far as it is known.

    `since_ms`: when it was started, or found; `patience_ms`: so long it may
    take to report first. `asked`: whether a predecessor's was looked for. `retry_ms`: before that,
    none is started. `order_ms`: before that, it is not told what to do again.
    `pause_ms`: how long the last pause between
    two starts was. `proven`: leases whose probes have come
    back since it began. `trouble`: why no probes are sent, or ''.
    """

    life: ProberLife = ProberLife.NOBODY
    asked: bool = False
    since_ms: int = 0
    patience_ms: int = 0
    reported_ms: int = 0
    consented_ms: int = 0
    retry_ms: int = 0
    pause_ms: int = 0
    ordered: Orders | None = None
    order_ms: int = 0
    proven: frozenset[str] = frozenset()
    report: ProberReport | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Putting:
    """A table that is on its way into the kernel, since `began_ms`: what it is for, and what it holds."""

    bound: tuple[Guarded, ...]
    digest: str
    contents: Mapping[str, Contents]
    live: bool
    began_ms: int = 0


@dataclass(frozen=True, slots=True)
class TableState:
    """The table in the kernel, as far as it is known.

    `digest`, `fingerprint`: of the one that was set last. `known`: whether this process has seen or set it. `present`:
    whether it stood when it was last looked at. `suspicious`: somebody has changed something in nf_tables. `made`: the
    digest for the segments of the last look. `asked`: the kernel was asked what stands, and has not answered yet.
    `trouble`: what keeps the guard from its work, or ''.
    """

    digest: str = ""
    fingerprint: str | None = None
    known: bool = False
    present: bool = False
    suspicious: bool = True
    check_ms: int = 0
    made: str = ""
    asked: bool = False
    putting: Putting | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class GuardState:
    """All that the guard remembers of one appliance.

    `secret`: what the probes' source addresses are made of, 16 bytes. `nonce`: 16 random bytes of this process, from
    which its tokens are made; `serial` counts them, so that none comes twice. `bound`: the segments that the table in
    the kernel is for; `seen`: the same at the last look at the network. `looked_ms`: when leases were looked at.
    `wanted`: what the prober shall do, made for `wanted_for`. `former`: what was counted of segments that have no guard
    any more, and may have one again. `nics`: by port, the index of the NIC that it was when it was seen last.
    """

    appliance: Appliance
    secret: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    segments: Mapping[str, SegmentGuard]
    serial: int = 0
    on: bool = True
    bound: tuple[Guarded, ...] = ()
    seen: tuple[Guarded, ...] = ()
    looked_ms: int = 0
    table: TableState = TableState()
    prober: ProberState = ProberState()
    canaries: Canaries = field(default_factory=Canaries)
    wanted: Orders | None = None
    wanted_for: tuple[object, ...] = ()
    former: Mapping[str, Exposure] = field(default_factory=dict)
    kept: Any = None
    nics: Mapping[str, int] = field(default_factory=dict)
