"""What must hold of any appliance on any host: properties, on generated appliances and tampered hosts."""

import copy
import random
from dataclasses import replace

import pytest
from effort import examples
from fake_kernel import FakeKernel, Killed
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import (
    FOREIGN,
    World,
    converged_worlds,
    has_loop,
    joined_segments,
    owned,
    prefixes,
    worlds,
)

from reconciler.network.bind import bind
from reconciler.network.cycle import audit, reconcile
from reconciler.network.desired import desired
from reconciler.network.diff import diff, difference
from reconciler.network.ownership import claim
from reconciler.network.plan import MakeLink, RemoveLink, SetLink, Step, plan
from reconciler.network.state import MEMBERSHIP_DEFAULTS, Kind, Link, Network, Setting

pytestmark = pytest.mark.filterwarnings("error")
# A bridge turns off the large receive offload of whoever enters.
_ABOUT_SWITCH = {Setting.SWITCH, Setting.LRO, *MEMBERSHIP_DEFAULTS}


@given(worlds())
def test_a_network_does_not_differ_from_itself(world: World) -> None:
    network = world.kernel.observe()
    assert list(diff(network, network)) == []


@given(worlds(refusals=False))
@settings(max_examples=examples(200))
def test_reconciling_makes_exactly_the_desired_network_and_leaves_the_rest(world: World) -> None:
    before = world.kernel.observe()
    report = reconcile(world.kernel, world.appliance, world.choice)
    after = world.kernel.observe()
    if any(problem.code != "adapter-missing" for problem in report.after.problems):
        raise AssertionError(report.after.problems)
    assert report.after.changes == ()
    assert [one for one in report.outcomes if one.status != "done"] == []
    _is_desired_or_untouched(world, before, after)


def _is_desired_or_untouched(world: World, before: Network, after: Network) -> None:
    bound = bind(world.appliance, desired(world.appliance, world.choice), before)
    claims = claim(world.appliance, bound, before)
    wanted = claims.desired.by_name
    leftovers = {link.name for link in claims.leftovers}
    strangers = {link.name for link in claims.strangers}
    for link in after.links:
        was = before.by_name.get(link.name)
        if link.name in wanted:
            asked = wanted[link.name].settings
            told = {setting: value for setting, value in link.settings.items() if setting in asked}
            assert told == {setting: value for setting, value in asked.items() if setting in link.settings}
            if was is not None:
                rest = set(link.settings) - set(asked) - _ABOUT_SWITCH - {Setting.DORMANT}  # it comes with a carrier
                assert {one: link.settings[one] for one in rest} == {one: was.settings[one] for one in rest}
        elif link.name in strangers or (was is not None and was.switch in leftovers):
            assert was is not None
            assert link.switch is None
            assert _alone(link) == _alone(was)
        else:
            assert link == was
    assert {link.name for link in after.links} == ({link.name for link in before.links} - leftovers) | set(wanted)
    assert after.default_route == before.default_route - leftovers


def _alone(link: Link) -> dict[Setting, object]:
    return {setting: value for setting, value in link.settings.items() if setting not in _ABOUT_SWITCH}


@given(worlds())
@settings(max_examples=examples(200))
def test_whatever_was_refused_the_rest_converges_and_a_second_run_has_nothing_to_do(world: World) -> None:
    report = reconcile(world.kernel, world.appliance, world.choice)
    assert report.after.changes == ()
    assert [one for one in report.outcomes if one.status != "done"] == []
    asked = len(world.kernel.log)
    again = reconcile(world.kernel, world.appliance, world.choice)
    assert again.plan.operations == ()
    assert len(world.kernel.log) == asked


@pytest.mark.long
@given(worlds())
@settings(max_examples=examples(30))
def test_a_process_killed_after_any_operation_leaves_nothing_that_the_next_run_does_not_repair(world: World) -> None:
    whole = copy.deepcopy(world.kernel)
    reconcile(whole, world.appliance, world.choice)
    for count in prefixes(world):
        kernel = copy.deepcopy(world.kernel)
        kernel.kill_after = count
        with pytest.raises(Killed):
            reconcile(kernel, world.appliance, world.choice)
        kernel.kill_after = None
        report = reconcile(kernel, world.appliance, world.choice)
        assert report.after.changes == ()
        assert _told(kernel) == _told(whole)


def _told(kernel: FakeKernel) -> dict[str, object]:
    """The network less what two runs cannot have in common: indexes, and addresses that a kernel makes up."""
    return {
        link.name: (link.kind, {one: value for one, value in link.settings.items() if one is not Setting.MAC})
        for link in kernel.observe().links
    }


