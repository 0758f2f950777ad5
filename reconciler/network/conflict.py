"""Recognising that somebody else changes back what we repair: after a few rounds, repair ever more seldom.

Two managers that each restore their own idea of an interface make a network that never rests. One of them has to be
told; until somebody does, the wire is better off with one move a minute than with twenty a second.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from reconciler.network.diff import Change, Make, Remove, Set
from reconciler.network.plan import MakeLink, Operation, RemoveLink, SetLink
from reconciler.network.state import Setting
from reconciler.warning import Severity, Warning

# So many times the same thing within so long is no accident.
ROUNDS = 4
WITHIN_MS = 30_000
# How long to wait before the next repair; doubled each time up to the bound.
FIRST_PAUSE_MS = 1_000
LONGEST_PAUSE_MS = 60_000
_MAX_THINGS = 4_096

Thing = tuple[str, str]
"""Interface, and what about it: a setting, or the kind of change."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """How it goes about one thing. `repaired_ms`: when it was repaired lately; `pause_ms`: 0 until it is a conflict.

    `index`: which interface it was. Another one under the same name (a VM came back) has done nothing yet. `refused`:
    it is the kernel that does not want it so, and no other manager. `who`: the other managers that it may be.
    """

    repaired_ms: tuple[int, ...] = ()
    pause_ms: int = 0
    index: int = 0
    refused: bool = False
    who: tuple[str, ...] = ()

    @property
    def next_ms(self) -> int:
        """When it may be repaired again."""
        return self.repaired_ms[-1] + self.pause_ms if self.repaired_ms and self.pause_ms else 0


@dataclass(slots=True)
class Conflicts:
    """What is being fought about, by thing."""

    _of: dict[Thing, Conflict] = field(default_factory=dict)

    def allowed(self, change: Change, now: int, index: int) -> bool:
        """Whether a change may be repaired already. `index`: of the interface; 0: it is not there."""
        return now >= self._known(about(change), index).next_ms

    def repaired(self, change: Change, now: int, index: int, *, refused: bool = False) -> bool:
        """Note that a change was repaired, or `refused`; whether this makes it a conflict."""
        thing = about(change)
        old = self._known(thing, index)
        if old.pause_ms:
            self._of[thing] = Conflict((now,), min(old.pause_ms * 2, LONGEST_PAUSE_MS), index, refused, old.who)
            return False
        recent = (*(moment for moment in old.repaired_ms if now - moment < WITHIN_MS), now)[-ROUNDS:]
        begins = len(recent) >= ROUNDS
        self._of[thing] = Conflict(recent, FIRST_PAUSE_MS if begins else 0, index, refused)
        if len(self._of) > _MAX_THINGS:
            del self._of[next(iter(self._of))]
        return begins

    def suspect(self, thing: Thing, who: tuple[str, ...]) -> Warning | None:
        """Note who may be at it; the conflict, as bad news. None: it is over by now."""
        if thing not in self._of:
            return None
        self._of[thing] = replace(self._of[thing], who=who)
        return _warning(thing, self._of[thing])

    def _known(self, thing: Thing, index: int) -> Conflict:
        conflict = self._of.get(thing)
        return conflict if conflict and conflict.index == index else Conflict()

    def due(self, changes: Collection[Change]) -> int | None:
        """When the first of these changes that had to wait may be repaired."""
        waiting = (self._of.get(about(one), Conflict()) for one in changes)
        return min((conflict.next_ms for conflict in waiting if conflict.pause_ms), default=None)

    def calmed(self, now: int) -> tuple[Thing, ...]:
        """What nobody has fought about for long enough, from now on as if never fought about."""
        over = {thing: one for thing, one in self._of.items() if one.pause_ms and now - one.next_ms > WITHIN_MS}
        for thing in over:
            del self._of[thing]
        return tuple(thing for thing, conflict in over.items() if not conflict.refused)

    def forget(self) -> None:
        """A new choice is no conflict: what was repaired before belongs to another network."""
        self._of.clear()

    @property
    def under_way(self) -> tuple[Thing, ...]:
        """What is being fought about."""
        return tuple(thing for thing, conflict in self._of.items() if conflict.pause_ms and not conflict.refused)

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """What is under way, and what the kernel refuses again and again."""
        return tuple(_warning(thing, conflict) for thing, conflict in self._of.items() if conflict.pause_ms)


def _warning(thing: Thing, conflict: Conflict) -> Warning:
    name, what = thing
    if conflict.refused:
        text = f"its {what} is refused again and again; it is tried ever more seldom"
        return Warning("refused-again", Severity.ERROR, name, text)
    who = f"probably {', '.join(conflict.who)}" if conflict.who else "somebody"
    text = f"{who} keeps changing back its {what}; it is repaired ever more seldom"
    right = "tell that program to leave the appliance's interfaces alone"
    return Warning("conflict", Severity.WARNING, name, text, right)


def about(change: Change | Operation) -> Thing:
    """What a change, or an operation of its plan, is about."""
    match change:
        case Set(link, setting) | SetLink(link, setting):
            return link.name, setting.value
        case Make(link) | MakeLink(link):
            return link.name, "making"
        case Remove(link) | RemoveLink(link):
            return link.name, "removal"


def suspects(change: Change, running: Collection[str], holder: str | None) -> tuple[str, ...]:
    """Who may be changing it back: of the network managers among the `running` programs those that do such things.

    `holder`: the switch in which the interface was found.
    """
    # The kernel keeps 15 characters of a program's name (TASK_COMM_LEN).
    found = [name for name in ("systemd-networkd", "NetworkManager", "ifupdown2d", "connmand") if name[:15] in running]
    moves = isinstance(change, Set) and change.setting is Setting.SWITCH
    if moves and holder is not None and "libvirtd" in running:
        # It attaches taps of <interface type='bridge'> again at every start, of the VM's and its own.
        found.insert(0, "libvirtd")
    return tuple(found)
