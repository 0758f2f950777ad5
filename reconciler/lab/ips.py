"""A real Suricata inline in the lab's VM, in place of its bridge, with the files of `examples/suricata`."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Self

from reconciler.lab import holder
from reconciler.lab.frames import Ear, frame
from reconciler.lab.lab import Lab, wait_until
from reconciler.lab.namespaces import LabError, LabUnavailableError, Namespace, kill
from reconciler.lab.offloads import offloads_off
from reconciler.lab.program import Program

__all__ = ["EXAMPLE", "FORBIDDEN", "Reload", "Suricata", "needles", "wait_until_forwarding"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "suricata"
"""The example's files. They are in a checkout only, as is whatever needs a Suricata."""
FORBIDDEN = b"FORBIDDEN-BY-EXAMPLE"
"""What the example's rule blocks in TCP."""

# 20,000 rules take it nine seconds to load on an idle machine, and five to load again.
_START_S = 60.0
_RELOAD_S = 60.0
_ANSWER_S = 10.0
_LOG_CHARACTERS = 2000
# In which a frame passes, also on a busy machine.
_PASSED_S = 0.3
_PAUSE_S = 0.002
# Where PAUSE goes: no bridge passes it on, whatever it is told. What is sent here into the VM never reaches a wire.
_NOWHERE = "01:80:c2:00:00:01"
# The kernel shares packets that are not IP among capture threads by their ethertype, as it happens to hash. So many
# reach every thread of an interface, but for once in 30,000 times. Nobody has these.
_ETHERTYPES = range(0xA000, 0xA010)
_FIRST_NEEDLE = 2_000_000
# With a TTL it is looked at for every packet. Without, Suricata asks such a rule once for each connection, and never
# again for those that it knew before the reload.
_DROP_EVERYTHING = 'drop ip any any -> any any (msg:"Everything"; ttl:>0; sid:3000001; rev:1;)'

_numbers = count(1)


def needles(amount: int, first: int = _FIRST_NEEDLE) -> list[str]:
    """Rules that match nothing and take Suricata time to load. `first`: the first rule's number (sid)."""
    return [
        f'alert tcp any any -> any any (msg:"x"; content:"needle-{sid}"; pcre:"/a{sid}b+/i"; sid:{sid};)'
        for sid in range(first, first + amount)
    ]


def wait_until_forwarding(lab: Lab, first: int = 0, second: int = 1, timeout_s: float = _START_S) -> None:
    """Wait until a program in the VM, Suricata or `Delay`, passes frames from one adapter to another and back.

    It sends some of its own into the VM, which no bridge passes on: neither to a wire, nor one in the VM.

    Args:
        lab: Its VM lives.
        first: Index of an adapter.
        second: Index of another one of the same segment.
        timeout_s: How long to wait, in seconds.

    Raises:
        LabError: It does not, for so long.
    """
    with Ear(lab.host, lab.adapters[first]) as near, Ear(lab.host, lab.adapters[second]) as far:
        ways = ((near, far), (far, near))
        text = b"through the VM %d" % next(_numbers)
        words = {frame(_NOWHERE, ethertype, text) for ethertype in _ETHERTYPES}

        def passed() -> bool:
            missing = False
            for here, there in ways:
                there.take()
                for word in words.difference(there.frames):
                    here.send(word)
                    missing = True
            return not missing

        wait_until(passed, timeout_s, "the VM to forward")


class Reload:
    """A reload of the rules, as the vendor's updater asks for it. Suricata answers when it is done."""

    def __init__(self, command: Path) -> None:
        """Ask for it. `command`: Suricata's command socket."""
        with contextlib.ExitStack() as undo:
            self._socket = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            self._socket.settimeout(_ANSWER_S)
            try:
                self._socket.connect(str(command))
                self._socket.sendall(b'{"version": "0.2"}\n')
                _accept(self._socket.recv(4096))
                self._socket.sendall(b'{"command": "reload-rules"}\n')
            except OSError as error:
                raise LabError(f"Suricata does not answer: {error}") from error
            self._socket.setblocking(False)
            undo.pop_all()
        self._answer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def done(self) -> bool:
        """Whether Suricata has answered.

        Raises:
            LabError: It has, that it could not.
        """
        with contextlib.suppress(BlockingIOError):
            self._answer += self._socket.recv(4096)
            _accept(self._answer)
        return bool(self._answer)