@given(worlds(), st.data())
@settings(max_examples=examples(60))
def test_an_operation_that_fails_with_any_errno_spoils_only_what_needs_it(world: World, data: st.DataObject) -> None:
    operations = plan(audit(copy.deepcopy(world.kernel), world.appliance, world.choice)).operations
    if not operations:
        return
    position = data.draw(st.integers(0, len(operations) - 1))
    number = data.draw(st.sampled_from([1, 2, 11, 12, 16, 17, 19, 22, 95, 99, 100, 105]))
    world.kernel.fail_at = {position: number}
    report = reconcile(world.kernel, world.appliance, world.choice)
    gone_already = isinstance(operations[position], RemoveLink) and number == 19
    needy = {position}
    for later, needs in enumerate(report.plan.needs):
        if needy & set(needs):
            needy.add(later)
    for at, outcome in enumerate(report.outcomes):
        expected = "done" if gone_already or at not in needy else "failed" if at == position else "skipped"
        # A failure may leave another operation with nothing to work on; then the kernel says so, once more.
        assert outcome.status == expected or outcome.errno, (at, outcome)
    assert report.outcomes[position].errno == (0 if gone_already else number)
    world.kernel.fail_at = {}
    assert reconcile(world.kernel, world.appliance, world.choice).after.changes == ()


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=examples(60))
def test_the_order_of_what_was_observed_is_irrelevant(world: World, shuffler: random.Random) -> None:
    actual = world.kernel.observe()
    links = list(actual.links)
    shuffler.shuffle(links)
    shuffled = replace(actual, links=tuple(links))
    wanted = desired(world.appliance, world.choice)
    one = difference(world.appliance, wanted, actual)
    other = difference(world.appliance, wanted, shuffled)
    assert sorted(map(repr, one.changes)) == sorted(map(repr, other.changes))
    assert sorted(map(str, one.problems)) == sorted(map(str, other.problems))
    twin = copy.deepcopy(world.kernel)
    world.kernel.execute(plan(one), actual)
    twin.execute(plan(other), shuffled)
    assert _told(world.kernel) == _told(twin)


def _watched(world: World) -> list[Network]:
    """The network before, between and after all operations."""
    seen: list[Network] = []
    world.kernel.foreign_hand = lambda _, kernel: seen.append(kernel.observe())
    reconcile(world.kernel, world.appliance, world.choice)
    return [*seen, world.kernel.observe()]


@given(worlds())
@settings(max_examples=examples(200))
def test_no_prefix_of_a_plan_makes_a_loop_through_the_vm(world: World) -> None:
    if has_loop(world.appliance, world.kernel.observe()):
        return
    for network in _watched(world):
        assert not has_loop(world.appliance, network)


@given(converged_worlds())
@settings(max_examples=examples(100))
def test_no_prefix_of_a_change_of_topology_joins_two_segments_or_makes_a_loop(world: World) -> None:
    for network in _watched(world):
        assert not joined_segments(world.appliance, network)
        assert not has_loop(world.appliance, network)


@given(worlds())
@settings(max_examples=examples(100))
def test_no_prefix_joins_segments_that_were_apart(world: World) -> None:
    if joined_segments(world.appliance, world.kernel.observe()):
        return
    for network in _watched(world):
        assert not joined_segments(world.appliance, network)


@given(converged_worlds())
def test_a_change_of_topology_makes_and_removes_nothing(world: World) -> None:
    operations = plan(audit(world.kernel, world.appliance, world.choice)).operations
    assert not [one for one in operations if isinstance(one, MakeLink | RemoveLink)]


@given(worlds())
@settings(max_examples=examples(200))
def test_a_plan_never_touches_what_is_not_ours(world: World) -> None:
    of = world.appliance
    before = world.kernel.observe()
    ours = {*owned(of, world.kernel)}
    ours |= {switch.name for topology in of.topologies.values() for switch in topology.switches}
    ours |= {adapter.interface for adapter in of.adapters.values()}
    found = audit(copy.deepcopy(world.kernel), of, world.choice)
    for operation in plan(found).operations:
        link = operation.link
        assert link.name not in FOREIGN
        match operation:
            case SetLink(setting=Setting.SWITCH, new=None) if before.by_name[link.name].switch in ours:
                pass  # a stranger leaves
            case SetLink(setting=Setting.SWITCH, new=new):
                assert new is None or new in ours
                assert link.name in ours
            case RemoveLink():
                assert link.name in ours
                assert link.kind in (Kind.BRIDGE, Kind.TAP)
            case _:
                assert link.name in ours
    reconcile(world.kernel, of, world.choice)
    after = world.kernel.observe()
    for name in FOREIGN:
        was, now = before.by_name[name], after.by_name[name]
        if was.switch in ours and now.switch is None:
            # Who holds it was taken away, by us only where that was a leftover of ours.
            was, now = (Link(one.name, one.kind, _alone(one), nic=one.nic) for one in (was, now))  # type: ignore[arg-type]
        elif was.switch in ours:
            # A stranger in a switch that we bring up forwards there, by itself.
            was, now = (replace(one, settings={**one.settings, Setting.STATE: None}) for one in (was, now))
        assert was == now


@given(worlds())
def test_leftovers_are_removed_last_and_only_when_they_are_empty_of_ours(world: World) -> None:
    operations = plan(audit(world.kernel, world.appliance, world.choice)).operations
    steps = [operation.step for operation in operations]
    assert steps == sorted(steps)
    removed = [one.link.name for one in operations if isinstance(one, RemoveLink)]
    assert all(step is Step.REMOVE for step in steps[len(steps) - len(removed) :])
    moved = {one.link.name: one.new for one in operations if isinstance(one, SetLink) and one.setting is Setting.SWITCH}
    for link in world.kernel.observe().links:
        if link.switch in removed and link.name in owned(world.appliance, world.kernel):
            ports_refused = link.name not in moved
            assert ports_refused or moved[link.name] not in removed
