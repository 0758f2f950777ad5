"""A real VM inline between the NICs of a lab's host: QEMU without hardware virtualisation, under a libvirtd of its own.

    client0 ─wire── nic0 ┤ sw-nic0 ├ tap0 ─┐
                         (reconciler's)    │ QEMU: Debian, br0, the guest agent, "the application"
    client1 ─wire── nic1 ┤ sw-nic1 ├ tap1 ─┘

The harness makes neither switch nor tap: `reconcile` does, from the appliance file that the harness writes.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self
from xml.sax.saxutils import quoteattr

from image import CACHE, Entry, Image, digest_of, forget_old, image, made_once, program, text
from libvirtd import MAX_SOCKET_PATH, Libvirtd, alive

from reconciler.guest.files import guest_file
from reconciler.lab.lab import Lab, wait_until
from reconciler.lab.namespaces import LabError, LabUnavailableError

DOMAIN = "ips"
# Fixed, because a saved VM is restored only into the domain that it was.
UUID = "5b0c8b5e-6a3c-4a63-9f4e-7a1f0e6a1b5c"
EMULATOR = Path("/usr/bin/qemu-system-x86_64")
MEMORY_MIB = 160
# On an appliance the VM has CPUs of its own. Here, one that other programs keep from running for a moment would be taken
# for a dead one.
_PRIORITIZED = f"""#!/bin/sh
chrt --rr --pid 1 $$ 2> /dev/null
exec {EMULATOR} "$@"
"""

GUEST = Path(__file__).parent / "guest"

# Of the guest agent: the process of the application lives, and the application answers.
AGENT_CONFIG = """\
[agent]
interval = 100ms
[check app]
process = /run/app.pid
every = 200ms
[check app-answers]
socket = /run/app.sock
send = ping
expect = ok
every = 200ms
"""
# A part of [agent], for `AGENT_CONFIG.replace`: it feeds the guest's watchdog, which bites after 4 seconds.
INTERVAL = "interval = 100ms\n"
FEEDING = f"{INTERVAL}watchdog = /dev/watchdog\n"

AGENT_CHANNEL = "org.reconciler.agent.0"
TEST_CHANNEL = "org.reconciler.test.0"

_COMMAND_LINE = (
    "console=ttyS0 quiet panic=0 mitigations=off nokaslr random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=1 nowatchdog "
    "audit=0 apparmor=0 ipv6.disable=1"
)

# A boot takes 8 to 11 seconds on two quiet cores.
BOOT_S = 60.0
ANSWER_S = 30.0
_RETRY_S = 1.0


def guest_files(config: str) -> dict[str, Entry]:
    """Our own files in the guest's file system."""
    library = "usr/lib/guest"
    return {
        "init": program((GUEST / "init").read_bytes()),
        "bin/start-agent": program((GUEST / "start-agent").read_bytes()),
        # Busybox's init would otherwise open consoles of its own.
        "etc/inittab": text("::once:/bin/true\n"),
        f"{library}/hands.py": text((GUEST / "hands.py").read_text()),
        f"{library}/agent.py": text(guest_file("agent")),
        "etc/reconciler-agent.conf": text(config),
    }


