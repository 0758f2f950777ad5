"""Our rtnetlink against pyroute2's: what it writes we read as we meant it, what the kernel tells we read as it does."""

import contextlib
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import has_tun, ip
from processes import PATIENCE_S
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from reconciler.host.netlink import answers, requests, rtnetlink
from reconciler.host.netlink.changes import encode
from reconciler.host.netlink.connection import Connection
from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.namespaces import Namespace
from reconciler.network.plan import MakeLink, RemoveLink, SetLink
from reconciler.network.state import Kind, Link, Setting, Value

# What pyroute2 and the kernel call what is set and read.
BRIDGE_WORDS = {setting: place.name for setting, place in rtnetlink.BRIDGE.items()}
MEMBER_WORDS = {setting: place.name for setting, place in rtnetlink.MEMBER.items()}
STATES = ("disabled", "listening", "learning", "forwarding", "blocking")


def link(name: str = "x", kind: Kind = Kind.OTHER, **values: Value) -> Link:
    return Link(name, kind, {Setting(key.replace("_", "-")): value for key, value in values.items()})


def decoded(data: bytes, kind: type) -> Any:
    told = kind(data)
    told.decode()
    return told


def attribute(told: Any, *path: str) -> Any:
    for name in path:
        assert told is not None, path
        found = [value for key, value in told["attrs"] if key == name]
        assert len(found) == 1, (path, name, found)
        told = found[0]
    return told


def one(operation: Any, **indexes: int) -> Any:
    (message,) = encode(operation, {"x": 7, **indexes})
    told = decoded(message, ifinfmsg)
    assert told["header"]["length"] == len(message)
    assert told["header"]["flags"] & rtnetlink.NLM_F_REQUEST
    return told


# --- what we write ---------------------------------------------------------------------------------------------------


VALUES: dict[Setting, list[Value]] = {
    Setting.AGEING: [5_000, 0],
    Setting.SWITCH_GROUP_FWD_MASK: [0xFFF8],
    Setting.FDB_MAX_LEARNED: [8192, 0],
    Setting.GROUP_FWD_MASK: [0xFFFD],
    Setting.STATE: list(STATES),
    Setting.ADDRGENMODE: ["eui64", "none", "stable_secret", "random"],
    Setting.LINK_MODE: ["default", "dormant", "testing"],
    Setting.MTU: [9_000],
    Setting.MAC: ["02:00:00:00:00:0f"],
    Setting.MARK: ["reconciler:x:switch:y", ""],
}
# These are none of a link's attributes.
ELSEWHERE = {Setting.ADDRESSES, Setting.PERSISTENT, Setting.LRO, Setting.IPV6, Setting.LEARNT}


@pytest.mark.parametrize("setting", sorted(set(Setting) - ELSEWHERE - {Setting.SWITCH}))
def test_what_pyroute2_writes_we_read_as_we_meant_it(setting: Setting) -> None:
    for value in VALUES.get(setting, [True, False]):
        (message,) = encode(SetLink(link(), setting, None, value), {"x": 7})
        ((kind, flags, _, begin, end),) = rtnetlink.messages(message)
        nested = setting in BRIDGE_WORDS or setting in MEMBER_WORDS
        assert (kind, flags) == (rtnetlink.RTM_NEWLINK if nested else rtnetlink.RTM_SETLINK, rtnetlink.NLM_F_REQUEST)
        running = bytearray(message[begin:end] + rtnetlink.attribute(rtnetlink.IFLA_IFNAME, b"x\0"))
        running[8] |= rtnetlink.IFF_RUNNING
        running[10] |= rtnetlink.IFF_LOWER_UP >> 16
        told = answers.link(bytes(running), 0, len(running))
        assert (told.index, told.settings[setting]) == (7, value)


def test_what_a_switch_may_learn_is_bounded_by_the_number_that_the_kernel_has_for_it() -> None:
    """IFLA_BR_FDB_MAX_LEARNED of linux/if_link.h, which pyroute2 does not know, byte by byte."""
    (message,) = encode(SetLink(link("x", Kind.BRIDGE), Setting.FDB_MAX_LEARNED, 0, 8192), {"x": 7})
    kind = struct.pack("=HH6s2x", 10, 1, b"bridge")
    data = struct.pack("=HHHHI", 12, 2, 8, 49, 8192)
    info = struct.pack("=HH", 4 + len(kind) + len(data), 18) + kind + data
    assert message == struct.pack("=LHHLLBxHiII", 32 + len(info), 16, 1, 0, 0, 0, 0, 7, 0, 0) + info


