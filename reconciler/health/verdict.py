"""What the readings add up to: healthy, failed or unknown, each with its reasons.

Two steps. A *track* follows one signal about one segment: it believes a change only after a streak (`fall`, `rise`),
and knows when silence itself is news. A *verdict* weighs the tracks of a segment: every required signal and every group
must be healthy; one that failed is enough to fail; whatever is absent leaves it unknown, unless something failed.

Silence, by kind of source:

- a heartbeat owes a beat each interval: over an open channel, each one that is missing is a failed reading;
- a signal that is asked again and again has become absent when its answers stop;
- a signal that only tells changes (`domain`, `carrier`, `canary`, `path`) may be silent for ever.

All times are milliseconds of one clock that never steps.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from reconciler.appliance.declared import (
    Canary,
    Carrier,
    Command,
    GuestPing,
    Health,
    Heartbeat,
    HostPath,
    Http,
    Signal,
    Source,
    Streak,
)
from reconciler.health.signal import HealthState, Reading

Key = tuple[str, str | None]
"""A signal, and the segment that it speaks of; None for all."""


@dataclass(frozen=True, slots=True)
class Track:
    """What one signal has told about one segment.

    `believed` is what its readings amount to. `latest` came at `observed_ms`; the streak of readings that say the same
    as it (good, bad or nothing) began at `since_ms` and is `count` long. `spoken`: it has told more than its absence.
    `deliberate`: the last thing that it told was an operator's doing; its absence does not undo that. `excused_ms`:
    until when it may fail or be silent without being believed.
    """

    believed: HealthState = HealthState.ABSENT
    latest: Reading | None = None
    observed_ms: int = 0
    since_ms: int = 0
    count: int = 0
    spoken: bool = False
    deliberate: bool = False
    excused_ms: int = 0


UNOBSERVED = Track()


def keys_of(signal: Signal, segments: tuple[str, ...]) -> tuple[Key, ...]:
    """The tracks that a signal has: one, or one for each segment where it speaks of each by itself."""
    if isinstance(signal.source, Canary | HostPath) or (isinstance(signal.source, Carrier) and signal.segment is None):
        return tuple((signal.name, segment) for segment in segments if _speaks_of(signal, segment))
    return ((signal.name, signal.segment),)


def observe(signal: Signal, track: Track, reading: Reading, now: int) -> Track:
    """The track after a reading. What it amounts to, `settle` says."""
    tells = reading.state is not HealthState.ABSENT
    goes_on = track.latest is not None and _tone(track.latest) == _tone(reading)
    goes_on = goes_on and not _interrupted(signal, track, now)
    return Track(
        track.believed,
        reading,
        now,
        track.since_ms if goes_on else now,
        track.count + 1 if goes_on else 1,
        track.spoken or tells,
        reading.deliberate if tells else track.deliberate,
    )


def settle(signal: Signal, track: Track, now: int, grace_end: int) -> Track:
    """The track at `now`: silence heard, and its belief brought up to date."""
    expires = _expires_at(signal, track)
    if expires is not None and now >= expires:
        track = observe(
            signal, track, Reading(signal.name, HealthState.ABSENT, "it is not asked any more", signal.segment), now
        )
    fails = _excused(track, _fails_at(signal, track, grace_end))
    if fails is not None and now >= fails:
        believed = HealthState.FAILED
    elif (rises := _rises_at(signal, track)) is not None and now >= rises and track.latest:
        believed = track.latest.state
    elif track.latest is None or track.latest.state is HealthState.ABSENT:
        # Until its silence counts as a failure, a signal is what it was before that failure could begin: absent.
        believed = HealthState.ABSENT if fails is None or track.believed is HealthState.ABSENT else track.believed
    else:
        believed = track.believed
    return track if believed is track.believed else replace(track, believed=believed)


def due(signal: Signal, track: Track, grace_end: int) -> int | None:
    """When `settle` may say something else although nothing was heard; None: never."""
    moments = [_expires_at(signal, track)]
    if track.believed is not HealthState.FAILED:
        moments.append(_excused(track, _fails_at(signal, track, grace_end)))
    rises = _rises_at(signal, track)
    # What was complete when it was heard is believed already, or silence has overtaken it.
    if rises is not None and rises > track.observed_ms and track.latest and track.believed is not track.latest.state:
        moments.append(rises)
    return min((moment for moment in moments if moment is not None), default=None)


def evidence(signal: Signal, track: Track, now: int) -> Reading:
    """What the belief rests on, for people."""
    latest = track.latest
    if latest is None:
        return Reading(signal.name, track.believed, "nothing reported yet", signal.segment)
    silent = _fails_at(signal, track, now) if _tone(latest) is True else None
    if track.believed is HealthState.FAILED and silent is not None and now >= silent:
        return replace(latest, state=HealthState.FAILED, reason=f"no beat for {now - track.observed_ms} ms")
    if track.believed is latest.state:
        return latest
    if _tone(latest) is True:
        wanted = f"of {signal.rise.readings}" if signal.rise.readings else f"for {now - track.since_ms} ms"
        return replace(latest, state=track.believed, reason=f"good again, {track.count} {wanted}: {latest.reason}")
    if track.believed in _GOOD:
        # One that failed, but not for as long as `fall` says, or one that is silent.
        return replace(latest, state=track.believed, reason=f"until a moment ago; now {latest.state}: {latest.reason}")
    return replace(latest, state=track.believed)


_TONES = {HealthState.HEALTHY: True, HealthState.DEGRADED: True, HealthState.FAILED: False, HealthState.ABSENT: None}
_GOOD = (HealthState.HEALTHY, HealthState.DEGRADED)
_POLLED = (GuestPing, Command, Http)


def _tone(reading: Reading) -> bool | None:
    """Whether it is good, bad (False), or nothing."""
    return _TONES[reading.state]


def _unit(source: Source) -> int:
    """How often readings come; 0 where only changes are told."""
    if isinstance(source, Heartbeat):
        return source.interval_ms
    return source.every_ms if isinstance(source, _POLLED) else 0


def _interrupted(signal: Signal, track: Track, now: int) -> bool:
    """Whether beats were missing since the latest one: what follows is a new streak."""
    return isinstance(signal.source, Heartbeat) and now - track.observed_ms > 2 * signal.source.interval_ms


def _expires_at(signal: Signal, track: Track) -> int | None:
    source = signal.source
    if not isinstance(source, _POLLED) or track.latest is None or track.latest.state is HealthState.ABSENT:
        return None
    return track.observed_ms + 2 * source.every_ms + source.timeout_ms


def _fails_at(signal: Signal, track: Track, grace_end: int) -> int | None:
    """When the signal has failed unless something is heard before; None: only a reading can make it fail."""
    if not track.spoken:
        return grace_end if signal.fails_before else None
    assert track.latest is not None  # noqa: S101 - it has spoken
    tone, unit, fall = _tone(track.latest), _unit(signal.source), signal.fall
    if tone is None:
        return _after(fall, track.since_ms, track.observed_ms, track.count, unit) if signal.fails_after else None
    beats = isinstance(signal.source, Heartbeat)
    if tone:
        return _after(fall, track.observed_ms, track.observed_ms, 0, unit) if beats else None
    if fall.readings is not None and not beats:
        return track.observed_ms if track.count >= fall.readings else None
    return _after(fall, track.since_ms, track.observed_ms, track.count, unit)


def _excused(track: Track, fails: int | None) -> int | None:
    return None if fails is None else max(fails, track.excused_ms)


def _after(streak: Streak, since: int, observed: int, count: int, unit: int) -> int:
    """When a streak is long enough that goes on by silence, one reading each `unit`."""
    if streak.readings is not None:
        return observed + max(0, streak.readings - count) * unit
    return since + (streak.ms or 0)


def _rises_at(signal: Signal, track: Track) -> int | None:
    if track.latest is None or _tone(track.latest) is not True:
        return None
    if track.believed in _GOOD:
        return track.observed_ms
    if signal.rise.readings is not None:
        return track.observed_ms if track.count >= signal.rise.readings else None
    moment = track.since_ms + (signal.rise.ms or 0)
    # Where readings come again and again, only a reading can complete a streak.
    return moment if _unit(signal.source) == 0 or track.observed_ms >= moment else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the signals of a segment add up to.

    `state` is healthy, failed or absent (unknown); `deciding` are the signals that made it so. `deliberate`: an
    operator brought the failure about.
    """

    state: HealthState
    deciding: tuple[str, ...] = ()
    deliberate: bool = False


