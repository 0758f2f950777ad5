"""YAML to data: positions, the core schema of YAML 1.2, what is refused, and the bounds."""

import math

import pytest

from reconciler.appliance.yaml import document
from reconciler.appliance.yaml.document import DocumentError, Mistake, Position, read, spell


def refused(text):
    with pytest.raises(DocumentError) as caught:
        read(text if isinstance(text, bytes) else text.encode())
    return caught.value.mistake


TEXT = b"""\
# a comment
ports:
  outside: {match: {pci: "0000:02:00.0"},
            role: data}
  inside:
    match:
      name: eth0
list:
- one
- [two, {three: 3}]
"text": |
  block
  of lines
"""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("ports",), (2, 1), (3, 3)),
        (("ports", "outside"), (3, 3), (3, 12)),
        (("ports", "outside", "match", "pci"), (3, 21), (3, 26)),
        (("ports", "outside", "role"), (4, 13), (4, 19)),
        (("ports", "inside", "match", "name"), (7, 7), (7, 13)),
        (("list", 0), (9, 3), (9, 3)),
        (("list", 1, 1, "three"), (10, 10), (10, 17)),
        (("text",), (11, 1), (11, 9)),
    ],
)
def test_positions(path, key, value):
    found = read(TEXT)
    assert found.key(path) == Position(*key)
    assert found.value(path) == Position(*value)


def test_position_of_what_is_not_there_is_that_of_its_parent():
    found = read(TEXT)
    assert found.value(("ports", "inside", "match", "pci", "x")) == found.value(("ports", "inside", "match"))
    assert found.key(("nothing",)) == Position(1, 1)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_end_as_the_file_has_it(ends):
    found = read(ends.join(["a: 1", "b:", "  c: 2", ""]).encode())
    assert found.value(("b", "c")) == Position(3, 6)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("true", True), ("True", True), ("TRUE", True), ("tRUE", "tRUE"), ("false", False),
        ("null", None), ("~", None), ("NULL", None), ("nULL", "nULL"),
        ("12", 12), ("-12", -12), ("+12", 12), ("012", 12), ("0o14", 12), ("0x0C", 12), ("0b11", "0b11"),
        ("1_000", "1_000"), ("12:30:45", "12:30:45"), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), ("1.5.1", "1.5.1"),
        ("-.inf", -math.inf), (".inf", math.inf), (".Infinity", ".Infinity"), ("2001-01-01", "2001-01-01"),
        ('"12"', "12"), ("'true'", "true"), ("|\n  12\n", "12\n"), ("=", "="), ("0000:02:00.0", "0000:02:00.0"),
    ],
)  # fmt: skip
def test_core_schema(written, value):
    found = read(f"a: {written}".encode()).data["a"]
    assert found == value
    assert type(found) is type(value)


def test_nan():
    assert math.isnan(read(b"a: .nan").data["a"])


@pytest.mark.parametrize("number", ["9" * 100_000, "0x" + "f" * 100_000, "1." + "0" * 100_000, "1e" + "9" * 1000])
def test_a_number_without_end_is_a_number_all_the_same(number):
    assert read(f"a: {number}".encode()).data["a"] == math.inf


def test_double_quoted_escapes_and_folding():
    assert read(b'a: "\\u00e9\\t\\x41"\nb: >\n  one\n  two\n').data == {"a": "é\tA", "b": "one two\n"}


def test_byte_order_mark():
    assert read(b"\xef\xbb\xbfa: 1").value(("a",)) == Position(1, 4)


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
def test_not_utf_8(before):
    mistake = refused(before + "a: 1\nbé: ".encode() + b"\xff\n")
    assert mistake.position == Position(2, 5)
    assert mistake.what == "byte 0xff is not UTF-8"


