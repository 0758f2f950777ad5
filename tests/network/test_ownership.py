"""Who may touch what: every refusal with its code, and everything that `take_over` allows."""

from collections.abc import Callable
from typing import Any

import pytest
from fake_kernel import FakeKernel
from worlds import host, two_ports

from reconciler.appliance.declared import Appliance
from reconciler.network.cycle import TurnReport, reconcile
from reconciler.network.desired import choice_of
from reconciler.network.state import Kind, Role, Setting, mark, pinned_mac
from reconciler.warning import Warning


def ports(**outside: Any) -> dict[str, Any]:
    return {
        "mgmt": {"match": {"name": "mgmt0"}, "role": "management"},
        "outside": {"match": {"name": "eth0"}, **outside},
        "inside": {"match": {"name": "eth1"}},
    }


def vm(**outside: Any) -> dict[str, Any]:
    return {"adapters": {"outside": {"interface": "vif0", **outside}, "inside": {"tap": "tap1"}}}


def turn(of: Appliance, kernel: FakeKernel, topology: str = "inspect") -> TurnReport:
    return reconcile(kernel, of, choice_of(of, topology))


def interface(problem: Warning) -> str:
    """The one that it names first, if any."""
    return [*problem.text.split("`"), ""][1]


def codes(report: TurnReport) -> list[tuple[str, str, str]]:
    """Code, role and interface of each problem."""
    return [(one.code, one.about, interface(one)) for one in report.after.problems]


def test_a_foreign_bridge_with_the_name_of_a_switch_is_refused_and_nothing_enters_it() -> None:
    of, kernel = two_ports(), host(two_ports())
    kernel.add("sw-outside", Kind.BRIDGE)
    before = kernel.observe().by_name["sw-outside"]
    report = turn(of, kernel)
    assert codes(report) == [("foreign", "switch sw-outside", "sw-outside")]
    assert "was not made by us" in report.after.problems[0].text
    after = kernel.observe()
    assert after.by_name["sw-outside"] == before
    assert after.by_name["eth0"].switch is None
    assert after.by_name["tap0"].switch is None
    # The other port is none the worse for it.
    assert after.by_name["eth1"].switch == "sw-inside"
    assert report.after.changes == ()


def test_a_foreign_tap_with_the_name_of_an_adapter_is_refused() -> None:
    of, kernel = two_ports(), host(two_ports())
    kernel.add("tap0", Kind.TAP)
    before = kernel.observe().by_name["tap0"]
    report = turn(of, kernel)
    assert codes(report) == [("foreign", "adapter outside", "tap0")]
    assert "declare it as `interface`" in report.after.problems[0].remedy
    assert kernel.observe().by_name["tap0"] == before
    assert kernel.observe().by_name["eth0"].switch == "sw-outside"


@pytest.mark.parametrize(("kind", "name"), [(Kind.BRIDGE, "sw-outside"), (Kind.TAP, "tap0")])
def test_what_bears_the_mark_of_another_appliance_is_refused_by_its_name(kind: Kind, name: str) -> None:
    of, kernel = two_ports(), host(two_ports())
    kernel.add(name, kind, mark=mark("another", Role("switch", name)))
    before = kernel.observe().by_name[name]
    report = turn(of, kernel)
    assert [one.code for one in report.after.problems] == ["foreign"]
    assert "belongs to the appliance `another`" in report.after.problems[0].text
    assert kernel.observe().by_name[name] == before


@pytest.mark.parametrize(
    ("name", "kind"), [("sw-outside", Kind.TAP), ("sw-outside", Kind.OTHER), ("tap0", Kind.BRIDGE)]
)
def test_a_name_that_another_kind_of_interface_has_is_refused_even_with_our_mark(name: str, kind: Kind) -> None:
    of, kernel = two_ports(), host(two_ports())
    kernel.add(name, kind, mark=mark("two", Role("switch", name)))
    report = turn(of, kernel)
    assert [one.code for one in report.after.problems] == ["name-taken"]
    assert kernel.observe().by_name[name].kind is kind
    assert report.after.changes == ()


