"""`reconcile demo`: the whole thing, on namespaces that this process makes and that vanish with it.

The daemon of the lab's host keeps the appliance, with nobody at the keyboard, while numbered frames flow both ways. The
demo only breaks things, and tells what the daemon says. What a step claims is checked; a claim that does not hold makes
the demo fail.
"""

import bisect
import contextlib
import json
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reconciler.host.interpreter import isolated
from reconciler.lab.lab import netlink, wait_until
from reconciler.lab.measure import Measured
from reconciler.lab.namespaces import LabError, Namespace, become_lab_root, kill
from reconciler.lab.picture import FlowRow, alphabet_for, timeline
from reconciler.lab.rehearsal import Rehearsal, inspected, on, rehearsal
from reconciler.lab.traffic import Flow, Traffic

_SHOW_S = 0.7  # how long each topology is shown carrying traffic
_DEADLINE_S = 10.0
_SECOND_NS = 1_000_000_000
# Of the ledger's times, beside what it says of them: so that frames can be counted that arrived in an interval.
_BOUND_MS = 20
# Short, so that nobody waits; a vendor's are longer.
_CARE = {
    "health": {
        "grace": "2s",
        "hold_down": "1s",
        "hold_down_max": "1s",
        "signals": {"wire": {"kind": "carrier"}},
    },
    "on_failure": {"order": "bypass-then-restart", "restart": {"backoff": "1s", "boot_timeout": "10s"}},
    "guard": {},
}
# Of the daemon's log, what a spectator wants to see.
_SHOWN = ("start", "decision", "switched", "repaired", "tripped", "inspected", "stop")