def test_a_switch_forgets_all_that_it_has_learnt() -> None:
    told = one(SetLink(link("x", Kind.BRIDGE), Setting.LEARNT, old=True, new=False))
    assert attribute(told, "IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_BR_FDB_FLUSH") is True


@pytest.mark.netns
def test_a_number_that_a_kernel_does_not_know_is_passed_over(zoo: Namespace) -> None:
    """As IFLA_BR_FDB_MAX_LEARNED is before Linux 6.7: what comes with it, and the bridge, are as if it were not there."""
    with zoo.entered(), Kernel() as kernel:
        before = kernel.observe()
        index = {one.name: one.nic.index for one in before.links if one.nic}
        (message,) = encode(SetLink(link("br0", Kind.BRIDGE), Setting.FDB_MAX_LEARNED, 0, 8192), index)
        unknown = message.replace(struct.pack("=HH", 8, 49), struct.pack("=HH", 8, 1049))
        assert unknown != message
        with contextlib.closing(Connection()) as connection:
            assert connection.send(rtnetlink.numbered([unknown]), "test") == {}
        assert kernel.observe() == before


def test_a_member_that_learns_no_more_forgets_what_it_has_learnt() -> None:
    def told(setting: Setting, value: bool) -> dict[str, Any]:
        message = one(SetLink(link(), setting, not value, value))
        return dict(attribute(message, "IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")["attrs"])

    assert told(Setting.LEARNING, True) == {"IFLA_BRPORT_LEARNING": 1}
    assert told(Setting.LEARNING, False) == {"IFLA_BRPORT_LEARNING": 0, "IFLA_BRPORT_FLUSH": True}
    assert told(Setting.LEARNT, False) == {"IFLA_BRPORT_FLUSH": True}


def test_a_port_is_put_into_a_switch_and_taken_out() -> None:
    assert attribute(one(SetLink(link(), Setting.SWITCH, None, "br0"), br0=9), "IFLA_MASTER") == 9
    assert attribute(one(SetLink(link(), Setting.SWITCH, "br0", None)), "IFLA_MASTER") == 0


@pytest.mark.parametrize("setting", list(Setting))
def test_the_same_for_another_link_is_the_same_but_for_its_index(setting: Setting) -> None:
    if setting in ELSEWHERE - {Setting.ADDRESSES}:
        return
    value: Value = VALUES.get(setting, [True])[0]
    operation = {
        Setting.ADDRESSES: SetLink(link(), setting, ("192.0.2.1/24",), ()),
        Setting.SWITCH: SetLink(link(), setting, None, "br0"),
    }.get(setting, SetLink(link(), setting, None, value))
    (first,), (second,) = (encode(operation, {"x": index, "br0": 5}) for index in (7, 0x01020304))
    assert first[:20] + second[20:24] + first[24:] == second
    assert (first[20:24], second[20:24]) == (struct.pack("=i", 7), struct.pack("=i", 0x01020304))


@pytest.mark.parametrize(
    ("setting", "value", "flags", "change"),
    [
        (Setting.UP, True, 0x1, 0x1),
        (Setting.UP, False, 0, 0x1),
        (Setting.ARP, True, 0, 0x80),
        (Setting.ARP, False, 0x80, 0x80),
        (Setting.PROMISCUOUS, True, 0x100, 0x100),
        (Setting.PROMISCUOUS, False, 0, 0x100),
    ],
)
def test_a_flag_changes_itself_and_no_other(setting: Setting, value: bool, flags: int, change: int) -> None:
    told = one(SetLink(link(), setting, not value, value))
    assert (told["flags"], told["change"], told["attrs"]) == (flags, change, [])


