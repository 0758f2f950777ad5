import statistics
import time
from collections.abc import Iterator

import pytest

from reconciler.lab.delay import Delay
from reconciler.lab.frames import FRAMES, crossing, fitting
from reconciler.lab.lab import Lab
from reconciler.lab.namespaces import LabError
from reconciler.lab.traffic import Traffic

pytestmark = [pytest.mark.netns, pytest.mark.long]


def delays_ms(traffic: Traffic) -> list[float]:
    return [
        (received - sent) / 1e6
        for flow in traffic.flows
        for received, sent in zip(flow.sink.arrivals().received_ns, flow.sink.arrivals().sent_ns, strict=True)
    ]


def test_frames_take_their_time_and_keep_their_order(inspected: Lab) -> None:
    with Delay(inspected, 5), inspected.flows(1000) as traffic:
        traffic.start()
        inspected.wait_until(lambda: min(traffic.arrived()) > 500, 10, "traffic through the VM")
        for measured in traffic.stop(patience_s=1):
            assert (measured.lost, measured.duplicated, measured.reordered) == (0, 0, 0)
        # Of the machine's own lateness nothing is asserted.
        assert min(delays_ms(traffic)) >= 5


def test_what_a_stopped_vm_holds_comes_out_late(inspected: Lab) -> None:
    with Delay(inspected, 2) as vm, inspected.flows(1000) as traffic:
        traffic.start()
        inspected.wait_until(lambda: min(traffic.arrived()) > 100, 10, "traffic through the VM")
        vm.stop()
        begun = time.monotonic()
        before = traffic.arrived()
        inspected.wait_until(lambda: time.monotonic() > begun + 0.3, 5, "the VM to have been stopped for a while")
        assert traffic.arrived() == before
        vm.cont()
        inspected.wait_until(lambda: min(traffic.arrived()) > max(before) + 500, 10, "traffic again")
        for measured in traffic.stop(patience_s=1):
            assert (measured.lost, measured.duplicated, measured.reordered) == (0, 0, 0)
            assert measured.longest_gap_s >= 0.3
        assert max(delays_ms(traffic)) >= 300


def test_what_it_cannot_hold_is_lost(inspected: Lab) -> None:
    with Delay(inspected, 0, buffer=100_000) as vm, inspected.flows(1000) as traffic:
        vm.stop()
        traffic.start()
        begun = time.monotonic()
        inspected.wait_until(lambda: time.monotonic() > begun + 0.5, 5, "the VM to have been stopped for a while")
        vm.cont()
        inspected.wait_until(lambda: min(traffic.arrived()) > 100, 10, "traffic through the VM")
        for measured in traffic.stop(patience_s=1):
            assert measured.lost > 100
            assert measured.received > 100


@pytest.fixture
def four(request: pytest.FixtureRequest) -> Iterator[Lab]:
    request.getfixturevalue("lab_root")
    with Lab(4) as lab:
        yield lab


def test_everything_passes_as_it_is(inspected: Lab) -> None:
    with Delay(inspected, 1):
        found = crossing(inspected, fitting(), patience_s=0.1)
    # These end at the host's bridges, whatever the VM does.
    bridged = {"PAUSE", "LACP", "EAPOL", "provider bridge", "MVRP", "LLDP", "PTP", "multicast source"}
    assert found.missing == {(1, name): 3 for name in bridged}
    assert not found.surplus


def test_four_adapters_are_one_wire(four: Lab, join) -> None:
    for index in range(4):
        join(four, f"sw{index}", [four.ports[index], four.adapters[index]])
    with Delay(four, 1):
        found = crossing(four, {name: FRAMES[name] for name in ("802.1Q", "QinQ", "ARP")}, sender=2)
    assert not found.missing
    assert not found.surplus


def test_afterwards_the_bridges_forward_again(inspected: Lab) -> None:
    arp = {"ARP": FRAMES["ARP"]}
    with Delay(inspected, 1):
        inspected.unbridge_vm()  # twice is as good as once
    assert not crossing(inspected, arp).missing
    inspected.unbridge_vm()
    assert crossing(inspected, arp, patience_s=0.05).missing == {(1, "ARP"): 3}


def test_a_vm_that_dies_or_is_dead(inspected: Lab) -> None:
    with Delay(inspected, 1):
        inspected.kill_vm()
    with pytest.raises(LabError, match="the VM is dead"):
        Delay(inspected, 1)


def test_the_middle_of_the_delays_is_near_what_was_asked(inspected: Lab) -> None:
    with Delay(inspected, 20), inspected.flows(200) as traffic:
        traffic.start()
        inspected.wait_until(lambda: min(traffic.arrived()) > 100, 10, "traffic through the VM")
        traffic.stop(patience_s=1)
        assert 20 <= statistics.median(delays_ms(traffic)) < 40
