"""What enters must leave: frames that the guard let in at a port, against those that its adapter was sent; and back.

    port ──accepted──▶ switch ──sent──▶ adapter            adapter ──accepted──▶ switch ──sent──▶ port

The probes prove the VM's half of the path only. For the host's half the table counts, while the leases stand, what it
accepts at each port and adapter of what a switch must forward (`rules`); and the kernel counts what each interface
sent, and what it dropped because nobody took it fast enough, which is no fault of the path. What is left over went
nowhere: between those two points something stands in the way.

And nothing leaves a port that its adapter has not brought: what does has passed the VM by.

Never a false alarm, but for what no counter tells:

- Links are read before and after the table. What was sent is the most that it can have been, so that a daemon that is
  held up between two readings loses nothing; for what nobody brought it is the least.
- What is judged began and ended with the same table, the same interfaces, carriers on, leases standing, and probes that
  had come back a moment before: nothing waits in front of a VM that is held up.
- A few frames are no evidence: a window lasts until enough have entered, or it is too old.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from reconciler.guard.rules import Guarded, Place
from reconciler.health.signal import HealthState, Reading
from reconciler.network.counts import LinkCounts
from reconciler.network.path import Finding, Path

# What is too little to say anything, in frames that have entered: lldpd, or what was on its way at either end.
LEAST = 64
# Without probes, nothing is said of a VM before it had so long to let something out.
DARK_MS = 2_000
# A window in which less has entered is forgotten after so long.
OLD_MS = 10_000
# As seldom as it may be, so that a loss is found in time.
_LOOKS = 2
# Probes that have come back within so many of their intervals, or this, show that the VM takes what it is sent.
_FRESH_PROBES, _FRESH_MS = 5, 150
# Frames that leave a port in segments for each that an adapter brought have headers of their own: as much again.
_SEGMENTED = 2
_ETHERNET = 14  # bytes of a header, which a NIC counts and rules do not


@dataclass(frozen=True, slots=True)
class CrossingSample:
    """What was counted at `at_ms`: by the table of this `handle`, and by links `before` and `after` it, by index.

    `probes`: what we have sent out of adapters ourselves, by their roles within a segment.
    """

    at_ms: int
    handle: int | None
    counted: Mapping[str, tuple[int, int]]
    before: Mapping[int, LinkCounts]
    after: Mapping[int, LinkCounts]
    probes: Mapping[tuple[str, str], int] = field(default_factory=dict)


class _Way(NamedTuple):
    """Where frames go between a port and its adapter. `counter`: of what was accepted where they enter.

    A port alone, both source and target: from its NIC to the first of the guard's rules, which counts.
    """

    segment: str
    inward: bool
    source: Place
    target: Place
    counter: str

    @property
    def alone(self) -> bool:
        """Whether it is a port's own."""
        return self.source == self.target


