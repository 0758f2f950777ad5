"""The guard on a live kernel: it trips, nothing that is late gets in, it outlives its daemon, and is put back."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_live_daemon
from guarded import OTHERS, Guarded, guarded, lives, more_arrives, now_ns, provers, wrong

from reconciler.host.guard import prober
from reconciler.lab.delay import Delay
from reconciler.lab.frames import Ear, frame

pytestmark = pytest.mark.netns

RATE = 1_000
SEGMENTS = {"seg0": {"lease": "1s"}, "seg1": {"lease": "1s", "fail": "closed"}}
LEAST_GRACE = {"grace": "0s"}
DELETE_RULE = (
    "nft delete rule netdev {table} edge/port/inside "
    "handle $(nft -a list chain netdev {table} edge/port/inside | sed -n 's/.*fwd to.* handle //p')"
)
A_SECONDS_FRAMES = 300_000  # bytes of buffer: some 750


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("guard")) as made:
        yield made


@pytest.fixture
def kept(lasting: Guarded) -> Guarded:
    lasting.write()
    lasting.well()
    return lasting


@pytest.fixture(scope="module")
def lasting_two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Two segments; the second one fails closed. No stall of the machine is to trip the one that is left alone."""
    request.getfixturevalue("lab_root")
    folder = tmp_path_factory.mktemp("two")
    with guarded(folder, 4, [(0, 1), (2, 3)], guards=SEGMENTS) as made:
        yield made


@pytest.fixture
def two(lasting_two: Guarded) -> Guarded:
    lasting_two.well()
    return lasting_two


# --- it trips --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("towards", [[0, 1], [0], [1]], ids=["both ways", "to the outside", "to the inside"])
def test_daemon_and_vm_dead_the_kernel_joins_the_wire_of_that_segment(two: Guarded, towards: list[int]) -> None:
    two.kill()
    other = two.counted(1)
    with two.lab.flows(RATE) as flows:
        flows.start()
        more_arrives(two, flows)
        two.lab.blackhole_vm(towards)
        two.until(lambda: not two.stands(), "the trip")
        since, before = now_ns(), two.counted()
        more_arrives(two, flows)
        measured = flows.stop()
        after = [flow.measure(since) for flow in flows.flows[:2]]
    assert two.counted() > before + 200
    assert [(one.lost, one.duplicated) for one in after] == [(0, 0), (0, 0)]
    assert sum(one.duplicated for one in measured) == 0
    assert wrong(measured[2:]) == [], "the other segment is inspected as before"
    assert (two.stands(1), two.counted(1)) == (True, other)


@pytest.mark.long
def test_a_segment_that_fails_closed_is_cut_also_without_a_daemon(two: Guarded) -> None:
    two.kill()
    with two.lab.flows(RATE) as flows:
        flows.start()
        more_arrives(two, flows, 1)
        two.lab.blackhole_vm([2])
        two.until(lambda: not two.stands(1), "the trip")
        since, before = now_ns(), two.counted(1)
        two.until(lambda: two.counted(1) > before + 200, "frames that are counted")
        measured = flows.stop()
        received = [flow.measure(since).received for flow in flows.flows[2:]]
    assert received == [0, 0]
    assert wrong(measured[:2]) == []


@pytest.mark.long
def test_a_daemon_brings_the_cut_segment_back(two: Guarded) -> None:
    trips = two.guard(1)["trips"]
    with two.lab.flows(RATE) as flows:
        flows.start()
        more_arrives(two, flows, 1)
        two.lab.blackhole_vm([2, 3])
        two.until(lambda: two.guard(1)["state"] == "cut", "the cut")
        assert two.guard(0)["state"] == "leased"
        two.lab.unblock_vm()
        two.inspects()
        more_arrives(two, flows, 1)
        measured = flows.stop()
    assert wrong(measured[:2]) == []
    assert sum(one.duplicated for one in measured) == 0
    assert two.guard(1)["trips"] == trips + 1
    assert "cut by the guard" in two.told("tripped")[-1]["text"]


def stale(flows: Any, tripped_ns: int, woke_ns: int) -> int:
    """How many frames that were sent before the trip arrived after the VM woke up."""
    arrivals = [flow.sink.arrivals() for flow in flows.flows]
    times = [pair for one in arrivals for pair in zip(one.sent_ns, one.received_ns, strict=True)]
    return sum(sent < tripped_ns and received > woke_ns for sent, received in times)


