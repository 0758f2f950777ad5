"""Print how ours and its peers do the same switch and the same failover on the same lab, in one run.

Takes about four minutes. `python -m bench.side_by_side`; needs root, and measures those peers that are installed.
"""

import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.peers import PEERS, Hands, Peer
from bench.world import median, spawned
from reconciler.control.ask import ask, digest, socket_of
from reconciler.errors import ReconcilerError
from reconciler.lab.lab import Lab, netlink, wait_until
from reconciler.lab.namespaces import become_lab_root, set_link_up
from reconciler.lab.rehearsal import Rehearsal, on
from reconciler.lab.traffic import Traffic

_RATE = 4_000
_MANY = 64
# So many rounds of each figure, or as many as fit into the time; but some.
_ROUNDS = 9
_BUDGET_S = 12.0
_LEAST = 4
_PATIENCE_S = 20.0
# Frames that tell where traffic goes. The VM gets probes of ours besides, in bypass as well: some ten within this time.
_SOME = 200
_SOME_S = _SOME / _RATE
_FEW = 50
_CARE = {
    "health": {"grace": "1s", "hold_down": "200ms", "hold_down_max": "200ms", "signals": {"wire": {"kind": "carrier"}}},
    "on_failure": {"restart": {"ladder": []}},
}


@dataclass(slots=True)
class Figures:
    """What was measured of one contender; lists of frames (both directions together) and milliseconds.

    `wrong`: frames that came twice or out of order in planned switches. `noop`: by the number of ports. `dry`: with 64.
    """

    name: str
    away: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    wrong: int = 0
    dies: list[float] = field(default_factory=list)
    noop: dict[int, float] = field(default_factory=dict)
    dry: float | None = None


def main() -> None:
    """The table."""
    become_lab_root()
    # Whoever ends us ends it all in the same way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    print(f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}\n", flush=True)
    notes: list[str] = []
    done: list[Figures] = []
    for name, measure in _contenders(notes):
        figures = Figures(name)
        try:
            measure(figures)
        except (ReconcilerError, OSError, SystemExit, subprocess.SubprocessError) as error:
            notes.append(f"{name}: failed here: {error}")
        if figures.away:
            done.append(figures)
    _show(done)
    print()
    for note in notes:
        print(f"- {note}")
    print(f"- The run took {time.monotonic() - began:.0f} s.")


def _contenders(notes: list[str]) -> Iterator[tuple[str, Callable[[Figures], None]]]:
    """Ours, and the peers that are there."""
    yield "**ours**", partial(_ours, notes, guard=True)
    yield "ours without the guard", partial(_ours, notes, guard=False)
    for peer in PEERS:
        if peer.missing:
            notes.append(f"{peer.name}: missing here: {', '.join(peer.missing)} ({peer.package})")
        else:
            yield peer.name, partial(_theirs, peer)


# What is measured of all of them


def _theirs(peer: Peer, figures: Figures) -> None:
    """A peer: nobody notices anything, so somebody runs its command at the moment of the fault."""
    with _stage(peer, 2) as (lab, hands):
        _planned(lab, hands, figures)
        figures.dies = list(_often(lambda: _silence(lab, _VM_DIES, hands)))
        _noop(hands, 2, figures)
    with _stage(peer, _MANY) as (_, hands):
        _noop(hands, _MANY, figures)
        if hands.dry_run:
            figures.dry = median(5, hands.dry_run)


@contextmanager
def _stage(peer: Peer, ports: int) -> Iterator[tuple[Lab, Hands]]:
    with (
        tempfile.TemporaryDirectory(prefix="reconcile-bench-") as folder,
        Lab(ports, traffic=ports < _MANY) as lab,
        lab.host.entered(),
        peer.hands(lab, Path(folder)) as hands,
    ):
        yield lab, hands


def _often(measure: Callable[[], float]) -> Iterator[float]:
    began = time.monotonic()
    for number in range(_ROUNDS):
        if number >= _LEAST and time.monotonic() - began > _BUDGET_S:
            return
        yield measure()


def _noop(hands: Hands, ports: int, figures: Figures) -> None:
    """Have it confirm what is so already."""
    figures.noop[ports] = median(5, lambda: hands.switch("inspect"))


