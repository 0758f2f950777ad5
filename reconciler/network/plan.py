"""From changes to operations, in an order that any prefix of which is safe.

The order: make what is missing; silence it, so that nothing is ever seen from the wire; settle addresses and sizes;
bring links up; move them directly from switch to switch; give their memberships what these need; and only when traffic
flows, remove leftovers. Within the moves, what has to leave a switch leaves before anything enters it: no prefix makes
a loop through the VM.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from reconciler.network.diff import Change, Difference, Make, Remove, Set
from reconciler.network.state import MEMBERSHIP_DEFAULTS, NEW_LINK, Kind, Link, Network, Setting, Value


class Step(IntEnum):
    """The phases of a plan, in order."""

    MAKE = 0
    SILENCE = 1
    DISABLE_IPV6 = 2  # by sysctl: apart from the rest, which then fits one system call
    DISABLE_LRO = 3  # by ioctl: apart, too
    SETTLE = 4
    RAISE = 5
    MOVE = 6
    MEMBERSHIP = 7
    REMOVE = 8


@dataclass(frozen=True, slots=True)
class MakeLink:
    """Create a bridge or a persistent tap with those of its settings that the kernel takes at creation."""

    link: Link

    @property
    def step(self) -> Step:
        """When in the plan it comes."""
        return Step.MAKE


@dataclass(frozen=True, slots=True)
class SetLink:
    """Give one setting of a link a new value. `old`, what it is, tells which addresses to withdraw."""

    link: Link
    setting: Setting
    old: Value
    new: Value

    @property
    def step(self) -> Step:
        """When in the plan it comes."""
        return _STEP_OF.get(self.setting, Step.SETTLE)


@dataclass(frozen=True, slots=True)
class RemoveLink:
    """Delete a bridge or a tap that bears our mark."""

    link: Link

    @property
    def step(self) -> Step:
        """When in the plan it comes."""
        return Step.REMOVE


Operation = MakeLink | SetLink | RemoveLink

_STEP_OF = {
    Setting.MARK: Step.SILENCE,
    Setting.ADDRGENMODE: Step.SILENCE,
    Setting.IPV6: Step.DISABLE_IPV6,
    Setting.ARP: Step.SILENCE,
    Setting.LRO: Step.DISABLE_LRO,
    Setting.PROMISCUOUS: Step.RAISE,
    Setting.UP: Step.RAISE,
    Setting.SWITCH: Step.MOVE,
    **dict.fromkeys(MEMBERSHIP_DEFAULTS, Step.MEMBERSHIP),
}

# What MakeLink gives a link at once; everything else is set afterwards. The pinned MAC among it is what tells a switch
# of ours whose maker died before it could set the mark. A tap gets its mark before it becomes persistent. The MTU is
# not among it: the kernel pins a bridge's MTU only when it is set later; until then it follows the members
# (br_mtu_auto_adjust() in net/bridge/br_if.c), and an empty bridge falls back to 1500.
AT_CREATION = {
    Kind.BRIDGE: frozenset({Setting.MAC, Setting.MULTICAST_SNOOPING, Setting.AGEING}),
    Kind.TAP: frozenset({Setting.MARK, Setting.PERSISTENT}),
    Kind.OTHER: frozenset[Setting](),
}


class Status(StrEnum):
    """What became of an operation."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operation, and why where it was not done. `errno` is 0 where the kernel was not asked."""

    operation: Operation
    status: Status
    why: str = ""
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Operations in order. `needs[i]` are the indexes of those before `i` without which it makes no sense."""

    operations: tuple[Operation, ...]
    needs: tuple[tuple[int, ...], ...]


def plan(found: Difference) -> Plan:
    """The operations that make all changes of a difference."""
    operations: list[Operation] = []
    for change in found.changes:
        operations += _operations(change)
    operations.sort(key=lambda operation: operation.step)
    first_move = next((i for i, one in enumerate(operations) if one.step >= Step.MOVE), len(operations))
    past_moves = next((i for i, one in enumerate(operations) if one.step > Step.MOVE), len(operations))
    moves = [one for one in operations[first_move:past_moves] if isinstance(one, SetLink)]
    holders = found.actual.holders
    operations[first_move:past_moves] = (*_ordered_moves(moves, holders), *_forgetting(moves, found.actual))
    return Plan(tuple(operations), tuple(_needs(operations, holders)))


def forgetting(found: Difference) -> Plan:
    """All that the switches that learn have learnt goes: while the wire was not theirs, a station may have moved."""
    operations = tuple(
        SetLink(link, Setting.LEARNT, old=True, new=False)
        for link in found.desired.links
        if Setting.FDB_MAX_LEARNED in link.settings and link.name in found.actual.by_name
    )
    return Plan(operations, ((),) * len(operations))


def _operations(change: Change) -> Iterator[Operation]:
    match change:
        case Make(link):
            yield MakeLink(link)
            for setting, value in link.settings.items():
                if setting not in AT_CREATION[link.kind] and NEW_LINK.get(setting, ...) != value:
                    yield SetLink(link, setting, None, value)
        case Set(link, setting, old, new):
            yield SetLink(link, setting, old, new)
            if setting is Setting.SWITCH and new is not None:
                for membership, default in MEMBERSHIP_DEFAULTS.items():
                    if link.settings.get(membership, default) != default:
                        yield SetLink(link, membership, default, link.settings[membership])
        case Remove(link):
            yield RemoveLink(link)


def _ordered_moves(moves: Iterable[SetLink], holders: Mapping[str, str]) -> Iterator[SetLink]:
    """Moves out of every switch first, then adapters, and last the ports that carry the traffic: their way is ready.

    A link that has to leave a switch is in nobody's way: where another enters before its own turn, it is taken out
    early, and enters its new switch later.
    """
    now = dict(holders)
    members: dict[str, set[str]] = {}
    for name, holder in holders.items():
        members.setdefault(holder, set()).add(name)
    pending = sorted(moves, key=_urgency)
    waiting = {move.link.name: move.link for move in pending}
    for move in pending:
        name, target = move.link.name, move.new
        del waiting[name]
        in_the_way = members.get(target, set()) & waiting.keys() if isinstance(target, str) else set()
        for other in sorted(in_the_way):
            members[now[other]].discard(other)
            yield SetLink(waiting[other], Setting.SWITCH, now.pop(other), None)
        old = now.pop(name, None)
        if old is not None:
            members[old].discard(name)
        if isinstance(target, str):
            now[name] = target
            members.setdefault(target, set()).add(name)
        if old != target:
            yield SetLink(move.link, Setting.SWITCH, old, target)


def _forgetting(moves: Iterable[SetLink], actual: Network) -> Iterator[SetLink]:
    """What a switch that learns has learnt behind members that stay goes when another member comes.

    While that one was elsewhere (in a bypass, say), a station may have moved to its side.
    """
    entered = {move.new: None for move in moves if move.link.settings.get(Setting.LEARNING)}
    moved = {move.link.name for move in moves}
    staying = {holder for name, holder in actual.holders.items() if name not in moved} if entered else frozenset()
    for name in entered:
        if isinstance(name, str) and name in staying and name in actual.by_name:
            yield SetLink(actual.by_name[name], Setting.LEARNT, old=True, new=False)


def _urgency(move: SetLink) -> tuple[bool, bool]:
    return (move.new is not None, move.link.role is not None and move.link.role.kind == "port")


def _needs(operations: list[Operation], holders: Mapping[str, str]) -> Iterator[tuple[int, ...]]:
    made: dict[str, int] = {}
    moved: dict[str, int] = {}
    for index, operation in enumerate(operations):
        name = operation.link.name
        needs = {made[name]} if name in made else set()
        match operation:
            case MakeLink():
                made[name] = index
            case SetLink(setting=Setting.SWITCH, new=new):
                needs |= {made[new]} if isinstance(new, str) and new in made else set()
                moved[name] = index
            case SetLink(setting=setting) if setting in MEMBERSHIP_DEFAULTS:
                needs |= {moved[name]} if name in moved else set()
            case SetLink():
                pass
            case RemoveLink():
                # Never delete before traffic flows: what it holds must have found its new place.
                needs |= {moved[member] for member, holder in holders.items() if holder == name and member in moved}
        yield tuple(sorted(needs))