def test_a_bridge_is_made_in_one_message_that_takes_no_other_for_it() -> None:
    made = link("sw0", Kind.BRIDGE, mac="02:00:00:00:00:01", multicast_snooping=False, ageing=10_000, up=True, mtu=9000)
    told = one(MakeLink(made))
    assert told["header"]["type"] == rtnetlink.RTM_NEWLINK
    assert told["header"]["flags"] == rtnetlink.NLM_F_REQUEST | rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_EXCL
    assert told["index"] == 0
    assert attribute(told, "IFLA_IFNAME") == "sw0"
    assert attribute(told, "IFLA_ADDRESS") == "02:00:00:00:00:01"
    assert attribute(told, "IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_BR_MCAST_SNOOPING") == 0
    assert attribute(told, "IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_BR_AGEING_TIME") == 1000
    assert not [key for key, _ in told["attrs"] if key == "IFLA_MTU"], "that would not pin it"


def test_a_removal_names_one_index_and_nothing_else() -> None:
    told = one(RemoveLink(link()))
    assert (told["header"]["type"], told["index"], told["attrs"]) == (rtnetlink.RTM_DELLINK, 7, [])


def test_addresses_are_withdrawn_one_by_one() -> None:
    messages = encode(SetLink(link(), Setting.ADDRESSES, ("10.0.0.1/8", "192.0.2.1/32"), ()), {"x": 7})
    told = [decoded(message, ifaddrmsg) for message in messages]
    assert [(one["header"]["type"], one["index"], one["family"], one["prefixlen"]) for one in told] == [
        (rtnetlink.RTM_DELADDR, 7, socket.AF_INET, 8),
        (rtnetlink.RTM_DELADDR, 7, socket.AF_INET, 32),
    ]
    assert [attribute(one, "IFA_LOCAL") for one in told] == ["10.0.0.1", "192.0.2.1"]


def test_requests_ask_for_what_they_should() -> None:
    every = decoded(requests.get_links(), ifinfmsg)
    assert every["header"]["flags"] == rtnetlink.NLM_F_REQUEST | rtnetlink.NLM_F_DUMP
    assert attribute(decoded(requests.get_links(kind="tun"), ifinfmsg), "IFLA_LINKINFO", "IFLA_INFO_KIND") == "tun"
    assert attribute(decoded(requests.get_links(master=5), ifinfmsg), "IFLA_MASTER") == 5
    assert decoded(requests.get_links(family=rtnetlink.AF_BRIDGE), ifinfmsg)["family"] == socket.AF_BRIDGE
    assert decoded(requests.get_link(12), ifinfmsg)["index"] == 12
    assert attribute(decoded(requests.get_link("eth0"), ifinfmsg), "IFLA_ALT_IFNAME") == "eth0"
    assert decoded(requests.get_addresses(socket.AF_INET), ifaddrmsg)["family"] == socket.AF_INET
    assert decoded(requests.get_routes(socket.AF_INET6), rtmsg)["family"] == socket.AF_INET6


# --- what we read ----------------------------------------------------------------------------------------------------

KINDS = {
    "dm0": ["type", "dummy"],
    "bd0": ["type", "bond", "mode", "active-backup"],
    "vl0": ["link", "ve0", "type", "vlan", "id", "7"],
    "mv0": ["link", "ve0", "type", "macvlan", "mode", "bridge"],
    "mt0": ["link", "ve0", "type", "macvtap"],
    "iv0": ["link", "ve2", "type", "ipvlan"],
    "vx0": ["type", "vxlan", "id", "5", "dstport", "4789"],
    "if0": ["type", "ifb"],
    "vf0": ["type", "vrf", "table", "9"],
    "tm0": ["type", "team"],
    "gr0": ["type", "gretap", "local", "192.0.2.1", "remote", "192.0.2.2"],
    "wg0": ["type", "wireguard"],
    "br1": ["type", "bridge", "stp_state", "1", "ageing_time", "100", "group_fwd_mask", "65528", "mcast_snooping", "0"],
}


