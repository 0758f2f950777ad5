"""One nf_tables socket: transactions in one system call, and what a table holds; and hearing that others change it."""

import contextlib
import errno
import os
import socket
from collections.abc import Mapping
from typing import Self

from reconciler.errors import HostError, TransientError
from reconciler.host.guard import fingerprint, messages
from reconciler.host.guard.messages import NFGENMSG, Element
from reconciler.host.netlink import rtnetlink

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_SOL_NETLINK = 270
_NETLINK_EXT_ACK, _NETLINK_CAP_ACK = 11, 10
_SO_RCVBUFFORCE = 33
# netlink_dump() makes no datagram larger than 32 KiB.
_RECEIVE = 1 << 16
_ATTEMPTS = 10
# A batch numbers its messages from 0; answers to questions can so never be taken for its own.
_FIRST_QUESTION = 1 << 31
# A storm that fills this is told by ENOBUFS, which says the same as any event: look again.
_BUFFER = 1 << 20
_READS_AT_ONCE = 256


class NetfilterError(HostError):
    """The kernel refused. `errno` says why: ENOENT is a table or set that is not there."""

    def __init__(self, what: str, number: int, text: str = "") -> None:
        super().__init__(f"the kernel refused to {what}: {text or os.strerror(number)}")
        self.errno = number


class Netfilter:
    """An open socket to nf_tables of the network namespace that the calling thread is in. Close it."""

    def __init__(self) -> None:
        self._socket = _opened(0)
        for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    @property
    def port(self) -> int:
        """The socket's address, by which a `NetfilterWatch` knows what was done here."""
        port: int = self._socket.getsockname()[0]
        return port

    def send(self, batch: bytes) -> None:
        """Have a batch of `messages.batch` carried out: wholly when this returns, or not at all when it raises.

        Raises:
            NetfilterError: the kernel refused; names the first message that failed.

        """
        try:
            self._socket.send(batch)
        except OSError as error:
            raise _cannot("carry out a transaction", error) from error
        refused: NetfilterError | None = None
        while True:
            try:
                data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # There was no memory for an answer, and only a refusal is answered.
                refused = refused or NetfilterError("carry out a transaction", errno.ENOBUFS)
                continue
            for kind, flags, sequence, begin, end in rtnetlink.messages(data):
                if kind == rtnetlink.NLMSG_ERROR and sequence < _FIRST_QUESTION:
                    code, text = rtnetlink.failure(data, begin, end, flags)
                    if code:
                        refused = refused or NetfilterError(messages.describe(batch, sequence), code, text)
        if refused:
            raise refused

    def elements(self, table: str, set_: str) -> tuple[Element, ...]:
        """The elements of a set that are alive.

        Raises:
            NetfilterError: ENOENT, if there is no such set.
            TransientError: see `counters`.

        """
        answers = self._ask(messages.get_elements(table, set_), f"list set {set_} of table {table}")
        return tuple(element for answer in answers for element in messages.elements(answer))

    def counters(self, table: str) -> Mapping[str, tuple[int, int]]:
        """Packets and bytes of all named counters of a table; none, if there is no such table.

        Raises:
            NetfilterError: the kernel refused.
            TransientError: rules came and went during each of ten attempts.

        """
        return dict(map(messages.counter, self._ask(messages.get_counters(table), f"list counters of table {table}")))

    def generation(self) -> int:
        """The number of the namespace's rule set. A transaction raises it by one; one that changes nothing, by none.

        What frames do (`update @set`) and what expires does not raise it.
        """
        (answer,) = self._ask(messages.get_generation(), "tell the generation")
        return messages.generation(answer)

    def tables(self) -> Mapping[str, str | None]:
        """The comments of all tables of the family netdev, by the tables' names. None: without a comment."""
        return dict(map(messages.table, self._ask(messages.get_tables(), "list tables")))

    def fingerprint(self, table: str) -> str | None:
        """A digest of a table's chains, rules, sets and objects: all but what traffic and time change.

        None: there is no such table. The same digest is promised for the same rules on the same running kernel only.
        Indexes of interfaces that rules forward to are part of it. Whether a chain's interface is still there is not:
        from kernel 6.16 on the chain outlives it, without an event. Links have to be watched, too.

        Raises:
            NetfilterError: the kernel refused.
            TransientError: see `counters`.

        """
        for _ in range(_ATTEMPTS):
            before = self.generation()
            try:
                told = self._fingerprint(table)
            except NetfilterError as error:
                if error.errno != errno.ENOENT:
                    raise
                told = None
            if self.generation() == before:
                return told
        raise _unrest()

    def _fingerprint(self, table: str) -> str:
        taken = fingerprint.Fingerprint(table)
        for answer in self._ask(messages.get_table(table), f"list table {table}"):
            taken.add(messages.NFT_MSG_GETTABLE, answer)
        for kind in fingerprint.PARTS:
            for answer in self._ask(messages.get_all(kind, table), f"list table {table}"):
                taken.add(kind, answer)
                set_ = fingerprint.anonymous_set(answer) if kind == messages.NFT_MSG_GETSET else None
                if set_ is not None:
                    taken.add_elements(self._elements_as_told(table, set_))
        return taken.text()

    def _elements_as_told(self, table: str, set_: str) -> list[bytes]:
        told = self._ask(messages.get_elements(table, set_), f"list set {set_} of table {table}")
        return [
            element
            for answer in told
            for _, element in messages.attributes(
                dict(messages.attributes(answer)).get(messages.NFTA_SET_ELEM_LIST_ELEMENTS, b"")
            )
        ]

    def _ask(self, request: bytes, what: str) -> list[bytes]:
        """All answers, without their nfgenmsg, from one pass of the kernel that nobody disturbed."""
        for _ in range(_ATTEMPTS):
            answers = self._ask_once(request, what)
            if answers is not None:
                return answers
        raise _unrest()

    def _ask_once(self, request: bytes, what: str) -> list[bytes] | None:
        sequence = _FIRST_QUESTION + self._asked
        self._asked = (self._asked + 1) % _FIRST_QUESTION
        self._socket.send(messages.with_sequence(request, sequence))
        answers: list[bytes] = []
        whole = True
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                whole = False
                continue
            for kind, flags, answer_to, begin, end in rtnetlink.messages(data):
                if answer_to != sequence:
                    continue
                whole = whole and not flags & rtnetlink.NLM_F_DUMP_INTR
                if kind in (rtnetlink.NLMSG_DONE, rtnetlink.NLMSG_ERROR):
                    code, text = rtnetlink.failure(data, begin, end, flags) if end - begin >= 4 else (0, "")
                    if code:
                        raise NetfilterError(what, code, text)
                    return answers if whole else None
                answers.append(data[begin + NFGENMSG.size : end])


