"""What of the agent's channel is believed. No I/O, no clock: bytes and the time in, readings out.

Each reading stands for one beat, and the verdict counts those that are missing by its own clock. So the rules here are
about beats that must not count:

- *replayed*: the sequence number does not rise, or the run is one that another one has followed.
- *early*: less than half the declared interval after the beat before. A VM that was stopped sends what it held all at
  once; that is one sign of life, not many. Bad news is told nevertheless.
- *malformed*, *oversized*: one is noise (a channel opened in the middle of a line); more than a few make a liar, who is
  not believed for a while, whatever else it says.
- *flooding*: more than the budget. The connection is dropped; the liar's rule follows.

Everything is bounded: one line of 4096 bytes, the runs remembered, two readings for each half interval.
"""

from collections import deque
from dataclasses import dataclass, field

from reconciler.health.signal import HealthState, Reading
from reconciler.host.signals.beat import MAX_LINE, Beat, Check, NoBeatError, Reader

_RUNS = 64
# So many lines may come at once (a host that stalled for a while finds them waiting), and so many for each interval.
_BURST_LINES, _LINES_PER_INTERVAL, _MAX_LINES_PER_MS = 100.0, 5.0, 1.0
# What a read costs of the budget, beside its lines: a guest that sends single bytes costs us a wake-up for each.
_READ_COST = 1 / 8
# More such lines than this within the window make a liar.
_OFFENCES = 3
_OFFENCE_WINDOW_MS, _OFFENCE_WINDOW_INTERVALS = 1000, 10
_DISTRUST_MS = 2000
# Beats may jitter; a gap this long means that one was missing.
_LATE_INTERVALS = 2


@dataclass(slots=True)
class BeatCounters:
    """What came, since the start of the process. `beats` were believed."""

    beats: int = 0
    early: int = 0
    late: int = 0
    replayed: int = 0
    malformed: int = 0
    oversized: int = 0
    distrusted: int = 0
    floods: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Fed:
    """What some bytes amount to; `drop`: the connection is to be dropped."""

    readings: tuple[Reading, ...] = ()
    drop: bool = False


_NOTHING = Fed()


@dataclass(slots=True)
class _Budget:
    """A bucket of lines that refills with time. Outlives a connection: a flood gets no other one by reconnecting."""

    per_ms: float
    left: float = _BURST_LINES
    since_ms: float | None = None

    def refill(self, now_ms: float) -> None:
        if self.since_ms is not None:
            self.left = min(_BURST_LINES, self.left + max(0.0, now_ms - self.since_ms) * self.per_ms)
        self.since_ms = now_ms

    def take(self, lines: float) -> bool:
        self.left = max(0.0, self.left - lines)
        return self.left > 0


@dataclass(slots=True)
class _Lines:
    """Lines out of bytes as they come. None stands for a line that is too long; its bytes are not kept."""

    partial: bytearray = field(default_factory=bytearray)
    skipping: bool = False

    def reset(self) -> None:
        self.partial.clear()
        self.skipping = False

    def next(self, data: bytes, start: int) -> tuple[int, bytes | None, bool]:
        """One line from `start` on: where the next begins, the line, and whether there was one."""
        end = data.find(b"\n", start)
        piece = data[start : end if end >= 0 else len(data)]
        if self.skipping:
            self.skipping = end < 0
            return (len(data) if end < 0 else end + 1), b"", False
        if len(self.partial) + len(piece) >= MAX_LINE:
            self.partial.clear()
            self.skipping = end < 0
            return (len(data) if end < 0 else end + 1), None, True
        self.partial += piece
        if end < 0:
            return len(data), b"", False
        line = bytes(self.partial)
        self.partial.clear()
        return end + 1, line, True