def _planned(lab: Lab, hands: Hands, figures: Figures) -> None:
    """A switch to bypass and one back, while traffic flows."""

    def once() -> float:
        with lab.flows(_RATE) as traffic:
            _start(lab, traffic)
            hands.switch("bypass")
            _passes(lab, traffic, through_vm=False)
            between_ns = time.time_ns()
            hands.switch("inspect")
            _passes(lab, traffic, through_vm=True)
            found = traffic.stop()
            away = sum(flow.measure(until_ns=between_ns).lost for flow in traffic.flows)
        figures.back.append(sum(one.lost for one in found) - away)
        figures.wrong += sum(one.duplicated + one.reordered for one in found)
        return away

    figures.away = list(_often(once))


@dataclass(frozen=True, slots=True)
class _Fault:
    """What befalls the VM, and how it passes."""

    strike: Callable[[Lab], None]
    heal: Callable[[Lab], None]


def _last_adapter(lab: Lab, *, up: bool) -> None:
    assert lab.vm is not None
    with lab.vm.entered():
        set_link_up(f"eth{len(lab.adapters) - 1}", up=up)


# QEMU's death takes the carrier of its taps. One is enough to stop both directions, and has a single moment.
_VM_DIES = _Fault(lambda lab: _last_adapter(lab, up=False), lambda lab: _last_adapter(lab, up=True))
_VM_HANGS = _Fault(Lab.blackhole_vm, Lab.unblock_vm)


def _silence(lab: Lab, fault: _Fault, hands: Hands | None) -> float:
    """Milliseconds without traffic after a fault, by the kernel's timestamps, in the direction that was silent longer.

    `hands`: of somebody who runs the command as soon as the fault is there, and takes it back afterwards. None: nobody.
    """
    with lab.flows(_RATE) as traffic:
        _start(lab, traffic)
        began_ns = time.time_ns()
        fault.strike(lab)
        if hands:
            hands.switch("bypass")
        _passes(lab, traffic, through_vm=False)
        over_ns = time.time_ns()
        fault.heal(lab)
        if hands:
            hands.switch("inspect")
        _passes(lab, traffic, through_vm=True)
        traffic.stop()
        return max(flow.measure(began_ns, over_ns).longest_gap_s for flow in traffic.flows) * 1_000


def _start(lab: Lab, traffic: Traffic) -> None:
    traffic.start()
    _passes(lab, traffic, through_vm=True)


def _passes(lab: Lab, traffic: Traffic, *, through_vm: bool) -> None:
    """Wait until traffic arrives in both directions, through the VM or past it, as seen by the VM's counters."""

    def so() -> bool:
        arrived, seen = traffic.arrived(), _seen(lab)
        time.sleep(_SOME_S)
        fresh = min(now - before for now, before in zip(traffic.arrived(), arrived, strict=True))
        taken = [now - before for now, before in zip(_seen(lab), seen, strict=True)]
        right = min(taken) > _SOME / 2 if through_vm else max(taken) < _FEW
        return fresh > _SOME / 2 and right

    wait_until(so, _PATIENCE_S, f"traffic {'through' if through_vm else 'past'} the VM")


def _seen(lab: Lab) -> tuple[int, ...]:
    """How many frames each of the VM's adapters has received."""
    assert lab.vm is not None
    links = netlink(lab.vm, lambda ipr: list(ipr.get_links()))
    found = {link.get("ifname"): link.get("stats64")["rx_packets"] for link in links}
    return tuple(found[f"eth{index}"] for index in range(len(lab.adapters)))


# Ours


def _ours(notes: list[str], figures: Figures, *, guard: bool) -> None:
    """The daemon, which notices by itself. What has no signal without the guard, somebody notices: `hold bypass`."""
    with _kept(2, guard=guard) as made, made.lab.host.entered():
        hands = _hands(made)
        _planned(made.lab, hands, figures)
        figures.dies = list(_often(lambda: _silence(made.lab, _VM_DIES, None)))
        hangs = list(_often(lambda: _silence(made.lab, _VM_HANGS, None if guard else hands)))
        how = "by itself" if guard else "the lab's heartbeat does not tell: `reconcile hold bypass` by hand"
        notes.append(f"{figures.name}: a VM that hangs, its links up: no traffic for {_spread(hangs)} ms ({how})")
        figures.noop[2] = median(5, lambda: _call(made))
    # A guard on one segment of 64 ports would have the lab's VM flood probes; neither figure is about it.
    with _kept(_MANY, guard=False) as made, made.lab.host.entered():
        figures.noop[_MANY] = median(5, lambda: _call(made))
        figures.dry = median(5, lambda: _call(made, "--dry-run"))
        if not guard:
            notes.extend(_other_dry_runs(made))


