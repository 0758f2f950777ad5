"""The prober from the daemon's side: what it is to send, with which addresses, out of which sockets; that it lives."""

import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reconciler.appliance.declared import Appliance, Frame, Negative, Probe
from reconciler.daemon.journal import Journal
from reconciler.errors import ReconcilerError
from reconciler.guard import frames as probe
from reconciler.guard.rules import NEGATIVE, Direction, Guarded, mark_of, token_from
from reconciler.host.guard import prober_client as probing
from reconciler.host.guard.prober_client import Direction as Order
from reconciler.host.guard.prober_client import Report
from reconciler.host.signals.canary import ask_of, canary_of

# A direction that was never proven is asked with another frame, so seldom that a VM does not mind.
_ASK_MS = 500
_ASK = Probe(_ASK_MS, Frame.ARP, "198.18.0.1", "198.19.0.1")
# The prober is told that the daemon lives, at least so often; and a grace below the least would end by chance.
CONSENT_MS = 1_000
_LEAST_GRACE_MS = 4 * CONSENT_MS
# It reports ten times a second. One that does not for so long hangs, and another one takes its place.
HUNG_MS = 1_000
# One that was just started has nothing to report before its Python has come up: on a busy machine, or from a slow disk,
# that takes seconds. And one that has gone on for so long may be replaced at once.
START_MS = 10_000
# Between two starts, if the first one did not go on for long; twice as much after each further one. One that ends by
# itself each time, or never comes up, must not take the machine with it.
PAUSE_MS, MOST_PAUSE_MS = 2_000, 30_000
# One that was killed is gone after a moment, and is looked for so often.
_ENDING_MS = 5


class Prober(Protocol):
    """The process that sends, hears and counts probes; see `host.guard.probing.Probing`."""

    @property
    def alive(self) -> bool:
        """Whether there is one, as far as is known."""
        ...

    def connect(self) -> bool:
        """Take over the one that a predecessor left. Whether there is one."""
        ...

    def spawn(self) -> bool:
        """Start one, if no other is there any more; others are killed. Whether it was started: else, call again."""
        ...

    def order(self, orders: Sequence[Order], sockets: Sequence[socket.socket], grace_ms: int) -> None:
        """Replace what it does."""
        ...

    def consent(self) -> None:
        """Let it go on."""
        ...

    def end(self) -> None:
        """End whoever is there."""
        ...

    def heard(self) -> Sequence[Report]:
        """What it has told since the last time."""
        ...


