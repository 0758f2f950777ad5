"""The rules by which other network managers leave the appliance's interfaces alone, and only these."""

from pathlib import Path
from typing import Any

import pytest
from udev import Device, told
from worlds import two_ports

from reconciler.appliance.load import load
from reconciler.network.other_managers import UnspeakableError, takes_a_machine, udev_rules
from reconciler.network.state import Kind, Link, Network, Nic, Setting

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "other-managers"
FILES = sorted([*ROOT.glob("topologies/*.yaml"), ROOT / "tests/corpus/valid/matches-of-all-kinds.yaml"])
MARKED = {"NM_UNMANAGED": "1", "ID_NET_MANAGED_BY": "reconciler"}


def machine(*nics: tuple[str, str | None, str | None, str | None]) -> Network:
    """NICs: name, PCI address, permanent MAC, driver."""
    links = [
        Link(
            name,
            Kind.OTHER,
            {Setting.MAC: mac or "00:00:00:00:00:00"},
            nic=Nic(number, pci, mac, driver, altnames=(LONG,) if name == "lan7" else ()),
        )
        for number, (name, pci, mac, driver) in enumerate(nics, 1)
    ]
    return Network(tuple(links))


LONG = "a-rather-long-alternative-name@with:marks"
EVERYTHING = machine(
    ("eno1", "0000:00:1f.6", "02:00:00:00:00:ff", "igb"),
    ("eno2", "0000:00:1f.7", "02:00:00:00:00:fe", "igb"),
    ("lan7", "0000:07:00.0", "02:00:00:00:00:fd", "tg3"),
    *((f"ens{n}", f"0000:{n // 4 + 3:02x}:00.{n % 4}", f"02:00:00:00:00:{n:02x}", "i40e") for n in range(8)),
    *((f"enp5s0f{n}", f"0000:05:00.{n}", f"02:00:00:00:05:{n:02x}", "ixgbe") for n in range(4)),
    *((f"ens1{n}", f"0000:06:0{n}.0", f"02:00:00:00:06:{n:02x}", "virtio_net") for n in range(3)),
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_rules_are_what_is_expected(file: Path, request: pytest.FixtureRequest) -> None:
    rules = udev_rules(load(file.read_bytes(), str(file)), EVERYTHING)
    golden = GOLDEN / f"{file.stem}.rules"
    if request.config.getoption("update_golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(rules, encoding="utf-8")
    assert rules == golden.read_text(encoding="utf-8")
    assert all(len(line) < 500 for line in rules.splitlines())


def rules_for(outside: dict[str, Any], mgmt: dict[str, Any] | None = None, actual: Network | None = None) -> str:
    return udev_rules(
        two_ports(
            ports={
                "mgmt": {"match": mgmt or {"name": "mgmt0"}, "role": "management"},
                "outside": {"match": outside},
                "inside": {"match": {"name": "eth1"}},
            }
        ),
        actual,
    )


NIC = Device("enp2s0", ("0000:02:00.0",), "02:00:00:00:00:01", {"ID_NET_DRIVER": "igb", "ID_NET_NAME_PATH": "enp2s0"})


@pytest.mark.parametrize(
    "match",
    [
        {"pci": "0000:02:00.0"},
        {"mac": "02:00:00:00:00:01"},
        {"driver": "igb"},
        {"name": "enp2s0"},
        {"pci": "0000:02:00.0", "driver": "igb", "mac": "02:00:00:00:00:01", "name": "enp2s0"},
    ],
    ids=str,
)
def test_a_port_is_marked_by_whatever_the_file_knows_it_by(match: dict[str, Any]) -> None:
    rules = rules_for(match)
    for action in ("add", "change", "move"):
        assert told(rules, NIC, action) == MARKED
    assert told(rules, NIC, "remove") == {}
    other = Device("enp9s0", ("0000:09:00.0",), "02:00:00:00:00:09", {"ID_NET_DRIVER": "tg3"})
    assert told(rules, other) == {}


@pytest.mark.parametrize("key", ["pci", "mac", "driver", "name"])
def test_all_of_a_match_must_hold(key: str) -> None:
    match = {"pci": "0000:02:00.0", "driver": "igb", "mac": "02:00:00:00:00:01", "name": "enp2s0"}
    wrong = {"pci": "0000:0a:00.0", "driver": "tg3", "mac": "02:00:00:00:00:0a", "name": "enp10s0"}
    assert told(rules_for(match | {key: wrong[key]}), NIC) == {}


def test_adapters_and_the_switches_of_all_topologies_are_marked() -> None:
    rules = udev_rules(two_ports())
    for name in ("tap0", "tap1", "sw-outside", "sw-inside", "sw-bypass"):
        assert told(rules, Device(name)) == MARKED
    for name in ("tap2", "sw-", "sw-bypass2", "docker0"):
        assert told(rules, Device(name)) == {}


def test_the_management_port_stays_managed_whatever_else_matches_it() -> None:
    rules = rules_for({"driver": "igb"}, {"pci": "0000:02:00.0"})
    assert told(rules, NIC) == {}
    assert told(rules_for({"name": "eth0"}), Device("mgmt0")) == {}


def test_what_has_a_ports_address_but_is_no_nic_stays_managed() -> None:
    rules = rules_for({"mac": NIC.address})
    for kind in ("bridge", "bond", "vlan", "macvlan"):
        assert told(rules, Device("over0", (), NIC.address, {"DEVTYPE": kind})) == {}


def test_an_alternative_name_is_known_as_udev_knows_it() -> None:
    rules = rules_for({"name": "enp2s0"})
    assert told(rules, Device("lan7", (), "", {"ID_NET_NAME_PATH": "enp2s0"})) == MARKED


def test_a_port_that_is_counted_is_looked_up_on_the_machine() -> None:
    match = {"driver": "igb", "index": 1}
    nics = machine(
        ("mgmt0", "0000:00:1f.6", None, "e1000e"),
        ("b", "0000:02:00.0", "02:00:00:00:00:01", "igb"),
        ("a", "0000:01:00.0", "02:00:00:00:00:02", "igb"),
        ("eth1", None, None, "veth"),
    )
    rules = rules_for(match, actual=nics)
    assert told(rules, NIC) == MARKED
    assert told(rules, Device("a", ("0000:01:00.0",), "02:00:00:00:00:02", {"ID_NET_DRIVER": "igb"})) == {}
    nameless = machine(("mgmt0", None, None, None), ("x0", None, None, "igb"), ("x1", None, None, "igb"))
    assert told(rules_for(match, actual=nameless), Device("x1")) == MARKED


def test_a_port_that_is_counted_and_not_there_is_said() -> None:
    with pytest.raises(UnspeakableError, match="no interface matches driver igb, index 1"):
        rules_for({"driver": "igb", "index": 1}, actual=machine(("mgmt0", None, None, None)))
    with pytest.raises(UnspeakableError, match="a machine must tell"):
        rules_for({"driver": "igb", "index": 1})


def test_who_is_matched_by_more_than_an_index_needs_no_machine() -> None:
    assert not takes_a_machine(two_ports())
    assert told(rules_for({"pci": "0000:02:00.0", "driver": "igb", "index": 1}), NIC) == MARKED


@pytest.mark.parametrize("name", ['a"b', "a*", "a?", "[a]", "a|b", "a\\", "$a", "a%k", LONG])
def test_a_name_that_udev_would_not_understand_is_looked_up(name: str) -> None:
    with pytest.raises(UnspeakableError, match="a machine must tell"):
        rules_for({"name": name})
    known = machine((name, "0000:02:00.0", None, "igb"), ("eth1", None, None, None))
    assert told(rules_for({"name": name}, actual=known), NIC) == MARKED
    if name != LONG:
        with pytest.raises(UnspeakableError, match="rename it"):
            rules_for({"name": name}, actual=machine((name, None, None, None)))


def test_a_management_port_that_udev_cannot_find_is_left_out() -> None:
    rules = rules_for({"name": "eth0"}, {"driver": "igb", "index": 0})
    assert "management" not in rules
    assert told(rules, NIC) == {}
