"""Network namespaces that live exactly as long as this process, and the right to make them.

A namespace here has no name in ``/run/netns``: a file descriptor of this process is all that holds it. When the process
goes, by whatever signal, the kernel takes the namespace and every interface in it away. Nothing needs cleaning up.

Only the *network* is separate. ``/sys/class/net`` still shows the machine's interfaces, so ask netlink instead.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from reconciler.errors import ReconcilerError

T = TypeVar("T")

# linux/sched.h. The os module has unshare and setns from Python 3.12 on; ctypes serves 3.11 as well.
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

# linux/capability.h: the bits of CapEff that a lab needs.
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}

# linux/sockios.h and linux/if.h
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

# Far beyond what a killed process takes to be gone, on a busy machine, too.
_DEATH_S = 10.0

_THREAD_NS = "/proc/thread-self/ns/net"
_USER_NAMESPACE_SYSCTLS = (
    ("kernel/unprivileged_userns_clone", "must be 1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "must be 0"),
    ("user/max_user_namespaces", "must be above 0"),
    ("user/max_net_namespaces", "must be above 0"),
)

_libc = ctypes.CDLL(None, use_errno=True)


class LabError(ReconcilerError):
    """The lab could not do what it was asked to do."""


class LabUnavailableError(LabError):
    """This machine or this user may not build a lab; the message says what would allow it."""


def _system_call(name: str, *args: int) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@functools.cache
def _worker_of(pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"lab-{pid}")


def in_lab_thread(function: Callable[[], T]) -> T:
    """Run `function` in the one thread of the lab that lives as long as the interpreter, and return its result.

    Two kernel and library habits ask for such a thread. A parent-death signal fires when the *thread* that forked the
    child ends, so children must not be started from a thread that comes and goes. And pyroute2's synchronous sockets
    run an event loop of their own, which fails in a thread where one is running already, such as an async test's.
    """
    # By pid, because a forked copy of this process has the executor but not its thread, and would wait for ever.
    return _worker_of(os.getpid()).submit(function).result()


class Namespace:
    """An anonymous network namespace, held open by a file descriptor of this process, with its loopback up.

    Attributes:
        name: What messages call it. The kernel does not know it.
    """

    def __init__(self, name: str, *, ipv6: bool = True) -> None:
        """Make the namespace.

        Args:
            name: What messages call it.
            ipv6: False makes it silent: no link-local addresses, router solicitations or multicast reports. (Where
                ``/proc/sys`` is read-only, as in some containers, it stays as the kernel made it.)

        Raises:
            LabUnavailableError: The kernel refuses a new network namespace.
        """
        self.name = name
        self._children: list[subprocess.Popen[Any]] = []
        self._fd = -1
        failures: list[OSError] = []

        def make() -> None:
            try:
                _system_call("unshare", CLONE_NEWNET)
                self._fd = os.open(_THREAD_NS, os.O_RDONLY | os.O_CLOEXEC)
                if not ipv6:
                    _disable_ipv6()
                set_link_up("lo", up=True)
            except OSError as error:
                failures.append(error)

        # unshare moves only the calling thread. The helper ends with it, so that no thread of ours is left elsewhere.
        helper = threading.Thread(target=make, name=f"make {name}")
        helper.start()
        helper.join()
        if failures:
            self.close()
            raise LabUnavailableError(
                f"cannot make network namespace {name!r}: {failures[0]}; it takes CAP_SYS_ADMIN (become_lab_root())"
            ) from failures[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Namespace {self.name!r} {'closed' if self._fd < 0 else f'fd {self._fd}'}>"

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    def fileno(self) -> int:
        """Return the descriptor that holds the namespace.

        Raises:
            LabError: The namespace is closed.
        """
        if self._fd < 0:
            raise LabError(f"network namespace {self.name!r} is closed")
        return self._fd

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread into the namespace for the length of a `with` block. Nests; other threads stay."""
        back = os.open(_THREAD_NS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _system_call("setns", self.fileno(), CLONE_NEWNET)
            try:
                yield
            finally:
                _system_call("setns", back, CLONE_NEWNET)
        finally:
            os.close(back)

    def spawn(self, argv: Sequence[str], **popen_kwargs: Any) -> subprocess.Popen[Any]:
        """Start a program inside the namespace that the kernel kills when this process dies.

        It is also killed by `close`. Pipes that the caller asked for remain the caller's to close.

        Raises:
            FileNotFoundError: There is no such program.
            LabUnavailableError: ``setpriv`` of util-linux is missing.
        """
        environment = popen_kwargs.get("env")
        search = None if environment is None else environment.get("PATH")
        if shutil.which(argv[0], path=search) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise LabUnavailableError("the lab starts programs with setpriv, which is missing: install util-linux")
        # setpriv rather than preexec_fn: running Python between fork and exec can deadlock in a process with threads.
        # Only a death in the fraction of a millisecond before setpriv has run goes unnoticed.
        bound = [setpriv, "--pdeathsig", "KILL", "--", *argv]

        def start() -> subprocess.Popen[Any]:
            with self.entered():
                return subprocess.Popen(bound, **popen_kwargs)

        child = in_lab_thread(start)
        self._children = [known for known in self._children if known.poll() is None]
        self._children.append(child)
        return child

    def close(self) -> None:
        """Kill what `spawn` started and let go of the namespace. May be called again.

        The kernel takes the interfaces away some 50 ms later, once no socket is left in the namespace either.
        """
        for child in self._children:
            kill(child)
        self._children.clear()
        # Forgotten before it is closed: an interruption between the two must not close it, or another, once more.
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)


