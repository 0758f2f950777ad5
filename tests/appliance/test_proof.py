"""The proofs: what holds is proven, and each way to break it is found with the path that breaks it."""

import random

from hypothesis import given
from hypothesis import strategies as st

from reconciler.appliance.declared import Appliance, Switch, Topology
from reconciler.appliance.proof import prove

from .build import appliance, file, mistakes, switches

FOUR = {"ports": ("a0", "a1", "b0", "b1"), "segments": {"a": ["a0", "a1"], "b": ["b0", "b1"]}}
PAIRED = {f"sw-{role}": ([role], [role]) for role in FOUR["ports"]}


def said(data, words):
    assert any(words in text for text in mistakes(data)), mistakes(data)


def test_inspect_past_the_vm():
    data = file(inspect=switches(sw=(["a", "b"], ["a"])))
    said(
        data,
        "topologies.inspect: ports are connected without the VM: port a – switch sw – port b; in `inspect` all traffic",
    )
    said(data, "topologies.inspect.switches.sw: holds 2 ports (a, b) and 1 adapter (a)")


def test_inspect_without_a_way_through():
    data = file(inspect=switches(s0=(["a"], ["a"]), s1=(["b"], [])))
    said(data, "topologies.inspect: port a and port b are not connected through the VM")
    said(data, "topologies.inspect.switches.s1: holds 1 port (b) and 0 adapters")


def test_inspect_with_two_adapters_at_one_port():
    data = file(inspect=switches(s0=(["a"], ["a", "b"]), s1=(["b"], [])))
    said(data, "holds 1 port (a) and 2 adapters (a, b)")
    said(data, "a loop: switch s0 – adapter")


def test_bypass_through_the_vm():
    said(
        file(bypass={"pair": "all"}),
        "not connected without the VM but through port a – switch sw-a – adapter a – the VM – adapter b – switch sw-b – port b",
    )


def test_bypass_apart_names_one_and_counts_the_rest():
    apart = switches(s0=(["a"], []), s1=(["b"], []), s2=(["c"], []), s3=(["d"], []))
    said(file("abcd", bypass=apart), "port a and port b are not connected without the VM (and 2 more such parts)")


def test_segments_joined():
    said(
        file(**FOUR, bypass=switches(sw=(FOUR["ports"], []))),
        "topologies.bypass: joins segments `a` and `b`: port a0 – switch sw – port b0; keep them apart",
    )


def test_segments_joined_in_a_topology_of_the_vendors_own():
    mirror = switches(s0=(["a0", "a1", "b0"], []), s1=(["b1"], []))
    said(file(**FOUR, topologies={"tap": mirror}), "topologies.tap: joins segments `a` and `b`")


def test_adapter_of_another_segment():
    crossed = switches(s0=(["a0", "a1"], ["b0"]), s1=(["b0", "b1"], []))
    said(file(**FOUR, bypass=crossed), "adapter `b0` inspects segment `b`, and stands in a switch of another")
    resting = {**switches(s0=([], ["a0", "b0"])), "detached": list(FOUR["ports"])}
    said(file(**FOUR, topologies={"isolate": resting}), "adapter `b0` inspects segment `b`")


def test_loop_of_two_switches():
    said(file(bypass=switches(s0=("ab", []), s1=("ab", []))), "topologies.bypass: a loop: switch s0 – port ")
    said(file("abc", bypass=switches(s0=("abc", []), s1=("abc", []))), "(and 1 more loop); frames would circle")


def test_loop_through_the_vm():
    said(file(bypass=switches(sw=("ab", "ab"))), "a loop: switch sw – adapter ")


def test_a_port_has_one_place():
    said(file(bypass=switches(s0=("ab", []), s1=("b", []))), "port `b` has 2 places: s0, s1")
    said(file("abc", bypass=switches(s0=("ab", []))), "topologies.bypass: port `c` has no place; put it into a switch")
    said(file("abc", bypass={**switches(s0=("abc", [])), "detached": ["c"]}), "port `c` has 2 places: s0, detached")
    assert mistakes(file("abc", bypass={**switches(s0=("ab", [])), "detached": ["c"]})) == []


