"""The one table of consent: total, and with one way only to a lease."""

import itertools

import pytest

from reconciler.guard.rules import Stance
from reconciler.guard.table import ACTS, Act, LeaseState

# What the kernel's table holds when the act is done; GRANT, when it was proven.
AFTER = {
    Act.GRANT: LeaseState.GRANTED,
    Act.WITHDRAW: LeaseState.NOTHING,
    Act.TRIP: LeaseState.NOTHING,
    Act.STAND_ASIDE: LeaseState.ASIDE,
}
# Where each stance comes to rest. ARMED rests in NOTHING as long as nothing is proven.
REST = {
    Stance.ARMED: {LeaseState.GRANTED, LeaseState.NOTHING, LeaseState.ADOPTING},
    Stance.TRIPPED: {LeaseState.NOTHING},
    Stance.ASIDE: {LeaseState.ASIDE},
}


def of(act: Act) -> set[tuple[Stance, LeaseState]]:
    return {row for row, one in ACTS.items() if one is act}


def test_the_table_is_total() -> None:
    assert set(ACTS) == set(itertools.product(Stance, LeaseState))
    assert set(ACTS.values()) == set(Act)


def test_consent_is_given_where_the_wire_shall_be_inspected_and_nothing_is_granted() -> None:
    assert of(Act.GRANT) == {(Stance.ARMED, LeaseState.NOTHING), (Stance.ARMED, LeaseState.ADOPTING)}


def test_what_has_run_out_is_taken_back_before_anything_else() -> None:
    expired = {row for row in ACTS if row[1] is LeaseState.EXPIRED}
    assert of(Act.TRIP) | {(Stance.ASIDE, LeaseState.EXPIRED)} == expired
    assert ACTS[Stance.ASIDE, LeaseState.EXPIRED] is Act.STAND_ASIDE


def test_only_what_is_as_it_shall_be_is_left() -> None:
    assert of(Act.LEAVE) == {
        (Stance.ARMED, LeaseState.GRANTED),
        (Stance.TRIPPED, LeaseState.NOTHING),
        (Stance.ASIDE, LeaseState.ASIDE),
    }


@pytest.mark.parametrize("stance", Stance)
@pytest.mark.parametrize("held", LeaseState)
@pytest.mark.parametrize("proven", [False, True])
def test_each_stance_comes_to_rest_and_no_trip_by_the_kernel_is_skipped(
    stance: Stance, held: LeaseState, proven: bool
) -> None:
    acts = []
    for _ in range(4):
        act = ACTS[stance, held]
        if act is Act.LEAVE or (act is Act.GRANT and not proven):
            break
        acts.append(act)
        held = AFTER[act]
    else:
        raise AssertionError(f"{stance} does not rest: {acts}")
    assert held in REST[stance]
    if stance is not Stance.ARMED:
        assert Act.GRANT not in acts
    assert Act.GRANT not in acts[:-1]
