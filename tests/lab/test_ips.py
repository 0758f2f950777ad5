"""Suricata in the lab's VM, and all that can happen to it."""

import time
from collections.abc import Iterator

import pytest

from reconciler.lab.frames import FRAMES, Ear, crossing, fitting, frame
from reconciler.lab.ips import FORBIDDEN, Suricata, needles, wait_until_forwarding
from reconciler.lab.lab import Lab
from reconciler.lab.namespaces import LabError
from reconciler.lab.talk import Talk
from reconciler.lab.traffic import Traffic

pytestmark = [pytest.mark.netns, pytest.mark.long]


@pytest.fixture(scope="module")
def cable(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab whose ports are wired to the adapters, so that all that a client sends, of whatever kind, goes to the VM."""
    for needed in ("suricata_installed", "lab_root"):
        request.getfixturevalue(needed)
    with Lab(2) as lab:
        lab.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
        chains = "".join(
            f"chain {one} {{ type filter hook ingress device {one} priority 0; fwd to {other}; }}; "
            for pair in zip(lab.ports, lab.adapters, strict=True)
            for one, other in (pair, pair[::-1])
        )
        lab.run(["nft", f"table netdev cable {{ {chains} }}"])
        yield lab


@pytest.fixture(scope="module")
def suricata(cable: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suricata]:
    with Suricata(cable, tmp_path_factory.mktemp("suricata")) as suricata:
        yield suricata


def until_more(traffic: Traffic, what: str) -> None:
    before = traffic.arrived()
    Lab.wait_until(lambda: all(b > a + 20 for a, b in zip(before, traffic.arrived(), strict=True)), 20, what)


def silent(traffic: Traffic) -> bool:
    """Nothing arrives for a tenth of a second."""
    before, until = traffic.arrived(), time.monotonic() + 0.1
    while time.monotonic() < until:
        if traffic.arrived() != before:
            return False
    return True


@pytest.mark.usefixtures("suricata")
def test_every_kind_of_frame_passes(cable: Lab) -> None:
    found = crossing(cable, fitting(), patience_s=1)
    # The type of an outer tag is lost in it.
    changed = FRAMES["QinQ"][:12] + b"\x81\x00" + FRAMES["QinQ"][14:]
    assert found.missing == {(1, "QinQ"): 3}
    assert found.strange == {1: (changed,) * 3}
    assert not found.surplus


def test_stopped(cable: Lab, suricata: Suricata) -> None:
    with cable.flows(500) as traffic:
        traffic.start()
        until_more(traffic, "traffic through Suricata")
        suricata.stop()
        cable.wait_until(lambda: silent(traffic), 10, "silence")
        suricata.cont()
        until_more(traffic, "traffic again")


def test_connections_survive_a_hang(cable: Lab, suricata: Suricata) -> None:
    with Talk(*cable.clients, connections=2, rate=200_000) as talk:
        cable.wait_until(lambda: min(talk.received()) > 50_000, 20, "bytes both ways")
        suricata.stop()
        begun = time.monotonic()
        cable.wait_until(lambda: time.monotonic() > begun + 0.3, 5, "the hang to have lasted")
        suricata.cont()
        before = talk.received()
        cable.wait_until(
            lambda: min(b - a for a, b in zip(before, talk.received(), strict=True)) > 50_000, 20, "bytes again"
        )
        assert talk.new_connection(timeout_s=10) > 0
        assert talk.stop().intact


def passing(lab: Lab, words: list[bytes]) -> list[bool]:
    """Which of these frames pass from the first client to the second, all others having had the time to."""
    with Ear(lab.clients[0]) as here, Ear(lab.clients[1]) as there:
        for word in words:
            here.send(word)
        until = time.monotonic() + 0.3
        lab.wait_until(lambda: there.take() == [] and time.monotonic() > until, 10, "silence")
        return [word in there.frames for word in words]


def test_one_thread_is_stuck_and_let_go(cable: Lab, suricata: Suricata) -> None:
    flows = [FRAMES["IPv4 unicast"][:33] + bytes([last]) + FRAMES["IPv4 unicast"][34:] for last in range(1, 33)]
    assert all(passing(cable, flows))
    suricata.stick_one_thread("W#01-eth0")
    assert set(passing(cable, flows)) == {True, False}, "a part of all connections is stuck"
    with cable.flows(500) as traffic:
        back = traffic.flows[1]
        traffic.start()
        cable.wait_until(lambda: back.arrived > 50, 10, "traffic the other way")
    suricata.stick_one_thread("W#02-eth0")
    assert not any(passing(cable, flows))
    suricata.release_thread()
    cable.wait_until(lambda: all(passing(cable, flows)), 10, "all connections")


@pytest.mark.parametrize(("interface", "sender"), [("eth0", 0), ("eth1", 1)])
def test_which_thread_probes_go_through(cable: Lab, suricata: Suricata, interface: str, sender: int) -> None:
    probe = {"probe": frame("02:bb:00:00:00:09", 0x88B5)}
    name = suricata.thread_of(0x88B5, interface)
    suricata.stick_one_thread(name)
    assert crossing(cable, probe, sender, patience_s=0.1).missing == {(1 - sender, "probe"): 3}
    suricata.release_thread()
    other = name.replace("#01", "#03").replace("#02", "#01").replace("#03", "#02")
    suricata.stick_one_thread(other)
    assert not crossing(cable, probe, sender).missing
    suricata.release_thread()


def test_unknown_threads(suricata: Suricata) -> None:
    with pytest.raises(LabError, match=r"no thread W#07-eth0, but .*W#01-eth0 W#01-eth1 W#02-eth0 W#02-eth1"):
        suricata.stick_one_thread("W#07-eth0")


def test_drop_everything_is_no_hang(cable: Lab, suricata: Suricata) -> None:
    addressed = {"IPv4 unicast", "IPv4 multicast", "IPv4 broadcast", "IPv6 unicast", "IPv6 multicast"}
    with cable.flows(500) as traffic:
        traffic.start()
        until_more(traffic, "traffic through Suricata")
        suricata.drop_everything()
        cable.wait_until(lambda: silent(traffic), 10, "connections that it knows to be blocked")
        wait_until_forwarding(cable, timeout_s=10)
        found = crossing(cable, {name: FRAMES[name] for name in ("LLDP", "ARP", "0x88B5", *addressed)})
        assert found.missing == {(1, name): 3 for name in addressed}
        suricata.reload_rules([])
        until_more(traffic, "traffic again")


def test_rules_are_reloaded_while_traffic_passes(cable: Lab, suricata: Suricata) -> None:
    suricata.write_rules(needles(1000))
    with cable.flows(500) as traffic:
        traffic.start()
        until_more(traffic, "traffic through Suricata")
        with suricata.reload() as reload:
            until_more(traffic, "traffic during the reload")
            cable.wait_until(reload.done, 60, "the reload")
        until_more(traffic, "traffic after the reload")
        assert [measured.lost for measured in traffic.stop(patience_s=1)] == [0, 0]
    suricata.kill()
    with pytest.raises(LabError, match="Suricata does not answer"):
        suricata.reload()
    suricata.start()


def test_killed_and_started_again(cable: Lab, suricata: Suricata) -> None:
    with cable.flows(500) as traffic:
        traffic.start()
        until_more(traffic, "traffic through Suricata")
        suricata.stick_one_thread()
        suricata.kill()
        cable.wait_until(lambda: silent(traffic), 10, "silence")
        suricata.start()
        until_more(traffic, "traffic again")
    assert FORBIDDEN.decode() in (suricata.folder / "local.rules").read_text()


@pytest.mark.usefixtures("suricata_installed")
def test_a_vm_without_suricata_has_its_bridge(inspected: Lab, tmp_path) -> None:
    lab = inspected
    with Suricata(lab, tmp_path):
        assert not crossing(lab, {"ARP": FRAMES["ARP"]}).missing
    assert not crossing(lab, {"ARP": FRAMES["ARP"]}).missing
    lab.unbridge_vm()
    with pytest.raises(LabError, match="in vain for the VM to forward"):
        wait_until_forwarding(lab, timeout_s=0.05)
    lab.kill_vm()
    with pytest.raises(LabError, match="the VM is dead"):
        Suricata(lab, tmp_path)
