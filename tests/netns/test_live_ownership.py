"""What the host itself speaks over is not seized: found on the real kernel, however the route to it is told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Live, live

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
        problems = json.loads(done.out)["problems"]
        assert [(one["code"], one["interface"]) for one in problems] == [("default-route", "nic0")], words
        assert host.dump("nic0") == before


def test_a_blackhole_leads_nowhere_and_other_routes_protect_no_other_port(host: Live) -> None:
    host.hand(
        f"{OBJECTS} ip nexthop add id 6 blackhole; ip route add default nhid 6 metric 9;"
        "ip nexthop add id 7 via 192.0.2.254 dev mgmt0; ip route add 203.0.113.0/24 nhid 7"
    )
    host.converge()
    host.is_converged()
