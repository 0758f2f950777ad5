"""The life of the process that sends the probes: never two of them, and none that hangs.

    NOBODY ──find, start──▶ STARTING ──report──▶ REPORTING
      ▲ ▲                      │ 10 s               │ a second of silence
      │ └──────killed──────────┴────────────────────┘
      └─ the one before is *still* there: nobody is started until it is gone

One that has not reported yet may be slow to start: a busy machine takes seconds for it. It gets no orders, so that it
sends nothing beside another one, should we be killed now; it is given time, and killed when that is over. Between two
starts lies a pause, which doubles until one has gone on for long.
"""

from dataclasses import replace

from reconciler.guard.effects import Consent, Effect, EndProber, FindProber, GiveOrders, StartProber, Warn
from reconciler.guard.orders import CONSENT_MS, Orders, ProberReport
from reconciler.guard.state import ProberLife, ProberState
from reconciler.guard.warnings import no_probes, prober_hangs

Next = tuple[ProberState, tuple[Effect, ...]]

# It reports ten times a second. One that does not for so long hangs, and another one takes its place.
HUNG_MS = 1_000
# Until its first report: an interpreter on a machine that is swapping.
FIRST_REPORT_MS = 10_000
# Between two starts, if the first one did not go on for as long as one may take to report; twice as much after each
# further one. One that ends by itself each time, or never comes up, must not take the machine along.
PAUSE_MS, MAX_PAUSE_MS = 2_000, 30_000
ORDER_RETRY_MS = 100
# One that was killed is gone after a moment, and is looked for so often.
ENDING_MS = 5


def there(known: ProberState, now: int, *, found: bool) -> Next:
    """One was found, or started. One that was found came up long ago, and tells something at once."""
    known = replace(known, life=ProberLife.STARTING, ordered=None, order_ms=now, report=None)
    if found:
        return replace(known, patience_ms=HUNG_MS, reported_ms=now), ()
    known = _paused(known, now)
    return replace(known, patience_ms=FIRST_REPORT_MS, since_ms=now, reported_ms=now), ()


def _paused(known: ProberState, now: int) -> ProberState:
    lasted = known.reported_ms - known.since_ms >= FIRST_REPORT_MS
    pause_ms = PAUSE_MS if lasted else min(2 * known.pause_ms, MAX_PAUSE_MS) or PAUSE_MS
    return replace(known, pause_ms=pause_ms, retry_ms=now + pause_ms)


def still(known: ProberState, now: int) -> Next:
    """None was started: one that was killed has yet to end. Soon it has, or its disk keeps it for long."""
    return replace(known, life=ProberLife.NOBODY, retry_ms=now + ENDING_MS), ()


def gone(known: ProberState, reason: str) -> Next:
    """There is none any more. `reason`: its last word, or what is known of its end."""
    return replace(known, life=ProberLife.NOBODY, ordered=None, report=None, trouble=reason), ()


def wished_for(known: ProberState) -> ProberState:
    """What comes next is somebody's wish, and not what failed again and again."""
    return replace(known, pause_ms=0, retry_ms=0)


def reported(known: ProberState, report: ProberReport, now: int) -> Next:
    """It has told something."""
    back = {one.name for one in report.directions if one.state == "back" and not one.name.endswith("?")}
    life = known.life if known.life is ProberLife.NOBODY else ProberLife.REPORTING
    return replace(
        known,
        life=life,
        reported_ms=now,
        report=report,
        proven=known.proven | back,
        trouble="" if known.ordered else known.trouble,
    ), ()


def refused(known: ProberState, effect: Effect, reason: str, now: int) -> Next:
    """What was asked of it could not be done."""
    tell = () if reason == known.trouble else (Warn("prober", no_probes(reason)),)
    if isinstance(effect, StartProber | FindProber):
        known = replace(_paused(known, now), life=ProberLife.NOBODY)
    return replace(known, trouble=reason, ordered=None, order_ms=now + ORDER_RETRY_MS), tell


def attend(known: ProberState, wanted: Orders, now: int) -> Next:
    """See to it that one lives, that it does what it shall, and that it knows that we live."""
    match known.life:
        case ProberLife.NOBODY:
            if now < known.retry_ms:
                return known, ()
            # A predecessor's may be there when we begin. One that we have lost is not asked again.
            if not known.asked:
                return replace(known, asked=True), (FindProber(),)
            # Until it is known what became of that.
            return replace(known, retry_ms=now + FIRST_REPORT_MS), (StartProber(),)
        case ProberLife.STARTING if now - known.reported_ms > known.patience_ms:
            hangs = "hangs" if known.patience_ms == HUNG_MS else f"has told nothing for {FIRST_REPORT_MS // 1_000} s"
            return known, (EndProber(), Warn("prober", prober_hangs(hangs)))
        case ProberLife.STARTING:
            return known, ()
        case ProberLife.REPORTING if now - known.reported_ms > HUNG_MS:
            return known, (EndProber(), Warn("prober", prober_hangs("hangs")))
    return _order(known, wanted, now)


def _order(known: ProberState, wanted: Orders, now: int) -> Next:
    effects: list[Effect] = []
    # First, for an adapter that cannot be listened to is no reason to let the others' probes end.
    if now - known.consented_ms >= CONSENT_MS:
        effects.append(Consent())
        known = replace(known, consented_ms=now)
    if known.ordered != wanted and now >= known.order_ms:
        effects.append(GiveOrders(wanted))
        known = replace(known, ordered=wanted)
    return known, tuple(effects)


def due(known: ProberState) -> int:
    """When `attend` has something to do although nothing happens, in milliseconds."""
    match known.life:
        case ProberLife.NOBODY:
            return known.retry_ms
        case ProberLife.STARTING:
            return known.reported_ms + known.patience_ms + 1
        case ProberLife.REPORTING:
            return min(known.reported_ms + HUNG_MS + 1, known.consented_ms + CONSENT_MS)
