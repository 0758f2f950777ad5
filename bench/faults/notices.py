"""Print how soon a real VM's death is acted upon: QEMU killed, and beats that stop coming.

Takes about two minutes. `python -m bench.faults.notices`; needs root and the packages of tests/vm, whose machine it
uses.
"""

import re
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.table import Row, show
from reconciler.lab.namespaces import become_lab_root

sys.path.append(str(Path(__file__).parents[2] / "tests" / "vm"))

from kept import FALL_MS, PATIENCE_S, Kept, care, machine_with_foreigners, well
from machine import Machine

# linux/rtnetlink.h, linux/if_link.h: a message is a header of 16 bytes, struct ifinfomsg of 16, and attributes.
_RTMGRP_LINK = 1
_RTM_NEWLINK = 16
_IFLA_MASTER = 10
_ATTRIBUTES = 32

_KILLS = 15
_SILENCES = 10


def main() -> None:
    """The table."""
    become_lab_root()
    with tempfile.TemporaryDirectory() as folder, machine_with_foreigners(Path(folder)) as machine:
        show(row for rows in (_killed, _silent) for row in rows(machine))


def _killed(machine: Machine) -> Iterator[Row]:
    """SIGKILL to QEMU, each time one that was just resumed, with a daemon that was just started."""
    moved, told, outages = [], [], []
    for _ in range(_KILLS):
        rows: list = []
        with Kept(machine, rows, care(machine)) as kept, _moves(machine) as moves:
            fault = kept.fault("QEMU killed")
            machine.kill_qemu()
            fault.bypassed("has no carrier", "domain failed")
            moved.append((moves() - fault.at_ns) / 1e6)
        told.append(rows[0].applied_ms)
        outages.append(rows[0].outage_ms)
    yield Row(
        "QEMU killed → last port in bypass, by the kernel's notice, N=2", _spread(moved), "20 ms median, 50 at most"
    )
    yield Row("… by the daemon's log, after it has looked again", _spread(told), "")
    yield Row("… longest time without a frame", _spread(outages), "")


def _silent(machine: Machine) -> Iterator[Row]:
    """SIGSTOP to QEMU: nothing but the missing beats tells of it."""
    late, outages = [], []
    for _ in range(_SILENCES):
        rows: list = []
        with Kept(machine, rows, care(machine)) as kept, _moves(machine) as moves:
            fault = kept.fault("QEMU stopped")
            machine.stop_qemu()
            try:
                fault.bypassed("no beat for")
                decision = fault.decided("inspect → bypass")
                found = re.search(r"no beat for (\d+) ms", "; ".join(decision["why"]))
                assert found is not None
                # The decision knows how long the silence was; what came after it, the kernel.
                late.append(int(found[1]) - FALL_MS + (moves() - decision["ns"]) / 1e6)
            finally:
                machine.cont_qemu()
            kept.wait_status(well, "to be well")
        outages.append(rows[0].outage_ms)
    yield Row(f"beats missed → bypass, beyond the {FALL_MS} ms of `fall`", _spread(late), "10 ms")
    yield Row("… longest time without a frame, from QEMU's stop on", _spread(outages), "")


@contextmanager
def _moves(machine: Machine) -> Iterator[Callable[[], int]]:
    """When the kernel told that the last port came into the bypass switch: a function, in ns of CLOCK_REALTIME."""
    heard: list[tuple[int, bytes]] = []
    with machine.lab.host.entered():
        ear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        indices = {index: name for index, name in socket.if_nameindex() if name in (*machine.lab.ports, "sw-bypass")}
    with ear:
        ear.bind((0, _RTMGRP_LINK))
        ear.settimeout(PATIENCE_S)

        def listen() -> None:
            try:
                while True:
                    heard.append((time.time_ns(), ear.recv(65_536)))
            except OSError:
                return

        threading.Thread(target=listen, daemon=True).start()
        yield lambda: max(_first_moves(heard, indices).values())


def _first_moves(heard: Sequence[tuple[int, bytes]], indices: Mapping[int, str]) -> dict[str, int]:
    moves: dict[str, int] = {}
    for moment, message in heard:
        kind, index = struct.unpack_from("=4xH14xi", message)
        if kind == _RTM_NEWLINK and indices.get(_master(message) or 0) == "sw-bypass" and index in indices:
            moves.setdefault(indices[index], moment)
    return moves


def _master(message: bytes) -> int | None:
    place = _ATTRIBUTES
    while place + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, place)
        if kind == _IFLA_MASTER:
            return int(struct.unpack_from("=I", message, place + 4)[0])
        place += max(4, length + 3 & ~3)
    return None


def _spread(values: Sequence[float]) -> str:
    return f"median {statistics.median(values):.1f} ms, {min(values):.1f} to {max(values):.1f}, {len(values)} runs"


if __name__ == "__main__":
    main()
