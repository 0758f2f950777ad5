"""What interfaces have received, sent and dropped, their queueing disciplines included: asked for by index."""

import struct
from collections.abc import Iterable, Mapping

from reconciler.host.netlink import requests
from reconciler.host.netlink.connection import Connection
from reconciler.host.netlink.rtnetlink import TCMSG, attributes
from reconciler.network.counts import LinkCounts

# linux/gen_stats.h, linux/rtnetlink.h
TCA_STATS2, TCA_STATS_QUEUE = 7, 3
TC_H_ROOT = 0xFFFFFFFF
# struct gnet_stats_queue: waiting frames and bytes, and those that were dropped.
_QUEUE = struct.Struct("=III")


class LinkCounters:
    """An open connection that asks for them. Close it."""

    def __init__(self) -> None:
        self._connection = Connection()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __call__(self, indexes: Iterable[int]) -> Mapping[int, LinkCounts]:
        """Of these interfaces, as far as they are there; by two questions.

        Raises:
            HostError: the kernel refused.

        """
        found = self._connection.count(indexes)
        for answer in self._connection.ask(requests.get_disciplines(), "list queueing disciplines"):
            index, dropped = _dropped(*answer)
            if dropped and index in found:
                found[index] = found[index]._replace(dropped=found[index].dropped + dropped)
        return found


def _dropped(data: bytes, begin: int, end: int) -> tuple[int, int]:
    """The interface of a queueing discipline, and what it has dropped, if it is the one of all that is sent; else 0."""
    _, index, _, parent, _ = TCMSG.unpack_from(data, begin)
    if parent != TC_H_ROOT:
        return index, 0
    attrs = attributes(data, begin + TCMSG.size, end)
    stats = attributes(data, *attrs[TCA_STATS2]) if TCA_STATS2 in attrs else {}
    start, stop = stats.get(TCA_STATS_QUEUE, (0, 0))
    return index, _QUEUE.unpack_from(data, start)[2] if stop - start >= _QUEUE.size else 0
