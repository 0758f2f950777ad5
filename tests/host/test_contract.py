"""One contract for both kernels: the same scenes, the same answers, the same network afterwards."""

import errno
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from kernels import Fake, Real, Scenery, has_tun, lacking, real, told

from reconciler.network.plan import MakeLink, Operation, Plan, RemoveLink, SetLink, Status
from reconciler.network.state import MEMBERSHIP_DEFAULTS, Kind, Link, Setting, Value

needs_taps = pytest.mark.skipif(not has_tun(), reason="/dev/net/tun is for root of the machine only")
BRIDGE_MAC = "02:00:00:00:0b:01"


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.netns)])
def kernel(request: pytest.FixtureRequest) -> Iterator[Scenery]:
    if request.param == "fake":
        yield Fake()
        return
    request.getfixturevalue("lab_root")
    with real() as scenery:
        yield scenery


def stand_in(name: str, kind: Kind = Kind.OTHER, settings: Mapping[Setting, Value] | None = None) -> Link:
    return Link(name, kind, settings or {})


def change(name: str, setting: Setting, new: Value, old: Value = None) -> SetLink:
    return SetLink(stand_in(name), setting, old, new)


def make(name: str, kind: Kind = Kind.BRIDGE, **more: Any) -> MakeLink:
    settings = {Setting.MAC: "02:00:00:00:0b:07", Setting.MULTICAST_SNOOPING: False, Setting.AGEING: 5000, **more}
    if kind is Kind.TAP:
        settings = {Setting.MARK: "reconciler:x:adapter:t", Setting.PERSISTENT: True}
    return MakeLink(stand_in(name, kind, settings))


def run(
    kernel: Scenery, *operations: Operation, needs: dict[int, tuple[int, ...]] | None = None
) -> list[tuple[str, int]]:
    plan = Plan(operations, tuple((needs or {}).get(i, ()) for i in range(len(operations))))
    return [(one.status.value, one.errno) for one in kernel.execute(plan, kernel.observe())]


def eventually(kernel: Scenery, name: str, setting: Setting, value: Value) -> None:
    """Wait for what the kernel does in its own time: after a change of carrier."""
    deadline = time.monotonic() + 5
    while settings_of(kernel, name).get(setting) != value and time.monotonic() < deadline:
        time.sleep(0.005)
    assert settings_of(kernel, name).get(setting) == value


def settings_of(kernel: Scenery, name: str) -> Mapping[Setting, Value]:
    return kernel.observe().by_name[name].settings


DONE = ("done", 0)


def failed(number: int) -> tuple[str, int]:
    return ("failed", number)


SKIPPED = ("skipped", 0)


def test_a_new_nic_has_the_settings_of_the_kernel(kernel: Scenery) -> None:
    kernel.nic("nic0", 1)
    assert settings_of(kernel, "nic0") == {
        Setting.SWITCH: None,
        Setting.UP: False,
        Setting.LINK_MODE: "default",
        Setting.ARP: True,
        Setting.PROMISCUOUS: False,
        Setting.MARK: "",
        Setting.MTU: 1500,
        Setting.MAC: "02:00:00:00:00:01",
        Setting.ADDRGENMODE: "eui64",
        Setting.IPV6: True,
        Setting.ADDRESSES: (),
        Setting.LRO: False,
    }


def test_a_bridge_is_made_with_what_it_is_given(kernel: Scenery) -> None:
    assert run(kernel, make("br0")) == [DONE]
    made = kernel.observe().by_name["br0"]
    assert made.kind is Kind.BRIDGE
    assert made.settings[Setting.MAC] == "02:00:00:00:0b:07"
    assert made.settings[Setting.AGEING] == 5000
    assert made.settings[Setting.MULTICAST_SNOOPING] is False
    assert made.settings[Setting.STP] is False
    assert made.settings[Setting.MTU] == 1500


