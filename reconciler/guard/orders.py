"""What the prober is told to send, and what it tells of it: values only; the prober itself is `host/guard/prober.py`.

The makings of an order are an appliance's guarded segments on the live host, the guard's secret, and the token that the
probes of each segment bear now.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from reconciler.appliance.declared import Appliance, Canary, Frame, Negative, Probe
from reconciler.guard import frames
from reconciler.guard.frames import Template
from reconciler.guard.rules import NEGATIVE, Direction, Guarded, mark_of

# A direction that was never proven is asked with another frame, so seldom that a VM does not mind.
_ASK_MS = 500
_ASK = Probe(_ASK_MS, Frame.ARP, "198.18.0.1", "198.19.0.1")
# A grace below some consents would end by chance.
CONSENT_MS = 1_000
# Frames as large as the wire carries go beside the probes: one for so many of them, and one a second at least.
_LARGE_PROBES = 50
_LARGE_MS = 1_000
_ETHERNET_MTU = 1_500
_LEAST_GRACE_MS = 4 * CONSENT_MS


@dataclass(frozen=True, slots=True)
class ProbeEnd:
    """A packet socket on an adapter: it hears frames whose source begins with `mark`, 5 bytes."""

    interface: str
    index: int
    mark: bytes


@dataclass(frozen=True, slots=True)
class ExtraProbe:
    """Frames beside the probes, one each `every_us` microseconds."""

    template: Template
    every_us: int


@dataclass(frozen=True, slots=True)
class Order:
    """What to send where: `out` and `back` are indexes into the ends that go with the orders.

    A probe each `every_us`; the direction is lost when none has come back for `lost_us`, at least twice as long. Both
    in microseconds. `negative`: what must not come through. `large`: what shows which sizes do; no evidence of life.
    """

    name: str
    out: int
    back: int
    template: Template
    every_us: int
    lost_us: int
    negative: ExtraProbe | None = None
    large: tuple[ExtraProbe, ...] = ()


@dataclass(frozen=True, slots=True)
class Orders:
    """All that the prober shall do, until `grace_ms` after the last consent."""

    ends: tuple[ProbeEnd, ...]
    orders: tuple[Order, ...]
    grace_ms: int


class LargeReport(NamedTuple):
    """Of frames of one size in bytes, how many were sent, and how many came back."""

    size: int
    sent: int
    returned: int


@dataclass(frozen=True, slots=True)
class DirectionReport:
    """What became of a direction.

    `head`: destination and source of its probes, 12 bytes. `state`: unproven, back or lost. `age_us`: since the last
    probe came back, None if none has. `rtt_us`: least, mean and greatest round-trip time since the last report, None
    without a probe. `sent`, `returned`, `errors` (sendings and receptions that the kernel refused) and `negative` (what
    came through although it must not) count since the frame is as it is. `large`: by size.
    """

    name: str
    head: bytes
    state: str
    age_us: int | None
    sent: int
    returned: int
    errors: int
    rtt_us: tuple[int, int, int] | None
    negative: int
    large: tuple[LargeReport, ...] = ()


@dataclass(frozen=True, slots=True)
class ProberReport:
    """What the prober says; times in microseconds of CLOCK_MONOTONIC.

    `late_worst_us`: its worst lateness since the last report; `late`, `missed`, `stalls`: how many probes were later
    than half their rhythm, how many were skipped, and how often it was away for longer than half of what makes a loss.
    `priority`: ``fifo 10``, ``nice -20``, or ``none: EPERM``. `kept`: why it could not give up its capabilities, or ''.
    `alone_ms`: since somebody consented.
    """

    now_us: int
    directions: tuple[DirectionReport, ...]
    late_worst_us: int
    late: int
    missed: int
    stalls: int
    priority: str
    kept: str
    alone_ms: int


def orders(
    appliance: Appliance,
    segments: Iterable[Guarded],
    secret: bytes,
    tokens: Mapping[str, bytes],
    proven: frozenset[str],
) -> Orders:
    """What is to be sent. `tokens`: by segment. `proven`: leases whose probes have come back: nobody asks there."""
    segments = tuple(segments)
    ends: dict[ProbeEnd, int] = {}
    made: list[Order] = []
    for one in segments:
        sending = _sending(appliance, one, secret, tokens[one.name], ends)
        if sending is None:
            continue
        for way in one.directions:
            made.append(sending.probes(way))
            if one.guard.probe.frame is Frame.ETHERNET and way.lease not in proven:
                made.append(sending.questions(way))
    grace_ms = max(min((one.guard.grace_ms for one in segments), default=0), _LEAST_GRACE_MS)
    return Orders(tuple(ends), tuple(made), grace_ms)


def addresses(one: Guarded, secret: bytes, token: bytes) -> dict[str, bytes]:
    """The first twelve bytes of a segment's probes, by lease; empty where not every direction can be probed."""
    if not all(place.index for place in one.adapters):
        return {}
    return {way.lease: token + _mark(one, secret, way) for way in one.directions}


