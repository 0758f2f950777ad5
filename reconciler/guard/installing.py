"""The table in the kernel: found, put, put right, and taken away; and what it has counted.

A table is put whole, in one transaction; what stands in it goes on standing in the next one. Where segments have other
interfaces, and nothing else has changed, their chains alone are replaced. It takes long, so it is done in the
background, and what was taken back meanwhile is taken back again when it is done.
"""

from collections.abc import Mapping
from typing import assert_never

from reconciler.guard import consent, orders
from reconciler.guard.effects import FindTable, Install, Prepare, Tell, Warn, Withdraw
from reconciler.guard.events import CountersRead, Installed, Observed, Removed, TableFound
from reconciler.guard.exposure import Count as Counts
from reconciler.guard.rules import Contents, Guarded, Ruleset, Stance, digest_of, replacement, ruleset
from reconciler.guard.state import GuardState, Putting, SegmentGuard
from reconciler.guard.table import LeaseState
from reconciler.guard.turn import Turn
from reconciler.guard.warnings import tampered

# How often the table is compared although nobody seems to have changed it.
CHECK_MS = 10_000
# A wire that is inspected already when the guard is set for the first time: so long the VM may take to prove itself
# before the guard trips. Some probes and their way through a slow VM.
ADOPT_MS = 2_000


def observed(turn: Turn, event: Observed) -> bool:
    """The network was looked at. Whether the table is to be looked at first; all else then follows from its answer."""
    for name in turn.state.segments:
        turn.change(name, in_place=name in event.in_place, inspected=name in event.inspected)
    if not turn.state.segments:
        return False
    if event.bound != turn.state.seen or not turn.state.table.made:
        seen = {place.role: place.index for one in event.bound for place in one.ports if place.index}
        turn.set(seen=event.bound, nics={**turn.state.nics, **seen})
        turn.table(made=digest_of(turn.state.appliance.sku, event.bound, turn.state.secret))
    table = turn.state.table
    settled = table.made == table.digest and not table.suspicious and turn.now < table.check_ms
    if turn.state.on and not table.putting and not table.asked and not settled:
        turn.table(asked=True, suspicious=False, check_ms=turn.now + CHECK_MS)
        turn.do(FindTable(event.bound))
        return True
    return False


def found(turn: Turn, event: TableFound) -> None:
    """The table as it stands: taken over, left, or replaced."""
    live, table = event.fingerprint is not None, turn.state.table
    turn.table(asked=False)
    if not turn.state.on or table.putting or not turn.state.segments:
        return
    was_present = table.present
    turn.table(present=live)
    _book(turn, event.handle, event.counted, late=True)
    # Before another table takes its place: whoever dies meanwhile has kept what this one had counted.
    turn.keep()
    if live and not table.known:
        _adopt(turn, event.contents)
    if table.made == table.digest and live and event.fingerprint == table.fingerprint:
        turn.do(Prepare(turn.state.seen))
        if not table.known:
            turn.do(Tell("guard", "the guard was found as it was left"))
        turn.set(bound=turn.state.seen)
        turn.table(known=True, trouble="")
    else:
        if not live:
            _judge_without_a_table(turn, silent=not was_present)
        _replace(turn, event, live=live)


def _judge_without_a_table(turn: Turn, *, silent: bool) -> None:
    """Who held a lease when the table was still there goes on only if it was proven a moment ago.

    `silent`: nothing has been sent since the table was found missing, so nothing could be proven: that is made up for.
    """
    for one in turn.state.bound:
        segment = turn.state.segments[one.name]
        if segment.held is not LeaseState.GRANTED or not orders.probed(turn.state.appliance, one):
            continue
        if silent and segment.stance is Stance.ARMED and segment.inspected:
            turn.hold(one.name, LeaseState.ADOPTING, adopting_until=turn.now + ADOPT_MS)
        elif not turn.state.canaries.was_proven(one, turn.now):
            turn.change(one.name, held=LeaseState.EXPIRED)


def _adopt(turn: Turn, found: Mapping[str, Contents]) -> None:
    """An earlier process has set the table: go on with what it holds."""
    for one in turn.state.seen:
        held = found.get(one.name)
        if held is None:
            # Of another version, or of another file: this segment had no guard.
            continue
        if held.token is not None:
            turn.change(one.name, token=held.token)
            if held.held:
                turn.hold(one.name, LeaseState.GRANTED)
            else:
                consent.expire(turn, one, held.renewed_ms)
        elif held.aside_ms:
            turn.hold(one.name, LeaseState.ADOPTING, adopting_until=turn.now + held.aside_ms)
        elif held.aside_ms is not None:
            turn.hold(one.name, LeaseState.ASIDE)
        else:
            if held.renewed_ms is not None:
                # It was withdrawn, some time in the last lease's.
                exposure = turn.state.segments[one.name].exposure
                exposure = exposure.tripped(held.renewed_ms, 0, turn.now, within=one.guard.lease_ms)
                turn.change(one.name, exposure=exposure)
            turn.hold(one.name, LeaseState.NOTHING)


