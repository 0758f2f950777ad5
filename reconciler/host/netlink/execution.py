"""Carrying out a plan: batches of netlink messages, and the few things that only ioctls and sysctls can do."""

import errno
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path

from reconciler.host import ioctl
from reconciler.host.netlink import answers
from reconciler.host.netlink.changes import encode
from reconciler.host.netlink.connection import Connection
from reconciler.host.netlink.rtnetlink import numbered
from reconciler.host.netlink.sockets import CHANGES_AT_ONCE, Failure
from reconciler.network.plan import MakeLink, Operation, Outcome, Plan, RemoveLink, SetLink, Status, Step
from reconciler.network.state import Kind, Network, Setting

_IPV6 = Path("/proc/sys/net/ipv6/conf")
_WHAT = "change links"


class _Way(Enum):
    NETLINK = 1
    IOCTL = 2
    SYSCTL = 3


class Execution:
    """One plan on its way into the kernel."""

    def __init__(self, connection: Connection, ethtool: ioctl.Ethtool, plan: Plan, actual: Network) -> None:
        self._connection = connection
        self._ethtool = ethtool
        self._plan = plan
        self._index_of = {link.name: link.nic.index for link in actual.links if link.nic}
        self._failures: dict[int, Failure] = {}
        self._skipped: dict[int, str] = {}

    def run(self, stop: Callable[[], bool]) -> tuple[Outcome, ...]:
        """Carry the plan out; what became of each operation."""
        for group in _groups(self._plan.operations):
            if stop():
                self._skipped |= dict.fromkeys(group, "interrupted")
                continue
            self._carry_out([position for position in group if not self._hopeless(position)])
        return tuple(self._outcome(position) for position in range(len(self._plan.operations)))

    def _hopeless(self, position: int) -> bool:
        """Whether something that this operation needs was not done; if so, it is skipped."""
        for need in self._plan.needs[position]:
            if need in self._failures or need in self._skipped:
                self._skipped[position] = "what it needs was not done"
                return True
        return False

    def _carry_out(self, positions: list[int]) -> None:
        if not positions:
            return
        operations = self._plan.operations
        if _way(operations[positions[0]]) is _Way.NETLINK:
            self._send(positions)
        else:
            for position in positions:
                self._call(position)
        # Failures within the group: what needed the failed one could not be known to be hopeless before.
        for position in positions:
            if self._plan.needs[position] and self._hopeless(position):
                self._failures.pop(position, None)
        made = [operations[position].link.name for position in positions if operations[position].step is Step.MAKE]
        self._index_of |= {raw.name: raw.index for raw in self._look_up(made)}

    def _look_up(self, names: list[str]) -> list[answers.RawLink]:
        return [answers.link(payload, 0, len(payload)) for payload in self._connection.look_up(names)]

    def _send(self, positions: list[int]) -> None:
        batch: list[bytes] = []
        owners: list[int] = []
        for position in positions:
            try:
                messages = encode(self._plan.operations[position], self._index_of)
            except KeyError as error:
                self._refused(position, Failure(errno.ENODEV, f"no interface {error}"))
                continue
            batch += messages
            owners += [position] * len(messages)
        for start in range(0, len(batch), CHANGES_AT_ONCE):
            refused = self._connection.send(numbered(batch[start : start + CHANGES_AT_ONCE]), _WHAT)
            for offset, failure in refused.items():
                self._refused(owners[start + offset], failure)

    def _refused(self, position: int, failure: Failure) -> None:
        if failure.errno not in _already(self._plan.operations[position]):
            self._failures[position] = failure

    def _call(self, position: int) -> None:
        try:
            match self._plan.operations[position]:
                case MakeLink(link):
                    ioctl.make_tap(link.name, lambda: self._mark(position))
                case SetLink(link, Setting.IPV6, _, new):
                    _write_sysctl(link.name, "0" if new else "1")
                case SetLink(link, Setting.LRO, _, new):
                    self._ethtool.set_lro(link.name, new is True)
                case SetLink(link):
                    ioctl.persist_tap(link.name)
                case RemoveLink():
                    raise NotImplementedError("links are removed by netlink")
        except OSError as error:
            self._refused(position, Failure(error.errno or errno.EIO, _about(error)))

    def _mark(self, position: int) -> None:
        link = self._plan.operations[position].link
        index_of = {raw.name: raw.index for raw in self._look_up([link.name])}
        if not index_of:
            raise OSError(errno.ENODEV, "it vanished before it could be marked")
        value = link.settings[Setting.MARK]
        marking = encode(SetLink(link, Setting.MARK, None, value), index_of)
        refused = self._connection.send(numbered(marking), _WHAT)
        if refused:
            raise OSError(refused[0].errno, f"marking it failed: {refused[0].message}")

    def _outcome(self, position: int) -> Outcome:
        operation = self._plan.operations[position]
        if position in self._skipped:
            return Outcome(operation, Status.SKIPPED, self._skipped[position])
        if position in self._failures:
            failure = self._failures[position]
            return Outcome(operation, Status.FAILED, str(failure), failure.errno)
        return Outcome(operation, Status.DONE)


def encoded(plan: Plan, actual: Network) -> bytes:
    """A whole plan as one batch; empty, where it does not fit into one or takes more than netlink."""
    index_of = {link.name: link.nic.index for link in actual.links if link.nic}
    plain = all(_way(one) is _Way.NETLINK and one.step not in (Step.MAKE, Step.REMOVE) for one in plan.operations)
    try:
        batch = [message for one in plan.operations for message in encode(one, index_of)] if plain else []
    except KeyError:
        # Something that is to hold the others does not exist yet.
        return b""
    return numbered(batch) if len(batch) <= CHANGES_AT_ONCE else b""


def _way(operation: Operation) -> _Way:
    match operation:
        case MakeLink(link):
            return _Way.IOCTL if link.kind is Kind.TAP else _Way.NETLINK
        case SetLink(setting=Setting.IPV6):
            return _Way.SYSCTL
        case SetLink(setting=Setting.PERSISTENT | Setting.LRO):
            return _Way.IOCTL
        case _:
            return _Way.NETLINK


def _groups(operations: Sequence[Operation]) -> Iterator[list[int]]:
    """Positions of operations that go into the kernel together.

    What is made must exist before it can be told what to be, and nothing is removed before all else is known to have
    worked; between these, only the way into the kernel and the size of a batch part the groups.
    """
    group: list[int] = []
    last: tuple[object, ...] = ()
    for position, operation in enumerate(operations):
        key = (_way(operation), operation.step is Step.MAKE, operation.step is Step.REMOVE)
        if group and (key != last or len(group) >= CHANGES_AT_ONCE):
            yield group
            group = []
        last = key
        group.append(position)
    if group:
        yield group


def _already(operation: Operation) -> frozenset[int]:
    """Refusals that say that what was asked for is already so."""
    match operation:
        case RemoveLink():
            return frozenset({errno.ENODEV})
        case SetLink(setting=Setting.ADDRESSES):
            return frozenset({errno.EADDRNOTAVAIL})
        case SetLink(setting=Setting.ADDRGENMODE):
            return frozenset({errno.EAFNOSUPPORT})
        case _:
            return frozenset()


def _write_sysctl(interface: str, value: str) -> None:
    if not _IPV6.exists():
        # A kernel without IPv6: there is nothing to turn off.
        return
    with open(_IPV6 / interface / "disable_ipv6", "w", encoding="ascii") as file:
        file.write(value)


def _about(error: OSError) -> str:
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
