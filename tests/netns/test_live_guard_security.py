"""On the wire neither host nor probes are to be seen or forged, and no VM holds a lease that it was not given."""

import contextlib
import itertools
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from guarded import Guarded, guarded

from reconciler.errors import HostError
from reconciler.lab.frames import Ear, crossing, frame
from reconciler.lab.lab import GATEWAY, MANAGEMENT_ADDRESS, netlink

pytestmark = [pytest.mark.netns, pytest.mark.long]

PROBE = 0x88B5
END = 0x88B7
BROADCAST = "ff:ff:ff:ff:ff:ff"
STRANGER = "02:bb:00:00:00:09"
CLIENT = "02:aa:00:00:00:01"
LINK_LOCAL = "fe80::aa:ff:fe00:1"


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("security")) as made:
        yield made


@pytest.fixture
def kept(lasting: Guarded) -> Guarded:
    lasting.write()
    lasting.well()
    return lasting


def inspected(kept: Guarded) -> None:
    kept.inspects()


def bypassed(kept: Guarded) -> None:
    kept.ask("hold", topology="bypass", reason="maintenance", seconds=100)
    kept.passes_by()


def tripped(kept: Guarded) -> None:
    kept.kill()
    kept.lab.blackhole_vm()
    kept.until(lambda: not kept.stands(), "the trip")


STATES = pytest.mark.parametrize("state", [inspected, bypassed, tripped])


# --- the host is not to be seen --------------------------------------------------------------------------------------


def addresses(kept: Guarded) -> tuple[set[str], set[str]]:
    """All MAC and IPv4 addresses of the host."""

    def told(ipr: Any) -> tuple[set[str], set[str]]:
        macs = {link.get("address") for link in ipr.get_links() if link.get("ifname") != "lo"}
        return macs, {one.get("address") for one in ipr.get_addr(family=socket.AF_INET)}

    return netlink(kept.lab.host, told)


def arp(target: str) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes.fromhex(CLIENT.replace(":", ""))
    body = head + socket.inet_aton("192.0.2.77") + bytes(6) + socket.inet_aton(target)
    return frame(BROADCAST, 0x0806, body, CLIENT)


def checksum(data: bytes) -> int:
    return 0xFFFF - int.from_bytes(data.ljust(len(data) + len(data) % 2, b"\0"), "big") % 0xFFFF


def ipv4(mac: str, target: str, protocol: int, body: bytes) -> bytes:
    ends = socket.inet_aton("192.0.2.77") + socket.inet_aton(target)
    fields = (0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol)
    packet = struct.pack("!BBHHHBBH", *fields, checksum(struct.pack("!BBHHHBBH", *fields, 0) + ends)) + ends + body
    return frame(mac, 0x0800, packet, CLIENT)


def echo(mac: str, target: str) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + b"is anybody there?"
    return ipv4(mac, target, socket.IPPROTO_ICMP, body[:2] + struct.pack("!H", checksum(body)) + body[4:])


def datagram(mac: str, target: str, port: int, text: bytes) -> bytes:
    return ipv4(mac, target, socket.IPPROTO_UDP, struct.pack("!HHHH", 9, port, 8 + len(text), 0) + text)


def icmpv6(mac: str, target: str, body: bytes, hops: int = 255) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, LINK_LOCAL) + socket.inet_pton(socket.AF_INET6, target)
    pseudo = ends + struct.pack("!II", len(body), socket.IPPROTO_ICMPV6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    head = struct.pack("!IHBB", 0x60000000, len(body), socket.IPPROTO_ICMPV6, hops)
    return frame(mac, 0x86DD, head + ends + body, CLIENT)


def solicitation(target: str) -> bytes:
    raw = socket.inet_pton(socket.AF_INET6, target)
    group = f"33:33:ff:{raw[-3]:02x}:{raw[-2]:02x}:{raw[-1]:02x}"
    own = bytes([1, 1]) + bytes.fromhex(CLIENT.replace(":", ""))
    return icmpv6(group, f"ff02::1:ff{raw[-3]:02x}:{raw[-2]:02x}{raw[-1]:02x}", bytes([135, 0, *bytes(6)]) + raw + own)


def link_local(mac: str) -> str:
    raw = bytearray.fromhex(mac.replace(":", ""))
    raw[0] ^= 2
    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex("fe80" + "00" * 6) + raw[:3] + b"\xff\xfe" + raw[3:])


