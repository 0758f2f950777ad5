"""Tell the host how this VM's security software is: the reconciler's counterpart inside the VM.

One self-contained file: Linux, Python 3.8 or newer, standard library only. Copy it into the VM and run it as root:

    python3 -I -S agent.py --config /etc/reconciler-agent.conf         (--check only validates the config)

What goes to the host: *beats*, one ASCII JSON object per line, at most 4096 bytes with the newline:

    {"v":1,"boot":"<boot_id of the kernel>","run":"<32 hex digits, new for each agent process>","seq":1,
     "interval_ms":100,"checks":{"suricata":{"state":"healthy","reason":"pid 312 is alive"}}}

- `seq` begins at 1 and rises by 1 with each beat that was sent.
- `state` is healthy, degraded (reported, no reason to bypass) or failed; `reason` is at most 120 printable characters.
- The first beat comes when each check has had its first result or its time limit; then one each `interval_ms`.
- A beat that the channel cannot take (no host, or one that does not read) is dropped, never queued. A line that was
  begun is finished before the next one.
- The last beat of an agent that is told to stop (SIGTERM, as when the VM shuts down) has `"stopping":true` at its end.
- No beats: the agent cannot run its checks, or is dead. What the host sends is read and thrown away.

Each check runs in a thread of its own, so that one that hangs is a failed check and blocks no other.
"""
# pathlib and contextlib cost memory; before Python 3.10 socket.timeout is not TimeoutError:
# ruff: noqa: PTH101, PTH108, PTH110, PTH116, PTH119, PTH208, SIM105, UP041

from __future__ import annotations

import argparse
import configparser
import errno
import fcntl
import json
import math
import os
import re
import select
import shlex
import signal
import socket
import stat
import struct
import sys
import threading
import time

TYPE_CHECKING = False  # typing itself costs memory, too
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import CodeType

    Reading = tuple[str, str]  # state, reason
    Probe = Callable[[float], Reading]  # takes its deadline on the monotonic clock; may raise OSError or CannotRun
    Log = Callable[[str], None]

MAX_CHECKS = 32
MAX_CHECKS_BYTES = 4096 - 256  # of a beat's JSON; the rest of a beat takes some 160 bytes
# Reasons are cut shorter and shorter until a beat fits; 32 checks without any take some 2,300 bytes.
REASON_LIMITS = (120, 60, 30, 10, 0)
HEALTHY, DEGRADED, FAILED = "healthy", "degraded", "failed"

DEFAULT_CONFIG = "/etc/reconciler-agent.conf"
DEFAULT_CHANNEL = "/dev/virtio-ports/org.reconciler.agent.0"
CHECK_NAME = "[A-Za-z][A-Za-z0-9_-]{0,30}"
INTERFACE = r"[^\s/]{1,15}"
UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0}

MAX_ANSWER = 65536  # bytes
MAX_INPUT = 4096  # bytes from the host that are read per beat
MAX_ACCEPTS = 4  # connections taken per beat
HOST_CID = 2  # VMADDR_CID_HOST of linux/vm_sockets.h
SIOCOUTQ = 0x5411  # linux/sockios.h
OVERDUE_S = 2.0  # a check that begins later than this means that checks do not run
RESTART_S = 1.0  # between attempts to start threads
PET_S = 1.0  # watchdogs have time-outs of some seconds
IN_MEMORY = "/proc/self/fd/"  # where the program is while it runs from its bytecode
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class CannotRun(Exception):  # noqa: N818  # what fails is not what is checked
    """The system denies what it takes to run a check: processes, threads, memory, descriptors."""


class ConfigError(Exception):
    """The config is wrong; one line per mistake."""


def printable(text: str, limit: int) -> str:
    """Return printable ASCII of at most `limit` characters."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if " " <= c <= "~" else " " if c.isspace() else "?" for c in text[:1000])
    return text if len(text) <= limit else text[: max(0, limit - 3)] + "..."[:limit]


def log(text: str) -> None:
    """Write a line to stderr, unless that would block: nobody's failure to read it may stop the heartbeat."""
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    if poller.poll(0):
        try:
            os.write(2, f"reconciler-agent: {printable(text, 500)}\n".encode("ascii"))
        except OSError:
            pass


# Programs and processes.