@dataclass(frozen=True, slots=True)
class Crossings:
    """What is known of all guarded segments. `begun`: where each window began; `lost`, `strays`: what was found.

    `clear_ms`: by segment with a loss, since when nothing crosses, and nothing is known to stand in the way. Without a
    guard's table: `before`, by segment, links when a window began, and when that was; `dark`: the VMs from which
    nothing comes out.
    """

    begun: Mapping[_Way, CrossingSample] = field(default_factory=dict)
    lost: Mapping[_Way, str] = field(default_factory=dict)
    strays: Mapping[_Way, str] = field(default_factory=dict)
    clear_ms: Mapping[str, int] = field(default_factory=dict)
    told: Mapping[str, Reading] = field(default_factory=dict)
    looked_ms: int = 0
    before: Mapping[str, tuple[int, Mapping[int, LinkCounts]]] = field(default_factory=dict)
    dark: Mapping[str, str] = field(default_factory=dict)

    def due(self, watched: Sequence[Guarded]) -> int | None:
        """When to look again; None: there is nothing to look at."""
        times = [one.guard.loss.within_ms for one in watched if one.guard.loss]
        return self.looked_ms + min(times) // _LOOKS if times else None

    def look(
        self, watched: Sequence[Guarded], whole: Collection[str], waiting: Collection[str], sample: CrossingSample
    ) -> Self:
        """Take in a sample of the guarded segments.

        `whole`: those whose VM has the wire, by leases and by switches. `waiting`: those of which it cannot be said now
        whether the VM takes what it is sent.
        """
        begun, lost, strays = dict(self.begun), dict(self.lost), dict(self.strays)
        ways = {way: one for one in watched if one.guard.loss for way in ways_of(one)}
        for known in (begun, lost, strays):
            for gone in known.keys() - ways.keys():
                del known[gone]
        for way, one in ways.items():
            began = begun.get(way)
            if one.name in whole and one.name in waiting and not way.alone:
                continue
            if not (way.alone or one.name in whole) or not _measured(way, sample):
                begun.pop(way, None)
                # A loss is not over because nothing is let in any more; strays are seen only while it is looked.
                strays.pop(way, None)
            elif began is None or began.handle != sample.handle or _reset(way, began, sample):
                begun[way] = sample
            else:
                found = _judged(way, one, began, sample)
                if found is not None:
                    begun[way] = sample
                    for known, text in zip((lost, strays), found, strict=True):
                        known.pop(way, None)
                        if text:
                            known[way] = text
        return self._with(begun=begun, lost=lost, strays=strays, looked_ms=sample.at_ms, before={}, dark={})

    def look_through(self, watched: Sequence[Guarded], links: Mapping[int, LinkCounts], now: int) -> Self:
        """Take in what links have counted where no table does, and no probe tells: whether anything leaves the VM.

        Of frames that enter it, some must come out somewhere: whoever forwards nothing at all does not inspect.
        """
        before, dark = dict(self.before), dict(self.dark)
        for one in watched:
            indexes = [place.index for place in one.adapters]
            began_ms, began = before.get(one.name, (now, {}))
            if not links.keys() >= set(indexes) or not began.keys() >= set(indexes):
                # Another VM, or the first look at this one.
                dark.pop(one.name, None)
                before[one.name] = (now, links)
                continue
            spans = [_between(began, links, index) for index in indexes]
            entered, left = (sum(getattr(span, name) for span in spans) for name in ("sent", "received"))
            if left:
                dark.pop(one.name, None)
            elif now - began_ms < DARK_MS or (entered < LEAST and now - began_ms < OLD_MS):
                continue
            elif entered >= LEAST:
                seconds = f"{(now - began_ms) / 1000:.1f} s"
                dark[one.name] = f"{entered} frames entered the VM in {seconds}, and none came out"
            before[one.name] = (now, links)
        return self._with(begun={}, lost={}, strays={}, clear_ms={}, looked_ms=now, before=before, dark=dark)

    def settle(self, watched: Sequence[Guarded], whole: Collection[str], blocked: Collection[str], now: int) -> Self:
        """Losses of segments that nothing crosses any more are forgotten, unless something is known to be in the way.

        `blocked`: segments in whose way something stands that drops or diverts.
        """
        failed = {way.segment for way in self.lost if not way.alone}
        clear = {name: self.clear_ms.get(name, now) for name in failed if name not in whole and name not in blocked}
        patience = {one.name: one.guard.loss.within_ms for one in watched if one.guard.loss}
        over = {name for name, since in clear.items() if now - since >= patience.get(name, 0)}
        lost = {way: text for way, text in self.lost.items() if way.alone or way.segment not in over}
        return self._with(lost=lost, clear_ms={name: since for name, since in clear.items() if name not in over})

    def news(
        self, signals: Mapping[str, tuple[str, ...]], whole: Collection[str], trouble: str = ""
    ) -> tuple[Self, tuple[Reading, ...]]:
        """The readings that are others than before.

        `signals`: the segments that each signal of this kind speaks of. `trouble`: why nothing could be counted.
        """
        told, changed = dict(self.told), []
        for signal, segments in signals.items():
            for name in segments:
                reading = Reading(signal, *self._judge(name, whole, trouble), name)
                before = told.get(f"{signal}/{name}")
                # What is healthy is so while the VM has the wire: that it has not is told by others each time.
                away = reading.state is HealthState.ABSENT and not trouble
                if reading == before or (away and before and before.state is HealthState.HEALTHY):
                    continue
                told[f"{signal}/{name}"] = reading
                changed.append(reading)
        return self._with(told=told), tuple(changed)

    def _judge(self, segment: str, whole: Collection[str], trouble: str) -> tuple[HealthState, str]:
        lost = [text for way, text in self.lost.items() if way.segment == segment]
        if lost or segment in self.dark:
            return HealthState.FAILED, "; ".join(lost) or self.dark[segment]
        if segment in whole:
            return HealthState.HEALTHY, "what enters leaves, as long as the VM has the wire"
        if trouble:
            return HealthState.ABSENT, f"frames cannot be counted: {trouble}"
        return HealthState.ABSENT, "the VM has not got the wire: nothing crosses that could be counted"

    def findings(self) -> Mapping[str, tuple[Finding, ...]]:
        """What it says of the path of each segment."""
        found: dict[str, list[Finding]] = {}
        for way, text in self.lost.items():
            source, target = (way.source.role, None) if way.inward else (None, way.target.role)
            found.setdefault(way.segment, []).append(Finding(Path.CUT, text, source, target, way.alone))
        for way, text in self.strays.items():
            source, target = (way.source.role, None) if way.alone else (None, way.target.role)
            found.setdefault(way.segment, []).append(Finding(Path.BYPASSED, text, source, target, way.alone))
        for name, text in self.dark.items():
            found.setdefault(name, []).append(Finding(Path.CUT, text))
        return {name: tuple(several) for name, several in found.items()}

    def _with(self, **changes: object) -> Self:
        return replace(self, **changes)  # type: ignore[arg-type]


