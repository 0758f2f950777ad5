"""A lab whose VM is probed, and what its tests do to it."""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from processes import children

from reconciler.appliance.declared import Negative, Probe
from reconciler.guard.frames import frame, negative
from reconciler.guard.orders import DirectionReport, ExtraProbe, Order, ProberReport
from reconciler.host.guard.probe_socket import adapter_socket
from reconciler.host.guard.prober_client import Probing
from reconciler.lab.lab import Lab, wait_until
from reconciler.lab.namespaces import LabError

MARK = bytes.fromhex("02a1b2c3d4")
TOKEN, OTHER_TOKEN = bytes.fromhex("06a1a2a3a4a5"), bytes.fromhex("06b1b2b3b4b5")
NAMES = ("edge/outside-inside", "edge/inside-outside")
PATIENCE_S = 20.0
NOTHING = DirectionReport("", b"", "", None, 0, 0, 0, None, 0)


def direction(number: int, token: bytes = TOKEN, payload: str | None = None) -> Order:
    """From adapter `number` of two to the other."""
    mark = MARK + bytes([number])
    other = MARK + bytes([number + 16])
    canary = None if payload is None else ExtraProbe(negative(Negative(payload), other, token), 10_000)
    template = frame(Probe(), mark, token)
    return Order(NAMES[number], number, 1 - number, template, every_us=10_000, lost_us=150_000, negative=canary)


class Stand:
    """The lab, its two adapters' sockets, and the daemon's end of a prober."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.probing = Probing(folder, "sku")
        self.sockets: list[socket.socket] = []
        self.states: list[tuple[str, ...]] = []

    def listen(self) -> None:
        """Open the adapters as they are now."""
        for one in self.sockets:
            one.close()
        with self.lab.host.entered():
            self.sockets = [adapter_socket(name, MARK + b"\0") for name in self.lab.adapters]

    def order(self, *directions: Order, grace_ms: int = 60_000) -> None:
        self.probing.order(directions or (direction(0), direction(1)), self.sockets, grace_ms)

    def until(self, condition: Callable[[ProberReport], bool], what: str, *, consent: bool = True) -> ProberReport:
        """The first report that fulfils the condition."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.probing.alive:
            select.select([self.probing], [], [], 0.05)
            for report in self.probing.reports():
                self.states.append(tuple(one.state for one in report.directions))
                if condition(report):
                    return report
            if consent:
                self.probing.consent()
        raise LabError(
            f"waited in vain for {what}; alive: {self.probing.alive} {self.probing.reason} {self.states[-3:]}"
        )

    def until_states(self, *states: str) -> ProberReport:
        return self.until(lambda report: tuple(one.state for one in report.directions) == states, str(states))

    @contextlib.contextmanager
    def in_vm(self, number: int) -> Iterator[socket.socket]:
        """A packet socket on the VM's end of an adapter."""
        assert self.lab.vm is not None
        with self.lab.vm.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as inside:
            inside.bind((f"eth{number}", 3))
            inside.settimeout(PATIENCE_S)
            yield inside


@contextlib.contextmanager
def ended(probing: Probing) -> Iterator[Probing]:
    """At the end of the block, end the prober, and wait for it and its forerunners."""
    before = children()
    try:
        yield probing
    finally:
        probing.end()
        wait_until(lambda: probing.reports() == [] and children() <= before, PATIENCE_S, "the prober's end")


def probe_from(inside: socket.socket, head: bytes) -> bytes:
    """The next frame that arrives with these addresses."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        data = inside.recv(2_048)
        if data[:12] == head:
            return data
    raise LabError("no probe arrived in the VM")


def head_of(one: Order) -> bytes:
    return one.template.frame[:12]


def first(report: ProberReport) -> DirectionReport:
    """What became of the first direction; before the first order, nothing."""
    return report.directions[0] if report.directions else NOTHING