@pytest.fixture(scope="module")
def zoo(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace with a link of every kind that this kernel has, memberships, altnames, addresses and routes."""
    request.getfixturevalue("lab_root")
    with Namespace("zoo") as made:
        with made.entered():
            _populate()
        yield made


def _populate() -> None:
    for number in (0, 2):
        ip("link", "add", f"ve{number}", "type", "veth", "peer", "name", f"ve{number + 1}")
    for name, words in KINDS.items():
        at = words.index("type")
        subprocess.run(
            ["ip", "link", "add", *words[:at], "name", name, *words[at:]],
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "br0", "up")
    if has_tun():
        for name, mode in (("ta0", "tap"), ("tu0", "tun")):
            ip("tuntap", "add", "dev", name, "mode", mode)
        ip("link", "set", "ta0", "master", "br0")
    ip("link", "set", "ve1", "master", "br0")
    words = [
        "hairpin",
        "on",
        "guard",
        "on",
        "root_block",
        "on",
        "learning",
        "off",
        "flood",
        "off",
        "mcast_flood",
        "off",
        "isolated",
        "on",
        "group_fwd_mask",
        "65533",
    ]
    ip("link", "set", "ve1", "type", "bridge_slave", *words)
    ip("link", "set", "ve0", "alias", "an alias, \u00fc, and 'quotes'")
    for altname in ("enp1s0", "a-much-longer-alternative-name-than-fits"):
        ip("link", "property", "add", "dev", "ve0", "altname", altname)
    for name in ("ve0", "ve1", "ve2", "ve3"):
        ip("link", "set", name, "up")
    ip("link", "set", "ve2", "addrgenmode", "none")
    ip("link", "set", "ve2", "arp", "off", "promisc", "on", "mtu", "9000")
    ip("address", "add", "192.0.2.1/24", "dev", "ve0")
    ip("address", "add", "192.0.2.9/24", "dev", "ve0")
    ip("address", "add", "198.51.100.1", "peer", "198.51.100.2/31", "dev", "ve2")
    ip("address", "add", "203.0.113.1/32", "dev", "lo")
    ip("-6", "address", "add", "2001:db8::1/64", "dev", "ve0", "nodad")
    ip("route", "add", "default", "via", "192.0.2.2", "metric", "5")
    ip(
        "route",
        "add",
        "default",
        "metric",
        "6",
        "nexthop",
        "via",
        "192.0.2.3",
        "nexthop",
        "via",
        "198.51.100.2",
        "dev",
        "ve2",
    )
    ip("route", "add", "default", "dev", "br0", "table", "77")
    ip("route", "add", "blackhole", "default", "metric", "900")
    ip("route", "add", "10.0.0.0/8", "via", "192.0.2.4")
    ip("nexthop", "add", "id", "9", "via", "192.0.2.5", "dev", "ve0")
    ip("route", "add", "default", "nhid", "9", "metric", "8")
    ip("-6", "route", "add", "default", "via", "2001:db8::2", "dev", "ve0")
    ip(
        "-6",
        "route",
        "add",
        "default",
        "metric",
        "7",
        "nexthop",
        "via",
        "2001:db8::3",
        "nexthop",
        "via",
        "2001:db8::4",
    )
    ip("-6", "route", "add", "default", "metric", "8", "dev", "ve1")


def dumped(zoo: Namespace, request: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each payload, and the whole message that it came in."""
    with zoo.entered(), Connection() as connection:
        answers = connection.ask(request, "list")
    assert answers
    for data, begin, end in answers:
        yield data[begin:end], data[begin - 16 : end]


@pytest.mark.netns
def test_every_link_is_read_as_pyroute2_reads_it(zoo: Namespace) -> None:
    seen = set()
    for payload, message in dumped(zoo, requests.get_links()):
        ours = answers.link(payload, 0, len(payload))
        theirs = decoded(message, ifinfmsg)
        assert ours.index == theirs["index"]
        assert ours.name == theirs.get("IFLA_IFNAME")
        seen.add(ours.name)
        assert ours.master == (theirs.get("IFLA_MASTER") or 0)
        assert ours.settings[Setting.UP] is bool(theirs["flags"] & 1)
        assert ours.settings[Setting.ARP] is not bool(theirs["flags"] & 0x80)
        assert ours.settings[Setting.PROMISCUOUS] is bool(theirs["flags"] & 0x100)
        assert ours.carrier is bool(theirs["flags"] & 0x10000)
        assert ours.settings[Setting.MTU] == theirs.get("IFLA_MTU")
        assert ours.settings[Setting.LINK_MODE] == ("default", "dormant", "testing")[theirs.get("IFLA_LINKMODE")]
        waits = theirs.get("IFLA_OPERSTATE") in ("DORMANT", "TESTING")
        assert ours.settings.get(Setting.DORMANT) == (waits if ours.carrier and ours.kind is not Kind.BRIDGE else None)
        assert ours.settings[Setting.MARK] == (theirs.get("IFLA_IFALIAS") or "")
        address = theirs.get("IFLA_ADDRESS")
        if address and len(address) == 17:
            assert ours.settings[Setting.MAC] == address
        else:
            assert Setting.MAC not in ours.settings
        lower = 0 if theirs.get("IFLA_LINK_NETNSID") is not None else theirs.get("IFLA_LINK") or 0
        assert ours.lower == lower
        properties = theirs.get("IFLA_PROP_LIST")
        altnames = [value for key, value in properties["attrs"] if key == "IFLA_ALT_IFNAME"] if properties else []
        assert list(ours.altnames) == altnames
        _same_info(ours, theirs)
        _same_ipv6(ours, theirs)
    assert {"lo", "ve0", "ve1", "br0", "br1"} <= seen


def _same_info(ours: answers.RawLink, theirs: Any) -> None:
    info = theirs.get("IFLA_LINKINFO")
    told = dict(info["attrs"]) if info else {}
    kind = told.get("IFLA_INFO_KIND")
    data = dict(told["IFLA_INFO_DATA"]["attrs"]) if kind in ("bridge", "tun") else {}
    if kind == "bridge":
        assert ours.kind is Kind.BRIDGE
        for setting, word in BRIDGE_WORDS.items():
            if setting is Setting.FDB_MAX_LEARNED:
                continue  # pyroute2 has no name for it
            value = data[word] * 10 if setting is Setting.AGEING else data[word]
            assert ours.settings[setting] == value, word
    elif kind == "tun" and data["IFLA_TUN_TYPE"] == 2:
        assert ours.kind is Kind.TAP
        assert ours.settings[Setting.PERSISTENT] is bool(data["IFLA_TUN_PERSIST"])
    else:
        assert ours.kind is Kind.OTHER
        assert not set(BRIDGE_WORDS) & set(ours.settings)
    if told.get("IFLA_INFO_SLAVE_KIND") == "bridge":
        member = dict(told["IFLA_INFO_SLAVE_DATA"]["attrs"])
        for setting, word in MEMBER_WORDS.items():
            if setting is Setting.STATE and not theirs["flags"] & 0x40:
                assert setting not in ours.settings
            else:
                value = STATES[member[word]] if setting is Setting.STATE else member[word]
                assert ours.settings[setting] == value, word
    else:
        assert not set(MEMBER_WORDS) & set(ours.settings)


def _same_ipv6(ours: answers.RawLink, theirs: Any) -> None:
    inet6 = theirs.get("IFLA_AF_SPEC").get_attr("AF_INET6")
    modes = ("eui64", "none", "stable_secret", "random")
    assert ours.settings[Setting.ADDRGENMODE] == modes[inet6.get_attr("IFLA_INET6_ADDR_GEN_MODE")]
    assert ours.settings[Setting.IPV6] is not bool(inet6.get_attr("IFLA_INET6_CONF")["disable_ipv6"])


@pytest.mark.netns
def test_every_address_is_read_as_pyroute2_reads_it(zoo: Namespace) -> None:
    seen = []
    for payload, message in dumped(zoo, requests.get_addresses(socket.AF_INET)):
        theirs = decoded(message, ifaddrmsg)
        index, address = answers.address(payload, 0, len(payload))
        assert (index, address) == (theirs["index"], f"{theirs.get('IFA_LOCAL')}/{theirs['prefixlen']}")
        seen.append(address)
    assert seen == ["127.0.0.1/8", "203.0.113.1/32", "192.0.2.1/24", "192.0.2.9/24", "198.51.100.1/31"] or set(
        seen
    ) == {
        "127.0.0.1/8",
        "203.0.113.1/32",
        "192.0.2.1/24",
        "192.0.2.9/24",
        "198.51.100.1/31",
    }


@pytest.mark.netns
@pytest.mark.parametrize(("family", "least"), [(socket.AF_INET, 4), (socket.AF_INET6, 2)])
def test_every_default_route_is_read_as_pyroute2_reads_it(zoo: Namespace, family: int, least: int) -> None:
    defaults = 0
    for payload, message in dumped(zoo, requests.get_routes(family)):
        theirs = decoded(message, rtmsg)
        hops = set()
        if theirs["dst_len"] == 0 and theirs["type"] == 1:
            defaults += 1
            hops = {theirs.get("RTA_OIF")} - {None}
            hops |= {hop["oif"] for hop in theirs.get("RTA_MULTIPATH") or ()}
            assert hops
        ours = answers.route(payload, 0, len(payload))
        assert set(ours.hops if ours and ours.default else ()) == hops
    assert defaults >= least


@pytest.mark.netns
def test_the_kernel_is_observed_whole(zoo: Namespace) -> None:
    with zoo.entered(), Kernel() as kernel:
        network = kernel.observe()
        again = kernel.observe()
        some = kernel.observe(["ve1", "a-much-longer-alternative-name-than-fits"])
    assert network == again
    assert network.default_route == {"ve0", "ve1", "ve2", "br0"}
    assert network.by_name["ve0"].settings[Setting.ADDRESSES] == ("192.0.2.1/24", "192.0.2.9/24")
    assert network.by_name["ve1"].switch == "br0"
    assert some.by_name["ve0"].settings == network.by_name["ve0"].settings
    assert some.by_name["ve1"].settings == network.by_name["ve1"].settings
    assert some.default_route == network.default_route


@pytest.mark.netns
@pytest.mark.usefixtures("lab_root")
def test_routes_tell_where_they_lead_through_nexthop_objects_or_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Namespace("hops") as here, here.entered(), Kernel() as kernel:
        Path("/proc/sys/net/ipv4/nexthop_compat_mode").write_text("0")
        for name, peer, network in (("nic0", "far0", "192.0.2"), ("nic1", "far1", "198.51.100")):
            ip("link", "add", name, "type", "veth", "peer", "name", peer)
            for end in (name, peer):
                ip("link", "set", end, "up")
            ip("address", "add", f"{network}.1/24", "dev", name)
        for words in ("6 blackhole", "7 via 192.0.2.254 dev nic0", "8 via 198.51.100.254 dev nic1", "9 group 7/8"):
            ip("nexthop", "add", "id", *words.split())
        ip("route", "add", "10.0.0.0/8", "nhid", "8")
        ip("route", "add", "default", "nhid", "6", "metric", "9")

        def seen() -> tuple[set[str], set[str], tuple[int, ...]]:
            network = kernel.observe()
            return set(network.default_route), set(network.routed), network.unresolved

        assert seen() == (set(), {"nic1"}, ())
        ip("route", "add", "default", "nhid", "7")
        assert seen() == ({"nic0"}, {"nic1"}, ())
        ip("route", "replace", "default", "nhid", "9")
        assert seen() == ({"nic0", "nic1"}, {"nic1"}, ())
        # A kernel that lists no nexthops: it refuses what it does not know.
        monkeypatch.setattr(requests, "get_nexthops", lambda: rtnetlink.message(106, rtnetlink.NLM_F_DUMP, b"\xff" * 8))
        assert seen() == (set(), set(), (9,))


@pytest.mark.parametrize(
    ("bus", "device", "expected"),
    [
        ("pci", "0000:02:00.0", (True, "0000:02:00.0", "pci")),
        ("virtio", "virtio3", (True, None, "virtio")),
        # As a dom0 tells it: the host's end of a guest's adapter is no NIC.
        ("xen-backend", "vif-7-0", (False, None, "xen-backend")),
    ],
)
def test_what_stands_behind_a_link_is_told_by_its_bus(bus: str, device: str, expected: tuple[Any, ...]) -> None:
    names = {rtnetlink.IFLA_IFNAME: "x", 56: device, 57: bus}
    attrs = b"".join(rtnetlink.attribute(number, text.encode() + b"\0") for number, text in names.items())
    payload = struct.pack("=BxHiII", 0, 1, 7, 0, 0) + attrs
    nic = answers.link(payload, 0, len(payload)).link(None, answers.Addresses(), None, None).nic
    assert nic is not None
    assert (nic.physical, nic.pci, nic.bus) == expected


def test_a_membership_without_carrier_tells_no_state_nor_one_that_the_kernel_has_not_got_round_to() -> None:
    def told(flags: int) -> dict[Setting, Value]:
        member = rtnetlink.attribute(
            rtnetlink.IFLA_INFO_SLAVE_DATA, rtnetlink.attribute(1, b"\0") + rtnetlink.attribute(8, b"\1")
        )
        info = rtnetlink.attribute(rtnetlink.IFLA_INFO_SLAVE_KIND, b"bridge\0") + member
        attrs = rtnetlink.attribute(rtnetlink.IFLA_IFNAME, b"x\0") + rtnetlink.attribute(rtnetlink.IFLA_LINKINFO, info)
        payload = struct.pack("=BxHiII", 0, 1, 7, flags, 0) + attrs
        return answers.link(payload, 0, len(payload)).settings

    up, running, lower_up = 0x1, 0x40, 0x10000
    assert told(up | running | lower_up)[Setting.STATE] == "disabled"
    # The carrier is back, but net/core/link_watch.c has not told anybody yet.
    assert Setting.STATE not in told(up | lower_up)
    assert Setting.STATE not in told(up)
    assert told(up)[Setting.LEARNING] is True


# --- bytes that no kernel sends --------------------------------------------------------------------------------------

# What reading may raise on malformed bytes: never anything else, and never no end. The kernel does not send such; who
# gets it all the same sees "internal error" and no traceback.
MALFORMED = (struct.error, LookupError, ValueError)
READERS = [answers.link, answers.membership, answers.address, answers.route, answers.nexthop, answers.learnt]


def _read_all(data: bytes) -> None:
    for kind, flags, _, begin, end in rtnetlink.messages(data):
        assert begin <= end
        for reader in READERS:
            with contextlib.suppress(*MALFORMED):
                reader(data, begin, end)
        with contextlib.suppress(*MALFORMED):
            rtnetlink.failure(kind, data, begin, end, flags)
        assert isinstance(kind, int)


@given(st.binary(max_size=400))
@settings(max_examples=examples(500))
def test_garbage_ends(data: bytes) -> None:
    _read_all(data)


def _sample() -> bytes:
    member = rtnetlink.attribute(5, b"".join(rtnetlink.attribute(number, b"\1\0\0\0") for number in (1, 4, 8, 31)))
    info = (
        rtnetlink.attribute(1, b"bridge\0")
        + rtnetlink.attribute(2, rtnetlink.attribute(4, b"\1\0\0\0"))
        + rtnetlink.attribute(4, b"bridge\0")
        + member
    )
    spec = rtnetlink.attribute(10, rtnetlink.attribute(2, bytes(240)) + rtnetlink.attribute(8, b"\1"))
    attrs = [
        rtnetlink.attribute(3, b"eth0\0"),
        rtnetlink.attribute(4, b"\0\0\0\0"),
        rtnetlink.attribute(18, info),
        rtnetlink.attribute(26, spec),
    ]
    attrs.append(rtnetlink.attribute(52, rtnetlink.attribute(53, b"alt\0")))
    attrs.append(rtnetlink.attribute(9, struct.pack("=HBBi", 8, 0, 0, 3) * 2))
    return rtnetlink.message(16, 0, struct.pack("=BxHiII", 0, 1, 7, 0x41, 0) + b"".join(attrs))


@given(st.data())
@settings(max_examples=examples(500))
def test_a_message_with_any_bytes_wrong_or_missing_ends(data: st.DataObject) -> None:
    message = bytearray(_sample())
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)))
    _read_all(bytes(message[:cut]))
    _read_all(bytes(message))


def test_the_sample_is_a_good_one() -> None:
    ((_, _, _, begin, end),) = rtnetlink.messages(_sample())
    told = answers.link(_sample(), begin, end)
    assert told.name == "eth0"
    assert told.kind is Kind.BRIDGE
    assert told.altnames == ("alt",)
    assert told.settings[Setting.LEARNING] is True