def scan(macs: set[str], ips: set[str]) -> list[bytes]:
    """What finds a host that can be found."""
    every = [*macs, BROADCAST]
    return [
        *(arp(ip) for ip in (*ips, GATEWAY)),
        *(echo(mac, ip) for mac in every for ip in (*ips, "192.0.2.255", "255.255.255.255", "224.0.0.1")),
        *(solicitation(link_local(mac)) for mac in macs),
        *(icmpv6("33:33:00:00:00:01", "ff02::1", struct.pack("!BBHHH", 128, 0, 0, 1, 1)) for _ in range(2)),
        *(icmpv6(mac, link_local(mac), struct.pack("!BBHHH", 128, 0, 0, 1, 1)) for mac in macs),
        icmpv6("33:33:00:00:00:02", "ff02::2", struct.pack("!BBHI", 133, 0, 0, 0)),
        frame("01:80:c2:00:00:0e", 0x88CC, b"\x02\x07\x04" + bytes.fromhex(CLIENT.replace(":", "")), CLIENT),
    ]


@contextlib.contextmanager
def all_that_arrives(kept: Guarded) -> Iterator[tuple[Ear, Ear]]:
    with Ear(kept.lab.clients[0]) as here, Ear(kept.lab.clients[1]) as there:
        yield here, there


def silence(kept: Guarded, here: Ear, there: Ear, number: int) -> None:
    """Have a frame of each client arrive at the other, behind all that is under way."""
    for one, other in ((here, there), (there, here)):
        end = frame(STRANGER, END, b"end %d" % number)
        one.send(end)
        kept.until(lambda other=other, end=end: other.take() is not None and end in other.frames, "the last frame")


@STATES
def test_a_scan_from_the_wire_finds_nothing_of_the_host(kept: Guarded, state: Callable[[Guarded], None]) -> None:
    macs, ips = addresses(kept)
    assert MANAGEMENT_ADDRESS in ips
    assert len(macs) >= 8, "ports, adapters, switches"
    state(kept)
    asked = scan(macs, ips)
    with all_that_arrives(kept) as (here, there):
        for one in asked:
            here.send(one)
        silence(kept, here, there, 1)
        arrived = here.frames + there.frames
    strange = [data for data in arrived if data not in asked and data[12:14] != struct.pack("!H", END)]
    assert strange == []
    own = {bytes.fromhex(mac.replace(":", "")) for mac in macs}
    assert not [data for data in arrived if data[6:12] in own], "the host says nothing by any address of its own"
    assert arrived.count(arp(MANAGEMENT_ADDRESS)) == 1, "and the questions pass, once, to the other side"


def reached(kept: Guarded, macs: Iterable[str]) -> set[bytes]:
    """What a program of the host gets of all that is said to it from the wire, at these addresses."""
    heard = set()
    with kept.lab.host.entered():
        program = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with program, all_that_arrives(kept) as (here, there):
        program.bind(("0.0.0.0", 0))  # of the lab's host
        port = program.getsockname()[1]
        for mac, target in itertools.product(macs, (MANAGEMENT_ADDRESS, "192.0.2.255", "255.255.255.255", "224.0.0.1")):
            for ear in (here, there):
                ear.send(datagram(mac, target, port, f"{mac} {target}".encode()))
        silence(kept, here, there, 2)
        # It hears what it may, and this comes last.
        with kept.lab.office.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as friend:
            friend.sendto(b"from the office", (MANAGEMENT_ADDRESS, port))
        program.settimeout(10)
        while (said := program.recv(100)) != b"from the office":
            heard.add(said)
    return heard


@STATES
def test_nobody_on_the_wire_speaks_to_the_host_by_its_own_addresses(
    kept: Guarded, state: Callable[[Guarded], None]
) -> None:
    macs, _ = addresses(kept)
    state(kept)
    assert reached(kept, macs) == set()


@pytest.mark.parametrize("state", [inspected, bypassed, tripped])
def test_nobody_on_the_wire_speaks_to_the_host_as_one_of_all(kept: Guarded, state: Callable[[Guarded], None]) -> None:
    state(kept)
    assert reached(kept, [BROADCAST, "01:00:5e:00:00:01"]) == set()


# --- probes ----------------------------------------------------------------------------------------------------------


def test_probes_never_reach_a_wire(kept: Guarded) -> None:
    with all_that_arrives(kept) as (here, there):
        for _ in range(2):
            bypassed(kept)
            kept.ask("release")
            kept.inspects()
        kept.lab.blackhole_vm()
        kept.passes_by()
        kept.lab.unblock_vm()
        kept.inspects()
        kept.kill()
        kept.lab.blackhole_vm()
        kept.until(lambda: not kept.stands(), "the trip")
        kept.lab.unblock_vm()
        kept.start()
        kept.inspects()
        kept.lab.kill_vm()
        kept.passes_by()
        kept.lab.start_vm()
        kept.inspects()
        mark = kept.mark
        kept.hand(f"kill -9 {kept.prober()['pid']}")
        kept.inspects()
        silence(kept, here, there, 3)
        arrived = here.frames + there.frames
    probes = [data for data in arrived if data[12:14] == struct.pack("!H", PROBE) or data[6:11] == mark]
    assert probes == []
    assert {data[12:14] for data in arrived} == {struct.pack("!H", END)}