def run(rate: int) -> int:
    """Run the demo at `rate` frames per second each way; 0 if everything held, else 1.

    Raises:
        LabError: this machine does not allow network namespaces; says what would.

    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    become_lab_root()
    with contextlib.ExitStack() as open_:
        folder = open_.enter_context(tempfile.TemporaryDirectory(prefix="reconcile-demo-"))
        made = open_.enter_context(rehearsal(Path(folder), care=_CARE))
        return _Demo(made, open_.enter_context(made.lab.flows(rate))).play()


def _leave(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@dataclass(frozen=True, slots=True)
class _Phase:
    """A stretch of time that the final table has a row for; ns of CLOCK_REALTIME."""

    what: str
    begin_ns: int
    end_ns: int


class _Demo:
    def __init__(self, made: Rehearsal, traffic: Traffic) -> None:
        self._made, self._lab = made, made.lab
        self._traffic = traffic
        self._console = Console(highlight=False, soft_wrap=True)
        self._failures = 0
        self._phases: list[_Phase] = []
        self._events: list[tuple[int, str]] = []
        self._begin_ns = time.time_ns()
        made.environment["FORCE_COLOR" if self._console.is_terminal else "NO_COLOR"] = "1"

    def play(self) -> int:
        """All steps, then what was measured."""
        self._console.print("A host with two NICs, a client on each, and a VM (a namespace) that bridges two adapters;")
        self._console.print("in the VM an application, and the agent that tells the host whether it works.")
        self._console.print("This is the host's appliance file:\n")
        self._console.print(self._made.file.read_text(encoding="ascii"), style="dim", markup=False)
        self._inspect()
        self._die()
        self._hang()
        self._tamper()
        self._crash()
        self._nobody_left()
        self._made.end_daemon()
        measured = self._traffic.stop()
        self._evaluate(measured)
        self._ledger(measured)
        if self._failures:
            self._console.print(f"\n[red]{self._failures} of the demo's claims did not hold.[/red]")
        else:
            self._console.print("\n[green]Everything held.[/green] Nothing of this is left on the machine.")
        return 1 if self._failures else 0

    # The steps

    def _inspect(self) -> None:
        self._title("the daemon starts; the traffic waits for the VM to prove itself")
        self._start_daemon()
        self._made.wait_for(inspected, "the VM to prove itself")
        self._traffic.start()
        with self._phase("inspect"):
            self._shows(crossing=True)
        self._command("status", expect=0)

    def _die(self) -> None:
        self._title("the VM dies: its adapters vanish, and the wire is cut")
        with self._phase("VM killed"):
            self._event("VM killed")
            self._made.kill_vm()
            self._made.wait_for(on("bypass"), "bypass")
            self._event("bypass")
            self._await_traffic()
        with self._phase("bypass, restart, proof"):
            self._shows(crossing=False)
            self._made.wait_for(on("inspect"), "the return to inspect")
        self._event("inspect again")
        with self._phase("inspect again"):
            self._shows(crossing=True)

    def _hang(self) -> None:
        self._title("the application dies; the VM forwards on, and inspects nothing")
        with self._phase("application dead"):
            self._event("application dead")
            self._made.kill_application()
            self._made.wait_for(on("bypass"), "bypass")
            self._event("bypass")
            self._await_traffic()
        self._command("why", expect=0, says="application")
        self._made.wait_for(on("inspect"), "the return to inspect")
        self._event("inspect again")
        with self._phase("inspect once more"):
            self._shows(crossing=True)

    def _tamper(self) -> None:
        self._title("somebody tampers with a switch: the daemon repairs it")
        port = self._lab.ports[1]
        self._console.print(f"$ ip link set {port} nomaster", style="bold", markup=False)
        before = self._made.wait_for(on("inspect"), "inspect")["network"]["repaired"]
        with self._phase("tampered"):
            self._event("tampered")
            netlink(self._lab.host, lambda ipr: ipr.link("set", index=ipr.link_lookup(ifname=port)[0], master=0))
            self._made.wait_for(
                lambda status: status["network"]["repaired"] > before and on("inspect")(status), "the repair"
            )
            self._event("repaired")
            self._await_traffic()
        self._command("--dry-run", expect=0, says="nothing to do")

    def _crash(self) -> None:
        self._title("the daemon is killed and started again: the wire does not notice")
        with self._phase("daemon killed, back"):
            self._event("daemon killed")
            assert self._made.daemon is not None  # noqa: S101 - started in the first step
            kill(self._made.daemon)
            self._shows(crossing=True)
            self._start_daemon()
            self._made.wait_for(on("inspect"), "the daemon to have taken over")
            self._shows(crossing=True)

    def _nobody_left(self) -> None:
        self._title("the daemon is killed, and then the VM dies: nobody is left but the kernel")
        with self._phase("both dead"):
            assert self._made.daemon is not None  # noqa: S101 - started by the step before
            kill(self._made.daemon)
            self._event("daemon killed")
            self._made.kill_vm()
            self._event("VM killed")
            self._await_traffic()
            self._shows(crossing=False)
        with self._phase("daemon, VM, proof"):
            self._start_daemon()
            self._made.wait_for(inspected, "the return to inspect")
        self._event("inspect again")
        self._command("status", expect=0, says="went past the VM")
        with self._phase("inspect at last"):
            self._shows(crossing=True)

    # What they are made of

    def _title(self, text: str) -> None:
        self._console.rule(f"[bold]{text}[/bold]", align="left")

    def _event(self, what: str) -> None:
        self._events.append((time.time_ns(), what))

    @contextlib.contextmanager
    def _phase(self, what: str) -> Iterator[None]:
        begin = time.time_ns()
        yield
        self._phases.append(_Phase(what, begin, time.time_ns()))
        # When a lost frame was sent is known from its neighbours: one more must arrive before anything happens again.
        self._await_traffic()

    def _start_daemon(self) -> None:
        self._console.print("$ reconcile -f appliance.yaml run", style="bold", markup=False)
        daemon = self._made.start_daemon("--log", "json", stderr=subprocess.PIPE)
        threading.Thread(target=self._tell, args=(daemon.stderr,), name="log", daemon=True).start()

    def _tell(self, log: IO[bytes]) -> None:
        """Print the daemon's decisions as they come."""
        with log:
            for line in log:
                entry = json.loads(line)
                if entry["event"] not in _SHOWN:
                    continue
                after_s = (time.time_ns() - self._begin_ns) / _SECOND_NS
                text = Text(f"{after_s:7.2f} s  ", style="dim")
                whole = entry["event"] in ("start", "tripped", "inspected", "stop")
                what = entry["text"] if whole else entry.get("what", entry["text"].split(":")[0])
                text.append(what, style="cyan")
                for reason in entry.get("why", ()):
                    text.append(f"\n             {reason}", style="dim")
                self._console.print(text)

    def _command(self, *arguments: str, expect: int, says: str = "") -> None:
        """Run `reconcile` on the lab's host, show what it prints, and check how it ends and what it says."""
        output, status = self._reconcile(*arguments)
        self._console.print(f"$ reconcile -f appliance.yaml {' '.join(arguments)}".rstrip(), style="bold", markup=False)
        self._console.print(Text.from_ansi(output.rstrip("\n")))
        if status != expect or says not in output:
            self._check(False, f"exit status {expect}{f' and {says!r}' if says else ''}, found {status}")

    def _reconcile(self, *arguments: str) -> tuple[str, int]:
        command = isolated("-m", "reconciler", "-f", str(self._made.file), *arguments)
        with self._lab.host.spawn(
            command,
            cwd="/",
            env=self._made.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            output = process.communicate(timeout=_DEADLINE_S)[0].decode()
        return output, process.returncode

    def _shows(self, *, crossing: bool) -> None:
        """Let traffic flow for a while; check that it does, and whether it crosses the VM."""
        vm = self._lab.vm
        arrived, crossed = self._traffic.arrived(), _received(vm) if vm else 0
        until = time.monotonic() + _SHOW_S
        wait_until(lambda: time.monotonic() >= until, _DEADLINE_S, "the show to be over")
        new = [after - before for before, after in zip(arrived, self._traffic.arrived(), strict=True)]
        through = _received(vm) - crossed if vm else 0
        how = f"{through} frames crossed the VM" if vm else "there is no VM: none crossed it"
        self._check(
            min(new) > 0 and (through >= sum(new) * 0.9 if crossing else through == 0),
            f"traffic flows: {' and '.join(map(str, new))} frames arrived in {_SHOW_S:g} s; {how}",
        )

    def _await_traffic(self) -> None:
        before = self._traffic.arrived()
        flowing = lambda: all(new > old for new, old in zip(self._traffic.arrived(), before, strict=True))  # noqa: E731
        try:
            wait_until(flowing, _DEADLINE_S, "traffic in both directions")
        except LabError as error:
            self._check(False, str(error))

    def _check(self, holds: bool, what: str) -> None:
        self._failures += not holds
        self._console.print("[green]holds[/green]" if holds else "[red]DOES NOT HOLD[/red]", what, style=None)

    # What was measured

    def _evaluate(self, measured: tuple[Measured, ...]) -> None:
        self._title("what was measured, from kernel receive timestamps")
        table = Table(
            "phase", "lasted", "sent", "lost", "duplicated", "reordered", "longest gap", box=None, pad_edge=False
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for phase in self._phases:
            parts = [flow.measure(phase.begin_ns, phase.end_ns) for flow in self._traffic.flows]
            gap = max(part.longest_gap_s for part in parts)
            counts = [
                sum(getattr(part, name) for part in parts) for name in ("sent", "lost", "duplicated", "reordered")
            ]
            lasted = (phase.end_ns - phase.begin_ns) / _SECOND_NS
            table.add_row(phase.what, f"{lasted:.2f} s", *map(str, counts), f"{gap * 1000:.1f} ms")
        self._console.print(table)
        self._console.print()
        self._console.print(self._timeline(measured), markup=False)
        for what in ("inspect", "inspect again", "daemon killed, back", "inspect at last"):
            self._undisturbed(what)
        wrong = sum(part.duplicated + part.reordered for part in measured)
        self._check(wrong == 0, f"{wrong} frames were duplicated or reordered, in all {sum(m.sent for m in measured)}")

    def _ledger(self, measured: tuple[Measured, ...]) -> None:
        """The ledger's report; its frames are those that the sinks have counted in the time that it gives."""
        self._title("what the daemon has written down, for an auditor")
        self._command("report", "--since", "1h", expect=0)
        told, _ = self._reconcile("report", "--since", "1h", "--format", "json")
        (appliance,) = json.loads(told)["appliances"]
        arrivals = sorted(moment for part in measured for moment in part.arrivals.received_ns)
        past = [one for one in appliance["intervals"] if one["kind"] == "bypassed"]
        self._check(bool(past), f"the ledger has {len(past)} intervals past the VM")
        for one in past:
            least, most = (_within(arrivals, one, more_ms) for more_ms in (-_BOUND_MS, _BOUND_MS))
            known = "at least " if one["counted"] == "at least" else ""
            what = f"{known}{one['frames']} frames from {one['from'][11:]}: the sinks counted {least} to {most} there"
            # Where it knows a part of it only, it says so, and does not say more than there was.
            self._check((least <= one["frames"] or bool(known)) and one["frames"] <= most, what)

    def _undisturbed(self, what: str) -> None:
        phase = next(phase for phase in self._phases if phase.what == what)
        lost = sum(flow.measure(phase.begin_ns, phase.end_ns).lost for flow in self._traffic.flows)
        self._check(lost == 0, f"{lost} frames were lost: {what}")

    def _timeline(self, measured: tuple[Measured, ...]) -> str:
        origin = min(part.start_ns for part in measured)
        end = max(part.end_ns for part in measured)
        rows = [_row(flow, part, origin) for flow, part in zip(self._traffic.flows, measured, strict=True)]
        return timeline(
            rows,
            duration_s=math.ceil((end - origin) / _SECOND_NS * 10) / 10,
            events=[((moment - origin) / _SECOND_NS, what) for moment, what in self._events],
            width=min(self._console.width, 120),
            alphabet=alphabet_for(sys.stdout.encoding),
        )


def _within(arrivals: list[int], interval: dict[str, Any], more_ms: int) -> int:
    """How many frames arrived in an interval of the report, and so much before and behind it."""
    since, until = (datetime.fromisoformat(interval[key]).timestamp() for key in ("from", "to"))
    more_s = (more_ms + interval["precision_ms"] * (more_ms > 0)) / 1_000
    begin, end = (int(moment * _SECOND_NS) for moment in (since - more_s, until + more_s))
    return max(0, bisect.bisect_right(arrivals, end) - bisect.bisect_left(arrivals, begin))


def _row(flow: Flow, part: Measured, origin: int) -> FlowRow:
    start, end = ((moment - origin) / _SECOND_NS for moment in (part.start_ns, part.end_ns))
    return FlowRow(flow.name, part.arrivals_s(origin), flow.rate, start, end)


def _received(namespace: Namespace) -> int:
    """Frames that the interfaces of a namespace have received."""
    with namespace.entered():
        lines = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    columns = (line.split() for line in lines)
    return sum(int(words[2]) for words in columns if words[0].startswith("eth"))
