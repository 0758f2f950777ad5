"""A netlink socket, and a kernel that has no room, is interrupted, refuses, or says nothing; and one that has ears."""

import contextlib
import errno
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from processes import PATIENCE_S

from reconciler.errors import HostError, TransientError
from reconciler.host.netlink import requests, rtnetlink, sockets
from reconciler.host.netlink.connection import Connection
from reconciler.host.netlink.kernel import Kernel
from reconciler.host.netlink.sockets import EventSocket, Failure, NetlinkSocket, RefusedError
from reconciler.lab.namespaces import Namespace

REQUEST = requests.get_links()
Step = Any


class Script:
    """Stands in for the socket: what is read after each call that sends, in order; built for the sequence numbers sent.

    The last round repeats itself. A step is an error, a size (of a datagram that is cut), or builders of messages.
    """

    def __init__(self, *rounds: list[Step]) -> None:
        self.rounds = list(rounds)
        self.sent: list[list[int]] = []
        self.queue: list[Step] = []

    def send(self, data: bytes) -> None:
        self.sent.append([sequence for _, _, sequence, _, _ in rtnetlink.messages(data)])
        self.queue += self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]

    def recv_into(self, buffer: bytearray, _: int = 0, flags: int = 0) -> int:
        if not self.queue and flags & socket.MSG_DONTWAIT:
            raise BlockingIOError
        assert self.queue, "it would wait for ever"
        step = self.queue.pop(0)
        if isinstance(step, OSError):
            raise step
        if isinstance(step, int):
            return step
        data = b"".join(build(self.sent[-1]) for build in step)
        buffer[: len(data)] = data
        return len(data)

    def getsockopt(self, *_: int) -> int:
        return 4_608


def answer(
    flags: int = 0, kind: int = rtnetlink.RTM_NEWLINK, payload: bytes = b"\0" * 16, late: int = 0, to: int = 0
) -> Callable[[list[int]], bytes]:
    """An answer to the `to`th message of the call before; `late`: to an earlier one."""
    return lambda sent: (
        struct.pack("=LHHLL", 16 + len(payload), kind, flags, (sent[to] - late) & 0xFFFFFFFF, 0) + payload
    )


def done(flags: int = 0, code: int = 0) -> Any:
    return answer(flags, rtnetlink.NLMSG_DONE, struct.pack("=i", -code))


def refusal(code: int, to: int = 0) -> Any:
    return answer(kind=rtnetlink.NLMSG_ERROR, payload=struct.pack("=i", -code) + bytes(16), to=to)


NO_BUFFER = OSError(errno.ENOBUFS, "No buffer space available")
INTERRUPTED = rtnetlink.NLM_F_DUMP_INTR


@pytest.fixture
def opened() -> NetlinkSocket:
    made = NetlinkSocket(socket.NETLINK_ROUTE, "rtnetlink")
    made.close()
    return made


def play(opened: NetlinkSocket, *rounds: list[Step]) -> Script:
    script = Script(*rounds)
    opened._socket = script  # type: ignore[assignment]
    return script


# --- one question ----------------------------------------------------------------------------------------------------


def test_a_whole_answer_is_taken_at_once(opened: NetlinkSocket) -> None:
    script = play(opened, [[answer(), answer()], [answer()], [done()]])
    assert len(opened.ask(REQUEST, "list links")) == 3
    assert len(script.sent) == 1


@pytest.mark.parametrize(
    "first",
    [
        [[answer(), answer(INTERRUPTED)], [done()]],
        [[answer()], [done(INTERRUPTED)]],
        [[answer()], NO_BUFFER, [answer()], [done()]],
        [NO_BUFFER, [answer()], [done()]],
        [OSError(errno.ENOMEM, "Cannot allocate memory"), [done()]],
        [[answer()], 70_000, [done()]],
        [[answer()], [done(code=errno.EINTR)]],
        [[refusal(errno.EAGAIN)]],
        [[refusal(errno.EBUSY)]],
    ],
    ids=["interrupted", "at its end", "lost", "all lost", "no memory", "cut", "EINTR", "EAGAIN", "EBUSY"],
)
def test_an_answer_that_is_not_whole_is_asked_for_again(opened: NetlinkSocket, first: list[Step]) -> None:
    script = play(opened, first, [[answer()], [done()]])
    assert len(opened.ask(REQUEST, "list links")) == 1
    assert len(script.sent) == 2


