"""What switches of more than two members may learn, and when they forget it."""

import pytest
from fake_kernel import FakeKernel
from worlds import appliance, host

from reconciler.appliance.declared import Appliance
from reconciler.network.cycle import audit, reconcile
from reconciler.network.desired import MOST_STATIONS, choice_of
from reconciler.network.plan import SetLink, forgetting
from reconciler.network.render import commands
from reconciler.network.state import Setting


@pytest.fixture
def three() -> Appliance:
    """Three ports that are one wire; `mirror` and `aside` share a switch that some members never leave."""
    roles = ["a", "b", "c"]
    shared = {"ports": ["a", "b"], "adapters": ["a"]}
    return appliance(
        schema="reconciler/v1",
        appliance={"sku": "three"},
        ports={role: {"match": {"name": f"eth{number}"}} for number, role in enumerate(roles)},
        vm={"adapters": {role: {"interface": f"vif-{role}"} for role in roles}},
        topologies={
            "inspect": {"pair": "all"},
            "bypass": {"join": "all"},
            "mirror": {"switches": {"sw-bypass": {**shared, "ports": roles}}},
            "aside": {"switches": {"sw-bypass": shared, "sw-c": {"ports": ["c"], "adapters": ["c"]}}},
        },
    )


def converged(of: Appliance, kernel: FakeKernel, topology: str) -> list[SetLink]:
    """Reconcile; which switches were told to forget all that they had learnt."""
    kernel.log.clear()
    assert reconcile(kernel, of, choice_of(of, topology)).converged
    made = [operation for operation, _ in kernel.log if isinstance(operation, SetLink)]
    return [one for one in made if one.setting is Setting.LEARNT and one.link.name.startswith("sw-")]


def test_a_switch_of_more_than_two_is_bounded_and_one_of_two_needs_no_bound(three: Appliance) -> None:
    kernel = host(three)
    converged(three, kernel, "bypass")
    found = kernel.observe().by_name
    assert found["sw-bypass"].settings[Setting.FDB_MAX_LEARNED] == MOST_STATIONS
    assert found["sw-a"].settings[Setting.FDB_MAX_LEARNED] == 0


def test_somebody_who_lifts_the_bound_is_found(three: Appliance) -> None:
    kernel = host(three)
    converged(three, kernel, "bypass")
    kernel["sw-bypass"].settings[Setting.FDB_MAX_LEARNED] = 0
    (change,) = audit(kernel, three, choice_of(three, "bypass")).changes
    assert (change.link.name, change.setting, change.old, change.new) == (  # type: ignore[union-attr]
        "sw-bypass",
        Setting.FDB_MAX_LEARNED,
        0,
        MOST_STATIONS,
    )


def test_a_kernel_that_knows_no_bound_is_asked_once_and_differs_in_nothing(three: Appliance) -> None:
    kernel = host(three)
    kernel.lacks = frozenset({Setting.FDB_MAX_LEARNED})
    converged(three, kernel, "bypass")
    assert audit(kernel, three, choice_of(three, "bypass")).changes == ()
    converged(three, kernel, "inspect")
    converged(three, kernel, "bypass")
    assert not [one for one, _ in kernel.log if getattr(one, "setting", None) is Setting.FDB_MAX_LEARNED]


def test_a_switch_forgets_when_a_port_comes_to_members_that_stayed(three: Appliance) -> None:
    kernel = host(three)
    assert converged(three, kernel, "aside") == []
    (forget,) = converged(three, kernel, "mirror")
    assert forget.link.name == "sw-bypass"
    assert kernel.log.index((forget, 0)) > max(
        number for number, (one, _) in enumerate(kernel.log) if getattr(one, "setting", None) is Setting.SWITCH
    )
    # Whoever leaves takes what was learnt behind it along; one that enters an empty switch finds nothing there.
    assert converged(three, kernel, "aside") == []
    assert converged(three, kernel, "inspect") == []
    assert converged(three, kernel, "bypass") == []


def test_switches_that_have_the_wire_again_forget_all(three: Appliance) -> None:
    kernel = host(three)
    converged(three, kernel, "bypass")
    todo = forgetting(audit(kernel, three, choice_of(three)))
    assert list(commands(todo)) == ["ip link set dev sw-bypass type bridge fdb_flush"]
