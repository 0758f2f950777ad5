"""One turn of the loop: observe, compare, plan, execute, and observe again to say what is true."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from reconciler.appliance.declared import Appliance
from reconciler.network.bind import names_of
from reconciler.network.desired import Choice, desired
from reconciler.network.diff import Difference, difference
from reconciler.network.plan import Outcome, Plan, plan
from reconciler.network.state import Network
from reconciler.network.surroundings import Surroundings


class Host(Protocol):
    """What a kernel, live or fake, can do for us; the contract stands with `host.netlink.kernel.Kernel`."""

    def observe(self, names: Collection[str] | None = None) -> Network:
        """The network as it is."""
        ...

    def survey(self, actual: Network) -> Surroundings:
        """What else there is that may take frames off their way."""
        ...

    def execute(self, plan: Plan, actual: Network, stop: Callable[[], bool] = ...) -> tuple[Outcome, ...]:
        """Carry out a plan that was made against `actual`."""
        ...

    def prepare(self, plan: Plan, actual: Network) -> Callable[[], object] | None:
        """A plan made ready: calling what is returned carries it out, in one system call. None: it cannot be."""
        ...


@dataclass(frozen=True, slots=True)
class TurnReport:
    """What a turn found, did and left. `after` is what an observation found when all was done."""

    before: Difference
    plan: Plan
    outcomes: tuple[Outcome, ...]
    after: Difference

    @property
    def converged(self) -> bool:
        """Whether the live network is now the desired one, with nothing refused or missing."""
        return not self.after.changes and not self.after.problems


def audit(host: Host, appliance: Appliance, choice: Choice, known: Surroundings | None = None) -> Difference:
    """What differs now. Changes nothing. `known`: what was found around it a moment ago; else it is looked for."""
    return compare(host, appliance, desired(appliance, choice), known)


def compare(host: Host, appliance: Appliance, wanted: Network, known: Surroundings | None = None) -> Difference:
    """As `audit`, for any network that consists of the appliance's links."""
    names = names_of(appliance)
    found = difference(appliance, wanted, host.observe(names))
    if names is not None and any(problem.code == "port-missing" for problem in found.problems):
        # The vendor wants to know which NICs there are instead: only now is it worth looking at all of them.
        found = difference(appliance, wanted, host.observe())
    around = host.survey(found.actual) if known is None else known
    return replace(found, actual=replace(found.actual, surroundings=around))


def reconcile(host: Host, appliance: Appliance, choice: Choice, stop: Callable[[], bool] = lambda: False) -> TurnReport:
    """Make the live network the desired one, as far as that is possible and allowed.

    Raises:
        TransientError: the network did not hold still long enough to be read.
        HostError: the kernel refused to be read.

    """
    return bring(host, appliance, desired(appliance, choice), stop)


def bring(host: Host, appliance: Appliance, wanted: Network, stop: Callable[[], bool] = lambda: False) -> TurnReport:
    """As `reconcile`, for any network that consists of the appliance's links."""
    before = compare(host, appliance, wanted)
    todo = plan(before)
    outcomes = host.execute(todo, before.actual, stop) if todo.operations else ()
    after = compare(host, appliance, wanted) if todo.operations else before
    return TurnReport(before, todo, outcomes, after)
