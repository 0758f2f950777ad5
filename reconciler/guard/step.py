"""The guard's step: what follows for the dead-man switch from what has happened.

Theory. The kernel holds a table; this machine knows what it holds (`SegmentGuard.held`) and what it shall hold (the
stance, which follows from the policy's choice), and `table.ACTS` says what is done about the difference. Everything is
asked for by effects, and whether it was done comes back as an event:

    Chosen ─────────▶ Withdraw, StandAside                     at once: the failover path; nothing is asked before
    Observed ───────▶ FindTable ──TableFound──▶ Install ──Installed──▶ what has changed meanwhile
    ProberReported ─▶ FindLeases ─LeasesFound─▶ Withdraw (tripped), Grant (proven), Readings (news), Order
    Refused ────────▶ suspicion: the table is looked at, and put back

The order within a step is the order in which things are done: the wire first, then what is told to the policy, then the
prober, then the journal and the notes.

What must hold, whatever comes: a token is granted only while probes that bear it come back in every direction and the
wire's switches are in place; consent ends in the step in which the verdict fails; a token that may have been seen on a
wire (its table was gone, its segment tripped) is never sent, or granted, again.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, assert_never

from reconciler.appliance.declared import Appliance
from reconciler.guard import consent, installing, orders, prober
from reconciler.guard.effects import (
    Effect,
    EndProber,
    FindLeases,
    FindTable,
    Grant,
    Install,
    ReadCounters,
    Readings,
    RemoveTable,
    Renew,
    StandAside,
    Tell,
    Withdraw,
)
from reconciler.guard.events import (
    Chosen,
    CountersRead,
    Declared,
    Disturbed,
    Event,
    Installed,
    LeasesFound,
    NotDone,
    Observed,
    ProberGone,
    ProberReported,
    ProberStill,
    ProberThere,
    Rebooted,
    Removed,
    Switched,
    TableFound,
    Tick,
)
from reconciler.guard.exposure import NO_EXPOSURE, Exposure
from reconciler.guard.installing import CHECK_MS
from reconciler.guard.rules import Guarded, recall_nics
from reconciler.guard.state import GuardState, SegmentGuard, TableState
from reconciler.guard.table import LeaseState
from reconciler.guard.turn import Turn

SECRET_BYTES = NONCE_BYTES = 16
# How often the kernel is asked whether leases still stand.
LOOK_MS = 100


def begin(appliance: Appliance, secret: bytes, nonce: bytes, kept: Mapping[str, Any] | None = None) -> GuardState:
    """The guard of a process that has seen nothing yet.

    `secret` and `nonce`: random bytes, as many as `SECRET_BYTES` and `NONCE_BYTES`. `kept`: what `Keep` gave an earlier
    process in this boot, whose secret is then the one that counts.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is nothing that was kept.

    """
    on, table, exposures = recall(kept) if kept else (True, TableState(), {})
    secret = (bytes.fromhex(kept["secret"]) if kept else b"") or secret
    nics = recall_nics(kept) if kept else {}
    turn = Turn(GuardState(appliance, secret, nonce, {}, on=on, table=table, former=exposures, nics=nics), 0)
    for name in _guarded(appliance):
        turn.segment(name, SegmentGuard(turn.token(name), exposure=exposures.get(name, NO_EXPOSURE)))
    return turn.state


def recall(kept: Mapping[str, Any]) -> tuple[bool, TableState, Mapping[str, Exposure]]:
    """What `Keep` gave: whether the guard is on, the table that was set, and each segment's exposure.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is nothing that was kept.

    """
    if len(bytes.fromhex(kept["secret"])) not in (0, SECRET_BYTES):
        raise ValueError("no secret")
    recall_nics(kept)
    fingerprint = kept["fingerprint"]
    table = TableState(str(kept["digest"]), None if fingerprint is None else str(fingerprint))
    return kept["on"] is True, table, {str(name): Exposure.recall(one) for name, one in kept["segments"].items()}


def taken_away(kept: Mapping[str, Any], gone: Removed) -> dict[str, Any] | None:
    """What is to be kept where no daemon runs, and the table was taken away: what was counted, and no secret.

    `kept`: what `Keep` gave, or nothing. None: nothing was counted.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is nothing that was kept.

    """
    exposures = dict(recall(kept)[2]) if kept else {}
    for name in (one.partition("/port/") for one in gone.counted):
        if name[1]:
            exposures.setdefault(name[0], NO_EXPOSURE)
    if gone.handle is not None:
        exposures = {
            name: one.counted(installing.passed(name, gone.counted), gone.handle) for name, one in exposures.items()
        }
    closed = {name: one.closed() for name, one in exposures.items()}
    if not any(one.total.frames or one.trips for one in closed.values()):
        return None
    segments = {name: one.kept() for name, one in closed.items()}
    return {"on": True, "secret": "", "digest": "", "fingerprint": None, "segments": segments}


def step(state: GuardState, event: Event, now: int) -> tuple[GuardState, tuple[Effect, ...]]:
    """What follows from an event. `now`: milliseconds of a clock that never steps."""
    turn = Turn(state, now)
    match event:
        case Chosen():
            consent.chosen(turn, event)
        case Observed():
            if not installing.observed(turn, event):
                _listen(turn)
        case TableFound():
            installing.found(turn, event)
            _listen(turn)
        case Installed():
            installing.installed(turn, event)
            _listen(turn)
        case Removed():
            installing.removed(turn, event)
            turn.keep()
        case LeasesFound():
            consent.leases(turn, event)
            _conclude(turn)
        case CountersRead():
            installing.counted(turn, event)
            turn.keep()
        case NotDone():
            _refused(turn, event)
        case ProberReported():
            _reported(turn, event)
        case ProberThere():
            turn.prober(prober.there(turn.state.prober, now, found=event.found))
            _conclude(turn)
        case ProberStill():
            turn.prober(prober.still(turn.state.prober, now))
        case ProberGone():
            turn.prober(prober.gone(turn.state.prober, event.reason))
            _listen(turn)
        case Switched():
            _switched(turn, on=event.on)
        case Declared():
            _declared(turn, event.appliance)
        case Disturbed():
            turn.table(suspicious=True)
        case Rebooted():
            turn.canaries(turn.state.canaries.forget())
        case Tick():
            _listen(turn)
        case _:
            assert_never(event)
    return turn.state, tuple(turn.effects)


def due(state: GuardState, now: int) -> int:
    """When `Tick` is due although nothing happens."""
    old = state.canaries.due(now)
    moments = [] if old is None else [old]
    if not (state.on and state.table.known):
        return min([*moments, now + CHECK_MS])  # nothing else to do before the next look at the network
    moments.append(prober.due(state.prober))
    for one in state.bound:
        segment = state.segments[one.name]
        moments += [moment for moment in (segment.draining_until, segment.adopting_until) if moment > now]
        if segment.held is not LeaseState.GRANTED:
            continue
        if not state.prober.report or now - state.prober.reported_ms > LOOK_MS:
            # Nobody tells that probes are missing.
            moments.append(state.looked_ms + LOOK_MS)
        if one.guard.by_daemon and not segment.failed:
            moments.append(max(segment.renewed_at + one.guard.lease_ms // 4, state.looked_ms + LOOK_MS))
    return min(moments)


def waits_until(state: GuardState, segment: str, now: int) -> int | None:
    """Until when a segment's ports have to stay where they are: frames are on their way out of the VM."""
    known = state.segments.get(segment)
    return known.draining_until if known and known.draining_until > now else None


