"""A hand tampers with a live host: the audit names exactly that, a run repairs it, and then there is nothing to do."""

import json
import subprocess
from collections.abc import Iterator

import pytest
from kernels import Real, lacking, real
from live import TAP, Live, live
from processes import ending

from reconciler.network.state import Setting

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    request.getfixturevalue("lab_root")
    with live(tmp_path_factory.mktemp("audit")) as made:
        made.converge()
        yield made


def member(words: str) -> str:
    return f"ip link set nic0 type bridge_slave {words}"


def switch(words: str) -> str:
    return f"ip link set sw-outside type bridge {words}"


NIC, SWITCH = "nic0", "sw-outside"
TAMPERINGS: dict[str, tuple[str, set[tuple[str, str]]]] = {
    # Of a port.
    "port down": ("ip link set nic0 down", {(NIC, "up")}),
    # A switch that nobody ever had to set the size of follows its smallest member.
    "port mtu": ("ip link set nic0 mtu 1400", {(NIC, "mtu"), (SWITCH, "mtu")}),
    "port mode": ("ip link set nic0 mode dormant", {(NIC, "link-mode")}),
    "port dormant": ("ip link set nic0 state dormant", {(NIC, "dormant")}),
    "adapter mode": ("ip link set vnet0 mode dormant", {("vnet0", "link-mode")}),
    "adapter dormant": ("ip link set vnet0 mode dormant state dormant", {("vnet0", "link-mode"), ("vnet0", "dormant")}),
    "port arp": ("ip link set nic0 arp on", {(NIC, "arp")}),
    "port promiscuous": ("ip link set nic0 promisc off", {(NIC, "promiscuous")}),
    "port addrgenmode": ("ip link set nic0 addrgenmode eui64", {(NIC, "addrgenmode")}),
    "port ipv6": ("echo 0 > /proc/sys/net/ipv6/conf/nic0/disable_ipv6", {(NIC, "ipv6")}),
    "port address": ("ip address add 198.51.100.1/24 dev nic0", {(NIC, "addresses")}),
    "port addresses of one subnet": (
        "ip address add 198.51.100.1/24 dev nic0; ip address add 198.51.100.2/24 dev nic0",
        {(NIC, "addresses")},
    ),
    "port released": ("ip link set nic0 nomaster", {(NIC, "switch")}),
    "port moved": ("ip link set nic0 master sw-bypass", {(NIC, "switch")}),
    "ports exchanged": (
        "ip link set nic0 master sw-inside; ip link set nic1 master sw-outside",
        {(NIC, "switch"), ("nic1", "switch")},
    ),
    # Of a membership.
    # The kernel itself lets a disabled or blocked member forward again, so long as there is no spanning tree.
    "state": (member("state 1"), {(NIC, "state")}),
    "group_fwd_mask": (member("group_fwd_mask 8"), {(NIC, "group-fwd-mask")}),
    "learning": (member("learning on"), {(NIC, "learning")}),
    "a station learnt": ("bridge fdb add 02:aa:00:00:00:07 dev nic0 master dynamic", {(NIC, "learnt")}),
    "learning, and a station learnt": (
        f"{member('learning on')}; bridge fdb add 02:aa:00:00:00:07 dev nic0 master dynamic",
        {(NIC, "learning")},
    ),
    "flood": (member("flood off"), {(NIC, "flood")}),
    "mcast_flood": (member("mcast_flood off"), {(NIC, "multicast-flood")}),
    "bcast_flood": (member("bcast_flood off"), {(NIC, "broadcast-flood")}),
    "hairpin": (member("hairpin on"), {(NIC, "hairpin")}),
    "isolated": (member("isolated on"), {(NIC, "isolated")}),
    "guard": (member("guard on"), {(NIC, "bpdu-guard")}),
    "root_block": (member("root_block on"), {(NIC, "root-block")}),
    "neigh_suppress": (member("neigh_suppress on"), {(NIC, "neighbour-suppression")}),
    "proxy_arp": (member("proxy_arp on"), {(NIC, "proxy-arp")}),
    "locked": (member("locked on"), {(NIC, "locked")}),
    # Of a switch.
    "switch down": ("ip link set sw-outside down", {(SWITCH, "up"), (NIC, "state"), ("vnet0", "state")}),
    "switch mtu": ("ip link set sw-outside mtu 1400", {(SWITCH, "mtu")}),
    "switch mac": ("ip link set sw-outside address 02:00:00:00:00:99", {(SWITCH, "mac")}),
    "switch mark": ("ip link set sw-outside alias ''", {(SWITCH, "mark")}),
    "switch arp": ("ip link set sw-outside arp on", {(SWITCH, "arp")}),
    "switch addrgenmode": ("ip link set sw-outside addrgenmode random", {(SWITCH, "addrgenmode")}),
    "switch ipv6": ("echo 0 > /proc/sys/net/ipv6/conf/sw-outside/disable_ipv6", {(SWITCH, "ipv6")}),
    "switch address": ("ip address add 198.51.100.9/32 dev sw-outside", {(SWITCH, "addresses")}),
    "stp": (switch("stp_state 1"), {(SWITCH, "stp")}),
    "mcast_snooping": (switch("mcast_snooping 1"), {(SWITCH, "multicast-snooping")}),
    "vlan_filtering": (switch("vlan_filtering 1"), {(SWITCH, "vlan-filtering")}),
    "ageing": (switch("ageing_time 100"), {(SWITCH, "ageing")}),
    "bridge group_fwd_mask": (switch("group_fwd_mask 8"), {(SWITCH, "switch-group-fwd-mask")}),
    "nf_call_iptables": (switch("nf_call_iptables 1"), {(SWITCH, "nf-call-iptables")}),
    "nf_call_ip6tables": (switch("nf_call_ip6tables 1"), {(SWITCH, "nf-call-ip6tables")}),
    "nf_call_arptables": (switch("nf_call_arptables 1"), {(SWITCH, "nf-call-arptables")}),
    "switch deleted": ("ip link delete sw-outside", {(SWITCH, "make"), (NIC, "switch"), ("vnet0", "switch")}),
    "standby switch deleted": ("ip link delete sw-bypass", {("sw-bypass", "make")}),
    "switch renamed": (
        "ip link set sw-outside name sw-x",
        {(SWITCH, "make"), (NIC, "switch"), ("vnet0", "switch"), ("sw-x", "remove")},
    ),
    # Of others.
    "a stranger": ("ip link add stranger0 master sw-outside type veth peer name stranger1", {("stranger0", "switch")}),
    "a leftover": (
        "ip link add old-sw type bridge; ip link set old-sw alias reconciler:live:switch:old-sw",
        {("old-sw", "remove")},
    ),
    "a leftover that holds a port": (
        (
            "ip link add old-sw type bridge; ip link set old-sw alias reconciler:live:switch:old-sw;"
            "ip link set nic0 master old-sw"
        ),
        {("old-sw", "remove"), (NIC, "switch")},
    ),
    "the adapter released": ("ip link set vnet0 nomaster", {("vnet0", "switch")}),
}
TAPS = {
    "tap deleted": ("ip link delete ips-in", {("ips-in", "make")}),
    "tap released": ("ip link set ips-in nomaster", {("ips-in", "switch")}),
    "tap mac": ("ip link set ips-in address 02:00:00:00:00:99", {("ips-in", "mac")}),
    "tap down": ("ip link set ips-in down", {("ips-in", "up")}),
    "a tap left over": (
        "ip tuntap add dev old-tap mode tap; ip link set old-tap alias reconciler:live:adapter:old",
        {("old-tap", "remove")},
    ),
}


