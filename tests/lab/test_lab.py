import asyncio
import socket
import subprocess
import time
import warnings
from pathlib import Path

import pytest

from reconciler.lab.lab import Lab, netlink
from reconciler.lab.namespaces import LabError
from reconciler.lab.traffic import Traffic

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("lab_rights")]


def links(lab: Lab) -> dict[str, dict]:
    return netlink(lab.host, lambda ipr: {link.get("ifname"): link for link in ipr.get_links()})


def wait_for_more(lab: Lab, traffic: Traffic, what: str) -> None:
    before = traffic.arrived()
    lab.wait_until(lambda: all(b > a + 20 for a, b in zip(before, traffic.arrived(), strict=True)), 10, what)


def assert_passing(traffic: Traffic, expected: list[bool]) -> None:
    """Exactly these flows pass: the others get nothing for a tenth of a second, and for as long as these need."""
    begun = time.monotonic()
    Lab.wait_until(lambda: time.monotonic() > begun + 0.05, 5, "frames under way")
    before = traffic.arrived()

    def growth() -> list[int]:
        return [after - earlier for earlier, after in zip(before, traffic.arrived(), strict=True)]

    def expected_ones_grew() -> bool:
        return all(grown > 20 for grown, wanted in zip(growth(), expected, strict=True) if wanted)

    Lab.wait_until(lambda: time.monotonic() > begun + 0.15 and expected_ones_grew(), 10, "the flows that shall pass")
    assert [grown > 0 for grown in growth()] == expected


@pytest.mark.parametrize("count", [2, 4, 64])
def test_the_host_has_what_is_promised_and_nothing_enslaved(count: int) -> None:
    begun = time.monotonic()
    with Lab(count) as lab:
        assert time.monotonic() - begun < 5  # 0.04 s for 2 and 0.7 s for 64 on an idle machine
        found = links(lab)
        assert set(found) == {"lo", "mgmt0", *lab.ports, *lab.adapters}
        assert len(lab.clients) == count
        assert all(link.get("master") is None for link in found.values())
        cabled = {"mgmt0", *lab.ports, *lab.adapters}
        lab.wait_until(
            lambda: all(link.get("operstate") == "UP" for name, link in links(lab).items() if name in cabled),
            10,
            "every link to come up",
        )


def test_the_management_port_works(lab: Lab) -> None:
    def default_route(ipr) -> list[tuple[str, str]]:
        routes = ipr.get_default_routes(family=socket.AF_INET)
        return [(route.get("gateway"), ipr.get_links(route.get("oif"))[0].get("ifname")) for route in routes]

    assert netlink(lab.host, default_route) == [("192.0.2.254", "mgmt0")]
    with lab.office.entered(), socket.create_server(("192.0.2.254", 4711)) as server:
        with lab.host.entered():
            client = socket.create_connection(("192.0.2.254", 4711), timeout=5)
        with client:
            server.settimeout(5)
            connection, (address, _) = server.accept()
            connection.close()
    assert address == "192.0.2.1"


def test_traffic_passes_through_the_vm_and_stops_with_it(inspected: Lab, join) -> None:
    lab = inspected
    before = {name: links(lab)[name]["index"] for name in lab.adapters}
    with lab.flows(1000) as traffic:
        traffic.start()
        wait_for_more(lab, traffic, "traffic through the VM")
        lab.kill_vm()
        assert lab.vm is None
        assert not set(lab.adapters) & set(links(lab))
        assert_passing(traffic, [False, False])
        with pytest.raises(LabError, match="dead already"):
            lab.kill_vm()
        with pytest.raises(LabError, match="the VM is dead"):
            lab.blackhole_vm()
        lab.start_vm()
        with pytest.raises(LabError, match="up already"):
            lab.start_vm()
        after = links(lab)
        assert all(after[name]["index"] != before[name] for name in lab.adapters)
        assert all(after[name].get("master") is None for name in lab.adapters)
        join(lab, "new0", ["nic0", "vnet0"])
        join(lab, "new1", ["nic1", "vnet1"])
        wait_for_more(lab, traffic, "traffic through the new VM")
        assert all(measured.lost > 0 for measured in traffic.stop())


