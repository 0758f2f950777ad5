"""The example of Suricata, with a real Suricata in the lab's VM, and the agent beside it."""

import contextlib
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from agents import DEADLINE_S, SOURCE, Host, eventually
from pyroute2 import IPRoute

from reconciler.lab.ips import FORBIDDEN, Suricata, needles
from reconciler.lab.lab import Lab, netlink
from reconciler.lab.namespaces import Namespace
from reconciler.lab.offloads import offloads_off

pytestmark = [pytest.mark.netns, pytest.mark.long]

# More packets than the rings of all capture threads have room for.
RINGS = 30_000

# Each reload has so many more: it keeps Suricata silent for a second or two, and longer and longer.
RULES = 4000


class Appliance:
    """The lab in inspection, with Suricata in place of the VM's bridge."""

    def __init__(self, lab: Lab, suricata: Suricata) -> None:
        self.lab = lab
        self.suricata = suricata
        self.channel = suricata.folder / "channel"
        self._rules: list[str] = []
        assert lab.vm is not None
        self.vm: Namespace = lab.vm

    def start_agent(self) -> None:
        channel = {"/dev/virtio-ports/org.reconciler.agent.0": f"unix:{self.channel}"}
        config = self.suricata.place("reconciler-agent.conf", channel)
        with (self.suricata.folder / "agent.log").open("wb") as log:
            self.vm.spawn([sys.executable, "-I", "-S", str(SOURCE), "--config", str(config)], stderr=log)

    def received(self) -> int:
        """How many packets have come to the VM by now."""
        with self.vm.entered():
            rows = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()
        return sum(int(row.split()[2]) for row in rows if row.strip().startswith("eth"))

    def add_rules(self, count: int) -> int:
        """Add rules that match nothing, and return how many there are of them by now."""
        self._rules += needles(len(self._rules) + count)[len(self._rules) :]
        self.suricata.write_rules(self._rules)
        return len(self._rules)


def join(lab: Lab) -> None:
    """Inspection."""

    def host(ipr: IPRoute) -> None:
        for index, members in enumerate(zip(lab.ports, lab.adapters, strict=True)):
            ipr.link("add", ifname=f"sw{index}", kind="bridge", state="up", br_stp_state=0, br_mcast_snooping=0)
            switch = ipr.link_lookup(ifname=f"sw{index}")[0]
            for member in members:
                ipr.link("set", index=ipr.link_lookup(ifname=member)[0], master=switch)

    netlink(lab.host, host)


def give_address(client: Namespace, address: str) -> None:
    """An address, and packets with their checksums: what leaves a real NIC has them."""

    def add(ipr: IPRoute) -> None:
        ipr.addr("add", index=ipr.link_lookup(ifname="wire")[0], address=address, prefixlen=24)

    netlink(client, add)
    with client.entered():
        offloads_off("wire")


@pytest.fixture(scope="module")
def appliance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    for needed in ("suricata_installed", "lab_root"):
        request.getfixturevalue(needed)
    with Lab(2) as lab:
        join(lab)
        for index, client in enumerate(lab.clients):
            give_address(client, f"198.51.100.{index + 1}")
        with Suricata(lab, tmp_path_factory.mktemp("suricata")) as suricata:
            appliance = Appliance(lab, suricata)
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
        blocked = appliance.suricata.blocked()
        connection.send(FORBIDDEN)
        eventually(lambda: appliance.suricata.blocked() > blocked, "the rule to match")
        assert connection.arrived() == b"hello"
    assert set(states(host.beat()).values()) == {"healthy"}


def test_stopped(appliance: Appliance, host: Host) -> None:
    appliance.suricata.stop()
    assert host.until("process", "failed")["checks"]["process"]["reason"].endswith("is stopped")
    # Silence alone could be a reload.
    assert host.until("answers", "degraded")["checks"]["answers"]["reason"].startswith("no answer within 300 ms")
    appliance.suricata.cont()
    for check in ("process", "answers", "capture"):
        host.until(check, "healthy")


def test_packets_that_are_lost_before_inspection(appliance: Appliance, host: Host) -> None:
    """What a flood does, too, if it is greater than any that this lab can make: the rings overflow."""
    with appliance.lab.flows(10_000) as traffic:
        traffic.start()
        eventually(lambda: min(traffic.arrived()) > 1000, "traffic through Suricata")
        appliance.suricata.stop()
        before = appliance.received()
        eventually(lambda: appliance.received() > before + RINGS, "the rings to overflow")
        appliance.suricata.cont()
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
            with appliance.suricata.reload() as reload:
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
        appliance.suricata.kill()
        # Its parent has not looked yet, so there still is a process of that name and pid.
        assert host.until("process", "failed")["checks"]["process"]["reason"].endswith("is a zombie")
        appliance.suricata.start()
        for check in ("process", "answers", "capture"):
            host.until(check, "healthy")
        old.passes(b"after")
        blocked = appliance.suricata.blocked()
        old.send(FORBIDDEN)
        eventually(
            lambda: appliance.suricata.blocked() > blocked, "the rule to match in a connection older than Suricata"
        )
        assert FORBIDDEN not in old.arrived()
