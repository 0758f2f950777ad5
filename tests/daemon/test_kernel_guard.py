"""What is known of the guard from before: taken as it is, or not at all."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from reconciler.daemon.journal import Journal
from reconciler.daemon.kernel_guard import _kept, notes_of

SEGMENT = {
    "trips": 2,
    "open_ms": 700,
    "open_since": None,
    "total": [3, 180],
    "told": [2, 120],
    "seen": [1, 60],
    "handle": 7,
    "told_ms": 500,
}
GOOD = {"on": True, "secret": "ab" * 16, "digest": "d", "fingerprint": "f", "segments": {"wire": SEGMENT}}


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(tmp_path))


def read(text: str | None) -> tuple[dict[str, Any], str]:
    """What is known, and what is told."""
    told = io.StringIO()
    notes = notes_of("sku")
    if text is not None:
        notes.path.write_text(text)
    return _kept(notes, Journal(told)), told.getvalue()


def test_what_was_written_is_read() -> None:
    notes_of("sku").write(GOOD)
    assert read(None) == (GOOD, "")
    gone = {**GOOD, "on": False, "digest": "", "fingerprint": None}
    assert read(json.dumps(gone)) == (gone, "")


def test_what_it_writes_is_what_it_understands() -> None:
    from guards import Guards

    kept = Guards().granted()
    assert read(json.dumps(kept.notes)) == (kept.notes, "")


def test_no_notes_are_no_fault() -> None:
    assert read(None) == ({}, "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null ",
        "[]",
        "7",
        '"text"',
        json.dumps({key: GOOD[key] for key in GOOD if key != "secret"}),
        json.dumps({**GOOD, "secret": "xy" * 16}),
        json.dumps({**GOOD, "secret": "ab"}),
        json.dumps({**GOOD, "secret": None}),
        json.dumps({**GOOD, "segments": None}),
        json.dumps({**GOOD, "segments": {"wire": 3}}),
        json.dumps({**GOOD, "segments": {"wire": {}}}),
        json.dumps({**GOOD, "segments": {"wire": {**SEGMENT, "trips": "many"}}}),
        json.dumps({**GOOD, "segments": {"wire": {**SEGMENT, "total": ["x"]}}}),
    ],
)
def test_what_is_torn_is_told_and_not_believed(text: str) -> None:
    found, told = read(text)
    assert found == {}
    assert text == "null " or "cannot be used" in told
