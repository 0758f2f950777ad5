"""Hearing that links changed: when, never what. Whoever is told looks again."""

import socket

from reconciler.host.netlink.sockets import EventSocket

# linux/rtnetlink.h. Addresses, and that IPv6 is on again, are no part of what is told of a link.
# A wire has neither.
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFINFO = 1 << 0, 1 << 4, 1 << 11


class Watch(EventSocket):
    """A socket that becomes readable when any link of the calling thread's network namespace changes."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE, "rtnetlink", _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFINFO)
