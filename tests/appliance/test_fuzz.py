"""Ten thousand mangled files: always an appliance or mistakes with a place, never anything else.

Each file is made from its own number alone, so that a failure names what to try again: `mangled(SEED)`.
"""

import multiprocessing
import os
import random
import re
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from effort import examples

from reconciler.appliance.declared import Appliance
from reconciler.appliance.load import MAX_MISTAKES, InvalidFileError, load
from reconciler.appliance.yaml import document

ROOT = Path(__file__).parents[2]
CORPUS = [
    path.read_bytes()
    for folder in ("topologies", "tests/corpus/valid", "tests/corpus/broken")
    for path in sorted((ROOT / folder).glob("*.yaml"))
]
FILES = examples(10_000)
BATCH = 500
# Against hangs, not slowness: the worst file that the bounds admit takes 3 s.
HANG_S = 120

SPECIALS = [
    *(word.encode() for word in ["?", ":", "-", ",", "[", "]", "{", "}", "#", "&", "*", "!", "|", ">", "'", '"', "%", "@", "`", "~", "<<", "---", "...", "|+", ">-", "&a", "*a", "!!str", "!x", "null"]),
    *(b"\n", b"\r", b"\r\n", b"\t", b" ", b"\0", b"\x1b[2J", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf"),
    *(b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b'"\\ud800"', b'"\\U00110000"', b'"\\x00"', b"\\", b"%YAML 1.1\n"),
    *(b"[" * 50, b"{" * 50, b"- " * 50, b"a: {" * 30, b"x" * 5000, b"9" * 500, b"\n" * 200, b".nan", b".inf", b"-0"),
]  # fmt: skip


def flip(data, rng):
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def delete(data, rng):
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice([1, 2, 5, 20, 100]) :]


def duplicate(data, rng):
    at = rng.randrange(len(data))
    piece = data[at : at + rng.choice([1, 10, 60, 300])]
    return data[:at] + piece * rng.choice([2, 3, 20]) + data[at + len(piece) :]


def duplicate_line(data, rng):
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return b"".join([*lines[:at], *[lines[at]] * rng.choice([2, 2, 50]), *lines[at + 1 :]])


def splice(data, rng):
    other = rng.choice(CORPUS)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def swap_tokens(data, rng):
    tokens = re.split(rb"(\W+)", data)
    one, other = rng.randrange(len(tokens)), rng.randrange(len(tokens))
    tokens[one], tokens[other] = tokens[other], tokens[one]
    return b"".join(tokens)


def insert(data, rng):
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(SPECIALS) + data[at:]


def replace_value(data, rng):
    values = list(re.finditer(rb"[:,\[] *([^\s,\[\]{}]+)", data))
    if not values:
        return data
    value = rng.choice(values)
    return data[: value.start(1)] + rng.choice(SPECIALS) + data[value.end(1) :]


def indent(data, rng):
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at] = b" " * rng.randrange(1, 9) + lines[at]
    return b"".join(lines)


WORDS = sorted({word for data in CORPUS for word in re.findall(rb"[A-Za-z0-9_./:-]{2,40}", data)})


def other_word(data, rng):
    """A word of the format in the place of another: mostly still YAML, and seldom still right."""
    words = list(re.finditer(rb"[A-Za-z0-9_./-]{2,}", data))
    word = rng.choice(words) if words else None
    return data[: word.start()] + rng.choice(WORDS) + data[word.end() :] if word else data


def other_section(data, rng):
    """The health, failure, guard or VM section of another file."""
    name = rng.choice([b"health", b"on_failure", b"guard", b"vm"])
    pattern = re.compile(rb"^" + name + rb":.*\n(?:[ -].*\n)*", re.MULTILINE)
    found, others = pattern.search(data), [one for file in CORPUS if (one := pattern.search(file))]
    other = rng.choice(others)[0]
    return data[: found.start()] + other + data[found.end() :] if found else data + b"\n" + other


MANGLERS = [flip, delete, duplicate, duplicate_line, splice, swap_tokens, insert, replace_value, indent]
MANGLERS += [other_word, other_word, other_section]


def mangled(seed):
    rng = random.Random(seed)
    data = rng.choice(CORPUS)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        if data:
            data = rng.choice(MANGLERS)(data, rng)
    return data


def check(data):
    """That `load` keeps its promise for this file; whether it is an appliance."""
    try:
        found = load(data, "fuzz.yaml")
    except InvalidFileError as error:
        found = error
    if isinstance(found, Appliance):
        return True
    lines = len(re.split(rb"\r\n|\r|\n", data))
    assert 1 <= len(found.mistakes) <= MAX_MISTAKES + 1
    for mistake in found.mistakes:
        assert 1 <= mistake.position.line <= lines + 1, mistake
        assert mistake.position.column >= 1, mistake
        assert mistake.what, mistake
    assert all(line.isprintable() for line in str(found).split("\n")), found
    assert len(str(found).split("\n")) == len(found.mistakes)
    return False


def give_up(*_):
    raise TimeoutError(f"no answer after {HANG_S} s")


def batch(first):
    signal.signal(signal.SIGALRM, give_up)
    valid = 0
    for seed in range(first, first + BATCH):
        signal.alarm(HANG_S)
        try:
            valid += check(mangled(seed))
        except BaseException as error:
            error.add_note(f"tests/appliance/test_fuzz.py: check(mangled({seed}))")
            raise
    signal.alarm(0)
    return valid


@pytest.mark.long
def test_mangled_files():
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        valid = sum(pool.map(batch, range(0, FILES, BATCH)))
    # Comments are mangled too: some must survive, or the rest of this proves little.
    assert FILES // 200 < valid < FILES // 2


SIZE = document.MAX_BYTES // 3


def filled(piece, before=b"", size=SIZE):
    return before + (piece * (size // len(piece) + 1))[:size]


# Each once took quadratic time in some YAML parser, or costs most for its size in this one. That they end at all within
# the time limit of the whole run is the test: a time limit of their own would fail on a busy machine for no reason.
@pytest.mark.long
@pytest.mark.parametrize(
    "data",
    [
        *map(filled, (b"[", b"{", b"- ", b"? ", b"\n", b"\r", b"#", b"#\n", b"a", b"a b ", b"a\n", b"&a ", b"*a ", b"!")),
        *map(filled, (b"a: ", b"a:", b"%", b",", b"[,", b"[],", b"? [", b"\t", b" ", b"---\n", b"...\n", b"{a: ", b"'")),
        *(filled(b"x\n", before) for before in (b'"', b"'", b"a: |\n ", b"a: >\n ")),
        *(filled(b"\\n", before) for before in (b'"', b"'")),
        *(filled(b"a, ", before) for before in (b"[", b"{")),
        filled(b"[],", b"["),
        filled(b"9", b"a: "),
        b"".join(b"%d: 1\n" % i for i in range(40_000)),
        b"".join(b"k%d: 1\n" % i for i in range(19_000)),
        b"".join(b"k%d: &a%d 1\n" % (i, i) for i in range(19_000)),
        b"".join(b" " * i + b"a:\n" for i in range(1000)),
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_costly_files(data):
    assert not check(data[: document.MAX_BYTES])


def test_very_many_mistakes_are_cut_short():
    ports = b"".join(b"  p%d: {pic: 1}\n" % i for i in range(2000))
    with pytest.raises(InvalidFileError) as caught:
        load(b"schema: reconciler/v1\nports:\n" + ports, "f")
    assert len(caught.value.mistakes) == MAX_MISTAKES + 1
    assert re.search(r"and \d{4} more mistakes from here on", str(caught.value).splitlines()[-1])
