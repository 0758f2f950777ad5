"""What the host itself speaks over is not seized: found on the real kernel, however the route to it is told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Live, live
from skeletons import filled

pytestmark = pytest.mark.netns

# As routing daemons set it (FRR does): then a route tells no interface, but the number of an object that knows it.
OBJECTS = "echo 0 > /proc/sys/net/ipv4/nexthop_compat_mode;"
# The lab's own default route would win.
IPV4 = f"{OBJECTS} ip address add 198.51.100.1/24 dev nic0; ip route delete default; ip link set nic0 up;"
IPV6 = f"{OBJECTS} ip link set nic0 up; ip address add 2001:db8::1/64 dev nic0 nodad;"
ROUTES = {
    "an object": f"{IPV4} ip nexthop add id 7 via 198.51.100.254 dev nic0; ip route add default nhid 7",
    "a group": (
        f"{IPV4} ip nexthop add id 7 via 198.51.100.254 dev nic0; ip nexthop add id 8 via 192.0.2.254 dev mgmt0;"
        "ip nexthop add id 9 group 7/8; ip route add default nhid 9"
    ),
    "a resilient group": (
        f"{IPV4} ip nexthop add id 7 via 198.51.100.254 dev nic0; ip nexthop add id 8 via 192.0.2.254 dev mgmt0;"
        "ip nexthop add id 9 group 7/8 type resilient buckets 8; ip route add default nhid 9"
    ),
    "an object in another table": (
        f"{IPV4} ip nexthop add id 7 via 198.51.100.254 dev nic0; ip route add default nhid 7 table 77"
    ),
    "an object of IPv6": f"{IPV6} ip nexthop add id 7 via 2001:db8::2 dev nic0; ip -6 route add default nhid 7",
    "a group of IPv6": (
        f"{IPV6} ip nexthop add id 7 via 2001:db8::2 dev nic0; ip nexthop add id 8 via 2001:db8::3 dev nic0;"
        "ip nexthop add id 9 group 7/8; ip -6 route add default nhid 9"
    ),
    "IPv4 by an IPv6 router": f"{IPV4} ip nexthop add id 7 via fe80::2 dev nic0; ip route add default nhid 7",
    "an object over a macvlan": (
        f"{IPV4} ip link add mv0 link nic0 type macvlan; ip link set mv0 up;"
        "ip address add 203.0.113.1/24 dev mv0; ip nexthop add id 7 via 203.0.113.254 dev mv0;"
        "ip route add default nhid 7"
    ),
    "several hops": (
        f"{IPV4} ip route add default nexthop via 198.51.100.254 dev nic0 nexthop via 192.0.2.254 dev mgmt0"
    ),
    "two halves": f"{IPV4} ip route add 0.0.0.0/1 via 198.51.100.254; ip route add 128.0.0.0/1 via 198.51.100.254",
    "two halves by an object": (
        f"{IPV4} ip nexthop add id 7 via 198.51.100.254 dev nic0; ip route add 0/1 nhid 7; ip route add 128/1 nhid 7"
    ),
}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path) as made:
        yield made


@pytest.mark.parametrize("by", ROUTES)
def test_the_port_of_a_default_route_is_left_alone_however_the_route_is_told(host: Live, by: str) -> None:
    host.hand(ROUTES[by])
    before = host.dump("nic0")
    recorded = host.file.parent / "state.json"
    recorded.write_text(host.here_alone("observe").out)
    for words in (["-o", "json"], ["--dry-run", "-o", "json"], ["--dry-run", "--against", str(recorded), "-o", "json"]):
        done = host.here(*words)
        assert done.code == 1
        warnings = json.loads(done.out)["warnings"]
        assert [(one["code"], one["about"]) for one in warnings] == [("default-route", "port outside")], words
        assert host.dump("nic0") == before


def test_a_blackhole_leads_nowhere_and_other_routes_protect_no_other_port(host: Live) -> None:
    host.hand(
        f"{OBJECTS} ip nexthop add id 6 blackhole; ip route add default nhid 6 metric 9;"
        "ip nexthop add id 7 via 192.0.2.254 dev mgmt0; ip route add 203.0.113.0/24 nhid 7"
    )
    host.converge()
    host.is_converged()


USES = {
    "an address": "ip address add 198.51.100.1/24 dev nic0",
    "an address of a port that is up, and its route": "ip link set nic0 up; ip address add 198.51.100.1/24 dev nic0",
    "one that somebody gave by himself": "ip address add 169.254.7.7/16 dev nic0",
    "an address of IPv6": "ip address add 2001:db8::1/64 dev nic0",
    "a unique local one": "ip address add fd00::1/64 dev nic0",
    "a route": "ip link set nic0 up; ip route add 203.0.113.0/24 dev nic0",
    "an address above": "ip link add mv0 link nic0 type macvlan; ip address add 198.51.100.1/24 dev mv0",
}


@pytest.mark.parametrize("use", USES)
def test_a_port_that_the_host_uses_is_left_exactly_as_it_is_by_everybody(host: Live, use: str) -> None:
    document = json.loads(host.file.read_text())
    host.file.write_text(json.dumps({**document, "guard": {}}))
    host.hand(USES[use])
    before = host.dump("nic0")
    recorded = host.file.parent / "state.json"
    recorded.write_text(host.here_alone("observe").out)
    for words in (["--dry-run"], ["--dry-run", "--against", str(recorded)], [], ["-t", "bypass"]):
        done = host.here(*words, "-o", "json")
        assert done.code == 1
        assert [(one["code"], one["about"]) for one in json.loads(done.out)["warnings"]] == [("in-use", "port outside")]
        assert host.dump("nic0") == before, words
    # The guard at boot does what can be done without it, and says what could not.
    done = host.here("guard", "on", "--boot")
    assert done.code == 1
    assert "port outside: refused: `nic0`" in done.err
    host.here("guard", "on")
    rules = host.lab.run(["nft", "list", "ruleset"]).stdout
    assert "nic1" in rules
    assert "nic0" not in rules
    assert host.dump("nic0") == before
    document["ports"]["outside"]["take_over"] = True
    host.file.write_text(json.dumps({**document, "guard": {}}))
    if "mv0" in USES[use]:
        # No bridge gets a NIC that a macvlan runs on, whoever orders it.
        host.hand("ip link delete mv0")
    host.converge()
    assert host.drift() == {("", "rules")}, "of the file before"
    (told,) = json.loads(host.lab.run(["ip", "-j", "address", "show", "nic0"]).stdout)
    assert told["addr_info"] == []
    host.here("guard", "on")
    assert "nic0" in host.lab.run(["nft", "list", "ruleset"]).stdout
    assert host.drift() == set()


def test_discover_takes_what_has_an_address_for_management(host: Live) -> None:
    host.hand("ip address add 2001:db8::1/64 dev nic0 nodad; ip route delete default; ip link set nic1 up")
    text = host.here_alone("discover", "--all").out
    of = filled(text)
    lines = text.splitlines()
    for name, management in (("mgmt0", True), ("nic0", True), ("nic1", False)):
        (role,) = (line.strip().split(":")[0] for line in lines if f"# {name}: " in line and line.startswith("  "))
        assert of.ports[role].management is management, name


def test_an_address_that_the_kernel_gave_by_itself_is_no_reason(host: Live) -> None:
    host.hand("ip link set nic0 up; ip link set nic1 up")
    host.hand("ip -6 address show dev nic0 | grep -q 'inet6 fe80::'")
    host.converge()


def test_an_address_that_comes_to_a_part_of_the_wire_goes_again(host: Live) -> None:
    document = json.loads(host.file.read_text())
    document["topologies"]["isolate"] = {"pair": "all", "detached": ["outside", "inside"]}
    host.file.write_text(json.dumps(document))
    for topology in ("inspect", "bypass", "isolate"):
        host.converge("-t", topology)
        host.hand("ip address add 198.51.100.1/24 dev nic0")
        assert host.drift("-t", topology) == {("nic0", "addresses")}
        host.converge("-t", topology)
        host.hand("echo 0 > /proc/sys/net/ipv6/conf/nic0/disable_ipv6; ip address add 2001:db8::1/64 dev nic0 nodad")
        assert host.drift("-t", topology) == {("nic0", "ipv6")}
        host.converge("-t", topology)
        assert "198.51.100.1" not in host.lab.run(["ip", "address", "show", "nic0"]).stdout
