"""The live kernel: observe its network, execute plans on it.

Four verbs, all for the network namespace that the thread was in when it opened the kernel:

- `observe` reads what is asked for, unprivileged, and never half of it;
- `survey` looks for what else may take frames off their way, which is in no hurry;
- `execute` carries a plan out in as few system calls as the kernel allows, goes on with what does not depend on a
  failed operation, and says what became of each. It believes nothing: whoever wants to know what is true observes;
- `prepare` encodes a plan for when there is no time: carrying it out is then one system call.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Self

from reconciler.errors import HostError
from reconciler.host.ioctl import Ethtool
from reconciler.host.netlink.connection import Connection
from reconciler.host.netlink.execution import Execution, encoded
from reconciler.host.netlink.observation import Observer
from reconciler.host.surroundings.survey import Surveyor
from reconciler.network.counts import LinkCounts
from reconciler.network.plan import Outcome, Plan
from reconciler.network.state import Network
from reconciler.network.surroundings import Surroundings


class Kernel:
    """An open connection to the kernel. Close it, or use it in a with statement."""

    def __init__(self) -> None:
        self._connection = Connection()
        self._ethtool = Ethtool()
        self._observer = Observer(self._connection, self._ethtool)
        self._surveyor = Surveyor(self._connection, self._observer.decode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._surveyor.close()
        self._connection.close()
        self._ethtool.close()

    def observe(self, names: Collection[str] | None = None) -> Network:
        """The network as it is: all of it, or what concerns the interfaces `names`.

        With `names`: these as far as they exist, all bridges and taps, all members of bridges among them, and what
        addresses and routes are on, and lead over.

        Raises:
            TransientError: the network did not hold still.
            HostError: the kernel refused.

        """
        return self._observer.observe(names)

    def survey(self, actual: Network) -> Surroundings:
        """What else there is that may take frames off their way, about the links of `actual`: observed just now.

        Never on the way to a failover: it takes a millisecond or two, and is in no hurry.

        Raises:
            TransientError: what was listed did not hold still.
            HostError: the kernel refused.

        """
        return self._surveyor.survey(actual)

    def count(self, indexes: Iterable[int]) -> dict[int, LinkCounts]:
        """What NICs have counted, by their indexes; those that are not there are left out. Unprivileged.

        Raises:
            HostError: the kernel refused.

        """
        return self._connection.count(indexes)

    def merges(self, interfaces: Iterable[str]) -> bool:
        """Whether any of these interfaces hands over several frames as one (GRO). Unprivileged."""
        return any(self._ethtool.gro(one) is not False for one in interfaces)

    def execute(self, plan: Plan, actual: Network, stop: Callable[[], bool] = lambda: False) -> tuple[Outcome, ...]:
        """Carry out `plan`, which was made against `actual`; what became of each operation, in order.

        `stop` is asked between system calls; once it says yes, the rest is skipped.
        """
        return Execution(self._connection, self._ethtool, plan, actual).run(stop)

    def prepare(self, plan: Plan, actual: Network) -> Callable[[], object] | None:
        """Encode `plan`, which was made against `actual`; what is returned sends it. None: it takes more than that.

        What fails is not told: whoever sends it observes afterwards, as always.
        """
        batch = encoded(plan, actual)
        return partial(self._send, batch) if batch else None

    def _send(self, batch: bytes) -> None:
        with contextlib.suppress(HostError):
            self._connection.send(batch, "switch over")
