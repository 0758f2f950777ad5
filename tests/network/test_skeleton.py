"""`discover`: whatever a machine has, the skeleton validates once it is filled in, and finds what it was made of."""

from effort import examples
from fake_kernel import FakeKernel
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import filled, load_roles
from worlds import host, two_ports

from reconciler.appliance.load import InvalidFileError, load
from reconciler.network.bind import bind
from reconciler.network.cycle import reconcile
from reconciler.network.desired import choice_of, desired
from reconciler.network.skeleton import skeleton
from reconciler.network.state import Kind, Link, Network, Nic, Setting

# dev_valid_name() of net/core/dev.c: all bytes but white space, "/" and ":"; not "." and "..".
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/:\0", exclude_categories=("Z",)).filter(
        lambda c: not c.isspace()
    ),
    min_size=1,
    max_size=15,
).filter(lambda name: len(name.encode()) < 16 and name not in (".", ".."))
MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
PCI = st.builds(
    "{:04x}:{:02x}:{:02x}.{}".format,
    st.integers(0, 0x1FFFF),
    st.integers(0, 255),
    st.integers(0, 31),
    st.integers(0, 7),
)


@st.composite
def nics(draw: st.DrawFn, index: int, name: str) -> Link:
    nic = Nic(
        index,
        draw(st.none() | PCI | st.just("0000:01:00.0")),
        draw(st.none() | MACS | st.just("02:00:00:00:00:01")),
        draw(st.sampled_from([None, "igb", "ixgbe"])),
        carrier=draw(st.booleans()),
        physical=draw(st.booleans()),
        bus=draw(st.sampled_from([None, "pci", "xen-backend"])),
        inet6=draw(st.sampled_from([(), (), ("2001:db8::1/64",)])),
    )
    settings = {Setting.MAC: draw(MACS), Setting.ADDRESSES: draw(st.sampled_from([(), (), ("192.0.2.1/24",)]))}
    return Link(name, draw(st.sampled_from([Kind.OTHER, Kind.OTHER, Kind.TAP])), settings, nic=nic)


@st.composite
def machines(draw: st.DrawFn) -> Network:
    names = draw(st.lists(NAMES | st.sampled_from(["eth0", "ips0", "ips1", "lo"]), unique=True, max_size=9))
    links = tuple(draw(nics(index, name)) for index, name in enumerate(names, 1))
    return Network(links, draw(st.frozensets(st.sampled_from(names or ["none"]), max_size=2)))


LINES = st.text(max_size=120)


def mistakes(text: str) -> set[str]:
    """Where a skeleton is not valid yet."""
    try:
        load(text.encode(), "skeleton.yaml")
    except InvalidFileError as error:
        return {".".join(map(str, mistake.path)) for mistake in error.mistakes}
    return set()


@given(machines(), LINES, LINES, st.booleans())
@settings(max_examples=examples(300))
def test_the_skeleton_of_any_machine_validates(network: Network, sku: str, vendor: str, virtual: bool) -> None:
    text = skeleton(network, sku, vendor, virtual=virtual)
    filled(text)
    odd = len(load_roles(text)) % 2
    assert mistakes(text) == {"appliance.sku"} | ({"segments"} if odd else set())


@given(machines(), st.booleans())
@settings(max_examples=examples(200))
def test_each_port_of_a_skeleton_finds_one_nic_of_its_own(network: Network, virtual: bool) -> None:
    of = filled(skeleton(network, "x", "y", virtual=virtual))
    bound = bind(of, desired(of, choice_of(of)), network)
    found = [problem for problem in bound.problems if not problem.about.partition(" ")[2].startswith("change-me")]
    assert found == []
    assert bound.management <= {link.name for link in network.links}
    for link in bound.desired.links:
        if link.role and link.role.kind == "port":
            live = network.by_name[link.name]
            assert live.nic is not None
            assert (live.settings[Setting.ADDRESSES], live.nic.inet6, live.nic.bus == "xen-backend") == ((), (), False)


def test_the_nic_of_the_default_route_is_guessed_to_be_for_management() -> None:
    of = filled(skeleton(host(two_ports()).observe(), "x", "y"))
    assert [role for role, port in of.ports.items() if port.management] == ["mgmt"]
    assert of.ports["mgmt"].match.pci == "0000:99:00.0"
    assert [str(port.match) for port in of.ports.values() if not port.management] == [
        "pci 0000:00:00.0",
        "pci 0000:01:00.0",
        "pci 0000:98:00.0",
    ]


def roles(kernel: FakeKernel, *, virtual: bool = False) -> tuple[set[str], set[str], str]:
    """The NICs that a skeleton takes for management and for data, by their PCI addresses' buses, and its text."""
    text = skeleton(kernel.observe(), "x", "y", virtual=virtual)
    of = filled(text)
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for port in of.ports.values():
        found[port.management].add((port.match.pci or port.match.name or port.match.mac or "")[5:7])
    return found[True], found[False], text


