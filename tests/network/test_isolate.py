"""An appliance that fails closed, without a topology `isolate` of its own: no port goes anywhere, adapters rest."""

import pytest
from worlds import converge, host, two_ports

from reconciler.network.cycle import audit
from reconciler.network.desired import choice_of, desired
from reconciler.network.plan import MakeLink, RemoveLink, plan

CLOSED = {"on_failure": {"fail": "closed"}}


def test_isolate_has_no_port_and_adapters_rest_in_their_switches_of_inspect() -> None:
    of = two_ports(**CLOSED)
    links = {link.role: link.switch for link in desired(of, choice_of(of, "isolate")).links if link.role}
    assert {role.name: switch for role, switch in links.items() if role.kind == "adapter"} == {
        "outside": "sw-outside",
        "inside": "sw-inside",
    }
    assert {role.name: switch for role, switch in links.items() if role.kind == "port"} == {
        "outside": None,
        "inside": None,
    }


@pytest.mark.parametrize("before", ["inspect", "bypass"])
def test_to_isolate_and_back_only_ports_move(before: str) -> None:
    of = two_ports(**CLOSED)
    kernel = host(of)
    converge(kernel, of, {"wire": before})
    for topology in ("isolate", before):
        operations = plan(audit(kernel, of, {"wire": topology})).operations
        assert {operation.link.name for operation in operations} == {"eth0", "eth1"}
        assert not [one for one in operations if isinstance(one, MakeLink | RemoveLink)]
        converge(kernel, of, {"wire": topology})
        assert (kernel.observe().by_name["eth0"].switch is None) is (topology == "isolate")
