"""What a valid file is unwise to say: it can be done as declared, and does not protect as its author may think."""

from collections.abc import Iterator

from reconciler.appliance.declared import Appliance, Canary, Segment
from reconciler.warning import Severity, Warning


def warnings(appliance: Appliance) -> Iterator[Warning]:
    """All of it."""
    grouped = {name for group in appliance.health.groups.values() for name in group.signals}
    for name, signal in appliance.health.signals.items():
        if not isinstance(signal.source, Canary) or signal.required or name in grouped:
            continue
        if by_probes := [each for each in signal.source.segments if _goes_by_probes(appliance.segments[each])]:
            where = ", ".join(by_probes)
            what = (
                f"it is not required: when its probes do not come back, the guard has {where}, and nothing is decided"
            )
            right = "leave `required: false` out"
            yield Warning("canary-not-required", Severity.WARNING, f"signal {name}", what, right)
    for name, segment in appliance.segments.items():
        if len(segment.ports) > 2:
            what = f"it joins {len(segment.ports)} ports: frames may leave at any of them, and all fail over together"
            right = "if they are several wires, declare a segment for each pair"
            yield Warning("segment-of-many", Severity.NOTE, f"segment {name}", what, right)


def _goes_by_probes(segment: Segment) -> bool:
    return segment.guard is not None and not segment.guard.by_daemon