def seconds_left(deadline: float) -> float:
    """Return how long it is until the deadline; raise TimeoutError if it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


# What Python and `nohup` have this process ignore, and the programs that it starts must not.
INHERITED = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]


def spawn(argv: list[str], output: int) -> int:
    """Start a program in a process group of its own and return its pid, without subprocess, which costs memory."""
    actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, output, number) for number in (1, 2)]  # type: ignore[misc]
    try:
        return os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions, setpgroup=0, setsigdef=INHERITED)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise CannotRun("cannot start a process") from error
        raise


def run(argv: list[str], deadline: float) -> tuple[int, str]:
    """Run a program; return its exit status (negative: killed by that signal) and the beginning of its output.

    It is killed at the deadline. In any case, whatever it left behind in its process group is killed.
    """
    out, far = os.pipe()
    try:
        try:
            pid = spawn(argv, far)
        finally:
            os.close(far)
        try:
            output = read_until_exit(pid, out, deadline)
        finally:
            os.killpg(pid, signal.SIGKILL)  # the leader is not reaped yet, so the group is still its own
            status = os.waitpid(pid, 0)[1]
    finally:
        os.close(out)
    return (-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)), output


def read_until_exit(pid: int, out: int, deadline: float) -> str:
    """Return the beginning of what a child writes until it ends. It may close its output before, or leave it open."""
    output = b""
    poller = select.poll()
    poller.register(out, select.POLLIN)
    step_s = 0.05
    while True:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        left_s = seconds_left(deadline)
        if poller.poll(0 if ended else min(step_s, left_s) * 1000):
            chunk = os.read(out, 4096)
            output = (output + chunk)[:4096]
            if not chunk:
                poller.unregister(out)
                step_s = 0.002
        elif ended:
            return output.decode("utf-8", "replace")


def read_text(path: str, limit: int = 4096) -> str:
    """Return the beginning of a small file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(limit).strip()


