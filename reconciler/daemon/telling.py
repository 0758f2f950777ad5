"""What the core decided, did and found, told: lines of the log, and the decisions that are kept for `status`.

The core decides and knows nothing of words; here nothing is decided but what is worth a line. What says the same again
says it once: what flaps, in a line and a count, a problem until it is solved, a refusal until the reason is another.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from reconciler.daemon.journal import LEVELS, Journal
from reconciler.errors import HostError, TransientError
from reconciler.health.state import RETURN, Decision, Ending, RestartEnded
from reconciler.log_events import EventName
from reconciler.network import render
from reconciler.network.conflict import Thing, about, suspects
from reconciler.network.diff import Change, Difference
from reconciler.network.plan import Outcome, Status
from reconciler.warning import Severity, Warning

DECISIONS_KEPT = 64
# Of what can change as often as a guest likes: so many changes within so long are told, and those beyond are counted.
FOLD_MS, _TOLD = 60_000, 3
# In a log line; the whole plan is what `reconcile --dry-run` is for.
_CHANGES_LISTED = 8


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision, when it was made. `times`: it is the latest of so many changes that are told as one."""

    at_ms: int
    decision: Decision
    times: int = 1


@dataclass(slots=True)
class _Topic:
    """What can be said often: since when it is counted, how often it was said since, and what was not told of it yet.

    `kept`: what stands for all that was counted, among the decisions that are kept.
    """

    since_ms: int
    said: int = 0
    untold: int = 0
    latest: Decision | None = None
    kept: Decided | None = None


