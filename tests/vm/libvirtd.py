"""A libvirtd of a test's own, in a lab's host namespace: nothing of it is on the machine, and nothing of it outlives the test."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

import guardian
from image import CACHE

from reconciler.lab.lab import wait_until
from reconciler.lab.namespaces import LabError, LabUnavailableError, Namespace

# Of the QEMU driver, which is a library, the package has one program.
PROGRAMS = {
    "libvirtd": "libvirt-daemon",
    "virt-qemu-run": "libvirt-daemon-driver-qemu",
    "qemu-system-x86_64": "qemu-system-x86",
    "virsh": "libvirt-clients",
    "setpriv": "util-linux",
}
_SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# sun_path of unix(7), less the final zero byte.
MAX_SOCKET_PATH = 107

# The very first start probes what QEMU can do, on a machine that may be busy with other tests.
_START_S = 60.0
_ANSWER_S = 10.0
_COMMAND_S = 60.0

_LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:file:/var/log/libvirtd.log"
"""
# There is no virtlogd, no systemd and no other user; the folders of a test are the only ones that QEMU opens.
_QEMU_CONF = """\
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
"""
# Debian's libvirtd does not start without this user, although it uses it for nothing here; a package that we can do
# without, libvirt-daemon-system, would make it, and start services.
_USER = "libvirt-qemu"
_NOBODY = 65534


def missing_packages() -> list[str]:
    """The Debian packages that a real VM needs, and this machine has not."""
    return [package for name, package in PROGRAMS.items() if shutil.which(name, path=_SEARCH) is None]


def alive(pid: int) -> bool:
    """Whether a process runs: not gone, and not a zombie either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Libvirtd:
    """The daemon, started. Close it, or use it in a `with` statement.

    Attributes:
        folder: Where its files are: `run`, `etc`, `lib` and `log` as libvirtd and QEMU see them under /run and so on.
        uri: Connects to it from any process that sees `folder`.
        pid: Of the running daemon.
    """

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        """Start the daemon.

        Raises:
            LabUnavailableError: Programs are missing, or the folder's path is too long for a socket.
            LabError: It does not start.
        """
        if missing := missing_packages():
            raise LabUnavailableError(f"a real VM needs: apt-get install {' '.join(missing)}")
        self.folder = folder
        self._socket = folder / "run" / "libvirt" / "libvirt-sock"
        if len(bytes(self._socket)) > MAX_SOCKET_PATH:
            raise LabUnavailableError(f"a socket's path has at most {MAX_SOCKET_PATH} bytes, not {self._socket}")
        self.uri = f"qemu+unix:///system?socket={self._socket}"
        self.pid = 0
        # What libvirtd has found out of QEMU stays; libvirtd itself judges whether it is still true.
        cache = CACHE / "libvirt"
        cache.mkdir(parents=True, exist_ok=True)
        (folder / "etc").mkdir(parents=True, exist_ok=True)
        (folder / "etc" / "libvirtd.conf").write_text(_LIBVIRTD_CONF)
        (folder / "etc" / "qemu.conf").write_text(_QEMU_CONF)
        for name, more in (
            ("passwd", f"{_USER}:x:{_NOBODY}:{_NOBODY}::/:/bin/false"),
            ("group", f"{_USER}:x:{_NOBODY}:"),
        ):
            (folder / "etc" / name).write_text(f"{Path('/etc', name).read_text().rstrip()}\n{more}\n")
        with contextlib.ExitStack() as undo:
            self._conversation, far = socket.socketpair()
            undo.callback(self.close)
            self._conversation.settimeout(_ANSWER_S)
            self._answers = self._conversation.makefile("r", encoding="ascii")
            with far:
                self._guardian = namespace.spawn(
                    [sys.executable, "-I", "-S", guardian.__file__, str(folder), str(cache)],
                    stdin=far,
                    stdout=far,
                    start_new_session=True,
                )
            self._answer()
            self.start()
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> str:
        try:
            line = self._answers.readline()
        except TimeoutError:
            line = ""
        if not line:
            raise LabError(f"libvirtd's guardian does not answer; see {self.folder / 'log'}")
        return line.strip()

    def start(self) -> None:
        """Start the daemon, again after `kill`; returns once it serves."""
        if alive(self.pid):
            raise LabError("libvirtd is running already")
        self._conversation.sendall(b"start\n")
        self.pid = int(self._answer())
        wait_until(lambda: self._serves() or not alive(self.pid), _START_S, "libvirtd to serve")
        if not alive(self.pid):
            raise LabError(f"libvirtd ended: {(self.folder / 'log' / 'libvirtd.log').read_text()[-2000:]}")

    def _serves(self) -> bool:
        # A socket that is left over from a killed daemon refuses; one that is listened on may not be served yet.
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self._socket)) != 0:
                return False
        return self.virsh("version", check=False).returncode == 0

    def kill(self) -> None:
        """Let the daemon die by SIGKILL; VMs live on. Returns once it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not alive(self.pid), _ANSWER_S, "libvirtd's end")

    def virsh(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command of virsh.

        Raises:
            LabError: It failed, and `check` is true.
        """
        done = subprocess.run(
            ["virsh", "--connect", self.uri, *words],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        if check and done.returncode != 0:
            raise LabError(f"virsh {' '.join(words)}: {done.stderr.strip()}")
        return done

    def processes(self) -> dict[int, str]:
        """What runs in the daemon's mount namespace, by pid: the inner guardian, libvirtd, every QEMU."""
        return processes_in(mount_namespace(self.pid))

    def close(self) -> None:
        """End the daemon and every VM; returns once they are gone. May be called again."""
        self._conversation.close()
        if hasattr(self, "_answers"):
            self._answers.close()
        if hasattr(self, "_guardian"):
            try:
                self._guardian.wait(_ANSWER_S)
            finally:
                self._guardian.kill()
                self._guardian.wait(_ANSWER_S)


def mount_namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/mnt").readlink())


def processes_in(namespace: str) -> dict[int, str]:
    """The processes in a mount namespace, by pid: names. It is what the daemon and all it starts have in common."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if str((entry / "ns" / "mnt").readlink()) == namespace:
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
    return found