class Machine:
    """A lab, a libvirtd and a VM, which is not started yet. Use it in a `with` statement.

    Attributes:
        lab: Clients and host; its own VM is dead.
        libvirtd: The daemon.
        folder: Everything on disk: `v` is libvirtd's, the rest the machine's.
        file: The appliance file.
        agent_socket: Where QEMU serves the guest agent's port, one client at a time.
        taps: The names of the adapters' taps.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ports: int = 2,
        segments: Sequence[Sequence[int]] | None = None,
        boots: bool = True,
        on_crash: Literal["destroy", "preserve"] = "destroy",
        watchdog: Literal["none", "reset", "poweroff", "pause"] = "none",
        agent_config: str = AGENT_CONFIG,
        sections: Mapping[str, Any] | None = None,
    ) -> None:
        """Declare the machine; entering it makes all but the VM's run.

        Args:
            folder: The test's folder, with a path short enough for sockets.
            ports: How many NICs and adapters, at most 16.
            segments: Which ports are one wire together, by index. Default: all.
            boots: False makes a guest that never gets as far as the agent, nor forwards.
            on_crash: What libvirt does after a guest's panic.
            watchdog: What QEMU does when the guest's watchdog has not been fed.
            agent_config: The content of the guest agent's configuration file.
            sections: More of the appliance file: `health`, `on_failure`.
        """
        self.folder = folder
        self.lab = Lab(ports, segments=segments, vm=False)
        self.taps = tuple(f"tap{index}" for index in range(ports))
        self.agent_socket = folder / "agent.sock"
        self.file = folder / "appliance.yaml"
        self.environment = {
            "RECONCILER_STATE_DIR": str(folder / "state"),
            "RECONCILER_RUN_DIR": str(folder / "run"),
        }
        self._test_socket = folder / "test.sock"
        self._boots = boots
        self._on_crash = on_crash
        self._watchdog = watchdog
        self._agent_config = agent_config
        self._sections = dict(sections or {})
        self._open = contextlib.ExitStack()
        self._hands: Hands | None = None
        if len(bytes(self.agent_socket)) > MAX_SOCKET_PATH:
            raise LabUnavailableError(f"a socket's path has at most {MAX_SOCKET_PATH} bytes, not {self.agent_socket}")

    def __enter__(self) -> Self:
        with self._open:
            self._open.enter_context(self.lab)
            self.image: Image = image(guest_files(self._agent_config))
            self.libvirtd = self._open.enter_context(Libvirtd(self.lab.host, self.folder / "v"))
            self._open.callback(self._let_go)
            self.declare(self._sections)
            self.define(boots=self._boots, on_crash=self._on_crash)
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    # What it is made of

    @property
    def uri(self) -> str:
        """The libvirt URI."""
        return self.libvirtd.uri

    def appliance(self) -> dict[str, Any]:
        """The appliance file's content: ports, adapters and segments have the names of the NICs."""
        several = len(self.lab.segments) > 1
        return {
            "schema": "reconciler/v1",
            "appliance": {"sku": "vm-lab"},
            "ports": {
                "mgmt": {"match": {"name": "mgmt0"}, "role": "management"},
                **{port: {"match": {"name": port}} for port in self.lab.ports},
            },
            "segments": {
                f"edge{number}" if several else "edge": [self.lab.ports[index] for index in segment]
                for number, segment in enumerate(self.lab.segments)
            },
            "vm": {
                "libvirt": {"uri": self.uri, "domain": DOMAIN},
                "adapters": {
                    port: {"tap": tap, "mac": _mac(index)}
                    for index, (port, tap) in enumerate(zip(self.lab.ports, self.taps, strict=True))
                },
            },
            "topologies": {"inspect": {"pair": "all"}, "bypass": {"join": "all"}},
            **self._sections,
        }

    def declare(self, sections: Mapping[str, Any]) -> None:
        """Write the appliance file again, with other sections."""
        self._sections = dict(sections)
        self.file.write_text(json.dumps(self.appliance(), indent=2))

    def define(self, *, boots: bool = True, on_crash: Literal["destroy", "preserve"] = "destroy") -> None:
        """Define the VM again, for when it is started next; a running one goes on as it is."""
        self._boots, self._on_crash = boots, on_crash
        (self.folder / "domain.xml").write_text(self._domain(on_crash, self._watchdog))
        self.virsh("define", str(self.folder / "domain.xml"))

    def _domain(self, on_crash: str, watchdog: str) -> str:
        segments = ";".join(",".join(map(str, segment)) for segment in self.lab.segments)
        arguments = f"{_COMMAND_LINE} segments={segments} boots={int(self._boots)}"
        interfaces = "\n".join(
            f"""<interface type='ethernet'>
              <mac address='{_mac(index)}'/><target dev='{tap}' managed='no'/>
              <model type='virtio'/><driver name='qemu'/><rom enabled='no'/>
            </interface>"""
            for index, tap in enumerate(self.taps)
        )
        return f"""<domain type='qemu'>
          <name>{DOMAIN}</name><uuid>{UUID}</uuid>
          <memory unit='MiB'>{MEMORY_MIB}</memory><vcpu>1</vcpu>
          <os>
            <type arch='x86_64' machine='pc'>hvm</type>
            <kernel>{self.image.kernel}</kernel><initrd>{self.image.initrd}</initrd><cmdline>{arguments}</cmdline>
          </os>
          <features><acpi/></features>
          <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
          <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>{on_crash}</on_crash>
          <devices>
            <emulator>{_emulator()}</emulator>
            <controller type='usb' model='none'/>
            {interfaces}
            <serial type='file'><source path={quoteattr(str(self.folder / "console.log"))}/></serial>
            <channel type='unix'>
              <source mode='bind' path={quoteattr(str(self.agent_socket))}/>
              <target type='virtio' name='{AGENT_CHANNEL}'/>
            </channel>
            <channel type='unix'>
              <source mode='bind' path={quoteattr(str(self._test_socket))}/>
              <target type='virtio' name='{TEST_CHANNEL}'/>
            </channel>
            <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
            <watchdog model='i6300esb' action='{watchdog}'/>
            <panic model='isa'/>
            <memballoon model='none'/>
          </devices>
        </domain>"""

    # The command line of the project, in the host's namespace

    def program(self, *words: str, **popen: Any) -> "subprocess.Popen[str]":
        """Start `reconcile -f FILE WORDS` in the host's namespace; it ends with this process or the machine."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RECONCILER_")}
        argv = [sys.executable, "-m", "reconciler", "-f", str(self.file), *words]
        return self.lab.host.spawn(argv, **({"env": kept | self.environment} | pipes | popen))

    def reconcile(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run `reconcile -f FILE WORDS` to its end."""
        with self.program(*words) as process:
            out, err = process.communicate(timeout=60)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if check and done.returncode != 0:
            raise LabError(f"reconcile {' '.join(words)}: status {done.returncode}\n{out}{err}")
        return done

    def taps_exist(self) -> bool:
        """Whether `reconcile` has made the adapters' taps."""
        with self.lab.host.entered():
            return {name for _, name in socket.if_nameindex()} >= set(self.taps)

    # The VM's life

    def virsh(self, *words: str, check: bool = True) -> str:
        """Run a command of virsh, and return what it prints."""
        return self.libvirtd.virsh(*words, check=check).stdout.strip()

    def state(self) -> str:
        """What libvirt says, with its reason: ``running (booted)``, ``shut off (crashed)``."""
        return self.virsh("domstate", DOMAIN, "--reason")

    def start(self) -> None:
        """Start the VM by a fresh boot. The taps must be there: `reconcile` first."""
        self._let_go()
        self.virsh("start", DOMAIN)

    def resume(self) -> None:
        """Start the VM as it was saved once, just booted and forwarding: ten times as fast as a boot.

        The first time with this image boots and saves it, for all tests and runs.
        """
        self._let_go()
        self.virsh("restore", str(self._saved()), "--xml", str(self.folder / "domain.xml"), "--running")

    def resume_at_next_start(self) -> None:
        """Have whoever starts the VM next, be it the daemon, resume it as `resume` does: libvirt calls it managed save.

        The guest does not know that it was away; `wake` makes the agent a new one.
        """
        managed = self.libvirtd.folder / "lib" / "libvirt" / "qemu" / "save" / f"{DOMAIN}.save"
        shutil.copyfile(self._saved(), managed)
        self.virsh("save-image-define", str(managed), str(self.folder / "domain.xml"), "--running")

    def wake(self) -> None:
        """After `resume_at_next_start`, once it was started: let the agent begin again, as after a boot.

        To a daemon that has heard it before, it would repeat itself.
        """
        self.wait_guest()
        self.tell("replace_agent", script="")

    def _saved(self) -> Path:
        saved = CACHE / f"saved-{self._saved_digest()}" / "vm"
        if not saved.exists():
            self._save(saved)
        os.utime(saved.parent)
        return saved

    def _saved_digest(self) -> str:
        emulator = EMULATOR.stat()
        # What may differ from test to test: paths, and what libvirt does when something happens.
        xml = self._domain("destroy", "none").replace(str(self.folder), "")
        return digest_of(self.image.digest, xml, f"{emulator.st_size} {emulator.st_mtime_ns}")

    def _save(self, saved: Path) -> None:
        self.start()
        self.wait_agent()
        self.wait_forwarding()
        with made_once(saved.parent.name) as (_, filling):
            if filling is None:
                self.destroy()
            else:
                self.virsh("save", DOMAIN, str(filling / saved.name))
        forget_old("saved", 8)

    def destroy(self) -> None:
        """Let libvirt end the VM, as pulling its plug."""
        self._let_go()
        self.virsh("destroy", DOMAIN)

    def qemu_pid(self) -> int | None:
        """The pid of the VM's process; None while there is none."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int((self.libvirtd.folder / "run" / "libvirt" / "qemu" / f"{DOMAIN}.pid").read_text())
            return pid if alive(pid) else None
        return None

    def _qemu(self, number: signal.Signals) -> int:
        pid = self.qemu_pid()
        if pid is None:
            raise LabError("the VM is not running")
        os.kill(pid, number)
        return pid

    def kill_qemu(self) -> None:
        """SIGKILL to QEMU. Returns at once."""
        self._qemu(signal.SIGKILL)

    def stop_qemu(self) -> None:
        """SIGSTOP to QEMU: the VM stands still, and libvirt does not notice."""
        self._qemu(signal.SIGSTOP)

    def cont_qemu(self) -> None:
        """SIGCONT to QEMU."""
        self._qemu(signal.SIGCONT)

    # The guest

    def tell(self, action: str, *, timeout_s: float = ANSWER_S, **arguments: Any) -> dict[str, Any]:
        """Have the guest do something; see `guest/hands.py` for what.

        Raises:
            LabError: The guest did not answer in time, or could not do it.
        """
        if self._hands is None:
            self._hands = Hands(self._test_socket)
        try:
            return self._hands.do(action, arguments, timeout_s)
        except OSError as error:
            self._let_go()
            raise LabError(f"the guest did not answer to {action!r}: {error or 'connection closed'}") from error

    def shell(self, command: str) -> str:
        """Run a shell command in the guest, and return its output.

        Raises:
            LabError: It failed.
        """
        done = self.tell("shell", command=command)
        if done["status"] != 0:
            raise LabError(f"in the guest, {command!r}: status {done['status']}: {done['output']}")
        return str(done["output"])

    def _let_go(self) -> None:
        if self._hands is not None:
            self._hands.close()
            self._hands = None

    def wait_guest(self, timeout_s: float = BOOT_S) -> None:
        """Wait until the guest answers on the test's channel; by then its bridges stand."""
        wait_until(self._answers, timeout_s, "the guest's answer")

    def _answers(self) -> bool:
        # A question to a guest that is just being reset is lost.
        try:
            self.tell("ping", timeout_s=_RETRY_S)
        except LabError:
            return False
        return True

    def wait_agent(self, timeout_s: float = BOOT_S) -> dict[str, Any]:
        """Wait for a message of the agent, and return it. Nobody else may be connected to `agent_socket`."""
        deadline = time.monotonic() + timeout_s
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(timeout_s)
            agent.connect(str(self.agent_socket))
            lines = b""
            try:
                # The first line may be the rest of one.
                while lines.count(b"\n") < 2 and time.monotonic() < deadline:
                    read = agent.recv(65536)
                    if not read:
                        raise LabError("the VM is gone")
                    lines += read
            except TimeoutError as error:
                raise LabError(f"no word of the agent within {timeout_s:g} s; so far {lines!r}") from error
        message: dict[str, Any] = json.loads(lines.split(b"\n")[1])
        return message

    def wait_forwarding(self, timeout_s: float = BOOT_S) -> None:
        """Wait until frames pass between all clients of each segment, whichever way."""
        with self.lab.flows(100) as traffic:
            traffic.start()
            wait_until(lambda: all(traffic.arrived()), timeout_s, "frames through the VM")


