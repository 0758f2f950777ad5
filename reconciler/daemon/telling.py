"""What the core decided, did and found, told: lines of the log, and the decisions that are kept for `status`.

The core decides and knows nothing of words; here nothing is decided but what is worth a line. What says the same again
says it once: what flaps, in a line and a count, a problem until it is solved, a refusal until the reason is another.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from reconciler.daemon.journal import LEVELS, Journal
from reconciler.errors import HostError, TransientError
from reconciler.health.state import RETURN, Decision, Ending, RestartEnded
from reconciler.health.warnings import nobody_restarts
from reconciler.log_events import EventName
from reconciler.network import render
from reconciler.network.conflict import Thing
from reconciler.network.diff import Change, Difference
from reconciler.network.plan import Outcome, Status
from reconciler.warning import Severity, Warning

DECISIONS_KEPT = 64
# Of what can change as often as a guest likes: so many changes within so long are told, and those beyond are counted.
FOLD_MS, _TOLD = 60_000, 3
# In a log line; the whole plan is what `reconcile --dry-run` is for.
_CHANGES_LISTED = 8


_Key = tuple[str, str, str]
"""Code, about what, and the text of a warning."""


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
    """Lines to `journal`."""

    journal: Journal
    decisions: list[Decided] = field(init=False, default_factory=list)
    unread: Warning | None = field(init=False, default=None)
    """Why the network cannot be read; None where it can."""
    unreached: str = field(init=False, default="")
    """Why nobody could be asked to restart the VM, when it was tried last; '' if somebody could."""
    _topics: dict[tuple[str | None, str], _Topic] = field(init=False, default_factory=dict)
    # What the log says that is so, and when each was said to be so, or not, lately.
    _known: dict[EventName, dict[_Key, Warning]] = field(init=False, default_factory=dict)
    _said: dict[_Key, list[int]] = field(init=False, default_factory=dict)

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
        before, self.unreached = self.unreached, ended.reason if ended.ending is Ending.UNREACHED else ""
        if ended.ending is Ending.REFUSED:
            what = f"it was not restarted: {ended.reason}"
            self.journal.warn("restart", Warning("restart-refused", Severity.ERROR, "VM", what))
        elif self.unreached not in (before, ""):
            # Asked again and again, and told once.
            self.journal.warn("restart", nobody_restarts(self.unreached))

    # What was found

    def looked(self, found: Difference, calmed: Iterable[Thing], now: int) -> None:
        """The network could be read. `calmed`: what nobody changes back any more."""
        if self.unread:
            self.unread = None
            self.journal.tell("read", "the network can be read again")
        self._news("problem", "solved", found.problems, now)
        for name, what in calmed:
            self.journal.tell("calm", f"{name}: nobody changes back its {what} any more", interface=name, about=what)

    def refused(self, error: TransientError | HostError) -> None:
        """The network could not be read, or did not hold still."""
        severity = Severity.WARNING if error.retry_helps else Severity.ERROR
        before, self.unread = self.unread, Warning("network-unread", severity, "network", f"it cannot be read: {error}")
        if self.unread != before:
            self.journal.warn("unread", self.unread)

    def surveyed(self, found: Difference, now: int) -> None:
        """It was looked for what stands in the way."""
        others = [one for one in found.warnings if one not in found.problems and one.severity is not Severity.NOTE]
        self._news("obstacle", "cleared", others, now)

    def _news(self, begins: EventName, ends: EventName, warnings: Iterable[Warning], now: int) -> None:
        """Tell what of these was not so before, and what is not so any more."""
        # What would be right instead may name all NICs of the machine, and is no part of what is wrong.
        named = {(one.code, one.about, one.text): one for one in warnings}
        known = self._known.setdefault(begins, {})
        for key, warning in named.items():
            if key not in known and self._may_say(key, now):
                known[key] = warning
                self.journal.warn(begins, warning)
        for key, gone in list(known.items()):
            if key not in named and self._may_say(key, now):
                del known[key]
                self.journal.tell(ends, f"no longer: {replace(gone, remedy='')}", warning=gone.as_json())

    def _may_say(self, key: _Key, now: int) -> bool:
        """Whether it was not said too often lately that something is so, and is not; what is so is said later, then."""
        recent = {one: [when for when in whens if now - when < FOLD_MS] for one, whens in self._said.items()}
        self._said = {one: whens for one, whens in recent.items() if whens}
        whens = self._said.setdefault(key, [])
        if len(whens) >= 2 * _TOLD:
            return False
        whens.append(now)
        return True

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
            what = f"{render.operation_words(one.operation)}: {one.why}"
            self.journal.warn("failed", Warning("operation-failed", Severity.ERROR, one.operation.link.label, what))

    def conflict(self, thing: Thing, who: Collection[str], warning: Warning) -> None:
        """A change is made over and over: somebody else undoes it, perhaps one of these, or the kernel refuses it."""
        name, what = thing
        if warning.severity is Severity.ERROR:
            self.journal.warn("refused", warning, interface=name, about=what)
        else:
            self.journal.warn("conflict", warning, interface=name, about=what, suspects=list(who))


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