def _bridge(kernel: FakeKernel) -> None:
    kernel.enslave(kernel["eth0"], kernel["docker0"].index)


def _bond(kernel: FakeKernel) -> None:
    kernel.add("bond0").can_enslave = True
    kernel.enslave(kernel["eth0"], kernel["bond0"].index)


def _route(kernel: FakeKernel) -> None:
    kernel.default_route.add("eth0")


def _route_by_vlan(kernel: FakeKernel) -> None:
    kernel.add("eth0.7", nic={"lower": (kernel["eth0"].index,)})
    kernel.default_route.add("eth0.7")


def _route_by_bond(kernel: FakeKernel) -> None:
    _bond(kernel)
    kernel.default_route.add("bond0")


def _route_by_bridge(kernel: FakeKernel) -> None:
    _bridge(kernel)
    kernel.default_route.add("docker0")


def _route_by_all_of_them(kernel: FakeKernel) -> None:
    """A VLAN on a bridge that holds a bond that holds the port."""
    _bond(kernel)
    kernel.enslave(kernel["bond0"], kernel["docker0"].index)
    kernel.add("docker0.5", nic={"lower": (kernel["docker0"].index,)})
    kernel.default_route.add("docker0.5")


def _unresolved(kernel: FakeKernel) -> None:
    kernel.unresolved = (7,)
    kernel["eth0"].settings[Setting.ADDRESSES] = ("192.0.2.9/24",)


def _unresolved_and_routed(kernel: FakeKernel) -> None:
    kernel.unresolved = (7,)
    kernel.routed.add("eth0")


def _address(kernel: FakeKernel) -> None:
    kernel["eth0"].settings[Setting.ADDRESSES] = ("192.0.2.9/24", "192.0.2.10/24")


def _inet6(kernel: FakeKernel) -> None:
    kernel["eth0"].nic["inet6"] = ("2001:db8::9/64",)


def _other_route(kernel: FakeKernel) -> None:
    kernel.routed.add("eth0")


def _address_on_a_vlan(kernel: FakeKernel) -> None:
    kernel.add("eth0.7", nic={"lower": (kernel["eth0"].index,)}, addresses=("192.0.2.9/24",))


def _address_on_a_macvlan_of_a_vlan(kernel: FakeKernel) -> None:
    vlan = kernel.add("eth0.7", nic={"lower": (kernel["eth0"].index,)})
    kernel.add("mv0", nic={"lower": (vlan.index,), "inet6": ("fd00::1/64",)})


HELD = [
    (_bridge, "foreign-switch"),
    (_bond, "foreign-switch"),
    (_route, "default-route"),
    (_route_by_vlan, "default-route"),
    (_route_by_bond, "default-route"),
    (_route_by_bridge, "default-route"),
    (_route_by_all_of_them, "default-route"),
    (_unresolved, "default-route"),
    (_unresolved_and_routed, "default-route"),
    (_address, "in-use"),
    (_inet6, "in-use"),
    (_other_route, "in-use"),
    (_address_on_a_vlan, "in-use"),
    (_address_on_a_macvlan_of_a_vlan, "in-use"),
]


@pytest.mark.parametrize(("hold", "code"), HELD)
def test_a_port_that_somebody_uses_is_refused(hold: Callable[[FakeKernel], None], code: str) -> None:
    of, kernel = two_ports(), host(two_ports())
    hold(kernel)
    before = kernel.observe().by_name["eth0"]
    report = turn(of, kernel)
    assert codes(report) == [(code, "port outside", "eth0")]
    assert "take_over: true" in report.after.problems[0].remedy
    assert kernel.observe().by_name["eth0"] == before
    assert kernel.observe().by_name["eth1"].switch == "sw-inside"
    assert not report.converged