@pytest.mark.long
@pytest.mark.parametrize("with_daemon", [True, False], ids=["daemon", "alone"])
def test_a_stopped_vm_that_goes_on_injects_nothing_and_its_old_probes_renew_nothing(
    kept: Guarded, with_daemon: bool
) -> None:
    # A drain would let out what a planned switch leaves inside: after a trip there is none.
    with Delay(kept.lab, 1, buffer=A_SECONDS_FRAMES) as vm, kept.lab.flows(RATE) as flows:
        kept.inspects()
        if not with_daemon:
            kept.kill()
        flows.start()
        more_arrives(kept, flows)
        vm.stop()
        kept.until(lambda: not kept.stands(), "the trip")
        tripped_ns = now_ns()
        more_arrives(kept, flows)
        if with_daemon:
            kept.passes_by()
        dropped, woke_ns = kept.counted(kind="adapter"), now_ns()
        vm.cont()
        kept.until(lambda: kept.counted(kind="adapter") >= dropped + 100, "what the VM had held")
        if not with_daemon:
            # The prober is still at work, with addresses that were granted before the trip.
            more_arrives(kept, flows)
            assert kept.contents().token is not None
            assert not kept.stands()
        else:
            kept.inspects()
        measured = flows.stop()
        assert stale(flows, tripped_ns, woke_ns) == 0
        assert sum(one.duplicated for one in measured) == 0
        assert min(one.lost for one in measured) > 0, "what was in the VM stays there"


# --- the way back ----------------------------------------------------------------------------------------------------


def test_with_a_latch_it_comes_back_through_the_hold_down(kept: Guarded) -> None:
    before = kept.guard()["trips"]
    kept.lab.blackhole_vm()
    kept.passes_by()
    lines = len(kept.lines)
    kept.lab.unblock_vm()
    kept.inspects()
    assert kept.guard()["trips"] == before + 1
    told = [line["what"] for line in kept.lines[lines:] if line["event"] == "decision" and line["segment"]]
    assert [one for one in told if "stays on bypass for" in one]
    assert told[-1] == "bypass → inspect"


def test_without_a_latch_it_comes_back_as_soon_as_it_is_proven(kept: Guarded) -> None:
    kept.write(guard={"latch": False})
    kept.well()
    before, lines = kept.guard()["trips"], len(kept.lines)
    with kept.lab.flows(RATE) as flows:
        flows.start()
        more_arrives(kept, flows)
        kept.lab.blackhole_vm()
        kept.until(lambda: kept.guard()["trips"] == before + 1, "the trip")
        kept.lab.unblock_vm()
        kept.until(kept.is_leased, "leases")
        more_arrives(kept, flows)
        assert sum(one.duplicated for one in flows.stop()) == 0
    events = [line["event"] for line in kept.lines[lines:]]
    assert events.count("tripped") == events.count("inspected") == 1
    assert "switched" not in events


# --- it outlives the daemon ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_daemon_that_is_killed_and_started_again_takes_over(kept: Guarded) -> None:
    pid, trips, table = kept.prober()["pid"], kept.guard()["trips"], kept.fingerprint()
    passed = kept.counted()
    with kept.lab.flows(RATE) as flows:
        flows.start()
        more_arrives(kept, flows)
        kept.kill()
        generation = kept.generation()
        more_arrives(kept, flows, frames=500)
        assert (lives(pid), kept.stands()) == (True, True)
        kept.start()
        kept.until(lambda: kept.is_leased() and kept.prober()["alive"], "the guard as it was")
        more_arrives(kept, flows, frames=500)
        assert wrong(flows.stop()) == []
    assert kept.prober()["pid"] == pid
    assert (kept.fingerprint(), kept.generation()) == (table, generation)
    assert (kept.guard()["trips"], kept.counted()) == (trips, passed)
    assert [line["text"] for line in kept.told("guard")] == ["the guard was found as it was left"]
    assert kept.told("tripped", "switched") == []


@pytest.mark.long
def test_a_prober_that_nobody_comes_back_for_ends_and_the_guard_trips(kept: Guarded) -> None:
    kept.write(guard=LEAST_GRACE)
    kept.well()
    pid, before = kept.prober()["pid"], kept.counted()
    with kept.lab.flows(RATE) as flows:
        flows.start()
        more_arrives(kept, flows)
        kept.kill()
        kept.until(lambda: not lives(pid), "the prober's end")
        kept.until(lambda: not kept.stands(), "the trip")
        more_arrives(kept, flows)
        assert sum(one.duplicated for one in flows.stop()) == 0
    assert kept.counted() > before + 200
    kept.start()
    kept.inspects()
    assert kept.prober()["pid"] != pid


@pytest.mark.long
def test_a_prober_that_is_killed_is_replaced_within_the_lease_or_after_a_trip(kept: Guarded) -> None:
    pid = kept.prober()["pid"]
    with kept.lab.flows(RATE) as flows:
        flows.start()
        more_arrives(kept, flows)
        kept.hand(f"kill -9 {pid}")
        kept.until(lambda: kept.prober()["alive"] and kept.prober()["pid"] != pid, "another prober")
        kept.inspects()
        more_arrives(kept, flows)
        assert sum(one.duplicated for one in flows.stop()) == 0


