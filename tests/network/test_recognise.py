"""Which topology a live network is in: what the ports say, and nobody's memory."""

import pytest
from fake_kernel import FakeKernel
from worlds import host, two_ports

from reconciler.appliance.declared import Appliance
from reconciler.network.cycle import audit, reconcile
from reconciler.network.desired import choice_of
from reconciler.network.recognise import recognise

PORTS = {f"p{number}": {"match": {"name": f"eth{number}"}} for number in range(4)}
ISOLATE = {"pair": "all", "detached": ["outside", "inside"]}


def two_wires() -> Appliance:
    return two_ports(
        ports={"mgmt": {"match": {"name": "mgmt0"}, "role": "management"}, **PORTS},
        segments={"a": ["p0", "p1"], "b": ["p2", "p3"]},
        vm={"adapters": {role: {"tap": f"tap-{role}"} for role in PORTS}},
    )


def on(of: Appliance, choice: dict[str, str]) -> FakeKernel:
    kernel = host(of)
    assert reconcile(kernel, of, choice).converged
    return kernel


def seen(of: Appliance, kernel: FakeKernel) -> dict[str, str | None]:
    found = audit(kernel, of, choice_of(of))
    return dict(recognise(of, found.bound, found.actual))


@pytest.mark.parametrize("topology", ["inspect", "bypass"])
def test_the_topology_that_was_made_is_the_one_that_is_found(topology: str) -> None:
    of = two_ports()
    assert seen(of, on(of, choice_of(of, topology))) == {"wire": topology}


def test_a_host_that_was_never_set_up_is_in_none() -> None:
    of = two_ports()
    assert seen(of, host(of)) == {"wire": None}


def test_also_not_in_one_that_would_hold_no_port() -> None:
    of = two_ports(on_failure={"fail": "closed"}, topologies={**_declared(), "isolate": ISOLATE})
    assert seen(of, host(of)) == {"wire": None}


def _declared() -> dict[str, object]:
    return {"inspect": {"pair": "all"}, "bypass": {"join": "all"}}


def test_each_segment_is_in_its_own() -> None:
    of = two_wires()
    assert seen(of, on(of, {"a": "inspect", "b": "bypass"})) == {"a": "inspect", "b": "bypass"}


def test_half_a_move_is_none_and_the_other_segment_is_not_concerned() -> None:
    of = two_wires()
    kernel = on(of, {"a": "inspect", "b": "bypass"})
    kernel.enslave(kernel["eth0"], kernel["sw-bypass-a"].index)
    assert seen(of, kernel) == {"a": None, "b": "bypass"}


def test_a_port_that_is_missing_makes_it_none() -> None:
    of = two_ports()
    kernel = on(of, choice_of(of))
    kernel.remove("eth1")
    assert seen(of, kernel) == {"wire": None}


def test_what_else_differs_does_not_matter_only_where_the_ports_are() -> None:
    of = two_ports()
    kernel = on(of, choice_of(of))
    kernel.set_up(kernel["eth0"], False)
    kernel.enslave(kernel["tap0"], 0)
    assert seen(of, kernel) == {"wire": "inspect"}


def test_a_fail_closed_appliance_that_was_isolated_is_found_isolated() -> None:
    """Its ports are nowhere, as in a network that nobody has set up; but our switches stand there."""
    for topologies in (_declared(), {**_declared(), "isolate": ISOLATE}):
        of = two_ports(on_failure={"fail": "closed"}, topologies=topologies)
        assert seen(of, on(of, choice_of(of, "isolate"))) == {"wire": "isolate"}


def test_where_nobody_goes_to_isolate_by_itself_loose_ports_are_in_none() -> None:
    of = two_ports(topologies={**_declared(), "isolate": ISOLATE})
    kernel = on(of, choice_of(of))
    for name in ("eth0", "eth1"):
        kernel.enslave(kernel[name], 0)
    assert seen(of, kernel) == {"wire": None}


def test_of_two_that_look_the_same_the_first_of_the_file() -> None:
    same = {"switches": {"sw-same": {"ports": ["outside", "inside"]}}}
    of = two_ports(topologies={**_declared(), "first": same, "second": same})
    assert seen(of, on(of, choice_of(of, "second"))) == {"wire": "first"}
