"""Print the daemon's table: what a decision costs, how soon it acts, and what it takes while nothing happens.

Takes about a minute and a half. `python -m bench.daemon`; needs root or unprivileged user namespaces.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bench.table import Row, show
from bench.world import spawned
from reconciler.appliance.declared import Carrier, Domain, Health, Heartbeat, OnFailure, Rung, Signal, Streak
from reconciler.health.policy import due, step
from reconciler.health.signal import Reading
from reconciler.health.signal import State as Colour
from reconciler.health.state import Rules, State, begin
from reconciler.lab.namespaces import become_lab_root
from reconciler.lab.rehearsal import Rehearsal, on, rehearsal

_STEPS = 20_000
_ROUNDS = 11
_IDLE_S = 20.0
_INTERVAL_MS = 100
_FALL = 3
_CARE = {
    "health": {"grace": "2s", "hold_down": "200ms", "hold_down_max": "200ms", "signals": {"wire": {"kind": "carrier"}}},
    "on_failure": {"restart": {"ladder": []}},
}


def main() -> None:
    """The table."""
    become_lab_root()
    show(row for rows in (_step, _failover, _missed, _idle, _asked) for row in rows())


def _step() -> Iterator[Row]:
    """One step of the policy: a beat of a healthy VM, by far the most frequent event."""
    signals = {
        "agent": Signal("agent", Heartbeat(_INTERVAL_MS, "/agent"), Streak(_FALL), Streak(5)),
        "vm": Signal("vm", Domain(), Streak(1), Streak(1)),
        "wire": Signal("wire", Carrier(), Streak(1), Streak(1)),
    }
    rules = Rules(("edge",), ("inspect", "bypass"), Health(signals), OnFailure(ladder=(Rung("reset", 1),)))
    state = begin(rules, {"edge": "inspect"}, 0)
    for reading in (Reading("vm", Colour.HEALTHY, "runs"), Reading("wire", Colour.HEALTHY, "carrier", "edge")):
        state, _ = step(state, reading, 0)
    beat = Reading("agent", Colour.HEALTHY, "3 checks healthy")
    yield Row("policy `step`, a beat", f"{_per_step(state, beat):.0f} µs", "50 µs")


def _per_step(state: State, beat: Reading) -> float:
    began = time.perf_counter()
    for number in range(_STEPS):
        state, _ = step(state, beat, number * _INTERVAL_MS)
    took = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(_STEPS):
        due(state)
    print(f"<!-- policy `due`: {(time.perf_counter() - began) / _STEPS * 1e6:.0f} µs -->")
    return took / _STEPS * 1e6


class _Log:
    """The daemon's log, with when each line came (seconds of the monotonic clock)."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.lines: list[tuple[float, Any]] = []
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.lines.append((time.monotonic(), json.loads(line)))

    def when(self, since_s: float, text: str) -> float | None:
        """When a line with this text came, after a moment."""
        return next((moment for moment, told in self.lines if moment >= since_s and text in told["text"]), None)


@contextmanager
def _kept(ports: int = 2) -> Iterator[tuple[Rehearsal, _Log, float]]:
    """A rehearsal with a daemon that inspects, its log, and how long it took until it had adopted (seconds)."""
    with (
        tempfile.TemporaryDirectory(prefix="reconcile-bench-") as folder,
        rehearsal(Path(folder), ports, care=_CARE) as made,
    ):
        made.start_daemon()
        made.wait_for(on("inspect"), "inspect")
        made.end_daemon()
        began = time.monotonic()
        daemon = made.start_daemon("--log", "json", stderr=subprocess.PIPE)
        assert daemon.stderr is not None
        log = _Log(daemon.stderr)
        made.wait_for(lambda status: all(one["verdict"] == "healthy" for one in status["segments"]), "health")
        made.lab.wait_until(lambda: log.when(0, "found inspect") is not None, 10, "adoption")
        adopted = log.when(0, "found inspect")
        assert adopted is not None
        yield made, log, adopted - began


def _failover() -> Iterator[Row]:
    """From the moment an adapter is seen without carrier to the last port in the bypass."""
    took, adopted = [], []
    with _kept() as (made, log, first):
        adopted.append(first)
        for _ in range(_ROUNDS):
            made.wait_for(on("inspect"), "inspect")
            began = time.monotonic()
            made.lab.run(["ip", "link", "set", "eth1", "down"], namespace=made.lab.vm)
            made.lab.wait_until(lambda began=began: log.when(began, "switched to bypass") is not None, 10, "bypass")
            failed, switched = log.when(began, "wire (edge) failed"), log.when(began, "switched to bypass")
            assert failed is not None
            assert switched is not None
            took.append((switched - failed) * 1_000)
            made.wait_for(on("bypass"), "bypass")
            made.lab.run(["ip", "link", "set", "eth1", "up"], namespace=made.lab.vm)
    yield Row("daemon start → adopted, a process of its own", f"{adopted[0]:.2f} s", "1.5 s")
    yield Row("carrier seen lost → last port in bypass, N=2", _spread(took, "ms"), "20 ms, 50 ms at most")


def _missed() -> Iterator[Row]:
    """From the last beat to the last port in the bypass, less the declared fall."""
    over = []
    fall_ms = _FALL * _INTERVAL_MS
    with _kept() as (made, log, _):
        for _ in range(_ROUNDS):
            made.wait_for(on("inspect"), "inspect")
            began = time.monotonic()
            os.kill(made.agent.pid, 19)  # SIGSTOP
            made.lab.wait_until(lambda began=began: log.when(began, "switched to bypass") is not None, 10, "bypass")
            decided = next(
                told for moment, told in log.lines if moment >= began and told.get("what") == "inspect → bypass"
            )
            switched = log.when(began, "switched to bypass")
            at = next(moment for moment, told in log.lines if told is decided)
            silent_ms = next(
                int(word.split("no beat for ")[1].split()[0]) for word in decided["why"] if "no beat" in word
            )
            assert switched is not None
            over.append(silent_ms - fall_ms + (switched - at) * 1_000)
            made.wait_for(on("bypass"), "bypass")
            os.kill(made.agent.pid, 18)  # SIGCONT
    yield Row(f"missed heartbeats → bypass, beyond the fall of {fall_ms} ms", _spread(over, "ms"), "10 ms")


def _idle() -> Iterator[Row]:
    """What a daemon takes that has nothing to do but hear beats."""
    with _kept(4) as (made, _, __):
        assert made.daemon is not None
        pid = made.daemon.pid
        before, began = _cpu_s(pid), time.monotonic()
        while time.monotonic() - began < _IDLE_S:
            time.sleep(0.1)
        share = (_cpu_s(pid) - before) / (time.monotonic() - began)
        yield Row("idle, N=4, a beat each 100 ms: CPU", f"{share:.2%} of one core", "1 %")
        yield Row("… memory", f"{_rss_mb(pid):.0f} MB", "60 MB")


def _asked() -> Iterator[Row]:
    """Asking a running daemon, each time as a process of its own."""
    with _kept() as (made, _, __):
        for words in (["--dry-run"], ["status"]):
            command = [str(Path(sys.executable).with_name("reconcile")), "-f", str(made.file), *words]
            times = []
            for _ in range(2 * _ROUNDS):
                began = time.perf_counter()
                with made.lab.host.entered():
                    spawned(command, made.environment)
                times.append((time.perf_counter() - began) * 1_000)
            yield Row(f"`reconcile {words[0]}` answered by the daemon, whole process", _spread(times, "ms"), "120 ms")


def _spread(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):.1f} {unit} (worst {max(values):.1f})"


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    line = next(one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
