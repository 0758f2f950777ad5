"""The guard's rules: whose ports and adapters they name, which ring they make, and the text itself, file by file."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_kernel import FakeKernel
from hypothesis import given
from hypothesis import strategies as st
from kernels import ip
from rules import nft
from worlds import appliance, host, two_ports

from reconciler.appliance.declared import Appliance
from reconciler.appliance.load import load
from reconciler.guard.rules import (
    NEGATIVE,
    Contents,
    Guarded,
    Place,
    Stance,
    bind_guard,
    comment_of,
    counters,
    directions,
    mark_of,
    removal,
    replacement,
    ruleset,
    stance,
    table_of,
    token_from,
)
from reconciler.host.guard import nftables
from reconciler.host.guard.netfilter import Netfilter
from reconciler.lab.namespaces import Namespace
from reconciler.network.cycle import audit
from reconciler.network.desired import choice_of
from reconciler.network.state import Kind, Role, mark, pinned_mac

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "nft"
SECRET = bytes(range(16))
TOKEN = bytes.fromhex("06a1a2a3a4a5")


def many(count: int = 2, sku: str = "many", **more: Any) -> Appliance:
    """`count` ports on one wire, by names, with the hypervisor's own adapters."""
    roles = [f"p{number}" for number in range(count)]
    document: dict[str, Any] = {
        "schema": "reconciler/v1",
        "appliance": {"sku": sku},
        "ports": {role: {"match": {"name": f"eth{number}"}} for number, role in enumerate(roles)},
        "vm": {"adapters": {role: {"interface": f"vif{number}"} for number, role in enumerate(roles)}},
        "topologies": {"inspect": {"pair": "all"}, "bypass": {"join": "all"}},
        "guard": {},
    }
    return appliance(**{**document, **more})


def machine(of: Appliance) -> FakeKernel:
    """What the file asks for is there, its taps included."""
    kernel = FakeKernel()
    for number, port in enumerate(of.ports.values()):
        match = port.match
        nic = {
            "pci": match.pci or f"0000:7f:00.{number}",
            "mac": match.mac or f"02:00:00:00:aa:{number:02x}",
            "driver": match.driver or "igb",
            "physical": True,
        }
        kernel.add(match.name or f"nic{number}", nic=nic)
    for role, adapter in of.adapters.items():
        if adapter.ours:
            kernel.add(adapter.interface, Kind.TAP, mark=mark(of.sku, Role("adapter", role)))
        else:
            kernel.add(adapter.interface)
    return kernel


def bound(of: Appliance, kernel: FakeKernel | None = None, topology: str = "inspect") -> tuple[Guarded, ...]:
    found = audit(kernel or machine(of), of, choice_of(of, topology))
    return bind_guard(of, found.desired, found.actual)


def text(of: Appliance, kernel: FakeKernel | None = None, **more: Any) -> str:
    return ruleset(of.sku, bound(of, kernel), SECRET, more.get("contents", {})).text


# --- what the guard is to a segment ----------------------------------------------------------------------------------

MORE = {"inspect": {"pair": "all"}, "bypass": {"join": "all"}}
MIRROR = {"switches": {"sw-m": {"ports": ["outside", "inside"], "adapters": ["outside"]}}}


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        ("open", {"inspect": "armed", "bypass": "tripped", "mirror": "aside"}),
        ("closed", {"inspect": "armed", "bypass": "aside", "isolate": "tripped", "mirror": "aside"}),
    ],
)
def test_the_stance_follows_the_topology(fail: str, expected: dict[str, str]) -> None:
    of = two_ports(guard={}, on_failure={"fail": fail}, topologies={**MORE, "mirror": MIRROR})
    assert {name: str(stance(of, "wire", name)) for name in of.topologies} == expected
    assert {str(one) for one in Stance} == {"armed", "tripped", "aside"}


# --- the ring --------------------------------------------------------------------------------------------------------


def test_two_adapters_make_both_directions() -> None:
    ring = directions("edge", ("outside", "inside"))
    assert [one.name for one in ring] == ["outside → inside", "inside → outside"]
    assert [one.lease for one in ring] == ["edge/lease/inside", "edge/lease/outside"]


