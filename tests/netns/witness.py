"""An independent witness of a wire: every frame that arrives, whether the VM has had it, and what the VM was given.

The VM marks what it is given, in rules of its own, as a real one leaves its traces; so who receives can tell. Nothing
here is asked of the host whose books are compared with it.
"""

import contextlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.lab.lab import _WIRE, Lab
from reconciler.lab.sink import _FRAME_OFFSET, _SLOT_SIZE, Sink
from reconciler.lab.source import MIN_SIZE
from reconciler.lab.traffic import Source

_MARK = 0x04  # what DSCP 1 makes of the second byte of an IPv4 header
_TOS_OFFSET = 15


class MarkedSink(Sink):
    """A sink that knows of each frame whether the VM has had it."""

    def __init__(self, *of: object, **more: object) -> None:
        self.inspected = array("B")
        super().__init__(*of, **more)  # type: ignore[arg-type]

    def _take(self, first: int, count: int) -> None:
        begin = first * _SLOT_SIZE + _FRAME_OFFSET + _TOS_OFFSET
        self.inspected.extend(self._bytes[begin : begin + (count - 1) * _SLOT_SIZE + 1 : _SLOT_SIZE].tolist())
        super()._take(first, count)


@dataclass
class Stretch:
    """A stretch of time without a pause in which frames arrived past the VM; nanoseconds of the wall clock."""

    begin_ns: int
    end_ns: int
    frames: int = 1


class Witness:
    """Two clients that send to each other, and what became of their frames. Make it while the VM lives."""

    def __init__(self, lab: Lab, rate: int) -> None:
        self.lab, self.rate = lab, rate
        self.sinks: list[MarkedSink] = []
        self.sources: list[Source] = []
        self._given = 0
        self.mark()
        for here, there in ((0, 1), (1, 0)):
            stream = next(lab._streams)
            sink = MarkedSink(lab.clients[there], _WIRE, stream=stream, capacity=400_000)
            self.sinks.append(sink)
            self.sources.append(
                Source(lab.clients[here], _WIRE, destination=sink.mac, rate=rate, stream=stream, size=MIN_SIZE)
            )
        for one in self.sources:
            one.start()

    def mark(self) -> None:
        """Have the VM mark what it is given; again, after it has booted."""
        rule = "ip daddr 198.19.0.0/16 counter name given ip dscp set 1"
        chains = "\n".join(
            f'chain eth{n} {{ type filter hook ingress device "eth{n}" priority 0; {rule}; }}' for n in range(2)
        )
        self.lab.run(["nft", f"table netdev witness {{ counter given {{}}\n{chains}\n}}"], namespace=self.lab.vm)

    def kill_vm(self) -> None:
        """The VM dies, with what it counted."""
        self._given = self.given
        self.lab.kill_vm()

    def start_vm(self) -> None:
        """It boots: whatever it is given, it marks."""
        self.lab.start_vm(bridge=False)
        self.mark()
        self.lab.bridge_vm()

    @property
    def given(self) -> int:
        """How many frames the VM was given."""
        if self.lab.vm is None:
            return self._given
        told = self.lab.run(["nft", "-j", "list", "counters"], namespace=self.lab.vm).stdout
        counters = [one["counter"] for one in json.loads(told)["nftables"] if "counter" in one]
        return self._given + sum(one["packets"] for one in counters if one["name"] == "given")

    @property
    def arrived(self) -> tuple[int, int]:
        """How many frames have arrived that the VM has had, and past it."""
        for sink in self.sinks:
            sink.harvest()
        had = sum(sum(1 for tos in sink.inspected if tos & _MARK) for sink in self.sinks)
        return had, sum(len(sink.inspected) for sink in self.sinks) - had

    def stop(self) -> int:
        """Stop sending; how many frames were sent in all."""
        sent = [one.stop() for one in self.sources]
        for sink, one in zip(self.sinks, sent, strict=True):
            sink.drain(one.count, since_ns=one.last_ns, patience_s=0.3)
        assert not sum(one.refused for one in sent)
        return sum(one.count for one in sent)

    def stretches(self, pause_ms: int = 50) -> list[Stretch]:
        """When frames arrived past the VM."""
        found: list[Stretch] = []
        moments = sorted(
            moment
            for sink in self.sinks
            for moment, tos in zip(sink.arrivals().received_ns, sink.inspected, strict=True)
            if not tos & _MARK
        )
        for moment in moments:
            if found and moment - found[-1].end_ns < pause_ms * 1_000_000:
                found[-1].end_ns, found[-1].frames = moment, found[-1].frames + 1
            else:
                found.append(Stretch(moment, moment))
        return found

    def close(self) -> None:
        """End all that it has begun."""
        for one in (*self.sources, *self.sinks):
            one.close()
        if self.lab.vm is not None:
            self.lab.run(["nft", "delete table netdev witness"], namespace=self.lab.vm, check=False)


@contextlib.contextmanager
def witnessed(lab: Lab, rate: int) -> Iterator[Witness]:
    made = Witness(lab, rate)
    try:
        yield made
    finally:
        made.close()
