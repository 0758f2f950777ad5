"""The example of Suricata, with a real Suricata in the lab's VM, and the agent beside it."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from agents import DEADLINE_S, SOURCE, Host, eventually
from pyroute2 import IPRoute

from reconciler.lab.lab import Lab, netlink
from reconciler.lab.namespaces import Namespace

EXAMPLE = Path(__file__).parents[2] / "examples" / "suricata"
FORBIDDEN = b"FORBIDDEN-BY-EXAMPLE"

pytestmark = pytest.mark.netns

# linux/sockios.h and linux/ethtool.h
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x17


# More packets than the rings of all capture threads have room for.
RINGS = 30_000

# Each reload has so many more: it keeps Suricata silent for a second or two, and longer and longer.
RULES = 4000


@pytest.fixture(scope="module")
def suricata_installed() -> None:
    """Skips without Suricata, but never in CI."""
    if shutil.which("suricata") is None:
        assert not os.environ.get("CI"), "Suricata must be tested in CI: .ci/backports suricata:suricata"
        pytest.skip("SURICATA IS NOT TESTED: it is not installed")


class Appliance:
    """The lab in inspection, with Suricata in place of the VM's bridge."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.channel = folder / "channel"
        self._folder = folder
        self._places = {
            "/etc/suricata/rules": str(folder),
            "/run/suricata-command.socket": str(folder / "command.socket"),
            "/run/suricata.pid": str(folder / "suricata.pid"),
            "/var/log/suricata/": str(folder),
            "/dev/virtio-ports/org.reconciler.agent.0": f"unix:{self.channel}",
        }
        for name in ("suricata.conf", "local.rules", "reconciler-agent.conf"):
            self._place(name)
        self.suricata: subprocess.Popen[bytes] | None = None
        self._rules = 0
        assert lab.vm is not None
        self.vm: Namespace = lab.vm

    def _place(self, name: str) -> None:
        """Copy a file of the example; what differs here is where things lie."""
        text = (EXAMPLE / name).read_text(encoding="utf-8")
        for there, here in self._places.items():
            text = text.replace(there, here)
        (self._folder / name).write_text(text, encoding="utf-8")

    def start_agent(self) -> None:
        config = self._folder / "reconciler-agent.conf"
        with (self._folder / "agent.log").open("wb") as log:
            self.vm.spawn([sys.executable, "-I", "-S", str(SOURCE), "--config", str(config)], stderr=log)

    def start_suricata(self) -> None:
        for leftover in ("suricata.pid", "command.socket"):
            (self._folder / leftover).unlink(missing_ok=True)
        argv = ["suricata", "-c", str(self._folder / "suricata.conf"), "--af-packet"]
        with (self._folder / "suricata.log").open("ab") as log:
            self.suricata = self.vm.spawn(
                [*argv, "--pidfile", str(self._folder / "suricata.pid")], stdout=log, stderr=subprocess.STDOUT
            )

    def signal(self, number: signal.Signals) -> None:
        assert self.suricata is not None
        self.suricata.send_signal(number)

    def command_socket(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(DEADLINE_S)
        peer.connect(str(self._folder / "command.socket"))
        return peer

    def blocked(self) -> int:
        """How many packets the forbidding rule has blocked by now."""
        log = self._folder / "eve.json"
        return log.read_text(encoding="utf-8").count('"event_type":"drop"') if log.exists() else 0

    def received(self) -> int:
        """How many packets have come to the VM by now."""
        with self.vm.entered():
            rows = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()
        return sum(int(row.split()[2]) for row in rows if row.strip().startswith("eth"))

    def add_rules(self, count: int) -> int:
        """Add rules that match nothing, and return how many there are of them by now."""
        first = 2_000_000 + self._rules
        with (self._folder / "local.rules").open("a", encoding="ascii") as rules:
            for sid in range(first, first + count):
                match = f'content:"needle-{sid}"; pcre:"/a{sid}b+/i"'
                rules.write(f'alert tcp any any -> any any (msg:"x"; {match}; sid:{sid};)\n')
        self._rules += count
        return self._rules


class Reload:
    """A reload of the rules, as the vendor's updater asks for it: Suricata answers when it is done."""

    def __init__(self, appliance: Appliance) -> None:
        self._socket = appliance.command_socket()
        self._answer = b""

    def __enter__(self) -> Self:
        self._socket.sendall(b'{"version": "0.2"}\n')
        assert b"OK" in self._socket.recv(4096)
        self._socket.sendall(b'{"command": "reload-rules"}\n')
        self._socket.setblocking(False)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def done(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self._answer += self._socket.recv(4096)
            assert b"OK" in self._answer
        return bool(self._answer)


def join(lab: Lab) -> None:
    """Inspection, and no bridge in the VM."""

    def host(ipr: IPRoute) -> None:
        for index, members in enumerate(zip(lab.ports, lab.adapters, strict=True)):
            ipr.link("add", ifname=f"sw{index}", kind="bridge", state="up", br_stp_state=0, br_mcast_snooping=0)
            switch = ipr.link_lookup(ifname=f"sw{index}")[0]
            for member in members:
                ipr.link("set", index=ipr.link_lookup(ifname=member)[0], master=switch)

    assert lab.vm is not None
    netlink(lab.host, host)
    netlink(lab.vm, lambda ipr: ipr.link("del", index=ipr.link_lookup(ifname="br0")[0]))


def give_address(client: Namespace, address: str) -> None:
    """An address, and packets with their checksums: what leaves a real NIC has them."""

    def add(ipr: IPRoute) -> None:
        ipr.addr("add", index=ipr.link_lookup(ifname="wire")[0], address=address, prefixlen=24)

    netlink(client, add)
    with client.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        import array
        import fcntl

        command = array.array("B", struct.pack("II", ETHTOOL_STXCSUM, 0))
        fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP", b"wire", command.buffer_info()[0]))


@pytest.fixture(scope="module")
def appliance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    for needed in ("suricata_installed", "lab_root"):
        request.getfixturevalue(needed)
    with Lab(2) as lab:
        join(lab)
        for index, client in enumerate(lab.clients):
            give_address(client, f"198.51.100.{index + 1}")
        appliance = Appliance(lab, tmp_path_factory.mktemp("suricata"))
        appliance.start_suricata()
        appliance.start_agent()
        yield appliance


@pytest.fixture
def host(appliance: Appliance) -> Iterator[Host]:
    """The host's end of the agent's channel, while Suricata is well."""
    with Host(appliance.channel) as host:
        for check in ("process", "answers", "capture"):
            host.until(check, "healthy")
        yield host


class Connection:
    """A TCP connection from one client to the other, and what arrived through it."""

    def __init__(self, lab: Lab) -> None:
        with lab.clients[1].entered():
            listener = socket.create_server(("198.51.100.2", 0))
        with lab.clients[0].entered():
            self._near = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with listener:
            self._near.settimeout(DEADLINE_S)
            self._near.connect(listener.getsockname())
            self._far, _ = listener.accept()
        self._far.setblocking(False)
        self._arrived = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._near, self._far):
            # Without lingering for what never arrives.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()

    def send(self, text: bytes) -> None:
        self._near.sendall(text)

    def arrived(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            self._arrived += self._far.recv(65536)
        return self._arrived

    def passes(self, text: bytes) -> None:
        self.send(text)
        eventually(lambda: text in self.arrived(), f"{text!r} to arrive")


def states(beat: dict[str, Any]) -> dict[str, str]:
    return {name: check["state"] for name, check in beat["checks"].items()}


def test_traffic_passes_and_beats_say_healthy(appliance: Appliance, host: Host) -> None:
    with appliance.lab.flows(500) as traffic:
        traffic.start()
        eventually(lambda: min(traffic.arrived()) > 200, "traffic through Suricata")
        # As long as two readings of the counters take.
        for _ in range(45):
            assert set(states(host.beat()).values()) == {"healthy"}
        assert [measured.lost for measured in traffic.stop()] == [0, 0]


def test_what_is_forbidden_is_blocked(appliance: Appliance, host: Host) -> None:
    with Connection(appliance.lab) as connection:
        connection.passes(b"hello")
        blocked = appliance.blocked()
        connection.send(FORBIDDEN)
        eventually(lambda: appliance.blocked() > blocked, "the rule to match")
        assert connection.arrived() == b"hello"
    assert set(states(host.beat()).values()) == {"healthy"}


def test_stopped(appliance: Appliance, host: Host) -> None:
    appliance.signal(signal.SIGSTOP)
    assert host.until("process", "failed")["checks"]["process"]["reason"].endswith("is stopped")
    # Silence alone could be a reload.
    assert host.until("answers", "degraded")["checks"]["answers"]["reason"] == "no answer within 300 ms"
    appliance.signal(signal.SIGCONT)
    for check in ("process", "answers", "capture"):
        host.until(check, "healthy")


def test_packets_that_are_lost_before_inspection(appliance: Appliance, host: Host) -> None:
    """What a flood does, too, if it is greater than any that this lab can make: the rings overflow."""
    with appliance.lab.flows(10_000) as traffic:
        traffic.start()
        eventually(lambda: min(traffic.arrived()) > 1000, "traffic through Suricata")
        appliance.signal(signal.SIGSTOP)
        before = appliance.received()
        eventually(lambda: appliance.received() > before + RINGS, "the rings to overflow")
        appliance.signal(signal.SIGCONT)
        beat = host.until("capture", "degraded")
        while "no answer" in beat["checks"]["capture"]["reason"]:
            beat = host.until("capture", "degraded")
        assert beat["checks"]["capture"]["reason"].endswith("packets dropped before inspection")
        assert beat["checks"]["process"]["state"] == "healthy"
        traffic.stop()
    host.until("capture", "healthy")


def test_a_reload_of_rules_is_never_a_failure(appliance: Appliance, host: Host) -> None:
    seen: set[tuple[str, str]] = set()
    with appliance.lab.flows(500) as traffic:
        traffic.start()
        while ("answers", "degraded") not in seen:
            assert appliance.add_rules(RULES) < 10 * RULES, "no reload was long enough to be noticed"
            with Reload(appliance) as reload:
                while not reload.done():
                    seen |= set(states(host.beat()).items())
        before = min(traffic.arrived())
        eventually(lambda: min(traffic.arrived()) > before + 100, "traffic through Suricata")
        traffic.stop()
    assert "failed" not in {state for _, state in seen}
    assert ("process", "degraded") not in seen


def test_killed_and_started_again(appliance: Appliance, host: Host) -> None:
    with Connection(appliance.lab) as old:
        old.passes(b"before")
        appliance.signal(signal.SIGKILL)
        # Its parent has not looked yet, so there still is a process of that name and pid.
        assert host.until("process", "failed")["checks"]["process"]["reason"].endswith("is a zombie")
        appliance.start_suricata()
        for check in ("process", "answers", "capture"):
            host.until(check, "healthy")
        old.passes(b"after")
        blocked = appliance.blocked()
        old.send(FORBIDDEN)
        eventually(lambda: appliance.blocked() > blocked, "the rule to match in a connection older than Suricata")
        assert FORBIDDEN not in old.arrived()