def test_there_is_room_for_a_datagram_that_was_cut_the_next_time(opened: NetlinkSocket) -> None:
    large = answer(payload=bytes(100_000))
    play(opened, [100_016, [done()]], [[large], [done()]])
    ((data, begin, end),) = opened.ask(REQUEST, "list links")
    assert data[begin:end] == bytes(100_000)


def test_unrest_without_end_is_given_up_and_may_be_tried_again(opened: NetlinkSocket) -> None:
    script = play(opened, [[answer(INTERRUPTED)], [done()]])
    with pytest.raises(TransientError, match="under every attempt to list links; try again"):
        opened.ask(REQUEST, "list links")
    assert len(script.sent) == 10


@pytest.mark.parametrize(
    "never", [[NO_BUFFER, [done()]], [NO_BUFFER] * 100, [1 << 25]], ids=["always", "endless", "too large"]
)
def test_who_has_no_room_is_told_what_to_do(opened: NetlinkSocket, never: list[Step]) -> None:
    script = play(opened, never)
    with pytest.raises(HostError, match=r"sockets hold 4608 bytes; raise net\.core\.rmem_max, or run this as root"):
        opened.ask(REQUEST, "list links")
    assert len(script.sent) <= 10


def test_late_answers_to_an_earlier_question_are_nobodys(opened: NetlinkSocket) -> None:
    late = [answer(late=1), answer(late=1, kind=rtnetlink.NLMSG_DONE)]
    script = play(opened, [late, [answer()], [done()]])
    assert len(opened.ask(REQUEST, "list links")) == 1
    assert len(script.sent) == 1


@pytest.mark.parametrize("kind", [rtnetlink.NLMSG_ERROR, rtnetlink.NLMSG_DONE])
@pytest.mark.parametrize("before", [[], [[answer()]]], ids=["at once", "in the middle"])
def test_a_refusal_is_told_with_its_errno(opened: NetlinkSocket, kind: int, before: list[Step]) -> None:
    play(opened, [*before, [answer(kind=kind, payload=struct.pack("=i", -errno.EPERM))]])
    with pytest.raises(RefusedError, match="refused to list links: EPERM: Operation not permitted") as caught:
        opened.ask(REQUEST, "list links")
    assert caught.value.errno == errno.EPERM
    assert isinstance(caught.value, HostError)


def test_an_error_of_the_socket_is_not_swallowed(opened: NetlinkSocket) -> None:
    play(opened, [OSError(errno.ENETDOWN, "gone")])
    with pytest.raises(OSError, match="gone"):
        opened.ask(REQUEST, "list links")


def test_a_kernel_that_says_nothing_is_not_waited_for_for_ever(opened: NetlinkSocket) -> None:
    play(opened, [BlockingIOError()])
    with pytest.raises(TransientError, match="did not list links within 5 s; try again"):
        opened.ask(REQUEST, "list links")


def test_the_rest_of_an_answer_that_nobody_waited_for_is_read_before_the_next_question(opened: NetlinkSocket) -> None:
    script = play(opened, [[answer()], KeyboardInterrupt(), [answer()], [done()]], [[answer()], [done()]])
    script.recv_into = _raising(script.recv_into)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        opened.ask(REQUEST, "list links")
    assert len(script.queue) == 2
    assert len(opened.ask(REQUEST, "list links")) == 1
    assert script.queue == []


def _raising(read: Any) -> Any:
    def inner(buffer: bytearray, size: int = 0, flags: int = 0) -> int:
        try:
            return int(read(buffer, size, flags))
        except TypeError:  # the step is no datagram
            raise KeyboardInterrupt from None

    return inner


