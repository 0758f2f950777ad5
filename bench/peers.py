"""Peers that do the same switch, where they are installed, each as somebody would have set it up.

Every peer makes its own network of the same shape on a lab's host: in `inspect` each port is in a switch with its
adapter, in `bypass` all ports are in one, and each adapter is in a switch alone. Open vSwitch has one switch, and rules
for both.

None of them sees the machine's own network or configuration: they work in the lab's namespaces, on folders of the
bench's own, and their daemons are the bench's own and die with it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.world import World, median, spawned, timed
from reconciler.lab.lab import Lab, netlink, wait_until

_STARTED_S = 20.0


@dataclass(frozen=True, slots=True)
class Hands:
    """What somebody at the keyboard can have a contender do. The calling thread must be in the host's namespace.

    Attributes:
        switch: Runs the command that goes to a topology, or that confirms it. Returns when the command has ended; the
            network may be there later.
        dry_run: Says what would change, without changing it. None: it has no such thing.
    """

    switch: Callable[[str], None]
    dry_run: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """One contender.

    Attributes:
        name: What the table calls it.
        needs: The programs that it takes.
        package: The Debian package that brings them, or why none does.
        hands: Sets it up on a lab, from a folder of its own, in `inspect`; lasts as long as the context.
    """

    name: str
    needs: tuple[str, ...]
    package: str
    hands: Callable[[Lab, Path], AbstractContextManager[Hands]]

    @property
    def missing(self) -> tuple[str, ...]:
        """Which of the programs are not there."""
        return tuple(name for name in self.needs if _found(name) is None)


def _found(program: str) -> str | None:
    """Where a program is; those of the administrator are not on everybody's path."""
    return shutil.which(
        program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin:/usr/lib/systemd:/lib/systemd"
    )


def missing() -> Iterator[str]:
    """Which peers of `make bench` are not measured, and why."""
    if not shutil.which("ifreload"):
        yield "ifupdown2 (`ifreload`): not installed (Debian package ifupdown2)"
    yield "the others: `make bench-peers`"


def ifupdown2(made: World) -> tuple[float, float] | None:
    """Milliseconds of ifupdown2's audit (`ifquery --check`) and switch (`ifreload`) to bypass; None without it."""
    if not shutil.which("ifreload"):
        return None
    folder = made.file.parent / "ifupdown2"
    folder.mkdir()
    # It converges a network of its own making, so that both sides start from what they left themselves.
    with _ifupdown2(made.lab, folder) as hands:
        assert hands.dry_run is not None
        audit = median(3, hands.dry_run)
        switches = []
        for _ in range(3):
            switches.append(timed(lambda: hands.switch("bypass")))
            hands.switch("inspect")
    made.to("inspect")
    return audit, sorted(switches)[1]


# What they all have to make


def _switches(lab: Lab, topology: str) -> dict[str, list[str]]:
    """The switches of a lab of one segment, and what is in each."""
    roles = ["outside", "inside"] if len(lab.ports) == 2 else [f"port{index}" for index in range(len(lab.ports))]
    joined = {"sw-bypass": list(lab.ports) if topology == "bypass" else []}
    pairs = {}
    for role, port, adapter in zip(roles, lab.ports, lab.adapters, strict=True):
        pairs[f"sw-{role}"] = [adapter] if topology == "bypass" else [port, adapter]
    # Those that give ports away come first: ifupdown2 goes by this order, and strands ports otherwise, and says 0.
    return {**pairs, **joined} if topology == "bypass" else {**joined, **pairs}


def _masters(lab: Lab, topology: str) -> dict[str, str]:
    """In which switch each port and adapter is."""
    return {member: name for name, members in _switches(lab, topology).items() for member in members}


def _built(lab: Lab) -> None:
    """Wait until the kernel has every port and adapter where `inspect` has it."""
    wanted = _masters(lab, "inspect")

    def there() -> bool:
        links = netlink(lab.host, lambda ipr: list(ipr.get_links()))
        names = {link["index"]: link.get("ifname") for link in links}
        found = {link.get("ifname"): names.get(link.get("master")) for link in links}
        return all(found.get(member) == switch for member, switch in wanted.items())

    wait_until(there, _STARTED_S, "the ports to be in their switches")


def _batch(folder: Path, name: str, commands: Sequence[str]) -> list[str]:
    """A command that runs commands of iproute2 in one process."""
    path = folder / f"{name}.batch"
    path.write_text("\n".join(commands) + "\n", encoding="ascii")
    return ["ip", "-batch", str(path)]


def _bridges(lab: Lab, folder: Path) -> None:
    """Make the switches, and stand in `inspect`."""
    made = "up type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    commands = [f"link add {name} {made}" for name in _switches(lab, "inspect")]
    spawned(_batch(folder, "make", [*commands, *_moves(lab, "inspect", "")]), dict(os.environ))


def _moves(lab: Lab, topology: str, before: str) -> list[str]:
    """What iproute2 is to be told to reach a topology: of all, or only what `before` has elsewhere."""
    known = _masters(lab, before) if before else {}
    moves = _masters(lab, topology).items()
    return [f"link set {member} master {switch}" for member, switch in moves if known.get(member) != switch]


