"""Words, colours and lines that all texts for people share."""

from collections.abc import Iterator

import click

from reconciler.console import NO_BREAK, Said, escaped, wrapped

COLOURS = {
    "healthy": "green",
    "degraded": "yellow",
    "failed": "red",
    "absent": "yellow",
    "unknown": "yellow",
    "bypassed": "red",
    "cut": "red",
    "inspected": "green",
    "note": "cyan",
    "warning": "yellow",
    "error": "red",
}
# Names of more segments than so many are summed up.
MANY = 4


def span(milliseconds: int) -> str:
    """A length of time for people: its two largest units, or milliseconds."""
    if milliseconds < 1_000:
        return f"{milliseconds} ms"
    seconds = milliseconds // 1_000
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    first = next(index for index, (_, size) in enumerate(units) if seconds >= size)
    parts = []
    for unit, size in units[first : first + 2]:
        count, seconds = divmod(seconds, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts)


def whole_span(milliseconds: int) -> str:
    """The same in one piece: no line is broken within it."""
    return span(milliseconds).replace(" ", NO_BREAK)


def names_of(names: list[str], of: int) -> str:
    """Segments, which are all or some `of` so many."""
    if len(names) <= MANY:
        return ", ".join(map(escaped, names))
    return (
        f"all {of} segments"
        if len(names) == of
        else f"{', '.join(map(escaped, names[:MANY]))} and {len(names) - MANY} more"
    )


def first_of(reasons: list[str]) -> str:
    """The first of several, and how many there are."""
    return reasons[0] + (f", and {len(reasons) - 1} more" if len(reasons) > 1 else "")


def times(number: int) -> str:
    """How often."""
    return "once" if number == 1 else f"{number} times"


def fit(text: str, width: int, hang: int = 4) -> Iterator[Said]:
    """The text in lines of `width` columns; see `wrapped`."""
    return (Said(line) for line in wrapped(text, width, hang))


def painted(word: str) -> str:
    """A word of ours in its colour."""
    return styled(word, COLOURS.get(word))


def styled(text: str, colour: str | None) -> str:
    """Each word by itself, so that lines can be broken between them."""
    return " ".join(click.style(word, fg=colour) if word else "" for word in text.split(" "))
