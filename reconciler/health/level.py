"""An event, and the time that has passed, become the level that the policy decides by."""

from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from reconciler.appliance.declared import (
    INSPECT,
    Canary,
    Carrier,
    Command,
    Domain,
    GuestPing,
    Heartbeat,
    HostPath,
    Http,
    Source,
)
from reconciler.health import verdict
from reconciler.health.signal import HealthState, Reading, Rebooted
from reconciler.health.state import (
    Course,
    Decision,
    Declared,
    Event,
    HoldPlaced,
    HoldReleased,
    RestartEnded,
    Rules,
    Stalled,
    State,
    Tick,
    begin,
)
from reconciler.health.verdict import UNOBSERVED, Key, Track
from reconciler.log_events import Level

# A last beat says that the agent was told to stop. Where probes still come back through the VM, the agent may only be
# replaced (an upgrade): so long it may take to be back.
BACK_MS = 5_000
# So long a last beat excuses a VM that libvirt says is running: longer than a guest takes to shut down (systemd gives a
# service 90 s, DefaultTimeoutStopSec=). Then its agent was stopped, and no guest.
EXCUSE_MS = 180_000

_BAD = (HealthState.FAILED, HealthState.DEGRADED)


def absorbed(state: State, event: Event, said: list[Decision]) -> State:
    """The state after an event, before anybody has thought about it; what is to be told goes to `said`."""
    match event:
        case Reading():
            return _observed(state, event)
        case Rebooted():
            return _rebooted(state, event)
        case HoldPlaced(hold, segment):
            names = [name for name in state.segments if segment in (None, name)]
            text = f"held on {hold.topology} by {hold.owner}: {hold.reason}"
            said += [Decision(text, (), name, "info" if hold.topology == INSPECT else "warning") for name in names]
            return replace(state, holds={**state.holds, **dict.fromkeys(names, hold)})
        case HoldReleased(owner, segment):
            gone = [name for name in state.holds if segment in (None, name)]
            said += [Decision(f"hold released by {owner}", (), name) for name in gone]
            return replace(state, holds={name: hold for name, hold in state.holds.items() if name not in gone})
        case Declared(rules):
            return _declared(state, rules, said)
        case Stalled(ms):
            return _later(state, ms)
        case Tick() | RestartEnded():
            return state
        case _:
            assert_never(event)


def _later(state: State, ms: int) -> State:
    """As if those milliseconds had not been: who could not be heard was not silent, and has proven nothing either."""
    tracks = {
        key: replace(
            track,
            observed_ms=track.observed_ms + ms,
            since_ms=track.since_ms + ms,
            excused_ms=track.excused_ms + ms if track.excused_ms else 0,
        )
        for key, track in state.tracks.items()
    }
    segments = {
        name: replace(segment, since_ms=segment.since_ms + ms) if segment.course is Course.PROVING else segment
        for name, segment in state.segments.items()
    }
    vm = state.vm if state.vm.due_ms is None else replace(state.vm, due_ms=state.vm.due_ms + ms)
    grace_end_ms = state.grace_end_ms + ms if state.grace_end_ms > state.now_ms - ms else state.grace_end_ms
    return replace(state, tracks=tracks, segments=segments, vm=vm, grace_end_ms=grace_end_ms)


def answers_again(state: State, event: Event) -> bool:
    """Whether an event tells something of libvirt's, where the last that was heard of it was nothing."""
    if not isinstance(event, Reading) or event.state is HealthState.ABSENT:
        return False
    signal = state.rules.health.signals.get(event.signal)
    latest = state.tracks.get((event.signal, event.segment), UNOBSERVED).latest
    unobserved = latest is None or latest.state is HealthState.ABSENT
    return signal is not None and isinstance(signal.source, Domain) and unobserved


def _observed(state: State, reading: Reading) -> State:
    signal = state.rules.health.signals.get(reading.signal)
    key = (reading.signal, reading.segment)
    if signal is None or key not in state.rules.keys:
        # A source that is on its way out after a reload.
        return state
    old = state.tracks.get(key, UNOBSERVED)
    last_beat = reading.deliberate and isinstance(signal.source, Heartbeat)
    if last_beat and _died_before(state, old):
        # Who stops because the software died beside it, or with the VM, says so too; nobody wanted that.
        reading = replace(reading, deliberate=False)
    track = verdict.observe(signal, old, reading, state.now_ms)
    if last_beat and reading.deliberate and _proven(state, reading.segment):
        track = replace(track, excused_ms=state.now_ms + BACK_MS)
    tracks = {**state.tracks, key: track}
    if isinstance(signal.source, Domain) and reading.state is HealthState.HEALTHY and old.deliberate:
        # It was started again: what the VM said when it was shut down excuses nothing any more.
        tracks = {one: replace(track, deliberate=False) for one, track in tracks.items()}
    return replace(state, tracks=tracks)


def _died_before(state: State, beats: Track) -> bool:
    """Whether the last beat comes after evidence of a death: its software failed, or its hypervisor is gone."""
    signals = state.rules.health.signals
    others = (track for key, track in state.tracks.items() if isinstance(signals[key[0]].source, Carrier | Domain))
    return any(
        track.latest is not None and track.latest.state is HealthState.FAILED and not track.deliberate
        for track in (beats, *others)
    )


def _proven(state: State, segment: str | None) -> bool:
    """Whether probes come back through the VM wherever a signal speaks that is about `segment`, or about all."""
    signals = state.rules.health.signals
    healthy = {
        key[1]
        for key, track in state.tracks.items()
        if isinstance(source := signals[key[0]].source, Canary)
        and source.negative is None
        and track.believed is HealthState.HEALTHY
    }
    return healthy >= ({segment} if segment else set(state.segments))