def ways_of(one: Guarded) -> Iterator[_Way]:
    """The ways of a segment that can be counted: into each port, and between one and an adapter of its own."""
    for port in one.ports:
        if port.index:
            yield _Way(one.name, True, port, port, f"{one.name}/seen/{port.role}")
    roles = [place.role for place in one.adapters]
    for port, adapter in zip(one.ports, one.adapters, strict=True):
        if port.index and adapter.index and roles.count(adapter.role) == 1:
            yield _Way(one.name, True, port, adapter, f"{one.name}/entered/{port.role}")
            yield _Way(one.name, False, adapter, port, f"{one.name}/emitted/{adapter.role}")


def takes(one: Guarded, back_ms: Mapping[str, int], now: int) -> bool:
    """Whether the VM takes what it is sent: probes have come back in every direction a moment ago.

    `back_ms`: when one came back last, by lease.
    """
    fresh_ms = max(_FRESH_MS, _FRESH_PROBES * one.guard.probe.every_ms)
    return all(now - back_ms.get(way.lease, now - fresh_ms - 1) <= fresh_ms for way in one.directions)


def _measured(way: _Way, sample: CrossingSample) -> bool:
    known = {way.source.index, way.target.index}
    return way.counter in sample.counted and known <= sample.before.keys() and known <= sample.after.keys()


def _reset(way: _Way, began: CrossingSample, sample: CrossingSample) -> bool:
    """Whether a counter began again meanwhile."""
    ends = (way.source.index, way.target.index)
    return sample.counted[way.counter][0] < began.counted[way.counter][0] or any(
        new < old for index in ends for new, old in zip(sample.after[index], began.before[index], strict=True)
    )


