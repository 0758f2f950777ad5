"""Rules that tie what the file says of the guard, and of its canary, to the rest of it: see `references`."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from reconciler.appliance.declared import INSPECT, MAX_DIRECTIONS
from reconciler.appliance.rules.raw import duration, get, items, mapping
from reconciler.appliance.yaml.document import Document, Mistake, Path
from reconciler.appliance.yaml.words import shown

_LEASE_MS = (10, 60_000)
# The daemon gives a verdict when something has changed; what it renews on that must outlast a busy machine.
_DAEMONS_LEASE_MS = 1_000
_DRAIN_MS = 10_000
_GRACE_MS = 3_600_000
_LOSS_MS = range(500, 60_001)
_DEFAULTS = {"within": "1s", "lease": "200ms", "every": "20ms", "drain": "100ms", "grace": "30s"}
# A byte of the probe numbers its direction, so the frame would allow 256. But a guard that has tripped copies a frame
# once for each other port, one rule's statement after the other: beyond this nobody has measured it.
MAX_PORTS = 64


def mistakes(document: Document, segments: Mapping[str, Collection[str]]) -> Iterator[Mistake]:
    """Guards that contradict themselves, or cannot be had there, and canaries without any; `segments`: their ports."""
    yield from _one(document, ("guard",))
    for name in mapping(document.data, "segments"):
        yield from _one(document, ("segments", name, "guard"))
    guarded = [name for name in segments if _is_guarded(document.data, name)]
    for name in guarded:
        yield from _fits(document, name, segments[name])
    if (directions := sum(len(segments[name]) for name in guarded)) > MAX_DIRECTIONS:
        path: Path = ("guard",) if ("guard",) in document.values else ("segments", guarded[-1], "guard")
        what = f"{len(guarded)} guarded segments have {directions} ports together"
        right = f'one guard serves at most {MAX_DIRECTIONS}: give segments that need none `guard: "off"`'
        yield _wrong(document, path, what, right)
    yield from _canaries(document, guarded, segments)


def _one(document: Document, path: Path) -> Iterator[Mistake]:
    """The durations of one guard, against their bounds and each other."""
    written: Any = document.data
    for step in path:
        written = get(written, str(step))
    if not isinstance(written, dict):
        return
    lease, lease_ms = _given(written, "lease")
    least, most = _LEASE_MS
    if lease_ms is not None and not least <= lease_ms <= most:
        yield _wrong(document, (*path, "lease"), f"a lease of {lease}", "from 10ms to 60s")
    elif lease_ms is not None:
        yield from _probed(document, path, written, lease, lease_ms)
        if get(written, "lease_by") == "daemon" and lease_ms < _DAEMONS_LEASE_MS:
            what = f"a lease of {lease} that the daemon renews on its verdict"
            yield _wrong(document, (*path, "lease_by"), what, "it needs a `lease` of at least 1s")
    for key, most, right in (("drain", _DRAIN_MS, "at most 10s"), ("grace", _GRACE_MS, "at most 1h")):
        text, value = _given(written, key)
        if value is not None and value > most:
            yield _wrong(document, (*path, key), f"`{key}` is {text}", right)
    loss = written.get("loss")
    if isinstance(loss, dict):
        text, value = _given(loss, "within")
        if value is not None and value not in _LOSS_MS:
            yield _wrong(document, (*path, "loss", "within"), f"a loss within {text}", "from 500ms to 1m")


def _probed(document: Document, path: Path, guard: dict[str, Any], lease: str, lease_ms: int) -> Iterator[Mistake]:
    """How often, beside a lease that is one."""
    probe = guard.get("probe", {})
    every, every_ms = (probe, duration(probe)) if isinstance(probe, str) else _given(probe, "every")
    at = (*path, "probe", "every") if isinstance(get(probe, "every"), str) else (*path, "probe")
    if every_ms == 0:
        yield _wrong(document, at, "a probe each 0 ms", "at least 1ms")
    elif every_ms is not None and every_ms * 4 > lease_ms:
        at = at if at in document.values else (*path, "lease")
        what = f"a probe each {every}, and a lease of {lease}"
        yield _wrong(document, at, what, "at least four probes a lease: one late probe must not trip it")


def _given(data: Any, key: str) -> tuple[str, int | None]:
    """The duration at `key` as it is written, or by default, and in milliseconds; None where it is no duration."""
    value = data.get(key, _DEFAULTS[key]) if isinstance(data, dict) else None
    return str(value), duration(value)


def _is_guarded(data: Any, segment: str) -> bool:
    own = get(mapping(data, "segments"), segment)
    written = own["guard"] if isinstance(own, dict) and "guard" in own else get(data, "guard")
    return isinstance(written, dict)


def _fits(document: Document, segment: str, ports: Collection[str]) -> Iterator[Mistake]:
    """Whether a segment can have a guard: a ring of directions, from each adapter to the next, one per port."""
    own: Path = ("segments", segment)
    path = (*own, "guard") if (*own, "guard") in document.values else ("guard",)
    if len(ports) > MAX_PORTS:
        what = f"segment {shown(segment)} has {len(ports)} ports"
        yield _wrong(document, path, what, f'a guard serves at most {MAX_PORTS}: give it `guard: "off"`')
    for at, role in items(
        ("topologies", INSPECT, "detached"), get(mapping(document.data, "topologies", INSPECT), "detached")
    ):
        if role in ports:
            what = f"the port {shown(role)} of the guarded segment {shown(segment)} crosses no VM in `inspect`"
            yield _wrong(document, at, what, 'attach it, take it out of the segment, or give that `guard: "off"`')


def _canaries(document: Document, guarded: list[str], segments: Collection[str]) -> Iterator[Mistake]:
    """Each segment's guard is spoken of once, and only guards are."""
    spoken: dict[str, str] = {}  # of which segments, by which signal
    for name, signal in mapping(document.data, "health", "signals").items():
        if get(signal, "kind") != "canary":
            continue
        path: Path = ("health", "signals", name)
        segment = get(signal, "segment")
        if isinstance(segment, str) and segment not in segments:
            continue  # that is the mistake
        own = isinstance(segment, str)
        about = [segment] if own and segment in guarded else [] if own else guarded
        if not about:
            what = f"segment {shown(segment)} has no guard" if isinstance(segment, str) else "no segment has a guard"
            at = (*path, "segment" if own else "kind")
            yield _wrong(document, at, what, "a canary is the guard's: write `guard: {}`, or remove the signal")
        twice = [one for one in about if one in spoken]
        if twice:
            what = f"the signal `{spoken[twice[0]]}` is the canary of segment {shown(twice[0])} already"
            right = "a segment has one: remove one, or give each its `segment`"
            yield _wrong(document, (*path, "segment" if own else "kind"), what, right)
        spoken |= {one: name for one in about if one not in spoken}


def _wrong(document: Document, path: Path, what: str, right: str) -> Mistake:
    return Mistake(document.value(path), path, what, right)
