"""`discover`: whatever a machine has, the skeleton validates and finds what it was made of."""

from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import host, two_ports

from reconciler.appliance.load import load
from reconciler.network.bind import bind
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
    )
    return Link(name, draw(st.sampled_from([Kind.OTHER, Kind.OTHER, Kind.TAP])), {Setting.MAC: draw(MACS)}, nic=nic)


@st.composite
def machines(draw: st.DrawFn) -> Network:
    names = draw(st.lists(NAMES | st.sampled_from(["eth0", "ips0", "ips1", "lo"]), unique=True, max_size=9))
    links = tuple(draw(nics(index, name)) for index, name in enumerate(names, 1))
    return Network(links, draw(st.frozensets(st.sampled_from(names or ["none"]), max_size=2)))


LINES = st.text(max_size=120)


@given(machines(), LINES, LINES, st.booleans())
@settings(max_examples=examples(300))
def test_the_skeleton_of_any_machine_validates(network: Network, sku: str, vendor: str, virtual: bool) -> None:
    text = skeleton(network, sku, vendor, virtual=virtual)
    load(text.encode(), "skeleton.yaml")


@given(machines(), st.booleans())
@settings(max_examples=examples(200))
def test_each_port_of_a_skeleton_finds_one_nic_of_its_own(network: Network, virtual: bool) -> None:
    of = load(skeleton(network, "x", "y", virtual=virtual).encode(), "skeleton.yaml")
    bound = bind(of, desired(of, choice_of(of)), network)
    found = [problem for problem in bound.problems if problem.role and not problem.role.name.startswith("change-me")]
    assert found == []
    assert bound.management <= {link.name for link in network.links}


def test_the_nic_of_the_default_route_is_guessed_to_be_for_management() -> None:
    of = load(skeleton(host(two_ports()).observe(), "x", "y").encode(), "skeleton.yaml")
    assert [role for role, port in of.ports.items() if port.management] == ["mgmt"]
    assert of.ports["mgmt"].match.pci == "0000:99:00.0"
    assert [str(port.match) for port in of.ports.values() if not port.management] == [
        "pci 0000:00:00.0",
        "pci 0000:01:00.0",
        "pci 0000:98:00.0",
    ]


def test_what_the_firmware_says_cannot_break_out_of_the_file() -> None:
    evil = 'x"\nports: {}\n# \\ \x1b[31m'
    of = load(skeleton(host(two_ports()).observe(), evil, evil).encode(), "skeleton.yaml")
    assert len(of.ports) == 4
