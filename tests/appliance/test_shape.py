"""What is wrong with the shape of a file, in words, all at once."""

import pytest

from reconciler.appliance.load import InvalidFileError, load
from reconciler.appliance.written import shape
from reconciler.appliance.yaml.words import MAX_GUESSES, Guesser, show, shown

from .build import file, mistakes


def edited(*path, value):
    data = file()
    node = data
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("prots",), {}, "unknown key 'prots'; did you mean `ports`?"),
        (("ports", "a", "take_ower"), True, "ports.a: unknown key 'take_ower'; did you mean `take_over`?"),
        (("ports", "a", "match", "colour"), "red", "unknown key 'colour'; known here: pci, mac, driver, index, name"),
        (("on_failure",), {"fail": "opn"}, "did you mean `open`?"),
        (("ports", "a", "take_over"), "no", "expected true or false, found text; YAML 1.2 knows only `true` and `false`"),
        (("ports", "a", "take_over"), [], "expected true or false, found a list"),
        (("vm", "adapters"), None, "vm.adapters: no value; give one, or remove the key"),
        (("vm",), {"adapters": {"a": {"tap": "t\ud800"}}}, "not an interface name"),
        (("appliance", "vendor"), "\ud800", "half a surrogate pair"),
        (("ports",), {"a": {"match": {"name": "x"}}}, "ports: 1 given; at least 2 are needed"),
        (("topologies", "bypass"), {"join": "al"}, "did you mean `all`?"),
    ],
)  # fmt: skip
def test_words(path, value, said):
    assert any(said in text for text in mistakes(edited(*path, value=value)))


def test_all_mistakes_at_once_in_the_order_of_the_file():
    text = (
        b"""\
schema: reconciler/v1
appliance: {sku: a b, vendour: x, vendor: !x}
""".replace(b"!x", b"1")
        + b"""\
ports:
  a: {match: {pci: "1"}}
  b: {match: {name: eth1}}
vm: {adapters: {a: {tap: t0}, b: {tap: t0}}}
topologies:
  inspect: {pair: all}
  bypass: {switches: {sw: {ports: [a]}, sx: {ports: [b]}}}
"""
    )
    with pytest.raises(InvalidFileError) as caught:
        load(text, "apu.yaml")
    assert str(caught.value).split("\n") == [
        "apu.yaml:2:18: appliance.sku: not a SKU: 'a b'; 1 to 63 letters, digits, '.', '_', '+' or '-'",
        "apu.yaml:2:23: appliance: unknown key 'vendour'; did you mean `vendor`?",
        "apu.yaml:2:43: appliance.vendor: expected one line of at most 200 characters as text, found a number; leave control characters out",
        "apu.yaml:4:20: ports.a.match.pci: not a PCI address: '1'; domain:bus:device.function in lower case, as in \"0000:02:00.0\"",
        "apu.yaml:6:40: vm.adapters.b.tap: the interface name `t0` is that of the adapter `a` too; interface names are unique on a host: choose another",
        "apu.yaml:9:3: topologies.bypass: port a and port b are not connected without the VM; segment `wire` is one wire: it needs a path between all of its ports",
    ]


def test_a_misspelt_key_is_not_also_a_missing_one():
    data = file()
    data["topologies"]["bypass"] = {"switches": {"sw": {"ports": ["a", "b"]}}}
    data["ports"]["a"] = {"mach": {"name": "eth0"}}
    assert mistakes(data) == ["ports.a: unknown key 'mach'; did you mean `match`?"]


def test_a_missing_section_is_one_mistake():
    data = file()
    del data["vm"]
    assert mistakes(data) == ["the key `vm` is missing; add it"]


def test_short_segment_is_named_as_the_file_has_it():
    assert mistakes(file(segments={"edge": ["a", 3, "b"]}))[0].startswith("segments.edge[1]: expected a name as text")
    found = mistakes(file(segments={"edge": {"ports": ["a", 3, "b"]}}))
    assert found[0].startswith("segments.edge.ports[1]: expected a name")


@pytest.mark.parametrize("root", [[], "text", 3, 1.5, True, [None]])
def test_roots_that_are_no_mapping(root):
    assert shape.validate(root)[0] is None
    assert any(text.startswith("expected a mapping") for text in mistakes(root))


def test_nothing_is_refused_by_the_model_itself():
    assert shape.validate(file(health=None))[0] is None
    assert shape.validate(file(segments=None))[0] is not None


def test_guesses_are_bounded():
    guesser = Guesser()
    assert [guesser.closest("prots", ["ports"]) for _ in range(MAX_GUESSES)] == ["ports"] * MAX_GUESSES
    assert guesser.closest("prots", ["ports"]) is None


def test_show():
    assert show("a\x1b[2J\n\u202e") == "a\\x1b[2J\\n\\u202e"
    assert show("x" * 61) == "x" * 60 + "…"
    assert shown("é'\n") == '"\\xe9\'\\n"'
    assert len(shown("x" * 1000)) == 63