UNKNOWN = Verdict(HealthState.ABSENT)


def judge(health: Health, tracks: Mapping[Key, Track], segment: str) -> Verdict:
    """The verdict on a segment. Tracks must be settled."""
    observed = dict(_about(health, tracks, segment))
    units: list[tuple[HealthState, tuple[str, ...]]] = [
        (track.believed, (name,))
        for name, track in observed.items()
        if health.signals[name].required and not _has_nothing_to_say(health.signals[name], track)
    ]
    for group in health.groups.values():
        members = tuple(name for name in group.signals if name in observed)
        if members:
            states = [observed[name].believed for name in members]
            units.append((_of_group(states, min(group.least, len(members))), members))
    state = _weakest([state for state, _ in units])
    deciding = tuple(name for found, names in units if state is HealthState.HEALTHY or found is state for name in names)
    deliberate = state is not HealthState.HEALTHY and any(track.deliberate for track in observed.values())
    return Verdict(state, deciding, deliberate)


def reasons(
    health: Health, tracks: Mapping[Key, Track], segment: str, verdict: Verdict, now: int
) -> tuple[Reading, ...]:
    """The readings that led to a verdict."""
    observed = dict(_about(health, tracks, segment))
    return tuple(evidence(health.signals[name], observed[name], now) for name in verdict.deciding if name in observed)


