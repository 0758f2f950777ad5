"""A look at this machine without a daemon: what differs from the file, and where frames go, by the kernel alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.appliance.declared import INSPECT, Appliance
from reconciler.guard.compare import compare, unseen
from reconciler.guard.rules import bind_guard, digest_of, lost_ports, recall_nics
from reconciler.host import clock
from reconciler.host.guard.reading import TableSeen, read_table, recall_guard
from reconciler.host.netlink.kernel import Kernel
from reconciler.host.path_notes import recall_paths, since
from reconciler.network.audit import Audit, Beside
from reconciler.network.cycle import audit
from reconciler.network.desired import Choice
from reconciler.network.diff import Difference
from reconciler.network.path import doubts_of, path_json, paths, recall_since
from reconciler.warning import Severity, Warning, worst_first

# Versioned: a change that could break a reader counts up.
STATUS_FORMAT = "reconciler.status/2"


def look(appliance: Appliance, choice: Choice, beside: tuple[Beside, ...] = ()) -> Audit:
    """All that a dry run tells; `beside`: what differs and is known already.

    Raises:
        TransientError, HostError: the network could not be read.

    """
    with Kernel() as kernel:
        found = audit(kernel, appliance, choice)
    seen = read_table(appliance, found.actual)
    doubts = doubts_of(appliance, found.warnings)
    taken = paths(appliance, found.actual, seen.guards, doubts, bound=found.bound)
    return Audit(found, (*beside, *_guard(appliance, found, seen)), taken, tuple(_unseen(appliance, seen)))


def _guard(appliance: Appliance, found: Difference, seen: TableSeen) -> Iterator[Beside]:
    if seen.trouble or seen.foreign:
        return
    noted = recall_guard(appliance.sku) or {}
    try:
        secret, lost = bytes.fromhex(str(noted.get("secret", ""))), lost_ports(recall_nics(noted), found.problems)
    except (ValueError, TypeError, AttributeError):
        secret, lost = b"", {}
    yield from compare(
        appliance,
        on=noted.get("on") is not False,
        made=digest_of(appliance.sku, bind_guard(appliance, found.desired, found.actual, lost), secret),
        digest=str(noted.get("digest")),
        noted=noted.get("fingerprint"),
        fingerprint=seen.fingerprint,
    )


def _unseen(appliance: Appliance, seen: TableSeen) -> Iterator[Warning]:
    declared = any(segment.guard for segment in appliance.segments.values())
    if seen.foreign:
        what = "a table of its name is there that was not made by us"
        yield Warning("guard-foreign", Severity.ERROR, "guard", what, "rename it, or remove it")
    elif seen.trouble and declared:
        yield unseen(seen.trouble)


def status(appliance: Appliance, audit: Audit, why: Warning) -> dict[str, Any]:
    """A status of the shape that the daemon's has, as far as the kernel tells. `why`: why no daemon does.

    What only a daemon knows is null, or an empty list: verdicts, signals, the VM, holds, decisions.
    """
    notes, now = recall_since(recall_paths(appliance.sku)), clock.now_ms()
    segments = []
    for name, taken in audit.taken.items():
        path, at_ms = notes.get(name, (None, None))
        segments.append(
            {"name": name, "topology": INSPECT, **_UNKNOWN, "why": [taken.evidence]}
            | path_json(taken)
            | since(at_ms if path is taken.path else None, now)
        )
    warnings = worst_first((why, *audit.warnings, *(one.warning for one in audit.beside)))
    return {
        "format": STATUS_FORMAT,
        "sku": appliance.sku,
        "choice": dict.fromkeys(appliance.segments, INSPECT),
        "segments": segments,
        "vm": None,
        "signals": [],
        "warnings": [one.as_json() for one in warnings],
        "network": {
            "converged": audit.as_declared,
            "changes": len(audit.found.changes),
            "repaired": 0,
        },
        "decisions": [],
        "guard": None,
        "pid": None,
    }


# What no kernel tells of a segment.
_UNKNOWN: Mapping[str, Any] = {
    "course": None,
    "since_ms": None,
    "verdict": "unknown",
    "flaps": 0,
    "hold_down_ms": None,
    "hold_down_left_ms": None,
    "hold": None,
}
