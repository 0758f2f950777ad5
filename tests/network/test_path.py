"""Where frames really go: what the kernel has, whatever is wanted."""

import itertools
from typing import Any

import pytest
from fake_kernel import FakeKernel
from worlds import host, two_ports

from reconciler.appliance.declared import Appliance
from reconciler.network.cycle import reconcile
from reconciler.network.desired import choice_of
from reconciler.network.path import Gate, Path, Taken, paths
from reconciler.network.state import Kind

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
    (found,) = paths(of, kernel.observe(), {} if gate is None else {"wire": gate}).values()
    return found


@pytest.mark.parametrize(("topology", "gate"), [*itertools.product(MEANT, [None, *Gate])])
def test_switches_and_guard(topology: str, gate: Gate | None) -> None:
    by_guard = {Gate.JOINED: Path.BYPASSED, Gate.CUT: Path.CUT}.get(gate) if gate else None
    expected = MEANT[topology]
    if gate is Gate.UNKNOWN and expected is Path.INSPECTED:
        expected = Path.UNKNOWN
    of = one_wire()
    assert taken(of, made(of, topology), gate) == Taken(by_guard or expected, by_guard=by_guard is not None)


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
    assert taken(of, kernel, Gate.LEASED) == Taken(Path.CUT)


@pytest.mark.parametrize("hand", [pulled, down("eth0")])
def test_a_guard_joins_no_port_that_is_not_there(hand: Any) -> None:
    of = one_wire()
    kernel = made(of)
    hand(kernel)
    assert taken(of, kernel, Gate.JOINED) == Taken(Path.CUT)


def test_somebody_elses_bridge_joins_as_ours_does() -> None:
    of = one_wire()
    kernel = made(of)
    kernel.add("br0", Kind.BRIDGE, up=True)
    for name in ("eth0", "eth1"):
        kernel.enslave(kernel[name], kernel["br0"].index)
    assert taken(of, kernel, Gate.LEASED) == Taken(Path.BYPASSED)


def many() -> Appliance:
    """Three ports are one wire, two another."""
    return two_ports(
        ports={"mgmt": {"match": {"name": "mgmt0"}, "role": "management"}, **PORTS},
        segments={"a": ["p0", "p1", "p2"], "b": ["p3", "p4"]},
        vm={"adapters": {role: {"tap": f"tap-{role}"} for role in PORTS}},
    )


def of_many(kernel: FakeKernel, **gates: Gate) -> list[Path]:
    return [one.path for one in paths(many(), kernel.observe(), gates).values()]


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
