"""Traffic whose losses, duplicates, reorderings and gaps are measured: sources, sinks, and both together as flows."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from reconciler.lab import source as source_program
from reconciler.lab.measure import Arrivals, Measured, measure
from reconciler.lab.namespaces import LabError, Namespace
from reconciler.lab.program import Program
from reconciler.lab.sink import Sink
from reconciler.lab.source import MAX_RATE, MIN_RATE, MIN_SIZE, Sent

__all__ = ["Arrivals", "Flow", "Measured", "Sent", "Sink", "Source", "Traffic", "measure"]


class Source(Program):
    """A process that sends numbered frames out of an interface at a steady rate. Ready to start once constructed."""

    def __init__(
        self,
        namespace: Namespace,
        ifname: str,
        *,
        destination: bytes,
        rate: int,
        stream: int,
        size: int = MIN_SIZE,
    ) -> None:
        """Start the process and wait until it is ready.

        Args:
            namespace: Where the interface is.
            ifname: The interface.
            destination: MAC address, 6 bytes.
            rate: Frames per second, 100 to 20,000.
            stream: What tells its frames from others', 0 to 65,535.
            size: Bytes per frame, 62 to 1,500.

        Raises:
            LabError: The process could not bind to the interface.
            ValueError: The rate is out of range.
        """
        if not MIN_RATE <= rate <= MAX_RATE:
            raise ValueError(f"rate {rate} is not within {MIN_RATE} to {MAX_RATE} frames/s")
        arguments = {"--destination": destination.hex(":"), "--rate": rate, "--stream": stream, "--size": size}
        self._started = False
        super().__init__(
            namespace,
            Path(source_program.__file__),
            [ifname, *(f"{key}={value}" for key, value in arguments.items())],
            f"source of stream {stream} on {ifname} in {namespace.name!r}",
        )

    def start(self) -> None:
        """Begin to send."""
        self._started = True
        self._say()

    def stop(self) -> Sent:
        """Stop sending, and say what was sent.

        Raises:
            LabError: It was never started, or the process died.
        """
        if not self._started:
            raise LabError(f"{self._what} was never started")
        self._say()
        # The process ends by itself now. Not waited for here, because other sources may be waiting to be stopped.
        return Sent(**self._answer())


class Flow:
    """One stream from a source to a sink.

    Attributes:
        name: What a picture calls it.
        rate: Frames per second.
        source: Sends.
        sink: Receives.
        sent: What was sent, once stopped.
    """

    def __init__(
        self,
        source_ns: Namespace,
        source_ifname: str,
        sink_ns: Namespace,
        sink_ifname: str,
        *,
        rate: int,
        stream: int,
        size: int = MIN_SIZE,
        capacity: int = 200_000,
        name: str | None = None,
    ) -> None:
        """Make both ends; see `Source` and `Sink` for the arguments and errors."""
        self.name = name or f"{source_ns.name} -> {sink_ns.name}"
        self.rate = rate
        self.sent: Sent | None = None
        with contextlib.ExitStack() as undo:
            self.sink = undo.enter_context(Sink(sink_ns, sink_ifname, stream=stream, capacity=capacity))
            self.source = Source(
                source_ns, source_ifname, destination=self.sink.mac, rate=rate, stream=stream, size=size
            )
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to send."""
        self.source.start()

    @property
    def arrived(self) -> int:
        """How many frames have arrived by now, duplicates included. Grows while traffic passes."""
        self.sink.harvest()
        return self.sink.arrived

    def stop(self, *, patience_s: float = 0.2) -> Measured:
        """Stop sending, wait for frames under way and measure the whole stream.

        Args:
            patience_s: How long a frame may be under way, in seconds. Waited out only if frames are missing.
        """
        self.halt()
        return self.settle(patience_s=patience_s)

    def halt(self) -> None:
        """Stop sending, and no more: the first half of `stop`, for many flows at once."""
        self.sent = self.source.stop()

    def settle(self, *, patience_s: float = 0.2) -> Measured:
        """Wait for frames under way and measure the whole stream: the second half of `stop`."""
        if self.sent is not None:
            self.sink.drain(self.sent.count, since_ns=self.sent.last_ns, patience_s=patience_s)
        return self.measure()

    def measure(self, since_ns: int | None = None, until_ns: int | None = None) -> Measured:
        """Measure a stopped stream within a window of time; see `measure`.

        Raises:
            LabError: The flow has not been stopped.
        """
        if self.sent is None:
            raise LabError(f"{self.name} has not been stopped, so what it sent is not known")
        return measure(self.sink.arrivals(), self.sent, since_ns, until_ns)

    def close(self) -> None:
        """End both ends. May be called again."""
        self.source.close()
        self.sink.close()


class Traffic:
    """Several flows that start and stop together.

    Attributes:
        flows: The flows; the results of `stop` stand in the same order.
    """

    def __init__(self, flows: Iterable[Flow]) -> None:
        """Take over the flows; they are closed with it, and also if making one of them fails."""
        with contextlib.ExitStack() as undo:
            made: list[Flow] = [undo.enter_context(flow) for flow in flows]
            undo.pop_all()
        self.flows = tuple(made)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to send in every flow."""
        for flow in self.flows:
            flow.start()

    def arrived(self) -> tuple[int, ...]:
        """How many frames have arrived by now, per flow."""
        return tuple(flow.arrived for flow in self.flows)

    def stop(self, *, patience_s: float = 0.2) -> tuple[Measured, ...]:
        """Stop every source first, then measure each flow; see `Flow.stop`."""
        for flow in self.flows:
            flow.halt()
        return tuple(flow.settle(patience_s=patience_s) for flow in self.flows)

    def close(self) -> None:
        """End all flows. May be called again."""
        for flow in self.flows:
            flow.close()
