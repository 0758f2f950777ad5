"""Netlink sockets: the one that asks and changes, and the one that hears of events, for whatever family.

What goes wrong between the kernel and a socket is dealt with here, and nowhere else:

- *No room* (ENOBUFS): answers that do not fit the receive buffer are dropped, and the next read says so. A question is
  asked again, of many questions those without an answer, fewer at a time; of events it is news that some were lost.
- *Cut* (MSG_TRUNC): a datagram that is larger than what it is read into. There is room for it the next time.
- *Interrupted* (NLM_F_DUMP_INTR): what is listed changed meanwhile. It is listed again.
- *Refused*, with the kernel's own words where it has some (extended acknowledgements), be it at once, in the middle of
  a list, or for one message of a batch.
- *Late*: sequence numbers tell answers from those to an earlier question that nobody waited for to the end.
- *Signals* (EINTR) are Python's business: a call goes on where it was, unless the handler raises.

The kernel does what it is asked before the call that asks returns, and queues the answers. So none is ever waited for
in vain; should one be missing all the same, the wait ends after `_ANSWER_WITHIN_S`.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Self

from reconciler.errors import HostError, TransientError
from reconciler.host.netlink import rtnetlink

# linux/netlink.h, asm-generic/socket.h: the socket module does not have them.
_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_SO_RCVBUFFORCE = 33

# For what the kernel queues: all of it with the privilege, and without as much of it as net.core.rmem_max allows.
_QUEUE_BYTES = 1 << 20
# For one datagram. netlink_dump() makes none larger than 32 KiB, unless a single link fills more.
_DATAGRAM_BYTES, _LARGEST_DATAGRAM_BYTES = 1 << 16, 1 << 24
_ANSWER_WITHIN_S = 5
_ATTEMPTS = 10
_READS_AT_ONCE = 256

# Messages that fit into one call: an answer is queued for each question, and one for each change that is refused.
QUESTIONS_AT_ONCE, CHANGES_AT_ONCE = 64, 192
# A batch numbers its messages from 0, questions begin here: the answers to the ones are never taken for the others'.
_FIRST_QUESTION = 1 << 31
# Refusals that speak of the moment and not of what was asked.
_AGAIN = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.EBUSY})

Answer = tuple[bytes, int, int]
"""A datagram, and where in it the payload of one message begins and ends."""


class Failure(NamedTuple):
    """Why the kernel refused a message: its errno, and its own words, if it had any."""

    errno: int
    message: str = ""

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno, f"errno {self.errno}")
        return f"{name}: {self.message or os.strerror(self.errno)}"


class RefusedError(HostError):
    """The kernel refused. `errno` says why: ENOENT, for instance, is something that is not there."""

    def __init__(self, what: str, failure: Failure) -> None:
        super().__init__(f"the kernel refused to {what}: {failure}")
        self.errno = failure.errno


class _Pass(Enum):
    """What one pass over all answers amounts to."""

    WHOLE = 1
    INTERRUPTED = 2
    NO_ROOM = 3


class NetlinkSocket:
    """An open socket to a netlink family, of the network namespace that the calling thread is in. Close it.

    Raises:
        RefusedError: the kernel does not have the family.

    """

    def __init__(self, family: int, name: str) -> None:
        self._socket = _opened(family, name)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _ANSWER_WITHIN_S, 0))
        self._read_into = bytearray(_DATAGRAM_BYTES)
        self._asked = 0
        self._unread = False
        self._lost = 0  # datagrams, since the last that was read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    @property
    def port(self) -> int:
        """The socket's address, which the kernel puts into each event that the socket caused."""
        port: int = self._socket.getsockname()[0]
        return port

    def ask(self, request: bytes, what: str) -> list[Answer]:
        """All answers to a question, from one undisturbed pass of the kernel.

        The question is for a list (NLM_F_DUMP), or asks for an acknowledgement: so there is an end to the answers.
        `what` says what the kernel would refuse to do.

        Raises:
            RefusedError: the kernel refused, at once or in the middle.
            TransientError: what is listed changed during each of ten passes, or no answer came in time.
            HostError: there is no room for the answers.

        """
        whole = _Pass.WHOLE
        for _ in range(_ATTEMPTS):
            whole, answers = self._ask_once(request, what)
            if whole is _Pass.WHOLE:
                return answers
        if whole is _Pass.NO_ROOM:
            raise self._no_room()
        raise TransientError(f"things changed under every attempt to {what}; try again")

    def _ask_once(self, request: bytes, what: str) -> tuple[_Pass, list[Answer]]:
        sequence = self._next()
        self._send(rtnetlink.numbered([request], sequence), what)
        answers: list[Answer] = []
        whole = _Pass.WHOLE
        while True:
            try:
                data = self._read(0)
            except BlockingIOError:
                raise TransientError(f"the kernel did not {what} within {_ANSWER_WITHIN_S} s; try again") from None
            if not data:
                whole = _Pass.NO_ROOM
            for kind, flags, answer_to, begin, end in rtnetlink.messages(data):
                if answer_to != sequence:
                    continue
                if flags & rtnetlink.NLM_F_DUMP_INTR and whole is _Pass.WHOLE:
                    whole = _Pass.INTERRUPTED
                if kind not in (rtnetlink.NLMSG_DONE, rtnetlink.NLMSG_ERROR):
                    answers.append((data, begin, end))
                    continue
                self._unread = False
                failure = _failure(kind, data, begin, end, flags)
                if failure and failure.errno not in _AGAIN:
                    raise RefusedError(what, failure)
                return (_Pass.INTERRUPTED if failure else whole), answers

    def ask_each(self, requests: Sequence[bytes], what: str) -> list[Answer | Failure]:
        """To each question its one answer, in order. `what` as in `ask`.

        Raises:
            RefusedError: the kernel did not take the questions.
            HostError: there is no room even for single answers.

        """
        found: dict[int, Answer | Failure] = {}
        at_once, in_vain = QUESTIONS_AT_ONCE, 0
        while missing := [position for position in range(len(requests)) if position not in found][:at_once]:
            asked = {self._next(): position for position in missing}
            self._send(b"".join(rtnetlink.numbered([requests[at]], number) for number, at in asked.items()), what)
            for data in self._queued():
                for kind, flags, answer_to, begin, end in rtnetlink.messages(data):
                    failure = _failure(kind, data, begin, end, flags) if kind == rtnetlink.NLMSG_ERROR else None
                    if answer_to in asked and not (failure and failure.errno in _AGAIN):
                        found[asked[answer_to]] = failure or (data, begin, end)
            if found.keys() & set(missing) != set(missing):
                in_vain += at_once == 1
                at_once = max(1, at_once // 2)
            if in_vain == _ATTEMPTS:
                raise self._no_room()
        return [found[position] for position in range(len(requests))]

    def send(self, batch: bytes, what: str) -> dict[int, Failure]:
        """Have messages that `rtnetlink.numbered` put together carried out, in order, by one system call.

        Returns the refusals by position. All the rest is done when this returns, in so far as the family does anything
        of a batch of which it refuses some. Where an answer was lost, whatever may have been refused counts as refused.

        Raises:
            RefusedError: the kernel did not take the batch.

        """
        self._send(batch, what)
        failures: dict[int, Failure] = {}
        lost = False
        for data in self._queued():
            lost = lost or not data
            for kind, flags, position, begin, end in rtnetlink.messages(data):
                if kind == rtnetlink.NLMSG_ERROR and position < _FIRST_QUESTION:
                    failure = _failure(kind, data, begin, end, flags)
                    if failure:
                        failures.setdefault(position, failure)
        if lost:
            unsaid = Failure(errno.ENOBUFS, "there was no room to say what was refused")
            return {position: unsaid for _, _, position, _, _ in rtnetlink.messages(batch)} | failures
        return failures

    def _next(self) -> int:
        """The next question's sequence number; they wrap around."""
        number = _FIRST_QUESTION + self._asked
        self._asked = (self._asked + 1) % _FIRST_QUESTION
        return number

    def _send(self, data: bytes, what: str) -> None:
        if self._unread:
            # Nobody waited for the end of an earlier answer. The kernel starts no second list before the first is read.
            for _ in self._queued():
                pass
        self._unread = True
        try:
            self._socket.send(data)
        except OSError as error:
            raise RefusedError(what, Failure(error.errno or errno.EIO)) from error

    def _queued(self) -> Iterator[bytes]:
        """The datagrams that are there; an empty one for each that is not, or not wholly."""
        while True:
            try:
                yield self._read(socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._unread = False
                return

    def _read(self, flags: int) -> bytes:
        try:
            size = self._socket.recv_into(self._read_into, 0, flags | socket.MSG_TRUNC)
        except OSError as error:
            if error.errno not in (errno.ENOBUFS, errno.ENOMEM):
                raise
            size = 0
        if 0 < size <= len(self._read_into):
            self._lost = 0
            return bytes(self._read_into[:size])
        self._lost += 1
        if self._lost > _ATTEMPTS or size > _LARGEST_DATAGRAM_BYTES:
            raise self._no_room()
        self._read_into = bytearray(max(size, len(self._read_into)))
        return b""

    def _no_room(self) -> HostError:
        queue = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return HostError(
            f"the kernel's answers do not fit: this user's sockets hold {queue} bytes; "
            "raise net.core.rmem_max, or run this as root"
        )


class EventSocket:
    """A socket that becomes readable when the kernel tells `groups`, a mask as bind() takes it, that something changed.

    It tells that something did, never what: whoever is told looks again.
    """

    def __init__(self, family: int, name: str, groups: int) -> None:
        self._socket = _opened(family, name, groups)
        self._socket.setblocking(False)
        self._read_into = bytearray(_DATAGRAM_BYTES)
        self.lost = 0

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take what has come, a bounded number of datagrams at a time; whether there was anything that is news.

        `lost` counts how often the kernel had more to tell than the queue holds, which is news, too.
        """
        news = False
        for _ in range(_READS_AT_ONCE):
            try:
                size = self._socket.recv_into(self._read_into)
            except BlockingIOError:
                return news
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                news = True
            else:
                news = news or self._is_news(bytes(self._read_into[:size]))
        return news

    def _is_news(self, datagram: bytes) -> bool:
        return True

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _opened(family: int, name: str, groups: int = 0) -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    except OSError as error:
        raise RefusedError(f"speak {name}", Failure(error.errno or errno.EIO)) from error
    opened.bind((0, groups))
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
    return opened


def _failure(kind: int, data: bytes, begin: int, end: int, flags: int) -> Failure | None:
    """What a message that ends an answer says; None: that all went well."""
    code, words = rtnetlink.failure(kind, data, begin, end, flags)
    return Failure(code, words) if code else None
