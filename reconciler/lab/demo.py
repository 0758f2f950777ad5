"""`reconcile demo`: the whole thing, on namespaces that this process makes and that vanish with it.

Every step runs the very command that a user would type, in the lab's host namespace, while numbered frames flow both
ways. What a step claims is checked; a claim that does not hold makes the demo fail.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reconciler.lab.appliance import appliance_file
from reconciler.lab.lab import Lab, netlink, wait_until
from reconciler.lab.measure import Measured
from reconciler.lab.namespaces import LabError, Namespace, become_lab_root
from reconciler.lab.picture import Row, alphabet_for, timeline
from reconciler.lab.traffic import Flow, Traffic

_SHOW_S = 0.7  # how long each topology is shown carrying traffic
_DEADLINE_S = 10.0
_SECOND_NS = 1_000_000_000


def run(rate: int) -> int:
    """Run the demo at `rate` frames per second each way; 0 if everything held, else 1.

    Raises:
        LabError: this machine does not allow network namespaces; says what would.

    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    become_lab_root()
    with tempfile.TemporaryDirectory(prefix="reconcile-demo-") as folder, Lab() as lab, lab.flows(rate) as traffic:
        return _Demo(lab, Path(folder), traffic).play()


def _leave(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@dataclass(frozen=True, slots=True)
class _Phase:
    """A stretch of time that the final table has a row for; ns of CLOCK_REALTIME."""

    what: str
    begin_ns: int
    end_ns: int


class _Demo:
    def __init__(self, lab: Lab, folder: Path, traffic: Traffic) -> None:
        self._lab = lab
        self._traffic = traffic
        self._console = Console(highlight=False, soft_wrap=True)
        self._failures = 0
        self._phases: list[_Phase] = []
        self._events: list[tuple[int, str]] = []
        self._file = folder / "appliance.yaml"
        self._file.write_text(appliance_file(lab.ports, lab.adapters, lab.segments), encoding="ascii")
        self._environment = {
            **os.environ,
            "RECONCILER_STATE_DIR": str(folder / "state"),
            "RECONCILER_RUN_DIR": str(folder / "run"),
            "FORCE_COLOR" if self._console.is_terminal else "NO_COLOR": "1",
        }

    def play(self) -> int:
        """All steps, then what was measured."""
        self._console.print("A host with two NICs, a client on each, and a VM (a namespace) that bridges two adapters.")
        self._console.print("This is the host's appliance file:\n")
        self._console.print(self._file.read_text(encoding="ascii"), style="dim", markup=False)
        self._inspect()
        self._fail()
        self._tamper()
        self._return()
        measured = self._traffic.stop()
        self._evaluate(measured)
        if self._failures:
            self._console.print(f"\n[red]{self._failures} of the demo's claims did not hold.[/red]")
        else:
            self._console.print("\n[green]Everything held.[/green] Nothing of this is left on the machine.")
        return 1 if self._failures else 0

    # The steps

    def _inspect(self) -> None:
        self._title("inspect: every frame crosses the VM")
        self._reconcile(expect=0)
        self._traffic.start()
        with self._phase("inspect"):
            self._shows(crossing=True)
        self._title("an audit, before anything happens: what would `bypass` change?")
        self._reconcile("--dry-run", "--topology", "bypass", expect=3)

    def _fail(self) -> None:
        self._title("the VM dies: its adapters vanish, and the wire is cut")
        with self._phase("killed, then bypass"):
            self._event("VM killed")
            self._lab.kill_vm()
            self._reconcile("--topology", "bypass", expect=0)
            self._event("bypass")
            self._await_traffic()
        self._console.print(
            "[dim]The outage is the time it took to start a command. The daemon will not need to.[/dim]"
        )
        with self._phase("bypass"):
            self._shows(crossing=False)

    def _tamper(self) -> None:
        self._title("somebody tampers with a switch: the audit finds it, a reconcile mends it")
        port = self._lab.ports[1]
        self._console.print(f"$ ip link set {port} nomaster", style="bold", markup=False)
        with self._phase("tampered, then mended"):
            self._event("tampered")
            netlink(self._lab.host, lambda ipr: ipr.link("set", index=ipr.link_lookup(ifname=port)[0], master=0))
            self._reconcile("--dry-run", "--topology", "bypass", expect=3, says=f"({port})")
            self._reconcile("--topology", "bypass", expect=0)
            self._event("mended")
            self._await_traffic()
        self._reconcile("--dry-run", "--topology", "bypass", expect=0, says="nothing to do")

    def _return(self) -> None:
        self._title("the VM is back: return to inspect")
        self._lab.start_vm()
        with self._phase("back to inspect"):
            self._event("back to inspect")
            self._reconcile(expect=0)
            self._await_traffic()
        with self._phase("inspect again"):
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

    def _reconcile(self, *arguments: str, expect: int, says: str = "") -> None:
        """Run `reconcile` on the lab's host, show what it prints, and check how it ends and what it says."""
        self._console.print(f"$ reconcile -f appliance.yaml {' '.join(arguments)}".rstrip(), style="bold", markup=False)
        command = [sys.executable, "-m", "reconciler.cli", "-f", str(self._file), *arguments]
        with self._lab.host.spawn(
            command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            output = process.communicate(timeout=_DEADLINE_S)[0].decode()
        self._console.print(Text.from_ansi(output.rstrip("\n")))
        if process.returncode != expect or says not in output:
            self._check(False, f"exit status {expect}{f' and {says!r}' if says else ''}, found {process.returncode}")

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
        for what in ("inspect", "bypass", "inspect again"):
            self._undisturbed(what)
        wrong = sum(part.duplicated + part.reordered for part in measured)
        self._check(wrong == 0, f"{wrong} frames were duplicated or reordered, in all {sum(m.sent for m in measured)}")

    def _undisturbed(self, what: str) -> None:
        phase = next(phase for phase in self._phases if phase.what == what)
        lost = sum(flow.measure(phase.begin_ns, phase.end_ns).lost for flow in self._traffic.flows)
        self._check(lost == 0, f"{lost} frames were lost while in `{what}`")

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


def _row(flow: Flow, part: Measured, origin: int) -> Row:
    start, end = ((moment - origin) / _SECOND_NS for moment in (part.start_ns, part.end_ns))
    return Row(flow.name, part.arrivals_s(origin), flow.rate, start, end)


def _received(namespace: Namespace) -> int:
    """Frames that the interfaces of a namespace have received."""
    with namespace.entered():
        lines = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    columns = (line.split() for line in lines)
    return sum(int(words[2]) for words in columns if words[0].startswith("eth"))