def degraded(tracks: Mapping[Key, Track]) -> tuple[Reading, ...]:
    """What works less well than it should."""
    return tuple(track.latest for track in tracks.values() if track.believed is HealthState.DEGRADED and track.latest)


def _about(health: Health, tracks: Mapping[Key, Track], segment: str) -> Iterator[tuple[str, Track]]:
    """Each signal that speaks of the segment, with its track; one that was never heard is absent, and has its say."""
    for name, signal in health.signals.items():
        if _speaks_of(signal, segment):
            yield name, tracks.get((name, segment)) or tracks.get((name, None)) or UNOBSERVED


def _speaks_of(signal: Signal, segment: str) -> bool:
    if isinstance(signal.source, Canary | HostPath):
        return segment in signal.source.segments
    return signal.segment in (None, segment)


def _has_nothing_to_say(signal: Signal, track: Track) -> bool:
    """Of one that tells losses only: where nothing can be counted, others know whether the VM is healthy."""
    return isinstance(signal.source, HostPath) and track.believed is HealthState.ABSENT


def _of_group(states: list[HealthState], least: int) -> HealthState:
    """Healthy with enough healthy members; failed when not even the absent ones could make it enough."""
    healthy = sum(state in _GOOD for state in states)
    failed = sum(state is HealthState.FAILED for state in states)
    if healthy >= least:
        return HealthState.HEALTHY
    return HealthState.FAILED if len(states) - failed < least else HealthState.ABSENT


def _weakest(states: list[HealthState]) -> HealthState:
    if HealthState.FAILED in states:
        return HealthState.FAILED
    return HealthState.ABSENT if HealthState.ABSENT in states or not states else HealthState.HEALTHY
