"""The probe sender: what it says of the VM, whom it obeys, and how long."""

import contextlib
import os
import re
import select
import signal
import socket
import struct
import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from probes import MARK, NAMES, OTHER_TOKEN, PATIENCE_S, Stand, direction, ended, first, head_of, probe_from

from reconciler.appliance.declared import Probe
from reconciler.guard.frames import large
from reconciler.guard.orders import ExtraProbe, Order
from reconciler.host.guard.prober_client import Probing
from reconciler.lab.lab import Lab, wait_until
from reconciler.lab.namespaces import Namespace

pytestmark = pytest.mark.netns


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with Lab(2) as lab:
        stand = Stand(lab, tmp_path)
        stand.listen()
        with ended(stand.probing):
            stand.probing.spawn()
            yield stand
        for one in stand.sockets:
            one.close()


@pytest.fixture
def process(stand: Stand) -> Iterator[int]:
    """A descriptor of the prober's process."""
    assert stand.probing.pid is not None
    descriptor = os.pidfd_open(stand.probing.pid)
    yield descriptor
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)


def ends(process: int) -> bool:
    return bool(select.select([process], [], [], PATIENCE_S)[0])


def test_a_path_is_unproven_then_back_then_lost_then_back(stand: Stand) -> None:
    stand.lab.blackhole_vm()
    stand.order()
    report = stand.until(lambda report: first(report).sent > 5, "probes to be sent")
    assert [(one.name, one.state, one.returned, one.age_us) for one in report.directions] == [
        (name, "unproven", 0, None) for name in NAMES
    ]
    stand.lab.unblock_vm()
    report = stand.until_states("back", "back")
    assert [one.head for one in report.directions] == [head_of(direction(0)), head_of(direction(1))]
    report = stand.until(lambda report: first(report).rtt_us is not None, "a round-trip time")
    least, mean, greatest = first(report).rtt_us or (0, 0, 0)
    assert 0 <= least <= mean <= greatest
    stand.lab.blackhole_vm()
    stand.until_states("lost", "lost")
    stand.lab.unblock_vm()
    stand.until_states("back", "back")


def test_one_way_may_be_lost_alone(stand: Stand) -> None:
    stand.order()
    stand.until_states("back", "back")
    stand.lab.blackhole_vm(towards=[1])
    stand.until_states("lost", "back")


def test_with_another_token_all_is_unproven_and_what_comes_late_counts_for_nothing(stand: Stand) -> None:
    old, new = direction(0), direction(0, OTHER_TOKEN)
    stand.lab.blackhole_vm()
    with stand.in_vm(0) as near, stand.in_vm(1) as far:
        stand.order(old)
        late = probe_from(near, head_of(old))
        stand.order(new)
        timely = probe_from(near, head_of(new))
        far.send(late)
        # The late one's stamp under the new token is no help either.
        far.send(timely[:12] + late[12:])
        far.send(timely)
        report = stand.until(lambda report: first(report).state == "back", "the timely probe")
    assert (first(report).head, first(report).returned) == (head_of(new), 1)


def test_a_replay_and_a_forgery_are_no_return(stand: Stand) -> None:
    one = direction(0)
    stand.lab.blackhole_vm()
    with stand.in_vm(0) as near, stand.in_vm(1) as far:
        stand.order(one)
        frames = [probe_from(near, head_of(one)) for _ in range(2)]
        sequence, sent_ns = struct.unpack_from("!IQ", frames[1], one.template.stamp_at)
        forged = bytearray(frames[1])
        struct.pack_into("!IQ", forged, one.template.stamp_at, sequence, sent_ns + 1)
        never = bytearray(frames[1])
        struct.pack_into("!IQ", never, one.template.stamp_at, sequence + 500, 0)
        for frame in (frames[0], frames[0], forged, never, frames[1][:20], frames[0], frames[1]):
            far.send(frame)
        report = stand.until(lambda report: first(report).returned >= 2, "both probes")
        assert first(report).returned == 2


def test_what_must_not_come_through_is_counted_and_proves_nothing(stand: Stand) -> None:
    one = direction(0, payload="EICAR")
    assert one.negative
    stand.lab.blackhole_vm()
    with stand.in_vm(0) as near, stand.in_vm(1) as far:
        stand.order(one)
        frame = probe_from(near, one.negative.template.frame[:12])
        assert b"EICAR" in frame
        far.send(frame)
        far.send(frame)
        report = stand.until(lambda report: first(report).negative > 0, "the canary")
    assert (first(report).negative, first(report).state, first(report).returned) == (1, "unproven", 0)
    stand.lab.unblock_vm()
    stand.until(lambda report: first(report).negative > 2 and first(report).state == "back", "canaries")


def of_size(size: int) -> Order:
    made = large(Probe(), MARK + b"\0", OTHER_TOKEN, size)
    assert made
    return replace(direction(0), large=(ExtraProbe(made, 10_000),))


