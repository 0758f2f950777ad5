"""Where frames really go: what the kernel has, whatever is wanted."""

import itertools
from typing import Any

import pytest
from fake_kernel import FakeKernel
from worlds import host, two_ports

from reconciler.appliance.declared import Appliance
from reconciler.network.cycle import audit, reconcile
from reconciler.network.desired import choice_of
from reconciler.network.path import Gate, Hook, Path, PathGuard, Taken, Way, doubts_of, paths
from reconciler.network.state import Kind, Setting
from reconciler.warning import Severity, Warning

ISOLATE = {"pair": "all", "detached": ["outside", "inside"]}
MIRROR = {"switches": {"sw-m": {"ports": ["outside", "inside"], "adapters": ["outside"]}}}
TOPOLOGIES = {"inspect": {"pair": "all"}, "bypass": {"join": "all"}, "isolate": ISOLATE, "mirror": MIRROR}
MEANT = {"inspect": Path.INSPECTED, "bypass": Path.BYPASSED, "isolate": Path.CUT, "mirror": Path.BYPASSED}
PORTS = {f"p{number}": {"match": {"name": f"eth{number}"}} for number in range(5)}


def one_wire() -> Appliance:
    return two_ports(topologies=TOPOLOGIES)


def made(of: Appliance, topology: str = "inspect") -> FakeKernel:
    """A host where it stands, and the VM runs."""
    kernel = host(of)
    assert reconcile(kernel, of, choice_of(of, topology)).converged
    for adapter in of.adapters.values():
        kernel.plug(kernel[adapter.interface], True)
    return kernel


def taken(of: Appliance, kernel: FakeKernel, gate: Gate | None = None) -> Taken:
    (found,) = paths(of, kernel.observe(), {} if gate is None else {"wire": PathGuard(gate)}).values()
    return found


def said(found: Taken) -> tuple[Path, bool]:
    return found.path, found.by_guard


@pytest.mark.parametrize(("topology", "gate"), [*itertools.product(MEANT, [None, *Gate])])
def test_switches_and_guard(topology: str, gate: Gate | None) -> None:
    by_guard = {Gate.JOINED: Path.BYPASSED, Gate.CUT: Path.CUT}.get(gate) if gate else None
    expected = MEANT[topology]
    if gate is Gate.UNKNOWN and expected is Path.INSPECTED:
        expected = Path.UNKNOWN
    of = one_wire()
    assert said(taken(of, made(of, topology), gate)) == (by_guard or expected, by_guard is not None)


def test_a_host_that_was_never_set_up_carries_nothing() -> None:
    of = one_wire()
    assert taken(of, host(of)).path is Path.CUT


def dead_vm(kernel: FakeKernel) -> None:
    kernel.plug(kernel["tap1"], False)


def taken_out(kernel: FakeKernel) -> None:
    kernel.enslave(kernel["eth1"], 0)


def tap_taken_out(kernel: FakeKernel) -> None:
    kernel.enslave(kernel["tap0"], 0)


def pulled(kernel: FakeKernel) -> None:
    kernel.remove("eth1")


def down(name: str) -> Any:
    return lambda kernel: kernel.set_up(kernel[name], False)


@pytest.mark.parametrize(
    "hand", [dead_vm, taken_out, tap_taken_out, pulled, down("eth0"), down("tap0"), down("sw-inside")]
)
def test_a_way_through_the_vm_with_a_hole_in_it_is_cut(hand: Any) -> None:
    of = one_wire()
    kernel = made(of)
    hand(kernel)
    assert said(taken(of, kernel, Gate.LEASED)) == (Path.CUT, False)


@pytest.mark.parametrize("hand", [pulled, down("eth0")])
def test_a_guard_joins_no_port_that_is_not_there(hand: Any) -> None:
    of = one_wire()
    kernel = made(of)
    hand(kernel)
    assert said(taken(of, kernel, Gate.JOINED)) == (Path.CUT, False)


def test_somebody_elses_bridge_joins_as_ours_does() -> None:
    of = one_wire()
    kernel = made(of)
    kernel.add("br0", Kind.BRIDGE, up=True)
    for name in ("eth0", "eth1"):
        kernel.enslave(kernel[name], kernel["br0"].index)
    assert said(taken(of, kernel, Gate.LEASED)) == (Path.BYPASSED, False)


def many() -> Appliance:
    """Three ports are one wire, two another."""
    return two_ports(
        ports={"mgmt": {"match": {"name": "mgmt0"}, "role": "management"}, **PORTS},
        segments={"a": ["p0", "p1", "p2"], "b": ["p3", "p4"]},
        vm={"adapters": {role: {"tap": f"tap-{role}"} for role in PORTS}},
    )


