"""What the policy is told, what it remembers, and what it asks for: values only. What becomes of them: see `policy`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from itertools import chain

from reconciler.appliance.declared import INSPECT, Appliance, Health, OnFailure
from reconciler.health import verdict
from reconciler.health.signal import Reading, Rebooted
from reconciler.health.verdict import UNKNOWN, Key, Track, Verdict
from reconciler.log_events import Level


class Course(StrEnum):
    """Where a segment is."""

    INSPECT = "inspect"
    ENDURE = "endure"
    FALLBACK = "fallback"
    PROVING = "proving"


class Phase(StrEnum):
    """What is being done about the VM."""

    STEADY = "steady"
    SETTLING = "settling"
    WAITING = "waiting"
    RESTARTING = "restarting"
    BOOTING = "booting"
    STOOD_DOWN = "stood-down"
    GIVEN_UP = "given-up"


@dataclass(frozen=True, slots=True)
class Rules:
    """What of an appliance the policy depends on."""

    segments: tuple[str, ...]
    topologies: tuple[str, ...]
    health: Health
    on_failure: OnFailure

    keys: tuple[Key, ...] = field(init=False, repr=False)
    """The tracks that the signals have."""

    def __post_init__(self) -> None:
        found = (verdict.keys_of(signal, self.segments) for signal in self.health.signals.values())
        object.__setattr__(self, "keys", tuple(chain.from_iterable(found)))


def rules_of(appliance: Appliance) -> Rules:
    """The rules that an appliance's file sets."""
    return Rules(tuple(appliance.segments), tuple(appliance.topologies), appliance.health, appliance.on_failure)


MAX_HOLD_MS = 30 * 86_400_000
"""No hold is asked for, or found in a memory, that lasts for longer."""


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator's pin on one topology, for one segment."""

    topology: str
    owner: str
    reason: str
    until_ms: int


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment on its course.

    `since_ms`: when this began. `flaps`: how often in a row it failed soon after `returned_ms`, its last return.
    """

    course: Course
    since_ms: int = 0
    flaps: int = 0
    returned_ms: int | None = None
    verdict: Verdict = UNKNOWN


@dataclass(frozen=True, slots=True)
class VmState:
    """The VM in its phase. `due_ms`: when the phase's time is over. `attempts`: restarts since all was well.

    `unreached`: how often in a row the hypervisor could not be asked for the next one, which is no attempt.
    """

    phase: Phase = Phase.STEADY
    since_ms: int = 0
    due_ms: int | None = None
    attempts: int = 0
    unreached: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """All that the policy remembers."""

    rules: Rules
    now_ms: int
    grace_end_ms: int
    segments: Mapping[str, SegmentState]
    vm: VmState = field(default_factory=VmState)
    tracks: Mapping[Key, Track] = field(default_factory=dict)
    holds: Mapping[str, Hold] = field(default_factory=dict)

    @property
    def choice(self) -> dict[str, str]:
        """Which topology each segment shall have."""
        return {
            name: self.holds[name].topology if name in self.holds else self._of(name, segment)
            for name, segment in self.segments.items()
        }

    def _of(self, name: str, segment: SegmentState) -> str:
        inspected = segment.course in (Course.INSPECT, Course.ENDURE)
        return INSPECT if inspected else self.rules.on_failure.fallback(name)


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """For so many milliseconds until now nobody listened: the host was asleep, or this process was not let run."""

    ms: int


class Ending(Enum):
    """What became of a restart."""

    DONE = 1  # the VM has begun to boot
    REFUSED = 2  # the hypervisor was asked, and could not, or would not, or has not answered in time
    UNREACHED = 3  # it could not be asked: nothing was done, and nothing will be


@dataclass(frozen=True, slots=True)
class RestartEnded:
    """What became of the `RestartVm` of `asked_ms`; if it is not done, `reason` says why."""

    asked_ms: int
    ending: Ending
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HoldPlaced:
    """An operator pins segments (all, if None) to a topology."""

    hold: Hold
    segment: str | None = None


@dataclass(frozen=True, slots=True)
class HoldReleased:
    """An operator takes a hold back."""

    owner: str
    segment: str | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """The file was reloaded, and sets other rules."""

    rules: Rules


Event = Reading | Rebooted | Tick | Stalled | RestartEnded | HoldPlaced | HoldReleased | Declared


@dataclass(frozen=True, slots=True)
class Choose:
    """Effect: make this the choice."""

    choice: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RestartVm:
    """Effect: restart the VM by this method of the ladder, and report with `RestartEnded`.

    `asked_ms`: when, by the policy's clock; no two have the same.
    """

    method: str
    attempt: int
    asked_ms: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Effect: let people know what was decided, and which readings led to it.

    `segment` is None where it is about the VM, or about all segments. `level`: how loudly it is told. `topic`: what a
    guest can change its mind about as often as it likes; told too often, it is counted. '' for what is always told.
    """

    what: str
    why: tuple[Reading, ...]
    segment: str | None = None
    level: Level = "info"
    topic: str = ""


Effect = Choose | RestartVm | Decision
# The topic of a segment that is on its way back, and of what ends that.
RETURN = "return"


def begin(rules: Rules, found: Mapping[str, str | None], now: int) -> State:
    """The state of a process that remembers nothing.

    `found`: the topology that each segment is in already, as the kernel has it; None: in none. What is inspected stays
    inspected. Where nothing was set up yet, the segment begins past the VM, as a bypass relay without power does, until
    the VM has proven itself; only without any signal that has a say, which nobody could wait for, it begins inspected.
    """
    judged = {name: verdict.judge(rules.health, {}, name).deciding for name in rules.segments}
    inspected = {name: found.get(name) == INSPECT or not judged[name] for name in rules.segments}
    segments = {
        name: SegmentState(Course.INSPECT if inspected[name] else Course.FALLBACK, now) for name in rules.segments
    }
    # Its end is told, and so it has one, even if none was asked for.
    return State(rules, now, now + max(rules.health.grace_ms, 1), segments, VmState(since_ms=now))
