"""A machine in the daemon's care, with traffic through it: what was decided, when, and what the traffic suffered."""

import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from machine import BOOT_S, DOMAIN, Machine

from reconciler.control.ask import NoDaemonError, ask, socket_of
from reconciler.errors import TransientError
from reconciler.lab.lab import wait_until

SKU = "vm-lab"
FALL_MS = 300
HOLD_DOWN_MS = 1_000
SETTLE_MS = 1_000

# Generous: two cores, of which others want their share, and a VM that is emulated.
PATIENCE_S = 30.0
RETURN_S = BOOT_S + PATIENCE_S
_POLL_S = 0.005
_ASK_S = 0.05
# Frames per second of each flow; and how long after a move a gap belongs to it.
RATE = 1_000
_AFTERMATH_NS = 500_000_000
_CROSSED = 20
# Between the moment of a decision and the line that tells of it.
_LOG_JITTER_MS = 50
_LOG_SHOWN = 25

Line = dict[str, Any]


def care(machine: Machine, ladder: Mapping[str, int] | None = None, **more: Any) -> dict[str, Any]:
    """The sections `health` and `on_failure` of the appliance file.

    `ladder`: methods and their attempts; none: the VM is never restarted. `more`: `agent`, `signals`, `health`,
    `on_failure` and `restart` are added to what is said of them here.
    """
    beats = {"kind": "heartbeat", "socket": str(machine.agent_socket), "interval": "100ms", "fall": 3, "rise": 5}
    signals = {
        "agent": beats | more.get("agent", {}),
        "domain": {"kind": "domain"},
        "carrier": {"kind": "carrier"},
        **more.get("signals", {}),
    }
    # A failure that is older than flap_memory is no flap: most cases are about something else.
    health = {"grace": "2s", "hold_down": f"{HOLD_DOWN_MS}ms", "hold_down_max": "8s", "flap_memory": "100ms"}
    restart = {
        "ladder": [{"method": method, "attempts": attempts} for method, attempts in (ladder or {}).items()],
        "backoff": "1s",
        "backoff_max": "1s",
        "boot_timeout": "60s",
        **more.get("restart", {}),
    }
    return {
        "health": {"signals": signals, **health, **more.get("health", {})},
        "on_failure": {"restart": restart, **more.get("on_failure", {})},
    }


@dataclass
class Row:
    """One fault, as the table shows it. Times in milliseconds; `None`: it did not come to that.

    Attributes:
        fault: What happened.
        detected_ms: From the fault to the decision.
        applied_ms: From the fault until the last port had moved, as the daemon tells after it has looked.
        outage_ms: The longest time without a frame around the fault, by the kernel's receive timestamps.
        lost: Frames lost around the fault, of `RATE` a second in each flow.
        restarts: How often the daemon had the VM restarted.
        starts: How often a QEMU was started, by whomever.
        back_ms: From the fault until the traffic was sent through the VM again.
        return_gap_ms: The longest time without a frame around that.
        reasons: What the decision rests on.
    """

    fault: str
    detected_ms: float | None = None
    applied_ms: float | None = None
    outage_ms: float | None = None
    lost: int = 0
    restarts: int = 0
    starts: int = 0
    back_ms: float | None = None
    return_gap_ms: float | None = None
    reasons: list[str] = field(default_factory=list)


class Log:
    """The daemon's JSON log: one file for all the daemons that keep the machine, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._read = 0
        self.lines: list[Line] = []

    def harvest(self) -> list[Line]:
        """All lines so far."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for text in whole.splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                line = {"event": "alien", "text": text.decode(errors="replace"), "time": "1970-01-01T00:00:00.000Z"}
            line["ns"] = int(datetime.fromisoformat(line["time"]).timestamp() * 1_000) * 1_000_000
            self.lines.append(line)
        return self.lines

    def wait(self, condition: Callable[[Line], bool], what: str, since: int, timeout_s: float = PATIENCE_S) -> Line:
        """Wait for a line from number `since` on, and return it."""
        deadline = time.monotonic() + timeout_s
        while True:
            lines = self.harvest()
            for index in range(since, len(lines)):
                if condition(lines[index]):
                    return lines[index]
            since = len(lines)
            assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}\n{self}"
            time.sleep(_POLL_S)

    def __str__(self) -> str:
        return "\n".join(f"{line['time'][11:]} {line['text']}" for line in self.harvest()[-_LOG_SHOWN:])