def _guarded(appliance: Appliance) -> tuple[str, ...]:
    return tuple(name for name, one in appliance.segments.items() if one.guard)


def _reported(turn: Turn, event: ProberReported) -> None:
    for report in event.reports:
        turn.prober(prober.reported(turn.state.prober, report, turn.now))
        turn.canaries(turn.state.canaries.observe(report.directions, turn.now))
        if any(one.state != "back" for one in report.directions):
            # The kernel may have been first: whose trip it was is to be known before anybody acts upon it.
            turn.set(looked_ms=0)
    _listen(turn)


def _listen(turn: Turn) -> None:
    """See whether what was granted still stands, where that is due; and then what follows."""
    if turn.state.on and turn.now - turn.state.looked_ms >= LOOK_MS:
        turn.set(looked_ms=turn.now)
        for one in turn.state.bound:
            segment = turn.state.segments[one.name]
            if segment.held is LeaseState.ADOPTING and turn.now >= segment.adopting_until:
                turn.hold(one.name, LeaseState.NOTHING)
        exposures = (turn.state.segments[one.name].exposure for one in turn.state.bound)
        if turn.state.table.present and any(one.open_since is not None for one in exposures):
            # What somebody throws away with the table is lost from the last time on that it was read.
            turn.do(ReadCounters())
        granted = tuple(one for one in turn.state.bound if turn.state.segments[one.name].held is LeaseState.GRANTED)
        if granted:
            turn.do(FindLeases(granted))
            return
    _conclude(turn)


