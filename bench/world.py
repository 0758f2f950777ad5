"""A lab with an appliance on it, and ways to time what is done there."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reconciler.appliance.declared import Appliance
from reconciler.appliance.load import load
from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.appliance import appliance_file
from reconciler.lab.lab import Lab
from reconciler.network import render
from reconciler.network.cycle import audit, reconcile
from reconciler.network.desired import choice_of
from reconciler.network.diff import Difference
from reconciler.network.plan import Plan, plan


@dataclass(frozen=True, slots=True)
class World:
    """A lab's host that has its switches, and stands in `inspect`. The calling thread is in the host's namespace."""

    lab: Lab
    appliance: Appliance
    kernel: Kernel
    file: Path
    environment: dict[str, str]

    def audit(self, topology: str) -> Difference:
        """What differs from a topology."""
        return audit(self.kernel, self.appliance, choice_of(self.appliance, topology))

    def plan(self, topology: str) -> tuple[Plan, Difference]:
        """The plan to a topology from here."""
        found = self.audit(topology)
        return plan(found), found

    def to(self, topology: str) -> None:
        """Bring the network into a topology; it must succeed."""
        report = reconcile(self.kernel, self.appliance, choice_of(self.appliance, topology))
        if not report.converged:
            raise SystemExit(f"bench: could not reach {topology}: {report.after.problems} {report.after.changes[:3]}")

    def batch(self, topology: str) -> Path:
        """A file for `ip -batch` that goes to a topology from here by the very operations of our plan."""
        todo, _ = self.plan(topology)
        path = self.file.with_name(f"{topology}.batch")
        commands = (command.removeprefix("ip ") for command in render.commands(todo))
        path.write_text("\n".join(commands) + "\n", encoding="ascii")
        return path


@contextmanager
def world(ports: int, *, segments: Sequence[Sequence[int]] | None = None, traffic: bool = False) -> Iterator[World]:
    """Build a lab of `ports` ports and converge it to `inspect`."""
    folder = tempfile.TemporaryDirectory(prefix="reconcile-bench-")
    with folder as name, Lab(ports, segments=segments, traffic=traffic) as lab, lab.host.entered(), Kernel() as kernel:
        file = Path(name) / "appliance.yaml"
        file.write_text(appliance_file(lab.ports, lab.adapters, lab.segments), encoding="ascii")
        environment = {**os.environ, "RECONCILER_STATE_DIR": f"{name}/state", "RECONCILER_RUN_DIR": f"{name}/run"}
        made = World(lab, load(file.read_bytes(), str(file)), kernel, file, environment)
        made.to("inspect")
        yield made


def timed(action: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


def median(rounds: int, action: Callable[[], object]) -> float:
    """Median milliseconds of `rounds` calls, after one that warms up."""
    action()
    return statistics.median(timed(action) for _ in range(rounds))


def spawned(argv: Sequence[str], environment: dict[str, str], allowed: Sequence[int] = (0,)) -> None:
    """Run a program to its end in the calling thread's namespace."""
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode not in allowed:
        raise SystemExit(f"bench: {' '.join(argv)} ended with {done.returncode}: {done.stderr.decode()}")


def peak_kib(argv: Sequence[str], environment: dict[str, str]) -> int:
    """Peak resident memory of a program in KiB.

    A process inherits the peak of the one that it was forked from: so it is forked from a small one.
    """
    small = (
        "import os, sys; null = os.open(os.devnull, os.O_RDWR); "
        "pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, "
        "file_actions=[(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)]); "
        "print(os.wait4(pid, 0)[2].ru_maxrss)"
    )
    command = [sys.executable, "-I", "-S", "-c", small, *argv]
    return int(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


def ours(made: World, *arguments: str) -> list[str]:
    """The command line of `reconcile` on a world's file."""
    return [str(Path(sys.executable).with_name("reconcile")), "-f", str(made.file), *arguments]