@pytest.mark.parametrize("taken", ["nic0", "br0"])
def test_a_bridge_with_a_taken_name_is_refused(kernel: Scenery, taken: str) -> None:
    kernel.nic("nic0", 1)
    kernel.bridge("br0", BRIDGE_MAC)
    before = told(kernel.observe())
    assert run(kernel, make(taken)) == [failed(errno.EEXIST)]
    assert told(kernel.observe()) == before


@needs_taps
def test_a_tap_is_made_marked_and_persistent(kernel: Scenery) -> None:
    assert run(kernel, make("tap0", Kind.TAP)) == [DONE]
    made = kernel.observe().by_name["tap0"]
    assert made.kind is Kind.TAP
    assert made.settings[Setting.PERSISTENT] is True
    assert made.settings[Setting.MARK] == "reconciler:x:adapter:t"
    assert made.settings[Setting.MTU] == 1500
    assert Setting.STATE not in made.settings


@needs_taps
@pytest.mark.parametrize("taken", ["nic0", "tap0"])
def test_a_tap_with_a_taken_name_is_refused(kernel: Scenery, taken: str) -> None:
    kernel.nic("nic0", 1)
    kernel.tap("tap0", BRIDGE_MAC)
    assert run(kernel, make(taken, Kind.TAP)) == [failed(errno.EBUSY)]


@needs_taps
def test_a_tap_that_the_vm_holds_cannot_be_made_persistent_by_others(kernel: Scenery) -> None:
    kernel.tap("tap0", BRIDGE_MAC)
    assert run(kernel, change("tap0", Setting.PERSISTENT, True)) == [DONE]
    kernel.hold("tap0")
    assert run(kernel, change("tap0", Setting.PERSISTENT, True)) == [failed(errno.EBUSY)]


@needs_taps
def test_a_tap_has_a_carrier_only_while_somebody_holds_it(kernel: Scenery) -> None:
    kernel.tap("tap0", BRIDGE_MAC)
    kernel.bridge("br0", BRIDGE_MAC)
    kernel.up("br0")
    kernel.put("tap0", "br0")
    kernel.up("tap0")
    assert Setting.STATE not in settings_of(kernel, "tap0")
    kernel.hold("tap0")
    eventually(kernel, "tap0", Setting.STATE, "forwarding")


@pytest.mark.parametrize(
    "setting", [one for one in Setting if one not in (Setting.PERSISTENT, Setting.ADDRESSES, Setting.IPV6)]
)
def test_an_interface_that_is_gone_is_refused(kernel: Scenery, setting: Setting) -> None:
    kernel.nic("nic0", 1)
    actual = kernel.observe()
    kernel.delete("nic0")
    operation = change("nic0", setting, VALUES[setting])
    outcome = kernel.execute(Plan((operation,), ((),)), actual)[0]
    assert (outcome.status, outcome.errno) == (Status.FAILED, errno.ENODEV)
    unknown = kernel.execute(Plan((change("nic7", setting, VALUES[setting]),), ((),)), actual)[0]
    assert (unknown.status, unknown.errno) == (Status.FAILED, errno.ENODEV)


def test_the_ipv6_switch_of_an_interface_that_is_gone_is_refused(kernel: Scenery) -> None:
    assert run(kernel, change("nic0", Setting.IPV6, False)) == [failed(errno.ENOENT)]