class Beats:
    """The judge of one heartbeat channel. Times are milliseconds of a clock that never goes back."""

    def __init__(self, signal: str, interval_ms: int) -> None:
        self._signal, self._interval_ms = signal, interval_ms
        self.counters = BeatCounters()
        self._lines, self._reader = _Lines(), Reader()
        self._budget = _Budget(min(_LINES_PER_INTERVAL / interval_ms, _MAX_LINES_PER_MS))
        self._run: tuple[str, str] | None = None
        self._seq = 0
        self._old_runs: deque[tuple[str, str]] = deque(maxlen=_RUNS)
        self._offences: deque[float] = deque(maxlen=_OFFENCES + 1)
        self._distrust_ms = float("-inf")
        self._distrust = ""
        self._beat_ms = float("-inf")
        self._reported_ms = float("-inf")
        self._reported_failed = False

    def connected(self) -> None:
        """A new connection: half a line of the old one is nobody's."""
        self._lines.reset()

    def feed(self, data: bytes, now_ms: float) -> Fed:
        """Take what was read at `now_ms`."""
        self._budget.refill(now_ms)
        calm = self._budget.take(_READ_COST + len(data) / MAX_LINE)
        readings: list[Reading] = []
        start = 0
        while calm and start < len(data):
            start, line, whole = self._lines.next(data, start)
            if whole:
                calm = self._budget.take(1)
                if reading := self._line(line, now_ms):
                    readings.append(reading)
        if not calm:
            self.counters.floods += 1
            if reading := self._offended("the agent floods its channel", now_ms):
                readings.append(reading)
            return Fed(tuple(readings), drop=True)
        return Fed(tuple(readings)) if readings else _NOTHING

    def _line(self, line: bytes | None, now_ms: float) -> Reading | None:
        if line is None:
            self.counters.oversized += 1
            return self._offence(f"longer than {MAX_LINE} bytes", now_ms)
        try:
            beat = self._reader.read(line)
        except NoBeatError as error:
            self.counters.malformed += 1
            return self._offence(str(error), now_ms)
        if not self._is_new(beat):
            self.counters.replayed += 1
            return None
        return self._beat(beat, now_ms)

    def _is_new(self, beat: Beat) -> bool:
        run = (beat.boot, beat.run)
        if run == self._run:
            new = beat.seq > self._seq
        else:
            new = run not in self._old_runs
            if new and self._run is not None:
                self._old_runs.append(self._run)
                self.counters.restarts += 1
                self._beat_ms = float("-inf")
        if new:
            self._run, self._seq = run, beat.seq
        return new

    def _beat(self, beat: Beat, now_ms: float) -> Reading | None:
        if now_ms - self._beat_ms > _LATE_INTERVALS * self._interval_ms and self._beat_ms > float("-inf"):
            self.counters.late += 1
        self._beat_ms = now_ms
        if now_ms < self._distrust_ms:
            self.counters.distrusted += 1
            return self._reported(HealthState.FAILED, self._distrust, now_ms)
        if beat.stopping:
            # The first that anybody hears of a clean shutdown; libvirt tells it when it is over.
            reason = "the agent was told to stop: the VM shuts down, or somebody replaces the agent"
            return Reading(self._signal, HealthState.FAILED, reason, deliberate=True)
        reading = self._reported(*self._judged(beat), now_ms)
        if reading is None:
            self.counters.early += 1
        else:
            self.counters.beats += 1
        return reading

    def _judged(self, beat: Beat) -> tuple[HealthState, str]:
        for state in (HealthState.FAILED, HealthState.DEGRADED):
            if said := [_said(check) for check in beat.checks if check.state is state]:
                return state, "; ".join(said)
        if beat.interval_ms != self._interval_ms:
            return HealthState.DEGRADED, f"beats each {beat.interval_ms} ms, declared are {self._interval_ms} ms"
        number = len(beat.checks)
        return HealthState.HEALTHY, f"{number} check{'' if number == 1 else 's'} healthy" if number else "beats"

    def _offence(self, why: str, now_ms: float) -> Reading | None:
        self._offences.append(now_ms)
        window_ms = max(_OFFENCE_WINDOW_MS, _OFFENCE_WINDOW_INTERVALS * self._interval_ms)
        if len(self._offences) <= _OFFENCES or now_ms - self._offences[0] > window_ms:
            return None
        return self._offended(f"the agent sends what is no beat: {why}", now_ms)

    def _offended(self, reason: str, now_ms: float) -> Reading | None:
        self._distrust = reason
        self._distrust_ms = now_ms + max(_DISTRUST_MS, _OFFENCE_WINDOW_INTERVALS * self._interval_ms)
        return self._reported(HealthState.FAILED, reason, now_ms)

    def _reported(self, state: HealthState, reason: str, now_ms: float) -> Reading | None:
        """A reading, unless one was told less than half an interval ago. Then only what is worse."""
        if now_ms - self._reported_ms >= self._interval_ms / 2:
            self._reported_ms = now_ms
        elif self._reported_failed or state is not HealthState.FAILED:
            return None
        self._reported_failed = state is HealthState.FAILED
        return Reading(self._signal, state, reason)


def _said(check: Check) -> str:
    return f"{check.name}: {check.reason or check.state}"
