"""What the guard's probes tell of the VM's path, by segment and direction, and the readings that follow.

The prober knows for each direction whether probes come back. Here this becomes evidence: readings for the policy, and
the proof that has to be there before a lease may stand. The silence of a direction is judged by the same time as the
kernel's lease, so that policy and guard do not contradict each other.

Old evidence is none: a reading stands while reports go on to bear it out, and for a bounded time after. Where nothing
is sent, for the table is missing, or nobody tells of it, it becomes absent, and the file says what that is worth.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from reconciler.appliance.declared import Appliance, Canary, Frame, Guard, Source
from reconciler.guard.frames import HEADER_BYTES, MIN_BYTES
from reconciler.guard.orders import DirectionReport, question_of
from reconciler.guard.rules import Guarded
from reconciler.health.signal import HealthState, Reading

# The prober reports ten times a second. One that does not for so long is hung, or gone and not yet replaced.
SILENT_MS = 1_000
# How long a direction that was never proven may take until that says something: a few probes, however slow the VM.
UNPROVEN_MS = 1_000
# A guard without a latch repairs what is over soon by itself. What lasts longer, the policy hears of.
UNLATCHED_MS = 3_000
# So many frames of a size in a row that do not come back are too large for the VM, and none that a busy one lost.
_LARGE_LOST = 5
# Something that must not come through was seen; for so many of its intervals after the last time it counts.
_NEGATIVE_INTERVALS = 3
_NO_TABLE = "the guard is not in the kernel: no probes are sent"


@dataclass(frozen=True, slots=True)
class LatestReport:
    """One direction, as it was reported last. `since_ms`: when it was reported first for these addresses.

    `counted`: by size in bytes, from how many sent frames on those count that have not come back.
    """

    reported: DirectionReport
    since_ms: int
    negative_ms: int | None = None
    counted: Mapping[int, int] = field(default_factory=dict)

    @property
    def too_large(self) -> frozenset[int]:
        """The sizes that do not come back although smaller frames do."""
        large = self.reported.large
        return frozenset(size for size, sent, _ in large if sent - self.counted.get(size, sent) >= _LARGE_LOST)


@dataclass(frozen=True, slots=True)
class Canaries:
    """What was reported of all directions, and the readings that were made of it.

    `tripped`: segments whose guard has tripped, and whose reading does not say so yet. `back_ms`: by lease, when a
    probe came back last, whatever it bore. `stands_ms`: of what was told and is not absent, when it is too old, unless
    a report bears it out again.
    """

    ways: Mapping[str, LatestReport] = field(default_factory=dict)
    reported_ms: int = 0
    readings: Mapping[tuple[str, str], Reading] = field(default_factory=dict)
    tripped: frozenset[str] = frozenset()
    back_ms: Mapping[str, int] = field(default_factory=dict)
    stands_ms: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def observe(self, reported: Iterable[DirectionReport], now: int) -> Self:
        """Take in a report."""
        # A direction that is not reported is not probed any more: what it was says nothing of what it will be.
        reported = tuple(reported)
        back = {
            one.name: now - one.age_us // 1_000 for one in reported if one.state == "back" and one.age_us is not None
        }
        ways = {one.name: self._way(one, now) for one in reported}
        return replace(self, reported_ms=now, ways=ways, back_ms={**self.back_ms, **back})

    def _way(self, one: DirectionReport, now: int) -> LatestReport:
        old = self.ways.get(one.name)
        same = old is not None and old.reported.head == one.head and not _begins(old.reported, one)
        since = old.since_ms if old and same else now
        negative = old.negative_ms if old else None
        if one.negative > (old.reported.negative if old and same else 0):
            negative = now
        return LatestReport(one, since, negative, dict(_counted(old if same else None, one)))

    def trip(self, segment: str) -> Self:
        """A segment's guard has tripped: that is a failure, even if the path is proven again a moment later."""
        return replace(self, tripped=self.tripped | {segment})

    def proven(self, one: Guarded, wanted: Mapping[str, bytes], now: int) -> bool:
        """Whether probes that begin so (by lease) come back in every direction of a segment, as of now."""
        if not wanted:
            return False
        # Of the report itself, too: who has not heard for that long knows nothing of now.
        fresh_us = one.guard.lease_ms * 1_000 // 2 - (now - self.reported_ms) * 1_000
        return all(
            (way := self.ways.get(lease)) is not None
            and way.reported.head == head
            and way.reported.state == "back"
            and way.reported.age_us is not None
            and way.reported.age_us <= fresh_us
            for lease, head in wanted.items()
        )

    def was_proven(self, one: Guarded, now: int) -> bool:
        """Whether every direction of a segment was proven a moment ago, whatever its probes bear now."""
        moment_ms = max(one.guard.lease_ms, SILENT_MS)
        return all(now - self.back_ms.get(way.lease, now - moment_ms - 1) <= moment_ms for way in one.directions)

    def news(
        self, appliance: Appliance, segments: Iterable[Guarded], now: int, *, on: bool = True, present: bool = True
    ) -> tuple[Self, tuple[Reading, ...]]:
        """The readings that are others than before.

        Where the guard is not `on`, nobody probes: nothing is known. Nor is anything sent while its table is not
        `present` in the kernel; but that should soon be over.
        """
        bound = {one.name: one for one in segments}
        readings, stands, changed = dict(self.readings), dict(self.stands_ms), []
        for signal in appliance.health.signals.values():
            for name in signal.source.segments if isinstance(signal.source, Canary) else ():
                if not on:
                    found: tuple[HealthState, str] | None = HealthState.ABSENT, "the guard is off: no probes are sent"
                elif name in bound:
                    found = self._judge(bound[name], _negative_ms(signal.source), now)
                else:
                    found = None
                if found is not None:
                    stands[signal.name, name] = now + _age_ms(appliance, name)
                elif now >= stands.get((signal.name, name), now + 1):
                    found = HealthState.ABSENT, "no probe has told anything for too long" if present else _NO_TABLE
                else:
                    continue
                reading = Reading(signal.name, *found, name)
                if reading.state is HealthState.ABSENT:
                    del stands[signal.name, name]
                if readings.get((signal.name, name)) != reading:
                    readings[signal.name, name] = reading
                    changed.append(reading)
        known = replace(self, readings=readings, stands_ms=stands, tripped=self.tripped - bound.keys())
        return known, tuple(changed)

    def sent(self, segments: Iterable[Guarded]) -> Mapping[tuple[str, str], int]:
        """How many probes of all sorts were sent out of each adapter, by segment and role, as of the last report."""
        found: dict[tuple[str, str], int] = {}
        for one in segments:
            for direction in one.directions:
                ways = (self.ways.get(name) for name in (direction.lease, question_of(direction.lease)))
                found[one.name, direction.source] = sum(way.reported.sent for way in ways if way)
        return found

    def due(self, now: int) -> int | None:
        """When what was told is too old, if nothing bears it out until then; None: nothing stands."""
        if not self.stands_ms:
            return None
        moments = [*self.stands_ms.values(), self.reported_ms + SILENT_MS + 1]
        return min((moment for moment in moments if moment > now), default=now)

    def forget(self, segment: str | None = None) -> Self:
        """What was told of a segment, or of all, is told again."""
        kept = {key: one for key, one in self.readings.items() if segment not in (None, key[1])}
        return replace(self, readings=kept)

    def _judge(self, one: Guarded, negative_every_ms: int, now: int) -> tuple[HealthState, str] | None:
        """What the probes say of a segment; None: nothing yet."""
        if one.name in self.tripped:
            return HealthState.FAILED, f"the guard tripped: a probe was missing for {one.guard.lease_ms} ms"
        if now - self.reported_ms > SILENT_MS:
            return HealthState.ABSENT, "the prober tells nothing"
        missing = [place.role for place in one.adapters if not place.index]
        if missing:
            return HealthState.FAILED, f"no probe can be sent: the adapter {', '.join(missing)} is not there"
        ways = {direction.name: self.ways.get(direction.lease) for direction in one.directions}
        let_through = _NEGATIVE_INTERVALS * negative_every_ms
        if any(way and way.negative_ms is not None and now - way.negative_ms < let_through for way in ways.values()):
            return HealthState.FAILED, "the VM lets through what it must block (negative canary)"
        lost = [name for name, way in ways.items() if way and way.reported.state == "lost" and _counts(one, way)]
        if lost:
            return HealthState.FAILED, f"probes do not come back: {', '.join(lost)}"
        patience = _patience_ms(one.guard)
        dark = [
            name
            for name, way in ways.items()
            if way and way.reported.state == "unproven" and now - way.since_ms > patience
        ]
        if dark:
            return self._never(one, dark)
        if all(way and way.reported.state == "back" for way in ways.values()):
            return _sizes(ways) or (HealthState.HEALTHY, "probes come back in every direction")
        return None

    def _never(self, one: Guarded, dark: Iterable[str]) -> tuple[HealthState, str]:
        """No probe has come back yet: is the VM dead, or does it not pass such frames?"""
        asked = [self.ways.get(question_of(direction.lease)) for direction in one.directions]
        if one.guard.probe.frame is Frame.ETHERNET and all(way and way.reported.returned for way in asked):
            return (
                HealthState.ABSENT,
                "the VM passes ARP but no probes (ethertype 0x88b5): give the guard another `probe`",
            )
        return HealthState.FAILED, f"no probe has come back yet: {', '.join(dark)}"