VALUES: dict[Setting, Value] = {
    Setting.SWITCH: None,
    Setting.UP: True,
    Setting.LINK_MODE: "dormant",
    Setting.DORMANT: True,
    Setting.MTU: 1400,
    Setting.MAC: "02:00:00:00:00:77",
    Setting.ARP: False,
    Setting.PROMISCUOUS: True,
    Setting.MARK: "a mark",
    Setting.ADDRGENMODE: "none",
    Setting.IPV6: False,
    Setting.LRO: False,
    Setting.STP: True,
    Setting.MULTICAST_SNOOPING: False,
    Setting.VLAN_FILTERING: True,
    Setting.AGEING: 0,
    Setting.SWITCH_GROUP_FWD_MASK: 0xFFF8,
    Setting.NF_CALL_IPTABLES: True,
    Setting.NF_CALL_IP6TABLES: True,
    Setting.NF_CALL_ARPTABLES: True,
    Setting.FDB_MAX_LEARNED: 8192,
    Setting.STATE: "learning",
    Setting.GROUP_FWD_MASK: 0xFFFD,
    Setting.LEARNING: False,
    Setting.LEARNT: False,
    Setting.FLOOD: False,
    Setting.MULTICAST_FLOOD: False,
    Setting.BROADCAST_FLOOD: False,
    Setting.HAIRPIN: True,
    Setting.ISOLATED: True,
    Setting.BPDU_GUARD: True,
    Setting.ROOT_BLOCK: True,
    Setting.NEIGHBOUR_SUPPRESSION: True,
    Setting.PROXY_ARP: True,
    Setting.LOCKED: True,
}
_OF_BRIDGE = [
    Setting.STP,
    Setting.MULTICAST_SNOOPING,
    Setting.VLAN_FILTERING,
    Setting.AGEING,
    Setting.SWITCH_GROUP_FWD_MASK,
    Setting.NF_CALL_IPTABLES,
    Setting.NF_CALL_IP6TABLES,
    Setting.NF_CALL_ARPTABLES,
    Setting.FDB_MAX_LEARNED,
]
_NEEDS_MORE = (Setting.SWITCH, Setting.DORMANT, Setting.LRO)
_OF_ANY = [one for one in VALUES if one not in (*_OF_BRIDGE, *MEMBERSHIP_DEFAULTS, *_NEEDS_MORE)]


@pytest.mark.parametrize("setting", _OF_ANY)
def test_a_setting_of_a_nic_is_what_it_was_set_to(kernel: Scenery, setting: Setting) -> None:
    kernel.nic("nic0", 1)
    before = dict(settings_of(kernel, "nic0"))
    assert run(kernel, change("nic0", setting, VALUES[setting])) == [DONE]
    with_carrier: dict[Setting, Value] = {Setting.DORMANT: False} if setting is Setting.UP else {}
    assert settings_of(kernel, "nic0") == {**before, setting: VALUES[setting], **with_carrier}


@pytest.mark.parametrize("mode", ["default", "dormant"])
def test_a_member_that_waits_is_let_run_and_forwards(kernel: Scenery, mode: str) -> None:
    kernel.nic("nic0", 1)
    kernel.bridge("br0", BRIDGE_MAC)
    kernel.put("nic0", "br0")
    kernel.up("br0")
    kernel.up("nic0")
    eventually(kernel, "nic0", Setting.STATE, "forwarding")
    waits = [change("nic0", Setting.LINK_MODE, mode), change("nic0", Setting.DORMANT, True)]
    assert run(kernel, *waits) == [DONE, DONE]
    told = settings_of(kernel, "nic0")
    assert (told[Setting.DORMANT], told[Setting.LINK_MODE], told.get(Setting.STATE)) == (True, mode, None)
    runs = [change("nic0", Setting.LINK_MODE, "default"), change("nic0", Setting.DORMANT, False)]
    assert run(kernel, *runs) == [DONE, DONE]
    told = settings_of(kernel, "nic0")
    assert (told[Setting.DORMANT], told[Setting.LINK_MODE], told[Setting.STATE]) == (False, "default", "forwarding")


@pytest.mark.parametrize("setting", [*_OF_ANY, *_OF_BRIDGE])
def test_a_setting_of_a_bridge_is_what_it_was_set_to(kernel: Scenery, setting: Setting) -> None:
    kernel.bridge("br0", BRIDGE_MAC)
    before = dict(settings_of(kernel, "br0"))
    if setting is Setting.FDB_MAX_LEARNED and setting not in before:
        # A kernel before 6.7 passes over it.
        assert run(kernel, change("br0", setting, VALUES[setting])) == [DONE]
        assert settings_of(kernel, "br0") == before
        return
    assert before[setting] != VALUES[setting]
    if isinstance(kernel, Real) and setting in lacking(kernel):
        assert run(kernel, change("br0", setting, VALUES[setting])) == [failed(errno.EOPNOTSUPP)]
        return
    assert run(kernel, change("br0", setting, VALUES[setting])) == [DONE]
    assert settings_of(kernel, "br0") == {**before, setting: VALUES[setting]}