class Hands:
    """The host's end of the test's channel: one conversation, in which answers belong to questions by number."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise LabError(f"the VM is not running: {error}") from error
        self._buffer = b""
        self._number = time.monotonic_ns()

    def close(self) -> None:
        self._socket.close()

    def do(self, action: str, arguments: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self._number += 1
        deadline = time.monotonic() + timeout_s
        self._socket.settimeout(timeout_s)
        self._socket.sendall(json.dumps({"id": self._number, "do": action, **arguments}).encode() + b"\n")
        while True:
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                answer: dict[str, Any] = json.loads(line)
                if answer.pop("id") == self._number:  # and not the answer to a question that was given up
                    if "error" in answer:
                        raise LabError(f"the guest could not {action}: {answer['error']}")
                    return answer
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            read = self._socket.recv(65536)
            if not read:
                raise ConnectionResetError
            self._buffer += read


def _emulator() -> Path:
    """The program that libvirt starts. It stays what it is from run to run, or libvirt would try out all of QEMU again."""
    with made_once(f"emulator-{digest_of(_PRIORITIZED)}") as (final, filling):
        if filling is not None:
            (filling / "qemu").write_text(_PRIORITIZED)
            (filling / "qemu").chmod(0o755)
    forget_old("emulator", 2)
    return final / "qemu"


def _mac(index: int) -> str:
    return f"52:54:00:00:01:{index:02x}"
