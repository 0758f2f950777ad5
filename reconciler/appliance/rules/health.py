"""Rules that tie what the file says of health and failure to the rest of it: see `references`."""

from collections.abc import Collection, Iterator
from typing import Any, TypeGuard

from reconciler.appliance.rules.raw import duration, get, items, mapping
from reconciler.appliance.yaml.document import Document, Mistake, Path
from reconciler.appliance.yaml.words import Guesser, shown

_NEEDS_LIBVIRT = ("domain", "guest-ping")
_TELL_CHANGES = ("domain", "carrier", "canary")


def mistakes(document: Document, segments: Collection[str]) -> Iterator[Mistake]:
    """Signals, groups and restarts that refer to what the file does not declare, or contradict each other."""
    signals = mapping(document.data, "health", "signals")
    vm = mapping(document.data, "vm")
    for name, signal in signals.items():
        path: Path = ("health", "signals", name)
        segment = get(signal, "segment")
        if isinstance(segment, str) and segment not in segments:
            yield _unknown(document, (*path, "segment"), "segment", segment, segments)
        if get(signal, "kind") in _TELL_CHANGES:
            for key in ("fall", "rise"):
                count = get(signal, key)
                if _number(count) and count > 1:
                    what = f"`{key}` counts readings, and this kind of signal tells only changes"
                    yield Mistake(document.value((*path, key)), (*path, key), what, "give a duration, such as 50ms")
        if get(signal, "kind") in _NEEDS_LIBVIRT and "libvirt" not in vm:
            what = f"the signal `{name}` asks libvirt, and `vm.libvirt` is missing"
            yield Mistake(document.value((*path, "kind")), path, what, "declare vm.libvirt, or remove the signal")
    yield from _groups(document, signals)
    yield from _orders(document)


def _groups(document: Document, signals: dict[str, Any]) -> Iterator[Mistake]:
    seen: dict[str, str] = {}  # in which group each signal is
    for name, group in mapping(document.data, "health", "groups").items():
        path: Path = ("health", "groups", name)
        quorum = get(group, "n_of")
        members = [*items((*path, "any_of"), get(group, "any_of"))]
        members += items((*path, "n_of", "signals"), get(quorum, "signals"))
        for at, signal in members:
            if signal not in signals:
                yield _unknown(document, at, "signal", signal, signals)
            elif signal in seen:
                what = f"the signal {shown(signal)} is in the group `{seen[signal]}` already"
                right = "a signal speaks through one group" if seen[signal] != name else "it counts once"
                yield Mistake(document.value(at), at, what, f"{right}: remove one")
            seen.setdefault(signal, name)
        count = get(quorum, "count")
        if _number(count) and count > len(members) > 0:
            at = (*path, "n_of", "count")
            what = f"{count} of {len(members)} signals can never be healthy"
            yield Mistake(document.value(at), at, what, f"at most {len(members)}")


def _orders(document: Document) -> Iterator[Mistake]:
    """Durations that must not exceed each other, and restarts that nothing can carry out."""
    yield from _not_above(document, (("health", "hold_down"), "30s"), (("health", "hold_down_max"), "10m"))
    restart: Path = ("on_failure", "restart")
    yield from _not_above(document, ((*restart, "backoff"), "5s"), ((*restart, "backoff_max"), "5m"))
    for name, signal in mapping(document.data, "health", "signals").items():
        yield from _above_zero(
            document, *(("health", "signals", name, key) for key in ("interval", "every", "timeout"))
        )
        yield from _above_zero(document, ("health", "signals", name, "negative", "every"))
        if get(signal, "kind") == "heartbeat":
            yield from _longer_than_a_beat(document, ("health", "signals", name))
        if get(signal, "kind") in ("command", "http", "guest-ping"):
            path: Path = ("health", "signals", name)
            yield from _not_above(document, ((*path, "timeout"), "2s"), ((*path, "every"), "5s"))
    yield from _above_zero(document, (*restart, "boot_timeout"), ("vm", "programs", "timeout"))
    vm = mapping(document.data, "vm")
    ladder = get(mapping(document.data, "on_failure", "restart"), "ladder")
    if ladder and not {"libvirt", "programs"} & vm.keys():
        what = "nothing that could restart the VM is declared"
        right = "declare vm.libvirt or vm.programs, or remove the ladder"
        yield Mistake(document.key((*restart, "ladder")), (*restart, "ladder"), what, right)
    if get(mapping(document.data, "on_failure"), "order") == "restart-then-bypass" and (
        ladder == [] or not {"libvirt", "programs"} & vm.keys()
    ):
        path = ("on_failure", "order")
        right = "declare vm.libvirt or vm.programs with a ladder, or bypass first"
        yield Mistake(document.value(path), path, "nothing that could restart the VM first is declared", right)


def _above_zero(document: Document, *paths: Path) -> Iterator[Mistake]:
    """What is done so often, or has so much time, cannot be done in none."""
    for path in paths:
        if duration(_written(document, path)) == 0:
            what = f"`{path[-1]}` is no time at all"
            yield Mistake(document.value(path), path, what, "give a duration above zero")


def _longer_than_a_beat(document: Document, path: Path) -> Iterator[Mistake]:
    fall = duration(_written(document, (*path, "fall")))
    interval = _written(document, (*path, "interval")) or "100ms"
    beat = duration(interval)
    if fall is not None and beat is not None and fall <= beat:
        what = f"a beat comes each {interval}: between two of them it would fail"
        yield Mistake(document.value((*path, "fall")), (*path, "fall"), what, "longer than `interval`")


def _not_above(document: Document, low: tuple[Path, str], high: tuple[Path, str]) -> Iterator[Mistake]:
    """Each a path and its default."""
    (least_path, least_default), (most_path, most_default) = low, high
    least = _written(document, least_path) or least_default
    most = _written(document, most_path) or most_default
    low_ms, high_ms = duration(least), duration(most)
    if low_ms is not None and high_ms is not None and low_ms > high_ms:
        path = least_path if _written(document, least_path) else most_path
        what = f"`{least_path[-1]}` is {least}, and `{most_path[-1]}` is {most}"
        yield Mistake(document.value(path), path, what, f"`{least_path[-1]}` may be at most `{most_path[-1]}`")


def _number(value: Any) -> TypeGuard[float]:
    # To JSON Schema, 3.0 is an integer.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _written(document: Document, path: Path) -> Any:
    return get(mapping(document.data, *map(str, path[:-1])), str(path[-1]))


def _unknown(document: Document, path: Path, kind: str, name: str, known: Collection[str]) -> Mistake:
    guess = Guesser().closest(name, known)
    declared = ", ".join(list(known)[:20]) + (", …" if len(known) > 20 else "")
    right = f"did you mean `{guess}`?" if guess else f"declared are: {declared or 'none'}"
    return Mistake(document.value(path), path, f"no {kind} is called {shown(name)}", right)