def test_a_size_that_does_not_come_through_is_counted_beside_probes_that_do(stand: Stand) -> None:
    def mtu(namespace: Namespace | None, name: str, value: int) -> None:
        stand.lab.run(["ip", "link", "set", name, "mtu", str(value)], namespace=namespace)

    mtu(stand.lab.vm, "eth1", 1_400)
    stand.order(of_size(1_514))
    report = stand.until(lambda report: first(report).state == "back" and first(report).large[0].sent > 5, "large ones")
    assert (first(report).large[0].size, first(report).large[0].returned) == (1_514, 0)
    mtu(stand.lab.vm, "eth1", 1_500)
    report = stand.until(lambda report: first(report).large[0].returned > 5, "large ones to come back")
    before = first(report).large[0]
    # The same orders again change nothing of it.
    stand.order(of_size(1_514))
    report = stand.until(lambda report: first(report).large[0].returned > before.returned + 5, "more of them")
    assert first(report).errors == 0
    # Nor does what is too large for the adapter itself come through; and it is no fault of the probes.
    mtu(None, "vnet0", 1_400)
    sent = first(report).large[0].sent
    report = stand.until(lambda report: first(report).large[0].sent > sent + 10, "attempts")
    assert (first(report).errors, first(report).state) == (0, "back")


def test_a_large_frame_proves_nothing(stand: Stand) -> None:
    order = of_size(1_514)
    stand.lab.blackhole_vm()
    with stand.in_vm(0) as near, stand.in_vm(1) as far:
        stand.order(order)
        far.send(probe_from(near, order.large[0].template.frame[:12]))
        report = stand.until(lambda report: any(one.returned for one in first(report).large), "the large one")
    assert (first(report).state, first(report).returned, first(report).age_us) == ("unproven", 0, None)


@pytest.mark.long
def test_without_a_daemon_it_goes_on_for_the_grace_and_ends(stand: Stand, process: int) -> None:
    one = direction(0)
    with stand.in_vm(0) as near:
        stand.order(one, grace_ms=1_000)
        stand.until(lambda report: report.directions != (), "the order")
        stand.probing.close()
        left_ns = time.monotonic_ns()
        while struct.unpack_from("!Q", probe_from(near, head_of(one)), one.template.stamp_at + 4)[0] <= left_ns:
            pass
        assert ends(process)
    assert not Probing(stand.folder, "sku").connect()


@pytest.mark.long
def test_a_daemon_that_hangs_is_no_daemon(stand: Stand, process: int) -> None:
    # It does not read either: reports that nobody takes stop nothing.
    stand.order(grace_ms=3_000)
    assert ends(process)


@pytest.mark.long
def test_consent_is_all_it_takes_to_go_on(stand: Stand) -> None:
    stand.order(grace_ms=1_000)
    since = stand.until(lambda report: report.directions != (), "the order").now_us
    report = stand.until(lambda report: report.now_us > since + 3_000_000, "three graces")
    assert report.alone_ms < 1_000


def test_a_new_daemon_takes_over_what_it_finds(stand: Stand) -> None:
    stand.order()
    before = stand.until_states("back", "back")
    successor = Stand(stand.lab, stand.folder)
    pid = stand.probing.pid
    try:
        assert successor.probing.connect()
        assert successor.probing.pid == pid
        found = successor.until(lambda _: True, "a report at once", consent=False)
        assert [(one.name, one.head, one.state) for one in found.directions] == [
            (one.name, one.head, one.state) for one in before.directions
        ]
        wait_until(
            lambda: stand.probing.reports() == [] and not stand.probing.alive, PATIENCE_S, "the old one to notice"
        )
        successor.sockets = stand.sockets
        successor.order()
        after = successor.until_states("back", "back")
        assert first(after).sent >= first(before).sent
        assert successor.states == [("back", "back")] * len(successor.states)
    finally:
        successor.probing.end()


def test_an_order_with_the_same_frames_goes_on_where_it_was(stand: Stand) -> None:
    stand.order()
    before = first(stand.until_states("back", "back"))
    stand.states.clear()
    stand.order(replace(direction(0), every_us=20_000), direction(1, OTHER_TOKEN))
    report = stand.until(lambda report: report.directions[1].head == head_of(direction(1, OTHER_TOKEN)), "the order")
    assert first(report).sent >= before.sent
    assert first(report).returned >= before.returned
    assert "unproven" not in {states[0] for states in stand.states}


def test_adapters_that_go_are_lost_and_those_that_come_are_probed(stand: Stand) -> None:
    stand.order()
    before = stand.until_states("back", "back")
    stand.lab.kill_vm()
    stand.until_states("lost", "lost")
    stand.until(lambda report: first(report).errors > 0, "errors")
    stand.lab.start_vm()
    stand.listen()
    stand.order()
    report = stand.until_states("back", "back")
    assert first(report).returned > first(before).returned


