"""Printing: nothing that a stranger chose reaches the terminal unescaped, and colour only where it is wanted."""

import json
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import click

from reconciler.warning import Severity, Warning

_COLOURS = {Severity.NOTE: None, Severity.WARNING: "yellow", Severity.ERROR: "red"}


class Said(NamedTuple):
    """A line of output: fit for a terminal already, with colours that are dropped where they are not wanted."""

    text: str
    error: bool = False


def warned(warning: Warning, before: str = "", *, error: bool = False) -> Said:
    """Bad news, as everybody prints it; each of its lines with this `before` it."""
    first, *more = escaped(str(warning), but="\n").split("\n")
    severity = click.style(warning.severity, fg=_COLOURS[warning.severity])
    lines = (f"{severity}: {first}", *(f"    {line.strip()}" for line in more))
    return Said("\n".join(before + line for line in lines), error)


def show(lines: Iterable[Said]) -> None:
    """Print lines, each where it belongs."""
    for text, error in lines:
        write(text, error=error)


def say(text: str = "", *, error: bool = False) -> None:
    """Print lines of ours; what the terminal must not interpret, because a stranger chose it, is escaped."""
    write(escaped(text, but="\n"), error=error)


def say_json(value: Any) -> None:
    """Print a JSON value."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def write(line: str, *, error: bool = False) -> None:
    """Print a line that is safe already, with the colours that are in it."""
    stream = sys.stderr if error else sys.stdout
    if stream is None:
        # Closed by whoever started us: nobody wants to know.
        return
    encoding = stream.encoding or "ascii"
    if not encoding.lower().startswith("utf"):
        line = line.replace("−", "-")
    click.echo(line.encode(encoding, "replace").decode(encoding), file=stream, color=_wants_color())


def escaped(text: str, but: str = "") -> str:
    """The text with every character escaped that does not print, less those in `but`."""
    return "".join(c if c.isprintable() or c in but else ascii(c)[1:-1] for c in text)


def _wants_color() -> bool | None:
    """As the conventions NO_COLOR and FORCE_COLOR have it; None: only on a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None
