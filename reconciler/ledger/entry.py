"""What is written into the ledger: one entry for each thing that an auditor is to know.

    a moment       a release, the guard set again, a reload     one entry, with `to_ms` = `from_ms`
    an interval    bypassed, cut, unknown, a hold, guard off    one entry when it begins, with `to_ms` None: it goes on;
                                                                one when it ends, of the same `id`

An entry replaces all earlier ones of its `id`: the last one is what is known of the interval. So a power cut loses
nothing but the end. Between the two there may be more, each with all that is known by then: frames, a better bound. One
that turns out never to have been is ended with `to_ms` = `from_ms`, and says why in `cause`.

Where no entry says otherwise, and the daemon ran (`EntryKind.START` to `EntryKind.STOP`), a segment was inspected.
"""

from dataclasses import dataclass
from enum import StrEnum


class EntryKind(StrEnum):
    """What an entry is about."""

    BYPASSED = "bypassed"  # frames went past the VM
    CUT = "cut"  # frames went nowhere
    UNKNOWN = "unknown"  # the path could not be seen
    NO_EVIDENCE = "no-evidence"  # nobody looked
    HOLD = "hold"
    RELEASE = "release"
    GUARD_OFF = "guard-off"
    GUARD_ON = "guard-on"
    RELOAD = "reload"
    DRILL = "drill"
    # The ledger's own.
    START = "start"  # the daemon begins; `evidence`: the segments that the file declares; so with a reload
    ALIVE = "alive"  # it runs, and has had nothing else to say for an hour
    STOP = "stop"  # it ended in order
    REPAIRED = "repaired"  # a row was torn, and taken out
    LOST = "lost"  # entries could not be kept until there was room on the disk
    CONTINUED = "continued"  # a file begins; the rows before lie in an older one, or were dropped for age or room


BY_HAND = frozenset({EntryKind.GUARD_OFF, EntryKind.GUARD_ON})
"""What may be written where no daemon runs: such a row does not say that one did."""


class Counted(StrEnum):
    """How well `frames` and `bytes` are known."""

    EXACT = "exact"
    AT_LEAST = "at least"
    NO = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry; see the module. Times are UTC, in milliseconds since 1970.

    `id`: of the interval; '' for a moment. Made from what is known when it begins, and never used twice:
    `interval_id`. `segment`: '' where all of the appliance is meant. `to_ms`: None: it goes on. `precision_ms`: each of
    the two bounds is known to within this; 0: exact. `planned`: somebody ordered it (a hold, the guard off, a drill),
    and it is not the answer to a failure. `cause`: why, in a sentence's words; `evidence`: by which readings, counters
    or observations it is known. `who`, `reason`: of the person who asked, where one did. `frames`, `bytes`: all of the
    interval so far, on the wire.
    """

    kind: EntryKind
    id: str = ""
    segment: str = ""
    from_ms: int
    to_ms: int | None
    precision_ms: int = 0
    planned: bool = False
    cause: str = ""
    evidence: tuple[str, ...] = ()
    who: str = ""
    reason: str = ""
    frames: int = 0
    bytes: int = 0
    counted: Counted = Counted.NO


def interval_id(kind: EntryKind, segment: str, boot: str, since_ms: int) -> str:
    """The id of the interval that began at this moment of a boot. `since_ms`: on the clock that never steps."""
    return f"{kind}/{segment}/{boot[:8]}/{since_ms}"
