"""What the guard's step asks for, as values: what stands between kernel, prober and journal and itself.

Each is carried out at once, in the order of the step; where something comes of it, that is an event (`events`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.guard.orders import Orders
from reconciler.guard.rules import Guarded, Ruleset
from reconciler.health.signal import Reading
from reconciler.log_events import EventName, Level
from reconciler.warning import Warning


@dataclass(frozen=True, slots=True)
class Withdraw:
    """No lease can stand from now on. `drain`: what the VM still holds is let out for a while."""

    one: Guarded
    drain: bool


@dataclass(frozen=True, slots=True)
class StandAside:
    """Everything passes from now on."""

    one: Guarded


@dataclass(frozen=True, slots=True)
class Grant:
    """Leases may stand, and probes that bear the token renew them."""

    one: Guarded
    token: bytes


@dataclass(frozen=True, slots=True)
class Renew:
    """The leases' time begins again from now; for a guard whose lease the daemon renews."""

    one: Guarded


@dataclass(frozen=True, slots=True)
class Prepare:
    """Encode what may have to be said of these segments in a hurry."""

    bound: tuple[Guarded, ...]


@dataclass(frozen=True, slots=True)
class FindTable:
    """See what stands in the kernel: answered by `TableFound`."""

    bound: tuple[Guarded, ...]


@dataclass(frozen=True, slots=True)
class FindLeases:
    """See whether the leases of these segments stand: answered by `LeasesFound`."""

    bound: tuple[Guarded, ...]


@dataclass(frozen=True, slots=True)
class ReadCounters:
    """Read the counters: answered by `Counted`."""


@dataclass(frozen=True, slots=True)
class Install:
    """Put this table in place of what there is: answered by `Installed`, perhaps much later."""

    ruleset: Ruleset


@dataclass(frozen=True, slots=True)
class RemoveTable:
    """Take the table away: answered by `Removed`."""


@dataclass(frozen=True, slots=True)
class FindProber:
    """Take over the one that a predecessor left, if there is one: answered by `ProberThere` or `ProberGone`."""


@dataclass(frozen=True, slots=True)
class StartProber:
    """Answered by `ProberThere`, or by `ProberStill`."""


@dataclass(frozen=True, slots=True)
class EndProber:
    """Kill it: answered by `ProberGone`."""


@dataclass(frozen=True, slots=True)
class GiveOrders:
    """What it shall do from now on."""

    orders: Orders


@dataclass(frozen=True, slots=True)
class Consent:
    """Let it go on."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What is new for the policy."""

    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """A line for the journal."""

    event: EventName
    text: str
    level: Level = "info"
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Warn:
    """Bad news for the journal."""

    event: EventName
    warning: Warning


@dataclass(frozen=True, slots=True)
class Keep:
    """What a later process of this boot is to go on from, as a JSON value."""

    value: Any


Effect = (
    Withdraw
    | StandAside
    | Grant
    | Renew
    | Prepare
    | FindTable
    | FindLeases
    | ReadCounters
    | Install
    | RemoveTable
    | FindProber
    | StartProber
    | EndProber
    | GiveOrders
    | Consent
    | Readings
    | Tell
    | Warn
    | Keep
)