@pytest.mark.parametrize("name", ["nic0", "br0"])
def test_large_receive_offload_can_be_off_everywhere_and_on_only_where_there_is_one(kernel: Scenery, name: str) -> None:
    kernel.nic("nic0", 1)
    kernel.bridge("br0", BRIDGE_MAC)
    before = dict(settings_of(kernel, name))
    assert before.get(Setting.LRO) is (False if name == "nic0" else None)
    assert run(kernel, change(name, Setting.LRO, False)) == [DONE]
    assert run(kernel, change(name, Setting.LRO, True)) == [failed(errno.EOPNOTSUPP)]
    assert settings_of(kernel, name) == before


@pytest.mark.parametrize("setting", [one for one in MEMBERSHIP_DEFAULTS if one is not Setting.LEARNT])
def test_a_setting_of_a_membership_lasts_as_long_as_the_membership(kernel: Scenery, setting: Setting) -> None:
    for name in ("br0", "br1"):
        kernel.bridge(name, BRIDGE_MAC)
        kernel.up(name)
    kernel.nic("nic0", 1)
    kernel.up("nic0")
    assert run(kernel, change("nic0", Setting.SWITCH, "br0")) == [DONE]
    # The kernel gets round to a carrier in its own time.
    eventually(kernel, "nic0", Setting.STATE, "forwarding")
    members = {one: value for one, value in settings_of(kernel, "nic0").items() if one in MEMBERSHIP_DEFAULTS}
    assert members == {one: value for one, value in MEMBERSHIP_DEFAULTS.items() if one is not Setting.LEARNT}
    assert run(kernel, change("nic0", setting, VALUES[setting])) == [DONE]
    assert settings_of(kernel, "nic0")[setting] == VALUES[setting]
    # Into the switch where it is already: nothing happens. Into another: everything is as in a new membership.
    assert run(kernel, change("nic0", Setting.SWITCH, "br0")) == [DONE]
    assert settings_of(kernel, "nic0")[setting] == VALUES[setting]
    assert run(kernel, change("nic0", Setting.SWITCH, "br1")) == [DONE]
    eventually(kernel, "nic0", setting, MEMBERSHIP_DEFAULTS[setting])
    assert run(kernel, change("nic0", Setting.SWITCH, None)) == [DONE]
    assert setting not in settings_of(kernel, "nic0")
    assert run(kernel, change("nic0", setting, VALUES[setting])) == [failed(errno.EOPNOTSUPP)]


def test_what_a_marked_switch_without_learning_has_learnt_is_told_and_forgotten_as_asked(kernel: Scenery) -> None:
    kernel.bridge("br0", BRIDGE_MAC)
    for number in range(2):
        kernel.nic(f"nic{number}", number)
        kernel.put(f"nic{number}", "br0")
    for name in ("br0", "nic0", "nic1"):
        kernel.up(name)
    for name in ("nic0", "nic1"):
        # One that does not forward knows nobody.
        eventually(kernel, name, Setting.STATE, "forwarding")

    def learnt() -> list[Value]:
        return [settings_of(kernel, name).get(Setting.LEARNT) for name in ("nic0", "nic1")]

    def learns(name: str, value: bool) -> SetLink:
        return change(name, Setting.LEARNING, value)

    kernel.teach("nic0")
    # Going off, it takes with it what was learnt.
    assert run(kernel, learns("nic0", False), learns("nic1", False)) == [DONE, DONE]
    assert learnt() == [None, None]
    assert run(kernel, change("br0", Setting.MARK, "reconciler:x:switch:br0")) == [DONE]
    assert learnt() == [False, False]
    kernel.teach("nic1")
    assert learnt() == [False, True]
    for _ in range(2):
        assert run(kernel, change("nic1", Setting.LEARNT, False)) == [DONE]
        assert learnt() == [False, False]
    # Of a member that learns, nothing is told.
    kernel.teach("nic0")
    assert run(kernel, learns("nic0", True)) == [DONE]
    assert learnt() == [None, False]
    kernel.teach("nic1")
    assert learnt() == [None, True]
    assert run(kernel, change("nic1", Setting.SWITCH, None)) == [DONE]
    assert run(kernel, change("nic1", Setting.LEARNT, False)) == [failed(errno.EOPNOTSUPP)]