def probed(appliance: Appliance, one: Guarded) -> bool:
    """Whether a segment needs probes: a lease that the daemon renews does only where the file asks for a canary."""
    return not one.guard.by_daemon or any(canaries_of(appliance, one.name))


def canaries_of(appliance: Appliance, segment: str) -> Iterator[Canary]:
    """The canaries that speak of a segment."""
    for signal in appliance.health.signals.values():
        if isinstance(signal.source, Canary) and segment in signal.source.segments:
            yield signal.source


def question_of(lease: str) -> str:
    """The name under which a direction is asked whether it passes other frames than the probes."""
    return f"{lease}?"


def _mark(one: Guarded, secret: bytes, way: Direction, extra: int = 0) -> bytes:
    return mark_of(secret, one.name) + bytes([way.number + extra])


@dataclass(frozen=True, slots=True)
class _Sending:
    """Of one segment: what its frames are made of, and at which end each adapter's role is.

    `judged`: somebody wants to know which sizes come through.
    """

    one: Guarded
    secret: bytes
    token: bytes
    at: Mapping[str, int]
    check: Negative | None
    mtu: int
    judged: bool

    def probes(self, way: Direction) -> Order:
        kind, check = self.one.guard.probe, self.check
        unseen = _mark(self.one, self.secret, way, NEGATIVE)
        return Order(
            way.lease,
            self.at[way.source],
            self.at[way.target],
            frames.frame(kind, _mark(self.one, self.secret, way), self.token),
            kind.every_ms * 1_000,
            max(self.one.guard.lease_ms, 2 * kind.every_ms) * 1_000,
            ExtraProbe(frames.negative(check, unseen, self.token), check.every_ms * 1_000) if check else None,
            tuple(self._large(way)),
        )

    def _large(self, way: Direction) -> Iterator[ExtraProbe]:
        """As large as an Ethernet frame is, and as large as the segment's frames are, where somebody wants to know."""
        kind = self.one.guard.probe
        for mtu in sorted({min(self.mtu, _ETHERNET_MTU), self.mtu}) if self.judged else ():
            # As of a question, the token is one that nobody ever grants: they renew nothing.
            other = mark_of(self.secret, f"{self.token.hex()}{mtu}") + b"+"
            made = frames.large(kind, _mark(self.one, self.secret, way), other, mtu + frames.HEADER_BYTES)
            if made is not None:
                yield ExtraProbe(made, min(_LARGE_PROBES * kind.every_ms, _LARGE_MS) * 1_000)

    def questions(self, way: Direction) -> Order:
        # Not to be taken for a probe: its token is another one, which nobody ever grants.
        other = mark_of(self.secret, self.token.hex()) + b"?"
        made = frames.frame(_ASK, _mark(self.one, self.secret, way), other)
        ends = self.at[way.source], self.at[way.target]
        return Order(question_of(way.lease), *ends, made, _ASK_MS * 1_000, 2 * _ASK_MS * 1_000)


def _sending(
    appliance: Appliance, one: Guarded, secret: bytes, token: bytes, ends: dict[ProbeEnd, int]
) -> _Sending | None:
    """None: nothing is sent there."""
    if not probed(appliance, one) or not all(place.index for place in one.adapters):
        return None
    mark = mark_of(secret, one.name)
    at = {
        place.role: ends.setdefault(ProbeEnd(place.interface, place.index, mark), len(ends)) for place in one.adapters
    }
    canaries = tuple(canaries_of(appliance, one.name))
    check = next((canary.negative for canary in canaries if canary.negative), None)
    return _Sending(one, secret, token, at, check, appliance.segments[one.name].mtu, bool(canaries))
