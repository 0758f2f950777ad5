"""What was in force last, for a start that finds the file broken."""

from pathlib import Path

import pytest

from reconciler.appliance.load import InvalidFileError
from reconciler.errors import HostError
from reconciler.host import store
from reconciler.host.accepted import in_force, keep, last

GOOD = (Path(__file__).parents[2] / "topologies" / "lab.yaml").read_bytes()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "appliance.yaml"
    made.write_bytes(GOOD)
    return made


@pytest.mark.parametrize("broken", [b"", b"schema: reconciler/v1\n", GOOD[: len(GOOD) // 2], b"\xff\xfe", b"\0" * 4096])
def test_a_broken_file_leaves_what_was_accepted_in_force_and_says_so(file: Path, tmp_path: Path, broken: bytes) -> None:
    state = tmp_path / "state"
    keep(file, GOOD, state)
    file.write_bytes(broken)
    found = in_force(file, state, store.load)
    assert (found.text, found.appliance) == (GOOD, store.load(GOOD, "x", state))
    (warning,) = found.warnings
    assert (warning.code, warning.about) == ("file-broken", str(file))
    assert "is in force: " in warning.text
    assert str(file) in warning.text.split("is in force: ")[1]


def test_a_file_that_is_right_is_in_force_whatever_was_accepted(file: Path, tmp_path: Path) -> None:
    keep(file, b"sku: other\n", tmp_path)
    found = in_force(file, tmp_path, store.load)
    assert (found.text, found.warnings) == (GOOD, ())


def test_where_nothing_was_ever_accepted_a_broken_file_is_an_error(file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"")
    with pytest.raises(InvalidFileError):
        in_force(file, tmp_path, store.load)
    # Of another file, that says nothing of this one.
    keep(tmp_path / "other.yaml", GOOD, tmp_path)
    with pytest.raises(InvalidFileError):
        in_force(file, tmp_path, store.load)


def test_a_file_that_was_taken_away_is_nobodys_accident(file: Path, tmp_path: Path) -> None:
    keep(file, GOOD, tmp_path)
    file.unlink()
    with pytest.raises(HostError, match=r"appliance\.yaml"):
        in_force(file, tmp_path, store.load)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"text": 1}', b"\xff"])
def test_what_is_kept_is_no_reason_to_fail_otherwise(file: Path, tmp_path: Path, damage: bytes) -> None:
    keep(file, GOOD, tmp_path)
    (kept,) = (tmp_path / "accepted").iterdir()
    kept.write_bytes(damage)
    file.write_bytes(b"")
    with pytest.raises(InvalidFileError):
        in_force(file, tmp_path, store.load)


def test_the_date_is_that_of_its_acceptance_and_not_of_the_last_start(file: Path, tmp_path: Path) -> None:
    keep(file, GOOD, tmp_path)
    (kept,) = (tmp_path / "accepted").iterdir()
    before = kept.stat().st_mtime_ns, last(file, tmp_path)
    keep(file, GOOD, tmp_path)
    assert (kept.stat().st_mtime_ns, last(file, tmp_path)) == before
