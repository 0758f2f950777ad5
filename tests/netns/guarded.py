"""A lab's host whose daemon keeps a guard, what the kernel holds of it, and traffic that is looked at while it runs."""

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from test_live_daemon import CARRIER, SOON_S, Keeping

from reconciler.appliance.declared import Guard
from reconciler.appliance.load import load
from reconciler.guard import rules as network
from reconciler.host.guard.netfilter import Netfilter
from reconciler.host.guard.table import KernelTable
from reconciler.lab.appliance import appliance_file
from reconciler.lab.lab import Lab
from reconciler.lab.measure import Measured
from reconciler.lab.rehearsal import on
from reconciler.lab.traffic import Traffic

OTHERS = "table inet theirs { chain c { type filter hook input priority 0; policy accept; }; }"
"""Somebody else's rules."""


class Guarded(Keeping):
    """See the module. `roles`: of ports and adapters, in the order of the lab's."""

    def __init__(self, lab: Lab, folder: Path, **more: Any) -> None:
        self.sku = f"lab-{len(lab.ports)}port"
        self.roles = ["outside", "inside"] if len(lab.ports) == 2 else [f"port{n}" for n in range(len(lab.ports))]
        super().__init__(lab, folder, **more)
        self.socket = folder / "run" / f"{self.sku}.sock"
        self.notes = folder / "run" / f"{self.sku}.guard.json"
        self.known = ""

    def write(self, *, guard: Any = None, guards: Any = None, signals: Any = None, vm: Any = None, **more: Any) -> None:
        health = {"hold_down": "300ms", "hold_down_max": "1s", "grace": "300ms", "flap_memory": "1s"}
        sections = {"health": {**health, "signals": CARRIER if signals is None else signals}, "guard": guard or {}}
        lab = self.lab
        text = appliance_file(
            lab.ports, lab.adapters, lab.segments, vm=vm, sections={**sections, **more}, guards=guards
        )
        # The lab's file has no word for it.
        text = re.sub(r"^(  \w+): (\[.*\])$", rf"\1: {{ports: \2, mtu: {lab._mtu}}}", text, flags=re.MULTILINE)
        self.file.write_text(text)

    # The daemon

    def start(self, *more: str, **variables: str) -> "subprocess.Popen[Any]":
        self.known = self.file.read_text()
        return super().start(*more, **variables)

    def reload(self) -> None:
        """Have the daemon go by the file as it is now, if that is another one; its table takes a moment to be set."""
        if self.known != (text := self.file.read_text()):
            self.ask("reload")
            self.known = text
            of = load(text.encode(), str(self.file))
            leases = {name: one.guard.lease_ms for name, one in of.segments.items() if one.guard}
            self.until(lambda: self.leases() == leases, f"the table with leases of {leases}")

    def leases(self) -> dict[str, int]:
        """How long the leases of the table are that is set, by segment."""
        told = self.status()["guard"] or {"segments": []}
        return {one["name"]: one["lease_ms"] for one in told["segments"]}

    def guard(self, number: int = 0) -> dict[str, Any]:
        """What `status` tells of the guard of a segment."""
        return dict(self.status()["guard"]["segments"][number])

    def prober(self) -> dict[str, Any]:
        return dict(self.status()["guard"]["prober"])

    def is_on(self, topology: str) -> bool:
        return on(topology)(self.status())

    def is_leased(self) -> bool:
        """Whether the daemon has granted all leases, and they stand."""
        told = self.status()["guard"]["segments"]
        return all(one["state"] == "leased" and self.stands(number) for number, one in enumerate(told))

    def inspects(self) -> None:
        """Wait until the VM has the wire, by switches and by leases, in all segments."""
        self.until(lambda: self.is_on("inspect") and self.is_leased(), "leases and switches")

    def passes_by(self) -> None:
        """Wait until the guard and the switches carry the wire past the VM."""
        self.until(lambda: self.is_on("bypass") and not self.is_leased(), "the wire past the VM")

    def well(self) -> None:
        """Whatever a test has left: a VM that forwards, a daemon that keeps it inspected."""
        if self.lab.vm is None:
            self.lab.start_vm()
        self.lab.unblock_vm()
        if self.process is not None and self.process.poll() is None:
            self.reload()
        else:
            self.start()
        for segment in [None, *(one["name"] for one in self.status()["segments"])]:
            with contextlib.suppress(Exception):
                self.ask("release", segment=segment)
        self.inspects()

    def kill(self) -> None:
        """Kill the daemon with signal 9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(SOON_S)

    # What the kernel holds

    @contextlib.contextmanager
    def table(self) -> Iterator[KernelTable]:
        with self.lab.host.entered(), KernelTable(self.sku) as table:
            yield table

    def bound(self, number: int = 0) -> network.Guarded:
        """A segment as the table knows it."""
        segment = list(load(self.file.read_bytes(), str(self.file)).segments.values())[number]
        places = tuple(network.Place(self.roles[index]) for index in self.lab.segments[number])
        return network.Guarded(segment.name, segment.guard or Guard(), places, places)

    def contents(self, number: int = 0) -> network.Contents:
        with self.table() as table:
            return table.contents(self.bound(number))

    def stands(self, number: int = 0) -> bool:
        with self.table() as table:
            return table.stands(self.bound(number))

    def fingerprint(self) -> str | None:
        with self.table() as table:
            return table.fingerprint()

    def counted(self, number: int = 0, kind: str = "port") -> int:
        """How many frames have gone past the VM; of kind "adapter": how many of the VM's were dropped."""
        with self.table() as table:
            found = table.count().counted
        prefix = f"{self.bound(number).name}/{kind}/"
        return sum(frames for name, (frames, _) in found.items() if name.startswith(prefix))

    def generation(self) -> int:
        with self.lab.host.entered(), Netfilter() as netfilter:
            return netfilter.generation()

    def nft(self, *words: str) -> str:
        return self.lab.run(["nft", *words]).stdout

    def names(self) -> list[str]:
        """All tables of this host."""
        return re.findall(r"^table (\S+ \S+)$", self.nft("list", "tables"), re.MULTILINE)

    @property
    def mark(self) -> bytes:
        """What the source addresses of a segment's probes begin with; root can read it."""
        return network.mark_of(bytes.fromhex(json.loads(self.notes.read_text())["secret"]), self.bound().name)

    # The end

    def close(self) -> None:
        """End all that outlives its parents."""
        if self.process is not None and self.process.poll() is None:
            self.end()
        assert self.cli("guard", "off").code == 0