def test_sequence_numbers_wrap_around_above_those_of_batches(opened: NetlinkSocket) -> None:
    opened._asked = (1 << 31) - 1
    script = play(opened, [[answer()], [done()]])
    for _ in range(2):
        assert len(opened.ask(REQUEST, "list links")) == 1
    assert script.sent == [[0xFFFFFFFF], [0x80000000]]


# --- many questions --------------------------------------------------------------------------------------------------


def test_each_question_gets_its_answer_in_order(opened: NetlinkSocket) -> None:
    play(opened, [[answer(to=2, payload=b"cccc"), refusal(errno.ENODEV, to=1)], [answer(to=0, payload=b"aaaa")]])
    first, second, third = opened.ask_each([REQUEST] * 3, "look up")
    assert second == Failure(errno.ENODEV)
    for told, expected in ((first, b"aaaa"), (third, b"cccc")):
        data, begin, end = told
        assert data[begin:end] == expected  # type: ignore[index, misc]


def test_of_many_questions_those_without_an_answer_are_asked_again_fewer_at_a_time(opened: NetlinkSocket) -> None:
    half = [[answer(to=to)] for to in range(32)]
    script = play(opened, [*half, NO_BUFFER, [refusal(errno.EAGAIN, to=63)]], half)
    assert len(opened.ask_each([REQUEST] * 64, "look up")) == 64
    assert [len(round_) for round_ in script.sent] == [64, 32]


def test_a_single_answer_that_never_fits_is_given_up(opened: NetlinkSocket) -> None:
    script = play(opened, [NO_BUFFER])
    with pytest.raises(HostError, match="do not fit"):
        opened.ask_each([REQUEST] * 64, "look up")
    assert [len(round_) for round_ in script.sent][:7] == [64, 32, 16, 8, 4, 2, 1]
    assert len(script.sent) < 20


def test_many_questions_wrap_around_too(opened: NetlinkSocket) -> None:
    opened._asked = (1 << 31) - 2
    play(opened, [[answer(to=to, payload=bytes([to]))] for to in range(4)])
    told = opened.ask_each([REQUEST] * 4, "look up")
    assert [data[begin] for data, begin, _ in told] == [0, 1, 2, 3]  # type: ignore[index, misc]


@pytest.mark.parametrize(("code", "absent"), [(errno.ENODEV, True), (errno.ERANGE, True), (errno.EPERM, False)])
def test_only_a_link_that_does_not_exist_is_left_out(code: int, absent: bool) -> None:
    opened = Connection()
    opened.close()
    play(opened, [[refusal(code)]])
    if absent:
        assert opened.look_up(["eth0"]) == []
    else:
        with pytest.raises(RefusedError, match="look up link eth0: EPERM"):
            opened.look_up(["eth0"])


# --- changes ---------------------------------------------------------------------------------------------------------


def test_refusals_of_a_batch_are_told_by_position(opened: NetlinkSocket) -> None:
    script = play(opened, [[refusal(errno.EBUSY), refusal(0, to=1)], [refusal(errno.ENODEV, to=3)]])
    refused = opened.send(rtnetlink.numbered([rtnetlink.message(16, 0, b"")] * 4), "change")
    assert refused == {0: Failure(errno.EBUSY), 3: Failure(errno.ENODEV)}
    assert script.sent == [[0, 1, 2, 3]]


def test_what_may_have_been_refused_counts_as_refused_where_the_answer_was_lost(opened: NetlinkSocket) -> None:
    play(opened, [[refusal(errno.EBUSY, to=1)], NO_BUFFER])
    refused = opened.send(rtnetlink.numbered([rtnetlink.message(16, 0, b"")] * 3), "change")
    assert [refused[at].errno for at in range(3)] == [errno.ENOBUFS, errno.EBUSY, errno.ENOBUFS]
    assert "no room to say" in str(refused[0])