@given(st.integers(2, 64))
def test_in_a_ring_each_speaks_once_and_hears_once(count: int) -> None:
    roles = tuple(f"p{number}" for number in range(count))
    ring = directions("w", roles)
    assert [one.number for one in ring] == list(range(count))
    assert [one.source for one in ring] == list(roles)
    assert sorted(one.target for one in ring) == sorted(roles)
    assert len({one.lease for one in ring}) == count
    at, seen = roles[0], []
    for _ in ring:
        seen.append(at)
        at = next(one.target for one in ring if one.source == at)
    assert (at, sorted(seen)) == (roles[0], sorted(roles)), "one ring, and not several"
    assert all(one.number + NEGATIVE < 256 for one in ring)


@given(st.binary(min_size=6, max_size=64), st.text(min_size=1, max_size=20))
def test_marks_and_tokens_are_addresses_of_nobody(random: bytes, segment: str) -> None:
    for made, size in ((mark_of(random, segment), 5), (token_from(random[:6]), 6)):
        assert len(made) == size
        assert made[0] & 3 == 2, "locally administered, and no group's"


def test_each_segment_and_secret_has_a_mark_of_its_own() -> None:
    assert len({mark_of(secret, name) for secret in (SECRET, SECRET[1:]) for name in ("lan", "wan")}) == 4


# --- on the live host ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["inspect", "bypass"])
def test_places_are_found_whatever_the_topology_is(topology: str) -> None:
    of = many()
    (one,) = bound(of, topology=topology)
    assert one.name == "wire"
    assert one.ports == (Place("p0", "eth0", 1), Place("p1", "eth1", 2))
    assert one.adapters == (Place("p0", "vif0", 3), Place("p1", "vif1", 4))


def test_a_port_is_found_by_whatever_the_file_knows_it_by() -> None:
    ports = {"p0": {"match": {"pci": "0000:02:00.0"}}, "p1": {"match": {"driver": "ixgbe", "index": 0}}}
    kernel = machine(many())
    kernel["eth0"].nic["pci"] = "0000:02:00.0"
    kernel["eth1"].nic["driver"] = "ixgbe"
    kernel.rename("eth0", "lan7")
    (one,) = bound(many(ports=ports), kernel)
    assert one.ports == (Place("p0", "lan7", 1), Place("p1", "eth1", 2))


def test_adapters_stand_as_the_ports_that_they_inspect() -> None:
    """Whatever the order of the file's other sections."""
    switches = {"sw1": {"ports": ["p1"], "adapters": ["left"]}, "sw0": {"ports": ["p0"], "adapters": ["right"]}}
    of = many(
        vm={"adapters": {"left": {"interface": "vif0"}, "right": {"interface": "vif1"}}},
        topologies={"inspect": {"switches": switches}, "bypass": {"join": "all"}},
    )
    (one,) = bound(of)
    assert [place.role for place in one.adapters] == ["right", "left"]
    assert [way.name for way in one.directions] == ["right → left", "left → right"]


def test_what_is_not_there_has_no_index() -> None:
    kernel = machine(many())
    kernel.remove("eth1")
    kernel.remove("vif0")
    (one,) = bound(many(), kernel)
    assert one.ports == (Place("p0", "eth0", 1), Place("p1"))
    assert one.adapters == (Place("p0"), Place("p1", "vif1", 4))


def test_only_segments_with_a_guard() -> None:
    segments = {"lan": {"ports": ["p0", "p1"], "guard": "off"}, "wan": ["p2", "p3"]}
    (one,) = bound(many(4, segments=segments))
    assert (one.name, [place.role for place in one.ports]) == ("wan", ["p2", "p3"])
    assert bound(two_ports()) == ()


def test_the_hosts_own_addresses_are_those_of_all_that_is_of_this_wire() -> None:
    of = many(4, segments={"lan": ["p0", "p1"], "wan": ["p2", "p3"]})
    lan, wan = bound(of)
    assert not lan.own & wan.own
    kernel = machine(of)
    assert {str(kernel[name].settings["mac"]) for name in ("eth0", "eth1", "vif0", "vif1")} < lan.own
    switches = {one.name for topology in of.topologies.values() for one in topology.switches if one.segment == "lan"}
    assert {pinned_mac(of.sku, Role("switch", name)) for name in switches} < lan.own
    assert len(lan.own) == 4 + len(switches)


# --- the rules -------------------------------------------------------------------------------------------------------


def chain(told: str, name: str) -> list[str]:
    """A chain's lines."""
    found = re.search(rf"^\tchain {re.escape(name)} \{{\n((?:\t\t.*\n)*)\t\}}$", told, re.MULTILINE)
    assert found, name
    return [line.strip() for line in found[1].splitlines()]


