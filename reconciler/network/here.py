"""Who is who on the live host: what was bound, looked up by role and by index."""

from collections.abc import Iterator

from reconciler.appliance.declared import Appliance
from reconciler.network.bind import Bound
from reconciler.network.state import Link, Network, Role


class Here:
    """The links of an appliance on the live host. `by_index`: all of the host's; `adapters`: roles, by segment."""

    def __init__(self, appliance: Appliance, actual: Network, bound: Bound) -> None:
        self.appliance, self.actual = appliance, actual
        self.by_index = {link.nic.index: link for link in actual.links if link.nic}
        self._live = {link.role: actual.by_name.get(link.name) for link in bound.desired.links if link.role}
        self._problems = {problem.about: problem.text for problem in bound.problems}
        self.adapters: dict[str, list[str]] = {}
        for role, home in appliance.homes.items():
            self.adapters.setdefault(home, []).append(role)
        self._declared = {link.name for link in bound.desired.links}

    def link(self, kind: str, role: str) -> Link | None:
        """The one that plays a role; None: it is not there."""
        return self._live.get(Role(kind, role))

    def missing(self, role: str) -> str:
        """Why a port is not there, for people."""
        port = str(Role("port", role))
        return f"{port}: {self._problems.get(port, 'it is not there')}"

    def strangers(self, segment: str) -> Iterator[Link]:
        """Interfaces that nobody declared in a segment's switches: a port that is not found may be among them."""
        names = {
            switch.name
            for topology in self.appliance.topologies.values()
            for switch in topology.switches
            if switch.segment == segment
        }
        return (link for link in self.actual.links if link.switch in names and link.name not in self._declared)
