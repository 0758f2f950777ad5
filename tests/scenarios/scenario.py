"""Scenarios: scripts that tell the policy what happens, line by line, with all that it answers. See README.md."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from reconciler.appliance.declared import Heartbeat
from reconciler.appliance.load import load
from reconciler.health import policy
from reconciler.health.signal import HealthState, Reading, Rebooted
from reconciler.health.state import (
    Choose,
    Decision,
    Declared,
    Effect,
    Ending,
    Event,
    Hold,
    HoldPlaced,
    HoldReleased,
    RestartEnded,
    RestartVm,
    Rules,
    Stalled,
    State,
    Tick,
    begin,
    rules_of,
)

BASE: dict[str, Any] = {
    "schema": "reconciler/v1",
    "appliance": {"sku": "scenario"},
    "ports": {role: {"match": {"name": f"eth-{role}"}} for role in ("outside", "inside")},
    "vm": {
        "libvirt": {"domain": "ips"},
        "adapters": {role: {"tap": f"tap-{role}"} for role in ("outside", "inside")},
    },
    "topologies": {"inspect": {"pair": "all"}, "bypass": {"join": "all"}},
}
UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
TIME = r"\d+(?:\.\d+)?(?:ms|s|m|h)"
ANSWER = "    "


def milliseconds(text: str) -> int:
    """``1.2s`` and ``1m30s`` in milliseconds."""
    return round(sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", text)))


def clock(ms: int) -> str:
    """As a person writes it: ``1m02.5s``, ``3h00m00s``."""
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, dot, part = f"{rest / 1000:g}".partition(".")
    if not hours and not minutes:
        return f"{whole}{dot}{part}s"
    before = f"{hours}h{minutes:02}m" if hours else f"{minutes}m"
    return f"{before}{whole:0>2}{dot}{part}s"


def rules_from(said: dict[str, Any]) -> Rules:
    document = {**BASE, **said}
    text = BytesIO()
    YAML(typ="safe", pure=True).dump(document, text)
    return rules_of(load(text.getvalue(), "scenario"))


@dataclass
class Script:
    """A script in its three parts; of the lines, what is indented was answered."""

    title: str
    setting: str
    lines: list[str]

    @classmethod
    def read(cls, path: Path) -> "Script":
        title, setting, steps = re.split(r"^---\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        return cls(title, setting, [line for line in steps.splitlines() if not line.startswith(ANSWER)])

    def played(self) -> str:
        """The whole script with what the policy answers now."""
        story = Story(YAML(typ="safe", pure=True).load(self.setting) or {})
        out = []
        for line in self.lines:
            out.append(line)
            if line.strip() and not line.startswith("#"):
                out += [f"{ANSWER}{answer}" for answer in story.tell(line)]
        return "---\n".join([self.title, self.setting, "\n".join(out) + "\n"])


@dataclass
class Story:
    """The policy, a clock, and who says what at regular intervals."""

    said: dict[str, Any]
    now: int = 0
    state: State = field(init=False)
    # Who says what again and again: when next, how often, and what.
    repeats: dict[tuple[str, str | None], tuple[int, int, HealthState, str]] = field(default_factory=dict)
    # Why no restart can be asked for; None: one can, and the story says what becomes of it.
    away: str | None = None

    def __post_init__(self) -> None:
        found = self.said.pop("found", "inspect")
        rules = rules_from(self.said)
        found = found if isinstance(found, dict) else dict.fromkeys(rules.segments, found)
        self.state = begin(rules, {name: None if one == "nothing" else one for name, one in found.items()}, 0)

    def tell(self, line: str) -> Iterator[str]:
        match = re.fullmatch(rf"(\+?)((?:{TIME})+) +(.+)", line)
        assert match, f"not TIME WHAT: {line}"
        until = milliseconds(match[2]) + (self.now if match[1] else 0)
        assert until >= self.now, f"time does not go back: {line}"
        yield from self._pass(until)
        yield from self._happen(match[3])

    def _pass(self, until: int) -> Iterator[str]:
        """All that is due or regular until then, each at its time."""
        while True:
            due = policy.due(self.state) or until + 1
            who = min(self.repeats, key=lambda who: self.repeats[who][0], default=None)
            beat = self.repeats[who][0] if who else until + 1
            if min(due, beat) > until:
                break
            if who and beat <= due:
                at, every, colour, reason = self.repeats[who]
                self.repeats[who] = (at + every, every, colour, reason)
                yield from self._step(Reading(who[0], colour, reason, who[1]), at)
            else:
                yield from self._step(Tick(), due)
        self.now = until

    def _happen(self, what: str) -> Iterator[str]:
        for pattern, method in SENTENCES.items():
            if match := re.fullmatch(pattern, what):
                yield from method(self, **match.groupdict()) or ()
                return
        raise AssertionError(f"nobody understands: {what}")

    def _step(self, event: Event, now: int) -> Iterator[str]:
        before = self.state.choice
        self.state, effects = policy.step(self.state, event, now)
        for effect in effects:
            yield from self._spelt(effect, now, before)
        for effect in effects:
            if isinstance(effect, RestartVm) and self.away:
                yield from self._step(RestartEnded(effect.asked_ms, Ending.UNREACHED, self.away), now)

    def _spelt(self, effect: Effect, now: int, before: dict[str, str]) -> Iterator[str]:
        at = f"{clock(now):<8}"
        match effect:
            case Choose(choice):
                yield f"{at} CHOOSE {', '.join(f'{name}={topology}' for name, topology in choice.items())}"
            case RestartVm(method, attempt, _):
                yield f"{at} RESTART by {method}, attempt {attempt}"
            case Decision(what, why, segment):
                yield f"{at} {f'{segment}: ' if segment else ''}{what}"
                yield from (f"{'':8}   because {reading}" for reading in why)

    # What a line may say

    def says(self, name: str, segment: str | None, colour: str, wanted: str | None, reason: str) -> Iterator[str]:
        self.repeats.pop((name, segment), None)
        reading = Reading(name, HealthState(colour), reason, segment, deliberate=bool(wanted))
        return self._step(reading, self.now)

    def keeps(self, name: str, segment: str | None, colour: str, reason: str) -> Iterator[str]:
        source = self.state.rules.health.signals[name].source
        every = source.interval_ms if isinstance(source, Heartbeat) else source.every_ms  # type: ignore[union-attr]
        yield from self.says(name, segment, colour, None, reason)
        self.repeats[name, segment] = (self.now + every, every, HealthState(colour), reason)

    def silent(self, name: str, segment: str | None) -> Iterator[str]:
        del self.repeats[name, segment]
        return iter(())

    def asleep(self, span: str) -> Iterator[str]:
        """Nobody is heard, and nobody listens."""
        lasted = milliseconds(span)
        self.now += lasted
        self.repeats = {who: (at + lasted, *rest) for who, (at, *rest) in self.repeats.items()}  # type: ignore[misc]
        return self._step(Stalled(lasted), self.now)

    def reboots(self, reason: str) -> Iterator[str]:
        return self._step(Rebooted("libvirt", reason), self.now)

    def restarted(self) -> Iterator[str]:
        return self._step(RestartEnded(self.state.vm.since_ms, Ending.DONE), self.now)

    def refused(self, reason: str) -> Iterator[str]:
        return self._step(RestartEnded(self.state.vm.since_ms, Ending.REFUSED, reason), self.now)

    def unreached(self, reason: str) -> Iterator[str]:
        return self._step(RestartEnded(self.state.vm.since_ms, Ending.UNREACHED, reason), self.now)

    def answered_late(self) -> Iterator[str]:
        return self._step(RestartEnded(self.state.vm.since_ms - 1, Ending.DONE), self.now)

    def goes(self, reason: str) -> None:
        self.away = reason

    def comes(self) -> None:
        self.away = None

    def holds(self, who: str, topology: str, segment: str | None, span: str, reason: str) -> Iterator[str]:
        hold = Hold(topology, who, reason, self.now + milliseconds(span))
        return self._step(HoldPlaced(hold, segment), self.now)

    def releases(self, who: str, segment: str | None) -> Iterator[str]:
        return self._step(HoldReleased(who, segment), self.now)

    def reload(self, yaml: str) -> Iterator[str]:
        self.said |= YAML(typ="safe", pure=True).load(yaml)
        return self._step(Declared(rules_from(self.said)), self.now)

    def summary(self) -> Iterator[str]:
        """Where everything stands; and what is waited for."""
        vm = self.state.vm
        courses = ", ".join(f"{name} on {one.course}" for name, one in self.state.segments.items())
        choice = ", ".join(f"{name}={topology}" for name, topology in self.state.choice.items())
        yield f"{clock(self.now):<8} {courses}; the VM is {vm.phase}, {vm.attempts} attempts used; {choice}"

    def nothing(self) -> Iterator[str]:
        return iter(())


_WHO = r"(?P<name>[\w-]+)(?: \((?P<segment>[\w-]+)\))?"
_COLOUR = r"(?P<colour>healthy|degraded|failed|absent)"
SENTENCES: dict[str, Any] = {
    rf"{_WHO} says {_COLOUR}(?P<wanted> on purpose)?: (?P<reason>.+)": Story.says,
    rf"{_WHO} keeps saying {_COLOUR}: (?P<reason>.+)": Story.keeps,
    rf"{_WHO} falls silent": Story.silent,
    rf"the host was asleep for (?P<span>{TIME})": Story.asleep,
    r"the VM reboots by itself: (?P<reason>.+)": Story.reboots,
    r"the restart is done": Story.restarted,
    r"the restart is refused: (?P<reason>.+)": Story.refused,
    r"the restart could not be asked for: (?P<reason>.+)": Story.unreached,
    r"an earlier restart is done": Story.answered_late,
    r"from now on none can be asked for: (?P<reason>.+)": Story.goes,
    r"from now on one can be asked for": Story.comes,
    rf"(?P<who>\w+) holds (?P<topology>\w+)(?: on (?P<segment>\w+))? for (?P<span>{TIME}): (?P<reason>.+)": Story.holds,
    r"(?P<who>\w+) releases (?:all|(?P<segment>\w+))": Story.releases,
    r"the file now says (?P<yaml>\{.+\})": Story.reload,
    r"where things stand": Story.summary,
    r"time passes": Story.nothing,
}
