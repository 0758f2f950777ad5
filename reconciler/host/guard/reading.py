"""The guard as the kernel has it, for who looks without a daemon: read from its table, whatever is declared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.appliance.declared import Appliance
from reconciler.errors import ReconcilerError
from reconciler.guard.rules import comment_of, table_of
from reconciler.host import places
from reconciler.host.guard.netfilter import Netfilter
from reconciler.host.statefile import StateFile
from reconciler.network.path import Gate, Hook, PathGuard
from reconciler.network.state import Network


@dataclass(frozen=True, slots=True)
class TableSeen:
    """The table of an appliance.

    `fingerprint` None: there is none. `guards`: what it does with each segment that is declared to be guarded, or that
    it is for. `trouble`: why it could not be read. `foreign`: there is one of its name that is not ours.
    """

    fingerprint: str | None = None
    guards: Mapping[str, PathGuard] = field(default_factory=dict)
    trouble: str = ""
    foreign: bool = False


def read_table(appliance: Appliance, actual: Network) -> TableSeen:
    """Read it, in the network namespace that the thread is in. Never raises: what cannot be seen is told."""
    try:
        with Netfilter() as netfilter:
            return _read(netfilter, appliance, actual)
    except ReconcilerError as error:
        return TableSeen(guards=_declared(appliance, Gate.UNKNOWN), trouble=str(error))


def _declared(appliance: Appliance, gate: Gate) -> dict[str, PathGuard]:
    return {name: PathGuard(gate) for name, segment in appliance.segments.items() if segment.guard}


def _read(netfilter: Netfilter, appliance: Appliance, actual: Network) -> TableSeen:
    name = table_of(appliance.sku)
    head = netfilter.tables().get(name)
    if head is None:
        return TableSeen(guards=_declared(appliance, Gate.MISSING))
    if head.comment != comment_of(appliance.sku):
        return TableSeen(guards=_declared(appliance, Gate.UNKNOWN), foreign=True)
    read = netfilter.read(name)
    if read is None:
        return TableSeen(guards=_declared(appliance, Gate.MISSING))
    by_segment: dict[str, dict[str, Hook]] = {}
    indexes = {link.name: link.nic.index for link in actual.links if link.nic}
    for chain, (device, out) in read.hooks.items():
        segment, is_port, role = chain.partition("/port/")
        if is_port and device in indexes:
            by_segment.setdefault(segment, {})[role] = Hook(indexes[device], out)
    guards, sets = _declared(appliance, Gate.MISSING), read.sets
    for segment in appliance.segments:
        leases = [one for one in sets if one.startswith(f"{segment}/lease/")]
        if not leases:
            continue
        hooks = by_segment.get(segment, {})
        if all(netfilter.elements(name, lease) for lease in leases):
            gate = Gate.LEASED
        elif netfilter.elements(name, f"{segment}/aside"):
            gate = Gate.ASIDE
        else:
            # Whether it joins or cuts, its rules say: the file may have changed since.
            gate = Gate.JOINED if any(hook.out for hook in hooks.values()) or not hooks else Gate.CUT
        guards[segment] = PathGuard(gate, hooks)
    return TableSeen(read.fingerprint, guards)


def guard_notes(sku: str) -> StateFile:
    """Where the guard's secret lies, and what its table looked like when it was set."""
    return StateFile(places.run_dir() / f"{sku}.guard.json")


def recall_guard(sku: str) -> Mapping[str, Any] | None:
    """What was noted when the table was set; None where nothing was, or it cannot be read."""
    try:
        found = guard_notes(sku).read()
        return dict(found) if found is not None else None
    except (OSError, ValueError, TypeError):
        return None