def test_a_switch_forgets_at_once_all_that_it_has_learnt(kernel: Scenery) -> None:
    kernel.bridge("br0", BRIDGE_MAC)
    for number in range(2):
        kernel.nic(f"nic{number}", number)
        kernel.put(f"nic{number}", "br0")
    for name in ("br0", "nic0", "nic1"):
        kernel.up(name)
    for name in ("nic0", "nic1"):
        eventually(kernel, name, Setting.STATE, "forwarding")
    # It is told of those that do not learn.
    quiet = [change(name, Setting.LEARNING, False) for name in ("nic0", "nic1")]
    assert run(kernel, *quiet) == [DONE, DONE]
    assert run(kernel, change("br0", Setting.MARK, "reconciler:x:switch:br0")) == [DONE]
    forget = SetLink(stand_in("br0", Kind.BRIDGE), Setting.LEARNT, old=True, new=False)
    for known in (True, False):
        for name in ("nic0", "nic1") if known else ():
            kernel.teach(name)
        assert [settings_of(kernel, name)[Setting.LEARNT] for name in ("nic0", "nic1")] == [known, known]
        assert run(kernel, forget) == [DONE]


@pytest.mark.parametrize("setting", _OF_BRIDGE)
def test_a_nic_has_no_settings_of_a_bridge(kernel: Scenery, setting: Setting) -> None:
    kernel.nic("nic0", 1)
    assert run(kernel, change("nic0", setting, VALUES[setting])) == [failed(errno.EOPNOTSUPP)]


@pytest.mark.parametrize(("name", "size"), [("nic0", 67), ("nic0", 65536), ("br0", 67), ("br0", 65536)])
def test_a_size_that_a_link_cannot_have_is_refused(kernel: Scenery, name: str, size: int) -> None:
    kernel.nic("nic0", 1)
    kernel.bridge("br0", BRIDGE_MAC)
    assert run(kernel, change(name, Setting.MTU, size)) == [failed(errno.EINVAL)]
    assert settings_of(kernel, name)[Setting.MTU] == 1500


@pytest.mark.parametrize(("setting", "mask"), [(Setting.SWITCH_GROUP_FWD_MASK, 1), (Setting.GROUP_FWD_MASK, 2)])
def test_a_group_that_no_bridge_forwards_is_refused(kernel: Scenery, setting: Setting, mask: int) -> None:
    kernel.bridge("br0", BRIDGE_MAC)
    kernel.nic("nic0", 1)
    kernel.put("nic0", "br0")
    name = "br0" if setting is Setting.SWITCH_GROUP_FWD_MASK else "nic0"
    assert run(kernel, change(name, setting, mask)) == [failed(errno.EINVAL)]


def test_a_bridge_cannot_be_in_a_bridge(kernel: Scenery) -> None:
    kernel.bridge("br0", BRIDGE_MAC)
    kernel.bridge("br1", BRIDGE_MAC)
    assert run(kernel, change("br0", Setting.SWITCH, "br1")) == [failed(errno.ELOOP)]
    assert settings_of(kernel, "br0")[Setting.SWITCH] is None


