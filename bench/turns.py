"""Print the longest turns of the daemon's loop while a VM behind many guarded ports dies and comes back.

Takes about a minute. `python -m bench.turns [PORTS]`; needs root or unprivileged user namespaces. Each turn is told
with the time that passed and with what its thread worked: others on the machine take from the first alone.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.table import Row, show
from reconciler.control.ask import NoDaemonError, ask, socket_of
from reconciler.errors import TransientError
from reconciler.lab.appliance import appliance_file
from reconciler.lab.lab import Lab
from reconciler.lab.namespaces import LabError, become_lab_root
from reconciler.lab.rehearsal import on

_PORTS = 32
_ROUNDS = 3
_PATIENCE_S = 60.0
# Shorter ones are of no interest.
_LEAST_NS = 1_000_000
_SECTIONS = {
    "health": {"grace": "2s", "hold_down": "300ms", "hold_down_max": "1s", "signals": {"wire": {"kind": "carrier"}}},
    "on_failure": {"restart": {"ladder": []}},
    "guard": {"lease": "200ms"},
}


class _Turn(NamedTuple):
    """One callback of the loop: when it ended, in ns of CLOCK_REALTIME; how long it took, and worked; who it was."""

    ended_ns: int
    took_ms: float
    worked_ms: float
    who: str


def main() -> None:
    """The table."""
    ports = int(sys.argv[1]) if len(sys.argv) > 1 else _PORTS
    become_lab_root()
    turns = {"VM killed → bypass": list[_Turn](), "VM started → inspect": list[_Turn]()}
    segments = [(number, number + 1) for number in range(0, ports, 2)]
    with Lab(ports, segments=segments) as lab, tempfile.TemporaryDirectory(prefix="reconcile-bench-") as folder:
        daemon = _Daemon(lab, Path(folder))
        try:
            daemon.until("inspect", leased=True)
            for _ in range(_ROUNDS):
                began = time.time_ns()
                lab.kill_vm()
                daemon.until("bypass", leased=False)
                turns["VM killed → bypass"] += daemon.turns(began)
                began = time.time_ns()
                lab.start_vm()
                daemon.until("inspect", leased=True)
                turns["VM started → inspect"] += daemon.turns(began)
        finally:
            daemon.end()
    for what, found in turns.items():
        for one in sorted(found, key=lambda turn: -turn.worked_ms)[:5]:
            print(f"<!-- {what}: {one.took_ms:.1f} ms, {one.worked_ms:.1f} ms of work: {one.who} -->")
    show(
        Row(
            f"longest turn of the loop, {ports} guarded ports, {what}",
            f"{max(one.took_ms for one in found):.1f} ms, of work {max(one.worked_ms for one in found):.1f} ms",
            "20 ms",
        )
        for what, found in turns.items()
    )


class _Daemon:
    """A daemon that keeps the lab's guards, and writes down its turns."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        file, self._turns = folder / "appliance.yaml", folder / "turns"
        file.write_text(appliance_file(lab.ports, lab.adapters, lab.segments, sections=_SECTIONS), encoding="ascii")
        variables = {"RECONCILER_STATE_DIR": f"{folder}/state", "RECONCILER_RUN_DIR": f"{folder}/run"}
        words = [sys.executable, "-m", "bench.turns", "--keep", str(self._turns), "-f", str(file)]
        self._lab, self._words, self._environment = lab, words, {**os.environ, **variables}
        self._socket = socket_of(folder / "run", f"lab-{len(lab.ports)}port")
        self._process = lab.host.spawn([*words, "run"], env=self._environment, stderr=subprocess.DEVNULL)

    def until(self, topology: str, *, leased: bool) -> None:
        """Wait until all segments have this topology, and are leased or not."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self._is(topology, leased=leased):
            if time.monotonic() > deadline:
                raise LabError(f"waited {_PATIENCE_S:g} s in vain for {topology} everywhere")
            # An answer is a turn, too.
            time.sleep(0.25)

    def _is(self, topology: str, *, leased: bool) -> bool:
        try:
            status = ask(self._socket, do="status")["status"]
        except (NoDaemonError, TransientError):
            return False
        guards = (status["guard"] or {"segments": []})["segments"]
        return on(topology)(status) and bool(guards) and all((one["state"] == "leased") is leased for one in guards)

    def turns(self, since_ns: int) -> list[_Turn]:
        """Those that ended since then."""
        told = (_Turn(*json.loads(line)) for line in self._turns.read_text(encoding="utf-8").splitlines())
        return [one for one in told if one.ended_ns >= since_ns]

    def end(self) -> None:
        """End it, and take its guard away."""
        self._process.terminate()
        self._process.wait(_PATIENCE_S)
        words, quiet = [*self._words, "guard", "off"], {"stdout": subprocess.DEVNULL}
        with self._lab.host.spawn(words, env=self._environment, **quiet) as gone:
            gone.wait(_PATIENCE_S)


def _keep(path: str) -> None:
    """The command line as always, whose loop writes its turns down."""
    run: Callable[[Any], None] = asyncio.events.Handle._run  # noqa: SLF001 - the one place that every turn passes
    told = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def timed(handle: Any) -> None:
        began, worked = time.perf_counter_ns(), time.thread_time_ns()
        who = repr(handle._callback)  # noqa: SLF001
        run(handle)
        took, worked = time.perf_counter_ns() - began, time.thread_time_ns() - worked
        if took >= _LEAST_NS:
            os.write(told, json.dumps([time.time_ns(), took / 1e6, worked / 1e6, who[:120]]).encode() + b"\n")

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]  # noqa: SLF001
    from reconciler.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    if "--keep" in sys.argv:
        at = sys.argv.index("--keep")
        _, path = sys.argv[at : at + 2]
        del sys.argv[at : at + 2]
        _keep(path)
    else:
        main()