def test_the_table_bears_our_mark_and_comes_in_place_of_what_is_there() -> None:
    told = text(many(sku="x.1+2"))
    assert table_of("x.1+2") == "reconciler-x.1/2"
    assert told.startswith(removal("reconciler-x.1/2") + "table netdev reconciler-x.1/2 {\n")
    assert f'comment "{comment_of("x.1+2")}"' in told
    assert '"reconciler:x.1+2:guard"' in told


def test_a_port_forwards_straight_out_of_its_peer_unless_all_leases_stand() -> None:
    *_, leases, aside, act = chain(text(many()), "wire/port/p0")
    assert leases == "meta iiftype @wire/lease/p1 meta iiftype @wire/lease/p0 accept"
    assert aside == "meta iiftype @wire/aside accept"
    assert act == 'counter name "wire/port/p0" fwd to "eth1"'


@pytest.mark.parametrize(
    ("count", "acts"),
    [
        (3, ['dup to "eth1" fwd to "eth2"', 'dup to "eth0" fwd to "eth2"', 'dup to "eth0" fwd to "eth1"']),
        (4, ['dup to "eth1" dup to "eth2" fwd to "eth3"', None, None, 'dup to "eth0" dup to "eth1" fwd to "eth2"']),
    ],
)
def test_more_than_two_are_flooded(count: int, acts: list[str | None]) -> None:
    told = text(many(count))
    for number, act in enumerate(acts):
        assert act is None or chain(told, f"wire/port/p{number}")[-1] == f'counter name "wire/port/p{number}" {act}'
        assert chain(told, f"wire/adapter/p{number}")[4].count("@wire/lease/") == count


def test_fail_closed_drops() -> None:
    told = text(many(on_failure={"fail": "closed"}))
    assert chain(told, "wire/port/p0")[-1] == 'counter name "wire/port/p0" drop'
    assert "fwd to" not in told


def test_without_a_peer_nothing_is_left_to_forward_to() -> None:
    kernel = machine(many())
    kernel.remove("eth1")
    told = text(many(), kernel)
    assert chain(told, "wire/port/p0")[-1] == 'counter name "wire/port/p0" drop'
    assert "chain wire/port/p1" not in told
    kernel = machine(many(3))
    kernel.remove("eth1")
    assert chain(text(many(3), kernel), "wire/port/p0")[-1] == 'counter name "wire/port/p0" fwd to "eth2"'


def test_a_probe_renews_its_lease_where_all_stand_and_is_seen_by_nobody() -> None:
    told, leases = text(many()), "meta iiftype @wire/lease/p1 meta iiftype @wire/lease/p0"
    renew = "update @wire/lease/p1 { meta iiftype timeout 200ms } update @wire/renewed/p1 { meta iiftype timeout 30d }"
    assert chain(told, "wire/probe/p1") == [
        f"ether daddr @wire/granted {leases} {renew}",
        "drop",
    ]
    ours = mark_of(SECRET, "wire").hex(":")
    hook, here, elsewhere, *_, last = chain(told, "wire/adapter/p1")
    assert hook == 'type filter hook ingress device "vif1" priority -500; policy accept;'
    assert here == f"ether saddr {ours}:00 goto wire/probe/p1"
    assert elsewhere == "ether saddr @marks drop"
    marks = ", ".join(f"{ours}:{number}" for number in ("00", "01", "80", "81"))
    assert f"set marks {{ typeof ether saddr; elements = {{ {marks} }}; }}" in told
    assert last == 'counter name "wire/adapter/p1" drop'


def test_probes_of_another_segment_renew_nothing() -> None:
    of = many(4, segments={"lan": ["p0", "p1"], "wan": ["p2", "p3"]})
    told = text(of)
    for name, roles in {"lan": ("p0", "p1"), "wan": ("p2", "p3")}.items():
        for role in roles:
            here, elsewhere = chain(told, f"{name}/adapter/{role}")[1:3]
            assert here.endswith(f" goto {name}/probe/{role}")
            assert elsewhere == "ether saddr @marks drop"
    (marks,) = (line for line in told.splitlines() if "set marks" in line)
    assert marks.count(",") == 7, "four directions, and as many that must not come through"


def test_a_lease_by_the_daemon_is_renewed_by_no_probe() -> None:
    told = text(many(guard={"lease": "1s", "lease_by": "daemon"}))
    assert chain(told, "wire/probe/p0") == chain(told, "wire/probe/p1") == ["drop"]
    assert "update" not in told


