"""What the guard costs while nothing is broken, and what passes while it is tripped."""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from bench.faults import bulk
from bench.faults.scene import Mode, Setting
from bench.faults.stage import Stage, stage, wait_until
from bench.table import Row
from reconciler.lab.frames import crossing, fitting
from reconciler.lab.lab import netlink
from reconciler.lab.namespaces import Namespace
from reconciler.lab.program import Program

_ADDRESSES = ("198.51.100.1", "198.51.100.2")  # RFC 5737: nobody's
_ROUNDS = 5
_SECONDS = 1.0
_FRAMES = 100_000
_FLOODS = 9
_JUMBO = 9_000
_IDLE_S = 10.0
_SETTLE_S = 2.0
_TICKS = os.sysconf("SC_CLK_TCK")


def rows() -> Iterator[Row]:
    """All of them."""
    for each in (_kinds, _throughput, _per_frame, _idle):
        yield from each()


class _Sender(Program):
    """One of `bulk`'s processes."""

    def result(self, timeout_s: float = 30.0) -> dict[str, Any]:
        self._say()
        return self._answer(timeout_s)


# What passes while it is tripped


def _kinds() -> Iterator[Row]:
    """Frames of every kind, both ways; daemon and VM are dead."""
    frames = fitting(_JUMBO)
    with stage(Setting(mtu=_JUMBO), Mode.BOTH) as made:
        made.kill_daemon()
        made.lab.blackhole_vm()
        seen = made.passed() or 0
        with made.lab.flows(1_000) as traffic:
            traffic.start()
            wait_until(lambda: (made.passed() or 0) > seen, "the trip")
        exact = 0
        for sender in (0, 1):
            found = crossing(made.lab, frames, sender)
            bad = {name for _, name in (*found.missing, *found.surplus)}
            exact += 0 if found.strange else len(frames) - len(bad)
    kinds = f"{exact} of {2 * len(frames)}"
    yield Row(f"{len(frames)} kinds of frames while tripped, both ways: exact, exactly once", kinds, "all")


# What it costs


def _throughput() -> Iterator[Row]:
    """TCP from one client to the other, in turns with and without the guard."""
    took: dict[str, list[float]] = {}
    with stage(Setting(), Mode.BOTH) as made, _addressed(made):
        a, b = made.lab.clients
        with _Sender(b, Path(bulk.__file__), ["receive", _ADDRESSES[1]], "what receives") as receiver:
            arguments = ["send", _ADDRESSES[1], receiver.ready["port"], _SECONDS]

            def once(name: str) -> None:
                with _Sender(a, Path(bulk.__file__), arguments, "what sends") as sender:
                    took.setdefault(name, []).append(sender.result()["rate"] / 1e9)

            _in_turns(made, _ROUNDS, once)
    for way, words in (("inspect", "through the VM: guard armed"), ("bypass", "past the VM: guard tripped")):
        without, guarded = _spread(took[f"{way} off"]), _spread(took[f"{way} on"])
        yield Row(f"TCP {words}, Gb/s", guarded, "as without", f"without the guard: {without}")


def _per_frame() -> Iterator[Row]:
    """The smallest frames, one by one."""
    took: dict[str, list[float]] = {}
    with stage(Setting(), Mode.BOTH) as made:
        a, b = made.lab.clients
        mac = netlink(b, lambda ipr: ipr.link("get", ifname="wire")[0].get("address")).replace(":", "")

        def once(name: str) -> None:
            with _Sender(a, Path(bulk.__file__), ["flood", "wire", mac, _FRAMES], "what floods") as sender:
                took.setdefault(name, []).append(sender.result()["each_ns"])

        _in_turns(made, _FLOODS, once)
    for way, words in (("inspect", "armed, through the VM"), ("bypass", "tripped, past the VM")):
        without, guarded = (statistics.median(took[f"{way} {how}"]) for how in ("off", "on"))
        measured = f"{guarded - without:+.0f} ns ({guarded:.0f}, and {without:.0f} without)"
        yield Row(f"the smallest frame, its whole way; {words}: what the guard adds", measured, "stated")


def _in_turns(made: Stage, rounds: int, once: Callable[[str], None]) -> None:
    """Measure in all four states, in turns, so that a machine that drifts does so for all of them."""
    for _ in range(rounds):
        for on in (False, True):
            made.ask(do="guard", on=on)
            _settle(made, "inspect", on=on)
            once(f"inspect {'on' if on else 'off'}")
            made.ask(do="hold", topology="bypass", reason="bench", seconds=100)
            _settle(made, "bypass", on=on)
            once(f"bypass {'on' if on else 'off'}")
            made.ask(do="release")
            _settle(made, "inspect", on=on)


def _settle(made: Stage, topology: str, *, on: bool) -> None:
    state = {"inspect": "leased", "bypass": "joined"}[topology] if on else "off"

    def settled() -> bool:
        status: Mapping[str, Any] = made.made.status()
        placed = all(one["topology"] == topology for one in status["segments"]) and status["network"]["converged"]
        return bool(placed) and all(one["state"] == state for one in status["guard"]["segments"])

    wait_until(settled, f"{topology}, the guard {state}", made.told)


@contextmanager
def _addressed(made: Stage) -> Iterator[None]:
    for client, address in zip(made.lab.clients, _ADDRESSES, strict=True):
        _give(client, address)
    yield


def _give(client: Namespace, address: str) -> None:
    def add(ipr: IPRoute) -> None:
        ipr.addr("add", index=ipr.link_lookup(ifname="wire")[0], address=address, prefixlen=24)

    netlink(client, add)


def _idle() -> Iterator[Row]:
    """What daemon and prober take while nothing happens: four ports that are one wire, so four directions."""
    with stage(Setting(4), Mode.BOTH) as made:
        assert made.made.daemon is not None
        pids = {"daemon": made.made.daemon.pid, "prober": made.prober()}
        time.sleep(_SETTLE_S)
        before = {name: _cpu_s(pid) for name, pid in pids.items()}
        began = time.monotonic()
        time.sleep(_IDLE_S)
        lasted = time.monotonic() - began
        share = {name: (_cpu_s(pid) - before[name]) / lasted * 100 for name, pid in pids.items()}
    for name, bound in (("daemon", "2 %"), ("prober", "")):
        yield Row(f"{name}, probes each 20 ms, N=4: CPU", f"{share[name]:.1f} % of one core", bound)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
