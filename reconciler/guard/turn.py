"""One step of the guard under way: the state as it becomes, and the effects so far."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from reconciler.guard.canary import Canaries
from reconciler.guard.effects import Effect, Keep, Warn
from reconciler.guard.exposure import Exposure
from reconciler.guard.rules import token_from
from reconciler.guard.state import GuardState, SegmentGuard
from reconciler.guard.table import LeaseState
from reconciler.guard.warnings import unable

# After the table could not be set.
RETRY_MS = 5_000


class Turn:
    """One step under way: the state as it becomes, and the effects so far."""

    def __init__(self, state: GuardState, now: int) -> None:
        self.state, self.now = state, now
        self.effects: list[Effect] = []

    def do(self, *effects: Effect) -> None:
        """Ask for more, in this order."""
        self.effects += effects

    def set(self, **changes: Any) -> None:
        """Change parts of the state."""
        self.state = replace(self.state, **changes)

    def segment(self, name: str, one: SegmentGuard) -> None:
        """Put what is known of a segment."""
        self.set(segments={**self.state.segments, name: one})

    def change(self, name: str, **changes: Any) -> None:
        """Change parts of what is known of a segment."""
        self.segment(name, replace(self.state.segments[name], **changes))

    def table(self, **changes: Any) -> None:
        """Change parts of what is known of the table."""
        self.set(table=replace(self.state.table, **changes))

    def prober(self, known: tuple[Any, Iterable[Effect]]) -> None:
        """Take what became of the prober, with its effects."""
        self.set(prober=known[0])
        self.do(*known[1])

    def canaries(self, canaries: Canaries) -> None:
        """Take what became of the canaries."""
        self.set(canaries=canaries)

    def hold(self, name: str, held: LeaseState, **changes: Any) -> None:
        """The kernel's table holds this from now on."""
        exposure = self.state.segments[name].exposure
        exposed = held in (LeaseState.NOTHING, LeaseState.EXPIRED)
        exposure = exposure.opened(self.now) if exposed else exposure.closed()
        self.change(name, held=held, exposure=exposure, **changes)

    def token(self, name: str) -> bytes:
        """Another one, that was never sent before."""
        self.set(serial=self.state.serial + 1)
        made = f"{name}/{self.state.serial}".encode()
        return token_from(hashlib.sha256(self.state.nonce + made).digest()[:6])

    def renew(self, name: str) -> None:
        """Nothing that is under way now proves anything any more."""
        self.change(name, token=self.token(name))
        self.canaries(self.state.canaries.forget(name))

    def suffer(self, reason: str) -> None:
        """Something could not be done: the table is looked at again soon, and it is told once."""
        self.table(check_ms=min(self.state.table.check_ms, self.now + RETRY_MS))
        if reason != self.state.table.trouble:
            self.table(trouble=reason)
            self.do(Warn("guard", unable(reason)))

    def exposures(self) -> dict[str, Exposure]:
        """By segment, also of those that have no guard any more."""
        return {**self.state.former, **{name: one.exposure for name, one in self.state.segments.items()}}

    def expose(self, name: str, exposure: Exposure) -> None:
        """Put what was counted of a segment."""
        if name in self.state.segments:
            self.change(name, exposure=exposure)
        else:
            self.set(former={**self.state.former, name: exposure})

    def keep(self) -> None:
        """Have a later process know what is worth knowing, if that has changed."""
        state = self.state
        value = {
            "on": state.on,
            "secret": state.secret.hex(),
            "digest": state.table.digest,
            "fingerprint": state.table.fingerprint,
            "nics": dict(state.nics),
            "segments": {name: one.kept() for name, one in self.exposures().items()},
        }
        if value != state.kept:
            self.set(kept=value)
            self.do(Keep(value))
