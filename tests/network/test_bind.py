"""Which live interface plays which role."""

from typing import Any

import pytest
from fake_kernel import FakeKernel
from worlds import two_ports

from reconciler.appliance.declared import Appliance
from reconciler.network.bind import bind, names_of
from reconciler.network.cycle import audit
from reconciler.network.desired import choice_of, desired


def of_match(*matches: dict[str, Any]) -> Appliance:
    return two_ports(ports={role: {"match": match} for role, match in zip(("outside", "inside"), matches, strict=True)})


def machine() -> FakeKernel:
    kernel = FakeKernel()
    for number, (name, driver) in enumerate([("eth10", "igb"), ("eth2", "igb"), ("wan", "ixgbe")]):
        nic = {"pci": f"0000:0{number}:00.0", "mac": f"02:00:00:00:00:0{number}", "driver": driver, "physical": True}
        kernel.add(name, nic={**nic, "altnames": (f"enp{number}s0",)})
    return kernel


def bound_names(of: Appliance, kernel: FakeKernel) -> list[str]:
    bound = bind(of, desired(of, choice_of(of)), kernel.observe())
    assert bound.problems == ()
    return [link.name for link in bound.desired.links if link.role and link.role.kind == "port"]


@pytest.mark.parametrize(
    ("match", "name"),
    [
        ({"pci": "0000:00:00.0"}, "eth10"),
        ({"mac": "02:00:00:00:00:00"}, "eth10"),
        ({"name": "eth10"}, "eth10"),
        ({"name": "enp0s0"}, "eth10"),
        ({"driver": "igb", "index": 0}, "eth10"),
        ({"driver": "igb", "index": 1}, "eth2"),
        ({"pci": "0000:01:00.0", "mac": "02:00:00:00:00:01", "driver": "igb", "name": "enp1s0"}, "eth2"),
    ],
)
def test_a_port_is_found_by_all_that_its_match_gives(match: dict[str, Any], name: str) -> None:
    assert bound_names(of_match(match, {"driver": "ixgbe"}), machine()) == [name, "wan"]


@pytest.mark.parametrize(
    "match",
    [
        {"pci": "0000:00:00.1"},
        {"driver": "igb", "index": 2},
        {"pci": "0000:00:00.0", "mac": "02:00:00:00:00:01"},
        {"name": "eth2", "driver": "ixgbe"},
    ],
)
def test_a_port_that_is_missing_lists_what_there_is(match: dict[str, Any]) -> None:
    of = of_match(match, {"name": "wan"})
    found = audit(machine(), of, choice_of(of))
    assert [(one.code, one.about) for one in found.problems] == [("port-missing", "port outside")]
    for words in ("eth10: pci 0000:00:00.0, mac 02:00:00:00:00:00, driver igb, no carrier", "eth2: ", "wan: "):
        assert words in found.problems[0].remedy


def test_a_missing_port_lists_all_nics_also_where_the_file_names_all_it_needs() -> None:
    of = of_match({"name": "gone0"}, {"name": "wan"})
    assert names_of(of) is not None
    found = audit(machine(), of, choice_of(of))
    assert "driver igb" in found.problems[0].remedy


def test_two_interfaces_for_one_port_are_both_left_alone() -> None:
    of = of_match({"driver": "igb"}, {"name": "wan"})
    found = audit(machine(), of, choice_of(of))
    assert [one.code for one in found.problems] == ["port-ambiguous"]
    assert "eth10, eth2" in found.problems[0].text
    assert not {"eth10", "eth2"} & {change.link.name for change in found.changes}


def test_one_interface_for_two_ports_is_left_alone() -> None:
    of = of_match({"pci": "0000:00:00.0"}, {"name": "eth10"})
    found = audit(machine(), of, choice_of(of))
    assert [(one.code, one.about) for one in found.problems] == [
        ("port-shared", "port outside"),
        ("port-shared", "port inside"),
    ]
    assert "eth10" not in {change.link.name for change in found.changes}


def test_a_management_port_that_is_missing_is_reported() -> None:
    of = two_ports(
        ports={
            "mgmt": {"match": {"name": "gone0"}, "role": "management"},
            "outside": {"match": {"name": "eth2"}},
            "inside": {"match": {"name": "wan"}},
        }
    )
    problems = audit(machine(), of, choice_of(of)).problems
    assert [(problem.code, problem.about) for problem in problems] == [("port-missing", "port mgmt")]


def test_a_port_is_pinned_to_the_address_in_its_nic() -> None:
    of = of_match({"name": "eth2"}, {"name": "wan"})
    kernel = machine()
    bound = bind(of, desired(of, choice_of(of)), kernel.observe())
    assert bound.desired.by_name["eth2"].settings["mac"] == "02:00:00:00:00:01"  # type: ignore[index]


def test_a_bridge_or_tap_is_never_a_port() -> None:
    kernel = machine()
    kernel["wan"].kind = type(kernel["wan"].kind)("tap")
    of = of_match({"name": "eth2"}, {"name": "wan"})
    assert [one.code for one in audit(kernel, of, choice_of(of)).problems] == ["port-missing"]
