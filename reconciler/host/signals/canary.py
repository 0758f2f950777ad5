"""What the guard's probes tell of the VM's path, by segment and direction, and the readings that follow.

The prober knows for each direction whether probes come back. Here this becomes evidence: readings for the policy, and
the proof that has to be there before a lease may stand. The silence of a direction is judged by the same time as the
kernel's lease, so that policy and guard do not contradict each other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.appliance.declared import Appliance, Canary, Frame
from reconciler.guard.rules import Guarded
from reconciler.health.signal import Reading, State
from reconciler.host.guard.prober_client import Heard

# The prober reports ten times a second. One that does not for so long is hung, or gone and not yet replaced.
SILENT_MS = 1_000
# How long a direction that was never proven may take until that says something: a few probes, however slow the VM.
UNPROVEN_MS = 1_000
# A guard without a latch mends what is over soon by itself. What lasts longer, the policy hears of.
UNLATCHED_MS = 3_000
# Something that must not come through was seen; for so many of its intervals after the last time it counts.
_NEGATIVE_INTERVALS = 3


@dataclass(slots=True)
class _Way:
    """One direction, as it was told last. `since_ms`: when it was told first for these addresses."""

    told: Heard
    since_ms: int
    negative_ms: int | None = None


@dataclass(slots=True)
class Canaries:
    """What was told of all directions, and what it says of each segment."""

    _ways: dict[str, _Way] = field(default_factory=dict)
    _heard_ms: int = 0
    _last: dict[tuple[str, str], Reading] = field(default_factory=dict)
    _untold: set[str] = field(default_factory=set)  # segments whose guard has tripped

    def hear(self, told: Iterable[Heard], now: int) -> None:
        """Take in a report."""
        # A direction that is not told of is not probed any more: what it was says nothing of what it will be.
        before, self._ways, self._heard_ms = self._ways, {}, now
        for one in told:
            old = before.get(one.name)
            same = old is not None and old.told.head == one.head and not _begins(old.told, one)
            since = old.since_ms if old and same else now
            negative = old.negative_ms if old else None
            if one.negative > (old.told.negative if old and same else 0):
                negative = now
            self._ways[one.name] = _Way(one, since, negative)

    def trip(self, segment: str) -> None:
        """A segment's guard has tripped: that is a failure, even if the path is proven again a moment later."""
        self._untold.add(segment)

    def proven(self, one: Guarded, addresses: Mapping[str, bytes], now: int) -> bool:
        """Whether probes with these addresses (by lease) come back in every direction of a segment, as of now."""
        if not addresses:
            return False
        # Of the report itself, too: who has not heard for that long knows nothing of now.
        fresh_us = one.guard.lease_ms * 1_000 // 2 - (now - self._heard_ms) * 1_000
        return all(
            (way := self._ways.get(lease)) is not None
            and way.told.head == wanted
            and way.told.state == "back"
            and way.told.age_us is not None
            and way.told.age_us <= fresh_us
            for lease, wanted in addresses.items()
        )

    def told(self, lease: str) -> Heard | None:
        """The last that was told of a direction."""
        way = self._ways.get(lease)
        return way.told if way else None

    def news(self, appliance: Appliance, segments: Iterable[Guarded], now: int) -> tuple[Reading, ...]:
        """The readings that are others than before."""
        changed = []
        for one in segments:
            for signal in appliance.health.signals.values():
                if not isinstance(signal.source, Canary) or one.name not in signal.source.segments:
                    continue
                every_ms = signal.source.negative.every_ms if signal.source.negative else 0
                found = self._judge(one, every_ms, now)
                if found is None:
                    continue
                reading = Reading(signal.name, *found, one.name)
                if self._last.get((signal.name, one.name)) != reading:
                    self._last[signal.name, one.name] = reading
                    changed.append(reading)
            self._untold.discard(one.name)
        return tuple(changed)

    def forget(self, segment: str | None = None) -> None:
        """What was told of a segment, or of all, is told again."""
        self._last = {key: reading for key, reading in self._last.items() if segment not in (None, key[1])}

    def _judge(self, one: Guarded, negative_every_ms: int, now: int) -> tuple[State, str] | None:
        """What the probes say of a segment; None: nothing yet."""
        if one.name in self._untold:
            return State.FAILED, f"the guard tripped: a probe was missing for {one.guard.lease_ms} ms"
        if now - self._heard_ms > SILENT_MS:
            return State.ABSENT, "the prober tells nothing"
        missing = [place.role for place in one.adapters if not place.index]
        if missing:
            return State.FAILED, f"no probe can be sent: the adapter {', '.join(missing)} is not there"
        ways = {direction.name: self._ways.get(direction.lease) for direction in one.directions}
        let_through = _NEGATIVE_INTERVALS * negative_every_ms
        if any(way and way.negative_ms is not None and now - way.negative_ms < let_through for way in ways.values()):
            return State.FAILED, "the VM lets through what it must block (negative canary)"
        lost = [name for name, way in ways.items() if way and way.told.state == "lost" and _counts(one, way)]
        if lost:
            return State.FAILED, f"probes do not come back: {', '.join(lost)}"
        patience = max(UNPROVEN_MS if one.guard.latch else UNLATCHED_MS, one.guard.lease_ms)
        dark = [
            name for name, way in ways.items() if way and way.told.state == "unproven" and now - way.since_ms > patience
        ]
        if dark:
            return self._never(one, dark)
        if all(way and way.told.state == "back" for way in ways.values()):
            return State.HEALTHY, "probes come back in every direction"
        return None

    def _never(self, one: Guarded, dark: Iterable[str]) -> tuple[State, str]:
        """No probe has come back yet: is the VM dead, or does it not pass such frames?"""
        asked = [self._ways.get(ask_of(direction.lease)) for direction in one.directions]
        if one.guard.probe.frame is Frame.ETHERNET and all(way and way.told.returned for way in asked):
            return State.ABSENT, "the VM passes ARP but no probes (ethertype 0x88b5): give the guard another `probe`"
        return State.FAILED, f"no probe has come back yet: {', '.join(dark)}"


def _begins(old: Heard, new: Heard) -> bool:
    """Whether another prober has begun to count: a direction that was proven does not become unproven."""
    return new.state == "unproven" and old.state != new.state


def _counts(one: Guarded, way: _Way) -> bool:
    """Whether a direction that is lost is for the policy to hear of already."""
    return one.guard.latch or (way.told.age_us or 0) >= UNLATCHED_MS * 1_000


def ask_of(lease: str) -> str:
    """The name under which a direction is asked whether it passes other frames than the probes."""
    return f"{lease}?"


def canary_of(appliance: Appliance, segment: str) -> Iterator[Canary]:
    """The canaries that speak of a segment."""
    for signal in appliance.health.signals.values():
        if isinstance(signal.source, Canary) and segment in signal.source.segments:
            yield signal.source
