"""What is done about a segment's guard: the one table of it.

The guard's leases stand in the kernel; consent to them is given and taken here. As everywhere, the level decides, and
no event: what the guard shall be to the segment (its stance), what the kernel holds, and whether that can be so.

    held        NOTHING   no lease can stand: the guard joins (or cuts) the wire
                GRANTED   a token was granted; the leases stand, as long as probes that bear it come back
                ADOPTING  the guard was set before a wire that is inspected already: for a moment it stands aside
                ASIDE     it stands aside for as long as the topology is what it is

    PROVEN is asked only where it matters: every direction's canary is back, and the wire's switches are in place.

Why it cannot go wrong: GRANTED is entered by GRANT alone, and GRANT is in one place of the table, behind PROVEN. Where
the leases are found expired, the token is withdrawn before anything else: what comes back late renews nothing.
"""

from collections.abc import Mapping
from enum import Enum

from reconciler.guard.rules import Stance


class LeaseState(Enum):
    """What the kernel's table holds for a segment."""

    NOTHING = "nothing"
    GRANTED = "granted"
    EXPIRED = "expired"  # a token is granted, and a lease does not stand any more: tripped by the kernel
    ADOPTING = "adopting"
    ASIDE = "aside"


class Act(Enum):
    """What to do about it."""

    LEAVE = 1
    GRANT = 2  # as soon as it is proven
    WITHDRAW = 3  # no more leases, at once; on purpose, what is inside the VM is let out first
    STAND_ASIDE = 4
    TRIP = 5  # the kernel has tripped it: take note, and withdraw what is left of the consent


S, H, A = Stance, LeaseState, Act

# fmt: off
ACTS: Mapping[tuple[Stance, LeaseState], Act] = {
    (S.ARMED, H.NOTHING):  A.GRANT,    (S.TRIPPED, H.NOTHING):  A.LEAVE,     (S.ASIDE, H.NOTHING):  A.STAND_ASIDE,
    (S.ARMED, H.GRANTED):  A.LEAVE,    (S.TRIPPED, H.GRANTED):  A.WITHDRAW,  (S.ASIDE, H.GRANTED):  A.STAND_ASIDE,
    (S.ARMED, H.EXPIRED):  A.TRIP,     (S.TRIPPED, H.EXPIRED):  A.TRIP,      (S.ASIDE, H.EXPIRED):  A.STAND_ASIDE,
    (S.ARMED, H.ADOPTING): A.GRANT,    (S.TRIPPED, H.ADOPTING): A.WITHDRAW,  (S.ASIDE, H.ADOPTING): A.STAND_ASIDE,
    (S.ARMED, H.ASIDE):    A.WITHDRAW, (S.TRIPPED, H.ASIDE):    A.WITHDRAW,  (S.ASIDE, H.ASIDE):    A.LEAVE,
}
# fmt: on
