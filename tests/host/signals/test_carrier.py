"""Carrier of the VM's adapters, segment by segment."""

from typing import Any

from worlds import appliance

from reconciler.appliance.declared import Appliance
from reconciler.health.signal import HealthState, Reading
from reconciler.host.signals.carrier import readings
from reconciler.network.state import Kind, Link, Network, Nic


def four_ports(**signal: Any) -> Appliance:
    return appliance(
        schema="reconciler/v1",
        appliance={"sku": "four"},
        ports={name: {"match": {"name": f"eth-{name}"}} for name in "abcd"},
        segments={"left": ["a", "b"], "right": ["c", "d"]},
        vm={"adapters": {name: {"tap": f"tap-{name}"} for name in "abcd"}},
        topologies={"inspect": {"pair": "all"}, "bypass": {"join": "all"}},
        health={"signals": {"wire": {"kind": "carrier", **signal}}},
    )


def network(**carriers: bool) -> Network:
    return Network(
        tuple(
            Link(f"tap-{name}", Kind.TAP, {}, nic=Nic(index, carrier=carrier))
            for index, (name, carrier) in enumerate(carriers.items(), 1)
        )
    )


GOOD_LEFT = Reading("wire", HealthState.HEALTHY, "carrier on tap-a, tap-b", "left")
GOOD_RIGHT = Reading("wire", HealthState.HEALTHY, "carrier on tap-c, tap-d", "right")


def test_each_segment_speaks_for_itself() -> None:
    assert readings(four_ports(), network(a=True, b=True, c=True, d=True)) == (GOOD_LEFT, GOOD_RIGHT)


def test_an_adapter_without_carrier_is_named() -> None:
    told = readings(four_ports(), network(a=True, b=False, c=True, d=True))
    assert told == (Reading("wire", HealthState.FAILED, "tap-b has no carrier", "left"), GOOD_RIGHT)


def test_an_adapter_that_is_not_there_is_named() -> None:
    told = readings(four_ports(), network(a=True, b=True, d=False))
    assert told == (GOOD_LEFT, Reading("wire", HealthState.FAILED, "no interface tap-c; tap-d has no carrier", "right"))


def test_a_signal_of_one_segment_keeps_to_it() -> None:
    assert readings(four_ports(segment="right"), network(a=False, b=False, c=True, d=True)) == (GOOD_RIGHT,)


def test_who_declares_no_such_signal_hears_nothing() -> None:
    other = appliance(
        schema="reconciler/v1",
        appliance={"sku": "two"},
        ports={name: {"match": {"name": f"eth-{name}"}} for name in "ab"},
        vm={"adapters": {name: {"tap": f"tap-{name}"} for name in "ab"}},
        topologies={"inspect": {"pair": "all"}, "bypass": {"join": "all"}},
    )
    assert readings(other, network()) == ()
