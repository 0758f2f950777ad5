"""Where a scene is played: a rehearsal that is looked after in one of the modes, and what can be done there."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.faults.scene import GUARDED, Inside, Line, Mode, Setting
from bench.world import World, spawned
from reconciler.appliance.load import load
from reconciler.control.ask import ask, socket_of
from reconciler.errors import ReconcilerError
from reconciler.guard.rules import mark_of
from reconciler.host.guard.prober_client import Probing
from reconciler.host.guard.table import KernelTable
from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.delay import Delay
from reconciler.lab.ips import Suricata
from reconciler.lab.lab import Lab
from reconciler.lab.namespaces import LabError
from reconciler.lab.rehearsal import Rehearsal, on
from reconciler.lab.traffic import Traffic

PROBES = 0x88B5
"""The ethertype of the guard's probes."""
PATIENCE_S = 30.0
PRIORITY = 20
"""Real-time, above the guard's probes: of what sends and counts, and must not be late itself."""
_THREADS = ("W#01-eth0", "W#02-eth0")
# Asking is a burden on who answers, so it is not done all the time.
_POLL_S = 0.02
_SOME = 100
_INSIDE_MS = 1.0
# Of a VM that is stopped, some 750 small frames: about what a tap and a virtio ring hold.
_HELD_BYTES = 300_000
# Short, so that runs follow each other soon. Nobody restarts the VM: what breaks it, repairs it.
_HEALTH = {
    "grace": "300ms",
    "hold_down": "200ms",
    "hold_down_max": "200ms",
    "flap_memory": "1s",
    "signals": {"wire": {"kind": "carrier"}},
}
_CARE = {"health": _HEALTH, "on_failure": {"restart": {"ladder": []}}}


class Stage:
    """See the module; made by `stage`.

    Attributes:
        made: The rehearsal.
        lab: Its lab.
        mode: Who looks after the wire.
        vm: The program that forwards in the VM, if it is not a bridge.
    """

    def __init__(self, made: Rehearsal, setting: Setting, mode: Mode, vm: "Delay | Suricata | None") -> None:
        self.made, self.lab, self.setting, self.mode, self.vm = made, made.lab, setting, mode, vm
        self._journal = made.folder / "journal"
        self._journal.touch()
        self._read = 0
        # While nothing flows: it sends frames of its own, and holds threads. It stays the same until the machine boots.
        self._probes_thread = vm.thread_of(PROBES) if isinstance(vm, Suricata) else ""
        if mode is Mode.HAND:
            self._move("inspect")
            self._batch = self._prepared()
        else:
            self.start_daemon()

    # Who looks after it

    def start_daemon(self) -> None:
        """Start the daemon, unless it runs."""
        daemon = self.made.daemon
        if daemon is None or daemon.poll() is not None:
            with self._journal.open("ab") as file:
                self.made.start_daemon("--log", "json", stderr=file)

    def kill_daemon(self) -> None:
        """SIGKILL."""
        assert self.made.daemon is not None
        self.made.daemon.kill()
        self.made.daemon.wait()

    def ask(self, **request: Any) -> dict[str, Any]:
        """What the daemon answers."""
        return ask(socket_of(self.made.folder / "run", self.made.sku), **request)

    def prober(self) -> int:
        """The process that sends the probes."""
        pid = self.made.status()["guard"]["prober"]["pid"]
        assert isinstance(pid, int)
        return pid

    def trips(self) -> int | None:
        """How often the guard has tripped by itself, as the daemon knows."""
        if self.mode not in GUARDED:
            return None
        return sum(int(one["trips"]) for one in self.made.status()["guard"]["segments"])

    def prioritize(self) -> None:
        """What tells of the VM is in it, and the VM that this stands for has cores of its own."""
        for task in Path(f"/proc/{self.made.agent.pid}/task").iterdir():
            # A thread may end meanwhile; and who may not is as late as the machine makes it.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(PRIORITY))

    def alone(self) -> None:
        """Right before the fault: nobody is left but who the mode says."""
        if self.mode is Mode.GUARD:
            self.kill_daemon()

    def by_hand(self) -> None:
        """Right after the fault: somebody, if the mode says so, moves the ports."""
        if self.mode is Mode.HAND:
            with self.lab.host.entered():
                spawned(["ip", "-force", "-batch", str(self._batch)], self.made.environment, (0, 1))

    def recover(self) -> None:
        """Once the fault is repaired: back to how it was, in every mode."""
        if self.mode is Mode.HAND:
            self._move("inspect")
        else:
            self.start_daemon()
            self.well()

    def well(self) -> None:
        """Wait until the daemon has the traffic inspected, and the guard its leases."""
        if self.mode is Mode.HAND:
            return
        seen: list[Any] = [None]
        passed: list[int | None] = [-1]

        def holds() -> bool:
            seen[0] = status = self.made.status()
            before, passed[0] = passed[0], self.passed()
            if status is None or not on("inspect")(status):
                return False
            # What the daemon says of the leases, and what the kernel does.
            leased = self.mode not in GUARDED or all(one["state"] == "leased" for one in status["guard"]["segments"])
            healthy = all(one["verdict"] == "healthy" for one in status["segments"])
            return leased and healthy and passed[0] == before

        wait_until(holds, "inspection", lambda: f"{json.dumps(seen[0])}\n{self.told()}")

    def _move(self, topology: str) -> None:
        with self._world() as world:
            world.to(topology)

    def _prepared(self) -> Path:
        with self._world() as world:
            return world.batch("bypass")

    @contextlib.contextmanager
    def _world(self) -> Iterator[World]:
        made = self.made
        with self.lab.host.entered(), Kernel() as kernel:
            appliance = load(made.file.read_bytes(), str(made.file))
            yield World(self.lab, appliance, kernel, made.file, made.environment)

    # What is known

    def journal(self) -> list[Line]:
        """All lines so far of all daemons, with `ns`, the time of CLOCK_REALTIME."""
        lines = []
        for text in self._journal.read_text(encoding="utf-8").splitlines():
            # What is not a line of the journal is a daemon's last words.
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                line["ns"] = int(datetime.fromisoformat(line["time"]).timestamp() * 1_000) * 1_000_000
                lines.append(line)
        return lines

    def news(self) -> str:
        """What the journal tells since the last time, for people."""
        lines = self.journal()
        new, self._read = lines[self._read :], len(lines)
        return "\n".join(f"    {line['time']} {line['event']}: {line['text']}" for line in new)

    def told(self, lines: int = 25) -> str:
        """The end of the journal, for people."""
        return "\n".join(self._journal.read_text(encoding="utf-8").splitlines()[-lines:])

    def passed(self) -> int | None:
        """How many frames the guard has let past the VM since its table was set."""
        if self.mode not in GUARDED:
            return None
        try:
            with self.lab.host.entered(), KernelTable(self.made.sku) as table:
                return sum(frames for name, (frames, _) in table.count().counted.items() if "/port/" in name)
        except ReconcilerError:
            return 0

    def marks(self) -> set[bytes]:
        """What the source addresses of probes begin with."""
        if self.mode not in GUARDED:
            return set()
        notes = json.loads((self.made.folder / "run" / f"{self.made.sku}.guard.json").read_text(encoding="ascii"))
        names = ["edge"] if len(self.lab.segments) == 1 else [f"seg{n}" for n in range(len(self.lab.segments))]
        return {mark_of(bytes.fromhex(notes["secret"]), name) for name in names}

    def struck(self) -> int:
        """How many of the lab's flows belong to the first segment, which the faults are about; they come first."""
        size = len(self.lab.segments[0])
        return size * (size - 1)

    def flowing(self, traffic: Traffic) -> None:
        """Wait until more frames arrive, in all flows."""
        before = traffic.arrived()
        more = lambda: all(now > then + _SOME for now, then in zip(traffic.arrived(), before, strict=True))  # noqa: E731
        wait_until(more, "traffic in all flows", lambda: f"{before} {traffic.arrived()}\n{self.told()}")

    # What only some scenes need

    def slow(self) -> Delay:
        """The VM that takes its time."""
        assert isinstance(self.vm, Delay)
        return self.vm

    def suricata(self) -> Suricata:
        """The IPS in the VM."""
        assert isinstance(self.vm, Suricata)
        return self.vm

    def thread(self, *, of_probes: bool) -> str:
        """A capture thread of ``eth0``: the one that the guard's probes go through, or the other one."""
        return next(name for name in _THREADS if (name == self._probes_thread) is of_probes)