def test_what_is_no_bridge_holds_nobody(kernel: Scenery) -> None:
    kernel.nic("nic0", 1)
    kernel.nic("nic1", 2)
    assert run(kernel, change("nic0", Setting.SWITCH, "nic1")) == [failed(errno.EOPNOTSUPP)]


def test_the_loopback_is_in_no_bridge(kernel: Scenery) -> None:
    kernel.bridge("br0", BRIDGE_MAC)
    assert run(kernel, change("lo", Setting.SWITCH, "br0")) == [failed(errno.EINVAL)]


def test_a_nic_with_something_on_it_falls_out_of_its_bridge_when_the_next_refuses_it(kernel: Scenery) -> None:
    kernel.bridge("br0", BRIDGE_MAC)
    kernel.nic("nic0", 1)
    kernel.occupy("nic0")
    assert run(kernel, change("nic0", Setting.SWITCH, "br0")) == [failed(errno.EBUSY)]
    assert settings_of(kernel, "nic0")[Setting.SWITCH] is None


def test_a_move_into_a_bridge_that_is_gone_leaves_the_old_one(kernel: Scenery) -> None:
    for name in ("br0", "br1"):
        kernel.bridge(name, BRIDGE_MAC)
    kernel.nic("nic0", 1)
    kernel.put("nic0", "br0")
    actual = kernel.observe()
    kernel.delete("br1")
    plan = Plan((change("nic0", Setting.SWITCH, "br1"),), ((),))
    assert kernel.execute(plan, actual)[0].errno == errno.EINVAL
    assert settings_of(kernel, "nic0")[Setting.SWITCH] is None


def test_a_state_is_refused_while_there_is_no_carrier_or_the_spanning_tree_rules(kernel: Scenery) -> None:
    kernel.bridge("br0", BRIDGE_MAC)
    kernel.nic("nic0", 1)
    kernel.put("nic0", "br0")
    assert Setting.STATE not in settings_of(kernel, "nic0")
    assert run(kernel, change("nic0", Setting.STATE, "forwarding")) == [failed(errno.ENETDOWN)]
    kernel.up("nic0")
    # A bridge that is down forwards nothing.
    eventually(kernel, "nic0", Setting.STATE, "disabled")
    kernel.up("br0")
    eventually(kernel, "nic0", Setting.STATE, "forwarding")
    # Nobody can block a port without spanning tree: the kernel lets it forward at once.
    assert run(kernel, change("nic0", Setting.STATE, "blocking")) == [DONE]
    assert settings_of(kernel, "nic0")[Setting.STATE] == "forwarding"
    # Nor disable it for long.
    assert run(kernel, change("nic0", Setting.STATE, "disabled")) == [DONE]
    eventually(kernel, "nic0", Setting.STATE, "forwarding")
    assert run(kernel, change("br0", Setting.STP, True)) == [DONE]
    assert run(kernel, change("nic0", Setting.STATE, "blocking")) == [failed(errno.EBUSY)]


def test_a_bridge_that_is_deleted_frees_its_members(kernel: Scenery) -> None:
    kernel.bridge("br0", BRIDGE_MAC)
    for number in (0, 1):
        kernel.nic(f"nic{number}", number)
        kernel.put(f"nic{number}", "br0")
    assert run(kernel, RemoveLink(stand_in("br0", Kind.BRIDGE))) == [DONE]
    network = kernel.observe()
    assert "br0" not in network.by_name
    for number in (0, 1):
        assert network.by_name[f"nic{number}"].switch is None
        assert not set(MEMBERSHIP_DEFAULTS) & set(network.by_name[f"nic{number}"].settings)


def test_removing_what_is_gone_already_is_done(kernel: Scenery) -> None:
    kernel.bridge("br0", BRIDGE_MAC)
    actual = kernel.observe()
    kernel.delete("br0")
    outcome = kernel.execute(Plan((RemoveLink(stand_in("br0", Kind.BRIDGE)),), ((),)), actual)[0]
    assert outcome.status is Status.DONE


