"""What links have counted: frames as a NIC counts them, before anything merges them. No I/O.

Numbers are those of linux/rtnetlink.h and linux/if_link.h (struct if_stats_msg, struct rtnl_link_stats64).
"""

import struct
from typing import NamedTuple

from reconciler.host.netlink.rtnetlink import AF_UNSPEC, RTM_GETSTATS, attributes, message

IFLA_STATS_LINK_64 = 1
_FILTER = 1 << (IFLA_STATS_LINK_64 - 1)
IF_STATS = struct.Struct("=BxxxII")
_STATS = struct.Struct("=QQQQ")


class Counters(NamedTuple):
    """What a link has received and sent since it is there: frames, and bytes without frame check sequences."""

    rx_frames: int
    tx_frames: int
    rx_bytes: int
    tx_bytes: int


def request(index: int) -> bytes:
    """Ask for the counters of one link."""
    return message(RTM_GETSTATS, 0, IF_STATS.pack(AF_UNSPEC, index, _FILTER))


def parse(payload: bytes) -> Counters:
    """The answer."""
    begin, end = attributes(payload, IF_STATS.size, len(payload))[IFLA_STATS_LINK_64]
    return Counters(*_STATS.unpack_from(payload[:end], begin))
