"""Print the tables. Takes about two minutes; needs root or unprivileged user namespaces, and iproute2."""

import socket
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.peers import ifupdown2, missing
from bench.table import Row, show
from bench.world import World, median, ours, peak_kib, spawned, timed, world
from reconciler.exit_status import BYPASSED
from reconciler.host.netlink.changes import encode
from reconciler.lab.appliance import appliance_file
from reconciler.lab.namespaces import become_lab_root
from reconciler.lab.traffic import Traffic

_ROUNDS = 15
_RATE = 4_000
_SWITCHES = 11
_PYROUTE2 = """
from pyroute2 import IPRoute
with IPRoute() as ipr:
    links = {link.get('ifname'): link for link in ipr.get_links()}
"""


def main() -> None:
    """All tables."""
    become_lab_root()
    show(row for rows in (_cold, _status, _resident, _apply, _switch_loss, _validate) for row in rows())
    print(f"\nNot in this run: {'; '.join(missing())}.")
    print("\n| ports | observe + diff + plan, ms | per port, µs | apply to bypass, ms | one sendmsg, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for line in _growth():
        print(line, flush=True)


def _cold() -> Iterator[Row]:
    """A dry run as a process of its own: the first of a file, which proves it, and later ones."""
    for ports, bound in ((2, 300), (64, 400)):
        with world(ports) as made:
            command = ours(made, "--dry-run", "--topology", "bypass")
            store = Path(made.environment["RECONCILER_STATE_DIR"])
            first = timed(lambda: spawned(command, made.environment, (3,)))
            known = median(_ROUNDS, lambda: spawned(command, made.environment, (3,)))
            peak = peak_kib(command, made.environment)
            if not any(store.rglob("*.json")):
                raise SystemExit("bench: the store was not written, so the second figure would be the first")
            script = median(5, lambda: spawned([sys.executable, "-c", _PYROUTE2], made.environment))
            peers = f"pyroute2 script that lists the links: {script:.0f} ms; `ip -batch`: has no dry run"
            if theirs := ifupdown2(made):
                peers += f"; ifupdown2 `ifquery --check`: {theirs[0]:.0f} ms, its switch {theirs[1]:.0f} ms"
            yield Row(f"`reconcile --dry-run`, cold process, N={ports}", f"{known:.0f} ms", f"{bound} ms", peers)
            yield Row(f"… the first after a change of the file, N={ports}", f"{first:.0f} ms", "")
            if ports == 2:
                yield Row(
                    f"`reconcile`, cold process, a switch to bypass or back, N={ports}",
                    f"{_by_hand(made):.0f} ms",
                    "200 ms",
                )
            if ports == 64:
                yield Row("peak memory of that dry run, N=64", f"{peak / 1024:.0f} MB", "60 MB")


def _by_hand(made: World) -> float:
    """Median milliseconds of a process that changes something: unlike a dry run, it has messages to encode."""
    there, back = ours(made, "--topology", "bypass"), ours(made)
    ways = (there, back) * _ROUNDS
    return statistics.median(timed(lambda: spawned(command, made.environment, (0, 4))) for command in ways)


def _status() -> Iterator[Row]:
    """A status by the kernel alone, as a process of its own: no daemon runs, and the guard has the wire."""
    for ports, bound in ((2, 150), (64, 250)):
        segments = [(number, number + 1) for number in range(0, ports, 2)]
        with world(ports, segments=segments) as made:
            lab = made.lab
            text = appliance_file(lab.ports, lab.adapters, lab.segments, sections={"guard": {}})
            made.file.write_text(text, encoding="ascii")
            spawned(ours(made, "guard", "on"), made.environment)
            took = median(_ROUNDS, lambda: spawned(ours(made, "status"), made.environment, (BYPASSED,)))
            yield Row(f"`reconcile status` without a daemon, cold process, N={ports}", f"{took:.0f} ms", f"{bound} ms")


def _resident() -> Iterator[Row]:
    """Observe, diff and plan in a process that is already running."""
    from pyroute2 import IPRoute

    for ports, bound in ((2, 3), (64, 25), (1024, 400)):
        with world(ports) as made, IPRoute() as ipr:
            took = median(_ROUNDS if ports < 1024 else 5, lambda: made.plan("bypass"))
            dump = median(3, lambda: list(ipr.get_links()))
            peers = f"pyroute2 `get_links()` alone: {dump:.1f} ms"
            yield Row(f"observe + diff + plan, resident, N={ports}", f"{took:.1f} ms", f"{bound} ms", peers)


def _apply() -> Iterator[Row]:
    """Carry out the plan from inspect to bypass in a running process, and what the kernel alone takes for it."""
    for ports in (2, 64):
        with world(ports) as made:
            batch = made.batch("bypass")
            times: dict[str, list[float]] = {"ours": [], "raw": [], "ip": []}
            for _ in range(_ROUNDS):
                todo, found = made.plan("bypass")
                times["ours"].append(timed(lambda: made.kernel.execute(todo, found.actual)))
                made.to("inspect")
                times["raw"].append(_preencoded(made))
                made.to("inspect")
                times["ip"].append(timed(lambda: spawned(["ip", "-batch", str(batch)], made.environment)))
                made.to("inspect")
            took = {name: statistics.median(values) for name, values in times.items()}
            peers = f"one pre-encoded sendmsg: {took['raw']:.2f} ms; `ip -batch`: {took['ip']:.1f} ms"
            ratio = took["ours"] / took["raw"]
            measured = f"{took['ours']:.2f} ms = {ratio:.2f} × of one sendmsg"
            yield Row(f"apply inspect→bypass, resident, N={ports}", measured, "1.5 ×", peers)


def _preencoded(made: World) -> float:
    """Milliseconds of one system call with the messages of the plan to bypass."""
    todo, found = made.plan("bypass")
    index_of = {link.name: link.nic.index for link in found.actual.links if link.nic}
    data = b"".join(message for operation in todo.operations for message in encode(operation, index_of))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as raw:
        raw.bind((0, 0))
        return timed(lambda: raw.send(data))


def _switch_loss() -> Iterator[Row]:
    """Frames lost in a planned switch, there and back, in alternation with the peer."""
    with world(2, traffic=True) as made:
        there = made.batch("bypass")
        made.to("bypass")
        back = made.batch("inspect")
        made.to("inspect")
        ways = {
            "resident": (lambda: made.to("bypass"), lambda: made.to("inspect")),
            "process": (
                lambda: spawned(ours(made, "--topology", "bypass"), made.environment),
                lambda: spawned(ours(made), made.environment),
            ),
            "`ip -batch`": (
                lambda: spawned(["ip", "-batch", str(there)], made.environment),
                lambda: spawned(["ip", "-batch", str(back)], made.environment),
            ),
        }
        lost: dict[str, list[int]] = {name: [] for name in ways}
        for _ in range(_SWITCHES):
            for name, (go, come) in ways.items():
                with made.lab.flows(_RATE) as traffic:
                    lost[name].append(_lost(made, traffic, go))
                come()
    say = {name: f"{statistics.median(values):g} (worst {max(values)})" for name, values in lost.items()}
    measured = f"process {say['process']}, resident {say['resident']}"
    bound = "no more than `ip -batch`"
    yield Row(
        f"frames lost, inspect→bypass, N=2, {_RATE} frames/s each way",
        measured,
        bound,
        f"`ip -batch`: {say['`ip -batch`']}",
    )


def _lost(made: World, traffic: Traffic, switch: object) -> int:
    """Frames lost of the traffic that flows while `switch` is called."""
    traffic.start()
    made.lab.wait_until(lambda: min(traffic.arrived()) > 200, 10, "traffic")
    switch()  # type: ignore[operator]
    before = traffic.arrived()
    made.lab.wait_until(lambda: all(n > b + 200 for n, b in zip(traffic.arrived(), before, strict=True)), 10, "traffic")
    return sum(measured.lost for measured in traffic.stop())


def _validate() -> Iterator[Row]:
    """`reconcile validate`, of one file and of a thousand."""
    reconcile = str(Path(sys.executable).with_name("reconcile"))
    topologies = sorted(Path("topologies").glob("*.yaml"))
    with tempfile.TemporaryDirectory(prefix="reconcile-bench-") as folder:
        environment = {"RECONCILER_STATE_DIR": folder, "PATH": "/usr/bin:/bin"}
        one = median(_ROUNDS, lambda: spawned([reconcile, "validate", str(topologies[0])], environment))
        yield Row("`reconcile validate` of one file, cold", f"{one:.0f} ms", "500 ms")
        for number in range(1000):
            text = topologies[number % len(topologies)].read_text(encoding="utf-8")
            Path(folder, f"{number}.yaml").write_text(f"{text}# {number}\n", encoding="utf-8")
        many = timed(lambda: spawned([reconcile, "validate", folder], environment))
        yield Row("`reconcile validate` of 1,000 files in one run", f"{many / 1000:.1f} s", "10 s")


def _growth() -> Iterator[str]:
    """How both halves grow; beside ours what the kernel alone takes for the same messages."""
    for ports in (2, 8, 64, 256, 1024):
        with world(ports) as made:
            rounds = 5 if ports < 1024 else 3
            look = median(rounds, lambda: made.plan("bypass"))
            applied, raw = [], []
            for _ in range(rounds):
                todo, found = made.plan("bypass")
                applied.append(timed(lambda: made.kernel.execute(todo, found.actual)))
                made.to("inspect")
                raw.append(_preencoded(made))
                made.to("inspect")
            took, kernel = statistics.median(applied), statistics.median(raw)
            per_port = look / ports * 1000
            yield f"| {ports} | {look:.1f} | {per_port:.0f} | {took:.1f} | {kernel:.1f} | {took / kernel:.2f} |"


main()
