"""A hostile guest: 100,000 messages of all sizes, rates and encodings. What is true of them is known by construction."""

import itertools
import json
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from ears import beat, checks, line

from reconciler.health.signal import MAX_REASON, HealthState
from reconciler.host.signals.beats import Beats

MESSAGES = 100_000
TRACED = 3_000  # of them while memory is traced, which takes its time
INTERVAL_MS = 100
ENCODINGS = ("utf-8", "utf-16", "utf-16-be", "utf-32", "latin-1", "cp500", "utf-7")


def garbage(chance: random.Random, good: bytes) -> bytes:
    """A message that holds no beat, whatever else it is."""
    kinds: list[Callable[[], bytes]] = [
        lambda: chance.randbytes(chance.choice((0, 1, 7, 80, 4095, 4096, 5000, 20_000))).replace(b"\n", b"\0") + b"\n",
        lambda: bytes([chance.choice((10, 10, 0, 0x20, 0x7B))]) * chance.choice((1, 3, 200)) + b"\n",
        lambda: good[: chance.randrange(len(good) - 2)] + b"\n",
        lambda: _with(good, chance, bytes([chance.randrange(128, 256)])),
        lambda: _with(good, chance, b"\0"),
        lambda: ("ä" + good.decode()).encode(chance.choice(ENCODINGS), "replace").replace(b"\n", b"") + b"\n",
        lambda: b"[" * chance.choice((10, 1000, 4000)) + b"\n",
        lambda: b'{"v":' * chance.choice((10, 800)) + b"\n",
        lambda: good.replace(b'"seq":', b'"seq":' + b"9" * chance.choice((20, 3000))),
        lambda: good.replace(b'"seq":', chance.choice((b'"seq":1,"seq":', b'"Seq":', b'"seq":-', b'"seq":true,"x":'))),
        lambda: line(
            **{chance.choice(sorted(beat())): chance.choice((None, [], {"a": 1}, "x", -1, 1.5, float("nan")))}
        ),
        lambda: json.dumps([beat()]).encode() + b"\n",
        lambda: line(2**60),
        lambda: line(1, checks={f"c{number}": {"state": "healthy", "reason": ""} for number in range(33)}),
        lambda: line(1, v=chance.choice((2, 99))),
    ]
    return chance.choice(kinds)()


def _with(good: bytes, chance: random.Random, byte: bytes) -> bytes:
    place = chance.randrange(len(good) - 1)
    return good[:place] + byte + good[place:]


def after(chance: random.Random) -> float:
    """Milliseconds until the next message: in a flood, in step, or after a pause."""
    return chance.choice((0.0, 0.01, 1.0, 20.0, 100.0, 100.0, 1000.0))


@pytest.mark.long
def test_garbage_is_never_healthy_and_never_kept() -> None:
    chance = random.Random(1)
    beats = Beats("hb", INTERVAL_MS)
    good = line(1)
    now_ms = 0.0
    messages = [garbage(chance, good) for _ in range(2000)]
    beats.feed(b"".join(messages), now_ms)  # what is made once is made
    for number in range(MESSAGES // 2):
        if number == MESSAGES // 2 - TRACED:
            tracemalloc.start()
        now_ms += after(chance)
        fed = beats.feed(messages[number % len(messages)], now_ms)
        assert len(fed.readings) <= 2
        for reading in fed.readings:
            assert reading.state is HealthState.FAILED
            assert reading.reason.isprintable()
            assert len(reading.reason) <= MAX_REASON
        if fed.drop:
            beats.connected()
            now_ms += 1000
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # By now everything that fills up is full.
    assert kept < 32_000
    assert peak < 512_000
    counted = beats.counters
    assert counted.beats == counted.early == counted.replayed == 0
    assert min(counted.malformed, counted.oversized, counted.floods) > 100


@pytest.mark.long
def test_a_beat_among_garbage_is_believed_only_when_it_is_due() -> None:
    """Genuine beats, replays, failures, restarts and garbage, in pieces of any size."""
    chance = random.Random(2)
    beats = Beats("hb", INTERVAL_MS)
    now_ms, seq, run = 0.0, 0, 1
    buffered = b""
    healthy_ms: list[float] = []
    told_ms: list[float] = []
    for _ in range(MESSAGES // 2):
        now_ms += after(chance)
        good: dict[str, Any] = {"run": f"{run:032x}"}
        match chance.randrange(12):
            case 0 | 1 | 2 | 3 | 4:
                seq += 1
                message = line(seq, **good)
            case 5:
                seq += chance.randrange(1, 1000)
                message = line(seq, checks=checks(a="failed"), **good)
            case 6:
                message = line(chance.randint(0, seq), **good)
            case 7:
                message = line(seq + 1, run=f"{max(1, run - chance.randrange(1, 60)):032x}") if run > 1 else b"\n"
            case 8 if seq:
                run, seq = run + 1, 1
                message = line(seq, run=f"{run:032x}")
            case 9:
                message = line(seq + 1, **good)[:-1]  # the line goes on with what follows
                message += b"\n" if chance.random() < 0.5 else b""
                seq += message.endswith(b"\n")
            case _:
                message = garbage(chance, line(seq + 1, **good))
        buffered = (buffered + message)[-8192:]
        fed = beats.feed(message, now_ms)
        lines = buffered.split(b"\n")
        buffered = lines.pop()
        for reading in fed.readings:
            told_ms.append(now_ms)
            if reading.state is HealthState.HEALTHY:
                healthy_ms.append(now_ms)
                assert any(b'"state":"healthy"' in one for one in lines), "healthy without a healthy beat"
        if fed.drop:
            beats.connected()
            buffered = b""
            now_ms += 1000
        # As many as two for each half interval, in all the time that has gone by.
        assert len(told_ms) <= 2 + 2 * now_ms / (INTERVAL_MS / 2)
    gaps = [later - earlier for earlier, later in itertools.pairwise(healthy_ms)]
    assert len(healthy_ms) > 100
    assert min(gaps) >= INTERVAL_MS / 2
    counted = beats.counters
    # `beats` are the believed ones with bad news, too.
    assert counted.beats >= len(healthy_ms)
    assert min(counted.replayed, counted.early, counted.restarts, counted.distrusted, counted.malformed) > 100
