"""What the canary says of VMs that pass too much, or not everything; and guards whose probes are of other kinds."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from guarded import Guarded, guarded, more_arrives, wrong
from test_live_daemon import CARRIER

from reconciler.lab.delay import Delay
from reconciler.lab.ips import FORBIDDEN, Suricata

pytestmark = [pytest.mark.netns, pytest.mark.long]

MARCH = "MUST-NOT-PASS"
NEGATIVE = {"canary": {"kind": "canary", "negative": {"payload": MARCH, "every": "100ms"}}}
ARP_PROBE = {"every": "20ms", "frame": "arp", "source": "198.18.0.1", "destination": "198.19.0.1"}
UDP_PROBE = {**ARP_PROBE, "frame": "udp", "port": 9}
BLOCKED = 'drop udp any any -> any any (msg:"Canary"; content:"%s"; sid:3000002; rev:1;)'


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("canary")) as made:
        yield made


@pytest.fixture
def kept(lasting: Guarded) -> Iterator[Guarded]:
    lasting.write()
    lasting.well()
    yield lasting
    lasting.lab.run(["nft", "flush", "ruleset"], namespace=lasting.lab.vm)


def in_the_vm(kept: Guarded, rule: str) -> None:
    """A rule of the VM's own, at what it bridges."""
    table = f"table bridge own {{ chain c {{ type filter hook forward priority 0; {rule} drop; }}; }}"
    kept.lab.run(["nft", table], namespace=kept.lab.vm)


def canary(kept: Guarded) -> tuple[str, str]:
    """What the daemon has heard of the canary last: state and reason."""
    (found,) = [one for one in kept.status()["signals"] if one["name"] == "canary"]
    return found["state"], found["reason"]


# --- what must not come through --------------------------------------------------------------------------------------


def test_a_vm_that_lets_through_what_it_must_block_has_failed(kept: Guarded) -> None:
    in_the_vm(kept, "@th,64,104 0x" + MARCH.encode().hex())
    kept.write(signals={**CARRIER, **NEGATIVE})
    kept.reload()
    kept.inspects()
    kept.until(lambda: canary(kept)[0] == "healthy", "a healthy canary")
    kept.lab.run(["nft", "flush", "ruleset"], namespace=kept.lab.vm)
    kept.passes_by()
    assert canary(kept) == ("failed", "the VM lets through what it must block (negative canary)")
    in_the_vm(kept, "@th,64,104 0x" + MARCH.encode().hex())
    kept.inspects()
    assert canary(kept)[0] == "healthy"


@pytest.mark.usefixtures("suricata_installed")
def test_suricata_is_healthy_as_long_as_its_rule_blocks(kept: Guarded, tmp_path: Path) -> None:
    payload = FORBIDDEN.decode()
    with Suricata(kept.lab, tmp_path, [BLOCKED % payload]) as suricata:
        negative = {"payload": payload, "every": "100ms"}
        kept.write(signals={**CARRIER, "canary": {"kind": "canary", "negative": negative}})
        kept.reload()
        kept.inspects()
        blocked = suricata.blocked()
        kept.until(lambda: suricata.blocked() > blocked + 3, "negative canaries to be blocked")
        assert canary(kept)[0] == "healthy"
        suricata.reload_rules([])
        kept.passes_by()
        assert canary(kept) == ("failed", "the VM lets through what it must block (negative canary)")
        kept.write()
        kept.reload()
    kept.inspects()


# --- what nobody sends ---


@pytest.mark.parametrize("silence", ["absent", "failed"])
def test_without_probes_it_is_not_healthy_and_the_file_says_what_that_is_worth(kept: Guarded, silence: str) -> None:
    kept.write(signals={**CARRIER, "canary": {"kind": "canary", "absent": {"after": silence}}})
    kept.reload()
    kept.inspects()
    kept.until(lambda: canary(kept)[0] == "healthy", "a healthy canary")
    assert kept.cli("guard", "off").code == 0
    kept.lab.blackhole_vm()
    kept.until(lambda: canary(kept) == (silence, "the guard is off: no probes are sent"), "old evidence to be none")
    assert "healthy  probes come back" not in kept.cli("status").out
    if silence == "failed":
        with kept.lab.flows(1_000) as flows:
            kept.until(lambda: kept.is_on("bypass"), "the wire past the VM")
            flows.start()
            more_arrives(kept, flows)
    else:
        assert kept.is_on("inspect")
    kept.lab.unblock_vm()
    assert kept.cli("guard", "on").code == 0
    kept.inspects()
    assert canary(kept)[0] == "healthy"


# --- what does not come through --------------------------------------------------------------------------------------


def boot(kept: Guarded, rule: str) -> None:
    """Another VM, of which nothing is known yet, with a rule of its own."""
    kept.lab.kill_vm()
    kept.passes_by()
    kept.lab.start_vm(bridge=False)
    in_the_vm(kept, rule)
    kept.lab.bridge_vm()


def test_a_vm_that_passes_arp_but_not_the_probes_is_told_apart(kept: Guarded) -> None:
    kept.end()
    kept.cli("guard", "off")
    in_the_vm(kept, "ether type 0x88b5")
    kept.start()
    kept.until(lambda: "the VM passes ARP but no probes" in canary(kept)[1], "the difference to be told")
    assert canary(kept)[0] == "absent"
    assert "give the guard another `probe`" in kept.cli("status").out
    kept.write(guard={"probe": ARP_PROBE})
    kept.reload()
    kept.inspects()


