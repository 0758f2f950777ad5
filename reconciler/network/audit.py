"""All that a dry run tells: what of the network differs, what beside it does, and where frames go meanwhile."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from reconciler.exit_status import AS_DECLARED, DIFFERS, NOT_SEEN, of_paths
from reconciler.network.diff import Difference
from reconciler.network.path import Taken
from reconciler.warning import Severity, Warning, worst_first


@dataclass(frozen=True, slots=True)
class Beside:
    """Something that differs from the file and is no link: the guard's table, or what the daemon goes by.

    `code`: as a warning has it. `kind` and `name`: what it is. `change`: what would repair it. `about`: which of its
    properties; `old` and `new`: its values, for people. `remedy`: a command that repairs it.
    """

    code: str
    change: Literal["make", "set", "remove"]
    kind: str
    name: str
    about: str
    old: str | None
    new: str | None
    remedy: str

    @property
    def label(self) -> str:
        """For people: ``guard reconciler-apu2``."""
        return f"{self.kind} {self.name}"

    @property
    def warning(self) -> Warning:
        """The same where there are no differences to be listed among."""
        about = f"{self.about}: " if self.about else ""
        return Warning(self.code, Severity.ERROR, self.kind, f"{about}{self.old or self.new}", self.remedy)


@dataclass(frozen=True, slots=True)
class Audit:
    """See the module. `taken`: empty where the network is not this machine's. `unseen`: what could not be looked at."""

    found: Difference
    beside: tuple[Beside, ...] = ()
    taken: Mapping[str, Taken] = field(default_factory=dict)
    unseen: tuple[Warning, ...] = ()

    @property
    def as_declared(self) -> bool:
        """Whether nothing differs, as far as it could be seen."""
        return not (self.found.changes or self.found.problems or self.beside or self._is_blind)

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """All bad news, the worst first."""
        return worst_first((*self.found.warnings, *self.unseen))

    @property
    def exit_status(self) -> int:
        """What a dry run ends with: what it is for comes first, and where frames go after it."""
        if self.found.problems:
            return NOT_SEEN
        if self.found.changes or self.beside:
            return DIFFERS
        return of_paths(one.path for one in self.taken.values()) or (NOT_SEEN if self._is_blind else AS_DECLARED)

    @property
    def _is_blind(self) -> bool:
        return any(one.severity is Severity.ERROR for one in self.unseen)


def other_file(sku: str, in_force: str, given: str) -> Beside:
    """The daemon goes by another file than the one that was given; digests both. Health and ladder are in no kernel."""
    old, new = (f"sha256 {one[:12]}" for one in (in_force, given))
    return Beside("file-not-in-force", "set", "daemon", sku, "file", old, new, "reconcile reload")