def wait_until(condition: Callable[[], bool], what: str, otherwise: Callable[[], str] = str) -> None:
    """Wait until a condition holds.

    Raises:
        LabError: it did not hold in time; says `what` and `otherwise`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {PATIENCE_S:g} s in vain for {what}: {otherwise()}")
        time.sleep(_POLL_S)


@contextlib.contextmanager
def stage(setting: Setting, mode: Mode) -> Iterator[Stage]:
    """A fresh lab with a VM that forwards, looked after as the mode says, once the wire is inspected."""
    care: Mapping[str, Any] = {**_CARE, "guard": setting.guard} if mode in GUARDED else _CARE
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="reconcile-faults-")))
        lab = opened.enter_context(Lab(setting.ports, segments=setting.segments, vm=False, mtu=setting.mtu))
        rehearsal = Rehearsal(lab, folder, care=care)
        # The lab's file has no word for it.
        wide = re.sub(
            r"^(  \w+): (\[.*\])$",
            rf"\1: {{ports: \2, mtu: {setting.mtu}}}",
            rehearsal.file.read_text(),
            flags=re.MULTILINE,
        )
        rehearsal.file.write_text(wide, encoding="ascii")
        opened.callback(_end_prober, folder, rehearsal.sku)
        made = opened.enter_context(rehearsal)
        vm: Delay | Suricata | None = None
        if setting.inside is Inside.SLOW:
            vm = opened.enter_context(Delay(lab, _INSIDE_MS, buffer=_HELD_BYTES))
        elif setting.inside is Inside.SURICATA:
            (folder / "suricata").mkdir()
            vm = opened.enter_context(Suricata(lab, folder / "suricata"))
            _look_after(made, vm)
        opened.callback(made.end_daemon)
        found = Stage(made, setting, mode, vm)
        found.well()
        yield found


def _look_after(made: Rehearsal, suricata: Suricata) -> None:
    """Put the example's agent in the place of the rehearsal's: it looks after Suricata as a vendor's would."""
    assert made.lab.vm is not None
    made.agent.kill()
    made.agent.wait()
    channel = {"/dev/virtio-ports/org.reconciler.agent.0": f"unix:{made.folder / 'agent.sock'}"}
    config = suricata.place("reconciler-agent.conf", channel)
    agent = [sys.executable, "-I", "-S", str(made.folder / "agent.py"), "--config", str(config)]
    made.agent = made.lab.vm.spawn(agent, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _end_prober(folder: Path, sku: str) -> None:
    """It would outlive us by its grace."""
    probing = Probing(folder / "run", sku)
    if probing.connect():
        probing.end()
    probing.close()


def signalled(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process of ours, which may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