def test_an_answer_to_a_question_is_no_refusal_of_a_batch(opened: NetlinkSocket) -> None:
    play(opened, [[refusal(errno.EPERM, to=0)]])
    opened._unread = True
    question = rtnetlink.numbered([REQUEST], 1 << 31)
    assert opened.send(question, "change") == {}


def test_a_batch_that_the_kernel_does_not_take_is_a_refusal() -> None:
    with (
        NetlinkSocket(socket.NETLINK_ROUTE, "rtnetlink") as opened,
        pytest.raises(RefusedError, match="refused to change: EMSGSIZE"),
    ):
        opened.send(bytes(1 << 24), "change")


# --- what the kernel says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [rtnetlink.NLMSG_ERROR, rtnetlink.NLMSG_DONE])
@pytest.mark.parametrize("capped", [True, False])
def test_the_kernels_own_words_are_told(kind: int, capped: bool) -> None:
    text = rtnetlink.attribute(rtnetlink.NLMSGERR_ATTR_MSG, b"Can not enslave a bridge to a bridge\0")
    echoed = b""
    if kind == rtnetlink.NLMSG_ERROR:
        echoed = struct.pack("=LHHLL", 16 if capped else 20, 19, 0, 1, 0) + (b"" if capped else bytes(4))
    payload = struct.pack("=i", -errno.ELOOP) + echoed + text
    flags = rtnetlink.NLM_F_ACK_TLVS | (rtnetlink.NLM_F_CAPPED if capped else 0)
    failure = Failure(*rtnetlink.failure(kind, payload, 0, len(payload), flags))
    assert str(failure) == "ELOOP: Can not enslave a bridge to a bridge"


def test_a_failure_without_words_is_told_in_the_systems() -> None:
    assert str(Failure(errno.EPERM)) == "EPERM: Operation not permitted"
    assert str(Failure(4095)) == "errno 4095: Unknown error 4095"


@pytest.mark.netns
def test_the_live_kernel_says_why() -> None:
    from kernels import real

    from reconciler.network.plan import Plan, SetLink
    from reconciler.network.state import Kind, Link, Setting

    with real() as kernel:
        for name in ("br0", "br1"):
            kernel.bridge(name, "02:00:00:00:0b:01")
        operation = SetLink(Link("br0", Kind.BRIDGE, {}), Setting.SWITCH, None, "br1")
        (outcome,) = kernel.execute(Plan((operation,), ((),)), kernel.observe())
    assert outcome.why == "ELOOP: Can not enslave a bridge to a bridge"


@pytest.mark.netns
def test_the_live_kernel_says_why_it_does_not_list() -> None:
    """A list ends with NLMSG_DONE even if it was refused; the words stand elsewhere than in an NLMSG_ERROR."""
    of_one = rtnetlink.message(
        rtnetlink.RTM_GETLINK, rtnetlink.NLM_F_DUMP, rtnetlink.IFINFO.pack(rtnetlink.AF_UNSPEC, 0, 7, 0, 0)
    )
    with Connection() as opened, pytest.raises(RefusedError, match="EINVAL: Filter by device index not supported"):
        opened.ask(of_one, "list links")


# --- the live kernel's room ------------------------------------------------------------------------------------------

NICS, ALTNAMES = 64, 40


@pytest.fixture(scope="module")
def crowd(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """Sixty-four NICs with forty long alternative names each: 8 KiB of buffer for what is told of one."""
    request.getfixturevalue("lab_root")
    lines = [f"link add nic{at} type veth peer name nic{at + 1}" for at in range(0, NICS, 2)]
    lines += [
        f"link property add dev nic{nic} altname {f'nic{nic}-{at}-':x<127}"
        for nic in range(NICS)
        for at in range(ALTNAMES)
    ]
    with Namespace("crowd") as made:
        with made.entered():
            subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, timeout=PATIENCE_S, check=True)
        yield made


