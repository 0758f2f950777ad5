"""What of the policy's state outlives its process, as JSON; and the state of a process that finds it.

Tracks are not among it: what was heard before says nothing now. Within one boot of the machine the clock goes on, and
times are taken over as they are; after a reboot only what people said (holds) and what the wire suffered (flaps)
counts, and the wall clock bridges the gap. That clock may be wrong, before the boot or after it: so a hold is kept with
what was left of it, and never lasts longer than that, counted from the next boot. It is written again each minute: so a
reboot without a clock lengthens a hold by little more than a minute, and by the time that the machine was off. A clock
that is ahead shortens it.

Whatever a memory says, no time in it reaches further than one of its kind can that was written by this program.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reconciler.appliance.declared import Domain
from reconciler.health.policy import AGAIN_MAX_MS, SETTLE_MS
from reconciler.health.state import MAX_HOLD_MS, Course, Hold, Phase, Rules, SegmentState, State, VmState, begin
from reconciler.health.verdict import Track

FORMAT = "reconciler.memory/1"
# How long signals may take to tell something to a process that takes over from another one.
TAKE_OVER_MS = 5_000
_TIMED = (Phase.SETTLING, Phase.WAITING, Phase.RESTARTING, Phase.BOOTING)
_MAX_TEXT = 1_000
_MINUTE_MS = 60_000
_MAX_ATTEMPTS = 1_000_000


def dump(state: State) -> dict[str, Any]:
    """The memory as a JSON value."""
    return {
        "format": FORMAT,
        "segments": {
            name: {"course": one.course.value, "flaps": one.flaps, "returned_ms": one.returned_ms}
            for name, one in state.segments.items()
        },
        "vm": {"phase": state.vm.phase.value, "attempts": state.vm.attempts, "due_ms": state.vm.due_ms},
        "deliberate": any(track.deliberate for track in state.tracks.values()),
        "holds": {
            name: {
                "topology": one.topology,
                "owner": one.owner,
                "reason": one.reason,
                "until_ms": one.until_ms,
                "left_ms": _left(one, state.now_ms),
            }
            for name, one in state.holds.items()
        },
    }


def _left(hold: Hold, now: int) -> int:
    """Rounded up to the minute, so that the memory changes once in a minute."""
    return -(-max(0, hold.until_ms - now) // _MINUTE_MS) * _MINUTE_MS


def recall(rules: Rules, found: Mapping[str, str | None], data: Any, now: int, shift: int | None) -> State:
    """The state of a process that starts at `now` and finds the memory `data` of an earlier one.

    `found`: see `begin`. `shift`: None within one boot of the machine; after a reboot, what to add to the memory's
    times.

    Raises:
        ValueError: `data` is no such memory.

    """
    state = begin(rules, found, now)
    try:
        if data["format"] != FORMAT:
            raise ValueError(f"not of the format {FORMAT}")
        moved = shift or 0
        holds = {
            name: _hold(hold, now, moved)
            for name, hold in data["holds"].items()
            if name in rules.segments and hold["topology"] in rules.topologies
        }
        segments = {
            name: _segment(data["segments"].get(name), segment, found.get(name), held=name in holds, now=now)
            if shift is None
            else _flaps_only(data["segments"].get(name), segment, now, moved)
            for name, segment in state.segments.items()
        }
        if shift is not None:
            return replace(state, holds=holds, segments=segments)
        vm = _vm(data["vm"], rules, now) if rules.on_failure.ladder else VmState(since_ms=now)
        deliberate = _typed(data["deliberate"], bool)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not as it was written: {type(error).__name__}: {error}") from None
    # Until libvirt has said so again, a VM that an operator had stopped counts as stopped on purpose.
    tracks = {
        key: Track(deliberate=True)
        for key in rules.keys
        if deliberate and isinstance(rules.health.signals[key[0]].source, Domain)
    }
    grace_end = state.grace_end_ms
    if vm.phase is Phase.STEADY and any(one.course is Course.INSPECT for one in segments.values()):
        # The VM had booted: only the signals have to come, and a VM that hangs now must not be waited for.
        grace_end = min(grace_end, now + TAKE_OVER_MS)
    return replace(state, holds=holds, segments=segments, vm=vm, tracks=tracks, grace_end_ms=grace_end)


def _segment(data: Any, fresh: SegmentState, found: str | None, *, held: bool, now: int) -> SegmentState:
    """The segment on the course that it was on; past the VM also if the kernel is there already.

    A process that died between the move and its memory has moved: the hold-down counts from now on.
    """
    if data is None:
        return fresh
    past = Course(data["course"]) in (Course.FALLBACK, Course.PROVING)
    past = past or (not held and fresh.course is Course.FALLBACK and found is not None)
    course = Course.FALLBACK if past else Course.INSPECT
    return replace(_flaps_only(data, fresh, now), course=course)


def _flaps_only(data: Any, fresh: SegmentState, now: int, moved: int = 0) -> SegmentState:
    if data is None:
        return fresh
    returned = data["returned_ms"]
    returned = None if returned is None else min(_typed(returned, int) + moved, now)
    return replace(fresh, flaps=min(max(_typed(data["flaps"], int), 0), _MAX_ATTEMPTS), returned_ms=returned)


def _vm(data: Any, rules: Rules, now: int) -> VmState:
    phase, due = Phase(data["phase"]), data["due_ms"]
    due = None if due is None else _typed(due, int)
    if (due is not None) is not (phase in _TIMED):
        raise TypeError(f"{phase} with the deadline {due}")
    if phase is Phase.RESTARTING:
        # Whoever was at it is gone, and with it the answer: the VM may be booting.
        phase, due = Phase.BOOTING, now + rules.on_failure.boot_timeout_ms
    if due is not None:
        due = min(due, now + _longest(phase, rules))
    return VmState(phase, now, due, min(max(_typed(data["attempts"], int), 0), _MAX_ATTEMPTS))


def _longest(phase: Phase, rules: Rules) -> int:
    """What a phase with a deadline lasts at most (see `policy`)."""
    of = rules.on_failure
    return {
        Phase.SETTLING: max(SETTLE_MS, rules.health.grace_ms),
        Phase.WAITING: max(SETTLE_MS, of.backoff_max_ms, AGAIN_MAX_MS),
        Phase.BOOTING: of.boot_timeout_ms,
    }[phase]


def _hold(data: Any, now: int, moved: int) -> Hold:
    owner, reason = (_typed(data[key], str)[:_MAX_TEXT] for key in ("owner", "reason"))
    until = _typed(data["until_ms"], int) + moved
    left = min(_typed(data.get("left_ms", MAX_HOLD_MS), int), MAX_HOLD_MS)
    return Hold(data["topology"], owner, reason, min(until, now + left))


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    return value