def of_many(kernel: FakeKernel, **gates: Gate) -> list[Path]:
    guards = {name: PathGuard(gate) for name, gate in gates.items()}
    return [one.path for one in paths(many(), kernel.observe(), guards).values()]


def test_each_segment_goes_its_own_way() -> None:
    kernel = made(many())
    assert of_many(kernel) == [Path.INSPECTED, Path.INSPECTED]
    assert of_many(kernel, a=Gate.LEASED, b=Gate.JOINED) == [Path.INSPECTED, Path.BYPASSED]


def test_the_worst_of_a_segments_ports_counts() -> None:
    kernel = made(many())
    kernel.enslave(kernel["eth1"], kernel["sw-p0"].index)
    assert of_many(kernel) == [Path.BYPASSED, Path.INSPECTED]
    kernel.enslave(kernel["eth2"], 0)
    assert of_many(kernel) == [Path.CUT, Path.INSPECTED]


# --- each way, and what shows it ---------------------------------------------------------------------------------


def ways(of: Appliance, kernel: FakeKernel, guard: PathGuard | None = None) -> dict[str, Way]:
    (found,) = paths(of, kernel.observe(), {} if guard is None else {"wire": guard}).values()
    return {f"{way.source} → {way.target}": way for way in found.ways}


def test_each_way_has_its_evidence() -> None:
    of = one_wire()
    found = ways(of, made(of))
    assert list(found) == ["outside → inside", "inside → outside"]
    assert found["outside → inside"].evidence == "eth0 → sw-outside → tap0 → the VM → tap1 → sw-inside → eth1"
    assert found["inside → outside"].evidence == "eth1 → sw-inside → tap1 → the VM → tap0 → sw-outside → eth0"
    found = ways(of, made(of), PathGuard(Gate.JOINED))
    assert found["outside → inside"].evidence == "guard: no lease stands, and it forwards eth0 to eth1"
    found = ways(of, made(of, "bypass"))
    assert found["outside → inside"].evidence == "switch sw-bypass holds eth0 and eth1"


@pytest.mark.parametrize(
    ("hand", "said"),
    [
        (dead_vm, "adapter inside: tap1 has no carrier, so no VM is behind it"),
        (taken_out, "eth1 is in no switch"),
        (tap_taken_out, "no adapter of the VM is in sw-outside"),
        (pulled, "port inside: no interface matches name eth1"),
        (down("eth0"), "port outside: eth0 is down"),
        (down("tap0"), "adapter outside: tap0 is down"),
        (down("sw-inside"), "switch sw-inside is down"),
    ],
)
def test_a_cut_says_where(hand: Any, said: str) -> None:
    of = one_wire()
    kernel = made(of)
    hand(kernel)
    assert taken(of, kernel).evidence == said


def hooks(kernel: FakeKernel, **lead: list[str]) -> PathGuard:
    """A guard that has joined the wire, whose rules hang at these NICs, by role, and lead to others."""
    index = {name: kernel[name].index for name in ("eth0", "eth1")}
    at = {"outside": index["eth0"], "inside": index["eth1"]}
    found = {role: Hook(at[role], frozenset(index[one] for one in out)) for role, out in lead.items()}
    return PathGuard(Gate.JOINED, found)


def test_rules_that_lead_to_a_nic_that_is_gone_cut_that_way_alone() -> None:
    of = one_wire()
    kernel = made(of)
    found = ways(of, kernel, hooks(kernel, outside=[], inside=["eth0"]))
    assert [way.path for way in found.values()] == [Path.CUT, Path.BYPASSED]
    assert "its rules at eth0 do not lead to eth1" in found["outside → inside"].evidence


def test_where_no_rule_hangs_the_switches_decide_but_the_vm_is_not_let_through() -> None:
    of = one_wire()
    kernel = made(of)
    found = ways(of, kernel, hooks(kernel, inside=["eth0"]))
    assert [way.path for way in found.values()] == [Path.CUT, Path.BYPASSED]
    kernel = made(of, "bypass")
    found = ways(of, kernel, hooks(kernel, inside=["eth0"]))
    assert [(way.path, way.by_guard) for way in found.values()] == [(Path.BYPASSED, False), (Path.BYPASSED, True)]


def rename(kernel: FakeKernel, old: str, new: str) -> None:
    kernel[old].name = new