def _as_nobody(action: Callable[[], str]) -> str:
    """What `action` returns in a process without privileges, or its exception."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        told = "nothing"
        try:
            with contextlib.suppress(OSError):  # in a user namespace there is nobody else, and root is nobody outside
                os.setresuid(65534, 65534, 65534)
            told = action()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            told = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, told.encode())
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(child, 0)
    return told


def _observed(*, queue: int | None = None) -> str:
    with Kernel() as kernel:
        if queue is not None:
            kernel._connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, queue)
        some = kernel.observe([f"nic{at}" for at in range(NICS)])
        every = kernel.observe()
    counts = {len(link.nic.altnames) for link in every.links if link.nic and link.name.startswith("nic")}
    # What the host itself speaks over is looked at beside what was named.
    named = [link for link in some.links if link.name.startswith("nic")]
    return f"{len(named)} {len(every.links)} {counts}"


@pytest.mark.netns
@pytest.mark.parametrize("queue", [None, 106_496, 4_096, 1], ids=["own", "default", "small", "least"])
def test_a_plain_user_sees_a_crowd_of_links_with_many_names(crowd: Namespace, queue: int | None) -> None:
    with crowd.entered():
        assert _as_nobody(lambda: _observed(queue=queue)) == f"{NICS} {NICS + 1} {{{ALTNAMES}}}"


@pytest.mark.netns
def test_a_link_that_fills_more_than_what_is_read_at_once_is_read(crowd: Namespace) -> None:
    with crowd.entered(), Connection() as opened:
        opened._read_into = bytearray(4_096)
        (told,) = opened.look_up(["nic7"])
        assert len(told) > 4_096
        opened._read_into = bytearray(64)
        assert len(opened.ask(requests.get_links(), "list links")) == NICS + 1


@pytest.mark.netns
def test_signals_do_not_disturb_what_is_read(crowd: Namespace) -> None:
    heard = 0

    def hear(*_: object) -> None:
        nonlocal heard
        heard += 1

    before = signal.signal(signal.SIGALRM, hear)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        with crowd.entered(), Connection() as opened:
            while heard < 50:
                assert len(opened.ask(requests.get_links(), "list links")) == NICS + 1
                assert len(opened.look_up([f"nic{at}" for at in range(NICS)])) == NICS
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.netns
def test_an_answer_that_was_left_half_read_does_not_spoil_the_next(crowd: Namespace) -> None:
    with crowd.entered(), Connection() as opened:
        opened._send(rtnetlink.numbered([REQUEST], opened._next()), "list links")
        opened._read(0)
        assert len(opened.ask(requests.get_links(), "list links")) == NICS + 1


@pytest.mark.parametrize("family", [socket.NETLINK_ROUTE, 12])
def test_sockets_of_both_families_get_as_much_room_as_they_may(family: int) -> None:
    with open("/proc/sys/net/core/rmem_max", encoding="ascii") as file:
        least = 2 * min(int(file.read()), sockets._QUEUE_BYTES)
    with (
        NetlinkSocket(family, "netlink") as asking,
        contextlib.closing(EventSocket(family, "netlink", 0)) as hearing,
    ):
        for one in (asking, hearing):
            assert one._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= least
        assert asking.port > 0


def test_a_kernel_without_the_family_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(RefusedError, match="speak rtnetlink: EPROTONOSUPPORT: Protocol not supported"):
        Connection()


# --- ears ------------------------------------------------------------------------------------------------------------


def test_what_was_lost_is_counted_and_is_news() -> None:
    with contextlib.closing(EventSocket(socket.NETLINK_ROUTE, "rtnetlink", 0)) as ear:
        opened = ear._socket
        script = Script([])
        script.queue = [NO_BUFFER, [lambda _: bytes(16)], BlockingIOError(), NO_BUFFER, BlockingIOError()]
        script.sent = [[0]]
        ear._socket = script  # type: ignore[assignment]
        assert (ear.drain(), ear.lost) == (True, 1)
        assert (ear.drain(), ear.lost) == (True, 2)
        script.queue = [OSError(errno.ENETDOWN, "gone")]
        with pytest.raises(OSError, match="gone"):
            ear.drain()
        ear._socket = opened
