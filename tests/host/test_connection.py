"""A socket that misbehaves: interrupted dumps, lost answers, endless unrest."""

import errno
import socket
import struct
from typing import Any

import pytest

from reconciler.errors import HostError, TransientError
from reconciler.host.netlink import connection, requests, rtnetlink
from reconciler.host.netlink.connection import Connection

REQUEST = requests.get_links()


class Script:
    """Stands in for the socket: for each dump what recv gives, in order; bytes are built for the current request."""

    def __init__(self, *dumps: list[Any]) -> None:
        self.dumps = list(dumps)
        self.sent: list[bytes] = []
        self._now: list[Any] = []

    def send(self, data: bytes) -> int:
        self.sent.append(data)
        self._now = list(self.dumps.pop(0)) if len(self.dumps) > 1 else list(self.dumps[0])
        return len(data)

    def recv(self, _: int, flags: int = 0) -> bytes:
        assert self._now, "it would wait for ever"
        step = self._now.pop(0)
        if isinstance(step, OSError):
            raise step
        sequence = struct.unpack_from("=L", self.sent[-1], 8)[0]
        return b"".join(build(sequence) for build in step)


def answer(flags: int = 0, kind: int = rtnetlink.RTM_NEWLINK, payload: bytes = b"\0" * 16, late: int = 0) -> Any:
    return lambda sequence: (
        struct.pack("=LHHLL", 16 + len(payload), kind, flags, (sequence - late) & 0xFFFFFFFF, 0) + payload
    )


def done(flags: int = 0, code: int = 0) -> Any:
    return answer(flags, rtnetlink.NLMSG_DONE, struct.pack("=i", code))


NO_BUFFER = OSError(errno.ENOBUFS, "No buffer space available")


@pytest.fixture
def opened() -> Connection:
    made = Connection()
    made.close()
    return made


def dump(opened: Connection, *dumps: list[Any]) -> tuple[int, int]:
    """How many answers were taken, and after how many requests."""
    script = Script(*dumps)
    opened._socket = script  # type: ignore[assignment]
    return len(opened.dump(REQUEST)), len(script.sent)


def test_a_whole_dump_is_taken_at_once(opened: Connection) -> None:
    assert dump(opened, [[answer(), answer()], [answer()], [done()]]) == (3, 1)


@pytest.mark.parametrize(
    "first",
    [
        [[answer(), answer(rtnetlink.NLM_F_DUMP_INTR)], [done()]],
        [[answer()], [done(rtnetlink.NLM_F_DUMP_INTR)]],
        [[answer()], NO_BUFFER, [answer()], [done()]],
        [NO_BUFFER, [answer()], [done()]],
    ],
)
def test_a_dump_that_was_disturbed_is_read_again(opened: Connection, first: list[Any]) -> None:
    assert dump(opened, first, [[answer()], [done()]]) == (1, 2)


@pytest.mark.parametrize("disturbed", [[[answer(rtnetlink.NLM_F_DUMP_INTR)], [done()]], [NO_BUFFER, [done()]]])
def test_unrest_without_end_is_given_up_and_may_be_tried_again(opened: Connection, disturbed: list[Any]) -> None:
    with pytest.raises(TransientError, match="try again") as caught:
        dump(opened, disturbed)
    assert caught.value.retry_helps
    assert len(opened._socket.sent) == 10  # type: ignore[attr-defined]


def test_late_answers_to_an_earlier_request_are_nobodys(opened: Connection) -> None:
    assert dump(
        opened, [[answer(late=1), done() and answer(late=1, kind=rtnetlink.NLMSG_DONE)], [answer()], [done()]]
    ) == (
        1,
        1,
    )


@pytest.mark.parametrize("kind", [rtnetlink.NLMSG_ERROR, rtnetlink.NLMSG_DONE])
def test_a_refusal_to_list_is_told_with_its_errno(opened: Connection, kind: int) -> None:
    with pytest.raises(HostError, match="refused to list: EPERM"):
        dump(opened, [[answer(kind=kind, payload=struct.pack("=i", -errno.EPERM))]])


def test_an_error_of_the_socket_is_not_swallowed(opened: Connection) -> None:
    with pytest.raises(OSError, match="gone"):
        dump(opened, [OSError(errno.ENETDOWN, "gone")])


def test_sequence_numbers_wrap_around(opened: Connection) -> None:
    opened._sequence = 0xFFFFFFFF
    assert dump(opened, [[answer()], [done()]]) == (1, 1)
    assert dump(opened, [[answer()], [done()]]) == (1, 1)
    assert opened._sequence == 1


def test_a_batch_that_wraps_around_assigns_its_failures_rightly(opened: Connection) -> None:
    def refusal(of: int) -> Any:
        # The script knows the first request's number only: each later one is the next.
        return lambda sequence: (
            struct.pack("=LHHLL", 20, rtnetlink.NLMSG_ERROR, 0, (sequence + of) & 0xFFFFFFFF, 0)
            + struct.pack("=i", -errno.EBUSY)
        )

    class Batch(Script):
        def recv(self, size: int, flags: int = 0) -> bytes:
            if not self._now:
                raise BlockingIOError
            assert flags & socket.MSG_DONTWAIT
            return super().recv(size, flags)

    opened._sequence = 0xFFFFFFFE
    opened._socket = Batch([[refusal(0), refusal(3)]])  # type: ignore[assignment]
    failures = opened.send([rtnetlink.message(16, 0, b"")] * 4)
    assert {at: one.errno for at, one in failures.items()} == {0: errno.EBUSY, 3: errno.EBUSY}


def test_the_kernels_own_words_are_told() -> None:
    text = rtnetlink.attribute(rtnetlink.NLMSGERR_ATTR_MSG, b"Can not enslave a bridge to a bridge\0")
    payload = struct.pack("=i", -errno.ELOOP) + struct.pack("=LHHLL", 16, 19, 0, 1, 0) + text
    flags = rtnetlink.NLM_F_CAPPED | rtnetlink.NLM_F_ACK_TLVS
    failure = connection.Failure(*rtnetlink.failure(payload, 0, len(payload), flags))
    assert str(failure) == "ELOOP: Can not enslave a bridge to a bridge"
    assert str(connection.Failure(4095, "")) == "errno 4095"


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