@pytest.fixture(scope="module")
def lacks(request: pytest.FixtureRequest) -> frozenset[Setting]:
    request.getfixturevalue("lab_root")
    with real() as kernel:
        assert isinstance(kernel, Real)
        return lacking(kernel)


@pytest.mark.parametrize("name", [*TAMPERINGS, *(TAPS if TAP else ())])
def test_an_audit_names_exactly_what_was_tampered_with_and_a_run_repairs_it(
    host: Live, name: str, lacks: frozenset[Setting]
) -> None:
    if name == "vlan_filtering" and Setting.VLAN_FILTERING in lacks:
        pytest.skip("this kernel's bridges filter no VLANs")
    command, expected = {**TAMPERINGS, **TAPS}[name]
    host.is_converged()
    host.hand(command)
    try:
        assert host.drift() == expected
    finally:
        host.converge()
        host.hand("ip link delete stranger0 2>/dev/null || true")
    host.is_converged()


@pytest.mark.parametrize(
    "name",
    [
        "port addresses of one subnet",
        "learning, and a station learnt",
        "a station learnt",
        "switch down",
        "switch renamed",
        "stp",
        "state",
        "tap deleted",
    ],
)
def test_the_commands_pasted_into_a_shell_repair_it_too(host: Live, name: str) -> None:
    if name in TAPS and not TAP:
        pytest.skip("/dev/net/tun is for root of the machine only")
    host.is_converged()
    host.hand({**TAMPERINGS, **TAPS}[name][0])
    try:
        done = host.here("--dry-run", "-o", "commands")
        assert done.code == 3
        host.hand(done.out)
        host.is_converged()
    finally:
        host.converge()


