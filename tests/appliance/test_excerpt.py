"""The line under a mistake, and the mark under the place."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.appliance.yaml.document import Position
from reconciler.appliance.yaml.excerpt import excerpt
from reconciler.cli.main import cli


@pytest.mark.parametrize(
    ("text", "place", "shown"),
    [
        ("a: 1\nbb: 2\n", Position(2, 5), "    bb: 2\n        ^"),
        # Two cells of a terminal each; a mark that combines takes none.
        ("漢字: x", Position(1, 5), "    漢字: x\n          ^"),
        ("e\u0301: x", Position(1, 5), "    e\u0301: x\n       ^"),
        # Nothing that steers a terminal gets there.
        ("a: \x1b[31m\x9b\u202e", Position(1, 4), "    a: ·[31m··\n       ^"),
        ("x" * 200 + "!", Position(1, 201), f"    {'x' * 50}!\n    {' ' * 50}^"),
        ("a: 1\n", Position(2, 1), ""),
        ("a: 1", Position(7, 1), ""),
    ],
)
def test_the_place_is_marked(text: str, place: Position, shown: str) -> None:
    assert excerpt(text.encode(), place) == shown


def test_validate_shows_the_line_of_each_mistake_and_every_file_that_was_named(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("schema: reconciler/v1\nports: 7\n")
    other.write_text("schema:\treconciler/v1\n")
    done = CliRunner().invoke(cli, ["validate", "-f", str(one), str(other)])
    assert done.exit_code == 1
    assert "    ports: 7\n           ^\n" in done.output
    assert "    schema:·reconciler/v1\n           ^\n" in done.output
    assert "0 of 2 files are valid" in done.output