def test_a_renamed_interface_is_still_the_one_that_was_meant(kernel: Scenery) -> None:
    kernel.nic("nic0", 1)
    actual = kernel.observe()
    kernel.rename("nic0", "nic9")
    outcomes = kernel.execute(
        Plan((change("nic0", Setting.MARK, "m"), change("nic0", Setting.MTU, 1400)), ((), ())), actual
    )
    assert [one.status for one in outcomes] == [Status.DONE, Status.DONE]
    assert settings_of(kernel, "nic9")[Setting.MTU] == 1400


def test_addresses_go_also_where_one_takes_the_others_with_it(kernel: Scenery) -> None:
    kernel.nic("nic0", 1)
    kernel.address("nic0", "10.0.0.1/24", "192.0.2.1/32", "10.0.0.2/24")
    held = settings_of(kernel, "nic0")[Setting.ADDRESSES]
    assert held == ("10.0.0.1/24", "192.0.2.1/32", "10.0.0.2/24")
    assert run(kernel, change("nic0", Setting.ADDRESSES, (), held)) == [DONE]
    assert settings_of(kernel, "nic0")[Setting.ADDRESSES] == ()
    # Gone already: what was asked for is so.
    assert run(kernel, change("nic0", Setting.ADDRESSES, (), held)) == [DONE]


def test_a_bridge_follows_its_smallest_member_until_somebody_sets_its_size(kernel: Scenery) -> None:
    kernel.nic("nic0", 1)
    kernel.bridge("br0", BRIDGE_MAC)
    assert run(kernel, change("nic0", Setting.MTU, 9000), change("nic0", Setting.SWITCH, "br0")) == [DONE, DONE]
    assert settings_of(kernel, "br0")[Setting.MTU] == 9000
    kernel.put("nic0", None)
    assert settings_of(kernel, "br0")[Setting.MTU] == 1500
    # What it has already does not pin it; another one does.
    assert run(kernel, change("br0", Setting.MTU, 1500), change("nic0", Setting.SWITCH, "br0")) == [DONE, DONE]
    assert settings_of(kernel, "br0")[Setting.MTU] == 9000
    assert run(kernel, change("br0", Setting.MTU, 2000), change("nic0", Setting.SWITCH, None)) == [DONE, DONE]
    assert settings_of(kernel, "br0")[Setting.MTU] == 2000


def test_what_needs_a_failed_operation_is_skipped_and_the_rest_goes_on(kernel: Scenery) -> None:
    kernel.nic("nic0", 1)
    kernel.nic("nic1", 2)
    answers = run(
        kernel,
        make("nic0"),
        make("br1", **{Setting.MAC: BRIDGE_MAC}),
        change("nic0", Setting.MTU, 1400),
        change("nic1", Setting.UP, True),
        change("nic1", Setting.SWITCH, "br1"),
        change("nic1", Setting.GROUP_FWD_MASK, 0xFFFD),
        needs={2: (0,), 4: (1,), 5: (4,)},
    )
    assert answers == [failed(errno.EEXIST), DONE, SKIPPED, DONE, DONE, DONE]
    network = kernel.observe()
    assert network.by_name["nic0"].settings[Setting.MTU] == 1500
    assert network.by_name["nic1"].switch == "br1"


def test_nothing_is_removed_that_a_failed_move_left_behind(kernel: Scenery) -> None:
    kernel.bridge("old", BRIDGE_MAC)
    kernel.nic("nic0", 1)
    kernel.put("nic0", "old")
    answers = run(
        kernel,
        change("nic0", Setting.SWITCH, "gone"),
        RemoveLink(stand_in("old", Kind.BRIDGE)),
        needs={1: (0,)},
    )
    assert answers == [failed(errno.ENODEV), SKIPPED]
    assert settings_of(kernel, "nic0")[Setting.SWITCH] == "old"


