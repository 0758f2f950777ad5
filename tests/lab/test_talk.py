import time

import pytest

from reconciler.lab.delay import Delay
from reconciler.lab.lab import Lab, netlink
from reconciler.lab.namespaces import LabError
from reconciler.lab.offloads import offloads_off
from reconciler.lab.talk import Talk

pytestmark = [pytest.mark.netns, pytest.mark.long]


def until_more(talk: Talk, what: str, size: int = 100_000) -> None:
    before = talk.received()
    Lab.wait_until(lambda: min(b - a for a, b in zip(before, talk.received(), strict=True)) > size, 20, what)


@pytest.fixture
def joined(lab: Lab, join) -> Lab:
    join(lab, "sw", list(lab.ports))
    return lab


def addresses(lab: Lab) -> list[str]:
    return [
        address.get("address")
        for client in lab.clients
        for address in netlink(client, lambda ipr: list(ipr.get_addr()))
        if address.get("address") != "127.0.0.1"
    ]


def test_all_arrives_both_ways_and_is_closed(joined: Lab) -> None:
    with Talk(*joined.clients, connections=3) as talk:
        assert addresses(joined) == ["198.51.100.1", "198.51.100.2"]
        until_more(talk, "bytes both ways", 500_000)
        talked = talk.stop()
    assert talked.intact
    for way in (talked.there, talked.back):
        assert way.sent == way.received > 500_000
        assert way.longest_stall_s < 1 + talked.lateness_s
    assert addresses(joined) == []
    talk.close()


def test_the_rate_is_a_bound(joined: Lab) -> None:
    begun = time.monotonic()
    with Talk(*joined.clients, rate=200_000) as talk:
        until_more(talk, "bytes both ways", 50_000)
        talked = talk.stop()
    # The program began after, and ended before, this clock was read.
    assert max(talked.there.sent, talked.back.sent) <= 200_000 * (time.monotonic() - begun)


def test_an_outage_is_survived_and_measured(inspected: Lab) -> None:
    with Talk(*inspected.clients, connections=2) as talk:
        until_more(talk, "bytes both ways")
        inspected.blackhole_vm()
        begun = time.monotonic()
        inspected.wait_until(lambda: time.monotonic() > begun + 0.3, 5, "the outage to have lasted")
        with pytest.raises(LabError, match=r"no new connection: .*timed out"):
            talk.new_connection(timeout_s=0.1)
        inspected.unblock_vm()
        until_more(talk, "bytes both ways again")
        assert talk.new_connection() > 0
        talked = talk.stop()
    assert talked.intact
    assert min(talked.there.longest_stall_s, talked.back.longest_stall_s) >= 0.3


def test_new_connections_work_meanwhile(joined: Lab) -> None:
    with Talk(*joined.clients) as talk:
        assert 0 < talk.new_connection() < 3
        assert 0 < talk.new_connection() < 3
        assert talk.stop().intact


def test_through_a_vm_that_copies_packets_with_their_offloads(inspected: Lab) -> None:
    with Delay(inspected, 2), Talk(*inspected.clients, rate=2_000_000) as talk:
        until_more(talk, "bytes both ways", 500_000)
        assert talk.stop().intact


def test_a_reset_is_an_error(joined: Lab) -> None:
    with Talk(*joined.clients) as talk:
        until_more(talk, "bytes both ways")
        talk._b.close()
        with pytest.raises(LabError, match=r"connection 0: .*(reset|pipe)"):
            joined.wait_until(lambda: talk._progress(talk._a) == {}, 5, "the reset")


def test_a_wire_that_stays_dead_is_an_error(joined: Lab) -> None:
    with Talk(*joined.clients) as talk:
        until_more(talk, "bytes both ways")
        joined.unplug(0)
        with pytest.raises(LabError, match=r"connections \[0\] were not closed by the other end"):
            talk.stop(patience_s=0.2)


def test_without_a_wire_it_does_not_begin(lab: Lab) -> None:
    lab.unplug(1)
    with pytest.raises(LabError, match="the connecting end of the talk in 'client0'"):
        Talk(*lab.clients)
    assert addresses(lab) == []


def test_offloads_of_an_interface_that_is_not_there(lab: Lab) -> None:
    with lab.clients[0].entered(), pytest.raises(OSError, match="No such device"):
        offloads_off("eth7")