@dataclass(slots=True)
class Telling:
    """Lines to `journal`. `running`: the names of the programs that run on this host."""

    journal: Journal
    running: Callable[[], Collection[str]]
    decisions: list[Decided] = field(init=False, default_factory=list)
    unread: str = field(init=False, default="")
    """Why the network cannot be read; '' where it can."""
    _topics: dict[tuple[str | None, str], _Topic] = field(init=False, default_factory=dict)
    _problems: dict[tuple[str, str, str], Warning] = field(init=False, default_factory=dict)
    _obstacles: dict[tuple[str, str, str], Warning] = field(init=False, default_factory=dict)
    _unreached: str = field(init=False, default="")

    # What was decided

    def begun(self, sku: str, found: Mapping[str, str | None], wanted: Mapping[str, str]) -> None:
        """The network was adopted as it was `found`."""
        self.journal.tell("start", f"{sku}: found {_spell(found)}; wanted {_spell(wanted)}", found=dict(found))

    def decided(self, decision: Decision, now: int) -> None:
        """The policy decided something."""
        self.counted(now)
        if decision.segment and not decision.topic and (back := self._topics.pop((decision.segment, RETURN), None)):
            # It has come back, or has left again: another story.
            self._sum_up(back)
        if decision.topic:
            topic = self._topics.setdefault((decision.segment, decision.topic), _Topic(now))
            topic.said += 1
            if topic.said > _TOLD:
                self._count(topic, decision, now)
                return
        self._keep(Decided(now, decision))
        self._say(decision)

    @property
    def due_ms(self) -> int | None:
        """When `counted` has something to tell; None: it has not."""
        return min((one.since_ms + FOLD_MS for one in self._topics.values() if one.untold), default=None)

    def counted(self, now: int) -> None:
        """Time has passed: what was counted is told, in a line for each topic; what has calmed down is forgotten."""
        over = {key: one for key, one in self._topics.items() if now - one.since_ms >= FOLD_MS}
        for key, topic in over.items():
            if topic.latest is None:
                del self._topics[key]
                continue
            self._sum_up(topic)
            # What goes on is counted at once.
            topic.since_ms, topic.untold, topic.latest, topic.kept = now, 0, None, None

    def _sum_up(self, topic: _Topic) -> None:
        if topic.latest:
            self._say(topic.latest, topic.untold)

    def _count(self, topic: _Topic, decision: Decision, now: int) -> None:
        topic.untold, topic.latest = topic.untold + 1, decision
        self.decisions = [one for one in self.decisions if one is not topic.kept]
        topic.kept = Decided(now, decision, topic.untold)
        self._keep(topic.kept)

    def _keep(self, decided: Decided) -> None:
        self.decisions.append(decided)
        del self.decisions[:-DECISIONS_KEPT]

    def _say(self, decision: Decision, times: int = 1) -> None:
        """`times`: it is the latest of so many changes."""
        where = f"{decision.segment}: " if decision.segment else ""
        why = [str(reading) for reading in decision.why]
        more = f", after {times} changes within {FOLD_MS // 1_000} s" if times > 1 else ""
        self.journal.tell(
            "decision",
            f"{where}{decision.what}{more}" + (f" ({'; '.join(why)})" if why else ""),
            level=LEVELS[decision.level],
            segment=decision.segment,
            what=decision.what,
            why=why,
            times=times,
        )

    def restart_ended(self, ended: RestartEnded) -> None:
        """A restart of the VM came to its end. That it was done, the policy's decisions tell."""
        before, self._unreached = self._unreached, ended.reason if ended.ending is Ending.UNREACHED else ""
        if ended.ending is Ending.REFUSED:
            self.journal.tell("restart", f"the VM was not restarted: {ended.reason}", level=logging.ERROR)
        elif self._unreached != before:
            # Asked again and again, and told once.
            self.journal.tell("restart", f"nobody can be asked to restart the VM: {ended.reason}", level=logging.ERROR)

    # What was found

    def looked(self, found: Difference, calmed: Iterable[Thing]) -> None:
        """The network could be read. `calmed`: what nobody changes back any more."""
        if self.unread:
            self.unread = ""
            self.journal.tell("read", "the network can be read again")
        self._problems_of(found)
        for name, what in calmed:
            self.journal.tell("calm", f"{name}: nobody changes back its {what} any more", interface=name, about=what)

    def refused(self, error: TransientError | HostError) -> None:
        """The network could not be read, or did not hold still."""
        if str(error) != self.unread:
            level = logging.WARNING if error.retry_helps else logging.ERROR
            self.journal.tell("unread", str(error), level=level)
        self.unread = str(error)

    def _problems_of(self, found: Difference) -> None:
        # What would be right instead may name all NICs of the machine, and is no part of what is wrong.
        problems = {(one.code, one.about, one.text): one for one in found.problems}
        for key in problems.keys() - self._problems.keys():
            problem = problems[key]
            self.journal.tell("problem", problem.line, level=logging.ERROR, code=problem.code)
        for key in self._problems.keys() - problems.keys():
            problem = self._problems[key]
            self.journal.tell("solved", f"no longer: {problem.about}: {problem.text}", code=problem.code)
        self._problems = problems

    def surveyed(self, found: Difference) -> None:
        """It was looked for what stands in the way."""
        problems = set(found.problems)
        obstacles = {
            (one.code, one.about, one.text): one
            for one in found.warnings
            if one not in problems and one.severity is not Severity.NOTE
        }
        for key in obstacles.keys() - self._obstacles.keys():
            one = obstacles[key]
            level = logging.ERROR if one.severity is Severity.ERROR else logging.WARNING
            self.journal.tell("obstacle", one.line, level=level, code=one.code)
        for key in self._obstacles.keys() - obstacles.keys():
            one = self._obstacles[key]
            self.journal.tell("cleared", f"no longer: {one.about}: {one.text}", code=one.code)
        self._obstacles = obstacles

    # What was done

    def switched(
        self, choice: Mapping[str, str], changes: Collection[Change], outcomes: Iterable[Outcome] = (), left: int = 0
    ) -> None:
        """The network follows a choice, by these changes. `left`: so many are still to make."""
        self._changed("switched", f"switched to {_spell(choice)}", changes, outcomes, left)

    def repaired(self, changes: Collection[Change], outcomes: Iterable[Outcome], left: int) -> None:
        """What somebody else changed was changed back. `left`: as in `switched`."""
        self._changed("repaired", "repaired", changes, outcomes, left)

    def _changed(
        self, event: EventName, what: str, changes: Collection[Change], outcomes: Iterable[Outcome], left: int
    ) -> None:
        failed = [one for one in outcomes if one.status is Status.FAILED]
        lines = [_change(line) for line in map(render.line, changes)]
        listed = "; ".join(lines[:_CHANGES_LISTED]) + ("; …" if len(lines) > _CHANGES_LISTED else "")
        more = f"; {left} still to make" if left else ""
        self.journal.tell(
            event,
            f"{what}, {len(changes)} change{'s' if len(changes) != 1 else ''}{more}: {listed}",
            level=logging.INFO if not failed else logging.ERROR,
            changes=lines,
            failed=[_failure(one) for one in failed],
        )
        for one in failed:
            self.journal.tell("failed", _failure(one), level=logging.ERROR)

    def conflict(self, change: Change, found: Difference, *, refused: bool) -> None:
        """A change is made over and over: somebody else undoes it, or the kernel has `refused` it."""
        name, what = about(change)
        if refused:
            text = f"{name}: its {what} is refused again and again; trying ever more seldom"
            self.journal.tell("refused", text, level=logging.ERROR, interface=name, about=what)
            return
        live = found.actual.by_name.get(name)
        names = suspects(change, self.running(), live.switch if live else None)
        who = f"probably {', '.join(names)}" if names else "somebody"
        self.journal.tell(
            "conflict",
            f"{name}: {who} keeps changing back its {what}; repairing it ever more seldom. "
            "Tell that program to leave the appliance's interfaces alone",
            level=logging.WARNING,
            interface=name,
            about=what,
            suspects=list(names),
        )


def _failure(outcome: Outcome) -> str:
    return f"{outcome.operation.link.label}: {render.operation_words(outcome.operation)}: {outcome.why}"


def _change(line: render.Line) -> str:
    if line.old is None or line.new is None:
        return f"{line.thing}: {line.new or line.old}"
    return f"{line.thing} {line.about}: {line.old} → {line.new}"


def _spell(choice: Mapping[str, str | None]) -> str:
    topologies = set(choice.values())
    if len(topologies) == 1:
        return topologies.pop() or "no topology"
    return ", ".join(f"{segment}={topology or 'none'}" for segment, topology in choice.items())
