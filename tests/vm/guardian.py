"""Starts libvirtd apart from the machine, and outlives nothing: `python -I -S guardian.py FOLDER CACHE`.

    test ──▶ outer guardian ──▶ inner guardian ──▶ libvirtd ──▶ (daemonizes) QEMU

QEMU leaves libvirtd, so that it survives it, and comes to the inner guardian, which is a child subreaper. That one ends
when told, when the test or the outer guardian is gone, by whatever signal; and before it ends it kills all it has.
If it is killed itself, what it had comes to the outer guardian, which does the same. Reaping matters for another
reason, too: libvirtd takes a zombie for a living QEMU.

Says "ready" once it is; then each line that it reads on its standard input, "start", starts libvirtd, and it answers
with the pid.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: bytes | int | None) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, value, 0, 0, 0)


def _children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdecimal()
                and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
            ):
                found.append(int(entry.name))
    return found


def _end_everything() -> None:
    """Kill all descendants: whoever loses its parent becomes a child of this process, so there is no escape."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in _children():
                os.kill(child, signal.SIGKILL)
            os.wait()


def _hide_the_machine(folder: Path, cache: Path) -> None:
    """In a mount namespace of its own, give libvirtd a /run, /etc/libvirt and so on of its own.

    All of /run, so that it meets neither systemd nor D-Bus nor another libvirtd.
    """
    _call("unshare", CLONE_NEWNS)
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    private = {"etc": "/etc/libvirt", "run": "/run", "lib": "/var/lib", "log": "/var/log"}
    for name, place in private.items():
        (folder / name).mkdir(exist_ok=True)
        _call("mount", bytes(folder / name), place.encode(), None, MS_BIND, None)
    _call("mount", bytes(cache), b"/var/cache", None, MS_BIND, None)
    for name in ("passwd", "group"):
        _call("mount", bytes(folder / "etc" / name), f"/etc/{name}".encode(), None, MS_BIND, None)
    # The interfaces of the network namespace that this process is in, not the machine's.
    _call("mount", b"sysfs", b"/sys", b"sysfs", 0, None)


def _libvirtd() -> "subprocess.Popen[bytes]":
    libvirtd = shutil.which("libvirtd", path="/usr/sbin:/usr/bin:/sbin")
    setpriv = shutil.which("setpriv")
    if libvirtd is None or setpriv is None:
        raise FileNotFoundError("libvirtd or setpriv is not installed")
    with Path("/var/log/libvirtd.log").open("ab") as log:
        return subprocess.Popen(
            [setpriv, "--pdeathsig", "KILL", "--", libvirtd], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _inner(folder: Path, cache: Path) -> None:
    told, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(tell)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    _hide_the_machine(folder, cache)
    os.write(1, b"ready\n")
    while True:
        ready, _, _ = select.select([0, told], [], [])
        if told in ready:
            if signal.SIGTERM in os.read(told, 4096):
                return
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        if 0 in ready:
            if not os.read(0, 4096):
                return
            os.write(1, f"{_libvirtd().pid}\n".encode())


def main() -> None:
    folder, cache = (Path(word) for word in sys.argv[1:])
    outer = os.getpid()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    inner = os.fork()
    if inner == 0:
        try:
            _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            _prctl(PR_SET_CHILD_SUBREAPER, 1)
            if os.getppid() == outer:
                _inner(folder, cache)
        finally:
            _end_everything()
        return
    # The conversation is the inner guardian's: when that ends, the test shall read the end of it.
    with open(os.devnull, "r+b") as nothing:
        for standard in (0, 1):
            os.dup2(nothing.fileno(), standard)
    with contextlib.suppress(ChildProcessError):
        while os.wait()[0] != inner:
            pass
    _end_everything()


if __name__ == "__main__":
    main()
