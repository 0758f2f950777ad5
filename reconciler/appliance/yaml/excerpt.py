"""The line of a file that a mistake is about, with a mark under the place."""

import unicodedata

from reconciler.appliance.yaml.document import Position, lines_of

# Of a long line, so much before the place; and so much in all.
_BEFORE, _WIDTH = 50, 76


def excerpt(text: bytes, place: Position) -> str:
    """Two lines for a terminal: that of the file and, under the place, a caret; '' where the place is behind the end.

    The file is hostile: what is not printable becomes a dot of the same width, and a long line is cut.
    """
    lines = lines_of(text.decode("utf-8-sig", errors="replace"))
    if place.line > len(lines) or not lines[place.line - 1].strip():
        return ""
    line, column = lines[place.line - 1], place.column - 1
    begin = max(0, column - _BEFORE)
    clean = "".join(c if c.isprintable() else "·" for c in line[begin : begin + _WIDTH])
    # Han and the like take two cells of a terminal, marks that combine none.
    under = sum(_cells(c) for c in clean[: column - begin])
    return f"    {clean}\n    {' ' * under}^"


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