def test_every_counter_is_there_and_begins_at_zero() -> None:
    (one,) = bound(many())
    kinds = ("port", "adapter", "seen", "entered", "emitted")
    assert list(counters([one])) == [f"wire/{kind}/{role}" for kind in kinds for role in ("p0", "p1")]
    for name in counters([one]):
        assert f"counter {name} {{ packets 0 bytes 0 }}" in text(many())


@pytest.mark.parametrize(
    ("contents", "granted", "leases", "aside"),
    [
        (Contents(), "", "", ""),
        (Contents(TOKEN, held=True), "06:a1:a2:a3:a4:a5", "ether timeout 200ms", ""),
        (Contents(TOKEN), "06:a1:a2:a3:a4:a5", "", ""),
        (Contents(aside_ms=0), "", "", "ether"),
        (Contents(aside_ms=2_000), "", "", "ether timeout 2000ms"),
    ],
    ids=str,
)
def test_what_it_shall_hold_is_in_it_from_the_first_moment(
    contents: Contents, granted: str, leases: str, aside: str
) -> None:
    told = text(many(), contents={"wire": contents})
    expected = {"granted": granted, "lease/p0": leases, "lease/p1": leases, "drain": "", "aside": aside}
    for name, elements in expected.items():
        (line,) = (line for line in told.splitlines() if line.startswith(f"\tset wire/{name} "))
        assert ("elements" in line) is bool(elements)
        assert not elements or f"elements = {{ {elements} }};" in line


# --- the digest ------------------------------------------------------------------------------------------------------


def digest(of: Appliance, kernel: FakeKernel | None = None, secret: bytes = SECRET, **more: Any) -> str:
    return ruleset(of.sku, bound(of, kernel), secret, more.get("contents", {})).digest


def test_the_digest_is_of_the_rules_and_not_of_what_the_table_holds() -> None:
    of = many()
    assert digest(of) == digest(of, contents={"wire": Contents(TOKEN, held=True)})
    assert digest(of) == digest(of, counted={"wire/port/p0": (1, 2)})
    assert digest(of) == digest(many(guard={"drain": "1s", "grace": "1m", "latch": False, "probe": "10ms"}))


def test_it_changes_with_whatever_the_rules_say() -> None:
    again = machine(many())
    again.remove("vif1")
    again.add("vif1", mac=machine(many())["vif1"].settings["mac"])  # type: ignore[arg-type]
    renamed = machine(many())
    renamed.rename("vif1", "vif9")
    missing = machine(many())
    missing.remove("eth1")
    other_mac = machine(many())
    other_mac.add("spare")
    other_mac["eth0"].settings["mac"] = "02:99:99:99:99:99"  # type: ignore[index]
    found = [
        digest(many()),
        digest(many(sku="other")),
        digest(many(3)),
        digest(many(guard={"lease": "400ms"})),
        digest(many(guard={"lease": "1s", "lease_by": "daemon"})),
        digest(many(on_failure={"fail": "closed"})),
        digest(many(), secret=SECRET[1:]),
        digest(many(), again),
        digest(many(), renamed),
        digest(many(), missing),
        digest(many(), other_mac),
        digest(many(segments={"edge": ["p0", "p1"]})),
    ]
    assert len(set(found)) == len(found)


# --- the texts -------------------------------------------------------------------------------------------------------


def without(kernel: FakeKernel, name: str) -> FakeKernel:
    kernel.remove(name)
    return kernel


CLOSED = {"on_failure": {"fail": "closed"}}
MADE: dict[str, tuple[Appliance, FakeKernel | None]] = {
    "fail-closed": (many(**CLOSED), None),
    "three-ports": (many(3), None),
    "four-ports-closed": (many(4, **CLOSED), None),
    "by-daemon": (many(guard={"lease": "1s", "lease_by": "daemon"}), None),
    "peer-missing": (many(), without(machine(many()), "eth1")),
    "adapter-missing": (many(), without(machine(many()), "vif1")),
    "plus-in-the-sku": (many(sku="x.1+2"), None),
    "one-segment-without": (
        many(4, segments={"lan": {"ports": ["p0", "p1"], "guard": "off"}, "wan": ["p2", "p3"]}),
        None,
    ),
}
FILES = {path.stem: path for path in sorted(ROOT.glob("topologies/*.yaml"))}
CASES = [*FILES, *MADE]


def made(case: str) -> tuple[Appliance, FakeKernel]:
    if case in FILES:
        of = load(FILES[case].read_bytes(), case)
        return of, machine(of)
    of, kernel = MADE[case]
    return of, kernel or machine(of)