@pytest.mark.long
def test_a_prober_that_takes_long_to_come_up_is_alone_and_waited_for(
    kept: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "prober.py"
    slow.write_text("import time; time.sleep(1.6)\n" + Path(prober.__file__).read_text())
    begin = "import os; from pathlib import Path; from reconciler.host.guard import prober_client; from reconciler.cli import main\n"
    begin += "prober_client._PROGRAM = Path(os.environ['SLOW']); main.main()\n"
    kept.end()
    kept.until(lambda: kept.cli("guard", "off").code == 0 and provers(kept) == [], "no guard")
    monkeypatch.setattr(test_live_daemon, "PROGRAM", [sys.executable, "-c", begin])
    kept.start(SLOW=str(slow))
    seen = set()

    def comes() -> bool:
        now = provers(kept)
        assert len(now) <= 1
        seen.update(now)
        return kept.is_leased()

    kept.until(comes, "the leases")
    assert len(seen) == 1
    assert kept.told("prober") == []
    pid = seen.pop()
    # Nor are there two for a moment when one is killed, or a daemon comes while one is being started.
    kept.hand(f"kill -9 {pid}")
    kept.until(lambda: bool(set(provers(kept)) - {pid}), "another prober")
    kept.kill()
    assert len(provers(kept)) == 1
    kept.start(SLOW=str(slow))
    kept.until(comes, "the leases")
    monkeypatch.undo()
    kept.kill()


@pytest.mark.long
def test_another_lease_is_put_in_place_without_a_loss(kept: Guarded) -> None:
    trips = kept.guard()["trips"]
    with kept.lab.flows(RATE) as flows:
        flows.start()
        more_arrives(kept, flows)
        kept.write(guard={"lease": "300ms", "probe": "10ms"})
        kept.reload()
        kept.until(lambda: kept.guard()["lease_ms"] == 300, "the other lease")
        more_arrives(kept, flows, frames=500)
        assert kept.is_leased()
        assert wrong(flows.stop()) == []
    assert "timeout 300ms" in kept.nft("list", "table", "netdev", f"reconciler-{kept.sku}")
    assert kept.guard()["trips"] == trips


# --- drift -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "nft flush ruleset",
        "nft delete table netdev {table}",
        "nft flush chain netdev {table} edge/port/outside",
        DELETE_RULE,
        "nft insert rule netdev {table} edge/adapter/inside counter accept",
        "nft 'chain netdev {table} edge/port/outside {{ policy drop; }}'",
        "nft 'add chain netdev {table} mine; add rule netdev {table} mine drop'",
    ],
    ids=["flush", "table", "chain", "rule", "insert", "policy", "stranger"],
)
def test_what_somebody_does_to_it_is_put_right(kept: Guarded, command: str) -> None:
    kept.nft("delete table inet theirs; add " + OTHERS if "theirs" in str(kept.names()) else "add " + OTHERS)
    table, trips, theirs = kept.fingerprint(), kept.guard()["trips"], kept.nft("-a", "list", "table", "inet", "theirs")
    with kept.lab.flows(RATE) as flows:
        flows.start()
        more_arrives(kept, flows)
        kept.hand(command.format(table=f"reconciler-{kept.sku}"))
        kept.until(lambda: kept.fingerprint() == table and kept.is_leased(), "the guard as it was")
        more_arrives(kept, flows, frames=300)
        measured = flows.stop()
    assert kept.guard()["trips"] == trips
    if "policy" not in command:
        assert wrong(measured) == []
    assert sum(one.duplicated for one in measured) == 0
    if "ruleset" not in command:
        assert kept.nft("-a", "list", "table", "inet", "theirs") == theirs


# --- adapters that come back -----------------------------------------------------------------------------------------


def index(kept: Guarded, name: str) -> int:
    return int(json.loads(kept.lab.run(["ip", "-j", "link", "show", name]).stdout)[0]["ifindex"])


@pytest.mark.long
def test_adapters_that_come_back_as_others_are_followed_and_have_to_prove_themselves(kept: Guarded) -> None:
    old = index(kept, "vnet0")
    with kept.lab.flows(RATE) as flows:
        flows.start()
        more_arrives(kept, flows)
        kept.lab.kill_vm()
        kept.passes_by()
        more_arrives(kept, flows)
        kept.lab.start_vm(bridge=False)
        kept.until(lambda: kept.where("vnet0", "vnet1") == ["sw-outside", "sw-inside"], "the adapters' switches")
        table = f"reconciler-{kept.sku}"
        kept.until(lambda: 'device "vnet0"' in kept.nft("list", "table", "netdev", table), "the guard at the adapter")
        assert index(kept, "vnet0") != old
        more_arrives(kept, flows)
        assert (kept.stands(), kept.guard()["state"]) == (False, "joined")
        said, dropped = frame("02:bb:00:00:00:09", 0x88B7, b"from the VM"), kept.counted(kind="adapter")
        with Ear(kept.lab.vm, "eth0") as vm, Ear(kept.lab.clients[0]) as client:
            vm.send(said)
            kept.until(lambda: kept.counted(kind="adapter") > dropped, "the VM's frame to be dropped")
            client.take()
            assert said not in client.frames
        kept.lab.bridge_vm()
        kept.inspects()
        more_arrives(kept, flows)
        assert sum(one.duplicated for one in flows.stop()) == 0
