"""The JSON Schema of the appliance file, made from the model, for editors and any validator of draft 2020-12."""

import json
from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from reconciler.appliance.written.network import ApplianceFile

Schema = dict[str, Any]


class _Generator(GenerateJsonSchema):
    """As pydantic has it, less titles that only repeat the key, and without null: a key is given or left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if made.get("default", ...) is None:
            del made["default"]
        return made

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        if "patternProperties" in made:
            made["additionalProperties"] = False
        return made


@cache
def schema() -> Schema:
    """The schema as a JSON value; not to be changed."""
    made = ApplianceFile.model_json_schema(schema_generator=_Generator)
    return {"$schema": GenerateJsonSchema.schema_dialect, "$id": "urn:reconciler:appliance:v1", **made}


def text() -> str:
    """The schema as it stands in ``schemas/appliance.schema.json``."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def keys_at(root: Schema, path: tuple[str | int, ...]) -> list[str]:
    """Which keys the schema knows for the mapping at `path`; none where keys are free."""
    node = _resolve(root, root)
    for step in path:
        inner = node.get("properties", {}).get(step) or _kind(root, node, step)
        if inner is None:
            inner = next(iter(node.get("patternProperties", {}).values()), None)
        if inner is None and isinstance(step, int):
            inner = node.get("items")
        if inner is None:
            return []
        node = _resolve(root, inner)
    return list(node.get("properties", {}))


def _kind(root: Schema, node: Schema, step: str | int) -> Schema | None:
    """Of the kinds of thing that `node` may be, the one called `step`: pydantic names it in its paths."""
    for choice in node.get("oneOf", ()):
        kind = _resolve(root, choice)
        if kind.get("properties", {}).get("kind", {}).get("const") == step:
            return kind
    return None


def _resolve(root: Schema, node: Schema) -> Schema:
    while True:
        if "$ref" in node:
            node = root["$defs"][node["$ref"].rsplit("/", 1)[1]]
        elif "anyOf" in node:
            node = node["anyOf"][0]
        else:
            return node