# The peers


@contextmanager
def _ip_batch(lab: Lab, folder: Path) -> Iterator[Hands]:
    """It looks at nothing: the file has the moves that are known to be needed."""
    _bridges(lab, folder)
    ways = {"bypass": "inspect", "inspect": "bypass"}
    commands = {topology: _batch(folder, topology, _moves(lab, topology, ways[topology])) for topology in ways}
    yield Hands(lambda topology: spawned(commands[topology], dict(os.environ)))


_PYROUTE2 = """
import sys
from pyroute2 import IPRoute
with IPRoute() as ipr:
    links = {link.get('ifname'): link for link in ipr.get_links()}
    for word in sys.argv[2:]:
        member, switch = word.split('=')
        master = links[switch]['index']
        if links[member].get('master') == master:
            continue
        if sys.argv[1] == 'show':
            print(member, switch)
        else:
            ipr.link('set', index=links[member]['index'], master=master)
"""


@contextmanager
def _pyroute2(lab: Lab, folder: Path) -> Iterator[Hands]:
    """Twelve lines that list the links and move what is not where it belongs."""
    _bridges(lab, folder)

    def call(verb: str, topology: str) -> None:
        words = [f"{member}={switch}" for member, switch in _masters(lab, topology).items()]
        spawned([sys.executable, "-c", _PYROUTE2, verb, *words], dict(os.environ))

    yield Hands(lambda topology: call("set", topology), lambda: call("show", "bypass"))


# ifupdown2 works on /etc/network and keeps its state in /run and /var/tmp: for each call these are the bench's own. In
# /sys it looks for interfaces.
_IFUPDOWN2 = """
set -e
mount -t sysfs none /sys
mount --bind "$1" /etc/network
mount -t tmpfs none /run; mount -t tmpfs none /var/tmp; mkdir -p /run/network /var/tmp/network
shift
exec "$@"
"""


@contextmanager
def _ifupdown2(lab: Lab, folder: Path) -> Iterator[Hands]:
    configured = Path("/etc/network/ifupdown2")
    for topology in ("inspect", "bypass"):
        if configured.is_dir():
            shutil.copytree(configured, folder / topology / "ifupdown2")
        (folder / topology).mkdir(exist_ok=True)
        (folder / topology / "interfaces").write_text(_interfaces(lab, topology), encoding="ascii")

    def call(topology: str, *argv: str) -> None:
        wrapper = ["unshare", "--mount", "sh", "-c", _IFUPDOWN2, "sh", str(folder / topology)]
        # Its audit says 1 where something differs, and so does its switch where it only complains.
        spawned([*wrapper, *argv], dict(os.environ), (0, 1))

    call("inspect", "ifreload", "-a")
    yield Hands(lambda topology: call(topology, "ifreload", "-a"), lambda: call("bypass", "ifquery", "-a", "--check"))


def _interfaces(lab: Lab, topology: str) -> str:
    settings = "  bridge-stp no\n  bridge-mcsnoop no\n"
    return "".join(
        f"auto {name}\niface {name}\n  bridge-ports {' '.join(members) or 'none'}\n{settings}"
        for name, members in _switches(lab, topology).items()
    )


# Its daemon is asked over D-Bus: a bus of its own, at an address that only this network namespace has. /sys read-only
# tells it that there is no udev to wait for. It becomes another user, and would outlive us then: not in a namespace of
# processes whose first one dies with us.
_NETWORKD = """
set -e
mount -t sysfs -o ro none /sys
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/systemd/netif
chown systemd-network: /run/systemd/netif
mount --bind "$1/network" /etc/systemd/network
dbus-daemon --config-file="$1/bus.conf" --nofork --nopidfile &
"$2" &
wait
"""
_BUS = "unix:abstract=reconcile-bench"
_BUS_CONF = f"""<busconfig>
<type>system</type><listen>{_BUS}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy>
</busconfig>
"""


@contextmanager
def _networkd(lab: Lab, folder: Path) -> Iterator[Hands]:
    network = folder / "network"
    # Its user reads these through the mount.
    network.mkdir(mode=0o755)
    (folder / "bus.conf").write_text(_BUS_CONF, encoding="ascii")
    for name in _switches(lab, "inspect"):
        bridge = f"[NetDev]\nName={name}\nKind=bridge\n[Bridge]\nSTP=no\nForwardDelaySec=0\nMulticastSnooping=no\n"
        (network / f"{name}.netdev").write_text(bridge, encoding="ascii")
        _unit(network, name, "ConfigureWithoutCarrier=yes")
    written: dict[str, str] = {}

    def write(topology: str) -> None:
        for member, switch in _masters(lab, topology).items():
            # What did not change stays as it is: by that it knows what to do.
            if written.get(member) != switch:
                _unit(network, member, f"Bridge={switch}")
                written[member] = switch

    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": _BUS}

    def switch(topology: str) -> None:
        write(topology)
        spawned(["networkctl", "reload"], environment)

    write("inspect")
    program = _found("systemd-networkd") or ""
    namespaces = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        _NETWORKD,
        "sh",
        str(folder),
        program,
    ]
    _daemon(lab, namespaces, environment)
    _built(lab)
    yield Hands(switch)


