"""The rtnetlink socket: links looked up in bulk, beside what every netlink socket does."""

import errno
import socket
from collections.abc import Iterable, Sequence

from reconciler.host.netlink import counters, requests
from reconciler.host.netlink.sockets import Failure, NetlinkSocket, RefusedError
from reconciler.network.counts import LinkCounts

# There is no such link, or there cannot be one of that name.
_ABSENT = frozenset({errno.ENODEV, errno.EINVAL, errno.ERANGE})


class Connection(NetlinkSocket):
    """An open rtnetlink socket of the network namespace that the calling thread is in."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE, "rtnetlink")

    def look_up(self, which: Sequence[str | int]) -> list[bytes]:
        """What the kernel tells of the links of these names or indexes; those that do not exist are left out.

        Raises:
            HostError: the kernel refused, or there is no room for its answers.

        """
        found: list[bytes] = []
        answers = self.ask_each([requests.get_link(one) for one in which], "look links up")
        for one, answer in zip(which, answers, strict=True):
            if not isinstance(answer, Failure):
                data, begin, end = answer
                found.append(data[begin:end])
            elif answer.errno not in _ABSENT:
                raise RefusedError(f"look up link {one}", answer)
        return found

    def count(self, indexes: Iterable[int]) -> dict[int, LinkCounts]:
        """What the links of these indexes have counted; those that do not exist are left out.

        Raises:
            HostError: the kernel refused, or there is no room for its answers.

        """
        which, found = tuple(indexes), {}
        told = self.ask_each([counters.request(one) for one in which], "read counters")
        for one, answer in zip(which, told, strict=True):
            if not isinstance(answer, Failure):
                data, begin, end = answer
                found[one] = counters.parse(data[begin:end])
            elif answer.errno not in _ABSENT:
                raise RefusedError(f"read the counters of link {one}", answer)
        return found
