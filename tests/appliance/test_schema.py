"""The JSON Schema as an editor sees it."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from reconciler.appliance.written import schema

ROOT = Path(__file__).parents[2]
SCHEMA = schema.schema()


def nodes(node, path="$"):
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from nodes(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from nodes(value, f"{path}[{index}]")


def test_is_fresh():
    written = (ROOT / "schemas" / "appliance.schema.json").read_text()
    assert written == schema.text(), "run `reconcile schema > schemas/appliance.schema.json`"


def test_is_draft_2020_12():
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMA)


def test_only_words_that_the_draft_knows():
    # A constraint that pydantic could not translate lands here under its own name, and means nothing there.
    known = {key for vocabulary in Draft202012Validator(SCHEMA).VALIDATORS for key in [vocabulary]}
    known |= {"$schema", "$id", "$defs", "title", "description", "default", "then", "else"}
    for path, node in nodes(SCHEMA):
        # What stands beneath `default` is a piece of an appliance file.
        if path.endswith((".properties", ".patternProperties", ".$defs", ".dependentRequired")) or ".default" in path:
            continue
        assert set(node) <= known, path


def test_every_property_has_a_description():
    for path, node in nodes(SCHEMA):
        for name, inner in node.get("properties", {}).items() if not path.endswith(".properties") else ():
            target = SCHEMA["$defs"][inner["$ref"].rsplit("/", 1)[1]] if "$ref" in inner else {}
            if "const" in inner and node.get("description"):
                # What this word makes of the whole stands there.
                continue
            assert inner.get("description") or target.get("description"), f"{path}.{name}"


def test_every_definition_has_a_description_and_is_closed():
    for name, inner in SCHEMA["$defs"].items():
        assert inner["description"], name
        assert inner["additionalProperties"] is False, name


def test_null_is_never_a_value():
    assert "null" not in schema.text()


def test_defaults_read_as_a_vendor_writes_them():
    assert SCHEMA["$defs"]["Segment"]["properties"]["ageing"]["default"] == "300s"
    assert SCHEMA["$defs"]["Health"]["properties"]["hold_down"]["default"] == "30s"
    json.dumps(SCHEMA, allow_nan=False)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ((), "topologies"),
        (("ports", "outside"), "match"),
        (("ports", "outside", "match"), "pci"),
        (("segments", "edge"), "mtu"),
        (("topologies", "inspect", "switches", "sw0"), "adapters"),
        (("health",), "hold_down"),
        (("health", "signals", "beat", "heartbeat"), "interval"),
        (("health", "signals", "web", "http", "absent"), "before"),
        (("health", "groups", "one"), "n_of"),
        (("health", "signals", "path", "canary", "negative"), "payload"),
        (("on_failure", "restart", "ladder", 0), "attempts"),
        (("guard",), "lease"),
        (("guard", "probe"), "frame"),
        (("segments", "edge", "guard", "probe"), "every"),
        (("vm", "programs"), "reset"),
    ],
)
def test_keys_at(path, key):
    assert key in schema.keys_at(SCHEMA, path)


def test_keys_at_where_keys_are_free():
    assert schema.keys_at(SCHEMA, ("ports",)) == []
    assert schema.keys_at(SCHEMA, ("no", "such")) == []
