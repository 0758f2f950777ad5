"""TCP under way between two clients, both ways at once, whose bytes are hashed at both ends."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pyroute2 import IPRoute

from reconciler.lab import talker
from reconciler.lab.lab import netlink, wait_until
from reconciler.lab.namespaces import Namespace
from reconciler.lab.offloads import offloads_off
from reconciler.lab.program import Program

# RFC 5737: for documentation, so they are nobody's. The second one of a lab takes 192.0.2.0/24.
_ADDRESSES = ("198.51.100.1", "198.51.100.2")
_PREFIX_LENGTH = 24
_WIRE = "wire"
_RATE = 500_000
_CLOSE_S = 20.0
_NEW_S = 3.0
_BEGIN_S = 10.0
_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class OneWay:
    """What went one way, in all connections together.

    Attributes:
        sent: Bytes that the sender gave to TCP.
        received: Bytes that the receiver got.
        intact: Whether they are the same bytes, in each connection.
        longest_stall_s: The longest time in which a connection brought nothing, in seconds. After an outage TCP
            waits for its next retransmission, so this is up to twice as long as the outage.
    """

    sent: int
    received: int
    intact: bool
    longest_stall_s: float


@dataclass(frozen=True, slots=True)
class Talked:
    """What a stopped talk was. Every connection was closed by both ends, without a reset.

    Attributes:
        there: What went from the first client to the second.
        back: What went back.
        lateness_s: The longest that one of the two processes itself did nothing, in seconds: a part of any stall may
            be this, and not the network.
    """

    there: OneWay
    back: OneWay
    lateness_s: float

    @property
    def intact(self) -> bool:
        """Whether all bytes arrived both ways, and none was changed."""
        return self.there.intact and self.back.intact


class _End(Program):
    """One of the two processes."""

    def ask(self, line: str, timeout_s: float = _BEGIN_S) -> dict[str, Any]:
        self._say(line)
        return self._answer(timeout_s)

    def tell(self, line: str) -> None:
        self._say(line)

    def receive(self, timeout_s: float) -> dict[str, Any]:
        return self._answer(timeout_s)


class Talk:
    """Connections from one client to another, over which both send all the time. Use it in a `with` statement.

    The clients' wires have addresses for as long as it lasts, and their offloads are off from then on.
    """

    def __init__(
        self,
        client_a: Namespace,
        client_b: Namespace,
        *,
        connections: int = 1,
        rate: int = _RATE,
        addresses: tuple[str, str] = _ADDRESSES,
        ifname: str = _WIRE,
    ) -> None:
        """Connect and begin.

        Args:
            client_a: The client that connects.
            client_b: The client that listens.
            connections: How many.
            rate: Bytes per second of each connection, each way.
            addresses: IPv4 addresses of one /24, for the two. Two talks on one wire need different ones.
            ifname: The interface of both.

        Raises:
            LabError: The connections cannot be made.
        """
        self._connections = connections
        common = [f"--rate={rate}", f"--connections={connections}"]
        with contextlib.ExitStack() as undo:
            for client, address in zip((client_a, client_b), addresses, strict=True):
                _add_address(client, ifname, address)
                undo.callback(_remove_address, client, ifname, address)
                with client.entered():
                    offloads_off(ifname)
            path = Path(talker.__file__)
            what = "the {} end of the talk in {!r}".format
            self._b = undo.enter_context(
                _End(client_b, path, [addresses[1], *common], what("listening", client_b.name))
            )
            arguments = [addresses[1], f"--port={self._b.ready['port']}", *common]
            self._a = undo.enter_context(_End(client_a, path, arguments, what("connecting", client_a.name)))
            wait_until(lambda: len(self._progress(self._b)) == connections, _BEGIN_S, "all connections to be known")
            self._open = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _progress(end: _End) -> dict[str, Any]:
        progress: dict[str, Any] = end.ask("progress")["connections"]
        return progress

    def received(self) -> tuple[int, int]:
        """How many bytes have arrived by now: at the second client, and at the first.

        Raises:
            LabError: A connection is broken.
        """
        there, back = (sum(one["received"] for one in self._progress(end).values()) for end in (self._b, self._a))
        return there, back

    def new_connection(self, timeout_s: float = _NEW_S) -> float:
        """Make another connection from the first client to the second, send some bytes and get them back.

        Returns:
            How long that took, in seconds.

        Raises:
            LabError: It did not work within `timeout_s` seconds.
        """
        took: float = self._a.ask(f"new {timeout_s}", timeout_s + _MARGIN_S)["took_s"]
        return took

    def stop(self, *, patience_s: float = _CLOSE_S) -> Talked:
        """Send no more, and close every connection from both ends.

        Args:
            patience_s: How long what is under way, and the closing, may take, in seconds.

        Raises:
            LabError: A connection is broken, or was not closed in time.
        """
        for end in (self._a, self._b):
            end.tell(f"stop {patience_s}")
        counts_a, counts_b = (end.receive(patience_s + _MARGIN_S) for end in (self._a, self._b))
        a, b = counts_a["connections"], counts_b["connections"]
        return Talked(_way(a, b), _way(b, a), max(counts_a["lateness_s"], counts_b["lateness_s"]))

    def close(self) -> None:
        """End both processes, and take the addresses away. May be called again."""
        self._open.close()


def _way(sender: dict[str, Any], receiver: dict[str, Any]) -> OneWay:
    return OneWay(
        sent=sum(one["sent"] for one in sender.values()),
        received=sum(one["received"] for one in receiver.values()),
        intact=all(sender[number]["hash_sent"] == receiver[number]["hash_received"] for number in sender),
        longest_stall_s=max(one["stall_s"] for one in receiver.values()),
    )


def _address(client: Namespace, ifname: str, action: Callable[[IPRoute, int], None]) -> None:
    netlink(client, lambda ipr: action(ipr, ipr.link_lookup(ifname=ifname)[0]))


def _add_address(client: Namespace, ifname: str, address: str) -> None:
    _address(client, ifname, lambda ipr, index: ipr.addr("add", index=index, address=address, prefixlen=_PREFIX_LENGTH))


def _remove_address(client: Namespace, ifname: str, address: str) -> None:
    _address(client, ifname, lambda ipr, index: ipr.addr("del", index=index, address=address, prefixlen=_PREFIX_LENGTH))
