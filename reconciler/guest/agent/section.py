"""A section of the config, which notes its mistakes."""

from __future__ import annotations

import re

from reconciler.guest.agent.readings import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Section:
    """A section of the file; notes what is wrong in it, with what would be right."""

    def __init__(self, place: str, values: Mapping[str, str], errors: list[str]) -> None:
        self.values = values
        self._place = place
        self._errors = errors

    def wrong(self, key: str, problem: str) -> None:
        """Note a mistake in a key, or (an empty key) in the section as such."""
        self._errors.append(f"{self._place} {key}: {problem}" if key else f"{self._place}: {problem}")

    def only(self, *known: str) -> None:
        """Note the keys that do not belong here."""
        for key in self.values:
            if key not in known:
                self.wrong(key, f"unknown key; known here: {', '.join(known)}")

    def text(self, key: str, pattern: str, right: str, default: str | None = None) -> str:
        """Return a value that fits the pattern; else note that it does not, and return an empty text."""
        value = self.values.get(key, default)
        if value is None:
            self.wrong(key, f"missing; write {right}")
        elif key in self.values and not re.fullmatch(pattern, value):
            self.wrong(key, f"{value!r} is not valid; write {right}")
        else:
            return value
        return ""

    def path(self, key: str) -> str:
        """Return an absolute path."""
        return self.text(key, r"/[^\n]*", "an absolute path")

    def lines(self, key: str) -> list[str]:
        """Return the lines of a value."""
        return [line for line in self.values.get(key, "").split("\n") if line]

    def duration(self, key: str, low: str, high: str, default: str | None = None) -> float:
        """Return a duration in seconds."""
        right = f"a duration from {low} to {high}, such as 500ms, 5s or 2m"
        value = self.text(key, r"[0-9]{1,9}(ms|s|m)", right, default)
        if value and not seconds(low) <= seconds(value) <= seconds(high):
            self.wrong(key, f"{value} is out of bounds; write {right}")
        return seconds(value or low)


def seconds(duration: str) -> float:
    """Return how many seconds a valid duration has."""
    unit = duration.lstrip("0123456789")
    return int(duration[: -len(unit)]) * UNIT_S[unit]
