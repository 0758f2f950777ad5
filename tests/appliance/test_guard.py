"""The guard in the file: whose it is, what it amounts to, and the canary that speaks of it."""

import json

import pytest
from effort import examples
from hypothesis import given, settings

from reconciler import codec
from reconciler.appliance.declared import ISOLATE, Appliance, Canary, Frame, Guard, Negative, Probe, Streak

from .build import appliance, file, mistakes
from .cares import documents

LAN, WAN = ["a", "b"], ["c", "d"]


def two(lan=None, wan=None, **sections):
    """Two segments, with what is said of their guards."""
    written = {
        name: ports if said is None else {"ports": ports, "guard": said}
        for name, ports, said in (("lan", LAN, lan), ("wan", WAN, wan))
    }
    return file((*LAN, *WAN), segments=written, **sections)


def guards(data):
    return {name: segment.guard for name, segment in appliance(data).segments.items()}


def canaries(data):
    found = appliance(data).health.signals
    return {name: one.source.segments for name, one in found.items() if isinstance(one.source, Canary)}


# --- whose it is, and what it amounts to -----------------------------------------------------------------------------


def test_without_the_word_nobody_has_one():
    assert guards(file()) == {"wire": None}
    assert guards(two()) == {"lan": None, "wan": None}
    assert canaries(two()) == {}


def test_the_files_guard_is_that_of_every_segment():
    assert guards(file(guard={})) == {"wire": Guard()}
    assert guards(two(guard={"lease": "1s"})) == {"lan": Guard(1000), "wan": Guard(1000)}


def test_a_segments_own_guard_stands_in_the_place_of_the_files_as_a_whole():
    found = guards(two(lan={"latch": False}, guard={"lease": "1s", "drain": "0s"}))
    assert found == {"lan": Guard(latch=False), "wan": Guard(1000, drain_ms=0)}


def test_off_is_none_there():
    assert guards(two(lan="off", guard={})) == {"lan": None, "wan": Guard()}
    assert guards(two(wan={})) == {"lan": None, "wan": Guard()}
    assert guards(two(lan="off", wan="off", guard={})) == {"lan": None, "wan": None}


def test_all_of_its_keys():
    probe = {"every": "250ms", "frame": "udp", "source": "192.0.2.1", "destination": "192.0.2.2", "port": 7.0}
    more = {"lease": "1s", "fail": "closed", "latch": False, "grace": "0s", "drain": "10s", "lease_by": "daemon"}
    wanted = Probe(250, Frame.UDP, "192.0.2.1", "192.0.2.2", 7)
    assert guards(file(guard={"probe": probe, **more})) == {"wire": Guard(1000, wanted, True, False, 0, 10_000, True)}


def test_a_probe_in_short():
    assert guards(file(guard={"probe": "50ms"})) == {"wire": Guard(probe=Probe(50))}
    arp = {"frame": "arp", "source": "192.0.2.1", "destination": "192.0.2.2"}
    assert guards(file(guard={"probe": arp})) == {"wire": Guard(probe=Probe(20, Frame.ARP, "192.0.2.1", "192.0.2.2"))}


# --- which segments fail closed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lan", "wan", "guard", "fail", "closed"),
    [
        (None, None, None, "open", ""),
        (None, None, None, "closed", "lan wan"),
        (None, None, {}, "closed", "lan wan"),
        (None, None, {"fail": "closed"}, "open", "lan wan"),
        (None, None, {"fail": "open"}, "closed", ""),
        ({"fail": "closed"}, None, {}, "open", "lan"),
        ({"fail": "open"}, None, {}, "closed", "wan"),
        ("off", None, {"fail": "open"}, "closed", "lan"),
        ("off", None, {"fail": "closed"}, "open", "wan"),
        ({}, None, {"fail": "closed"}, "open", "wan"),
    ],
)
def test_which_segments_fail_closed(lan, wan, guard, fail, closed):
    sections = {"guard": guard} if guard is not None else {}
    found = appliance(two(lan, wan, on_failure={"fail": fail}, **sections))
    assert found.on_failure.closed == frozenset(closed.split())
    for name, segment in found.segments.items():
        assert segment.guard is None or segment.guard.closed is (name in found.on_failure.closed)
        assert found.on_failure.fallback(name) == (ISOLATE if name in closed.split() else "bypass")
    assert (ISOLATE in found.topologies) is bool(closed)


# --- its canary ------------------------------------------------------------------------------------------------------


