"""A network as JSON and back."""

import json
from typing import Any

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import World, host, two_ports, worlds

from reconciler.network import render
from reconciler.network.desired import choice_of, desired
from reconciler.network.diff import difference
from reconciler.network.plan import plan
from reconciler.network.record import InvalidRecordError, dump, parse
from reconciler.network.state import Kind, Link, Network, Nic, Setting

ANY_TEXT = st.text(max_size=20)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), ANY_TEXT, st.lists(ANY_TEXT, max_size=3).map(tuple))
MAYBE = st.one_of(st.none(), ANY_TEXT)
NICS = st.builds(
    Nic,
    index=st.integers(0, 2**31),
    pci=MAYBE,
    mac=MAYBE,
    driver=MAYBE,
    altnames=st.lists(ANY_TEXT, max_size=2).map(tuple),
    carrier=st.booleans(),
    physical=st.booleans(),
    lower=st.lists(st.integers(0, 99), max_size=2).map(tuple),
    bus=MAYBE,
    inet6=st.lists(ANY_TEXT, max_size=2).map(tuple),
)
OTHER_SETTINGS = st.dictionaries(st.sampled_from([one for one in Setting if one is not Setting.SWITCH]), VALUES)
LINKS = st.builds(
    Link,
    name=ANY_TEXT,
    kind=st.sampled_from(Kind),
    settings=st.builds(lambda others, switch: others | {Setting.SWITCH: switch}, OTHER_SETTINGS, MAYBE),
    nic=NICS,
)
NETWORKS = st.builds(
    Network,
    links=st.lists(LINKS, max_size=4).map(tuple),
    default_route=st.frozensets(ANY_TEXT, max_size=2),
    bridge_netfilter=st.lists(ANY_TEXT, max_size=2).map(tuple),
    routed=st.frozensets(ANY_TEXT, max_size=2),
    unresolved=st.lists(st.integers(0, 2**32 - 1), max_size=2).map(tuple),
)


@given(NETWORKS)
def test_what_was_dumped_is_what_is_parsed(network: Network) -> None:
    assert parse(json.dumps(dump(network)), "state.json") == network


def test_a_switch_that_is_no_name_is_refused() -> None:
    recorded = dump(Network((Link("nic0", Kind.OTHER, {Setting.SWITCH: True}, nic=Nic(1)),)))
    with pytest.raises(InvalidRecordError, match="expected text"):
        parse(json.dumps(recorded), "state.json")


@given(worlds())
@settings(max_examples=examples(30))
def test_an_observed_host_is_recorded_whole(world: World) -> None:
    network = world.kernel.observe()
    assert parse(json.dumps(dump(network)), "state.json") == network


ALIEN: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in _places(one, (*at, key)))]


def _parse_or_refuse(text: str) -> None:
    try:
        actual = parse(text, "state.json")
    except InvalidRecordError as error:
        said = str(error)
        refused = said.startswith("state.json: ") and said.isprintable() and len(said) < 400
        if not refused:
            raise AssertionError(said) from error
        return
    # What is read can be planned against, whatever it says.
    of = two_ports()
    found = difference(of, desired(of, choice_of(of)), actual)
    todo = plan(found)
    json.dumps(render.as_json(of.sku, {}, found))
    assert len(list(map(render.line, found.changes))) == len(found.changes)
    assert len(list(render.commands(todo))) >= len(todo.operations) * bool(found.changes)


@given(st.data(), ALIEN)
@settings(max_examples=examples(300))
def test_a_record_with_anything_anywhere_is_read_or_refused(data: st.DataObject, alien: Any) -> None:
    record = json.loads(json.dumps(dump(host(two_ports()).observe())))
    *path, last = data.draw(st.sampled_from([place for place in _places(record) if place]))
    inner = record
    for key in path:
        inner = inner[key]
    if data.draw(st.booleans()):
        del inner[last]
    else:
        inner[last] = alien
    _parse_or_refuse(json.dumps(record))


@given(st.data())
def test_torn_and_garbled_text_is_read_or_refused(data: st.DataObject) -> None:
    text = json.dumps(dump(host(two_ports()).observe()))
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    _parse_or_refuse(text[:begin] + data.draw(st.text(max_size=10)) + text[end:])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"format": "reconciler.state/2"}',
        '{"format": ["reconciler.state/1"]}',
        "NaN",
        "1" * 5000,
    ],
)
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(InvalidRecordError, match="reconcile observe"):
        parse(text, "state.json")


@pytest.mark.parametrize("depth", [*range(850, 1000, 10), 100_000])
@pytest.mark.parametrize(
    "where", ['{"format": %s}', '{"format": "reconciler.state/1", "links": [], "default_route": [%s]}']
)
def test_a_record_of_any_depth_is_refused(where: str, depth: int) -> None:
    with pytest.raises(InvalidRecordError):
        parse(where.replace("%s", "[" * depth + "]" * depth), "state.json")


@pytest.mark.parametrize("key", ["carrier", "physical"])
def test_what_is_neither_true_nor_false_is_refused(key: str) -> None:
    recorded = dump(Network((Link("nic0", Kind.OTHER, {}, nic=Nic(1)),)))
    recorded["links"][0][key] = 1
    with pytest.raises(InvalidRecordError, match="expected true or false, found a whole number"):
        parse(json.dumps(recorded), "state.json")
