"""From what the vendor wrote of the guard to what it amounts to: see `expand`."""

from collections.abc import Iterator, Mapping
from itertools import count

from reconciler.appliance import declared
from reconciler.appliance.written import network as model
from reconciler.appliance.written.guard import Guard, Probe
from reconciler.appliance.yaml.words import milliseconds

# What the signal is called that a guard without one gets.
_NAMES = ("canary", "canary-guard")
_CROSSING_NAMES = ("path", "path-guard")
_ONCE = declared.Streak(readings=1)


def guard(file: model.ApplianceFile, segment: model.Segment | None) -> declared.Guard | None:
    """The guard of a segment; `segment` is what the file says of it, None: nothing."""
    own = segment is not None and "guard" in segment.model_fields_set
    written = segment.guard if segment is not None and own else file.guard
    return None if written is None else _guard(written, fails_closed(file))


def fails_closed(file: model.ApplianceFile) -> bool:
    """Whether a segment fails closed that does not say so itself."""
    return file.on_failure is not None and file.on_failure.fail == "closed"


def closed(file: model.ApplianceFile, segments: Mapping[str, declared.Segment]) -> frozenset[str]:
    """The segments whose traffic stops when the VM fails."""
    default = fails_closed(file)
    return frozenset(name for name, segment in segments.items() if (segment.guard.closed if segment.guard else default))


def implicit_canary(
    signals: Mapping[str, declared.Signal], segments: Mapping[str, declared.Segment]
) -> declared.Signal | None:
    """The signal of those guards of which none in the file speaks; None where there are no such."""
    covered = {
        name
        for signal in signals.values()
        if isinstance(signal.source, declared.Canary)
        for name in signal.source.segments
    }
    # Where the daemon renews the lease on its verdict, the file says what that rests on: probes may not pass at all.
    mute = tuple(
        name for name, one in segments.items() if one.guard and not one.guard.by_daemon and name not in covered
    )
    if not mute:
        return None
    name = next(name for name in _names(_NAMES) if name not in signals)
    return declared.Signal(name, declared.Canary(segments=mute), _ONCE, _ONCE)


def crossing(
    signals: Mapping[str, declared.Signal], segments: Mapping[str, declared.Segment]
) -> declared.Signal | None:
    """The signal of what is counted between ports and adapters; None where no guard counts."""
    counted = tuple(name for name, one in segments.items() if one.guard and one.guard.loss)
    if not counted:
        return None
    name = next(name for name in _names(_CROSSING_NAMES) if name not in signals)
    return declared.Signal(name, declared.HostPath(counted), _ONCE, _ONCE)


def guarded(segments: Mapping[str, declared.Segment]) -> tuple[str, ...]:
    """The names of the segments that have a guard."""
    return tuple(name for name, segment in segments.items() if segment.guard)


def _names(first: tuple[str, ...]) -> Iterator[str]:
    yield from first
    yield from map(f"{first[-1]}-{{}}".format, count(2))


def _guard(written: Guard, closed: bool) -> declared.Guard:
    return declared.Guard(
        milliseconds(written.lease),
        _probe(written.probe),
        closed if written.fail is None else written.fail == "closed",
        written.latch,
        milliseconds(written.grace),
        milliseconds(written.drain),
        written.lease_by == "daemon",
        None
        if written.loss is None
        else declared.Loss(int(written.loss.share[:-1]), milliseconds(written.loss.within)),
    )


def _probe(written: Probe) -> declared.Probe:
    return declared.Probe(
        milliseconds(written.every),
        declared.Frame(written.frame),
        written.source,
        written.destination,
        written.port,
    )