def process_stat(pid: int) -> tuple[str, str, int, int] | None:
    """Return a process's name, state letter, parent and start time (proc(5)), or None if there is none."""
    try:
        text = read_text(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, fields[0], int(fields[1]), int(fields[19])


def processes() -> Iterator[tuple[int, tuple[str, str, int, int]]]:
    """Yield pid and stat of each process but this one."""
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        about = process_stat(pid)
        if about is not None and pid != os.getpid():
            yield pid, about


def kill_children() -> None:
    """Kill whatever programs run for checks at this moment, with their process groups."""
    for pid, (_, _, parent, _) in processes():
        if parent == os.getpid():
            try:
                os.killpg(pid, signal.SIGKILL)
            except OSError:
                pass  # it has just ended, or is another user's


def is_named(pid: int, comm: str, name: str) -> bool:
    """Return whether a process is called so, by the kernel (15 characters) or by its command line."""
    if comm == name[:15]:
        return True
    try:
        return os.path.basename(read_text(f"/proc/{pid}/cmdline").split("\0")[0]) == name
    except OSError:
        return False


def find_process(name: str) -> int | None:
    """Return the oldest living process of that name."""
    found = []
    for pid, (comm, state, _, started) in processes():
        if state not in "ZX" and is_named(pid, comm, name):
            found.append((started, pid))
    return min(found)[1] if found else None


def judge_process(pid: int, name: str) -> Reading:
    """Tell whether a process runs: not dead, not a zombie, not stopped, not another one that got its pid."""
    about = process_stat(pid)
    if about is None:
        return FAILED, f"no process {pid}"
    if about[1] in "ZX":
        return FAILED, f"pid {pid} is a zombie"
    if name and not is_named(pid, about[0], name):
        return FAILED, f"pid {pid} is {about[0]}, not {name}"
    if about[1] == "T":
        return FAILED, f"pid {pid} is stopped"
    return HEALTHY, f"pid {pid} is alive"


# Dialogues over unix sockets


def connect(path: str, deadline: float) -> socket.socket:
    """Return a connection to a unix socket."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.settimeout(seconds_left(deadline))
        peer.connect(path)
    except BlockingIOError:
        peer.close()
        raise TimeoutError from None  # its queue is full, because it does not take connections
    except BaseException:
        peer.close()
        raise
    return peer


def ask(peer: socket.socket, deadline: float, line: str, expected: str) -> str:
    """Send a line, if there is one, and read until the answer contains what is expected; return the answer."""
    peer.settimeout(seconds_left(deadline))
    if line:
        peer.sendall(line.encode() + b"\n")
    answer = b""
    while expected.encode() not in answer:
        try:
            peer.settimeout(seconds_left(deadline))
            chunk = peer.recv(4096)
        except (TimeoutError, socket.timeout):
            if not answer:
                raise
            chunk = b""
        answer += chunk
        if not chunk or len(answer) > MAX_ANSWER:
            raise OSError(errno.EPROTO, f"{expected!r} is not in the answer {answer[:60]!r}")
    return answer.decode("utf-8", "replace")


def suricata_connect(path: str, deadline: float) -> socket.socket:
    """Return a connection to Suricata's command socket, in version 0.2 of its protocol: each answer is a line."""
    peer = connect(path, deadline)
    try:
        suricata_ask(peer, deadline, {"version": "0.2"})
    except BaseException:
        peer.close()
        raise
    return peer


def suricata_ask(peer: socket.socket, deadline: float, question: Mapping[str, object]) -> object:
    """Return Suricata's answer to a command; raises OSError if it refuses."""
    text = ask(peer, deadline, json.dumps(question), "\n")
    try:
        answer = json.loads(text)
        good, message = answer["return"] == "OK", answer.get("message")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(errno.EPROTO, f"not Suricata's protocol: {text[:60]}") from error
    if not good:
        raise OSError(errno.EPROTO, f"Suricata refuses: {message}")
    return message


def received_packets() -> dict[str, int]:
    """Return how many packets the kernel received on each interface of its namespace (/sys may show another's)."""
    with open("/proc/net/dev", encoding="ascii", errors="replace") as file:
        rows = [line.partition(":") for line in file.readlines()[2:]]
    return {name.strip(): int(rest.split()[1]) for name, _, rest in rows}


class SuricataInterfaces:
    """Suricata captures what its interfaces receive (if not: failed), and loses none of it (if it does: degraded).

    A capture thread that hangs is told by its counter, which stands still although the kernel receives. Suricata
    updates its counters only now and then, hence two periods: what came in the first is counted after the second.
    """

    def __init__(self, path: str, interfaces: list[str]) -> None:
        self._path = path
        # The last two readings of each interface: packets received by the kernel, captured and dropped by Suricata.
        self._past: dict[str, list[tuple[int, int, int]]] = {name: [] for name in interfaces}

    def __call__(self, deadline: float) -> Reading:
        """Read all interfaces; the worst finding counts."""
        received = received_packets()
        findings: dict[str, list[str]] = {FAILED: [], DEGRADED: []}
        with suricata_connect(self._path, deadline) as peer:
            for name, past in self._past.items():
                answer = suricata_ask(peer, deadline, {"command": "iface-stat", "arguments": {"iface": name}})
                if not isinstance(answer, dict) or name not in received:
                    raise OSError(errno.ENODEV, f"no interface {name}")
                past.append((received[name], int(answer["pkts"]), int(answer["drop"])))
                self._judge(name, past, findings)
                del past[:-2]
        for state, reasons in findings.items():
            if reasons:
                return state, "; ".join(reasons)
        return HEALTHY, "captures on " + " and ".join(self._past)

    @staticmethod
    def _judge(name: str, past: list[tuple[int, int, int]], findings: dict[str, list[str]]) -> None:
        if len(past) > 1 and past[-1][1] < past[-2][1]:  # restarted: it counts from 0 again
            del past[:-1]
        if len(past) > 2 and past[1][0] > past[0][0] and past[2][1] == past[0][1]:
            findings[FAILED].append(f"{name} receives, but nothing is captured")
        elif len(past) > 1 and past[-1][2] > past[-2][2]:
            findings[DEGRADED].append(f"{name}: {past[-1][2] - past[-2][2]} packets dropped before inspection")


# The kinds of checks: each takes what the config says, and returns the probe


def process_check(section: Section) -> Probe:
    """A process runs; it is known by its pid file or its name."""
    value = section.text("process", r"/[^\n]*|name:[^\n/]+", "a pid file's absolute path, or name:NAME")
    name = section.text("name", r"[^\n/]*", "the process's name", "")
    by_name = value.startswith("name:")
    if by_name and name:
        section.wrong("name", "belongs to a pid file; leave it out beside name:")
    known: list[int] = []  # the pid, so that not all processes are looked at each time

    def by_name_probe(_deadline: float) -> Reading:
        reading = judge_process(known[0], value[5:]) if known else (FAILED, "")
        if reading[0] == FAILED:
            known[:] = [pid for pid in [find_process(value[5:])] if pid is not None]
            reading = judge_process(known[0], value[5:]) if known else (FAILED, f"no process {value[5:]}")
        return reading

    def pid_file_probe(_deadline: float) -> Reading:
        text = read_text(value, 32)
        return judge_process(int(text), name) if re.fullmatch("[0-9]{1,9}", text) else (FAILED, f"no pid in {value}")

    return by_name_probe if by_name else pid_file_probe


def unit_check(section: Section) -> Probe:
    """A systemd unit is active."""
    unit = section.text("unit", r"[\w@:.\\-]+", "a systemd unit's name, such as suricata.service")

    def probe(deadline: float) -> Reading:
        word = run(["systemctl", "is-active", "--", unit], deadline)[1].strip()
        return {"active": HEALTHY, "reloading": DEGRADED, "refreshing": DEGRADED}.get(word, FAILED), f"{unit} is {word}"

    return probe


def tcp_check(section: Section) -> Probe:
    """A TCP port takes a connection."""
    right = "ADDRESS:PORT, such as 127.0.0.1:80 or [::1]:80 (no host name: looking it up takes time)"
    host, _, port = section.text("tcp", r"[0-9.]+:[0-9]{1,5}|\[[0-9a-fA-F:.]+\]:[0-9]{1,5}", right, "").rpartition(":")
    bare = host.strip("[]")
    try:
        if host and int(port) < 65536:
            socket.inet_pton(socket.AF_INET6 if host.startswith("[") else socket.AF_INET, bare)
        elif host:
            section.wrong("tcp", f"{port} is not a port; write {right}")
    except OSError:
        section.wrong("tcp", f"{host} is not an address; write {right}")

    def probe(deadline: float) -> Reading:
        with socket.create_connection((bare, int(port)), seconds_left(deadline)):
            return HEALTHY, f"{host}:{port} takes connections"

    return probe


def socket_check(section: Section) -> Probe:
    """A unix socket takes a connection and gives the expected answers, one for each line that is sent."""
    path = section.path("socket")
    send = section.lines("send")
    expect = section.lines("expect")
    if len(send) > len(expect):
        section.wrong("expect", "has fewer lines than send; write what each answer contains")
    send = [""] * (len(expect) - len(send)) + send  # what is expected beforehand is a greeting

    def probe(deadline: float) -> Reading:
        with connect(path, deadline) as peer:
            for line, expected in zip(send, expect):  # noqa: B905  # strict= is younger than Python 3.8
                ask(peer, deadline, line, expected)
        return HEALTHY, f"{path} answers"

    return probe


def suricata_check(section: Section) -> Probe:
    """Suricata's command socket answers; or says that what comes in is captured."""
    path = section.path("suricata")
    right = "uptime, or iface-stat and its interfaces: iface-stat eth0 eth1"
    words = section.text("command", rf"uptime|iface-stat( +{INTERFACE})+", right, "uptime").split()

    def probe(deadline: float) -> Reading:
        with suricata_connect(path, deadline) as peer:
            return HEALTHY, f"up for {suricata_ask(peer, deadline, {'command': 'uptime'})} s"

    return SuricataInterfaces(path, words[1:]) if len(words) > 1 else probe


def file_check(section: Section) -> Probe:
    """A file was written not long ago; one that is dated in the future was not."""
    path = section.path("file")
    limit_s = section.duration("fresher_than", "1s", "1440m")

    def probe(_deadline: float) -> Reading:
        age_s = time.time() - os.stat(path).st_mtime
        return HEALTHY if abs(age_s) <= limit_s else FAILED, f"{path} was written {age_s:.0f} s ago"

    return probe


def command_check(section: Section) -> Probe:
    """A program's exit status, as monitoring plugins have it: 0 healthy, 1 degraded, anything else failed."""
    argv: list[str] = []
    try:
        argv += shlex.split(section.values["command"])
    except ValueError as error:
        section.wrong("command", f"{error}; write a program and its arguments, quoted as for a shell")
    if not argv:
        section.wrong("command", "is empty; write a program and its arguments")

    def probe(deadline: float) -> Reading:
        status, output = run(argv, deadline)
        lines = output.strip().splitlines() or [f"status {status}" if status >= 0 else f"killed by signal {-status}"]
        return {0: HEALTHY, 1: DEGRADED}.get(status, FAILED), lines[0]

    return probe


def bridge_check(section: Section, sysfs: str = "/sys/class/net") -> Probe:
    """An interface is in the bridge, has its carrier, and forwards; and the bridge is up."""
    bridge = section.text("bridge", INTERFACE, "the bridge's name")
    interface = section.text("interface", INTERFACE, "the interface's name")

    def probe(_deadline: float) -> Reading:
        if not os.path.exists(f"{sysfs}/{interface}"):
            return FAILED, f"no interface {interface}"
        if not os.path.exists(f"{sysfs}/{bridge}/brif/{interface}"):
            return FAILED, f"{interface} is not in {bridge}"
        for name in (bridge, interface):
            if not int(read_text(f"{sysfs}/{name}/flags"), 16) & 1:
                return FAILED, f"{name} is down"
            if read_text(f"{sysfs}/{name}/carrier") != "1":
                return FAILED, f"{name} has no carrier"
        if read_text(f"{sysfs}/{interface}/brport/state") != "3":  # BR_STATE_FORWARDING
            return FAILED, f"{interface} does not forward"
        return HEALTHY, f"{interface} forwards in {bridge}"

    return probe


# Kind: its maker, the keys that belong to it, how often unless told otherwise (starting a process is dear)
KINDS: dict[str, tuple[Callable[[Section], Probe], tuple[str, ...], str]] = {
    "process": (process_check, ("name",), "1s"),
    "unit": (unit_check, (), "5s"),
    "tcp": (tcp_check, (), "1s"),
    "socket": (socket_check, ("send", "expect"), "1s"),
    "suricata": (suricata_check, ("command",), "1s"),
    "file": (file_check, ("fresher_than",), "1s"),
    "command": (command_check, (), "5s"),
    "bridge": (bridge_check, ("interface",), "1s"),
}


class Check:
    """One check: a thread that probes, and what the beats say about it."""

    def __init__(
        self,
        name: str,
        probe: Probe,
        *,
        every_s: float,
        timeout_s: float,
        tolerate_s: float = 0.0,
        on_silence: str = FAILED,
        on_failure: str = FAILED,
    ) -> None:
        self.name = name
        self._probe = probe
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._tolerate_s = tolerate_s
        self._on_silence = on_silence
        self._on_failure = on_failure
        self._thread: threading.Thread | None = None
        # Whether the probe runs; since when, or when it is due; the last reading; why it could not be run. One tuple,
        # because its thread replaces it while the main thread reads it.
        self._progress: tuple[bool, float, Reading | None, str] = (False, 0.0, None, "")
        # Only what was healthy before is tolerated: software that is still starting does not inspect yet.
        self._tolerable = False
        self._failed_since: float | None = None

    def start(self) -> None:
        """Start the thread, if it is not there yet; raises CannotRun."""
        if self._thread is not None:
            return
        self._progress = (False, time.monotonic(), None, "")
        thread = threading.Thread(target=self._loop, name=self.name, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            raise CannotRun("cannot start a thread") from error
        self._thread = thread

    def _loop(self) -> None:
        due = time.monotonic()
        reading: Reading | None = None
        while True:
            began, obstacle = time.monotonic(), ""
            self._progress = (True, began, reading, obstacle)
            try:
                reading = self._read(began + self._timeout_s)
            except CannotRun as error:
                obstacle = str(error)
            now = time.monotonic()
            due = next_due(due, self._every_s, now)
            self._progress = (False, due, reading, obstacle)
            # Not Event.wait: before Python 3.11 it waits by the clock on the wall, which may be set back.
            time.sleep(due - now)

    def _read(self, deadline: float) -> Reading:
        try:
            reading = self._probe(deadline)
        except (TimeoutError, socket.timeout):
            return self._silence()
        except MemoryError as error:
            raise CannotRun("out of memory") from error
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise CannotRun(str(error)) from error
            text = error.strerror or repr(error)
            reading = FAILED, f"{error.filename}: {text}" if error.filename else text
        except CannotRun:
            raise
        except Exception as error:  # noqa: BLE001  # a check with a bug is a failed check, not the end of its thread
            reading = FAILED, repr(error)
        return reading if time.monotonic() <= deadline else self._silence()

    def _silence(self) -> Reading:
        return self._on_silence, f"no answer within {self._timeout_s * 1000:.0f} ms"

    def obstacle(self, now: float) -> str:
        """Return why there is nothing to say about this check, or an empty text."""
        running, at, reading, obstacle = self._progress
        if obstacle:
            return f"{self.name}: {obstacle}"
        if not running and now - at > OVERDUE_S:
            return f"{self.name}: its thread does not come round"
        if reading is None and not (running and now - at > self._timeout_s):
            return f"{self.name}: no result yet"
        return ""

    def judge(self, now: float) -> Reading:
        """Return what is to be said at this moment."""
        running, at, reading, _ = self._progress
        if reading is None or (running and now - at > self._timeout_s):
            reading = self._silence()
        state, reason = reading
        if state != FAILED:
            self._failed_since = None
            self._tolerable = self._tolerable or state == HEALTHY
            return reading
        if self._failed_since is None:
            self._failed_since = now
        self._tolerable = self._tolerable and now - self._failed_since < self._tolerate_s
        return (DEGRADED if self._tolerable else self._on_failure), reason


# Channels: how beats reach the host


class Channel:
    """A descriptor that takes beats, or does not; it is opened again for ever."""

    def __init__(self, name: str, log: Log) -> None:
        self._name = name
        self._log = log
        self._said = ""
        self._fd: int | None = None
        self._rest = b""  # of a line that was begun

    def send(self, line: bytes) -> bool:
        """Send a beat now or never; return whether it was sent."""
        try:
            self._connect()
            if self._fd is not None:
                self._discard_input(self._fd)
            if self._fd is None or self._unread(self._fd):
                return False
            while self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
            self._rest = line[os.write(self._fd, line) :]
        except BlockingIOError:
            return False
        except OSError as error:
            self._disconnect(error.strerror or repr(error))
            return False
        return True

    def close(self) -> None:
        """Let go of the channel."""
        self._disconnect("closed")

    def _connect(self) -> None:
        raise NotImplementedError

    def _discard_input(self, fd: int) -> None:
        try:
            os.read(fd, MAX_INPUT)
        except BlockingIOError:
            pass

    def _unread(self, _fd: int) -> bool:
        """Return whether the host has not even read the last beat, as far as this can be known."""
        return False

    def _disconnect(self, why: str) -> None:
        self._rest = b""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        self._say(why)

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._log(f"{self._name}: {text}")


class Device(Channel):
    """A character device: a port of virtio-serial, whose other end is a socket on the host."""

    def _connect(self) -> None:
        if self._fd is not None:
            return
        # O_NONBLOCK, because writing blocks while the host is not connected.
        fd = os.open(self._name, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.ENODEV, "not a character device")
        self._fd = fd
        self._say("open")


class Listener(Channel):
    """A socket to which the host connects. One host at a time: the newest, because the one before may be gone."""

    _listener: socket.socket | None = None

    def close(self) -> None:
        """Let go of the host and of the socket."""
        if self._listener is not None:
            self._listener.close()
        super().close()

    def _listen(self) -> socket.socket:
        raise NotImplementedError

    def _trusted(self, _address: object) -> bool:
        return True

    def _lost(self) -> bool:
        """Return whether nobody can find the socket any more."""
        return False

    def _connect(self) -> None:
        if self._listener is not None and self._fd is None and self._lost():
            self._listener.close()
            self._listener = None
        if self._listener is None:
            self._listener = self._listen()
            self._listener.setblocking(False)
            self._say("listening")
        for _ in range(MAX_ACCEPTS):
            try:
                peer, address = self._listener.accept()
            except OSError as error:
                if self._fd is None and not isinstance(error, BlockingIOError):
                    raise
                return
            if self._trusted(address):
                peer.setblocking(False)
                self._disconnect("another connection")
                self._fd = peer.detach()
                self._say("connected")
            peer.close()

    def _discard_input(self, fd: int) -> None:
        try:
            if not os.read(fd, MAX_INPUT):
                self._disconnect("listening")
        except BlockingIOError:
            pass

    def _unread(self, fd: int) -> bool:
        try:
            (waiting,) = struct.unpack("i", fcntl.ioctl(fd, SIOCOUTQ, bytes(4)))
        except OSError:  # vsock has it in newer kernels only
            return False
        return bool(waiting)


class UnixListener(Listener):
    """A unix socket, for a VM that is a container."""

    _inode: tuple[int, int] | None = None

    def close(self) -> None:
        """Let go of all, and remove the socket."""
        if self._listener is not None and not self._lost():
            os.unlink(self._name)
        super().close()

    def _listen(self) -> socket.socket:
        if self._identity() is not None:
            os.unlink(self._name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self._name)
            os.chmod(self._name, 0o600)  # before listen(), until which nobody can connect
            listener.listen(MAX_ACCEPTS)
        except BaseException:
            listener.close()
            raise
        self._inode = self._identity()
        return listener

    def _lost(self) -> bool:
        return self._identity() != self._inode

    def _identity(self) -> tuple[int, int] | None:
        try:
            about = os.lstat(self._name)
        except FileNotFoundError:
            return None
        return (about.st_dev, about.st_ino) if stat.S_ISSOCK(about.st_mode) else None


class VsockListener(Listener):
    """A vsock port, to which only the host may connect."""

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            listener.bind((socket.VMADDR_CID_ANY, int(self._name)))
            listener.listen(MAX_ACCEPTS)
        except BaseException:
            listener.close()
            raise
        return listener

    def _trusted(self, address: object) -> bool:
        return isinstance(address, tuple) and address[0] == HOST_CID


def open_channel(name: str, log: Log) -> Channel:
    """Return the channel of a valid name."""
    kind, _, rest = name.partition(":")
    if kind == "unix":
        return UnixListener(rest, log)
    return VsockListener(rest, log) if kind == "vsock" else Device(name, log)


class Watchdog(Channel):
    """A kernel watchdog, which resets the VM unless it is petted. Opening it arms it; `V` then closing disarms it."""

    def _connect(self) -> None:
        if self._fd is None:
            self._fd = os.open(self._name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._say("armed")

    def _discard_input(self, fd: int) -> None:
        """There is none."""

    def disarm(self) -> None:
        """Let the VM live on without this agent."""
        if self._fd is not None:
            self.send(b"V")


# The agent


def next_due(due: float, period_s: float, now: float) -> float:
    """Return the next moment of an absolute schedule. Moments that were missed are left out, not made up for."""
    return due + period_s * (1 + (now - due) // period_s)


class Agent:
    """Beats, as long as its checks can run."""

    def __init__(self, config: Config, log: Log) -> None:
        self._config = config
        self._log = log
        self._channel = open_channel(config.channel, log)
        self._watchdog = Watchdog(config.watchdog, log) if config.watchdog else None
        self._boot = read_text("/proc/sys/kernel/random/boot_id")
        self._run = os.urandom(16).hex()
        self._seq = 1
        self._readings: dict[str, Reading] = {}
        self._checks_text = "{}"
        self._obstacle = ""
        self._start_at = 0.0
        self._start_refused = ""

    def run(self, told_to_stop: int) -> None:
        """Beat until that descriptor becomes readable."""
        beat_at = pet_at = time.monotonic()
        while True:
            now = time.monotonic()
            able = self._able(now)
            if now >= beat_at:
                if able:
                    self._beat(now)
                beat_at = next_due(beat_at, self._config.interval_s, now)
            if now >= pet_at:
                if able and self._watchdog is not None:
                    self._watchdog.send(b"\0")
                pet_at = next_due(pet_at, PET_S, now)
            if select.select([told_to_stop], [], [], max(0.0, min(beat_at, pet_at) - time.monotonic()))[0]:
                return

    def farewell(self) -> None:
        """Tell that what comes now is silence on purpose: a shutdown takes longer than a host waits for beats."""
        if self._seq > 1:
            self._send(',"stopping":true')

    def stop(self) -> None:
        """Kill what runs, and let go of everything."""
        kill_children()
        self._channel.close()
        if self._watchdog is not None:
            if self._config.disarm:
                self._watchdog.disarm()
            self._watchdog.close()

    def _able(self, now: float) -> bool:
        """Return whether all checks run, and have something to say."""
        if now >= self._start_at:
            self._start_threads(now)
        obstacle = self._start_refused
        for check in self._config.checks:
            obstacle = obstacle or check.obstacle(now)
        if obstacle != self._obstacle:
            self._obstacle = obstacle
            self._log(f"no heartbeat: {obstacle}" if obstacle else "heartbeat")
        return not obstacle

    def _start_threads(self, now: float) -> None:
        try:
            for check in self._config.checks:
                check.start()
            self._start_at, self._start_refused = math.inf, ""
        except CannotRun as error:
            self._start_at, self._start_refused = now + RESTART_S, str(error)

    def _beat(self, now: float) -> None:
        readings = {check.name: check.judge(now) for check in self._config.checks}
        if readings != self._readings:
            for name, (state, reason) in readings.items():
                if self._readings.get(name, ("", ""))[0] != state:
                    self._log(f"{name}: {state}: {reason}")
            self._readings, self._checks_text = readings, encode_checks(readings)
        self._send("")

    def _send(self, more: str) -> None:
        line = (
            f'{{"v":1,"boot":"{self._boot}","run":"{self._run}","seq":{self._seq},'
            f'"interval_ms":{self._config.interval_s * 1000:.0f},"checks":{self._checks_text}{more}}}\n'
        )
        if self._channel.send(line.encode("ascii")):
            self._seq += 1


def encode_checks(readings: Mapping[str, Reading]) -> str:
    """Return the readings as JSON that fits into a beat."""
    text = ""
    for limit in REASON_LIMITS:
        checks = {name: {"state": state, "reason": printable(why, limit)} for name, (state, why) in readings.items()}
        text = json.dumps(checks, separators=(",", ":"))
        if len(text) <= MAX_CHECKS_BYTES:
            break
    return text


# The config


class Config:
    """What the file says."""

    def __init__(self, agent: Section, checks: list[Check]) -> None:
        self.checks = checks
        self.interval_s = agent.duration("interval", "10ms", "60s", "100ms")
        right = "a character device's path, unix:/PATH or vsock:PORT"
        self.channel = agent.text("channel", r"/[^\n]*|unix:/[^\n]{1,106}|vsock:[0-9]{1,9}", right, DEFAULT_CHANNEL)
        self.watchdog = agent.path("watchdog") if "watchdog" in agent.values else ""
        self.disarm = agent.text("watchdog_stop", "keep|disarm", "keep or disarm", "keep") == "disarm"
        if "watchdog_stop" in agent.values and "watchdog" not in agent.values:
            agent.wrong("watchdog_stop", "there is no watchdog; leave it out, or add watchdog = /dev/watchdog")
        agent.only("interval", "channel", "watchdog", "watchdog_stop")


class Section:
    """A section of the file; notes what is wrong in it, with what would be right."""

    def __init__(self, place: str, values: Mapping[str, str], errors: list[str]) -> None:
        self.values = values
        self._place = place
        self._errors = errors

    def wrong(self, key: str, problem: str) -> None:
        """Note a mistake in a key, or (an empty key) in the section as such."""
        self._errors.append(f"{self._place} {key}: {problem}" if key else f"{self._place}: {problem}")

    def only(self, *known: str) -> None:
        """Note the keys that do not belong here."""
        for key in self.values:
            if key not in known:
                self.wrong(key, f"unknown key; known here: {', '.join(known)}")

    def text(self, key: str, pattern: str, right: str, default: str | None = None) -> str:
        """Return a value that fits the pattern; else note that it does not, and return an empty text."""
        value = self.values.get(key, default)
        if value is None:
            self.wrong(key, f"missing; write {right}")
        elif key in self.values and not re.fullmatch(pattern, value):
            self.wrong(key, f"{value!r} is not valid; write {right}")
        else:
            return value
        return ""

    def path(self, key: str) -> str:
        """Return an absolute path."""
        return self.text(key, r"/[^\n]*", "an absolute path")

    def lines(self, key: str) -> list[str]:
        """Return the lines of a value."""
        return [line for line in self.values.get(key, "").split("\n") if line]

    def duration(self, key: str, low: str, high: str, default: str | None = None) -> float:
        """Return a duration in seconds."""
        right = f"a duration from {low} to {high}, such as 500ms, 5s or 2m"
        value = self.text(key, r"[0-9]{1,9}(ms|s|m)", right, default)
        if value and not seconds(low) <= seconds(value) <= seconds(high):
            self.wrong(key, f"{value} is out of bounds; write {right}")
        return seconds(value or low)


def seconds(duration: str) -> float:
    """Return how many seconds a valid duration has."""
    unit = duration.lstrip("0123456789")
    return int(duration[: -len(unit)]) * UNIT_S[unit]


def read_check(name: str, section: Section) -> Check | None:
    """Return the check that a section describes."""
    if not re.fullmatch(CHECK_NAME, name):
        section.wrong("", "a check's name is a letter, then up to 30 letters, digits, _ or -")
    kinds = [kind for kind in KINDS if kind in section.values]
    if kinds == ["suricata", "command"]:  # there, it is the command that Suricata gets
        kinds.pop()
    if len(kinds) != 1:
        section.wrong("", f"has {' and '.join(kinds) or 'no kind'}; write exactly one of {', '.join(KINDS)}")
        return None
    make, keys, every = KINDS[kinds[0]]
    section.only(kinds[0], *keys, "every", "timeout", "tolerate", "on_silence", "on_failure")
    return Check(
        name,
        make(section),
        every_s=section.duration("every", "50ms", "60m", every),
        timeout_s=section.duration("timeout", "10ms", "60s", "500ms"),
        tolerate_s=section.duration("tolerate", "0s", "60m", "0s"),
        on_silence=section.text("on_silence", "failed|degraded", "failed or degraded", FAILED),
        on_failure=section.text("on_failure", "failed|degraded", "failed or degraded", FAILED),
    )


def parse(path: str, errors: list[str]) -> configparser.ConfigParser:
    """Return what stands in the file; raises ConfigError if it has no sections and keys."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for strict in (True, False):  # once more after a duplicate, to find other mistakes as well
        # A default section of an impossible name makes [DEFAULT] one as any other.
        parser = configparser.ConfigParser(
            strict=strict, interpolation=None, delimiters=("=",), default_section="\n", empty_lines_in_values=False
        )
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        try:
            parser.read_string(text, path)
            break
        except configparser.DuplicateSectionError as error:
            errors.append(f"{path}: [{error.section}]: stands there twice; keep one")
        except configparser.DuplicateOptionError as error:
            errors.append(f"{path}: [{error.section}] {error.option}: stands there twice; keep one")
        except configparser.Error as error:
            raise ConfigError(f"{path}: write sections and keys: {' '.join(str(error).split())}") from error
    return parser


def load(path: str) -> Config:
    """Read the file; raises ConfigError with all that is wrong with it."""
    errors: list[str] = []
    try:
        parser = parse(path, errors)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    sections = {name: Section(f"{path}: [{name}]", dict(parser.items(name)), errors) for name in parser.sections()}
    agent = sections.pop("agent", Section(f"{path}: [agent]", {}, errors))
    checks = []
    for name, section in sections.items():
        kind, _, check_name = name.partition(" ")
        if kind == "check":
            checks.append(read_check(check_name, section))
        else:
            section.wrong("", "unknown section; known are [agent] and [check NAME]")
    if len(checks) > MAX_CHECKS:
        errors.append(f"{path}: has {len(checks)} checks; write at most {MAX_CHECKS}")
    config = Config(agent, [check for check in checks if check is not None])
    if errors:
        raise ConfigError("\n".join(errors))
    return config


def catch_signals() -> int:
    """Return a descriptor that becomes readable when the agent is to end, so that it never ends amid something."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    # Whoever started this may have blocked them, or ignored what tells that a program has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    return readable


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="reconciler-agent", description="Tell the host how this VM's security software is."
    )
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="only validate the config")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if arguments.check:
        sys.stdout.write(f"{arguments.config}: valid, {len(config.checks)} checks\n")
        return 0
    agent = Agent(config, log)
    told_to_stop = catch_signals()
    try:
        agent.run(told_to_stop)
        agent.farewell()
    finally:
        agent.stop()
    return 0


def start_over_from_bytecode(code: CodeType) -> None:
    """Run this program anew from its bytecode: what compiling it took, 2.5 MB, Python does not give back."""
    import importlib.util
    import marshal

    pyc = importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)
    fd = os.memfd_create("reconciler-agent", 0)
    if os.write(fd, pyc) == len(pyc):
        options = ["-I"] * sys.flags.isolated + ["-S"] * sys.flags.no_site
        os.execv(sys.executable, [sys.executable, *options, f"{IN_MEMORY}{fd}", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    if __file__.startswith(IN_MEMORY):
        os.close(int(__file__[len(IN_MEMORY) :]))
    else:
        try:
            start_over_from_bytecode(sys._getframe().f_code)  # noqa: SLF001  # the only way to the code that runs
        except (AttributeError, ImportError, OSError):
            pass  # a Python or system without what this takes: then it takes more memory
    sys.exit(main())
