"""What is a beat, and what is none."""

import json
from typing import Any

import pytest
from ears import BOOT, RUN, beat, checks, line
from hypothesis import given
from hypothesis import strategies as st

from reconciler.health.signal import HealthState
from reconciler.host.signals.beat import MAX_CHECKS, MAX_LINE, Beat, Check, NoBeatError, Reader, parse


def test_a_beat_is_read() -> None:
    told = parse(line(7, interval_ms=250, checks=checks(waf="degraded", av="failed")))
    assert told == Beat(
        BOOT,
        RUN,
        7,
        250,
        (Check("waf", HealthState.DEGRADED, "waf is degraded"), Check("av", HealthState.FAILED, "av is failed")),
    )


def test_the_largest_beat_is_read() -> None:
    many = {f"c{number}": {"state": "healthy", "reason": "r" * 80} for number in range(MAX_CHECKS)}
    assert len(parse(line(2**53 - 1, checks=many)).checks) == MAX_CHECKS


def test_a_beat_without_checks_is_one() -> None:
    assert parse(line(1, checks={})).checks == ()


NAMES = ["", "1a", "-a", "a b", "a.b", "ä", "a" * 32, "a\n", "a\x00"]
WRONG: dict[str, Any] = {
    "boot": [None, 1, "", BOOT.upper(), BOOT[:-1], BOOT + "0", BOOT + "\n", "{" + BOOT + "}"],
    "run": [None, 1, "", RUN.upper(), RUN[:-1], RUN + "0", RUN + "\n", "０" * 32],
    "seq": [None, True, False, 0, -1, "1", 1.0, 1.5, 2**53, 10**15 * 10**9, [], {}],
    "interval_ms": [None, True, 0, -100, "100", 100.0, 3_600_001],
    "checks": [
        None,
        [],
        "none",
        {f"c{number}": {"state": "healthy", "reason": ""} for number in range(MAX_CHECKS + 1)},
        *({name: {"state": "healthy", "reason": ""}} for name in NAMES),
        *({"c": told} for told in (None, "healthy", [], {}, {"state": "healthy"}, {"reason": "x"})),
        {"c": {"state": "healthy", "reason": "", "more": 1}},
        *({"c": {"state": state, "reason": ""}} for state in (None, 1, True, "", "Healthy", "absent", ["healthy"], {})),
        *({"c": {"state": "healthy", "reason": why}} for why in (None, 1, "a" * 121, "a\nb", "\x1b[2J", "ä", "\ud800")),
    ],
    "v": [None, True, 0, -1, "1", 1.0, [1]],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_wrong_value_is_no_beat(key: str, value: Any) -> None:
    with pytest.raises(NoBeatError):
        parse(line(**{"seq": 1, key: value}))


@pytest.mark.parametrize("key", sorted(beat()))
def test_a_missing_key_is_no_beat(key: str) -> None:
    less = beat()
    del less[key]
    with pytest.raises(NoBeatError, match="not the keys"):
        parse(json.dumps(less).encode())


def test_an_unknown_key_is_no_beat() -> None:
    with pytest.raises(NoBeatError, match="not the keys"):
        parse(line(1, more=1))


def test_a_newer_agent_is_told_from_noise() -> None:
    with pytest.raises(NoBeatError, match="newer than this daemon"):
        parse(b'{"v": 2, "pulse": "whatever"}')


GOOD = line(1)[:-1]
NOISE = {
    "nothing": b"",
    "spaces": b"   ",
    "binary": bytes(range(256)),
    "not an object": b"[1, 2]",
    "a number": b"1",
    "a text": b'"beat"',
    "null": b"null",
    "two beats": GOOD + GOOD,
    "half a beat": GOOD[:-2],
    "a tail": GOOD + b"}",
    "a zero byte": GOOD + b"\0",
    "UTF-8": GOOD.replace(b"312", "３１２".encode()),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-32": GOOD.decode().encode("utf-32-le"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "Latin-1": GOOD.replace(b"runs", b"l\xe4uft"),
    "single quotes": GOOD.replace(b'"', b"'"),
    "a key twice": GOOD.replace(b'"seq":1', b'"seq":1,"seq":2'),
    "a check twice": GOOD.replace(b'"checks":{', b'"checks":{"suricata":{"state":"failed","reason":""},'),
    "a state twice": GOOD.replace(b'"state":', b'"state":"failed","state":'),
    "NaN": GOOD.replace(b'"seq":1', b'"seq":NaN'),
    "Infinity": GOOD.replace(b'"seq":1', b'"seq":-Infinity'),
    "an exponent": GOOD.replace(b'"seq":1', b'"seq":1e2'),
    "an overflow": GOOD.replace(b'"seq":1', b'"seq":1e999'),
    "minus zero": GOOD.replace(b'"seq":1', b'"seq":-0'),
    "a number of 3000 digits": GOOD.replace(b'"seq":1', b'"seq":' + b"9" * 3000),
    "a number of 3000 digits somewhere": b'{"v":' + b"1" * 3000 + b"}",
    "deep lists": b"[" * (MAX_LINE - 1),
    "deep objects": b'{"a":' * 800,
    "deep and closed": b"[" * 2000 + b"]" * 2000,
    "a deep check": GOOD.replace(b'"pid 312 runs"', b"[" * 1900 + b"]" * 1900),
    "a control character": GOOD.replace(b"runs", b"ru\tns"),
    "an escaped one": GOOD.replace(b"runs", b"ru\\u0007ns"),
    "too long": GOOD[:-1] + b" " * MAX_LINE + b"}",
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_noise_is_no_beat(noise: bytes) -> None:
    with pytest.raises(NoBeatError) as caught:
        parse(noise)
    assert len(str(caught.value)) < 80
    assert str(caught.value).isprintable()


def test_white_space_of_json_does_not_matter() -> None:
    assert parse(json.dumps(beat(1), indent=1).encode().replace(b"\n", b"\r")) == parse(GOOD)


@given(st.binary(max_size=MAX_LINE + 10))
def test_no_bytes_break_it(noise: bytes) -> None:
    with pytest.raises(NoBeatError):
        parse(noise)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@given(st.sampled_from(sorted(beat())), json_values)
def test_no_value_breaks_it(key: str, value: Any) -> None:
    mutant = {**beat(), key: value}
    try:
        told = parse(json.dumps(mutant).encode())
    except NoBeatError:
        return
    # What was taken is what was there, in bounds.
    assert (told.boot, told.run, told.seq, told.interval_ms) == tuple(
        mutant[name] for name in ("boot", "run", "seq", "interval_ms")
    )
    assert type(told.seq) is int
    assert 1 <= told.seq < 2**53
    assert len(told.checks) <= MAX_CHECKS


# What is remembered of the beat before


def _either(read: Any, text: bytes) -> Any:
    try:
        return read(text)
    except NoBeatError as error:
        return str(error)


LIKE = [
    GOOD,
    GOOD.replace(b'"seq":1', b'"seq":2'),
    GOOD.replace(b'"seq":1', b'"seq": 3'),
    GOOD.replace(b'"seq":1', b'"seq":02'),
    GOOD.replace(b'"seq":1', b'"seq":-1'),
    GOOD.replace(b'"seq":1', b'"seq":1.0'),
    GOOD.replace(b'"seq":1', b'"seq":1e3'),
    GOOD.replace(b'"seq":1', b'"seq":true'),
    GOOD.replace(b'"seq":1', b'"seq":9007199254740991'),
    GOOD.replace(b'"seq":1', b'"seq":9007199254740992'),
    GOOD.replace(b'"seq":1', b'"seq":' + b"1" * 17),
    GOOD.replace(b'"seq":1', b'"seq":1,"seq":2'),
    GOOD.replace(b"healthy", b"failed"),
    GOOD.replace(b'"suricata"', b'"seq"'),
    line(1, checks={"seq": {"state": "failed", "reason": '"seq":5'}})[:-1],
    line(1, interval_ms=200)[:-1],
    line(1, run="f" * 32)[:-1],
    GOOD[:-1],
    b"",
]


@given(st.lists(st.sampled_from(LIKE), max_size=12))
def test_the_reader_reads_what_the_parser_reads(lines: list[bytes]) -> None:
    reader = Reader()
    assert [_either(reader.read, one) for one in lines] == [_either(parse, one) for one in lines]


@given(st.integers(0, len(GOOD)), st.integers(0, 3), st.binary(max_size=3))
def test_the_reader_is_not_taken_in_by_what_is_alike(place: int, less: int, more: bytes) -> None:
    reader = Reader()
    reader.read(GOOD)
    like = GOOD[:place] + more + GOOD[place + less :]
    assert _either(reader.read, like) == _either(parse, like)


def test_a_beat_grown_too_long_by_its_number_is_none() -> None:
    padded = GOOD[:-1] + b" " * (MAX_LINE - 1 - len(GOOD)) + b"}"
    reader = Reader()
    assert reader.read(padded).seq == 1
    with pytest.raises(NoBeatError):
        reader.read(padded.replace(b'"seq":1', b'"seq":10'))