@pytest.mark.parametrize("case", CASES)
def test_the_rules_are_what_is_expected(case: str, request: pytest.FixtureRequest) -> None:
    told = text(*made(case))
    golden = GOLDEN / f"{case}.nft"
    if request.config.getoption("update_golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(told, encoding="utf-8")
    assert told == golden.read_text(encoding="utf-8")


def test_no_text_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.nft")} == set(CASES)


@pytest.fixture
def here(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """The thread is in a namespace of its own."""
    request.getfixturevalue("lab_root")
    if shutil.which("nft") is None:
        if os.environ.get("CI"):
            pytest.fail("tests of the guard must run in CI, and nftables is missing: make .system-packages")
        pytest.skip("nftables is missing: apt-get install nftables")
    with Namespace("rules", ipv6=False) as own, own.entered():
        yield own


@pytest.mark.netns
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_takes_them(case: str) -> None:
    """All at once, and again in place of themselves; with and without something in them."""
    of, kernel = made(case)
    for number, device in enumerate(kernel.devices.values()):
        ip("link", "add", device.name, "type", "veth", "peer", "name", f"end{number}")
    segments = bound(of, kernel)
    nftables.run((GOLDEN / f"{case}.nft").read_text(encoding="utf-8"))
    with Netfilter() as netfilter:
        empty = netfilter.fingerprint(table_of(of.sku))
        assert empty is not None
        assert {name: one.comment for name, one in netfilter.tables().items()} == {table_of(of.sku): comment_of(of.sku)}
        held = {one.name: Contents(TOKEN, held=True, aside_ms=1_000) for one in segments}
        nftables.run(ruleset(of.sku, segments, SECRET, held).text)
        assert netfilter.fingerprint(table_of(of.sku)) == empty
        assert netfilter.counters(table_of(of.sku)) == dict.fromkeys(counters(segments), (0, 0))
        for one in segments:
            (granted,) = netfilter.elements(table_of(of.sku), f"{one.name}/granted")
            assert granted.key == TOKEN
        nftables.run(removal(table_of(of.sku)) * 2)
        assert netfilter.tables() == {}


def test_a_host_without_anything_of_it_still_has_a_table() -> None:
    of = two_ports(guard={})
    kernel = host(of)
    for name in ("eth0", "eth1"):
        kernel.remove(name)
    told = text(of, kernel)
    assert "hook ingress" not in told
    assert "set wire/granted" in told


def test_the_table_grows_with_its_ports_and_no_faster() -> None:
    sizes = [len(text(many(count, segments=pairs(count)))) for count in (8, 16, 32)]
    assert sizes[2] - sizes[1] < 2.2 * (sizes[1] - sizes[0])


def some_counted(text: str) -> str:
    return text.replace("counter s0/port/p0 { packets 0 bytes 0 }", "counter s0/port/p0 { packets 3 bytes 180 }")


def pairs(count: int) -> dict[str, list[str]]:
    return {f"s{number}": [f"p{number}", f"p{number + 1}"] for number in range(0, count, 2)}


@pytest.mark.netns
@pytest.mark.usefixtures("here")
def test_other_interfaces_take_the_places_of_those_that_went_and_what_the_table_holds_stays() -> None:
    of = many(4, segments=pairs(4))
    kernel = machine(of)
    for number, device in enumerate(kernel.devices.values()):
        ip("link", "add", device.name, "type", "veth", "peer", "name", f"end{number}")
    before = bound(of, kernel)
    contents = {one.name: Contents(token_from(b"123456"), aside_ms=0) for one in before}
    nftables.run(some_counted(ruleset(of.sku, before, SECRET, contents).text))
    kernel.remove("vif0")
    kernel.add("vif0", up=True)
    after = bound(of, kernel)
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert [one.name for one, _ in changed] == ["s0"]
    ip("link", "delete", "vif0")
    ip("link", "add", "vif0", "type", "veth", "peer", "name", "another")
    with Netfilter() as netfilter:
        (handle,) = (table.handle for table in netfilter.tables().values())
        nftables.run(replacement(of.sku, changed, SECRET))
        name = table_of(of.sku)
        put = sorted(nft("list", "table", "netdev", name).splitlines())
        assert [table.handle for table in netfilter.tables().values()] == [handle]
        assert netfilter.counters(name)["s0/port/p0"] == (3, 180)
        assert netfilter.elements(name, "s0/granted")
        assert netfilter.elements(name, "s2/aside")
        nftables.run(some_counted(ruleset(of.sku, after, SECRET, contents).text))
        assert sorted(nft("list", "table", "netdev", name).splitlines()) == put