@pytest.mark.parametrize("hold", [hold for hold, _ in HELD])
def test_take_over_allows_it(hold: Callable[[FakeKernel], None]) -> None:
    of = two_ports(ports=ports(take_over=True))
    kernel = host(of)
    hold(kernel)
    report = turn(of, kernel)
    assert report.converged
    assert kernel.observe().by_name["eth0"].switch == "sw-outside"


def test_while_a_default_route_leads_nobody_knows_where_it_is_said() -> None:
    of, kernel = two_ports(), host(two_ports())
    _unresolved(kernel)
    (problem,) = turn(of, kernel).after.problems
    assert "`eth0` may carry the default route: the kernel does not tell where nexthop 7 leads" in problem.text


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (_address, "`eth0` has the address 192.0.2.9/24"),
        (_inet6, "`eth0` has the address 2001:db8::9/64"),
        (_other_route, "`eth0` has a route"),
        (_address_on_a_vlan, "`eth0` carries `eth0.7`, which has the address 192.0.2.9/24"),
    ],
)
def test_what_the_host_uses_a_port_for_is_said(use: Callable[[FakeKernel], None], what: str) -> None:
    of, kernel = two_ports(), host(two_ports())
    use(kernel)
    (problem,) = turn(of, kernel).after.problems
    assert str(problem) == f"port outside: refused: {what}; free it, or give it `take_over: true` in the file"


@pytest.mark.parametrize("topology", ["inspect", "bypass", "isolate"])
@pytest.mark.parametrize("use", [_address, _inet6, _other_route])
def test_a_port_that_is_part_of_a_wire_already_is_cleared_of_it(
    topology: str, use: Callable[[FakeKernel], None]
) -> None:
    both = ["outside", "inside"]
    isolate = {"pair": "all", "detached": both}
    of = two_ports(topologies={"inspect": {"pair": "all"}, "bypass": {"join": "all"}, "isolate": isolate})
    kernel = host(of)
    assert turn(of, kernel, topology).converged
    kernel["eth0"].settings[Setting.IPV6] = True
    use(kernel)
    report = turn(of, kernel, topology)
    assert report.converged
    assert report.before.changes != ()
    assert kernel["eth0"].settings[Setting.ADDRESSES] == ()
    assert "inet6" not in kernel["eth0"].nic


def test_an_adapter_of_a_hypervisor_with_an_address_is_refused_too() -> None:
    for take_over, expected in ((False, [("in-use", "adapter outside", "vif0")]), (True, [])):
        of = two_ports(vm=vm(take_over=take_over))
        kernel = host(of)
        kernel["vif0"].settings[Setting.ADDRESSES] = ("10.0.0.1/8",)
        assert codes(turn(of, kernel)) == expected
        assert kernel["vif0"].settings[Setting.ADDRESSES] == (() if take_over else ("10.0.0.1/8",))


def test_an_address_on_a_switch_of_ours_is_no_reason_and_goes() -> None:
    of, kernel = two_ports(), host(two_ports())
    assert turn(of, kernel).converged
    kernel["sw-outside"].settings[Setting.ADDRESSES] = ("10.0.0.1/8",)
    kernel.add("sw-outside.7", nic={"lower": (kernel["sw-outside"].index,)}, addresses=("10.1.0.1/16",))
    assert turn(of, kernel).converged
    assert kernel["sw-outside"].settings[Setting.ADDRESSES] == ()


def test_a_port_in_a_master_that_is_out_of_sight_is_somebodys() -> None:
    of, kernel = two_ports(), host(two_ports())
    kernel.add("vanished", Kind.BRIDGE)
    kernel.enslave(kernel["eth0"], kernel["vanished"].index)
    actual = kernel.observe()
    from dataclasses import replace

    from reconciler.network.desired import desired
    from reconciler.network.diff import difference

    unseen = replace(actual, links=tuple(link for link in actual.links if link.name != "vanished"))
    found = difference(of, desired(of, choice_of(of)), unseen)
    assert [one.code for one in found.problems] == ["foreign-switch"]


