"""An appliance at work in a lab: the daemon on the host, and in the VM an application with the agent beside it.

The VM is a namespace, and so the programs that start and stop it (`vm.programs` of the file) are hands of this process:
small programs that ask it over a unix socket.
"""

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from reconciler.control.ask import NoDaemonError, ask, socket_of
from reconciler.errors import TransientError
from reconciler.guest.files import guest_file
from reconciler.host.interpreter import isolated
from reconciler.lab.appliance import appliance_file
from reconciler.lab.lab import Lab, wait_until
from reconciler.lab.namespaces import LabError, kill

_PATIENCE_S = 20.0
_HAND = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as hand:
    hand.connect(os.path.join(os.path.dirname(sys.argv[0]), "hand.sock"))
    hand.sendall(sys.argv[1].encode())
    sys.exit(int(hand.recv(8)))
"""


class Rehearsal:
    """See the module. Use it in a `with` statement, inside the lab's; the VM comes with it, the daemon does not."""

    def __init__(self, lab: Lab, folder: Path, *, care: Mapping[str, Any], interval: str = "100ms") -> None:
        """Write the files.

        Args:
            lab: Made without a VM.
            folder: Where the files, sockets and states go.
            care: The `health` and `on_failure` sections of the appliance file; the heartbeat `agent` is added to them.
            interval: How often the agent beats.
        """
        self.lab = lab
        self.folder = folder.absolute()
        self.file = self.folder / "appliance.yaml"
        self.sku = f"lab-{len(lab.ports)}port"
        self.environment = {
            **os.environ,
            "RECONCILER_STATE_DIR": str(self.folder / "state"),
            "RECONCILER_RUN_DIR": str(self.folder / "run"),
        }
        self.application: subprocess.Popen[Any] | None = None
        self.daemon: subprocess.Popen[Any] | None = None
        self.starts = 0
        self.may_start = True
        self._hand = socket.socket(socket.AF_UNIX)
        self._lock = threading.Lock()
        self._write(care, interval)

    def _write(self, care: Mapping[str, Any], interval: str) -> None:
        beats = {"kind": "heartbeat", "socket": str(self.folder / "agent.sock"), "interval": interval}
        health = dict(care.get("health", {}))
        health["signals"] = {"agent": beats, **health.get("signals", {})}
        hand = self.folder / "hand"
        text = appliance_file(
            self.lab.ports,
            self.lab.adapters,
            self.lab.segments,
            vm={"programs": {verb: isolated("-S", str(hand), verb) for verb in ("start", "stop", "status")}},
            sections={**care, "health": health},
        )
        self.file.write_text(text, encoding="ascii")
        hand.write_text(_HAND, encoding="utf-8")
        (self.folder / "agent.py").write_text(guest_file("agent"), encoding="utf-8")
        (self.folder / "agent.conf").write_text(
            f"[agent]\ninterval = {interval}\nchannel = unix:{self.folder / 'agent.sock'}\n"
            f"[check application]\nprocess = {self.folder / 'application.pid'}\n"
            f"every = {interval}\ntimeout = {interval}\n",
            encoding="ascii",
        )

    def __enter__(self) -> Self:
        self._hand.bind(str(self.folder / "hand.sock"))
        self._hand.listen()
        threading.Thread(target=self._lend_a_hand, name="hand", daemon=True).start()
        self.boot_vm()
        return self

    def __exit__(self, *_: object) -> None:
        self._hand.close()
        self.end_daemon()

    # The VM

    def _lend_a_hand(self) -> None:
        verbs: dict[bytes, Callable[[], bool]] = {
            b"start": self._start,
            b"stop": self.kill_vm,
            b"status": lambda: self.lab.vm is not None,
        }
        while True:
            try:
                asker, _ = self._hand.accept()
            except OSError:
                # The rehearsal is over.
                return
            with asker, contextlib.suppress(OSError):
                try:
                    done = verbs[asker.recv(16)]()
                except (LabError, OSError):
                    done = False
                asker.sendall(b"0" if done else b"1")

    def _start(self) -> bool:
        self.starts += 1
        if self.may_start and self.lab.vm is None:
            self.boot_vm()
        return self.lab.vm is not None

    def boot_vm(self) -> None:
        """Start the VM, and in it the application and the agent."""
        with self._lock:
            self.lab.start_vm()
            self.start_application()
            assert self.lab.vm is not None  # noqa: S101 - it was just started
            agent = isolated("-S", str(self.folder / "agent.py"), "--config", str(self.folder / "agent.conf"))
            self.agent = self.lab.vm.spawn(agent, cwd="/", stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_vm(self) -> bool:
        """Let the VM die with all that is in it, if it lives."""
        with self._lock:
            if self.lab.vm is not None:
                self.lab.kill_vm()
        return True

    def start_application(self) -> None:
        """Start the application in the VM: for the rehearsal, any process will do."""
        assert self.lab.vm is not None  # noqa: S101 - called while it lives
        self.application = self.lab.vm.spawn(["sleep", "infinity"], stdin=subprocess.DEVNULL)
        (self.folder / "application.pid").write_text(str(self.application.pid), encoding="ascii")

    def kill_application(self) -> None:
        """Let the application die; the VM lives on, and forwards."""
        if self.application is not None:
            kill(self.application)

    # The daemon

    def start_daemon(self, *more: str, **popen: Any) -> "subprocess.Popen[Any]":
        """`reconcile run` on the host; returns once it answers. `more` are options, `popen` as for `Popen`.

        Raises:
            LabError: it does not come up.
        """
        command = isolated("-m", "reconciler", "-f", str(self.file), "run", *more)
        given = {"stdin": subprocess.DEVNULL, "cwd": "/", **popen}
        self.daemon = self.lab.host.spawn(command, env=self.environment, **given)
        wait_until(lambda: self.status() is not None, _PATIENCE_S, "the daemon to answer")
        return self.daemon

    def end_daemon(self) -> int | None:
        """Stop the daemon as a service manager would; its exit status, None if none ran."""
        daemon, self.daemon = self.daemon, None
        if daemon is None:
            return None
        daemon.terminate()
        try:
            return daemon.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            raise LabError("the daemon did not end") from None

    def status(self) -> Any:
        """What the daemon knows; None while none answers."""
        try:
            return ask(socket_of(self.folder / "run", self.sku), do="status")["status"]
        except (NoDaemonError, TransientError):
            return None

    def wait_for(self, condition: Callable[[Any], bool], what: str, timeout_s: float = _PATIENCE_S) -> Any:
        """Wait until a condition on the daemon's status holds; the status.

        Raises:
            LabError: it did not hold in time; says what was waited for, and what the daemon said instead.
        """
        last: list[Any] = [None]

        def holds() -> bool:
            last[0] = self.status()
            return last[0] is not None and condition(last[0])

        try:
            wait_until(holds, timeout_s, what)
        except LabError as error:
            raise LabError(f"{error}; the daemon: {json.dumps(last[0])}") from None
        return last[0]


def on(topology: str) -> Callable[[Any], bool]:
    """Whether every segment is on a topology, and the network as wanted."""

    def holds(status: Any) -> bool:
        wanted = all(segment["topology"] == topology for segment in status["segments"])
        return wanted and bool(status["network"]["converged"])

    return holds


def inspected(status: Any) -> bool:
    """Whether every frame crosses the VM, and the network is as wanted."""
    return on("inspect")(status) and all(segment["path"] == "inspected" for segment in status["segments"])


@contextlib.contextmanager
def rehearsal(folder: Path, ports: int = 2, *, care: Mapping[str, Any], **more: Any) -> Iterator[Rehearsal]:
    """A lab and a rehearsal in it."""
    with Lab(ports, vm=False) as lab, Rehearsal(lab, folder, care=care, **more) as made:
        yield made