def _accept(answer: bytes) -> None:
    try:
        said = json.loads(answer)
    except ValueError as error:
        raise LabError(f"Suricata answers {answer!r}") from error
    if said.get("return") != "OK":
        raise LabError(f"Suricata refuses: {said}")


class Suricata:
    """Suricata between ``eth0`` and ``eth1``, which are a segment of the lab. Use it in a `with` statement.

    Afterwards the bridge is back, unless the VM is dead. A VM that was killed and started takes a new one.

    Attributes:
        folder: Its files, logs and sockets.
        command: Its command socket.
        pid_file: Where it writes its process number.
        process: It, once started; also when it has been killed.
    """

    def __init__(self, lab: Lab, folder: Path, rules: Sequence[str] = ()) -> None:
        """Write its files. It is started by the `with` statement.

        Args:
            lab: Its VM lives, and its first segment is the first two ports.
            folder: For its files, of its own.
            rules: Beside the one of the example.

        Raises:
            LabError: The VM is dead.
            LabUnavailableError: Suricata is not installed, or the example is not here.
        """
        if lab.segments[0] != (0, 1):
            raise ValueError(f"Suricata is between the first two ports, which are not segment {lab.segments[0]}")
        if shutil.which("suricata") is None or not EXAMPLE.is_dir():
            raise LabUnavailableError("this takes Suricata, which is installed by: .ci/backports suricata:suricata")
        if lab.vm is None:
            raise LabError("the VM is dead")
        self.folder = folder
        self.command = folder / "command.socket"
        self.pid_file = folder / "suricata.pid"
        self.process: subprocess.Popen[Any] | None = None
        self._lab = lab
        self._vm: Namespace = lab.vm
        self._held: list[Program] = []
        self.place("suricata.conf")
        self.write_rules(rules)

    def place(self, name: str, more: Mapping[str, str] | None = None) -> Path:
        """Copy a file of the example into the folder. Only where things lie is different. Returns the copy.

        Args:
            name: Of the file.
            more: Other places that are different here.
        """
        places = {
            "/etc/suricata/rules": str(self.folder),
            "/run/suricata-command.socket": str(self.command),
            "/run/suricata.pid": str(self.pid_file),
            "/var/log/suricata/": str(self.folder),
            **(more or {}),
        }
        text = (EXAMPLE / name).read_text(encoding="utf-8")
        for there, here in places.items():
            text = text.replace(there, here)
        copy = self.folder / name
        copy.write_text(text, encoding="utf-8")
        return copy

    def write_rules(self, rules: Iterable[str]) -> None:
        """Write the rules that its next start or reload reads: that of the example, and these."""
        text = (EXAMPLE / "local.rules").read_text(encoding="utf-8")
        (self.folder / "local.rules").write_text("\n".join([text, *rules, ""]), encoding="utf-8")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._lab.unbridge_vm([0])
            with self._vm.entered():
                for ifname in ("eth0", "eth1"):
                    offloads_off(ifname)
            self.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it, also again after its death, and wait until it forwards.

        Raises:
            LabError: It does not, or it ends.
        """
        self._end()
        for leftover in (self.pid_file, self.command):
            leftover.unlink(missing_ok=True)
        argv = ["suricata", "-c", str(self.folder / "suricata.conf"), "--af-packet", "--pidfile", str(self.pid_file)]
        with (self.folder / "suricata.log").open("ab") as log:
            self.process = self._vm.spawn(argv, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_forwarding(self._lab)
        except LabError as error:
            text = (self.folder / "suricata.log").read_text(encoding="utf-8", errors="replace")
            raise LabError(f"{error}; Suricata says: {text[-_LOG_CHARACTERS:]}") from error

    def _end(self) -> None:
        self.release_thread()
        if self.process is not None:
            kill(self.process)

    def close(self) -> None:
        """Kill it, and let the VM's bridge forward again. May be called again."""
        self._end()
        if self._lab.vm is self._vm and not self._vm.closed:
            self._lab.bridge_vm([0])

    # What may happen to it

    def kill(self) -> None:
        """Kill it, at once. Until `start` or `close` it is a zombie, as one whose parent does not look."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Stop all its threads."""
        self._signal(signal.SIGSTOP)

    def cont(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self._pid, number)

    @property
    def _pid(self) -> int:
        if self.process is None:
            raise LabError("Suricata has not been started")
        return self.process.pid

    def threads(self) -> dict[str, int]:
        """Return its threads by name, ``W#01-eth0`` and so on for those that capture, with their numbers."""
        found = Path(f"/proc/{self._pid}/task").iterdir()
        return {(task / "comm").read_text(encoding="ascii").strip(): int(task.name) for task in found}

    def stick_one_thread(self, name: str = "W#01-eth0") -> None:
        """Hold one thread still, while all others go on. More than one can be held.

        Two threads share each interface's packets: those of one connection, or of one ethertype that is not IP, go to
        one of them, and to which is chance that stays the same until the machine boots.

        Raises:
            LabError: There is no such thread, or it cannot be held.
        """
        threads = self.threads()
        if name not in threads:
            raise LabError(f"Suricata has no thread {name}, but {' '.join(sorted(threads))}")
        self._held.append(Program(self._vm, Path(holder.__file__), [threads[name]], f"what holds the thread {name}"))

    def thread_of(self, ethertype: int, interface: str = "eth0") -> str:
        """Find out which thread the frames of an ethertype that is not IP go through, such as the guard's probes.

        It holds threads for some tenths of a second.

        Args:
            ethertype: Of the frames.
            interface: Where they come in, ``eth0`` or ``eth1``.
        """
        adapters = self._lab.adapters[:2] if interface == "eth0" else self._lab.adapters[1::-1]
        with Ear(self._lab.host, adapters[0]) as near, Ear(self._lab.host, adapters[1]) as far:
            for name in sorted(name for name in self.threads() if name.startswith("W#") and name.endswith(interface)):
                word = frame(_NOWHERE, ethertype, b"through the thread %d" % next(_numbers))
                self.stick_one_thread(name)
                near.send(word)
                until = time.monotonic() + _PASSED_S
                while word not in far.take() and time.monotonic() < until:
                    time.sleep(_PAUSE_S)
                self.release_thread()
                if word not in far.frames:
                    return name
        raise LabError(f"frames of type {ethertype:#06x} pass Suricata whichever thread is held")

    def release_thread(self) -> None:
        """Let every thread that is held go on."""
        while self._held:
            self._held.pop().close()

    # Its rules

    def reload(self) -> Reload:
        """Ask it to read its rules again, without waiting for it."""
        return Reload(self.command)

    def reload_rules(self, rules: Iterable[str]) -> None:
        """Give it these rules beside that of the example, and wait until they are in force.

        Raises:
            LabError: It does not answer, or takes too long.
        """
        self.write_rules(rules)
        with self.reload() as reload:
            wait_until(reload.done, _RELOAD_S, "Suricata's rules to be reloaded")

    def drop_everything(self) -> None:
        """Let it block all IPv4 and IPv6 packets, of known connections, too. Its job: it is healthy."""
        self.reload_rules([_DROP_EVERYTHING])

    def blocked(self) -> int:
        """Return how many packets its rules have blocked by now, as its log says."""
        log = self.folder / "eve.json"
        return log.read_text(encoding="utf-8").count('"event_type":"drop"') if log.exists() else 0