def test_utf_16_is_named_too():
    assert refused("a: 1".encode("utf-16")).what == "byte 0xff is not UTF-8"


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x9b", "\ufffe"])
def test_control_characters(character):
    mistake = refused(f"a: 1\r\nb: {character}")
    assert mistake.position == Position(2, 4)
    assert f"U+{ord(character):04X} is not allowed" in mistake.what


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "~", "---\n...\n"])
def test_empty(text):
    assert refused(text).what == "the file is empty"


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("a: 1\n---\nb: 2\n", (2, 1), "a second document begins here"),
        ("a: 1\n...\n---\nb: 2\n", (3, 1), "a second document begins here"),
        ("%YAML 1.1\n---\na: 1\n", (1, 1), "a directive"),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", (1, 1), "a directive"),
        ("a: !!str 1", (1, 4), "the tag !!str"),
        ("a: !<tag:yaml.org,2002:python/object/apply:os.system> [id]", (1, 4), "the tag !<tag:yaml.org,2002:python/object"),
        ("a: ! 1", (1, 4), "the tag !"),
        ("? [a, b]\n: 1\n", (1, 3), "a key that is not text"),
        ("a: *b", (1, 4), "the alias *b has no anchor before it"),
        ("a: &a [*a]", (1, 8), "the alias *a has no anchor before it"),
        ("a: [1, 2", (1, 9), "not YAML"),
        ("a: 'x", (1, 6), "not YAML"),
        ("a: b: c", (1, 5), "not YAML"),
    ],
)  # fmt: skip
def test_refused_at_once(text, position, what):
    mistake = refused(text)
    assert mistake.position == Position(*position)
    assert mistake.what.startswith(what)


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", (3, 1), "this key stands twice"),
        ('a: 1\n"a": 3\n', (2, 1), "this key stands twice"),
        ("a: {b: 1, b: [2, {c: 3}]}", (1, 11), "this key stands twice"),
        ("a: {x: &x {b: 1}, <<: *x}", (1, 19), "merge keys (<<) are not YAML 1.2"),
        ("a: {1: x}", (1, 5), "the key 1 is not text"),
        ("a: {true: x}", (1, 5), "the key true is not text"),
        ("? \n: x\n", (1, 2), "the key (nothing) is not text"),
        ("&k a: 1", (1, 1), "an anchor on a key"),
        ('a: "x\\ud800"', (1, 4), "half a surrogate pair"),
        ('"\\udfff": 1', (1, 1), "half a surrogate pair"),
    ],
)
def test_refused_and_read_on(text, position, what):
    found = read((text + "\n").encode())
    (mistake,) = found.mistakes
    assert mistake.position == Position(*position)
    assert mistake.what.startswith(what)


def test_of_two_equal_keys_the_first_counts():
    assert read(b"a: 1\na: {b: &x 2}\nc: *x\n").data == {"a": 1, "c": 2}


def test_alias_has_the_value_of_its_anchor_and_its_own_place():
    found = read(b"a: &x {b: [1]}\nc: *x\n")
    assert found.data == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert found.value(("c", "b", 0)) == Position(2, 4)


def test_billion_laughs():
    lines = ["a0: &a0 [" + "lol, " * 9 + "lol]"]
    lines += [f"a{i}: &a{i} [" + f"*a{i - 1}, " * 9 + f"*a{i - 1}]" for i in range(1, 10)]
    assert refused("\n".join(lines)).what == "too many values"


@pytest.mark.long
def test_bounds():
    assert refused(b"#" * (document.MAX_BYTES + 1)).what.startswith("the file has 524289 bytes")
    assert refused("[" * (document.MAX_DEPTH + 2) + "]" * (document.MAX_DEPTH + 2)).what == "nested too deeply"
    read(("[" * (document.MAX_DEPTH + 1) + "]" * (document.MAX_DEPTH + 1)).encode())
    assert refused("a:\n" + "- 1\n" * document.MAX_NODES).what == "too many values"
    aliases = "a: &a 1\nb: [" + "*a, " * document.MAX_ALIASES
    read((aliases + "1]").encode())
    assert refused(aliases + "*a]").what == "too many aliases"


def test_hostile_words_cannot_steer_a_terminal():
    mistake = Mistake(Position(1, 1), ("a\x1b[2J", "b\nc"), "what \x1b[2J\u202e", "x" * 5000)
    text = str(mistake)
    assert text.isprintable()
    assert len(text) < 1500


def test_spell():
    assert spell(("topologies", "inspect", "switches", "sw0", "ports", 1)) == "topologies.inspect.switches.sw0.ports[1]"