def _counted(old: LatestReport | None, one: DirectionReport) -> Iterator[tuple[int, int]]:
    """From how many sent frames on those of each size count: since the last came back, and while the probes do."""
    before = {known.size: known for known in old.reported.large} if old else {}
    for size, sent, returned in one.large:
        then = before.get(size)
        if one.state != "back" or (old and old.reported.state != "back"):
            yield size, sent
        elif old is None or then is None:
            # Of a prober that was found: what has never come through counts from the first on.
            yield size, sent if returned else 0
        else:
            yield size, old.counted[size] if returned == then.returned else sent


def _sizes(ways: Mapping[str, LatestReport | None]) -> tuple[HealthState, str] | None:
    """What is too large for the VM, and what is not, in bytes that a frame carries; None: nothing is."""
    found = {name: way.too_large for name, way in ways.items() if way and way.too_large}
    if not found:
        return None
    least = min(min(sizes) for sizes in found.values())
    tried = (one.size for way in ways.values() if way for one in way.reported.large)
    passes = max((size for size in tried if size < least), default=MIN_BYTES)
    lost, kept = least - HEADER_BYTES, passes - HEADER_BYTES
    text = f"frames that carry {lost} bytes do not come through, those of {kept} do: {', '.join(found)}"
    return HealthState.DEGRADED, text


def _patience_ms(guard: Guard) -> int:
    """How long a direction may be unproven until that is a failure."""
    return max(UNPROVEN_MS if guard.latch else UNLATCHED_MS, guard.lease_ms)


def _age_ms(appliance: Appliance, segment: str) -> int:
    """For how long a reading stands that no report bears out: longer than reports may leave open what is so."""
    guard = appliance.segments[segment].guard
    return SILENT_MS + (_patience_ms(guard) if guard else 0)


def _negative_ms(source: Source) -> int:
    return source.negative.every_ms if isinstance(source, Canary) and source.negative else 0


def _begins(old: DirectionReport, new: DirectionReport) -> bool:
    """Whether another prober has begun to count: a direction that was proven does not become unproven."""
    return new.state == "unproven" and old.state != new.state


def _counts(one: Guarded, way: LatestReport) -> bool:
    """Whether a direction that is lost is for the policy to hear of already."""
    return one.guard.latch or (way.reported.age_us or 0) >= UNLATCHED_MS * 1_000