class Fault:
    """A fault, from the moment when it is about to happen."""

    def __init__(self, kept: "Kept", row: Row) -> None:
        self.row = row
        self.back_ns: int | None = None
        self.moved_ns: int | None = None
        self._kept = kept
        self.mark = len(kept.log.harvest())
        self.starts_before = kept.starts()
        self.at_ns = 0
        self.now()

    def now(self) -> None:
        """It happens now, and not when this was made."""
        self.at_ns = time.time_ns()

    def _since_ms(self, moment_ns: int) -> float:
        return round((moment_ns - self.at_ns) / 1e6, 1)

    def decided(self, what: str, timeout_s: float = PATIENCE_S) -> Line:
        """Wait for a decision since the fault that begins like this."""
        return self._kept.log.wait(lambda line: _says(line, what), f"the decision {what!r}", self.mark, timeout_s)

    def bypassed(self, *because: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the traffic goes past the VM: decided for reasons that contain one of `because`, done, and so."""
        self._moved("inspect → bypass", "bypass", timeout_s)
        decision = self.decided("inspect → bypass")
        self.row.detected_ms = self._since_ms(decision["ns"])
        self.row.reasons = decision["why"]
        said = "; ".join(decision["why"])
        assert any(reason in said for reason in because), f"not for the right reason: {said}\n{self._kept.log}"

        def explained(status: Any) -> bool:
            return any((one["what"], one["why"]) == (decision["what"], decision["why"]) for one in status["decisions"])

        # A daemon that was just started acts before it answers.
        self._kept.wait_status(explained, "to explain it")
        self._kept.is_wired("bypass")
        self._kept.passes()

    def _moved(self, words: str, topology: str, timeout_s: float) -> None:
        log, segments = self._kept.log, len(self._kept.machine.lab.segments)
        seen: set[str] = set()
        number = self.mark
        while len(seen) < segments:
            line = log.wait(lambda line: _says(line, words), f"{words!r} of every segment", number, timeout_s)
            seen.add(line["segment"])
            number = log.lines.index(line) + 1
        line = log.wait(lambda line: line["event"] == "switched", f"the switch to {topology}", number, timeout_s)
        if topology == "bypass":
            self.moved_ns, self.row.applied_ms = line["ns"], self._since_ms(line["ns"])
        else:
            self.back_ns, self.row.back_ms = line["ns"], self._since_ms(line["ns"])

    def returned(self, hold_down_ms: int = HOLD_DOWN_MS, timeout_s: float = RETURN_S) -> None:
        """Wait until the traffic crosses the VM again, which nobody but the daemon has brought about."""
        self._moved("bypass → inspect", "inspect", timeout_s)
        proved, went = (self._kept.latest(what) for what in ("healthy; stays on bypass", "bypass → inspect"))
        held_ms = (went["ns"] - proved["ns"]) / 1e6
        assert held_ms >= hold_down_ms - _LOG_JITTER_MS, (
            f"back after {held_ms} ms, inside the hold-down\n{self._kept.log}"
        )
        self._kept.is_wired("inspect")
        self._kept.crosses()
        self._kept.wait_status(well, "to be well")

    def restarted(self, restarts: int, *starts: int) -> None:
        """Check how often the daemon had the VM restarted since the fault, and how often, of these, QEMU was started."""
        lines = self._kept.log.harvest()[self.mark :]
        self.row.restarts = sum(_says(line, "restarting the VM:") for line in lines)
        self.row.starts = self._kept.starts() - self.starts_before
        assert self.row.restarts == restarts, str(self._kept.log)
        assert self.row.starts in starts, str(self._kept.log)

    def left_alone(self, phase: str, *, restarts: int = 0, starts: int = 0, for_ms: int = 2 * SETTLE_MS + 500) -> None:
        """Wait until the VM has been in a phase for longer than any restart would have waited; there was none more."""

        def long_enough(status: Any) -> bool:
            vm = status["vm"]
            return bool(vm["phase"] == phase and vm["since_ms"] > for_ms)

        self._kept.wait_status(long_enough, f"the VM to be left alone, {phase}")
        self.restarted(restarts, starts)

    def unmoved(self) -> None:
        """Check that nothing was changed in the network since the fault."""
        moves = [line for line in self._kept.log.harvest()[self.mark :] if line["event"] in ("switched", "repaired")]
        assert not moves, str(self._kept.log)


def _says(line: Line, what: str) -> bool:
    return line["event"] == "decision" and line["what"].startswith(what)


def well(status: Any) -> bool:
    """Whether the network is as wanted, and every segment inspected and healthy."""
    return bool(status["network"]["converged"]) and all(
        one["course"] == "inspect" and one["verdict"] == "healthy" for one in status["segments"]
    )


class Kept:
    """See the module. Use it in a `with` statement; then the VM runs, and traffic crosses it.

    Attributes:
        machine: The machine.
        log: What the daemon says.
    """

    def __init__(
        self,
        machine: Machine,
        table: list[Row],
        sections: Mapping[str, Any],
        *,
        on_crash: Literal["destroy", "preserve"] = "destroy",
        rate: int = RATE,
    ) -> None:
        self.machine = machine
        self._on_crash = on_crash
        self._table = table
        self._sections = sections
        self._rate = rate
        self._faults: list[Fault] = []
        self._open = contextlib.ExitStack()
        self._daemon: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        machine = self.machine
        with self._open:
            machine.declare(self._sections)
            machine.define(on_crash=self._on_crash)
            shutil.rmtree(machine.folder / "state", ignore_errors=True)
            (machine.folder / "daemon.log").unlink(missing_ok=True)
            self.log = Log(machine.folder / "daemon.log")
            if not machine.taps_exist():
                machine.reconcile()
            if machine.qemu_pid() is not None:
                machine.destroy()
            self._open.callback(self._end_vm)
            machine.resume()
            self._foreign = foreign(machine)
            self._open.callback(self._end_daemon)
            self.start_daemon()
            self.traffic = self._open.enter_context(machine.lab.flows(self._rate))
            self.traffic.start()
            self.wait_status(well, "to be well")
            self.is_wired("inspect")
            self.crosses()
            self._open = self._open.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._open:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        """What is to be so at the end of every case."""
        assert self.machine.reconcile("--dry-run", check=False).returncode == 0, "the network is not as wanted"
        assert foreign(self.machine) == self._foreign, "something foreign was touched"
        assert self.end_daemon() == 0
        bad = [line for line in self.log.harvest() if line["event"] in ("bug", "alien", "failed", "conflict")]
        assert not bad, str(bad)
        self.traffic.stop()
        for fault, following in itertools.zip_longest(self._faults, self._faults[1:]):
            self._measure(fault, following.at_ns if following else time.time_ns())
            self._table.append(fault.row)

    def _measure(self, fault: Fault, next_ns: int) -> None:
        until_ns = min((fault.moved_ns or fault.at_ns + _AFTERMATH_NS) + _AFTERMATH_NS, next_ns)
        fault.row.outage_ms, fault.row.lost = self._suffered(fault.at_ns, until_ns)
        if fault.back_ns:
            fault.row.return_gap_ms, _ = self._suffered(fault.back_ns - _AFTERMATH_NS, fault.back_ns + _AFTERMATH_NS)

    def _suffered(self, since_ns: int, until_ns: int) -> tuple[float, int]:
        """The longest time without a frame in any flow, in milliseconds, and how many frames were lost."""
        measured = [flow.measure(since_ns, until_ns) for flow in self.traffic.flows]
        return round(max(one.longest_gap_s for one in measured) * 1_000, 1), sum(one.lost for one in measured)

    def fault(self, name: str) -> Fault:
        """A fault that happens now; a row of the table."""
        fault = Fault(self, Row(name))
        self._faults.append(fault)
        return fault

    # The daemon

    def start_daemon(self) -> None:
        """Start it, and wait until it has taken over; it goes on in the same log."""
        mark = len(self.log.harvest())
        with self.log.path.open("ab") as file:
            self._daemon = self.machine.program("run", "--log", "json", stdout=subprocess.DEVNULL, stderr=file)
        self.log.wait(lambda line: line["event"] == "start", "the daemon's start", mark)

    def replace_daemon(self) -> None:
        """SIGKILL, and another one in its place."""
        self.kill_daemon()
        self.start_daemon()

    def kill_daemon(self) -> None:
        """SIGKILL, and wait for its end."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait(PATIENCE_S)

    def end_daemon(self) -> int:
        """As a service manager does; its exit status."""
        assert self._daemon is not None
        self._daemon.terminate()
        return self._daemon.wait(PATIENCE_S)

    def _end_daemon(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait(PATIENCE_S)

    def _end_vm(self) -> None:
        if self.machine.qemu_pid() is not None:
            self.machine.destroy()

    def status(self) -> Any:
        """What it answers to `reconcile status`; None while it does not."""
        try:
            return ask(socket_of(self.machine.folder / "run", SKU), do="status")["status"]
        except (NoDaemonError, TransientError):
            return None

    def wait_status(self, condition: Callable[[Any], bool], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Wait for a status like this, and return it."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status()
            if status is not None and condition(status):
                return status
            assert time.monotonic() < deadline, (
                f"waited {timeout_s:g} s in vain {what}: {json.dumps(status)}\n{self.log}"
            )
            time.sleep(_ASK_S)

    def remembers(self, words: str) -> bool:
        """Whether the daemon's memory on disk has these words in it."""
        return words in (self.machine.folder / "state" / f"{SKU}.memory.json").read_text()

    def latest(self, what: str) -> Line:
        """The latest decision that begins like this."""
        return next(line for line in reversed(self.log.harvest()) if _says(line, what))

    def starts(self) -> int:
        """How many QEMU were started on this machine by now, by libvirt's own log."""
        log = self.machine.libvirtd.folder / "log" / "libvirt" / "qemu" / f"{DOMAIN}.log"
        return log.read_text(errors="replace").count(": starting up libvirt version")

    # The network, by iproute2

    def is_wired(self, topology: str) -> None:
        """Check that the kernel has every port and adapter where this topology wants it."""
        lab = self.machine.lab
        links = {link["ifname"]: link for link in _ip(self.machine, "link")}
        for number, segment in enumerate(lab.segments):
            switch = "sw-bypass" if len(lab.segments) == 1 else f"sw-bypass-edge{number}"
            for index in segment:
                wanted = f"sw-{lab.ports[index]}" if topology == "inspect" else switch
                assert links[lab.ports[index]].get("master") == wanted, links
                if topology == "inspect":
                    assert links[self.machine.taps[index]].get("master") == wanted, links

    def passes(self) -> None:
        """Wait until frames arrive, in every flow."""
        before = self.traffic.arrived()
        self._grow(before, self.traffic.arrived, "frames in every flow")

    def crosses(self) -> None:
        """Wait until frames come out of the VM, at every adapter, and arrive."""
        self._grow(self._told_by_vm(), self._told_by_vm, "frames out of the VM")
        self.passes()

    def _told_by_vm(self) -> tuple[int, ...]:
        links = {link["ifname"]: link for link in _ip(self.machine, "-s", "link")}
        return tuple(links[tap]["stats64"]["rx"]["packets"] for tap in self.machine.taps)

    def _grow(self, before: Sequence[int], now: Callable[[], Sequence[int]], what: str) -> None:
        def grown() -> bool:
            return all(new >= old + _CROSSED for new, old in zip(now(), before, strict=True))

        wait_until(grown, PATIENCE_S, what)


def _ip(machine: Machine, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(machine.lab.run(["ip", "-j", "-d", *words]).stdout)
    return found


def foreign(machine: Machine) -> Any:
    """All that the kernel tells of what is not ours, but for what changes by itself."""
    ours = {*machine.lab.ports, *machine.taps}
    links = [
        link for link in _ip(machine, "addr") if link["ifname"] not in ours and not link["ifname"].startswith("sw-")
    ]
    assert {link["ifname"] for link in links} >= {"lo", "mgmt0", "br-foreign", "foreign0", "foreign1"}
    return _steady(links), _ip(machine, "route"), _ip(machine, "rule")


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(one) for key, one in value.items() if not key.endswith(("_timer", "_life_time"))}
    return [_steady(one) for one in value] if isinstance(value, list) else value


def add_foreign(machine: Machine) -> None:
    """A bridge with a member and an address, which is somebody else's."""
    for command in (
        "link add br-foreign type bridge",
        "link add foreign0 type veth peer name foreign1",
        "link set foreign0 master br-foreign",
        "addr add 203.0.113.1/24 dev br-foreign",
        *(f"link set {name} up" for name in ("foreign0", "foreign1", "br-foreign")),
    ):
        machine.lab.run(["ip", *command.split()])

    def settled() -> bool:
        links = {link["ifname"]: link for link in _ip(machine, "addr")}
        addresses = itertools.chain.from_iterable(link["addr_info"] for link in links.values())
        up = all(links[name]["operstate"] == "UP" for name in ("br-foreign", "foreign0", "foreign1"))
        return up and not any(address.get("tentative") for address in addresses)

    wait_until(settled, PATIENCE_S, "the foreign bridge to settle")


@contextlib.contextmanager
def machine_with_foreigners(folder: Path, **declared: Any) -> Iterator[Machine]:
    """A machine, and beside it what the daemon must not touch."""
    with Machine(folder, **declared) as machine:
        add_foreign(machine)
        yield machine


# The table

_COLUMNS = (
    ("fault", 46), ("detected", 9), ("bypass", 8), ("outage", 8), ("lost", 5), ("restarts", 8), ("starts", 6), ("back", 8),
    ("gap then", 8),
)  # fmt: skip


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The table for people; milliseconds."""
    yield " ".join(f"{name:{width}}" if width > 40 else f"{name:>{width}}" for name, width in _COLUMNS) + "  reason"
    for row in rows:
        cells = (
            row.detected_ms,
            row.applied_ms,
            row.outage_ms,
            row.lost,
            row.restarts,
            row.starts,
            row.back_ms,
            row.return_gap_ms,
        )
        told = ["–" if cell is None else f"{cell:.0f}" for cell in cells]
        widths = [width for _, width in _COLUMNS[1:]]
        values = " ".join(f"{one:>{width}}" for one, width in zip(told, widths, strict=True))
        yield f"{row.fault:46} {values}  {'; '.join(row.reasons)}"


def write(rows: Sequence[Row], path: Path) -> None:
    """The table for programs."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
