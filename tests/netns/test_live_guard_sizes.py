"""A VM that passes the probes and not what is as large as the wire carries: told, and no reason to bypass."""

from pathlib import Path

import pytest
from guarded import Guarded, guarded
from test_live_daemon import CARRIER
from test_wire import tap_on

from reconciler.lab.frames import frame

pytestmark = pytest.mark.netns

CANARY = {**CARRIER, "canary": {"kind": "canary"}}
UDP_PROBE = {"every": "20ms", "frame": "udp", "source": "198.18.0.1", "destination": "198.19.0.1", "port": 9}
WELL = ("healthy", "probes come back in every direction")
TEST = 0x88B6  # IEEE 802 local experimental ethertype 2


def in_the_vm(kept: Guarded, mtu: int) -> None:
    for index in (0, 1):
        kept.lab.run(["ip", "link", "set", f"eth{index}", "mtu", str(mtu)], namespace=kept.lab.vm)


def canary(kept: Guarded) -> tuple[str, str]:
    (found,) = [one for one in kept.status()["signals"] if one["name"] == "canary"]
    return found["state"], found["reason"]


def becomes(kept: Guarded, state: str, reason: str) -> None:
    kept.until(lambda: canary(kept) == (state, reason), f"{state}: {reason}")


def arrives(kept: Guarded, payload: int) -> bool:
    """Whether a frame that carries so many bytes crosses the wire, which a small one behind it does."""
    with tap_on(kept.lab.clients[0]) as near, tap_on(kept.lab.clients[1]) as far:
        for body in (bytes(payload), b"the last"):
            near.send(frame("02:aa:00:00:00:0b", TEST, body))
        while True:
            data = far.recv(65_536)
            if data[12:14] == TEST.to_bytes(2):
                return len(data) == 14 + payload


def too_large(lost: int, kept: int, *ways: str) -> tuple[str, str]:
    return "degraded", f"frames that carry {lost} bytes do not come through, those of {kept} do: {', '.join(ways)}"


@pytest.mark.parametrize("probe", [{"every": "20ms"}, UDP_PROBE])
def test_a_vm_at_1500_on_a_wire_of_9000_is_degraded_and_keeps_the_wire(probe: object, tmp_path: Path) -> None:
    with guarded(tmp_path, mtu=9_000) as made:
        made.write(signals=CANARY, guard={"probe": probe})
        in_the_vm(made, 1_500)
        made.well()
        becomes(made, *too_large(9_000, 1_500, "outside → inside", "inside → outside"))
        assert [arrives(made, size) for size in (1_500, 1_518, 9_000)] == [True, False, False]
        # One that hears of it only now knows it, too.
        made.kill()
        made.start()
        becomes(made, *too_large(9_000, 1_500, "outside → inside", "inside → outside"))
        in_the_vm(made, 9_000)
        becomes(made, *WELL)
        assert arrives(made, 9_000)
        assert made.is_leased()
        assert made.told("tripped") == []
        assert all(one["what"] != "failed" for one in made.status()["decisions"])


def test_a_vm_below_an_ethernet_frame_is_degraded_and_one_that_passes_it_is_healthy(tmp_path: Path) -> None:
    with guarded(tmp_path) as made:
        made.write(signals=CANARY)
        made.well()
        becomes(made, *WELL)
        in_the_vm(made, 1_400)
        becomes(made, *too_large(1_500, 46, "outside → inside", "inside → outside"))
        in_the_vm(made, 1_500)
        becomes(made, *WELL)
        # What is as large as the wire keeps no lease alive, nor is it missed when the VM is dead.
        made.lab.blackhole_vm()
        made.until(lambda: canary(made)[0] == "failed", "a dead VM")
        made.passes_by()