def _conclude(turn: Turn, *, act: bool = True) -> None:
    """The wire, then what is news, then the prober, then the notes."""
    if not turn.state.segments:
        return
    # To a table that is not there nothing can be said; what follows is said to the next one.
    for one in turn.state.bound if act and turn.state.on and turn.state.table.present else ():
        consent.act(turn, one)
    state = turn.state
    on, present = state.on, state.table.present
    canaries, news = state.canaries.news(state.appliance, state.bound, turn.now, on=on, present=present)
    turn.canaries(canaries)
    if news:
        turn.do(Readings(news))
    if state.on and state.table.known:
        # Before, it is not known what a predecessor's prober should be doing.
        turn.prober(prober.attend(turn.state.prober, _orders(turn), turn.now))
    turn.keep()


def _orders(turn: Turn) -> orders.Orders:
    """What the prober shall do: nothing, where no table would keep its probes from the wire."""
    state = turn.state
    bound, present = state.bound, state.table.present
    tokens = {name: one.token for name, one in state.segments.items()}
    wanted_for = (state.appliance, bound, tokens, state.prober.proven, present)
    # Asked ten times a second, and hardly ever anything else than before.
    if state.wanted is None or wanted_for != state.wanted_for:
        made = orders.orders(state.appliance, bound, state.secret, tokens, state.prober.proven)
        # The adapters' sockets stay open: to close the last of one may take the kernel long.
        made = made if present else replace(made, orders=())
        turn.set(wanted=made, wanted_for=wanted_for)
        return made
    return state.wanted


def _refused(turn: Turn, event: NotDone) -> None:
    match event.effect:
        case Withdraw(one) | StandAside(one) | Renew(one):
            # Somebody has removed the table, or a part of it: it is put back, and then holds what it should. So is one
            # that looks as it was left, and did not obey.
            turn.table(suspicious=True, fingerprint=None)
            if one.name in turn.state.segments:
                turn.hold(one.name, LeaseState.NOTHING)
                turn.renew(one.name)
            turn.suffer(event.reason)
        case Grant(one):
            turn.table(suspicious=True, fingerprint=None)
            turn.hold(one.name, LeaseState.NOTHING)
            turn.suffer(event.reason)
        case Install():
            turn.table(putting=None)
            turn.suffer(event.reason)
            _listen(turn)
        case FindLeases() if not (turn.state.table.suspicious or turn.state.table.putting or turn.state.table.asked):
            # Perhaps the table is gone, and probes must not be sent without it: that is seen at once.
            turn.table(suspicious=True, asked=True)
            turn.suffer(event.reason)
            turn.do(FindTable(turn.state.seen))
        case FindTable() | FindLeases():
            asked = turn.state.table.asked and not isinstance(event.effect, FindTable)
            turn.table(suspicious=True, asked=asked)
            turn.suffer(event.reason)
            _conclude(turn, act=False)
        case RemoveTable():
            # It stands, so it is looked after.
            turn.set(on=True)
            turn.table(suspicious=True)
            turn.suffer(event.reason)
        case ReadCounters():
            turn.table(suspicious=True)
            turn.suffer(event.reason)
        case _:
            turn.prober(prober.refused(turn.state.prober, event.effect, event.reason, turn.now))


def _switched(turn: Turn, *, on: bool) -> None:
    if on is turn.state.on:
        return
    turn.set(on=on)
    if on:
        turn.table(suspicious=True)
        turn.set(prober=prober.wished_for(turn.state.prober))
        turn.do(Tell("guard", "the guard is set again"))
    else:
        _take_away(turn, turn.state.bound)
    _conclude(turn)


def _take_away(turn: Turn, bound: tuple[Guarded, ...]) -> None:
    """Have the switches decide at once, and take the table away as soon as what is under way with it is over.

    The probes end before, for without the table they reach the wire; and no wire is to be tripped by that.
    """
    if turn.state.table.known and turn.state.table.present:
        for one in bound:
            turn.do(StandAside(one))
            if one.name in turn.state.segments:
                turn.hold(one.name, LeaseState.ASIDE)
    turn.do(EndProber(), RemoveTable())


def _declared(turn: Turn, appliance: Appliance) -> None:
    old = turn.state.segments
    former = {name: one.exposure.closed() for name, one in old.items()}
    turn.set(appliance=appliance, segments={}, seen=(), former={**turn.state.former, **former})
    for name in _guarded(appliance):
        known = turn.state.former.get(name, NO_EXPOSURE)
        turn.segment(name, old.get(name) or SegmentGuard(turn.token(name), exposure=known))
    bound = turn.state.bound
    turn.set(bound=tuple(one for one in bound if one.name in turn.state.segments))
    turn.table(suspicious=True, made="")
    turn.canaries(turn.state.canaries.forget())
    if old and not turn.state.segments:
        _take_away(turn, bound)
