"""Print how soon a real VM's death is acted upon: QEMU killed, and beats that stop coming.

Takes about two minutes. `python -m bench.faults.notices`; needs root and the packages of tests/vm, whose machine it
uses.
"""

import re
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.links import Links
from bench.table import Row, show
from reconciler.lab.namespaces import become_lab_root

sys.path.append(str(Path(__file__).parents[2] / "tests" / "vm"))

from kept import FALL_MS, Kept, care, machine_with_foreigners, well
from machine import Machine

_KILLS = 15
_SILENCES = 10


def main() -> None:
    """The table."""
    become_lab_root()
    with tempfile.TemporaryDirectory() as folder, machine_with_foreigners(Path(folder)) as machine:
        show(row for rows in (_killed, _silent) for row in rows(machine))


def _killed(machine: Machine) -> Iterator[Row]:
    """SIGKILL to QEMU, each time one that was just resumed, with a daemon that was just started."""
    moved, outages = [], []
    for _ in range(_KILLS):
        rows: list = []
        with Kept(machine, rows, care(machine)) as kept, Links(machine.lab.host) as links:
            fault = kept.fault("QEMU killed")
            machine.kill_qemu()
            fault.bypassed("has no carrier", "domain failed")
            moved.append((_moved(machine, links, fault.at_ns) - fault.at_ns) / 1e6)
        outages.append(rows[0].outage_ms)
    yield Row(
        "QEMU killed → last port in bypass, by the kernel's notice, N=2", _spread(moved), "20 ms median, 50 at most"
    )
    yield Row("… longest time without a frame", _spread(outages), "")


def _silent(machine: Machine) -> Iterator[Row]:
    """SIGSTOP to QEMU: nothing but the missing beats tells of it."""
    late, outages = [], []
    for _ in range(_SILENCES):
        rows: list = []
        with Kept(machine, rows, care(machine)) as kept, Links(machine.lab.host) as links:
            fault = kept.fault("QEMU stopped")
            machine.stop_qemu()
            try:
                fault.bypassed("no beat for")
                decision = fault.decided("inspect → bypass")
                found = re.search(r"no beat for (\d+) ms", "; ".join(decision["why"]))
                assert found is not None
                # The decision knows how long the silence was, and when it was made, in whole milliseconds: what came
                # after it, the kernel tells.
                moved = _moved(machine, links, fault.at_ns)
                late.append(int(found[1]) - FALL_MS + (moved - decision["ns"]) / 1e6)
            finally:
                machine.cont_qemu()
            kept.wait_status(well, "to be well")
        outages.append(rows[0].outage_ms)
    yield Row(f"beats missed → bypass, beyond the {FALL_MS} ms of `fall`", _spread(late), "10 ms")
    yield Row("… longest time without a frame, from QEMU's stop on", _spread(outages), "")


def _moved(machine: Machine, links: Links, since_ns: int) -> int:
    """When the last port was told to have come into the bypass, in ns of CLOCK_REALTIME."""
    moved = links.moved(machine.lab.ports, "sw-bypass", since_ns)
    assert moved is not None, "the daemon says that it switched"
    return moved


def _spread(values: Sequence[float]) -> str:
    return f"median {statistics.median(values):.1f} ms, {min(values):.1f} to {max(values):.1f}, {len(values)} runs"


if __name__ == "__main__":
    main()