def _unit(folder: Path, name: str, line: str) -> None:
    """A `.network` file, replaced at once."""
    quiet = "LinkLocalAddressing=no\nIPv6AcceptRA=no\nLLDP=no\n"
    fresh = folder / f"{name}.network.new"
    fresh.write_text(f"[Match]\nName={name}\n[Network]\n{quiet}{line}\n", encoding="ascii")
    fresh.replace(folder / f"{name}.network")


def _daemon(lab: Lab, argv: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a program on the lab's host that dies with the lab, and with us."""
    null = subprocess.DEVNULL
    return lab.host.spawn(argv, env=dict(environment), stdin=null, stdout=null, stderr=null)


@contextmanager
def _open_vswitch(lab: Lab, folder: Path) -> Iterator[Hands]:
    """The datapath in its own process: the kernel's needs a module. A topology is rules, exchanged at once."""
    environment = {**os.environ, **{f"OVS_{name}DIR": str(folder) for name in ("RUN", "LOG", "DB", "SYSCONF")}}
    database, remote = str(folder / "conf.db"), f"unix:{folder / 'db.sock'}"
    spawned(["ovsdb-tool", "create", database], environment)
    for topology in ("inspect", "bypass"):
        (folder / topology).write_text("\n".join(_rules(lab, topology)) + "\n", encoding="ascii")
    control = f"--unixctl={folder / 'db.ctl'}"
    _daemon(lab, [_found("ovsdb-server") or "", database, f"--remote=p{remote}", control], environment)
    wait_until((folder / "db.sock").exists, _STARTED_S, "ovsdb-server")
    control = f"--unixctl={folder / 'switch.ctl'}"
    _daemon(lab, [_found("ovs-vswitchd") or "", remote, control, "--disable-system"], environment)
    words = ["add-br", "sw", "--", "set", "bridge", "sw", "datapath_type=netdev", "fail_mode=secure"]
    for number, member in enumerate((*lab.ports, *lab.adapters), 1):
        words += ["--", "add-port", "sw", member, "--", "set", "interface", member, f"ofport_request={number}"]
    # Waits until the daemon has done it.
    spawned(["ovs-vsctl", f"--db={remote}", "--timeout=60", *words], environment)

    def rules(verb: str, topology: str, *options: str, allowed: Sequence[int] = (0,)) -> None:
        spawned(["ovs-ofctl", *options, verb, "sw", str(folder / topology)], environment, allowed)

    def switch(topology: str) -> None:
        rules("replace-flows", topology, "--bundle")

    switch("inspect")
    # It says 2 where something differs.
    yield Hands(switch, lambda: rules("diff-flows", "bypass", allowed=(2,)))


def _rules(lab: Lab, topology: str) -> Iterator[str]:
    ports = range(1, len(lab.ports) + 1)
    for port in ports:
        adapter = port + len(ports)
        if topology == "inspect":
            yield f"in_port={port} actions=output:{adapter}"
            yield f"in_port={adapter} actions=output:{port}"
        else:
            yield f"in_port={port} actions={','.join(f'output:{other}' for other in ports if other != port)}"


@contextmanager
def _nmstate(lab: Lab, folder: Path) -> Iterator[Hands]:
    """In its mode that asks the kernel and not NetworkManager."""
    for topology in ("inspect", "bypass"):
        lines = ["interfaces:"]
        for name, members in _switches(lab, topology).items():
            ports = ", ".join(f"{{name: {member}}}" for member in members)
            bridge = f"{{options: {{stp: {{enabled: false}}}}, port: [{ports}]}}"
            lines.append(f"- {{name: {name}, type: linux-bridge, state: up, bridge: {bridge}}}")
        (folder / topology).write_text("\n".join(lines) + "\n", encoding="ascii")

    def switch(topology: str) -> None:
        spawned(["nmstatectl", "apply", "--kernel", str(folder / topology)], dict(os.environ))

    switch("inspect")
    yield Hands(switch)


PEERS = (
    Peer("`ip -batch`", ("ip",), "iproute2", _ip_batch),
    Peer("pyroute2 script", (), "", _pyroute2),
    Peer("nmstate (`nmstatectl`)", ("nmstatectl",), "not packaged in Debian 12", _nmstate),
    Peer(
        "ifupdown2 (`ifreload`)",
        ("ifreload", "ifquery"),
        "Debian package ifupdown2, which replaces ifupdown",
        _ifupdown2,
    ),
    Peer(
        "systemd-networkd (`networkctl reload`)",
        ("systemd-networkd", "networkctl", "dbus-daemon"),
        "Debian packages systemd and dbus-daemon",
        _networkd,
    ),
    Peer(
        "Open vSwitch (`ovs-ofctl replace-flows --bundle`)",
        ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl"),
        "Debian package openvswitch-switch",
        _open_vswitch,
    ),
)
