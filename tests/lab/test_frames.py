import socket
import struct
from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute

from reconciler.lab.frames import FRAMES, Crossing, Ear, crossing, fitting, frame
from reconciler.lab.lab import Lab, netlink
from reconciler.lab.namespaces import LabError

pytestmark = pytest.mark.netns

ONE = {"one": frame("02:bb:00:00:00:09", 0x88B7, b"one")}


def sum_of_words(data: bytes) -> int:
    return int.from_bytes(data.ljust(len(data) + len(data) % 2, b"\0"), "big") % 0xFFFF


def test_the_kinds_are_told_apart_and_complete() -> None:
    assert len(FRAMES) == len(set(FRAMES.values())) == 25
    assert all(60 <= len(data) <= 9014 for data in FRAMES.values())
    assert len(FRAMES["jumbo"]) == 9014
    assert set(FRAMES) - set(fitting()) == {"jumbo"}
    assert fitting(9000) == FRAMES


@pytest.mark.parametrize("name", ["IPv4 unicast", "IPv4 multicast", "IPv4 broadcast", "jumbo"])
def test_ipv4_checksums(name: str) -> None:
    packet = FRAMES[name][14:]
    (length,) = struct.unpack_from("!H", packet, 2)
    assert sum_of_words(packet[:20]) == 0
    assert sum_of_words(packet[12:20] + struct.pack("!HH", socket.IPPROTO_UDP, length - 20) + packet[20:length]) == 0


@pytest.mark.parametrize("name", ["IPv6 unicast", "IPv6 multicast"])
def test_ipv6_checksums(name: str) -> None:
    packet = FRAMES[name][14:]
    (length,) = struct.unpack_from("!H", packet, 4)
    pseudo = packet[8:40] + struct.pack("!HH", socket.IPPROTO_UDP, length)
    assert sum_of_words(pseudo + packet[40 : 40 + length]) == 0


def silence(lab: Lab) -> None:
    """Keep the host, which nobody has reconciled, from saying words of its own in IPv6."""
    lab.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])


@pytest.fixture(scope="module")
def cable(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Two pairs of clients; the first pair's ports are joined as one wire that passes everything: by an nft rule each."""
    request.getfixturevalue("lab_root")
    with Lab(4, segments=[(0, 1), (2, 3)], mtu=9000) as lab:
        silence(lab)
        chains = "".join(
            f'chain c{one} {{ type filter hook ingress device "nic{one}" priority 0; fwd to "nic{1 - one}"; }}; '
            for one in (0, 1)
        )
        lab.run(["nft", f"table netdev cable {{ {chains} }}"])
        yield lab


def test_every_kind_arrives_whole(cable: Lab) -> None:
    assert crossing(cable, FRAMES) == Crossing({}, {}, {})
    assert crossing(cable, FRAMES, sender=1).exact


def test_what_does_not_arrive_is_missed(cable: Lab) -> None:
    assert crossing(cable, ONE, sender=2, patience_s=0.05) == Crossing({(3, "one"): 3}, {}, {})
    assert crossing(cable, ONE, receivers=[1, 3], copies=1, patience_s=0.05) == Crossing({(3, "one"): 1}, {}, {})


def test_what_arrives_where_it_should_not_is_surplus(cable: Lab) -> None:
    assert crossing(cable, ONE, receivers=[]) == Crossing({}, {(1, "one"): 3}, {})


def test_duplicates_and_changed_frames(lab: Lab) -> None:
    silence(lab)
    rules = (
        'type filter hook ingress device "nic0" priority 0',
        'ether type 0x88b7 ether daddr 02:bb:00:00:00:09 dup to "nic1"',
        "ether type 0x88b6 ether daddr set 02:bb:00:00:00:0a",
        'fwd to "nic1"',
    )
    lab.run(["nft", f"table netdev bad {{ chain c {{ {'; '.join(rules)}; }}; }}"])
    two = {**ONE, "two": frame("02:bb:00:00:00:09", 0x88B6, b"two")}
    changed = frame("02:bb:00:00:00:0a", 0x88B6, b"two")
    found = crossing(lab, two, patience_s=0.05)
    assert found == Crossing({(1, "two"): 3}, {(1, "one"): 3}, {1: (changed,) * 3})
    assert not found.exact


def test_tags_and_padding_are_whole(cable: Lab) -> None:
    with Ear(cable.clients[1]) as there, Ear(cable.clients[0]) as here:
        here.send(FRAMES["QinQ"])
        cable.wait_until(lambda: bool(there.take()), 5, "a frame")
        assert there.frames == [FRAMES["QinQ"]]


def test_errors(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"client 0 cannot send: .*too long"):
        crossing(lab, FRAMES)
    with Lab(2, traffic=False) as bare, pytest.raises(LabError, match="without clients"):
        crossing(bare, ONE)


def test_the_mtu_is_everywhere(cable: Lab) -> None:
    def mtus(ipr: IPRoute) -> set[int]:
        return {link.get("mtu") for link in ipr.get_links() if not link.get("ifname").startswith(("lo", "mgmt"))}

    assert cable.vm is not None
    for namespace in (cable.host, cable.vm, *cable.clients):
        assert netlink(namespace, mtus) == {9000}