def test_each_nic_that_the_host_uses_is_for_management() -> None:
    kernel = host(two_ports())
    kernel["mgmt0"].settings[Setting.ADDRESSES] = ()
    kernel.default_route = set()
    assert roles(kernel)[0] == set()
    kernel["eth0"].settings[Setting.ADDRESSES] = ("169.254.7.7/16",)
    kernel["eth1"].nic["inet6"] = ("fd00::1/64",)
    management, data, text = roles(kernel)
    assert (management, data) == ({"00", "01"}, {"98", "99"})
    assert "mgmt0: # eth0: has the address 169.254.7.7/16, so this is a guess. Never touched." in text
    assert "mgmt1: # eth1: has the address fd00::1/64, so this is a guess. Never touched." in text


def test_a_nic_below_what_the_host_uses_is_for_management() -> None:
    kernel = host(two_ports())
    kernel.enslave(kernel["eth0"], kernel["docker0"].index)
    kernel.add("eth1.7", nic={"lower": (kernel["eth1"].index,)}, addresses=("198.51.100.1/24",))
    management, data, text = roles(kernel)
    assert (management, data) == ({"99", "00", "01"}, {"98", "e-"})  # the last: change-me
    assert "eth0: carries `docker0`, which has the address 172.17.0.1/16, so this is a guess" in text


def test_a_machine_whose_nics_are_all_in_use_leaves_the_ports_to_be_filled_in() -> None:
    kernel = host(two_ports())
    for name in ("eth0", "eth1", "plain0"):
        kernel.routed.add(name)
    text = roles(kernel)[2]
    of = filled(text)
    assert sum(port.management for port in of.ports.values()) == 4
    assert [role for role, port in of.ports.items() if not port.management] == ["change-me-1", "change-me-2"]


def test_a_nic_in_somebodys_bridge_that_nobody_uses_says_so_and_one_in_ours_does_not() -> None:
    of = two_ports()
    kernel = host(of)
    assert reconcile(kernel, of, choice_of(of)).converged
    kernel["sw-outside"].settings[Setting.ADDRESSES] = ("10.0.0.1/8",)
    kernel.add("br9", Kind.BRIDGE)
    kernel.enslave(kernel["plain0"], kernel["br9"].index)
    management, data, text = roles(kernel)
    assert (management, data) == ({"99"}, {"00", "01", "98"})
    assert text.count("which is not ours") == 1
    assert "in br9, which is not ours: free it, or give it take_over: true" in text


def test_the_adapters_of_a_running_xen_guest_are_no_ports() -> None:
    kernel = host(two_ports())
    for number in range(2):
        told = {"bus": "xen-backend", "driver": "vif", "mac": None}
        kernel.add(f"vif7.{number}", up=True, mac="fe:ff:ff:ff:ff:ff", nic=told)
    for virtual in (False, True):
        _, _, text = roles(kernel, virtual=virtual)
        assert "name: vif" not in text.replace('"', "")
        assert "# vif7.0 is an adapter of a running Xen guest" in text


def test_what_the_firmware_says_cannot_break_out_of_the_file() -> None:
    evil = 'x"\nports: {}\n# \\ \x1b[31m'
    of = filled(skeleton(host(two_ports()).observe(), evil, evil))
    assert len(of.ports) == 4


def test_what_carries_no_wire_is_left_out_with_what_it_is_unless_the_host_uses_it() -> None:
    kernel = host(two_ports())
    odd = {"eth1": "a wireless NIC", "eth0": "a virtual function (SR-IOV) of another NIC", "lo": "?", "gone0": "?"}
    text = skeleton(kernel.observe(), "x", "y", odd=odd)
    assert "# left out: eth1: a wireless NIC" in text
    assert text.count("left out") == 1 + ("eth0: the default route" not in text)
    assert "0000:01:00.0" not in text.split("ports:")[1]


def test_a_nic_that_is_down_is_not_said_to_have_no_cable() -> None:
    kernel = host(two_ports())
    kernel["eth1"].settings[Setting.UP] = False
    line = next(
        line for line in skeleton(kernel.observe(), "x", "y").splitlines() if line.startswith("  ") and "# eth1" in line
    )
    assert line.endswith(", down")


def test_three_data_nics_make_no_wire_that_we_could_guess() -> None:
    text = skeleton(host(two_ports()).observe(), "x", "y")
    assert len(load_roles(text)) == 3
    assert mistakes(text) == {"appliance.sku", "segments"}
    assert "3 data NICs make no pairs" in text