def _judged(way: _Way, one: Guarded, began: CrossingSample, now: CrossingSample) -> tuple[str, str] | None:
    """What is lost, and what nobody brought, in words or ''; None: it is too early to say."""
    assert one.guard.loss is not None  # noqa: S101 - it is not watched else
    age_ms = now.at_ms - began.at_ms
    if age_ms < one.guard.loss.within_ms:
        return None
    if way.alone:
        return _judged_alone(way, one, one.guard.loss.share, began, now)
    entered = now.counted[way.counter][0] - began.counted[way.counter][0]
    most = _between(began.before, now.after, way.target.index)
    # A port and an adapter may have one role's name; probes are sent out of adapters only.
    adapter = (way.segment, way.target.role)
    own = now.probes.get(adapter, 0) - began.probes.get(adapter, 0) if way.inward else 0
    least = _between(began.after, now.before, way.target.index)
    brought = _between(began.before, now.after, way.source.index)
    stray = not way.inward and _is_stray(one, least, brought)
    if entered < LEAST and not stray:
        return ("", "") if age_ms >= one.guard.loss.within_ms + OLD_MS else None
    lost = entered - max(0, most.sent - max(0, own)) - most.dropped
    seconds = f"{age_ms / 1000:.1f} s"
    told = ["", ""]
    if entered >= LEAST and lost * 100 >= entered * one.guard.loss.share:
        told[0] = f"{_named(way)}: {lost} of {entered} frames that entered in {seconds} did not leave"
    if stray:
        told[1] = f"{least.sent} frames left {way.target.interface} in {seconds}, and the VM brought {brought.received}"
    return told[0], told[1]


def _judged_alone(
    way: _Way, one: Guarded, share: int, began: CrossingSample, now: CrossingSample
) -> tuple[str, str] | None:
    """Of what a port's NIC has received: bytes, for the kernel may have joined frames before it shows them to rules."""
    came = _between(began.after, now.before, way.source.index)
    seen, size = (new - old for new, old in zip(now.counted[way.counter], began.counted[way.counter], strict=True))
    age_ms = now.at_ms - began.at_ms
    if came.received < LEAST or came.refused * 100 >= came.received * share:
        return ("", "") if age_ms >= OLD_MS or came.refused else None
    missing = came.received_bytes - _SEGMENTED * (size + _ETHERNET * seen)
    if missing * 100 < came.received_bytes * share:
        return "", ""
    text = f"port {way.source.role}: of {came.received} frames that {way.source.interface} received"
    text = f"{text} in {age_ms / 1000:.1f} s, {seen} came as far as the guard's rules"
    # Redirected, they leave another port: more than its adapter brought, and other ports let in.
    astray = sum(_astray(way, one, place, began, now) for place in one.ports if place.role != way.source.role)
    if astray >= LEAST and astray * 100 >= (came.received - seen) * share:
        return "", f"{text}; {astray} left elsewhere that no port had let in, and the VM brought none of them"
    return text, ""


def _astray(way: _Way, one: Guarded, place: Place, began: CrossingSample, now: CrossingSample) -> int:
    """The least that has left a port and neither its adapter brought nor the rules of another port saw."""
    adapter = one.adapters[one.ports.index(place)].index
    known = began.before.keys() & began.after.keys() & now.before.keys() & now.after.keys()
    names = [f"{way.segment}/seen/{other.role}" for other in one.ports if other.index and other != place]
    if not {place.index, adapter} <= known or not began.counted.keys() & now.counted.keys() >= set(names):
        return 0
    seen = sum(now.counted[name][0] - began.counted[name][0] for name in names)
    left = _between(began.after, now.before, place.index).sent
    brought = _between(began.before, now.after, adapter).received
    return max(0, left - brought - seen) if min(brought, seen) >= 0 else 0


def _is_stray(one: Guarded, left: LinkCounts, brought: LinkCounts) -> bool:
    """Whether a port has sent what its adapter has not brought: more than headers and the odd frame account for."""
    assert one.guard.loss is not None  # noqa: S101
    alien = left.sent_bytes - _SEGMENTED * brought.received_bytes
    return left.sent - brought.received >= LEAST and alien * 100 >= left.sent_bytes * one.guard.loss.share


def _between(old: Mapping[int, LinkCounts], new: Mapping[int, LinkCounts], index: int) -> LinkCounts:
    return LinkCounts(*(after - before for after, before in zip(new[index], old[index], strict=True)))


def _named(way: _Way) -> str:
    kinds = ("port", "adapter") if way.inward else ("adapter", "port")
    ends = zip(kinds, (way.source, way.target), strict=True)
    return " → ".join(f"{kind} {place.role} ({place.interface})" for kind, place in ends)
