"""The harness does what it says, as far as the faults of `test_faults` do not show it, and leaves nothing behind."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from image import cpio, link, program
from libvirtd import alive, mount_namespace, processes_in
from machine import AGENT_CONFIG, FEEDING, INTERVAL, Machine
from processes import ending

from reconciler.lab.lab import wait_until
from reconciler.lab.namespaces import LabError

pytestmark = [pytest.mark.netns, pytest.mark.vm, pytest.mark.timeout(900)]

# For everything that takes a fraction of it.
PATIENCE_S = 20.0
# Several of the agent's intervals: after so long a silence it is silent.
SILENCE_S = 1.0


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that most tests share; each starts the VM again."""
    request.getfixturevalue("lab_root")
    with Machine(tmp_path_factory.mktemp("host")) as machine:
        machine.reconcile()
        yield machine


@pytest.fixture
def vm(host: Machine) -> Iterator[Machine]:
    """A VM in the state in which it was saved: booted, healthy, forwarding."""
    host.resume()
    yield host
    if host.qemu_pid() is not None:
        host.destroy()


def wait_state(machine: Machine, state: str) -> None:
    wait_until(lambda: machine.state() == state, PATIENCE_S, f"the VM to be {state}")


class Beats:
    """What the agent says, as its host hears it."""

    def __init__(self, machine: Machine) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(machine.agent_socket))
        self._buffer = b""
        # The first may be the rest of a line.
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _read(self, timeout_s: float = PATIENCE_S) -> bytes:
        self._socket.settimeout(timeout_s)
        while b"\n" not in self._buffer:
            read = self._socket.recv(65536)
            assert read, "the VM is gone"
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def wait(self, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            beat = json.loads(self._read())
            if condition(beat):
                return
            assert time.monotonic() < deadline, f"waited in vain for {what}; the last beat is {beat}"

    def wait_app(self, state: str) -> None:
        self.wait(lambda beat: all(check["state"] == state for check in beat["checks"].values()), f"the app {state}")


@contextlib.contextmanager
def passing(machine: Machine) -> Iterator[Callable[[], bool]]:
    """Traffic, and whether every flow has made progress since it was last asked."""
    with machine.lab.flows(200) as traffic:
        traffic.start()
        before = list(traffic.arrived())

        def progress() -> bool:
            now = traffic.arrived()
            grown = all(new > old for new, old in zip(now, before, strict=True))
            if grown:
                before[:] = now
            return grown

        wait_until(progress, PATIENCE_S, "traffic")
        yield progress


def stands_still(progress: Callable[[], bool]) -> bool:
    """Whether for a while not every flow makes progress; what was under way may still arrive."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            wait_until(progress, SILENCE_S, "progress")
        except LabError:
            return True
    return False


# The image


def test_archives_are_equal_for_equal_trees() -> None:
    tree = {"usr/bin/a": program(b"#!"), "init": link("usr/bin/a")}
    assert cpio(tree) == cpio(dict(reversed(tree.items())))


# The guest


def test_a_watchdog_that_is_not_fed_bites(tmp_path: Path) -> None:
    with Machine(tmp_path, watchdog="pause", agent_config=AGENT_CONFIG.replace(INTERVAL, FEEDING)) as machine:
        machine.reconcile()
        machine.start()
        machine.wait_agent()
        wait_until(lambda: "armed" in machine.shell("cat /run/agent.log"), PATIENCE_S, "the watchdog")
        machine.tell("signal", whom="agent", name="STOP")
        wait_state(machine, "paused (watchdog)")


@pytest.mark.parametrize(
    ("fault", "repair"),
    [
        (("bridge", {"up": False}), ("bridge", {"up": True})),
        (("forward", {"on": False, "towards": [1]}), ("forward", {"on": True, "towards": [1]})),
    ],
    ids=["bridge-down", "one-direction"],
)
def test_the_guest_stops_forwarding_and_the_agent_lives(
    vm: Machine, fault: tuple[str, dict[str, Any]], repair: tuple[str, dict[str, Any]]
) -> None:
    with Beats(vm) as beats, passing(vm) as progress:
        vm.tell(fault[0], **fault[1])
        assert stands_still(progress)
        beats.wait_app("healthy")
        vm.tell(repair[0], **repair[1])
        wait_until(progress, PATIENCE_S, "traffic")


def test_what_the_guest_cannot_do_is_said(vm: Machine) -> None:
    assert vm.shell("echo here") == "here\n"
    with pytest.raises(LabError, match="could not start: KeyError"):
        vm.tell("start", whom="nobody")
    with pytest.raises(LabError, match="status 3"):
        vm.shell("exit 3")


# The end of it all


_HARNESS = """
import signal, sys
from pathlib import Path
from machine import Machine
with Machine(Path(sys.argv[1])) as machine:
    machine.reconcile()
    machine.resume()
    print(machine.libvirtd.pid, machine.qemu_pid(), *machine.libvirtd.processes(), flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("victim", ["harness", "outer-guardian", "inner-guardian"])
def test_nothing_outlives_the_harness(tmp_path: Path, victim: str) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    started = subprocess.Popen(
        [sys.executable, "-c", _HARNESS, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    with ending(started) as harness:
        assert harness.stdout is not None
        daemon, qemu, *everybody = map(int, harness.stdout.readline().split())
        namespace = mount_namespace(daemon)
        assert len(everybody) == 3
        inner = _parent(daemon)
        assert _parent(qemu) == inner
        outer = _parent(inner)
        assert _parent(outer) == harness.pid
        os.kill({"harness": harness.pid, "outer-guardian": outer, "inner-guardian": inner}[victim], signal.SIGKILL)
        wait_until(lambda: not processes_in(namespace), PATIENCE_S, "the end of libvirtd and QEMU")
        wait_until(lambda: not alive(outer), PATIENCE_S, "the end of the outer guardian")


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