def test_somebody_elses_adapter_in_somebody_elses_bridge_is_refused_unless_taken_over() -> None:
    for take_over, expected in ((False, [("foreign-switch", "adapter outside", "vif0")]), (True, [])):
        of = two_ports(vm=vm(take_over=take_over))
        kernel = host(of)
        kernel.enslave(kernel["vif0"], kernel["docker0"].index)
        report = turn(of, kernel)
        assert codes(report) == expected
        assert kernel.observe().by_name["vif0"].switch == ("sw-outside" if take_over else "docker0")


def test_the_management_port_is_never_touched_not_even_by_take_over() -> None:
    both = {**ports(take_over=True), "outside": {"match": {"name": "mgmt0"}, "take_over": True}}
    both["mgmt"] = {"match": {"pci": "0000:99:00.0"}, "role": "management", "take_over": True}
    of = two_ports(ports=both)
    kernel = host(two_ports())
    before = kernel.observe().by_name["mgmt0"]
    report = turn(of, kernel)
    assert [one.code for one in report.after.problems] == ["port-shared"]
    assert kernel.observe().by_name["mgmt0"] == before
    assert "mgmt0" not in {operation.link.name for operation, _ in kernel.log}


def test_a_stranger_in_a_switch_of_ours_has_to_leave() -> None:
    of, kernel = two_ports(), host(two_ports())
    turn(of, kernel)
    kernel.add("stranger0", switch="sw-outside", up=True)
    before = kernel.observe().by_name["stranger0"]
    report = turn(of, kernel)
    assert report.converged
    assert len(report.outcomes) == 1
    after = kernel.observe().by_name["stranger0"]
    assert after.switch is None
    assert after.settings[Setting.UP] == before.settings[Setting.UP]
    assert after.settings[Setting.MAC] == before.settings[Setting.MAC]


@pytest.mark.parametrize("port", ["eth0", "mgmt0"])
def test_a_stranger_stays_while_it_may_be_a_port_that_was_not_found(port: str) -> None:
    """A NIC that came back under another name is in its switch still, and carries the traffic."""
    of, kernel = two_ports(), host(two_ports())
    turn(of, kernel)
    kernel.add("stranger0", switch="sw-inside", up=True)
    kernel.rename(port, "renamed0")
    before = kernel.observe()
    report = turn(of, kernel)
    found = {code for code, _, _ in codes(report)}
    assert found == {"port-missing", "stranger"}
    strangers = {interface(problem) for problem in report.after.problems if problem.code == "stranger"}
    assert strangers == {"stranger0"} | ({"renamed0"} if port == "eth0" else set())
    assert kernel.observe() == before


def test_a_leftover_that_holds_what_may_be_a_port_is_not_removed() -> None:
    of, kernel = two_ports(), host(two_ports())
    turn(of, kernel)
    kernel.rename("sw-outside", "renamed-sw")
    kernel.rename("eth0", "renamed0")
    report = turn(of, kernel)
    assert ("stranger", "switch renamed-sw", "renamed0") in codes(report)
    assert kernel.observe().by_name["renamed0"].switch == "renamed-sw"


@pytest.mark.parametrize("connection", ["mgmt0", "wan0"])
def test_the_hosts_own_connection_in_a_switch_of_ours_is_told_and_left(connection: str) -> None:
    of, kernel = two_ports(), host(two_ports())
    turn(of, kernel)
    if connection == "wan0":
        kernel.add("wan0")
        kernel.default_route = {"wan0"}
    kernel.enslave(kernel[connection], kernel["sw-outside"].index)
    before = kernel.observe()
    report = turn(of, kernel)
    assert codes(report) == [("management", "switch sw-outside", connection)]
    assert f"ip link set {connection} nomaster" in report.after.problems[0].remedy
    assert kernel.observe() == before


def test_a_default_route_over_a_switch_of_ours_protects_nothing() -> None:
    of, kernel = two_ports(), host(two_ports())
    turn(of, kernel)
    kernel.default_route.add("sw-outside")
    kernel["eth0"].settings[Setting.MTU] = 1400
    kernel["sw-outside"].settings[Setting.ADDRESSES] = ("10.0.0.1/8",)
    assert turn(of, kernel).converged
    assert kernel["eth0"].settings[Setting.MTU] == 1500


