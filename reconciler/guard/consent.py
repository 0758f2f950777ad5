"""Consent given and taken: the table `ACTS` carried out, segment by segment.

What is on the failover path is `chosen`: it asks nobody, and its effects are messages that were prepared.
"""

from dataclasses import replace
from typing import assert_never

from reconciler.guard import orders
from reconciler.guard.effects import Grant, Renew, StandAside, Tell, Withdraw
from reconciler.guard.events import Chosen, LeasesFound
from reconciler.guard.rules import Guarded, stance
from reconciler.guard.state import SegmentGuard
from reconciler.guard.table import ACTS, Act, LeaseState
from reconciler.guard.turn import Turn


def chosen(turn: Turn, event: Chosen) -> None:
    """Segments shall have other topologies: what is taken back is taken back in this step."""
    for name, segment in turn.state.segments.items():
        wanted = stance(turn.state.appliance, name, event.choice[name])
        # What was in place was so for another topology.
        in_place = segment.in_place and wanted is segment.stance
        turn.change(name, stance=wanted, failed=name in event.failed, in_place=in_place)
    for one in turn.state.bound:
        segment = turn.state.segments[one.name]
        if segment.failed and segment.draining_until > turn.now:
            # It left on purpose, and has failed since: what comes out of it now is not to be waited for.
            turn.change(one.name, draining_until=0)
        if ACTS[segment.stance, segment.held] is not Act.GRANT:
            act(turn, one)


def act(turn: Turn, one: Guarded) -> None:
    """Do about a segment what the table says."""
    segment = turn.state.segments[one.name]
    match ACTS[segment.stance, segment.held]:
        case Act.LEAVE:
            pass
        case Act.GRANT:
            _grant(turn, one, segment)
        case Act.WITHDRAW:
            drain = segment.held is LeaseState.GRANTED and not segment.failed and one.guard.drain_ms > 0
            turn.do(Withdraw(one, drain))
            turn.hold(one.name, LeaseState.NOTHING, draining_until=turn.now + one.guard.drain_ms if drain else 0)
            turn.renew(one.name)
        case Act.STAND_ASIDE:
            turn.do(StandAside(one))
            turn.hold(one.name, LeaseState.ASIDE)
            turn.renew(one.name)
        case Act.TRIP:
            _trip(turn, one, segment)
        case never:
            assert_never(never)


def _trip(turn: Turn, one: Guarded, segment: SegmentGuard) -> None:
    """The kernel was first. What may still be granted is withdrawn, so that nothing that comes late renews it."""
    turn.do(Withdraw(one, drain=False))
    exposure = replace(segment.exposure, trips=segment.exposure.trips + 1)
    turn.change(one.name, exposure=exposure)
    turn.hold(one.name, LeaseState.NOTHING)
    turn.renew(one.name)
    if one.guard.latch:
        turn.canaries(turn.state.canaries.trip(one.name))
    how = "cut" if one.guard.closed else "bypassed"
    text = f"{one.name}: {how} by the guard, which has tripped: a lease of {one.guard.lease_ms} ms ran out"
    turn.do(Tell("tripped", text, "critical" if one.guard.closed else "warning", {"segment": one.name}))


def _grant(turn: Turn, one: Guarded, segment: SegmentGuard) -> None:
    # What is granted while the table is read would be missing in the answer, and be taken for expired.
    busy = turn.state.table.putting or turn.state.table.asked
    if busy or not segment.in_place or not _proven(turn, one, segment):
        return
    turn.do(Grant(one, segment.token))
    turn.hold(one.name, LeaseState.GRANTED, renewed_at=turn.now)


def _proven(turn: Turn, one: Guarded, segment: SegmentGuard) -> bool:
    if not orders.probed(turn.state.appliance, one):
        # The verdict alone decides: the file has it so.
        return not segment.failed and all(place.index for place in one.adapters)
    wanted = orders.addresses(one, turn.state.secret, segment.token)
    return turn.state.canaries.proven(one, wanted, turn.now)


def expire(turn: Turn, one: Guarded, renewed_ms: int | None) -> None:
    """A lease of a segment has run out: by what the kernel tells of its last renewal, a lease's time after that."""
    exposure = turn.state.segments[one.name].exposure
    if renewed_ms is None:
        exposure = exposure.opened(turn.now, one.guard.lease_ms)
    else:
        exposure = exposure.tripped(renewed_ms, one.guard.lease_ms, turn.now)
    turn.change(one.name, held=LeaseState.EXPIRED, exposure=exposure)


def leases(turn: Turn, found: LeasesFound) -> None:
    """Which segments' leases stand: what does not has run out, and what the daemon renews is renewed."""
    for one in turn.state.bound:
        segment = turn.state.segments[one.name]
        if segment.held is not LeaseState.GRANTED:
            continue
        if one.name not in found.standing:
            expire(turn, one, found.renewed_ms.get(one.name))
        elif one.guard.by_daemon and not segment.failed and turn.now - segment.renewed_at >= one.guard.lease_ms // 4:
            turn.do(Renew(one))
            turn.change(one.name, renewed_at=turn.now)