@pytest.mark.parametrize("segment", [{}, {"mtu": 9000, "ageing": "0s", "transparency": "standard"}])
def test_the_commands_pasted_into_a_shell_make_everything(
    tmp_path_factory: pytest.TempPathFactory, segment: dict[str, object]
) -> None:
    with live(tmp_path_factory.mktemp("paste"), **segment) as made:
        for topology in ("inspect", "bypass", "inspect"):
            done = made.here("--dry-run", "-o", "commands", "-t", topology)
            assert done.code == 3
            made.hand(done.out)
            made.is_converged("-t", topology)


def test_every_setting_tampered_with_at_once_is_repaired_in_one_run(host: Live) -> None:
    host.is_converged()
    commands = [
        command
        for name, (command, _) in TAMPERINGS.items()
        if not name.startswith(
            ("switch deleted", "switch renamed", "ports exch", "port moved", "port rel", "a leftover that")
        )
        and name not in ("vlan_filtering", "switch mark", "switch mac")
    ]
    host.hand(" ; ".join(f"{{ {one}; }} || true" for one in commands))
    try:
        assert len(host.drift()) > 30
    finally:
        host.converge()
        host.hand("ip link delete stranger0")
    host.is_converged()


@pytest.mark.skipif(not TAP, reason="/dev/net/tun is for root of the machine only")
def test_a_tap_that_the_vm_holds_and_made_mortal_is_told_and_cannot_be_repaired(host: Live) -> None:
    host.is_converged()
    program = (
        "import fcntl, os, struct, sys\n"
        "fd = os.open('/dev/net/tun', os.O_RDWR)\n"
        "fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', b'ips-in', 0x1002))\n"
        "fcntl.ioctl(fd, 0x400454cb, 0)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    import sys

    held = host.lab.host.spawn([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with ending(held) as vm:
        assert vm.stdout is not None
        assert vm.stdout.readline() == b"held\n"
        assert host.drift() == {("ips-in", "persistent")}
        done = host.here()
        assert done.code == 1
        assert "EBUSY" in done.err
        vm.communicate(timeout=30)
    # Gone with the one that held it; the next run makes it again.
    assert ("ips-in", "make") in host.drift()
    host.converge()
    host.is_converged()


def test_what_is_refused_is_left_exactly_as_it_is(host: Live) -> None:
    host.is_converged()
    host.hand(
        "ip link add br0 type bridge; ip link set br0 up; ip address add 10.9.0.1/24 dev br0;"
        "ip link add hers0 master br0 type veth peer name hers1; ip link set nic0 master br0"
    )
    names = ("br0", "hers0", "hers1", "nic0", "mgmt0", "lo")
    before = host.dump(*names)
    done = host.here("-o", "json")
    assert done.code == 1
    assert [(one["code"], one["about"]) for one in json.loads(done.out)["warnings"]] == [
        ("foreign-switch", "port outside")
    ]
    assert host.dump(*names) == before
    host.hand("ip link delete br0; ip link delete hers0")
    host.converge()


def test_nobody_elses_things_change_by_a_single_bit(host: Live) -> None:
    foreign = ["docker0", "vethx0", "vethx1", "other-sw", "mgmt0", "lo"]
    host.hand(
        "ip link add docker0 type bridge stp_state 1 vlan_default_pvid 1 2>/dev/null || ip link add docker0 type bridge stp_state 1;"
        "ip link set docker0 up; ip address add 172.17.0.1/16 dev docker0;"
        "ip link add vethx0 master docker0 type veth peer name vethx1; ip link set vethx0 type bridge_slave hairpin on;"
        "ip address add 203.0.113.1/24 dev vethx1; ip link set vethx1 promisc on;"
        "ip link add other-sw type bridge; ip link set other-sw alias reconciler:other:switch:other-sw"
    )
    before = host.dump(*foreign)
    for topology in ("bypass", "inspect", "bypass", "inspect"):
        host.converge("-t", topology)
    host.hand("ip link delete sw-outside; ip link set nic1 mtu 1400")
    host.converge()
    assert host.dump(*foreign) == before
    host.hand("ip link delete vethx0; ip link delete docker0; ip link delete other-sw")
