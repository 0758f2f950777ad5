"""Bad news, in one form, whoever found it: what a dry run, the status, the log, metrics and alerts show.

A warning says of one thing what is wrong with it and what would repair it. Its code is stable, for programs, and each
code is told in docs/warnings.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad it is. The worst comes last."""

    NOTE = "note"  # worth knowing: nothing is lost by it
    WARNING = "warning"  # it may cut, divert or expose frames, or cost the protection that was declared
    ERROR = "error"  # it does, or what the file declares is not in force


_WORST = {severity: number for number, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001 - the field's word; Python's own warnings are used nowhere
    """One piece of bad news.

    `about`: the thing: a role as the file spells it (`port outside`), an interface, a segment, a signal, or '' where
    the whole host or appliance is meant. `text`: what is wrong, without naming the thing again. `remedy`: what would
    be right, as a sentence's second half or a command; '' where nothing is to be done. Text that comes from outside is
    not escaped here: whoever prints it does. A remedy that lists something has a line for each.
    """

    code: str
    severity: Severity
    about: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.about}: " if self.about else ""
        return f"{where}{self.text}{f'; {self.remedy}' if self.remedy else ''}"

    @property
    def line(self) -> str:
        """The same in one line, as a log has it. What a remedy lists stands in lines of its own."""
        first, *more = str(self).split("\n")
        return f"{first} {'; '.join(map(str.strip, more))}" if more else first

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Warning":
        """What `as_json` has made, perhaps in another process."""
        return cls(value["code"], Severity(value["severity"]), value["about"], value["text"], value["remedy"])

    def as_json(self) -> dict[str, Any]:
        """A JSON value with the five fields."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "about": self.about,
            "text": self.text,
            "remedy": self.remedy,
        }


def worst_first(warnings: Iterable[Warning]) -> tuple[Warning, ...]:
    """Each once, in the order in which they are to be shown; equals stay in the order in which they came."""
    return tuple(sorted(dict.fromkeys(warnings), key=lambda one: -_WORST[one.severity]))