@contextmanager
def _kept(ports: int, *, guard: bool) -> Iterator[Rehearsal]:
    """A daemon that inspects."""
    care = {**_CARE, "guard": {}} if guard else _CARE
    with (
        tempfile.TemporaryDirectory(prefix="reconcile-bench-") as folder,
        Lab(ports, vm=False, traffic=ports < _MANY) as lab,
        Rehearsal(lab, Path(folder), care=care) as made,
    ):
        made.start_daemon(stderr=subprocess.DEVNULL)
        made.wait_for(on("inspect"), "inspect")
        made.wait_for(lambda status: all(one["verdict"] == "healthy" for one in status["segments"]), "health")
        if guard and "reconciler" not in lab.run(["nft", "list", "tables", "netdev"]).stdout:
            raise SystemExit("the daemon holds no guard")
        yield made


def _hands(made: Rehearsal) -> Hands:
    """Going back is to let go: the daemon inspects when the VM has been healthy for the hold-down."""
    words = {"bypass": ("hold", "bypass", "--for", "10m", "--reason", "bench"), "inspect": ("release",)}
    return Hands(lambda topology: _call(made, *words[topology]))


def _call(made: Rehearsal, *words: str) -> None:
    """`reconcile` on its file, as a process of its own."""
    verb, options = (words[:1], words[1:]) if words and not words[0].startswith("-") else ((), words)
    program = str(Path(sys.executable).with_name("reconcile"))
    spawned([program, *verb, "-f", str(made.file), *options], made.environment, (0,))


def _other_dry_runs(made: Rehearsal) -> Iterator[str]:
    """What of the dry run is the process, and what it is without a daemon."""
    which = digest(made.file.read_bytes())
    path = socket_of(made.folder / "run", made.sku)
    asked = median(5, lambda: ask(path, do="audit", digest=which, output="text"))
    program = [str(Path(sys.executable).with_name("reconcile")), "-f", str(made.file), "--dry-run", "-t", "bypass"]
    alone = median(5, lambda: spawned(program, made.environment, (3,)))
    yield (
        f"ours, dry run at N={_MANY}: the daemon's answer over its socket {asked:.0f} ms, the rest is the process that "
        f"asks; as a process that looks by itself, to another topology: {alone:.0f} ms"
    )


# The table


def _show(done: Sequence[Figures]) -> None:
    print(
        f"| N=2, {_RATE} frames/s each way; median (worst) | lost, inspect→bypass | lost, bypass→inspect "
        f"| VM dies: no traffic for, ms | dry run, N={_MANY}, ms | no-op, N=2 / {_MANY}, ms "
        f"| × ours: VM dies, dry run, no-op N=2 / {_MANY} |"
    )
    print("|---|---|---|---|---|---|---|")
    for one in done:
        noop = " / ".join(_whole(one.noop.get(ports)) for ports in (2, _MANY))
        lost = (_spread(one.away, 0), _spread(one.back, 0))
        print(f"| {' | '.join((one.name, *lost, _spread(one.dies), _whole(one.dry), noop, _ratios(one, done[0])))} |")
    for one in done:
        if one.wrong:
            print(f"\n{one.name}: {one.wrong} frames twice or out of order in {len(one.away)} switches there and back.")


def _ratios(one: Figures, base: Figures) -> str:
    if one is base:
        return "1"
    again = _times(_middle(one.dies), _middle(base.dies))
    noop = (_times(one.noop.get(ports), base.noop.get(ports)) for ports in (2, _MANY))
    return f"{again}, {_times(one.dry, base.dry)}, {' / '.join(noop)}"


def _middle(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _times(value: float | None, ours: float | None) -> str:
    if not value or not ours:
        return "–"
    ratio = value / ours
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _spread(values: Sequence[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({max(values):.{digits}f})" if values else "–"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
