"""Since when each path is what it is, and what was counted on it: kept as long as the machine runs."""

from collections.abc import Mapping
from typing import Any

from reconciler.host import clock, places
from reconciler.host.envelope import utc
from reconciler.host.statefile import StateFile


def path_notes(sku: str) -> StateFile:
    """Where it lies: beside the guard's notes, and gone after a boot as what they tell of."""
    return StateFile(places.run_dir() / f"{sku}.path.json")


def noted(segments: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be written; `segments` as `network.path.recall_since` takes it."""
    return {"boot": clock.boot_id(), "segments": segments}


def recall_paths(sku: str) -> Mapping[str, Any]:
    """What was written in this run of the machine; nothing where it cannot be read."""
    try:
        found = path_notes(sku).read()
        return dict(found["segments"]) if found and found["boot"] == clock.boot_id() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def since(at_ms: int | None, now_ms: int) -> dict[str, Any]:
    """When a path became what it is, as part of a status: in UTC, and how long ago; None, where it is not known.

    `at_ms`: by the clock of `now_ms`.

    By what the wall shows now: a clock that was set meanwhile is no reason to tell another time than others would.
    """
    if at_ms is None:
        return {"path_since": None, "path_ms": None}
    age_ms = max(0, now_ms - at_ms)
    return {"path_since": utc(clock.wall_ms() - age_ms), "path_ms": age_ms}


def books_notes(sku: str) -> StateFile:
    """Where the accounts of `daemon.books` lie, which are of one run of the machine, as the counters are."""
    return StateFile(places.run_dir() / f"{sku}.books.json")


def recall_books(sku: str) -> Any:
    """The accounts that a process of this run has kept; None where it kept none, or they cannot be read."""
    try:
        found = books_notes(sku).read()
        return found if found and found["boot"] == clock.boot_id() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