@pytest.mark.parametrize("probe", [ARP_PROBE, UDP_PROBE], ids=["arp", "udp"])
def test_other_probes_for_a_vm_that_passes_no_others(kept: Guarded, probe: dict[str, object]) -> None:
    kept.write(guard={"probe": probe})
    kept.reload()
    boot(kept, "ether type 0x88b5")
    kept.inspects()
    with kept.lab.flows(1_000) as flows:
        flows.start()
        more_arrives(kept, flows, frames=500)
        assert wrong(flows.stop()) == []
        assert kept.stands()
    trips = kept.guard()["trips"]
    kept.lab.run(["nft", "flush", "ruleset"], namespace=kept.lab.vm)
    in_the_vm(kept, "ether type " + str(probe["frame"]).replace("udp", "ip"))
    kept.passes_by()
    assert kept.guard()["trips"] == trips + 1


def test_a_change_of_the_probes_loses_nothing(kept: Guarded) -> None:
    with kept.lab.flows(1_000) as flows:
        flows.start()
        for probe in (ARP_PROBE, UDP_PROBE, {"every": "10ms"}):
            more_arrives(kept, flows)
            kept.write(guard={"probe": probe})
            kept.reload()
            more_arrives(kept, flows, frames=500)
            kept.inspects()
        measured = flows.stop()
    assert [(one.lost, one.duplicated) for one in measured] == [(0, 0), (0, 0)]


# --- a guard that acts alone, and what is said of it ------------------------------------------------------------------

# A canary without a say: nothing is decided when it fails.
HARMLESS = {**CARRIER, "canary": {"kind": "canary", "required": False}}


def told(kept: Guarded) -> tuple[int, str, str]:
    """What `status` ends with, its first line without how long it is so, and what its JSON has for the path."""
    done = kept.cli("status")
    found = json.loads(kept.cli("status", "-o", "json").out)["segments"][0]
    first = re.sub(r"( \d+ \w+){1,2} \(.*\)", "", done.out.splitlines()[0].removeprefix(f"● {kept.sku}  "))
    return done.code, first, f"{found['path']} by {found['path_by']}"


@pytest.mark.parametrize("how", ["a canary without a say", "held on inspect"])
def test_a_wire_that_the_guard_has_joined_is_told_as_bypassed_whatever_is_wanted(kept: Guarded, how: str) -> None:
    if how == "held on inspect":
        kept.ask("hold", topology="inspect", reason="a test", seconds=600)
    else:
        kept.write(signals=HARMLESS)
        kept.reload()
    kept.inspects()
    assert told(kept) == (0, "INSPECTED  as declared", "inspected by switches")
    passed = kept.counted()
    with kept.lab.flows(1_000) as flows:
        flows.start()
        more_arrives(kept, flows)
        kept.lab.blackhole_vm()
        kept.until(lambda: not kept.stands(), "the trip")
        more_arrives(kept, flows)
        assert told(kept) == (
            4,
            "NOT INSPECTED  edge: bypassed by the guard",
            "bypassed by guard",
        )
        assert kept.is_on("inspect"), "nothing was decided"
        assert kept.counted() > passed
    kept.lab.unblock_vm()
    kept.inspects()
    assert told(kept)[0] == 0


def test_a_wire_that_the_guard_has_cut_is_told_as_cut(kept: Guarded) -> None:
    kept.write(signals=HARMLESS, on_failure={"fail": "closed"})
    kept.reload()
    kept.inspects()
    kept.lab.blackhole_vm()
    kept.until(lambda: not kept.stands(), "the trip")
    assert told(kept) == (5, "CUT  edge: cut by the guard", "cut by guard")
    kept.lab.unblock_vm()
    kept.inspects()


def test_a_guard_that_is_off_is_a_difference(kept: Guarded) -> None:
    assert kept.cli("guard", "off").code == 0
    assert told(kept) == (3, "INSPECTED  the guard is off", "inspected by switches")
    assert kept.cli("hold", "bypass", "--for", "1m", "--reason", "a test").code == 0
    assert told(kept) == (4, "NOT INSPECTED  edge: bypassed; the guard is off", "bypassed by switches")
    assert kept.cli("release").code == 0
    assert kept.cli("guard", "on").code == 0
    kept.inspects()


# --- a lease that the daemon renews ----------------------------------------------------------------------------------


def test_the_daemon_renews_the_lease_on_its_verdict(kept: Guarded) -> None:
    kept.write(guard={"lease_by": "daemon", "lease": "1s"})
    kept.reload()
    kept.inspects()
    trips = kept.guard()["trips"]
    with kept.lab.flows(1_000) as flows:
        flows.start()
        # Longer than a lease.
        more_arrives(kept, flows, frames=2_500)
        assert wrong(flows.stop()) == []
    assert (kept.guard()["trips"], kept.stands()) == (trips, True)
    kept.kill()
    kept.until(lambda: not kept.stands(), "the trip, for nobody renews it")
    kept.start()
    kept.inspects()


def test_a_slow_vm_is_trusted(kept: Guarded) -> None:
    trips = kept.guard()["trips"]
    with Delay(kept.lab, 60), kept.lab.flows(1_000) as flows:
        kept.inspects()
        trips = kept.guard()["trips"]
        flows.start()
        more_arrives(kept, flows, frames=1_000)
        assert wrong(flows.stop(patience_s=1)) == []
        assert kept.guard()["trips"] == trips
