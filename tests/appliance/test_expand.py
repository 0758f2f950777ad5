"""What a file amounts to: short forms, defaults, standby switches, resting adapters, segments of switches."""

import pytest

from reconciler.appliance.declared import Adapter, Match, Port, Segment, Switch
from reconciler.appliance.expand.network import milliseconds

from .build import appliance, file, switches

FOUR = {"ports": ("a0", "a1", "b0", "b1"), "segments": {"a": ["a0", "a1"], "b": ["b0", "b1"]}}


def test_defaults():
    found = appliance(file())
    assert found.sku == "test"
    assert found.ports["a"] == Port("a", Match(name="eth-a"))
    assert found.adapters["a"] == Adapter("a", "tap-a", ours=True)
    assert found.segments == {"wire": Segment("wire", ("a", "b"), True, 1500, 300_000)}
    assert found.data_ports == ("a", "b")


def test_all_that_can_be_said():
    data = file(segments={"edge": {"ports": ["a", "b"], "transparency": "standard", "mtu": 9000.0, "ageing": "2m"}})
    data["ports"]["m"] = {"match": {"driver": "igb", "index": 1, "mac": "0A:00:00:00:00:01"}, "role": "management"}
    data["ports"]["a"]["take_over"] = True
    data["vm"]["adapters"]["a"] = {"interface": "vif1.0", "mac": "0A:00:00:00:00:02", "take_over": True}
    found = appliance(data)
    assert found.segments["edge"] == Segment("edge", ("a", "b"), False, 9000, 120_000)
    assert isinstance(found.segments["edge"].mtu, int)
    assert found.ports["m"] == Port("m", Match(driver="igb", index=1, mac="0a:00:00:00:00:01"), management=True)
    assert found.ports["a"].take_over
    assert found.adapters["a"] == Adapter("a", "vif1.0", False, "0a:00:00:00:00:02", True)
    assert found.data_ports == ("a", "b")


def test_short_forms_in_one_segment():
    found = appliance(file())
    assert found.topologies["inspect"].switches == (
        Switch("sw-a", "wire", ("a",), ("a",)),
        Switch("sw-b", "wire", ("b",), ("b",)),
    )
    assert found.topologies["bypass"].switches == (Switch("sw-bypass", "wire", ("a", "b"), ()),)


def test_short_forms_in_two_segments():
    found = appliance(file(**FOUR))
    assert [switch.segment for switch in found.topologies["inspect"].switches] == ["a", "a", "b", "b"]
    assert found.topologies["bypass"].switches == (
        Switch("sw-bypass-a", "a", ("a0", "a1"), ()),
        Switch("sw-bypass-b", "b", ("b0", "b1"), ()),
    )


def test_a_short_form_is_the_long_form():
    long = file(
        inspect=switches(**{"sw-a": ("a", "a"), "sw-b": ("b", "b")}), bypass=switches(**{"sw-bypass": ("ab", [])})
    )
    assert appliance(long) == appliance(file())


def test_switches_of_other_topologies_stand_by_and_adapters_rest_in_theirs():
    found = appliance(file())
    assert found.topologies["inspect"].standby == (Switch("sw-bypass", "wire", (), ()),)
    assert found.topologies["bypass"].standby == (
        Switch("sw-a", "wire", (), ("a",)),
        Switch("sw-b", "wire", (), ("b",)),
    )


def test_every_topology_has_the_same_switches_in_all():
    tap = switches(**{"sw-tap": ("ab", "a")})
    found = appliance(file(topologies={"tap": tap, "isolate": {"switches": {}, "detached": ["a", "b"]}}))
    names = [{switch.name for switch in (*t.switches, *t.standby)} for t in found.topologies.values()]
    assert names == [{"sw-a", "sw-b", "sw-bypass", "sw-tap"}] * 4
    assert found.topologies["isolate"].detached == ("a", "b")


def test_an_adapter_in_use_elsewhere_does_not_rest():
    found = appliance(file(topologies={"tap": switches(**{"sw-tap": ("ab", "a")})}))
    standby = {switch.name: switch for switch in found.topologies["tap"].standby}
    assert standby["sw-a"].adapters == ()
    assert standby["sw-b"].adapters == ("b",)


def test_a_switch_of_adapters_lies_in_the_segment_that_they_inspect():
    resting = {**switches(quiet=([], ["b0", "b1"][:1])), "detached": list(FOUR["ports"])}
    found = appliance(file(**FOUR, topologies={"isolate": resting}))
    assert found.topologies["isolate"].switches == (Switch("quiet", "b", (), ("b0",)),)


def test_detached_ports_leave_the_short_forms():
    detached = {"detached": ["c"]}
    found = appliance(file("abc", inspect={"pair": "all", **detached}, bypass={"join": "all", **detached}))
    assert [switch.ports for switch in found.topologies["inspect"].switches] == [("a",), ("b",)]
    assert found.topologies["bypass"].switches[0].ports == ("a", "b")


@pytest.mark.parametrize(("text", "ms"), [("0s", 0), ("200ms", 200), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000)])
def test_milliseconds(text, ms):
    assert milliseconds(text) == ms


def test_match_reads_as_in_the_file():
    assert str(Match(pci="0000:02:00.0", driver="igb", index=0)) == "pci 0000:02:00.0, driver igb, index 0"
