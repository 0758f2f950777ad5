"""What enters must leave: what stands between a port and its adapter fails the signal `path`, and the guard has the wire."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guarded import Guarded, guarded, more_arrives

pytestmark = [pytest.mark.netns, pytest.mark.long]

# Drops all but frames of ethertype 0x88B5: ldh [12]; jeq #0x88b5; ret TC_ACT_OK or TC_ACT_SHOT.
BUT_PROBES = "4,40 0 0 12,21 0 1 34997,6 0 0 0,6 0 0 2"
# What a hand does, what undoes it, and between which points frames are lost by it.
TAKERS = {
    "rules of the bridge family": (
        "nft 'add table bridge t; add chain bridge t f { type filter hook forward priority 0; policy drop; }'",
        "nft delete table bridge t",
        "port outside (nic0) → adapter outside",
    ),
    "a program at the egress of an adapter": (
        f"tc qdisc add dev vnet0 clsact; tc filter add dev vnet0 egress bpf da bytecode '{BUT_PROBES}'",
        "tc qdisc delete dev vnet0 clsact",
        "port outside (nic0) → adapter outside (vnet0)",
    ),
    "a rule against what an adapter brings": (
        """nft 'add table bridge t; add chain bridge t f { type filter hook prerouting priority 0; };
        add rule bridge t f iifname vnet1 drop'""",
        "nft delete table bridge t",
        "adapter inside (vnet1) → port inside (nic1)",
    ),
    "rules at the egress of an adapter": (
        """nft 'add table netdev t; add chain netdev t e { type filter hook egress device vnet1 priority 0; };
        add rule netdev t e ether type != 0x88b5 drop'""",
        "nft delete table netdev t",
        "port inside (nic1) → adapter inside (vnet1)",
    ),
}


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("crossing")) as made:
        yield made


@pytest.fixture
def kept(lasting: Guarded) -> Guarded:
    lasting.write()
    lasting.well()
    return lasting


def signal(kept: Guarded) -> tuple[str, str]:
    (found,) = [one for one in kept.status()["signals"] if one["name"] == "path"]
    return found["state"], found["reason"]


def segment(kept: Guarded) -> dict[str, Any]:
    return dict(kept.status()["segments"][0])


@pytest.mark.parametrize("name", TAKERS)
def test_what_takes_frames_between_port_and_adapter_costs_no_more_than_moments(kept: Guarded, name: str) -> None:
    does, undoes, where = TAKERS[name]
    with kept.lab.flows(1_000) as flows:
        flows.start()
        kept.until(lambda: min(flows.arrived()) > 300, "traffic")
        kept.until(lambda: signal(kept)[0] == "healthy", "a healthy path")
        kept.hand(does)
        try:
            kept.until(lambda: signal(kept)[0] == "failed" and where in signal(kept)[1], "a loss between two points")
            kept.passes_by()
            assert segment(kept)["path"] == "bypassed"
            # The guard's rule comes first, or what it forwards does not come there.
            more_arrives(kept, flows)
            assert "the VM" not in " ".join(one["text"] for one in kept.told("restart"))
        finally:
            kept.hand(undoes)
        kept.inspects()
        more_arrives(kept, flows)
        measured = flows.stop()
    # A second until it counts as lost, and a look; twice as much where the machine is busy.
    assert all(one.lost < 6_000 for one in measured)


def test_what_takes_frames_before_the_guard_sees_them_cuts_whoever_has_the_wire(kept: Guarded) -> None:
    with kept.lab.flows(1_000) as flows:
        flows.start()
        kept.until(lambda: min(flows.arrived()) > 300, "traffic")
        kept.hand("tc qdisc add dev nic0 clsact; tc filter add dev nic0 ingress bpf da bytecode '1,6 0 0 2,'")
        try:
            kept.until(lambda: signal(kept)[0] == "failed", "a loss at a port")
            assert "came as far as the guard's rules" in signal(kept)[1]
            kept.until(lambda: segment(kept)["path"] == "cut", "a path that is cut")
            assert kept.cli("status").code == 5
        finally:
            kept.hand("tc qdisc delete dev nic0 clsact")
        kept.inspects()
        kept.until(lambda: segment(kept)["path"] == "inspected", "an inspected path")
        flows.stop()


def test_frames_that_no_adapter_brought_have_passed_the_vm_by(kept: Guarded) -> None:
    redirect = "tc filter add dev {} ingress u32 match u32 0 0 action mirred egress redirect dev {}"
    with kept.lab.flows(1_000) as flows:
        flows.start()
        kept.until(lambda: min(flows.arrived()) > 300, "traffic")
        assert segment(kept)["path"] == "inspected"
        for one, other in (("nic0", "nic1"), ("nic1", "nic0")):
            kept.hand(f"tc qdisc add dev {one} ingress; {redirect.format(one, other)}")
        try:
            kept.until(lambda: segment(kept)["path"] == "bypassed", "a path past the VM")
            assert "the VM brought" in segment(kept)["path_evidence"]
            assert kept.cli("status").code == 4
        finally:
            kept.hand("tc qdisc delete dev nic0 ingress; tc qdisc delete dev nic1 ingress")
        kept.until(lambda: segment(kept)["path"] == "inspected", "an inspected path")
        flows.stop()


def test_nothing_is_lost_where_there_is_no_traffic_or_the_vm_takes_too_little(kept: Guarded, tmp_path: Path) -> None:
    del tmp_path
    kept.until(lambda: signal(kept)[0] == "healthy", "a healthy path without traffic")
    with kept.lab.flows(20_000) as flows:
        flows.start()
        kept.until(lambda: min(flows.arrived()) > 60_000, "traffic")
        for topology in ("bypass", "inspect"):
            kept.ask("hold", topology=topology, reason="x", seconds=60)
            kept.until(lambda at=topology: kept.is_on(at), topology)  # type: ignore[misc]
            more_arrives(kept, flows)
        kept.ask("release")
        kept.kill()
        kept.start()
        kept.inspects()
        kept.until(lambda: signal(kept)[0] == "healthy", "a healthy path after a restart")
        flows.stop()
    assert [one for one in kept.told("decision") if "path is failed" in one["text"]] == []


def test_without_the_guard_a_vm_that_lets_nothing_out_is_no_inspection(kept: Guarded) -> None:
    with kept.lab.flows(1_000) as flows:
        flows.start()
        kept.until(lambda: min(flows.arrived()) > 300, "traffic")
        assert kept.cli("guard", "off").code == 0
        kept.until(lambda: signal(kept)[0] == "absent", "an old reading to be none")
        kept.lab.blackhole_vm()
        kept.until(lambda: segment(kept)["topology"] == "bypass", "bypass")
        state, reason = signal(kept)
        assert (state, "and none came out" in reason) == ("failed", True)
        more_arrives(kept, flows)
        assert kept.cli("status").code == 4
        # Nobody can say that it lets anything out again, so nobody goes back by himself.
        kept.lab.unblock_vm()
        assert kept.cli("guard", "on").code == 0
        kept.goes_to("inspect")