def test_a_token_that_may_have_been_seen_on_a_wire_is_never_granted_again(kept: Guarded) -> None:
    """Without the table, a VM sends probes on to the wires. And yet no flush costs a healthy one its lease."""
    trips, granted = kept.guard()["trips"], [kept.contents().token]

    def again() -> bool:
        with contextlib.suppress(HostError):  # there is no table just now
            return kept.is_leased() and kept.contents().token not in (None, *granted)
        return False

    with all_that_arrives(kept) as (here, there):
        for _ in range(5):
            kept.hand("nft flush ruleset")
            kept.until(again, "another token")
            granted.append(kept.contents().token)
        kept.hand(f"nft insert rule netdev reconciler-{kept.sku} edge/adapter/inside counter accept")
        kept.until(again, "another token")
        granted.append(kept.contents().token)
        for _ in range(2):
            assert [kept.cli("guard", word).code for word in ("off", "on")] == [0, 0]
            kept.until(again, "another token")
            granted.append(kept.contents().token)
        silence(kept, here, there, 4)
        arrived = here.frames + there.frames
    assert granted[-1] not in {data[:6] for data in arrived if data[6:11] == kept.mark}
    assert kept.guard()["trips"] == trips


def probes_of(kept: Guarded) -> list[bytes]:
    """Probes as they come into the VM, one of each direction."""
    vm = kept.lab.vm
    assert vm is not None
    with Ear(vm, "eth0") as outside, Ear(vm, "eth1") as inside:
        ears = (outside, inside)
        kept.until(lambda: all(ear.frames or ear.take() for ear in ears), "probes")
        return [next(data for data in ear.frames if data[6:11] == kept.mark) for ear in ears]


def test_strangers_frames_of_the_same_kind_pass(kept: Guarded) -> None:
    mark, token = kept.mark, kept.contents().token
    assert token is not None
    text = "02:cc:00:00:00:0"
    strangers = {str(n): frame(STRANGER, PROBE, b"%d" % n, f"{text}{n}") for n in range(3)}
    strangers["to the token"] = frame(token.hex(":"), PROBE, b"to the token", CLIENT)
    assert crossing(kept.lab, strangers).exact
    assert mark not in b"".join(strangers.values())


@pytest.mark.parametrize("right", [False, True], ids=["a token that is none", "even the right one"])
def test_what_is_forged_on_the_wire_renews_nothing(kept: Guarded, right: bool) -> None:
    granted = kept.contents().token
    assert granted is not None
    mark, token = kept.mark, granted if right else bytes([granted[0], *(byte ^ 1 for byte in granted[1:])])
    kept.kill()
    forged = [frame(token.hex(":"), PROBE, bytes(12), (mark + bytes([number])).hex(":")) for number in (0, 1)]
    with all_that_arrives(kept) as ears:
        kept.lab.blackhole_vm()

        def expired() -> bool:
            for ear, data in itertools.product(ears, forged):
                ear.send(data)
            return not kept.stands()

        kept.until(expired, "the trip, although the wire is full of forged probes")
        for _ in range(50):
            expired()
        assert not kept.stands()


def test_a_vm_that_replays_its_probes_holds_no_lease_that_was_withdrawn(kept: Guarded) -> None:
    old = probes_of(kept)
    assert [data[:6] for data in old] == [kept.contents().token] * 2
    bypassed(kept)
    assert kept.contents().token is None
    vm = kept.lab.vm
    assert vm is not None
    with Ear(vm, "eth0") as outside, Ear(vm, "eth1") as inside:
        for _ in range(200):
            # Where its bridge sends them out again: at the other side.
            inside.send(old[0])
            outside.send(old[1])
        for _ in range(200):
            assert not kept.stands()
    kept.ask("release")
    kept.inspects()
    assert kept.contents().token not in (None, old[0][:6])


def test_a_vm_that_forges_probes_after_a_trip_holds_no_lease(kept: Guarded) -> None:
    old = probes_of(kept)
    kept.kill()
    kept.lab.blackhole_vm()
    kept.until(lambda: not kept.stands(), "the trip")
    assert kept.contents().token == old[0][:6], "nobody has withdrawn it, and yet"
    vm = kept.lab.vm
    assert vm is not None
    with Ear(vm, "eth0") as outside, Ear(vm, "eth1") as inside:
        for _ in range(200):
            inside.send(old[0])
            outside.send(old[1])
            assert not kept.stands()
