"""What interfaces have received, sent and dropped: counted by the kernel, asked for by index."""

import struct
from collections.abc import Iterable, Mapping

from reconciler.guard.crossing import LinkCounts
from reconciler.host.netlink import counters, requests
from reconciler.host.netlink.connection import Connection
from reconciler.host.netlink.rtnetlink import TCMSG, attributes
from reconciler.host.netlink.sockets import Failure

# linux/if_link.h, linux/gen_stats.h, linux/rtnetlink.h
TCA_STATS2, TCA_STATS_QUEUE = 7, 3
TC_H_ROOT = 0xFFFFFFFF
# struct rtnl_link_stats64: packets and bytes received and sent, errors of both, dropped of both.
_LINK = struct.Struct("=8Q")
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
        asked = list(indexes)
        links = self._connection.ask_each([counters.request(one) for one in asked], "count frames")
        lost = dict.fromkeys(asked, 0)
        for answer in self._connection.ask(requests.get_disciplines(), "list queueing disciplines"):
            index, dropped = _dropped(*answer)
            if index in lost:
                lost[index] += dropped
        found = {}
        for index, link in zip(asked, links, strict=True):
            if isinstance(link, Failure):
                continue
            data, begin, end = link
            start, stop = attributes(data, begin + counters.IF_STATS.size, end).get(counters.IFLA_STATS_LINK_64, (0, 0))
            if stop - start >= _LINK.size:
                received, sent, received_bytes, sent_bytes, _, errors, refused, dropped = _LINK.unpack_from(data, start)
                found[index] = LinkCounts(
                    received, received_bytes, sent, sent_bytes, errors + dropped + lost[index], refused
                )
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
