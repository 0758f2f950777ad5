"""What stands in the way is a warning: an error where it says that it takes frames away, else that it may."""

import json
from dataclasses import replace

import pytest
from fake_kernel import FakeKernel
from worlds import converge, host, two_ports

from reconciler.network.cycle import audit
from reconciler.network.desired import choice_of
from reconciler.network.record import dump, parse
from reconciler.network.state import Setting
from reconciler.network.surroundings import Chain, Filter, Station, Surroundings, Upper
from reconciler.warning import Severity, Warning

OF = two_ports()
CHOICE = choice_of(OF)
ERROR, MAY, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


@pytest.fixture
def kernel() -> FakeKernel:
    made = host(OF)
    converge(made, OF, CHOICE)
    return made


def found(kernel: FakeKernel) -> list[Warning]:
    difference = audit(kernel, OF, CHOICE)
    assert (difference.changes, difference.problems) == ((), ())
    return list(difference.warnings)


def brief(warnings: list[Warning]) -> list[tuple[str, Severity, str]]:
    return [(one.code, one.severity, one.about) for one in warnings]


def test_nothing_stands_in_the_way_of_a_host_as_it_is_made(kernel: FakeKernel) -> None:
    assert found(kernel) == []


SURROUNDINGS = {
    "a drop at a port": (
        Surroundings(filters=(Filter("eth0", "ingress", "u32", ("drop",)),)),
        [("traffic-control", ERROR, "port outside")],
    ),
    "a redirect at an adapter": (
        Surroundings(filters=(Filter("tap1", "egress", "matchall", ("mirror", "redirect")),)),
        [("traffic-control", ERROR, "adapter inside")],
    ),
    "a program that does not tell": (
        Surroundings(filters=(Filter("eth1", "ingress", "bpf"),)),
        [("traffic-control", MAY, "port inside")],
    ),
    "a place for filters, at a switch": (
        Surroundings(filters=(Filter("sw-outside", "ingress", "clsact"),)),
        [("traffic-control", MAY, "switch sw-outside")],
    ),
    "a queue": (
        Surroundings(filters=(Filter("eth1", "queue", "tbf"),)),
        [("traffic-control", MAY, "port inside")],
    ),
    "what is at somebody else's interface": (
        Surroundings(
            filters=(Filter("plain0", "ingress", "u32", ("drop",)),),
            chains=(Chain("netdev", "t", "c", "ingress", ("plain0",), does=("drop",)),),
            uppers=(Upper("plain0.5", "vlan", "plain0"),),
            stations=(Station("plain0", "02:00:00:00:00:01", "static"),),
        ),
        [],
    ),
    "rules of the bridge family that drop": (
        Surroundings(chains=(Chain("bridge", "t", "f", "forward", does=("drop",)),)),
        [("rules", ERROR, "")],
    ),
    "rules of the bridge family that do not": (
        Surroundings(chains=(Chain("bridge", "t", "f", "prerouting", does=("mirror",)),)),
        [("rules", MAY, "")],
    ),
    "rules at the ingress of two, and of the family inet": (
        Surroundings(chains=(Chain("inet", "t", "i", "ingress", ("eth0", "tap0")),)),
        [("rules", MAY, "port outside"), ("rules", MAY, "adapter outside")],
    ),
    "rules at the egress of all that begin with": (
        Surroundings(chains=(Chain("netdev", "t", "e", "egress", ("ta*",), does=("forward",)),)),
        [("rules", ERROR, "adapter outside"), ("rules", ERROR, "adapter inside")],
    ),
    "our own guard": (
        Surroundings(chains=(Chain("netdev", "reconciler-two", "p", "ingress", ("eth0",), "two"),)),
        [],
    ),
    "the guard of another appliance, or of a name that is no more": (
        Surroundings(chains=(Chain("netdev", "reconciler-one", "p", "ingress", ("eth0",), "one"),)),
        [("rules", MAY, "port outside")],
    ),
    "a firewall that bridged frames do not meet": (
        Surroundings(chains=(Chain("inet", "fw", "f", "forward", does=("drop",)),)),
        [],
    ),
    "a station fixed": (
        Surroundings(stations=(Station("eth0", "02:00:00:00:00:01", "static"),)),
        [("station-fixed", ERROR, "port outside")],
    ),
    "a vlan on a port": (
        Surroundings(uppers=(Upper("eth0.5", "vlan", "eth0"),)),
        [("stacked", ERROR, "port outside")],
    ),
    "a macvlan on a port": (
        Surroundings(uppers=(Upper("mv0", "macvlan", "eth0"),)),
        [("stacked", ERROR, "port outside")],
    ),
    "a macvlan on a switch": (
        Surroundings(uppers=(Upper("mv0", "macvlan", "sw-bypass"),)),
        [("stacked", MAY, "switch sw-bypass")],
    ),
    "rules that cannot be read": (Surroundings(chains=None), [("rules-unseen", NOTE, "")]),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_stands_around(kernel: FakeKernel, name: str) -> None:
    kernel.surroundings, expected = SURROUNDINGS[name]
    told = found(kernel)
    # In the order of the network's links: two of the same severity stay in it.
    assert sorted(brief(told)) == sorted(expected)
    # A recorded state carries what it takes to say the same on another machine.
    recorded = parse(json.dumps(dump(replace(kernel.observe(), surroundings=kernel.survey(kernel.observe())))), "x")
    assert recorded.surroundings == kernel.surroundings
    for one in told:
        assert one.text
        assert one.remedy


def test_what_an_observation_itself_tells(kernel: FakeKernel) -> None:
    kernel["eth0"].nic["xdp"] = "generic"
    kernel.stations = (Station("sw-outside", "02:aa:00:00:00:01", "permanent"),)
    told = found(kernel)
    assert brief(told) == [("station-fixed", ERROR, "switch sw-outside"), ("xdp", MAY, "port outside")]
    assert "ip link set dev eth0 xdpgeneric off" in told[1].remedy
    assert "bridge fdb delete 02:aa:00:00:00:01 dev sw-outside self" in told[0].remedy


def test_a_firewall_that_bridged_frames_meet_tells_what_it_does(kernel: FakeKernel) -> None:
    kernel.bridge_netfilter = ("bridge-nf-call-iptables",)
    kernel.surroundings = Surroundings(chains=(Chain("inet", "fw", "f", "forward", does=("drop",)),))
    assert brief(found(kernel)) == [("rules", ERROR, ""), ("bridge-netfilter", MAY, "")]


@pytest.mark.parametrize(("setting", "value"), [(Setting.DORMANT, True), (Setting.STATE, "disabled")])
def test_a_port_with_a_carrier_that_does_not_forward_is_told_and_repaired(
    kernel: FakeKernel, setting: Setting, value: object
) -> None:
    kernel["eth0"].settings[setting] = value  # type: ignore[assignment]
    difference = audit(kernel, OF, CHOICE)
    assert [change.setting for change in difference.changes] == [setting]  # type: ignore[union-attr]
    assert brief(list(difference.warnings)) == [("not-forwarding", ERROR, "port outside")]
