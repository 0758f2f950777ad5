"""Words for people: hostile text made fit for a terminal, values named as YAML names them, the word that was meant."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

# Comparing one word with 500 takes about 5 ms; files that need more of it than this are not misspelt but broken.
MAX_GUESSES = 100
MAX_CANDIDATES = 500

# Editors, office programs and web pages put them where a space or a quotation mark was typed.
_LOOKALIKES = {
    "\t": ("a tab", "YAML is spaced with spaces: write some"),
    "\u00a0": ("a no-break space (U+00A0)", "write a plain space"),
    "\u202f": ("a narrow no-break space (U+202F)", "write a plain space"),
    "\u3000": ("an ideographic space (U+3000)", "write a plain space"),
    "\u200b": ("a space of no width (U+200B)", "remove it"),
    "\ufeff": ("a space of no width (U+FEFF)", "remove it"),
    "\u201c": ("a typographic quotation mark (U+201C)", 'write "'),
    "\u201d": ("a typographic quotation mark (U+201D)", 'write "'),
    "\u2018": ("a typographic quotation mark (U+2018)", "write '"),
    "\u2019": ("a typographic quotation mark (U+2019)", "write '"),
    "\uff1a": ("a wide colon (U+FF1A)", "write a plain one"),
}
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


def show(text: str, limit: int = 60) -> str:
    """Hostile text for a person's terminal: control characters escaped, length bounded."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[:limit] + "…"


def shown(value: str) -> str:
    """A value quoted for a message, escaped and bounded."""
    return ascii(value) if len(value) <= 60 else ascii(value[:60]) + "…"


def lookalike(text: str) -> tuple[int, str, str] | None:
    """The first character of `text` that looks like another: its index, what it is, and what would be right."""
    return next(((index, *_LOOKALIKES[c]) for index, c in enumerate(text) if c in _LOOKALIKES), None)


def kind(value: Any) -> str:
    """What a value of the file is, in the words of YAML."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), "something else")


def milliseconds(duration: str) -> int:
    """A duration of the file, such as ``200ms`` or ``5s``, in milliseconds."""
    number, unit = re.findall(r"\d+|\D+", duration)
    return int(number) * _UNIT_MS[unit]


@dataclass(slots=True)
class Guesser:
    """Finds the word that was meant, if one is near enough; gives up after so many words, to bound its time."""

    left: int = MAX_GUESSES

    def closest(self, word: str, words: Iterable[str]) -> str | None:
        """Of `words` the one most like `word`, else None."""
        self.left -= 1
        if self.left < 0:
            return None
        folded = {candidate.casefold(): candidate for candidate in islice(words, MAX_CANDIDATES)}
        found = difflib.get_close_matches(word[:64].casefold(), folded, n=1, cutoff=0.6)
        return folded[found[0]] if found else None