def lives(pid: int) -> bool:
    """Whether a process, which may be nobody's child here, still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def guarded(folder: Path, ports: int = 2, segments: Any = None, mtu: int = 1500, **more: Any) -> Iterator[Guarded]:
    with Lab(ports, segments=segments, mtu=mtu) as lab:
        kept = Guarded(lab, folder, **more)
        try:
            yield kept
        finally:
            kept.close()


def more_arrives(kept: Guarded, traffic: Traffic, number: int = 0, frames: int = 100) -> None:
    """Wait until all flows of a segment have brought so many more frames."""
    pairs = [len(segment) * (len(segment) - 1) for segment in kept.lab.segments]
    flows = traffic.flows[sum(pairs[:number]) : sum(pairs[: number + 1])]
    before = [flow.arrived for flow in flows]
    kept.until(lambda: all(flow.arrived > then + frames for flow, then in zip(flows, before, strict=True)), "traffic")


def wrong(measured: tuple[Measured, ...]) -> list[tuple[int, int, int]]:
    """Lost, duplicated and reordered frames of the flows in which there are any."""
    counted = [(one.lost, one.duplicated, one.reordered) for one in measured]
    return [one for one in counted if any(one)]


def now_ns() -> int:
    """By the clock of the flows' sources and of the kernel's timestamps."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


def provers(kept: Guarded) -> list[int]:
    """The processes in the network namespace of this host that send probes."""
    ours, found = os.fstat(kept.lab.host.fileno()), []
    for folder in Path("/proc").glob("[0-9]*"):
        # Any may end while we look.
        with contextlib.suppress(OSError):
            there = (folder / "ns" / "net").stat()
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) and lives(int(folder.name)):
                found += [int(folder.name)] if b"/prober.py" in (folder / "cmdline").read_bytes() else []
    return found