def kill(child: "subprocess.Popen[Any]") -> None:
    """Kill a program, if it has not ended, and wait for its end.

    Not for ever: an interruption that comes while `Popen` looks whether a child has ended can leave the lock of that
    look locked, and whoever waits without a bound then never comes back.
    """
    child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_DEATH_S)


def _disable_ipv6() -> None:
    for scope in ("all", "default"):
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1", encoding="ascii")


def set_link_up(ifname: str, *, up: bool) -> None:
    """Set an interface of the calling thread's namespace administratively up or down.

    An ioctl, because it needs neither pyroute2 nor a netlink socket. (pyroute2's ``peer`` cannot carry the flag.)

    Raises:
        OSError: There is no such interface, or it may not be changed.
    """
    # struct ifreq: 16 bytes of name, then a union, padded to its full 40 bytes.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH22x", ifname.encode(), 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", ifname.encode(), flags))


def _missing_capabilities() -> list[str]:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]


def become_lab_root() -> None:
    """Make sure that this process may build a lab: as it is, or as root of a user namespace of its own.

    With the needed capabilities this does nothing. Without them the whole process enters a new user and network
    namespace, in which its user is root. It cannot come back, and it must not have started threads yet.

    Raises:
        LabUnavailableError: The capabilities are missing and the kernel refuses user namespaces.
        LabError: The capabilities are missing and the process already has several threads.
    """
    missing = _missing_capabilities()
    if not missing:
        return
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise LabError("become_lab_root() must be called before the process starts threads")
    uid, gid = os.geteuid(), os.getegid()
    try:
        _system_call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
        # Without this an unprivileged process may not write gid_map: user_namespaces(7).
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    except OSError as error:
        raise LabUnavailableError(_refusal(missing, str(error))) from error
    if _missing_capabilities():
        # AppArmor lets the namespace be made and then takes its capabilities away.
        raise LabUnavailableError(_refusal(missing, "the new user namespace has no capabilities"))


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="ascii")
    except OSError as error:
        # The kernel refuses at the write, when Python no longer mentions the file.
        raise OSError(error.errno, error.strerror, path) from error


def _refusal(missing: Sequence[str], reason: str) -> str:
    findings = []
    for name, wanted in _USER_NAMESPACE_SYSCTLS:
        with contextlib.suppress(OSError):
            value = Path("/proc/sys", name).read_text(encoding="ascii").strip()
            findings.append(f"  {name.replace('/', '.')} is {value} ({wanted})")
    return "\n".join(
        [
            f"a lab needs {', '.join(missing)} or unprivileged user namespaces, and the kernel refuses these: {reason}",
            "run as root, or allow them with sysctl (in a container, its seccomp profile must allow unshare, too):",
            *findings,
        ]
    )