@pytest.mark.parametrize("tampered", ["mark", "mac"])
def test_a_switch_is_known_by_its_mark_or_by_the_address_it_was_made_with(tampered: str) -> None:
    of, kernel = two_ports(), host(two_ports())
    turn(of, kernel)
    if tampered == "mark":
        kernel["sw-outside"].settings[Setting.MARK] = ""
    else:
        kernel["sw-outside"].settings[Setting.MAC] = "02:00:00:00:00:77"
    assert turn(of, kernel).converged
    assert kernel["sw-outside"].settings[Setting.MARK] == "reconciler:two:switch:sw-outside"
    assert kernel["sw-outside"].settings[Setting.MAC] == pinned_mac("two", Role("switch", "sw-outside"))


def test_a_switch_without_mark_and_address_is_nobodys_and_so_not_ours() -> None:
    of, kernel = two_ports(), host(two_ports())
    turn(of, kernel)
    kernel["sw-outside"].settings |= {Setting.MARK: "", Setting.MAC: "02:00:00:00:00:77"}
    assert codes(turn(of, kernel))[0][0] == "foreign"


@pytest.mark.parametrize(
    "forged", ["reconciler", "reconciler:", "reconciler:two", "reconciler:two2:switch:x", "two:switch:x"]
)
def test_a_mark_that_only_looks_like_ours_is_not_ours(forged: str) -> None:
    of, kernel = two_ports(), host(two_ports())
    kernel.add("old-sw", Kind.BRIDGE, mark=forged)
    assert turn(of, kernel).converged
    assert kernel.named("old-sw") is not None


def test_our_mark_on_what_we_cannot_have_made_is_a_forgery() -> None:
    of, kernel = two_ports(), host(two_ports())
    kernel.add("eth5", mark=mark("two", Role("switch", "eth5")))
    assert turn(of, kernel).converged
    assert kernel.named("eth5") is not None


def test_leftovers_are_removed_after_the_port_that_they_held_has_its_place() -> None:
    of, kernel = two_ports(), host(two_ports())
    kernel.add("old-sw", Kind.BRIDGE, mark=mark("two", Role("switch", "old-sw")))
    kernel.add("old-tap", Kind.TAP, mark=mark("two", Role("adapter", "old")))
    kernel.enslave(kernel["eth0"], kernel["old-sw"].index)
    assert turn(of, kernel).converged
    names = [operation.link.name for operation, _ in kernel.log]
    assert set(names[-2:]) == {"old-sw", "old-tap"}
    assert kernel.named("old-sw") is None
    assert kernel.named("old-tap") is None


def test_a_leftover_whose_port_did_not_find_its_place_stays() -> None:
    of, kernel = two_ports(), host(two_ports())
    kernel.add("old-sw", Kind.BRIDGE, mark=mark("two", Role("switch", "old-sw")))
    kernel.enslave(kernel["eth0"], kernel["old-sw"].index)
    kernel["eth0"].busy = True
    report = turn(of, kernel)
    assert kernel.named("old-sw") is not None
    assert [one.status for one in report.outcomes][-1] == "skipped"


def test_adapters_of_a_vm_that_is_down_are_missed_in_inspect_only() -> None:
    of = two_ports(vm={"adapters": {"outside": {"interface": "vif0"}, "inside": {"interface": "vif1"}}})
    kernel = host(of)
    kernel.remove("vif0")
    assert turn(of, kernel, "bypass").converged
    report = turn(of, kernel)
    assert codes(report) == [("adapter-missing", "adapter outside", "vif0")]
    assert "start the VM" in report.after.problems[0].remedy
    # All the same the port goes where it belongs: when the VM is back, its adapter is all that is missing.
    assert kernel.observe().by_name["eth0"].switch == "sw-outside"
    kernel.add("vif0")
    assert turn(of, kernel).converged
