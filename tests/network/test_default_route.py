"""The host's own connection to the world."""

from fake_kernel import FakeKernel

from reconciler.network.default_route import default_route_interfaces
from reconciler.network.state import Kind


def test_nothing_leads_nowhere() -> None:
    kernel = FakeKernel()
    kernel.add("eth0")
    assert default_route_interfaces(kernel.observe()) == frozenset()


def test_a_route_leads_down_through_everything_to_the_nics() -> None:
    kernel = FakeKernel()
    for name in ("eth0", "eth1", "eth2", "spare0"):
        kernel.add(name)
    kernel.add("bond0").can_enslave = True
    kernel.add("br0", Kind.BRIDGE)
    for name in ("eth0", "eth1"):
        kernel.enslave(kernel[name], kernel["bond0"].index)
    kernel.add("bond0.7", nic={"lower": (kernel["bond0"].index,)})
    kernel.enslave(kernel["bond0.7"], kernel["br0"].index)
    kernel.add("mv0", nic={"lower": (kernel["br0"].index,)})
    kernel.default_route = {"mv0", "eth2"}
    assert default_route_interfaces(kernel.observe()) == {"mv0", "br0", "bond0.7", "bond0", "eth0", "eth1", "eth2"}


def test_what_is_ignored_hides_what_is_below_it() -> None:
    kernel = FakeKernel()
    kernel.add("eth0")
    kernel.add("br0", Kind.BRIDGE)
    kernel.enslave(kernel["eth0"], kernel["br0"].index)
    kernel.default_route = {"br0"}
    assert default_route_interfaces(kernel.observe(), ignore=lambda link: link.kind is Kind.BRIDGE) == frozenset()
    kernel.default_route = {"br0", "eth0"}
    assert default_route_interfaces(kernel.observe(), ignore=lambda link: link.kind is Kind.BRIDGE) == {"eth0"}


def test_a_ring_of_interfaces_ends() -> None:
    kernel = FakeKernel()
    kernel.add("veth0", nic={"lower": (2,)})
    kernel.add("veth1", nic={"lower": (1,)})
    kernel.default_route = {"veth0", "gone0"}
    assert default_route_interfaces(kernel.observe()) == {"veth0", "veth1"}
