"""The books of a daemon, as the ledger and the status have them, beside what a witness of the wire has seen."""

import json
from dataclasses import dataclass
from typing import Any

from guarded import Guarded
from processes import PATIENCE_S
from witness import Witness

from reconciler.host import clock

RATE = 500
# Time is known to within this, or as said; a frame comes each so often.
WITHIN_MS = 20 + 1_000 // RATE


@dataclass(frozen=True)
class Span:
    """A stretch of time that is booked, or that was seen; milliseconds since 1970. `within_ms`: as the books say."""

    begin_ms: int
    end_ms: int
    frames: int
    within_ms: int = 0
    exact: bool = True


class Books:
    """The books of a daemon since now, beside what a witness has seen."""

    def __init__(self, kept: Guarded, witness: Witness) -> None:
        self.kept, self.witness = kept, witness
        kept.until(lambda: witness.arrived[0] > 100, "traffic through the VM")
        self._before = self._booked
        self._since_ms = clock.wall_ms()

    @property
    def _booked(self) -> dict[str, Any]:
        (segment,) = self.kept.status()["segments"]
        return {what: segment[what] for what in ("passed", "cut")}

    def booked(self, what: str) -> int:
        return int(self._booked[what]["frames"] - self._before[what]["frames"])

    def rows(self) -> list[dict[str, Any]]:
        """What the ledger has had since the beginning."""
        path = self.kept.folder / "state" / f"{self.kept.sku}.ledger.jsonl"
        rows = [json.loads(line)["entry"] for line in path.read_text().splitlines()]
        return [one for one in rows if one["from_ms"] >= self._since_ms]

    def spans(self, kind: str) -> list[Span]:
        """The ledger's intervals of a kind; those that follow each other without a gap are one."""
        known = {one["id"]: one for one in self.rows() if one["kind"] == kind}
        found: list[Span] = []
        for one in sorted(known.values(), key=lambda one: int(one["from_ms"])):
            assert one["to_ms"] is not None, one
            new = Span(one["from_ms"], one["to_ms"], one["frames"], one["precision_ms"], one["counted"] == "exact")
            if found and new.begin_ms - found[-1].end_ms <= 1:
                last = found.pop()
                within = max(last.within_ms, new.within_ms)
                new = Span(last.begin_ms, new.end_ms, last.frames + new.frames, within, last.exact and new.exact)
            found.append(new)
        return found

    def more(self, frames: int = 200) -> None:
        """Wait until so many more frames have gone past the VM."""
        then = self.witness.arrived[1]
        self.kept.until(lambda: self.witness.arrived[1] >= then + frames, "frames past the VM", PATIENCE_S)

    def settled(self) -> None:
        """All is well again, and traffic goes through the VM; then nothing is sent any more."""
        self.kept.inspects()
        then = self.witness.arrived[0]
        self.kept.until(lambda: self.witness.arrived[0] >= then + 100, "traffic through the VM", PATIENCE_S)
        self.sent = self.witness.stop()

    @property
    def passed(self) -> int:
        return self.witness.arrived[1]

    def seen(self) -> list[Span]:
        """When frames went past the VM, by when they arrived."""
        return [
            Span(one.begin_ns // 1_000_000, one.end_ns // 1_000_000, one.frames) for one in self.witness.stretches()
        ]

    def off(self, spans: list[Span]) -> int:
        """By how much the worst begin or end is beyond what the books say of it, in ms; nothing, if none is."""
        none = [Span(0, 0, 0)]
        beyond = [0] + [
            min(
                max(span.begin_ms - one.begin_ms, one.end_ms - span.end_ms) - WITHIN_MS - span.within_ms
                for span in spans or none
            )
            for one in self.seen()
        ]
        for span in spans:
            inside = [one for one in self.seen() if one.end_ms >= span.begin_ms and one.begin_ms <= span.end_ms]
            if inside:
                early, late = inside[0].begin_ms - span.begin_ms, span.end_ms - inside[-1].end_ms
                beyond.append(max(early, late) - WITHIN_MS - span.within_ms)
        return max(beyond)
