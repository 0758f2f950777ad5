"""Faults of a real QEMU, on the machine of tests/vm: without hardware virtualisation, on the cores that all share."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.faults.scene import GUARDED, KEPT, NOTHING_WRONG, Median, Mode, Scene, Setting, hung
from bench.faults.stage import Stage
from reconciler.control.ask import NoDaemonError, ask, socket_of
from reconciler.errors import TransientError
from reconciler.host.guard.prober_client import Probing
from reconciler.lab.lab import wait_until

sys.path.append(str(Path(__file__).parents[2] / "tests" / "vm"))

from kept import SKU, care
from machine import Machine

_PATIENCE_S = 30.0
# What an emulated guest forwards without being the slowest of all.
_RATE = 1_000
_HEALTH = {"grace": "2s", "hold_down": "300ms", "hold_down_max": "300ms"}


class _Kept:
    """The machine in the daemon's care, as a rehearsal is."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.lab, self.folder, self.file = machine, machine.lab, machine.folder, machine.file
        self.environment, self.sku = machine.environment, SKU
        self.daemon: subprocess.Popen[str] | None = None

    def start_daemon(self, *more: str, **popen: Any) -> None:
        self.daemon = self.machine.program("run", *more, stdout=subprocess.DEVNULL, **popen)
        wait_until(lambda: self.status() is not None, _PATIENCE_S, "the daemon to answer")

    def status(self) -> Any:
        try:
            return ask(socket_of(self.folder / "run", SKU), do="status")["status"]
        except (NoDaemonError, TransientError):
            return None

    def end_daemon(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(_PATIENCE_S)


class VmStage(Stage):
    """A stage whose VM is a real one."""

    def __init__(self, kept: _Kept, setting: Setting, mode: Mode) -> None:
        self.machine = kept.machine
        super().__init__(kept, setting, mode, None)  # type: ignore[arg-type]

    def prioritize(self) -> None:
        """It has a priority of its own."""


@contextlib.contextmanager
def _staged(setting: Setting, mode: Mode) -> Iterator[Stage]:
    # A short path: libvirt's sockets are in it.
    with tempfile.TemporaryDirectory(prefix="rf-") as name, Machine(Path(name)) as machine:
        sections = care(machine, health=_HEALTH)
        machine.declare({**sections, "guard": dict(setting.guard)} if mode in GUARDED else sections)
        machine.define()
        machine.reconcile()
        machine.resume()
        kept = _Kept(machine)
        try:
            made = VmStage(kept, setting, mode)
            made.well()
            yield made
        finally:
            kept.end_daemon()
            probing = Probing(Path(name) / "run", SKU)
            if probing.connect():
                probing.end()
            probing.close()
            if machine.qemu_pid() is not None:
                machine.destroy()
            shutil.rmtree(Path(name) / "state", ignore_errors=True)


def _machine(stage: Stage) -> Machine:
    assert isinstance(stage, VmStage)
    return stage.machine


@contextlib.contextmanager
def _killed(stage: Stage) -> Iterator[None]:
    machine = _machine(stage)
    machine.kill_qemu()
    yield
    wait_until(lambda: machine.qemu_pid() is None, _PATIENCE_S, "QEMU's end")
    machine.resume()
    machine.wake()


@contextlib.contextmanager
def _stopped(stage: Stage) -> Iterator[None]:
    _machine(stage).stop_qemu()
    yield
    _machine(stage).cont_qemu()


_REAL = Setting(rate=_RATE)
_AT_ONCE = {**hung(), Mode.BOTH: (Median(10), NOTHING_WRONG)}

SCENES = (
    Scene("real QEMU killed, 1,000 frames/s", _killed, _AT_ONCE, _REAL, KEPT, staged=_staged),
    Scene("real QEMU stopped (SIGSTOP), and resumed", _stopped, hung(), _REAL, KEPT, staged=_staged),
)
