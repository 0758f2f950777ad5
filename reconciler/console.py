"""Printing: nothing that a stranger chose reaches the terminal unescaped, and colour only where it is wanted."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TextIO

import click

from reconciler.warning import Severity, Warning

_COLOURS = {Severity.NOTE: None, Severity.WARNING: "yellow", Severity.ERROR: "red"}


# A space at which no line is broken; it is printed as any other.
NO_BREAK = "\u00a0"
_NARROWEST = 20
# What a terminal that knows no such characters gets.
_PLAIN = str.maketrans({"−": "-", "●": "*", "→": ">", "…": "."})


class Said(NamedTuple):
    """A line of output: fit for a terminal already, with colours that are dropped where they are not wanted."""

    text: str
    error: bool = False


def warning_lines(warning: Warning) -> Iterator[str]:
    """Bad news, as everybody prints it: a line, and one for each thing that its remedy lists."""
    first, *more = escaped(str(warning), but="\n").split("\n")
    yield f"{click.style(warning.severity, fg=_COLOURS[warning.severity])}: {first}"
    yield from (f"    {line.strip()}" for line in more)


def warned(warning: Warning, before: str = "", *, error: bool = False) -> Said:
    """The same at once, with this `before` each line."""
    return Said("\n".join(before + line for line in warning_lines(warning)), error)


def show(lines: Iterable[Said]) -> None:
    """Print lines, each where it belongs."""
    for text, error in lines:
        write(text, error=error)


def say(text: str = "", *, error: bool = False) -> None:
    """Print lines of ours; what the terminal must not interpret, because a stranger chose it, is escaped."""
    write(escaped(text, but="\n"), error=error)


def say_json(value: Any) -> None:
    """Print a JSON value."""
    click.echo(json_text(value))


def json_text(value: Any) -> str:
    """A JSON value as it is printed."""
    return json.dumps(value, indent=2, ensure_ascii=True)


def write(line: str, *, error: bool = False) -> None:
    """Print a line that is safe already, with the colours that are in it."""
    stream = sys.stderr if error else sys.stdout
    if stream is None:
        # Closed by whoever started us: nobody wants to know.
        return
    click.echo(rendered(line, stream), file=stream, color=True)


def rendered(line: str, stream: TextIO) -> str:
    """The line as it is to be written to `stream`: in its characters, and with colours only where they are wanted."""
    encoding = stream.encoding or "ascii"
    if not encoding.lower().startswith("utf"):
        line = line.translate(_PLAIN)
    wants = _wants_color()
    coloured = line if wants or (wants is None and stream.isatty()) else click.unstyle(line)
    return coloured.encode(encoding, "replace").decode(encoding)


def width() -> int:
    """How many columns a line of output may have: the terminal's, else what COLUMNS says, else 80."""
    return max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST)


def wrapped(text: str, columns: int, hang: int = 0) -> Iterator[str]:
    """The text in lines that fit into `columns`, broken between words; those after the first begin with `hang` spaces.

    Colours are of no width, and end with the word that they are of. A word that is too long stays whole. `NO_BREAK`
    holds two words together.
    """
    # Deeper than half of the line, nothing fits any more.
    margin = " " * (hang if hang <= columns // 2 else 4)
    line, used = "", 0
    for part in re.findall(r" *[^ ]+", text):
        size = len(click.unstyle(part))
        if line and used + size > columns:
            yield line.replace(NO_BREAK, " ")
            line, used = margin + part.lstrip(" "), len(margin) + len(click.unstyle(part.lstrip(" ")))
        else:
            line, used = line + part, used + size
    yield line.replace(NO_BREAK, " ")


def escaped(text: str, but: str = "") -> str:
    """The text with every character escaped that does not print, less those in `but`."""
    return "".join(c if c.isprintable() or c in but else ascii(c)[1:-1] for c in text)


def _wants_color() -> bool | None:
    """As the conventions NO_COLOR and FORCE_COLOR have it; None: only on a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None