@pytest.mark.parametrize("gate", [Gate.JOINED, Gate.LEASED])
def test_a_renamed_nic_is_where_the_guards_rules_know_it(gate: Gate) -> None:
    of = one_wire()
    kernel = made(of)
    guard = hooks(kernel, outside=["eth1"], inside=["eth0"])
    rename(kernel, "eth1", "lan9")
    found = ways(of, kernel, PathGuard(gate, guard.hooks))
    assert {way.path for way in found.values()} == {Path.BYPASSED if gate is Gate.JOINED else Path.INSPECTED}
    assert "lan9" in found["outside → inside"].evidence


def test_without_a_guard_a_renamed_nic_is_a_guess() -> None:
    of = one_wire()
    kernel = made(of)
    rename(kernel, "eth1", "lan9")
    found = taken(of, kernel)
    assert (found.path, found.evidence) == (
        Path.UNKNOWN,
        "port inside: no interface matches name eth1; lan9 may be it",
    )
    kernel.plug(kernel["tap1"], False)
    assert taken(of, kernel).path is Path.CUT, "wherever it is"


@pytest.mark.parametrize("gate", [None, Gate.LEASED, Gate.JOINED])
def test_a_wire_with_one_live_end_is_cut_and_says_so(gate: Gate | None) -> None:
    of = one_wire()
    kernel = made(of)
    kernel.plug(kernel["eth1"], False)
    assert said(taken(of, kernel, gate)) == (Path.CUT, False)
    assert taken(of, kernel, gate).evidence == "port inside: eth1 has no carrier"
    (warning,) = audit(kernel, of, choice_of(of)).warnings
    assert (warning.code, warning.about) == ("port-no-carrier", "port inside")
    kernel.set_up(kernel["eth1"], False)
    found = audit(kernel, of, choice_of(of))
    assert (len(found.changes), found.warnings) == (1, ()), "a port that is down is a difference"


def test_of_three_ends_two_are_a_wire() -> None:
    of, kernel = many(), made(many())
    kernel.plug(kernel["eth2"], False)
    found = paths(of, kernel.observe(), {})["a"]
    assert found.path is Path.INSPECTED
    cut = {(way.source, way.target) for way in found.ways if way.path is Path.CUT}
    assert cut == {("p0", "p2"), ("p1", "p2"), ("p2", "p0"), ("p2", "p1")}
    kernel.plug(kernel["eth1"], False)
    assert paths(of, kernel.observe(), {})["a"].path is Path.CUT


def test_a_switch_that_does_not_forward_for_a_member_cuts() -> None:
    of = one_wire()
    kernel = made(of)
    kernel["eth1"].settings[Setting.STATE] = "blocking"
    assert taken(of, kernel).evidence == "switch sw-inside does not forward for eth1 (blocking)"
    kernel = made(of, "bypass")
    for name in ("eth0", "eth1"):
        kernel[name].settings[Setting.ISOLATED] = True
    assert taken(of, kernel).path is Path.CUT


def test_what_a_master_that_is_no_switch_does_is_not_known() -> None:
    of = one_wire()
    kernel = made(of)
    kernel.add("ovs-system", up=True).can_enslave = True
    for name in ("eth0", "eth1"):
        kernel.enslave(kernel[name], kernel["ovs-system"].index)
    assert taken(of, kernel).path is Path.UNKNOWN


@pytest.mark.parametrize(
    ("about", "expected"),
    [("port p0", ["a"]), ("adapter p3", ["b"]), ("switch sw-p1", ["a"]), ("", ["a", "b"]), ("interface x", ["a", "b"])],
)
def test_what_says_that_it_drops_frames_leaves_a_doubt(about: str, expected: list[str]) -> None:
    of, kernel = many(), made(many())
    found = [
        Warning("rules", Severity.ERROR, about, "drop frames"),
        Warning("rules", Severity.WARNING, "", "may drop frames"),
        Warning("not-forwarding", Severity.ERROR, "port p0", "which the path itself sees"),
    ]
    doubts = doubts_of(of, found)
    assert doubts == dict.fromkeys(expected, "drop frames")
    unknown = [name for name, one in paths(of, kernel.observe(), {}, doubts).items() if one.path is Path.UNKNOWN]
    assert unknown == expected


def test_what_crosses_a_vm_that_nobody_can_vouch_for_is_unknown() -> None:
    of = one_wire()
    kernel = made(of)
    (found,) = paths(of, kernel.observe(), {}, {"wire": "the VM has failed"}).values()
    assert found.path is Path.UNKNOWN
    assert found.evidence.endswith("; the VM has failed")
    kernel.plug(kernel["tap1"], False)
    (found,) = paths(of, kernel.observe(), {}, {"wire": "the VM has failed"}).values()
    assert found.path is Path.CUT