def test_blackhole_swallows_what_it_is_told_to(inspected: Lab) -> None:
    lab = inspected
    with lab.flows(1000) as traffic:  # client0 -> client1, client1 -> client0
        traffic.start()
        for towards, passing in ((None, [False, False]), ([1], [False, True]), ([0], [True, False])):
            wait_for_more(lab, traffic, "traffic through the VM")
            lab.blackhole_vm(towards)
            assert_passing(traffic, passing)
            assert all(links(lab)[name].get("operstate") == "UP" for name in lab.adapters)
            lab.unblock_vm(towards)
        wait_for_more(lab, traffic, "traffic again")


def test_segments_are_separate(join) -> None:
    with Lab(4, segments=[[0, 1], [2, 3]]) as lab:
        for index in range(4):
            join(lab, f"sw{index}", [lab.ports[index], lab.adapters[index]])
        with lab.flows(500) as traffic:
            assert [flow.name for flow in traffic.flows] == [
                "client0 -> client1",
                "client1 -> client0",
                "client2 -> client3",
                "client3 -> client2",
            ]
            traffic.start()
            wait_for_more(lab, traffic, "traffic in both segments")
            lab.blackhole_vm(lab.segments[1])
            assert_passing(traffic, [True, True, False, False])


def test_unplugging_takes_the_carrier(inspected: Lab) -> None:
    lab = inspected

    def carrier(state: str) -> bool:
        return links(lab)["nic1"].get("operstate") == state

    with lab.flows(1000) as traffic:
        traffic.start()
        wait_for_more(lab, traffic, "traffic")
        lab.unplug(1)
        lab.wait_until(lambda: carrier("DOWN"), 5, "the carrier to go")
        assert_passing(traffic, [False, False])
        lab.replug(1)
        lab.wait_until(lambda: carrier("UP"), 5, "the carrier to come back")
        wait_for_more(lab, traffic, "traffic again")
        traffic.stop()
        refused = [flow.sent.refused for flow in traffic.flows if flow.sent is not None]
        assert refused[0] == 0
        assert refused[1] > 0, "the client cannot send into a cable that is out"


def test_without_traffic() -> None:
    with Lab(100, traffic=False) as lab:
        assert lab.clients == ()
        assert {*lab.ports, *lab.adapters} < set(links(lab))
        with pytest.raises(LabError, match="without clients"):
            lab.flows(100)
        with pytest.raises(LabError, match="without clients"):
            lab.unplug(0)
        lab.kill_vm()


def test_run(lab: Lab) -> None:
    done = lab.run(["sh", "-c", "cat /proc/net/dev; echo problem >&2"])
    assert "nic0:" in done.stdout
    assert done.stderr == "problem\n"
    assert "eth1:" in lab.run(["cat", "/proc/net/dev"], namespace=lab.vm).stdout
    assert lab.run(["false"], check=False).returncode == 1
    with pytest.raises(subprocess.CalledProcessError):
        lab.run(["false"])
    with pytest.raises(subprocess.TimeoutExpired):
        lab.run(["sleep", "60"], timeout_s=0.05)


def test_bad_segments() -> None:
    with pytest.raises(ValueError, match="at most once"):
        Lab(2, segments=[[0, 1], [1]])
    with pytest.raises(ValueError, match="at most once"):
        Lab(2, segments=[[0, 2]])


def test_wait_until_says_what_for() -> None:
    with pytest.raises(LabError, match=r"waited 0\.01 s in vain for rain"):
        Lab.wait_until(lambda: False, 0.01, "rain")


def test_fits_into_an_event_loop_and_leaks_nothing() -> None:
    async def build() -> set[str]:
        with Lab(2) as lab:
            lab.kill_vm()
            lab.start_vm()
            return set(links(lab))

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    asyncio.run(build())
    before = descriptors()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "vnet1" in asyncio.run(build())
        with Lab(2) as lab, lab.flows(100) as traffic:
            traffic.start()
    assert descriptors() == before


def test_a_lab_that_cannot_be_built_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Lab) -> None:
        raise LabError("no VM today")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(Lab, "start_vm", fail)
    with pytest.raises(LabError, match="no VM today"), Lab(2):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