def _replace(turn: Turn, found: TableFound, *, live: bool) -> None:
    """Put the table again. Leases that stand go on standing, but for those of a VM that came back as another one."""
    before = {one.name: one for one in turn.state.bound}
    bound, known = turn.state.seen, turn.state.table.known
    # Without the rules, or with somebody else's among them, probes may have been seen on a wire.
    leaky = found.fingerprint is None or found.fingerprint != turn.state.table.fingerprint
    for one in bound:
        segment, old = turn.state.segments[one.name], before.get(one.name)
        held = found.contents.get(one.name)
        if old is not None and segment.held is LeaseState.GRANTED and held is not None and not held.held:
            # It ran out, and nobody has seen it yet: no other table gives it back.
            consent.expire(turn, old, held.renewed_ms)
            consent.act(turn, old)
        elif old is not None and old.adapters != one.adapters:
            # Who is behind others has proven nothing.
            turn.renew(one.name)
            if segment.held in (LeaseState.GRANTED, LeaseState.ADOPTING):
                turn.change(one.name, held=LeaseState.EXPIRED)
                consent.act(turn, old)
        if not live and not known and segment.stance is Stance.ARMED and segment.inspected:
            turn.hold(one.name, LeaseState.ADOPTING, adopting_until=turn.now + ADOPT_MS)
        elif leaky:
            turn.renew(one.name)
    changed = _changed(turn.state, found)
    if changed is not None:
        text = replacement(turn.state.appliance.sku, changed, turn.state.secret)
        made, contents = Ruleset(text, turn.state.table.made), {}
    else:
        contents = {one.name: _contents(turn, one.name) for one in bound}
        made = ruleset(turn.state.appliance.sku, bound, turn.state.secret, contents)
    turn.table(putting=Putting(bound, made.digest, contents, live, turn.now))
    turn.do(Install(made))


def _changed(state: GuardState, found: TableFound) -> tuple[tuple[Guarded, Guarded], ...] | None:
    """The segments whose interfaces have changed, where nothing else has; else None: the whole table is replaced."""
    pairs = tuple(zip(state.bound, state.seen, strict=False))
    as_it_was = found.fingerprint is not None and found.fingerprint == state.table.fingerprint
    alike = len(state.bound) == len(state.seen) and all(
        old.name == new.name and old.guard == new.guard and old.directions == new.directions for old, new in pairs
    )
    return tuple(pair for pair in pairs if pair[0] != pair[1]) if state.table.known and as_it_was and alike else None


def _contents(turn: Turn, name: str) -> Contents:
    segment = turn.state.segments[name]
    match segment.held:
        case LeaseState.GRANTED:
            return Contents(segment.token, held=True)
        case LeaseState.ADOPTING:
            return Contents(aside_ms=max(1, segment.adopting_until - turn.now))
        case LeaseState.ASIDE:
            return Contents(aside_ms=0)
        case LeaseState.NOTHING | LeaseState.EXPIRED:
            return Contents()
        case never:
            assert_never(never)


def installed(turn: Turn, event: Installed) -> None:
    """A table was put; what has changed while it was on its way is made good."""
    put, old = turn.state.table.putting, turn.state.table
    if put is None:
        return
    turn.table(putting=None, known=True, present=True, trouble="", digest=put.digest, fingerprint=event.fingerprint)
    if event.before:
        _book(turn, event.before.handle, event.before.counted, late=True)
    turn.do(Prepare(put.bound))
    for one in put.bound:
        if one.name not in turn.state.segments:
            continue
        if _holds_more(put.contents.get(one.name, Contents()), turn.state.segments[one.name]):
            # It was taken back while the table was on its way.
            turn.do(Withdraw(one, drain=False))
        segment = turn.state.segments[one.name]
        if segment.held in (LeaseState.NOTHING, LeaseState.EXPIRED):
            # Since when it stands, only the kernel knows.
            turn.change(one.name, exposure=segment.exposure.opened(turn.now, turn.now - put.began_ms))
        turn.hold(one.name, segment.held)
    if not put.live and old.known:
        turn.do(Warn("guard", tampered("put back: somebody had removed it")))
    elif not old.known:
        turn.do(Tell("guard", "the guard was set"))
    elif put.bound == turn.state.bound:
        turn.do(Warn("guard", tampered("put right: somebody had changed it")))
    turn.set(bound=tuple(one for one in put.bound if one.name in turn.state.segments))


def _holds_more(put: Contents, segment: SegmentGuard) -> bool:
    """Whether a table that was put holds consent for a segment that has none any more."""
    if put.token is not None:
        return segment.held is not LeaseState.GRANTED or put.token != segment.token
    if put.aside_ms is not None:
        return segment.held not in (LeaseState.ADOPTING, LeaseState.ASIDE)
    return False


def removed(turn: Turn, event: Removed) -> None:
    """The table is gone, with all that it held."""
    _book(turn, event.handle, event.counted)
    turn.set(bound=(), seen=())
    turn.table(digest="", fingerprint=None, known=False, present=False, asked=False, putting=None, made="")
    for name, segment in turn.state.segments.items():
        exposure = segment.exposure.closed()
        turn.change(name, held=LeaseState.NOTHING, exposure=exposure, draining_until=0)
        turn.renew(name)
    why = "as asked" if turn.state.segments else "the file declares none any more"
    turn.do(Tell("guard", f"the guard was taken away: {why}", "warning"))


def _book(turn: Turn, handle: int | None, counted: Mapping[str, tuple[int, int]], *, late: bool = False) -> None:
    """What a table has counted until now, of whatever segments."""
    if handle is None:
        return
    for name, exposure in turn.exposures().items():
        # The one that is on its way may be there already; its turn is when the last of the one before it was told.
        if not turn.state.table.putting or exposure.handle in (None, handle):
            turn.expose(name, exposure.counted(passed(name, counted), handle, late=late))


def passed(segment: str, counted: Mapping[str, tuple[int, int]]) -> Counts:
    """What has entered at the ports of a segment and met no lease, whatever they are called by now."""
    found = [one for name, one in counted.items() if name.startswith(f"{segment}/port/")]
    return Counts(sum(frames for frames, _ in found), sum(size for _, size in found))


def counted(turn: Turn, event: CountersRead) -> None:
    """What was counted is booked."""
    _book(turn, event.handle, event.counted)
