"""Print the daemon's table: what a decision costs, how soon it acts, and what it takes while nothing happens.

Takes about a minute and a half. `python -m bench.daemon`; needs root or unprivileged user namespaces.
"""

import contextlib
import itertools
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.links import Links
from bench.table import Row, show
from bench.world import spawned
from reconciler.appliance.declared import Carrier, Domain, Health, Heartbeat, OnFailure, Rung, Signal, Streak
from reconciler.health.policy import due, step
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import Rules, State, begin
from reconciler.host import clock
from reconciler.lab.namespaces import become_lab_root, kill
from reconciler.lab.rehearsal import Rehearsal, on, rehearsal

_STEPS = 20_000
_ROUNDS = 11
_IDLE_S = 20.0
_INTERVAL_MS = 100
_FALL = 3
_PATIENCE_S = 10.0
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
    healthy = HealthState.HEALTHY
    for reading in (Reading("vm", healthy, "runs"), Reading("wire", healthy, "carrier", "edge")):
        state, _ = step(state, reading, 0)
    beat = Reading("agent", HealthState.HEALTHY, "3 checks healthy")
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


class _Beats:
    """The VM's end of the agent's channel: beats as the agent sends them, and knows when it sent the last one."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(_INTERVAL_MS / 1_000)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._silent = False
        self.last_ns = 0
        self._thread = threading.Thread(target=self._serve, name="beats")
        self._thread.start()

    def stop(self) -> int:
        """Fall silent; when the last beat was sent, in ns of CLOCK_REALTIME."""
        with self._lock:
            self._silent = True
            return self.last_ns

    def go_on(self) -> None:
        """Beat again."""
        self._silent = False

    def close(self) -> None:
        """End."""
        self._over.set()
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                host, _ = self._listener.accept()
            except TimeoutError:
                continue
            with host, contextlib.suppress(OSError):
                self._beat(host)

    def _beat(self, host: socket.socket) -> None:
        beat = {
            "v": 1,
            "boot": clock.boot_id(),
            "run": secrets.token_hex(16),
            "interval_ms": _INTERVAL_MS,
            "checks": {},
        }
        for number in itertools.count(1):
            if self._over.wait(_INTERVAL_MS / 1_000):
                return
            with self._lock:
                if not self._silent:
                    self.last_ns = time.time_ns()
                    host.sendall(json.dumps({**beat, "seq": number}).encode() + b"\n")


@contextmanager
def _kept(ports: int = 2) -> Iterator[tuple[Rehearsal, float]]:
    """A rehearsal with a daemon that inspects, and how long it took until it had adopted and was ready (seconds)."""
    with (
        tempfile.TemporaryDirectory(prefix="reconcile-bench-") as folder,
        rehearsal(Path(folder), ports, care=_CARE) as made,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        made.start_daemon(stderr=subprocess.DEVNULL)
        made.wait_for(on("inspect"), "inspect")
        made.end_daemon()
        manager.bind(made.environment.setdefault("NOTIFY_SOCKET", f"{folder}/notify"))
        manager.settimeout(_PATIENCE_S)
        ready: list[float] = []

        def hear() -> None:
            while b"READY=1" not in manager.recv(4_096):
                pass
            ready.append(time.monotonic())

        hearing = threading.Thread(target=hear)
        hearing.start()
        began = time.monotonic()
        made.start_daemon(stderr=subprocess.DEVNULL)
        hearing.join(_PATIENCE_S)
        made.wait_for(lambda status: all(one["verdict"] == "healthy" for one in status["segments"]), "health")
        yield made, ready[0] - began


def _failover() -> Iterator[Row]:
    """From the moment an adapter is told to have no carrier to the last port in the bypass, both by the kernel."""
    took = []
    with _kept() as (made, adopted), Links(made.lab.host) as links:
        for _ in range(_ROUNDS):
            made.wait_for(on("inspect"), "inspect")
            began = time.time_ns()
            made.lab.run(["ip", "link", "set", "eth1", "down"], namespace=made.lab.vm)
            moved = _moved(made, links, began)
            lost = links.lost(made.lab.adapters, began)
            assert lost is not None
            took.append((moved - lost) / 1e6)
            made.wait_for(on("bypass"), "bypass")
            made.lab.run(["ip", "link", "set", "eth1", "up"], namespace=made.lab.vm)
    yield Row("daemon start → adopted and ready, a process of its own", f"{adopted:.2f} s", "1.5 s")
    yield Row("carrier told lost → last port told in bypass, N=2", _spread(took, "ms"), "20 ms, 50 ms at most")


def _missed() -> Iterator[Row]:
    """From the last beat to the last port told in the bypass, less the declared fall."""
    over = []
    fall_ms = _FALL * _INTERVAL_MS
    with _kept() as (made, _), Links(made.lab.host) as links:
        kill(made.agent)
        beats = _Beats(made.folder / "agent.sock")
        try:
            for _ in range(_ROUNDS):
                made.wait_for(_well, "inspect, and beats")
                last = beats.stop()
                # From now on: the way back may have been younger than the last beat.
                moved = _moved(made, links, time.time_ns())
                over.append((moved - last) / 1e6 - fall_ms)
                made.wait_for(on("bypass"), "bypass")
                beats.go_on()
        finally:
            beats.close()
    yield Row(f"missed heartbeats → bypass, beyond the fall of {fall_ms} ms", _spread(over, "ms"), "10 ms")


def _well(status: Any) -> bool:
    return on("inspect")(status) and all(one["verdict"] == "healthy" for one in status["segments"])


def _moved(made: Rehearsal, links: Links, since_ns: int) -> int:
    """Wait until all ports are told to be in the bypass; when the last one was, in ns of CLOCK_REALTIME."""
    found: list[int | None] = [None]

    def all_moved() -> bool:
        found[0] = links.moved(made.lab.ports, "sw-bypass", since_ns)
        return found[0] is not None

    made.lab.wait_until(all_moved, _PATIENCE_S, "bypass")
    assert found[0] is not None
    return found[0]


def _idle() -> Iterator[Row]:
    """What a daemon takes that has nothing to do but hear beats."""
    with _kept(4) as (made, _):
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
    with _kept() as (made, _):
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