def test_a_guard_has_its_canary_also_where_the_file_has_none():
    found = appliance(file(guard={})).health.signals
    one = Streak(readings=1)
    canary = found["canary"]
    assert list(found) == ["canary", "path"]
    assert (canary.source, canary.fall, canary.rise) == (Canary(None, ("wire",)), one, one)
    assert canary.required
    assert not canary.fails_before
    assert not canary.fails_after
    assert canary.segment is None


def test_only_of_segments_that_have_a_guard():
    assert canaries(two(lan={})) == {"canary": ("lan",)}
    assert canaries(two(lan="off", guard={})) == {"canary": ("wan",)}


def test_only_of_those_of_which_no_other_speaks():
    of = {"signals": {"path": {"kind": "canary", "segment": "wan"}}}
    assert canaries(two(guard={}, health=of)) == {"path": ("wan",), "canary": ("lan",)}
    of = {"signals": {"path": {"kind": "canary"}}}
    assert canaries(two(guard={}, health=of)) == {"path": ("lan", "wan")}
    assert canaries(two(wan={}, health=of)) == {"path": ("wan",)}


def test_none_that_the_file_does_not_name_where_the_daemon_renews():
    """Probes may not cross such a VM at all: what the verdict rests on, the file says."""
    by_daemon = {"lease": "1s", "lease_by": "daemon"}
    assert canaries(two(lan=by_daemon, guard={})) == {"canary": ("wan",)}
    assert canaries(file(guard=by_daemon)) == {}
    of = {"signals": {"path": {"kind": "canary"}}}
    assert canaries(file(guard=by_daemon, health=of)) == {"path": ("wire",)}


def test_under_a_name_that_is_free():
    of = {"signals": {"canary": {"kind": "carrier"}}}
    assert canaries(two(guard={}, health=of)) == {"canary-guard": ("lan", "wan")}
    of["signals"]["canary-guard"] = {"kind": "canary", "segment": "lan"}
    assert canaries(two(guard={}, health=of)) == {"canary-guard": ("lan",), "canary-guard-2": ("wan",)}


def test_what_must_not_come_through():
    of = {"signals": {"path": {"kind": "canary", "negative": {"payload": "EICAR"}}}}
    found = appliance(file(guard={}, health=of)).health.signals["path"].source
    assert found == Canary(Negative("EICAR", 1000, "198.18.0.1", "198.19.0.1", 9), ("wire",))
    more = {"payload": "x", "every": "5s", "source": "192.0.2.1", "destination": "192.0.2.2", "port": 80}
    of["signals"]["path"]["negative"] = more
    found = appliance(file(guard={}, health=of)).health.signals["path"].source
    assert found.negative == Negative("x", 5000, "192.0.2.1", "192.0.2.2", 80)


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_bounds_are_inclusive():
    within = [
        {"lease": "10ms", "probe": "2ms", "drain": "10s", "grace": "1h"},
        {"lease": "60s", "probe": "15s"},
        {"lease": "200ms", "probe": "50ms"},
        {"lease": "1s", "lease_by": "daemon"},
    ]
    assert [mistakes(file(guard=one)) for one in within] == [[]] * len(within)


def test_a_guard_of_sixty_four_ports():
    assert guards(file([f"p{n}" for n in range(64)], guard={})) == {"wire": Guard()}


def test_who_has_no_guard_may_leave_ports_out():
    inspect = {"pair": "all", "detached": ["a"]}
    assert guards(two(lan="off", guard={}, inspect=inspect)) == {"lan": None, "wan": Guard()}


def test_a_canary_of_a_segment_that_is_none_is_one_mistake():
    (said,) = mistakes(two(guard={}, health={"signals": {"path": {"kind": "canary", "segment": "wam"}}}))
    assert said == "health.signals.path.segment: no segment is called 'wam'; did you mean `wan`?"


def test_a_guard_that_is_none_says_nothing_of_its_bounds():
    assert mistakes(file(guard={"lease": 5, "probe": {"every": [3]}})) == [
        "guard.lease: expected a duration as text, found a number; a whole number and its unit: 200ms, 5s, 2m, 1h",
        "guard.probe.every: expected a duration as text, found a list; a whole number and its unit: 200ms, 5s, 2m, 1h",
    ]


# --- generated -------------------------------------------------------------------------------------------------------


@given(documents())
@settings(max_examples=examples(60))
def test_each_guard_has_one_canary_and_comes_back_from_the_record(data):
    found = appliance(data)
    named = any(one["kind"] == "canary" for one in data["health"]["signals"].values())
    spoken = [name for name, one in found.segments.items() if one.guard and (named or not one.guard.by_daemon)]
    assert [name for segments in canaries(data).values() for name in segments] == spoken
    assert codec.parse(Appliance, json.loads(json.dumps(codec.dump(found)))) == found
