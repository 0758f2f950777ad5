"""What the adapter's socket hears: our probes, on their way in, and nothing else."""

import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from probes import MARK, PATIENCE_S
from pyroute2 import IPRoute

from reconciler.errors import HostError
from reconciler.host.guard.probe_socket import adapter_socket
from reconciler.lab.lab import Lab, netlink

pytestmark = pytest.mark.netns

TOKEN = bytes.fromhex("06a1a2a3a4a5")
BODY = b"\x88\xb5" + bytes(46)
OURS = TOKEN + MARK + b"\x07" + BODY


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(2) as lab:
        yield lab


@pytest.fixture
def ear(lab: Lab) -> Iterator[socket.socket]:
    with lab.host.entered(), adapter_socket(lab.adapters[0], MARK + b"\0") as ear:
        yield ear


@pytest.fixture
def vm(lab: Lab) -> Iterator[socket.socket]:
    """Sends out of the VM to the first adapter."""
    assert lab.vm is not None
    with lab.vm.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as inside:
        inside.bind(("eth0", 0))
        yield inside


def heard(ear: socket.socket) -> bytes:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            return ear.recv(2_048)
        except BlockingIOError:
            continue
    raise AssertionError("heard nothing")


def test_it_hears_a_probe_of_any_direction_and_when_it_came(ear: socket.socket, vm: socket.socket) -> None:
    before_s = int(time.time())
    vm.send(OURS)
    heard_at: list[bytes] = []
    deadline = time.monotonic() + PATIENCE_S
    while not heard_at and time.monotonic() < deadline:
        try:
            data, control, _, _ = ear.recvmsg(2_048, 64)
        except BlockingIOError:
            continue
        heard_at = [told for level, kind, told in control if (level, kind) == (socket.SOL_SOCKET, 35)]
        assert data == OURS
    assert before_s <= struct.unpack("@ll", heard_at[0])[0] <= time.time()


@pytest.mark.parametrize("wrong", range(5))
def test_a_frame_with_another_secret_is_not_heard(ear: socket.socket, vm: socket.socket, wrong: int) -> None:
    other = bytearray(OURS)
    other[6 + wrong] ^= 1
    vm.send(other)
    vm.send(OURS)
    assert heard(ear) == OURS


def test_what_goes_out_is_not_heard(ear: socket.socket, vm: socket.socket) -> None:
    out = TOKEN + MARK + b"\x01" + BODY
    ear.send(out)
    vm.send(OURS)
    assert heard(ear) == OURS


def test_it_hears_on_the_port_of_a_bridge(lab: Lab, ear: socket.socket, vm: socket.socket) -> None:
    def bridge(ipr: IPRoute) -> None:
        ipr.link("add", ifname="sw", kind="bridge", state="up")
        index = ipr.link_lookup(ifname=lab.adapters[0])[0]
        ipr.link("set", index=index, master=ipr.link_lookup(ifname="sw")[0])

    def undo(ipr: IPRoute) -> None:
        ipr.link("del", index=ipr.link_lookup(ifname="sw")[0])

    netlink(lab.host, bridge)
    try:
        vm.send(OURS)
        assert heard(ear) == OURS
    finally:
        netlink(lab.host, undo)


@pytest.mark.parametrize("flood", [lambda vm: [vm.send(OURS) for _ in range(5_000)]])
def test_a_flood_fills_no_more_than_its_bound(
    ear: socket.socket, vm: socket.socket, flood: Callable[[socket.socket], None]
) -> None:
    flood(vm)
    count = 0
    while True:
        try:
            ear.recv(2_048)
        except BlockingIOError:
            break
        count += 1
    assert 0 < count < 1_000


def test_nobody_takes_the_filter_off(ear: socket.socket) -> None:
    with pytest.raises(PermissionError):
        ear.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER


def test_it_waits_for_nothing(ear: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        ear.recv(1)


@pytest.mark.parametrize("name", ["nosuch0", "a" * 20])
def test_an_interface_that_is_not_there_is_told(lab: Lab, name: str) -> None:
    with lab.host.entered(), pytest.raises(HostError, match=f"cannot hear probes on {name}: "):
        adapter_socket(name, MARK + b"\0")
