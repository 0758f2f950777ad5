"""When repair the same thing again and again is a conflict, and what that changes."""

import pytest

from reconciler.network.conflict import (
    _MAX_THINGS,
    FIRST_PAUSE_MS,
    LONGEST_PAUSE_MS,
    ROUNDS,
    WITHIN_MS,
    Conflicts,
    about,
    suspects,
)
from reconciler.network.diff import Make, Remove, Set
from reconciler.network.plan import MakeLink, RemoveLink, SetLink
from reconciler.network.state import Kind, Link, Setting

NIC = Link("eth0", Kind.OTHER, {})
MTU, SWITCH = Set(NIC, Setting.MTU, 1, 2), Set(NIC, Setting.SWITCH, None, "sw0")


def fighting(index: int = 7) -> tuple[Conflicts, int]:
    conflicts, now = Conflicts(), 1_000
    for _ in range(ROUNDS):
        now += 100
        began = conflicts.repaired(MTU, now, index)
    assert began
    return conflicts, now


def test_a_few_times_within_a_while_make_a_fight_and_less_do_not() -> None:
    conflicts = Conflicts()
    assert [conflicts.repaired(MTU, now, 7) for now in (0, 10, 20, 30)] == [False, False, False, True]
    assert conflicts.under_way == (("eth0", "mtu"),)


def test_the_same_times_over_a_long_while_make_none() -> None:
    conflicts = Conflicts()
    assert not any(conflicts.repaired(MTU, number * (WITHIN_MS // (ROUNDS - 1)), 7) for number in range(100))
    assert conflicts.under_way == ()


def test_each_pause_is_twice_as_long_up_to_the_longest() -> None:
    conflicts, now = fighting()
    pauses = []
    for _ in range(12):
        assert not conflicts.allowed(MTU, now, 7)
        due = conflicts.due([MTU])
        assert due is not None
        assert not conflicts.allowed(MTU, due - 1, 7)
        assert conflicts.allowed(MTU, due, 7)
        pauses.append(due - now)
        now = due
        assert conflicts.repaired(MTU, now, 7) is False
    assert pauses[:4] == [FIRST_PAUSE_MS * factor for factor in (1, 2, 4, 8)]
    assert pauses[-1] == LONGEST_PAUSE_MS


def test_another_setting_or_interface_is_another_thing() -> None:
    conflicts, now = fighting()
    assert conflicts.allowed(SWITCH, now, 7)
    assert conflicts.allowed(Set(Link("eth1", Kind.OTHER, {}), Setting.MTU, 1, 2), now, 8)


def test_another_interface_under_the_same_name_has_done_nothing_yet() -> None:
    conflicts, now = fighting(index=7)
    assert conflicts.allowed(MTU, now, 8)
    assert conflicts.repaired(MTU, now, 8) is False


def test_what_is_made_again_and_again_is_a_thing_too() -> None:
    conflicts = Conflicts()
    bridge = Link("sw0", Kind.BRIDGE, {})
    assert [conflicts.repaired(Make(bridge), now, 0) for now in range(ROUNDS)][-1]
    assert conflicts.under_way == (("sw0", "making"),)


def test_when_nobody_fights_any_more_it_is_over_and_begins_as_if_never_fought() -> None:
    conflicts, now = fighting()
    assert conflicts.calmed(now + FIRST_PAUSE_MS + WITHIN_MS) == ()
    assert conflicts.calmed(now + FIRST_PAUSE_MS + WITHIN_MS + 1) == (("eth0", "mtu"),)
    assert conflicts.under_way == ()
    assert conflicts.allowed(MTU, now, 7)
    assert conflicts.due([MTU]) is None


def test_what_the_kernel_refuses_is_slowed_down_and_is_nobodys_fight() -> None:
    conflicts = Conflicts()
    assert [conflicts.repaired(MTU, now, 7, refused=True) for now in range(ROUNDS)][-1]
    assert not conflicts.allowed(MTU, ROUNDS, 7)
    assert conflicts.under_way == ()
    assert conflicts.calmed(10**9) == ()


def test_what_is_no_fight_is_not_waited_for() -> None:
    conflicts = Conflicts()
    conflicts.repaired(MTU, 0, 7)
    assert conflicts.due([MTU, SWITCH]) is None


def test_a_switch_makes_it_forget() -> None:
    conflicts, now = fighting()
    conflicts.forget()
    assert conflicts.allowed(MTU, now, 7)


def test_what_is_remembered_is_bounded() -> None:
    conflicts = Conflicts()
    for number in range(_MAX_THINGS + 100):
        conflicts.repaired(Set(Link(f"eth{number}", Kind.OTHER, {}), Setting.MTU, 1, 2), 0, number)
    assert len(conflicts._of) == _MAX_THINGS


def test_a_change_and_its_operation_are_about_the_same() -> None:
    assert about(MTU) == about(SetLink(NIC, Setting.MTU, 1, 2)) == ("eth0", "mtu")
    assert about(Make(NIC)) == about(MakeLink(NIC)) == ("eth0", "making")
    assert about(Remove(NIC)) == about(RemoveLink(NIC)) == ("eth0", "removal")


@pytest.mark.parametrize(
    ("change", "running", "holder", "expected"),
    [
        (MTU, ["bash"], None, ()),
        (MTU, ["NetworkManager"], None, ("NetworkManager",)),
        # The kernel cuts names: systemd-networkd is known as systemd-network.
        (MTU, ["systemd-network", "connmand"], None, ("systemd-networkd", "connmand")),
        (MTU, ["libvirtd"], "virbr0", ()),
        (SWITCH, ["libvirtd"], None, ()),
        (SWITCH, ["libvirtd", "ifupdown2d"], "virbr0", ("libvirtd", "ifupdown2d")),
    ],
)
def test_suspects(change: Set, running: list[str], holder: str | None, expected: tuple[str, ...]) -> None:
    assert suspects(change, running, holder) == expected