def lapses_ms(state: State, key: Key) -> int | None:
    """When a last beat excuses nothing any more; None where it does not, or for as long as it likes."""
    signals = state.rules.health.signals
    track = state.tracks.get(key, UNOBSERVED)
    if not track.deliberate or not isinstance(signals[key[0]].source, Heartbeat):
        return None
    runs = any(
        isinstance(signals[name].source, Domain) and other.believed is HealthState.HEALTHY
        for (name, _), other in state.tracks.items()
    )
    return track.since_ms + EXCUSE_MS if runs else None


def _rebooted(state: State, event: Rebooted) -> State:
    """What was heard from inside the VM is void: it is dark now, whatever it said last.

    Who never said anything stays absent: nobody knows whether it ever will.
    """
    tracks = dict(state.tracks)
    for name, segment in state.rules.keys:
        signal = state.rules.health.signals[name]
        track = tracks.get((name, segment), UNOBSERVED)
        if track.spoken and isinstance(signal.source, Heartbeat | Canary | GuestPing | Command | Http):
            dark = Reading(name, HealthState.FAILED, event.reason, segment)
            observed = verdict.observe(signal, track, dark, state.now_ms)
            tracks[name, segment] = replace(observed, believed=HealthState.FAILED)
    return replace(state, tracks=tracks)


def _declared(state: State, rules: Rules, said: list[Decision]) -> State:
    """What the new rules do not know is forgotten; new segments begin as at a first start."""
    old, signals = state.rules.health.signals, rules.health.signals
    new = begin(rules, dict.fromkeys(rules.segments), state.now_ms)
    # What another source told under the same name says nothing: its silence would be judged by the new one's measure.
    keys = {key for key in rules.keys if key[0] in old and _same(old[key[0]].source, signals[key[0]].source)}
    lost = {name: hold for name, hold in state.holds.items() if hold.topology not in rules.topologies}
    said += [
        Decision(f"the hold of {hold.owner} is void: no {hold.topology} any more", (), name, "warning")
        for name, hold in lost.items()
        if name in rules.segments
    ]
    return replace(
        new,
        # Silence of a signal that is new is as it is after a start; the others' was judged already.
        segments={name: state.segments.get(name, segment) for name, segment in new.segments.items()},
        vm=state.vm if rules.on_failure.ladder else new.vm,
        tracks={key: track for key, track in state.tracks.items() if key in keys},
        holds={name: hold for name, hold in state.holds.items() if name in rules.segments and name not in lost},
    )


def _same(old: Source, new: Source) -> bool:
    """Whether what `old` told still counts; a canary of other segments tells the same of those that stay."""
    if isinstance(old, HostPath) and isinstance(new, HostPath):
        return True
    if isinstance(old, Canary) and isinstance(new, Canary):
        return old.negative == new.negative
    return old == new


def judged(state: State, before: State, event: Event, said: list[Decision]) -> State:
    """The state at its `now_ms`: holds expired, silence heard, verdicts given. `before` the event that was so already.

    Of many readings at once, each concerns its own track and segment; what time brings, the first of them has heard.
    """
    graced = before.now_ms < state.grace_end_ms <= state.now_ms
    keys, names = state.rules.keys, tuple(state.segments)
    if isinstance(event, Reading) and state.now_ms == before.now_ms:
        keys = tuple(
            key for key in keys if (track := state.tracks.get(key)) is None or track is not before.tracks.get(key)
        )
        about = {segment for _, segment in keys}
        names = names if None in about else tuple(name for name in names if name in about)
    return _judged(_settled(_expired(state, said), keys, said), names, graced, said)


def _expired(state: State, said: list[Decision]) -> State:
    over = [name for name, hold in state.holds.items() if hold.until_ms <= state.now_ms]
    if not over:
        return state
    said += [Decision(f"the hold of {state.holds[name].owner} is over", (), name) for name in over]
    return replace(state, holds={name: hold for name, hold in state.holds.items() if name not in over})


def _settled(state: State, keys: Iterable[Key], said: list[Decision]) -> State:
    signals, now = state.rules.health.signals, state.now_ms
    changed = {}
    for key in keys:
        track = state.tracks.get(key, UNOBSERVED)
        if (lapses := lapses_ms(state, key)) is not None and now >= lapses:
            track = replace(track, deliberate=False)
        settled = verdict.settle(signals[key[0]], track, now, state.grace_end_ms)
        if settled is not state.tracks.get(key, UNOBSERVED):
            changed[key] = settled
            if settled.believed is not track.believed:
                why = (verdict.evidence(signals[key[0]], settled, now),)
                level: Level = "warning" if settled.believed in _BAD else "info"
                said.append(Decision(f"{key[0]} is {settled.believed}", why, key[1], level, topic=key[0]))
    return replace(state, tracks={**state.tracks, **changed}) if changed else state


def _judged(state: State, names: Iterable[str], graced: bool, said: list[Decision]) -> State:
    """What has become unknown is said, and what still is when the grace after a start is over: `graced`."""
    changed = {}
    for name in names:
        segment = state.segments[name]
        found = verdict.judge(state.rules.health, state.tracks, name)
        known = segment.verdict.state is not HealthState.ABSENT
        if found.state is HealthState.ABSENT and found.deciding and (known or graced):
            why = verdict.reasons(state.rules.health, state.tracks, name, found, state.now_ms)
            text = f"unknown whether the VM is healthy: stays on {state.choice[name]}"
            said.append(Decision(text, why, name, "warning", topic="verdict"))
        if found != segment.verdict:
            changed[name] = replace(segment, verdict=found)
    return replace(state, segments={**state.segments, **changed}) if changed else state
