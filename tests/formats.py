"""The published schemas, and whether a value is what they say."""

import functools
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parent.parent / "schemas"


def schema(name: str) -> dict[str, Any]:
    """The schema of `reconciler.NAME/…`."""
    value: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return value


def enumerate_again(name: str, settings: list[str], log_cases: dict[str, list[str]]) -> None:
    """Write into a schema what is enumerated in the source: the settings, or the events of the log with their data."""
    of = schema(name)
    if "setting" in of.get("$defs", {}):
        of["$defs"]["setting"]["enum"] = settings
    if name == "log":
        of["properties"]["event"]["enum"] = list(log_cases)
        of["allOf"] = [
            {"if": {"properties": {"event": {"const": event}}}, "then": {"propertyNames": {"enum": names}}}
            for event, names in log_cases.items()
        ]
    path = SCHEMAS / f"{name}.schema.json"
    path.write_text(json.dumps(of, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    of = schema(name)
    Draft202012Validator.check_schema(of)
    return Draft202012Validator(of)


def check(name: str, value: Any) -> None:
    """The value is what the schema says."""
    printed = json.loads(json.dumps(value))
    wrong = [f"{error.json_path}: {error.message[:200]}" for error in _validator(name).iter_errors(printed)]
    assert not wrong, wrong
