"""What links have counted: frames as a NIC counts them, before anything merges them. No I/O.

Numbers are those of linux/rtnetlink.h and linux/if_link.h (struct if_stats_msg, struct rtnl_link_stats64).
"""

import struct

from reconciler.host.netlink.rtnetlink import AF_UNSPEC, RTM_GETSTATS, attributes, message
from reconciler.network.counts import LinkCounts

IFLA_STATS_LINK_64 = 1
_FILTER = 1 << (IFLA_STATS_LINK_64 - 1)
IF_STATS = struct.Struct("=BxxxII")
# Packets and bytes received and sent, errors of both, dropped of both.
_STATS = struct.Struct("=8Q")


def request(index: int) -> bytes:
    """Ask for the counters of one link."""
    return message(RTM_GETSTATS, 0, IF_STATS.pack(AF_UNSPEC, index, _FILTER))


def parse(payload: bytes) -> LinkCounts:
    """The answer."""
    begin, end = attributes(payload, IF_STATS.size, len(payload))[IFLA_STATS_LINK_64]
    received, sent, received_bytes, sent_bytes, _, errors, refused, dropped = _STATS.unpack_from(payload[:end], begin)
    return LinkCounts(received, received_bytes, sent, sent_bytes, errors + dropped, refused)
