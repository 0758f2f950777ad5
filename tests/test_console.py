"""What is printed fits the terminal: in its width, its characters and its colours."""

import io

import click
import pytest

from reconciler.console import NO_BREAK, rendered, wrapped

RED = click.style("red", fg="red")


def test_lines_are_broken_between_words_and_hang() -> None:
    assert list(wrapped("  name  one two three four", 14, hang=8)) == ["  name  one", "    two three", "    four"]
    assert list(wrapped("  a  one two three four", 14, hang=5)) == ["  a  one two", "     three", "     four"]


def test_colours_have_no_width_and_what_belongs_together_stays() -> None:
    assert list(wrapped(f"{RED} {RED} {RED}", 7)) == [f"{RED} {RED}", RED]
    assert list(wrapped(f"since 4{NO_BREAK}min{NO_BREAK}6{NO_BREAK}s", 12)) == ["since", "4 min 6 s"]


def test_a_word_that_is_too_long_stays_whole() -> None:
    assert list(wrapped("see /run/ips/agent.sock there", 10)) == ["see", "/run/ips/agent.sock", "there"]


@pytest.mark.parametrize(
    ("encoding", "expected"), [("utf-8", "● − → … ü"), ("ascii", "* - > . ?"), ("latin-1", "* - > . ü")]
)
def test_what_a_terminal_cannot_write_has_a_stand_in(encoding: str, expected: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert rendered("● − → … ü", stream) == expected


@pytest.mark.parametrize(
    ("variables", "terminal", "coloured"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
    ],
)
def test_colours_are_for_terminals_unless_it_is_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], terminal: bool, coloured: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    assert rendered(RED, stream) == (RED if coloured else "red")
