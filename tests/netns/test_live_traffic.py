"""Real frames through both topologies."""

from collections.abc import Iterator

import pytest

from reconciler.appliance.load import load
from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.appliance import appliance_file
from reconciler.lab.lab import Lab
from reconciler.network.cycle import reconcile
from reconciler.network.desired import choice_of

pytestmark = [pytest.mark.netns, pytest.mark.long]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(4, segments=[(0, 1), (2, 3)]) as made:
        yield made


def apply(lab: Lab, **choice: str) -> None:
    of = load(appliance_file(lab.ports, lab.adapters, lab.segments).encode(), "lab.yaml")
    with lab.host.entered(), Kernel() as kernel:
        report = reconcile(kernel, of, {**choice_of(of), **choice})
    assert report.converged, report.after


def counted(lab: Lab) -> list[tuple[int, int]]:
    """Lost and duplicated frames of each flow."""
    with lab.flows(500) as traffic:
        traffic.start()
        lab.wait_until(lambda: min(traffic.arrived()) >= 300, 20, "300 frames of each flow")
        measured = traffic.stop(patience_s=5)
    assert len(measured) == 4
    return [(one.lost, one.duplicated) for one in measured]


def test_every_frame_arrives_once_in_every_choice(lab: Lab) -> None:
    for choice in ({}, {"seg0": "bypass"}, {"seg0": "bypass", "seg1": "bypass"}, {"seg1": "bypass"}, {}):
        apply(lab, **choice)
        assert counted(lab) == [(0, 0)] * 4


def test_a_dead_vm_stops_inspect_and_not_bypass(lab: Lab) -> None:
    apply(lab, seg0="bypass")
    lab.kill_vm()
    with lab.flows(500) as traffic:
        traffic.start()
        lab.wait_until(lambda: min(traffic.arrived()[:2]) >= 300, 20, "300 frames past the dead VM")
        measured = traffic.stop()
    assert [one.lost for one in measured[:2]] == [0, 0]
    assert [one.received for one in measured[2:]] == [0, 0]
    apply(lab, seg0="bypass", seg1="bypass")
    assert counted(lab) == [(0, 0)] * 4


def test_segments_never_meet(lab: Lab) -> None:
    """Of what a client sends, the other segment's clients see nothing: not even what is flooded."""
    from reconciler.lab.traffic import Flow

    for choice in ({}, {"seg0": "bypass"}, {"seg0": "bypass", "seg1": "bypass"}):
        apply(lab, **choice)
        own = Flow(lab.clients[0], "wire", lab.clients[1], "wire", rate=500, stream=901)
        across = Flow(lab.clients[0], "wire", lab.clients[2], "wire", rate=500, stream=902)
        with own, across:
            own.start()
            across.start()
            lab.wait_until(lambda own=own: own.arrived >= 200, 20, "200 frames within the segment")
            across.halt()
            own.halt()
            assert across.settle(patience_s=0).received == 0
            assert own.settle(patience_s=5).lost == 0
