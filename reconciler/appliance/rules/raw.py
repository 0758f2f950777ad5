"""Reading a raw document without believing anything of its shape."""

import re
from collections.abc import Iterator
from typing import Any

from reconciler.appliance.written.fields import DURATION
from reconciler.appliance.yaml.document import Path
from reconciler.appliance.yaml.words import milliseconds


def get(data: Any, key: str) -> Any:
    """The value at `key`; None without one, or where `data` is no mapping."""
    return data.get(key) if isinstance(data, dict) else None


def mapping(data: Any, *keys: str) -> dict[str, Any]:
    """The mapping that `keys` lead to; an empty one where there is none."""
    for key in keys:
        data = get(data, key)
    return data if isinstance(data, dict) else {}


def items(path: Path, data: Any) -> Iterator[tuple[Path, str]]:
    """Each text in the list `data`, with its own path; nothing where `data` is no list."""
    if isinstance(data, list):
        yield from (((*path, index), item) for index, item in enumerate(data) if isinstance(item, str))


def duration(value: Any) -> int | None:
    """A duration in milliseconds; None for what is none: that is found where it stands."""
    return milliseconds(value) if isinstance(value, str) and re.fullmatch(DURATION, value) else None
