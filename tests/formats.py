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