def _opened(groups: int) -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as error:
        raise _cannot("speak nf_tables", error) from error
    opened.bind((0, groups))
    return opened


def _cannot(what: str, error: OSError) -> NetfilterError:
    return NetfilterError(what, error.errno or errno.EIO)


def _unrest() -> TransientError:
    return TransientError("the rules changed under every attempt to read them; try again")


class NetfilterWatch:
    """A socket that becomes readable when anybody changes rules or elements in the calling thread's network namespace.

    Tells that, not what: whoever is told looks again. Frames that update sets, and elements that expire, are not told.
    Each transaction is; `own` is the port of the `Netfilter` whose transactions are no news, for the kernel stamps each
    event with the port of the socket that caused it.
    """

    def __init__(self, own: int = 0) -> None:
        self._own = own
        self._socket = _opened(1 << (_NFNLGRP_NFTABLES - 1))
        self._socket.setblocking(False)
        self.lost = 0
        # Without the privilege for more, the default size has to do.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take what has come, a bounded number of datagrams at a time; whether there was anything that is news.

        `lost` counts how often the kernel had more to tell than the buffer holds, which is news, too.
        """
        news = False
        for _ in range(_READS_AT_ONCE):
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return news
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                news = True
            else:
                news = news or not self._own or any(port != self._own for port in messages.causes(data))
        return news

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