def test_what_is_interrupted_at_once_changes_nothing(kernel: Scenery) -> None:
    kernel.nic("nic0", 1)
    before = told(kernel.observe())
    plan = Plan((make("br0"), change("nic0", Setting.UP, True)), ((), ()))
    outcomes = kernel.execute(plan, kernel.observe(), lambda: True)
    assert [(one.status, one.why) for one in outcomes] == [(Status.SKIPPED, "interrupted")] * 2
    assert told(kernel.observe()) == before


def test_what_is_interrupted_later_has_done_the_first_of_it(kernel: Scenery) -> None:
    kernel.nic("nic0", 1)
    asked = iter([False, True])
    plan = Plan((make("br0"), change("br0", Setting.UP, True), change("nic0", Setting.UP, True)), ((), (0,), ()))
    outcomes = kernel.execute(plan, kernel.observe(), lambda: next(asked, True))
    assert [one.status for one in outcomes] == [Status.DONE, Status.SKIPPED, Status.SKIPPED]
    assert settings_of(kernel, "br0")[Setting.UP] is False


def test_a_look_at_some_shows_these_and_whoever_has_to_do_with_them(kernel: Scenery) -> None:
    for number in range(4):
        kernel.nic(f"nic{number}", number)
    for name in ("ours", "foreign"):
        kernel.bridge(name, BRIDGE_MAC)
    run(kernel, change("ours", Setting.MARK, "reconciler:x:switch:ours"))
    kernel.put("nic1", "ours")
    kernel.put("nic2", "foreign")
    seen = kernel.observe(["nic0", "nowhere0"])
    # The loopback has an address.
    assert set(seen.by_name) == {"lo", "nic0", "nic1", "ours", "foreign"}
    assert seen.by_name["nic1"].switch == "ours"
    whole = kernel.observe()
    assert {name: link.settings for name, link in seen.by_name.items()} == {
        name: whole.by_name[name].settings for name in seen.by_name
    }
    held = kernel.observe(["nic2"])
    assert held.by_name["nic2"].switch == "foreign"


# --- and any sequence of operations ----------------------------------------------------------------------------------


def _random_operation(chance: random.Random) -> Operation:
    names = ["nic0", "nic1", "nic2", "br0", "br1", "br2"]
    name = chance.choice(names)
    draw = chance.random()
    if draw < 0.1:
        return make(
            chance.choice(["br0", "br1", "br2", "nic0"]), **{Setting.MAC: f"02:00:00:00:0b:{chance.randrange(9):02x}"}
        )
    if draw < 0.16:
        return RemoveLink(stand_in(chance.choice(["br0", "br1", "br2"]), Kind.BRIDGE))
    if draw < 0.5:
        return change(name, Setting.SWITCH, chance.choice([None, "br0", "br1", "br2"]))
    setting = chance.choice([one for one in VALUES if one not in (Setting.SWITCH, Setting.STP, Setting.MAC)])
    value = VALUES[setting]
    if isinstance(value, bool) and setting is not Setting.LEARNT and chance.random() < 0.5:
        value = not value
    if setting is Setting.MTU:
        value = chance.choice([60, 1400, 1500, 9000, 70000])
    if setting is Setting.STATE:
        value = chance.choice(["disabled", "forwarding", "blocking", "listening"])
    return change(name, setting, value)


@pytest.mark.netns
@pytest.mark.parametrize("seed", range(12))
def test_both_kernels_answer_the_same_to_any_sequence_of_operations(seed: int) -> None:
    chance = random.Random(seed)
    with real() as genuine:
        fake = Fake(lacking(genuine))
        for kernel in (fake, genuine):
            for number in range(3):
                kernel.nic(f"nic{number}", number)
            kernel.bridge("br0", BRIDGE_MAC)
        for step in range(60):
            operation = _random_operation(chance)
            assert run(fake, operation) == run(genuine, operation), (step, operation)
            deadline = time.monotonic() + 5
            while told(fake.observe()) != told(genuine.observe()) and time.monotonic() < deadline:
                time.sleep(0.005)
            assert told(fake.observe()) == told(genuine.observe()), (step, operation)