@dataclass(slots=True)
class Probes:
    """See the module. `ear` opens an adapter's socket for frames with a mark; `random` gives so many bytes."""

    appliance: Appliance
    prober: Prober
    clock: Callable[[], int]
    journal: Journal
    secret: bytes
    ear: Callable[[str, bytes], socket.socket]
    random: Callable[[int], bytes]
    heard: Report | None = field(init=False, default=None)
    _tokens: dict[str, bytes] = field(init=False, default_factory=dict)
    _sockets: dict[tuple[str, int, bytes], socket.socket] = field(init=False, default_factory=dict)
    _ordered: tuple[int, tuple[Order, ...]] | None = field(init=False, default=None)
    _proven: set[str] = field(init=False, default_factory=set)
    _told_ms: int = field(init=False, default=0)
    _listened_ms: int = field(init=False, default=0)
    _patience_ms: int = field(init=False, default=HUNG_MS)
    _reported: bool = field(init=False, default=False)
    _started_ms: int = field(init=False, default=0)
    _pause_ms: int = field(init=False, default=0)
    _retry_ms: int = field(init=False, default=0)
    _failing: str = field(init=False, default="")
    _asked_for: tuple[object, ...] = field(init=False, default=())
    _began: bool = field(init=False, default=False)

    def token(self, segment: str) -> bytes:
        """What the probes of a segment bear now."""
        if segment not in self._tokens:
            self._tokens[segment] = token_from(self.random(6))
        return self._tokens[segment]

    def take_over(self, segment: str, token: bytes) -> None:
        """Go on with a token that is granted already."""
        self._tokens[segment] = token

    def change(self, segment: str) -> None:
        """Never send what was sent before again: whatever of it comes back late proves nothing."""
        self._tokens[segment] = token_from(self.random(6))

    def addresses(self, one: Guarded) -> dict[str, bytes]:
        """The first twelve bytes of a segment's probes, by lease; empty where not every direction can be probed."""
        if not all(place.index for place in one.adapters):
            return {}
        return {way.lease: self.token(one.name) + self._mark(one, way) for way in one.directions}

    def _mark(self, one: Guarded, way: Direction, extra: int = 0) -> bytes:
        return mark_of(self.secret, one.name) + bytes([way.number + extra])

    @property
    def reporting(self) -> bool:
        """Whether the prober that is there has told something yet: before, it sends nothing, for it is not told to."""
        return self.prober.alive and self._reported

    @property
    def due_ms(self) -> int:
        """When `attend` has something to do although nothing happens."""
        if not self.prober.alive:
            return self._retry_ms
        return self._told_ms + CONSENT_MS if self._reported else self._listened_ms + self._patience_ms + 1

    def attend(self, segments: Iterable[Guarded]) -> None:
        """See to it that a prober lives, that it does what it shall, and that it knows that we live."""
        now = self.clock()
        try:
            if self.prober.alive and now - self._listened_ms > self._patience_ms:
                self._give_up(now)
            if not self.prober.alive and now >= self._retry_ms:
                self._begin(now)
            if not self.reporting:
                # Who cannot be heard yet gets no orders: should we be killed now, it would follow them beside another.
                return
            # First, for an adapter that cannot be listened to is no reason to let the others' probes end.
            if now - self._told_ms >= CONSENT_MS:
                self.prober.consent()
                self._told_ms = now
            # Ten times a second, and hardly ever anything else than before.
            asked = (tuple(segments), dict(self._tokens), len(self._proven), self.appliance.health)
            if asked != self._asked_for or self._ordered is None:
                self._order(asked[0], now)
                self._asked_for = (asked[0], dict(self._tokens), *asked[2:])
            self._failing = ""
        except ReconcilerError as error:
            if str(error) != self._failing:
                self._failing = str(error)
                self.journal.tell("prober", f"no probes are sent: {error}", level=logging.ERROR)

    def _give_up(self, now: int) -> None:
        hangs = f"has told nothing for {START_MS // 1_000} s" if self._patience_ms == START_MS else "hangs"
        self.journal.tell("prober", f"the prober {hangs}: another one is started", level=logging.WARNING)
        self.prober.end()
        self._retry_ms = max(self._retry_ms, now)

    def _begin(self, now: int) -> None:
        """Take over a predecessor's prober, if there is one when we begin; or start one, where that may be by now."""
        self._ordered, self._reported = None, False
        first, self._began = not self._began, True
        if first and self.prober.connect():
            # It came up long ago, and tells something at once.
            self._listened_ms, self._patience_ms = now, HUNG_MS
            return
        pause_ms = min(2 * self._pause_ms, MOST_PAUSE_MS) or PAUSE_MS
        if self._listened_ms - self._started_ms >= START_MS:
            pause_ms = PAUSE_MS
        self._retry_ms = now + pause_ms
        if not self.prober.spawn():
            self._retry_ms = now + _ENDING_MS
            return
        self._listened_ms, self._patience_ms = now, START_MS
        self._started_ms, self._pause_ms = now, pause_ms

    def _order(self, segments: tuple[Guarded, ...], now: int) -> None:
        sockets: dict[tuple[str, int, bytes], socket.socket] = {}
        places: dict[str, int] = {}
        for one in segments:
            for place in one.adapters if self.addresses(one) and self.probed(one) else ():
                key = (place.interface, place.index, mark_of(self.secret, one.name))
                places[f"{one.name}/{place.role}"] = len(sockets)
                sockets[key] = self._sockets.get(key) or self.ear(place.interface, key[2])
        orders = tuple(order for one in segments for order in self._orders(one, places))
        grace_ms = max(min((one.guard.grace_ms for one in segments), default=0), _LEAST_GRACE_MS)
        if (grace_ms, orders) != self._ordered or sockets.keys() != self._sockets.keys():
            self.prober.order(orders, tuple(sockets.values()), grace_ms)
            self._ordered, self._told_ms = (grace_ms, orders), now
        for key, gone in self._sockets.items():
            if key not in sockets:
                gone.close()
        self._sockets = sockets

    def probed(self, one: Guarded) -> bool:
        """A lease that the daemon renews needs probes only where the file asks for a canary."""
        return not one.guard.by_daemon or any(canary_of(self.appliance, one.name))

    def _orders(self, one: Guarded, places: Mapping[str, int]) -> Iterable[Order]:
        addresses = self.addresses(one) if self.probed(one) else {}
        negative = next((canary.negative for canary in canary_of(self.appliance, one.name) if canary.negative), None)
        for direction in one.directions:
            if direction.lease not in addresses:
                continue
            ends = (places[f"{one.name}/{direction.source}"], places[f"{one.name}/{direction.target}"])
            yield self._made(one, direction, ends, one.guard.probe, negative)
            if one.guard.probe.frame is Frame.ETHERNET and direction.lease not in self._proven:
                yield self._asked(one, direction, ends)

    def _made(
        self, one: Guarded, direction: Direction, ends: tuple[int, int], kind: Probe, check: Negative | None
    ) -> Order:
        mark, token = self._mark(one, direction), self.token(one.name)
        unseen = self._mark(one, direction, NEGATIVE)
        never = probing.Canaries(probe.negative(check, unseen, token), check.every_ms * 1_000) if check else None
        return Order(
            direction.lease,
            *ends,
            probe.frame(kind, mark, token),
            kind.every_ms * 1_000,
            max(one.guard.lease_ms, 2 * kind.every_ms) * 1_000,
            never,
        )

    def _asked(self, one: Guarded, direction: Direction, ends: tuple[int, int]) -> Order:
        # Not to be taken for a probe: its token is another one, which nobody ever grants.
        mark = self._mark(one, direction)
        token = mark_of(self.secret, self.token(one.name).hex()) + b"?"
        made = probe.frame(_ASK, mark, token)
        return Order(ask_of(direction.lease), *ends, made, _ASK_MS * 1_000, 2 * _ASK_MS * 1_000)

    def listen(self) -> Sequence[Report]:
        """What the prober has told since the last time; the latest is kept for who asks."""
        told = self.prober.heard()
        if told:
            self._listened_ms, self._patience_ms, self._reported = self.clock(), HUNG_MS, True
        for report in told:
            self.heard = report
            self._proven |= {
                one.name for one in report.directions if one.state == "back" and not one.name.endswith("?")
            }
        return told

    def stop(self) -> None:
        """End the prober: no more probes from now on."""
        self.prober.end()
        self.heard, self._reported = None, False
        # What comes next is somebody's wish, and not what failed again and again.
        self._retry_ms = self._pause_ms = 0
        self.close()

    def close(self) -> None:
        """Close the sockets of this process; the prober has its own."""
        for one in self._sockets.values():
            one.close()
        self._sockets, self._ordered = {}, None
