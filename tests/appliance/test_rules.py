"""Every name that is used exists, every name that is made is unique."""

from .build import file, mistakes, switches


def only(data):
    (text,) = mistakes(data)
    return text


def test_unknown_names_and_what_was_meant():
    data = file(("outside", "inside"), bypass=switches(sw=(["outside", "insde"], ["outsid"])))
    assert mistakes(data) == [
        "topologies.bypass.switches.sw.ports[1]: no port is called 'insde'; did you mean `inside`?",
        "topologies.bypass.switches.sw.adapters[0]: no adapter is called 'outsid'; did you mean `outside`?",
    ]


def test_no_guess_lists_what_there_is():
    ports = [f"p{index}" for index in range(25)]
    text = only(file(ports, bypass={"join": "all", "detached": ["xyz"]}))
    assert text.endswith("declared are: " + ", ".join(ports[:20]) + ", …")


def test_ports_of_segments():
    ports = ("a", "b", "c", "d")
    assert only(file(ports, {"one": ["a", "b"], "two": ["c", "d", "b"]})).endswith(
        "the port 'b' is in segment `one` already; each data port belongs to exactly one segment"
    )
    assert only(file(ports, {"one": ["a", "b", "c"]})).startswith("ports.d: this data port is in no segment")


def test_management_ports():
    data = file()
    data["ports"]["m"] = {"match": {"name": "eno1"}, "role": "management"}
    assert mistakes(data) == []
    data["segments"] = {"one": ["a", "b", "m"]}
    assert "the management port 'm' in a segment" in only(data)


def test_one_data_port_is_no_wire():
    data = file()
    data["ports"]["b"]["role"] = "management"
    assert only(data) == "ports: 1 data port(s); a wire joins at least two"


def test_required_topologies():
    data = file()
    data["topologies"]["bypas"] = data["topologies"].pop("bypass")
    assert only(data) == "topologies: the topology `bypass` is missing; rename `bypas`?"
    assert mistakes(file() | {"topologies": {}}) == [
        "topologies: the topology `inspect` is missing; declare it",
        "topologies: the topology `bypass` is missing; declare it",
    ]


def test_names_that_two_things_claim():
    data = file(bypass=switches(**{"tap-a": (["a", "b"], [])}))
    assert "the interface name `tap-a` is that of the adapter `a` too" in only(data)
    data = file()
    data["vm"]["adapters"]["a"] = {"interface": "eth-b"}
    assert "the interface name `eth-b` is that of the port `b` too" in only(data)
    data = file()
    data["vm"]["adapters"]["a"] = {"tap": "sw-bypass"}
    assert "`sw-bypass` is that of the adapter `a` too" in only(data)


def test_a_switch_may_stand_in_several_topologies():
    assert mistakes(file(topologies={"again": switches(**{"sw-bypass": (["a", "b"], [])})})) == []


def test_matches_that_cannot_both_hold():
    data = file()
    for role, index in (("a", 0), ("b", 0)):
        data["ports"][role]["match"] = {"driver": "igb", "index": index}
    assert "`ports.a.match` has the same index" in only(data)
    data["ports"]["b"]["match"]["driver"] = "igc"
    assert mistakes(data) == []
    for role, mac in (("a", "52:54:00:00:00:0A"), ("b", "52:54:00:00:00:0a")):
        data["ports"][role]["match"] = {"mac": mac}
    assert "has the same mac" in only(data)


def test_switch_names_that_short_forms_would_make():
    data = file(("a", "b-rather-long-name"))
    data["vm"]["adapters"]["b-rather-long-name"] = {"tap": "tap-b"}
    assert "would make a switch `sw-b-rather-long-name`, 21 bytes long" in only(data)
    data = file(("a", "b", "c", "d"), {"one": ["a", "b"], "two-long": ["c", "d"]})
    assert "would make a switch `sw-bypass-two-long`, 18 bytes long" in only(data)
    data["topologies"]["inspect"] = switches(**{f"s{role}": ([role], [role]) for role in "abcd"})
    data["topologies"]["bypass"] = switches(one=(["a", "b"], []), two=(["c", "d"], []))
    assert mistakes(data) == []


def test_pair_needs_an_adapter_per_port():
    data = file(("a", "b", "c"))
    del data["vm"]["adapters"]["c"]
    assert "the port `c` has no adapter of its name; declare vm.adapters.c, or list" in only(data)
    data["topologies"]["inspect"]["detached"] = ["c"]
    assert mistakes(data) == []
