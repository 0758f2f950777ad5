import socket
import time

import pytest

from reconciler.lab.lab import Lab, netlink
from reconciler.lab.namespaces import LabError
from reconciler.lab.source import StreamFrame
from reconciler.lab.traffic import Flow, Sink, Source

pytestmark = pytest.mark.netns


@pytest.fixture
def joined(lab: Lab, join) -> Lab:
    join(lab, "sw", list(lab.ports))
    return lab


def port_counters(lab: Lab, ifname: str) -> tuple[int, int]:
    """Packets received and sent by a host's interface, as the kernel counts them."""
    stats = netlink(lab.host, lambda ipr: ipr.link("get", ifname=ifname)[0].get("stats64"))
    return stats["rx_packets"], stats["tx_packets"]


@pytest.mark.long
def test_a_bridge_loses_nothing(joined: Lab) -> None:
    with joined.flows(2000) as traffic:
        traffic.start()
        joined.wait_until(lambda: min(traffic.arrived()) >= 2000, 10, "2,000 frames each way")
        for measured in traffic.stop():
            assert measured.sent >= 2000
            assert (measured.lost, measured.duplicated, measured.reordered) == (0, 0, 0)
            # Only the source itself may have paused: the machine that runs this may be busy.
            assert measured.longest_gap_s < 0.02 + measured.worst_lateness_s
            sent = traffic.flows[0].sent
            assert sent is not None
            assert sent.refused == 0


def test_an_outage_is_measured(joined: Lab) -> None:
    def set_master(master: int) -> tuple[int, int]:
        """Return when it was asked for and when it was done: the kernel waits for others' RTNL and for RCU."""

        def action(ipr) -> tuple[int, int]:
            port = ipr.link_lookup(ifname="nic1")[0]
            asked_ns = time.time_ns()
            ipr.link("set", index=port, master=master)
            return asked_ns, time.time_ns()

        return netlink(joined.host, action)

    bridge = netlink(joined.host, lambda ipr: ipr.link_lookup(ifname="sw")[0])
    out_before = port_counters(joined, "nic1")[1]
    with joined.flows(2000) as traffic:
        flow = traffic.flows[0]
        traffic.start()
        joined.wait_until(lambda: min(traffic.arrived()) > 200, 10, "traffic before")
        cut_asked_ns, cut_ns = set_master(0)
        joined.wait_until(lambda: time.time_ns() > cut_ns + 150_000_000, 5, "the outage to have lasted")
        before = flow.arrived
        restore_asked_ns, restored_ns = set_master(bridge)
        joined.wait_until(lambda: flow.arrived > before + 200, 10, "traffic after")
        measured = traffic.stop()[0]
        slack_s = 0.03 + 2 * measured.worst_lateness_s
        # When lost frames were sent is known only up to the unsteadiness of their source.
        slack_ns = int(slack_s * 1e9)
        gap_ns = measured.start_ns + measured.gap_at_s * 1e9
        assert (restore_asked_ns - cut_ns) / 1e9 <= measured.longest_gap_s
        assert measured.longest_gap_s <= (restored_ns - cut_asked_ns) / 1e9 + slack_s
        assert cut_asked_ns - slack_ns <= gap_ns <= cut_ns
        assert measured.lost == pytest.approx(2000 * measured.longest_gap_s, abs=2000 * slack_s)
        assert (measured.duplicated, measured.reordered) == (0, 0)
        # The kernel's own count of what left towards the client. The host says a word of its own in IPv6 now and then.
        out = port_counters(joined, "nic1")[1] - out_before
        assert measured.received <= out <= measured.received + 20
        assert flow.measure(until_ns=cut_asked_ns - slack_ns).lost == 0
        during = flow.measure(since_ns=cut_ns, until_ns=cut_ns + 100_000_000)
        assert during.received == 0
        assert during.lost == pytest.approx(200, abs=2000 * slack_s)
        assert flow.measure(since_ns=restored_ns + slack_ns).lost == 0


@pytest.mark.parametrize("rate", [100, 10_000])
def test_rate_is_kept(joined: Lab, rate: int) -> None:
    with Flow(joined.clients[0], "wire", joined.clients[1], "wire", rate=rate, stream=7, size=1500) as flow:
        flow.start()
        joined.wait_until(lambda: flow.arrived > rate // 4, 10, "a quarter of a second of frames")
        measured = flow.stop()
        assert flow.sent is not None
        took_s = (flow.sent.last_ns - flow.sent.first_ns) / 1e9
        assert flow.sent.count - 1 == pytest.approx(took_s * rate, abs=1 + rate * (0.001 + flow.sent.worst_lateness_s))
        assert measured.lost == 0


def test_a_full_ring_is_an_error(joined: Lab) -> None:
    sender, receiver = joined.clients
    with Sink(receiver, "wire", stream=3, capacity=500) as sink, sender.entered():
        assert sink.capacity == 512
        template = StreamFrame(b"\2\0\0\0\0\7", sink.mac, 3, 62)
        other = StreamFrame(b"\2\0\0\0\0\7", sink.mac, 4, 62)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.bind(("wire", 0))
            for sequence in range(2 * sink.capacity):  # around the ring, with frames that are not for it in between
                raw.send(other.number(sequence, 1))
                raw.send(template.number(sequence, sequence))
                if sequence % 100 == 99:
                    sink.harvest()
            arrivals = sink.arrivals()
            assert list(arrivals.sequences) == list(arrivals.sent_ns) == list(range(2 * sink.capacity))
            assert list(arrivals.received_ns) == sorted(arrivals.received_ns)
            for sequence in range(sink.capacity + 5):
                raw.send(template.number(sequence, 1))
            with pytest.raises(LabError, match="dropped 5 frames itself"):
                sink.harvest()


def test_own_frames_going_out_do_not_count(joined: Lab) -> None:
    sender = joined.clients[0]
    with Sink(sender, "wire", stream=1) as sink, joined.flows(1000) as traffic:
        traffic.start()
        joined.wait_until(lambda: min(traffic.arrived()) > 50, 10, "traffic")
        traffic.stop()
        assert sink.harvest() == 0


def test_errors_name_the_place(lab: Lab) -> None:
    with pytest.raises(LabError, match="cannot receive on eth7 in 'client0'"):
        Sink(lab.clients[0], "eth7", stream=1)
    with pytest.raises(LabError, match=r"source of stream 1 on eth7 in 'client0': eth7: .*No such device"):
        Source(lab.clients[0], "eth7", destination=bytes(6), rate=100, stream=1)
    with pytest.raises(ValueError, match="rate 50"):
        Source(lab.clients[0], "wire", destination=bytes(6), rate=50, stream=1)
    with lab.flows(100) as traffic:
        with pytest.raises(LabError, match="never started"):
            traffic.stop()
        with pytest.raises(LabError, match="has not been stopped"):
            traffic.flows[0].measure()


def test_a_source_that_dies_is_an_error(lab: Lab) -> None:
    with lab.flows(100) as traffic:
        traffic.start()
        traffic.flows[0].source._process.kill()
        with pytest.raises(LabError, match=r"gone|died with status -9"):
            traffic.stop()