def test_its_own_stall_is_no_evidence_against_the_vm(stand: Stand, process: int) -> None:
    stand.order()
    before = stand.until_states("back", "back")
    stand.states.clear()
    signal.pidfd_send_signal(process, signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until(lambda: time.monotonic() > stopped + 0.5, PATIENCE_S, "a long stall")
    signal.pidfd_send_signal(process, signal.SIGCONT)
    report = stand.until(lambda report: report.stalls > before.stalls, "the stall to be told")
    assert report.missed > before.missed
    stand.until(lambda report: first(report).age_us is not None and report.stalls > 0, "another report")
    assert "lost" not in {state for states in stand.states for state in states}


def test_it_needs_no_capability_and_heeds_no_terminal(stand: Stand, process: int) -> None:
    stand.order()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.pidfd_send_signal(process, number)
    report = stand.until_states("back", "back")
    assert report.priority.split()[0] in ("fifo", "nice", "none:")
    status = Path(f"/proc/{stand.probing.pid}/status").read_text()
    assert report.kept == ""
    assert {"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"} <= set(status.splitlines())
    signal.pidfd_send_signal(process, signal.SIGTERM)
    assert ends(process)


GARBAGE = [
    b"",
    b"\xff\xfe",
    b"nonsense",
    b"null",
    b"7",
    b'"directions"',
    b'["directions"]',
    b"[" * 50_000,
    b"9" * 50_000,
    b" " * 100_000,
    b'{"directions": 7}',
    b'{"directions": [], "grace_ms": true}',
    b'{"directions": [], "grace_ms": -1}',
    b'{"directions": {"a": 1}, "grace_ms": 1}',
    b'{"directions": [{}], "grace_ms": 1000}',
    b'{"directions": [{"name": "a", "out": 0, "back": 0}], "grace_ms": 1000}',
]


@pytest.mark.parametrize("message", GARBAGE, ids=lambda message: ascii(message[:30]))
def test_who_sends_nonsense_is_hung_up_on_and_nobody_else(stand: Stand, message: bytes) -> None:
    stand.order()
    stand.until_states("back", "back")
    with link(stand) as strange:
        strange.send(message)
        hung_up(strange)
    assert stand.probing.reports() is not None
    assert stand.probing.connect()
    stand.until_states("back", "back")


@pytest.mark.parametrize("what", ["pipe", "unix", "many"])
def test_strange_descriptors_are_refused(stand: Stand, what: str) -> None:
    stand.until(lambda report: report.directions == (), "it to be up")
    count = len(list(Path(f"/proc/{stand.probing.pid}/fd").iterdir()))
    order = b'{"grace_ms": 1000, "directions": [{"name": "a", "out": 0, "back": 0, "frame": "%s"}]}' % (b"00" * 60)
    reading, writing = os.pipe()
    near, far = socket.socketpair()
    with link(stand) as strange, near, far, os.fdopen(reading), os.fdopen(writing, "w"):
        given = {"pipe": [reading], "unix": [near.fileno()], "many": [near.fileno()] * 200}[what]
        strange.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", given))])
        hung_up(strange)
    assert stand.probing.connect()
    stand.until(lambda report: report.directions == (), "an answer")
    wait_until(lambda: len(list(Path(f"/proc/{stand.probing.pid}/fd").iterdir())) <= count + 1, PATIENCE_S, "no leak")


@contextlib.contextmanager
def link(stand: Stand) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as strange:
        strange.connect(str(stand.probing.path))
        strange.settimeout(PATIENCE_S)
        yield strange


def hung_up(strange: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while strange.recv(65_536):
            pass


def test_another_user_is_refused(stand: Stand) -> None:
    stand.until(lambda report: report.directions == (), "it to be up")
    stand.probing.path.chmod(0o666)
    stand.folder.chmod(0o711)
    stranger = os.fork()
    if stranger == 0:
        status = 3
        try:
            os.chdir(stand.folder)
            try:
                os.setresuid(65_534, 65_534, 65_534)
            except OSError:
                os._exit(2)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as strange:
                strange.connect(stand.probing.path.name)
                strange.settimeout(PATIENCE_S)
                try:
                    status = 0 if strange.recv(65_536) == b"" else 1
                except ConnectionResetError:
                    status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(stranger, 0)[1])
    if status == 2:
        pytest.skip("this user cannot become another")
    assert status == 0
    # Whoever steered still does.
    stand.order()
    stand.until_states("back", "back")


def test_it_floods_nobody_who_floods_it(stand: Stand) -> None:
    one = direction(0)
    stand.order(one, grace_ms=60_000)
    with stand.in_vm(1) as far:
        noise = head_of(one)[:6] + MARK + b"\0" + bytes(48)
        for _ in range(2_000):
            far.send(noise)
        before = first(stand.until(lambda report: bool(report.directions), "a report"))
        report = stand.until(lambda report: first(report).returned > before.returned + 5, "probes through the noise")
    assert first(report).returned <= first(report).sent


def test_it_is_one_file_that_needs_nothing_of_this_package(stand: Stand) -> None:
    command = Path(f"/proc/{stand.probing.pid}/cmdline")
    wait_until(lambda: b"prober.py" in command.read_bytes(), PATIENCE_S, "the program")
    words = command.read_bytes().split(b"\0")
    assert words[1:3] == [b"-I", b"-S"]
    assert not re.search(r"^\s*(import|from) reconciler\b", Path(words[3].decode()).read_text(), re.MULTILINE)