def test_management_ports_are_never_switched():
    data = file(bypass=switches(sw=("abm", [])))
    data["ports"]["m"] = {"match": {"name": "eno1"}, "role": "management"}
    said(data, "topologies.bypass.switches.sw: the management port is in a switch: port m – switch sw")
    data["topologies"]["bypass"] = {"join": "all", "detached": ["m"]}
    said(data, "management port `m` is listed as detached")


def test_a_switch_lies_in_one_segment():
    swapped = switches(**{"sw-bypass-a": (["b0", "b1"], []), "sw-bypass-b": (["a0", "a1"], [])})
    said(file(**FOUR, topologies={"swap": swapped}), "in segment `b` here, in `a` in topology `bypass`")
    data = file(topologies={"tap": switches(s0=("ab", []), s1=([], ["spy"]))})
    data["vm"]["adapters"]["spy"] = {"tap": "tap-spy"}
    said(data, "topologies.tap.switches.s1: lies in no segment")


def test_flaws_are_found_beside_mistakes_of_another_kind():
    data = file(bypass=switches(s0=("a", []), s1=("b", [])), health={"hold_down": 3})
    data["ports"]["a"]["match"] = {"pci": "wrong"}
    assert len(mistakes(data)) == 3
    said(data, "port a and port b are not connected without the VM")


def test_but_not_where_a_mistake_may_be_their_cause():
    data = file(bypass=switches(sw=("abm", [])))
    data["ports"]["m"] = {"match": {"name": "eno1"}, "roel": "management"}
    assert mistakes(data) == ["ports.m: unknown key 'roel'; did you mean `role`?"]


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True)


@st.composite
def appliances(draw):
    """Any number of segments with any number of ports, all in the short forms."""
    roles = draw(st.lists(NAMES, min_size=2, max_size=12, unique=True))
    segments = {}
    rest = list(roles)
    while len(rest) >= 2:
        count = draw(st.integers(2, len(rest))) if len(rest) > 3 else len(rest)
        count = len(rest) if len(rest) - count == 1 else count
        segments[f"s{len(segments)}"] = rest[:count]
        rest = rest[count:]
    return file(roles, segments)


@given(appliances())
def test_short_forms_always_prove(data):
    assert mistakes(data) == []


@given(appliances(), st.randoms(use_true_random=False))
def test_order_is_irrelevant(data, rng):
    shuffled = shuffle(data, rng)
    one, other = appliance(data), appliance(shuffled)
    assert one.ports == other.ports
    assert {t.name: set(members(t)) for t in one.topologies.values()} == {
        t.name: set(members(t)) for t in other.topologies.values()
    }


@given(appliances(), st.randoms(use_true_random=False))
def test_any_port_moved_to_any_other_switch_is_a_flaw(data, rng):
    whole = appliance(data)
    topology = whole.topologies[rng.choice(["inspect", "bypass"])]
    switches_ = list(topology.switches)
    if len(switches_) < 2:
        return
    source, target = rng.sample(range(len(switches_)), 2)
    port = switches_[source].ports[0]
    switches_[source] = without(switches_[source], port)
    switches_[target] = with_port(switches_[target], port)
    moved = Topology(topology.name, tuple(switches_), topology.standby)
    broken = Appliance(
        whole.sku, whole.ports, whole.segments, whole.adapters, {**whole.topologies, topology.name: moved}
    )
    assert prove(broken)


def without(switch, port):
    return Switch(switch.name, switch.segment, tuple(p for p in switch.ports if p != port), switch.adapters)


def with_port(switch, port):
    return Switch(switch.name, switch.segment, (*switch.ports, port), switch.adapters)


def members(topology):
    for switch in (*topology.switches, *topology.standby):
        yield switch.name, switch.segment, frozenset(switch.ports), frozenset(switch.adapters)


def shuffle(value, rng: random.Random):
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {key: shuffle(inner, rng) for key, inner in items}
    if isinstance(value, list):
        return rng.sample([shuffle(inner, rng) for inner in value], len(value))
    return value
