"""One rtnetlink socket: dumps that are whole, look-ups in bulk, and batches in one system call."""

import contextlib
import errno
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from reconciler.errors import HostError, TransientError
from reconciler.host.netlink import requests, rtnetlink

_SOL_NETLINK = 270
_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK = 11, 10, 12
_RECEIVE = 1 << 20
# The kernel queues an answer to each request of a batch before the batch returns: they must fit the receive buffer of
# an unprivileged socket (212,992 bytes, with some 2,300 charged for an answer that describes a link).
LOOKUPS_AT_ONCE = 64
# Of a batch of changes only failures are answered, with some 1,000 bytes each.
CHANGES_AT_ONCE = 192
_ATTEMPTS = 10
_MASK = 0xFFFFFFFF


class Failure(NamedTuple):
    """Why the kernel refused a message: its errno, and its own words, if it had any."""

    errno: int
    message: str

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno, f"errno {self.errno}")
        return f"{name}: {self.message}" if self.message else name


class Connection:
    """An open rtnetlink socket of the network namespace that the calling thread is in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        for option in (_NETLINK_GET_STRICT_CHK, _NETLINK_EXT_ACK, _NETLINK_CAP_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        # Without the privilege for more, the default size has to do.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, 33, _RECEIVE)  # SO_RCVBUFFORCE
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def dump(self, request: bytes) -> list[tuple[bytes, int, int]]:
        """All answers to a dump, as (datagram, begin, end of payload), from one undisturbed pass of the kernel.

        Raises:
            TransientError: links came and went during each of ten passes.
            HostError: the kernel refused.

        """
        for _ in range(_ATTEMPTS):
            answers = self._dump_once(request)
            if answers is not None:
                return answers
        raise TransientError("the network changed under every attempt to read it; try again")

    def _dump_once(self, request: bytes) -> list[tuple[bytes, int, int]] | None:
        sequence = self._next()
        self._socket.send(_with_sequence(request, sequence))
        answers: list[tuple[bytes, int, int]] = []
        whole = True
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    whole = False
                    continue
                raise
            for kind, flags, answer_to, begin, end in rtnetlink.messages(data):
                if answer_to != sequence:
                    continue
                whole = whole and not flags & rtnetlink.NLM_F_DUMP_INTR
                if kind in (rtnetlink.NLMSG_DONE, rtnetlink.NLMSG_ERROR):
                    self._check_end(data, begin, end, flags)
                    return answers if whole else None
                answers.append((data, begin, end))

    def _check_end(self, data: bytes, begin: int, end: int, flags: int) -> None:
        code, text = rtnetlink.failure(data, begin, end, flags) if end - begin >= 4 else (0, "")
        if code:
            raise HostError(f"the kernel refused to list: {Failure(code, text)}")

    def look_up(self, which: Sequence[str | int]) -> list[bytes]:
        """What the kernel tells of the links of these names or indexes; those that do not exist are left out."""
        found: list[bytes] = []
        for start in range(0, len(which), LOOKUPS_AT_ONCE):
            batch = which[start : start + LOOKUPS_AT_ONCE]
            first = self._sequence
            self._socket.send(b"".join(_with_sequence(requests.get_link(one), self._next()) for one in batch))
            answered = 0
            while answered < len(batch):
                data = self._socket.recv(_RECEIVE)
                for kind, _, answer_to, begin, end in rtnetlink.messages(data):
                    if _position(answer_to, first) < len(batch):
                        answered += 1
                        if kind == rtnetlink.RTM_NEWLINK:
                            found.append(data[begin:end])
        return found

    def send(self, messages: Sequence[bytes]) -> dict[int, Failure]:
        """Have up to `CHANGES_AT_ONCE` messages carried out in order by one system call.

        The kernel goes on after a message that fails. Returns the failures by position; every other message is done
        when this returns.
        """
        first = self._sequence
        self._socket.send(b"".join(_with_sequence(one, self._next()) for one in messages))
        failures: dict[int, Failure] = {}
        while True:
            try:
                data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return failures
            for kind, flags, answer_to, begin, end in rtnetlink.messages(data):
                position = _position(answer_to, first)
                if kind == rtnetlink.NLMSG_ERROR and position < len(messages):
                    code, text = rtnetlink.failure(data, begin, end, flags)
                    if code:
                        failures[position] = Failure(code, text)

    def _next(self) -> int:
        """The next sequence number; it wraps around."""
        number = self._sequence
        self._sequence = (number + 1) & _MASK
        return number


def _position(sequence: int, first: int) -> int:
    """How many messages after the first of a batch this answer belongs; huge for answers to something else."""
    return (sequence - first) & _MASK


def _with_sequence(message: bytes, sequence: int) -> bytes:
    return message[:8] + struct.pack("=L", sequence) + message[12:]
