"""What a valid file is unwise to say."""

from typing import Any

import pytest
from worlds import two_ports

from reconciler.appliance.unwise import warnings

CANARY = {"canary": {"kind": "canary"}}
NO_SAY = {"canary": {"kind": "canary", "required": False}}
BEAT = {"kind": "heartbeat", "socket": "/x"}


def found(**more: Any) -> list[tuple[str, str, str]]:
    of = two_ports(guard={}, **more)
    return [(one.code, one.severity, one.about) for one in warnings(of)]


@pytest.mark.parametrize(
    "health",
    [
        {},
        {"signals": {"beat": BEAT}},
        {"signals": CANARY},
        {"signals": {**NO_SAY, "beat": BEAT}, "groups": {"any": {"any_of": ["canary", "beat"]}}},
    ],
    ids=["nothing said", "no canary said", "required", "in a group"],
)
def test_a_canary_that_has_a_say(health: dict[str, Any]) -> None:
    assert found(health=health) == []


def test_a_canary_that_a_guard_does_not_go_by_need_have_none() -> None:
    of = two_ports(guard={"lease_by": "daemon", "lease": "1s"}, health={"signals": {**NO_SAY, "beat": BEAT}})
    assert list(warnings(of)) == []


def test_a_canary_that_has_none_while_the_guard_acts() -> None:
    assert found(health={"signals": NO_SAY}) == [("canary-not-required", "warning", "signal canary")]


def test_of_several_segments_each_is_looked_at() -> None:
    ports = {f"p{number}": {"match": {"name": f"eth{number}"}} for number in range(7)}
    adapters = {f"p{number}": {"tap": f"tap{number}"} for number in range(7)}
    segments = {"a": ["p0", "p1"], "b": {"ports": ["p2", "p3"], "guard": "off"}, "c": ["p4", "p5", "p6"]}
    signals = {
        "of-a": {"kind": "canary", "segment": "a"},
        "of-c": {"kind": "canary", "segment": "c", "required": False},
    }
    more = {"ports": ports, "segments": segments, "vm": {"adapters": adapters}, "health": {"signals": signals}}
    assert found(**more) == [
        ("canary-not-required", "warning", "signal of-c"),
        ("segment-of-many", "note", "segment c"),
    ]
