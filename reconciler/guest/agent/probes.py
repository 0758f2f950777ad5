"""The kinds of checks: each takes what the config says, and returns the probe."""

from __future__ import annotations

import os
import re
import shlex
import socket
import time

from reconciler.guest.agent.dialogues import ask, connect
from reconciler.guest.agent.processes import find_process, judge_process, read_text
from reconciler.guest.agent.programs import run, seconds_left
from reconciler.guest.agent.readings import DEGRADED, FAILED, HEALTHY, TYPE_CHECKING
from reconciler.guest.agent.section import Section
from reconciler.guest.agent.suricata import SuricataInterfaces, suricata_ask, suricata_connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.guest.agent.readings import Probe, Reading

INTERFACE = r"[^\s/]{1,15}"


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
    """A file was written not long ago, by a clock that nobody sets: what counts is when its date was seen to change."""
    path = section.path("file")
    limit_s = section.duration("fresher_than", "1s", "1440m")
    seen: list[tuple[int, float]] = []  # its date, and when that was seen first, on the monotonic clock

    def probe(_deadline: float) -> Reading:
        date, now = os.stat(path).st_mtime_ns, time.monotonic()
        if not seen:
            # What was written before we looked is as old as its date says, if that can be; only here the clock counts.
            seen[:] = [(date, now - max(0.0, time.time() - date / 1e9))]
        elif seen[0][0] != date:
            seen[:] = [(date, now)]
        age_s = now - seen[0][1]
        return HEALTHY if age_s <= limit_s else FAILED, f"{path} was written {age_s:.0f} s ago"

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
