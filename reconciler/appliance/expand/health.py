"""From what the vendor wrote of health and failure to what it amounts to: see `expand`."""

from collections.abc import Mapping
from typing import assert_never

from reconciler.appliance import declared
from reconciler.appliance.expand import guard as expand_guard
from reconciler.appliance.written import health as care
from reconciler.appliance.written import network as model
from reconciler.appliance.yaml.words import milliseconds


def health(written: care.Health | None, segments: Mapping[str, declared.Segment]) -> declared.Health:
    """How health is judged; a guard that nothing in the file speaks of has its canary all the same."""
    written = written or care.Health()
    groups = {name: _group(name, group) for name, group in written.groups.items()}
    grouped = {role for group in groups.values() for role in group.signals}
    guarded = expand_guard.guarded(segments)
    signals = {name: _signal(name, signal, name in grouped, guarded) for name, signal in written.signals.items()}
    if canary := expand_guard.implicit_canary(signals, segments):
        signals[canary.name] = canary
    if crossing := expand_guard.crossing(signals, segments):
        signals[crossing.name] = crossing
    return declared.Health(
        signals,
        groups,
        milliseconds(written.grace),
        milliseconds(written.hold_down),
        milliseconds(written.hold_down_max),
        milliseconds(written.flap_memory),
    )


def on_failure(file: model.ApplianceFile, closed: frozenset[str]) -> declared.OnFailure:
    """What happens when the VM fails, and which segments fail closed. Without a hypervisor, nothing is restarted."""
    written = file.on_failure or care.OnFailure()
    restart = written.restart
    startable = file.vm.libvirt or file.vm.programs
    return declared.OnFailure(
        written.order == "restart-then-bypass",
        closed,
        tuple(declared.Rung(rung.method, rung.attempts) for rung in restart.ladder) if startable else (),
        milliseconds(restart.backoff),
        milliseconds(restart.backoff_max),
        milliseconds(restart.boot_timeout),
        restart.first.attempts,
        milliseconds(restart.first.within),
    )


def hypervisor(vm: model.Vm) -> declared.Hypervisor | None:
    """What runs the VM, as far as the file tells."""
    if vm.libvirt:
        return declared.Libvirt(vm.libvirt.uri, vm.libvirt.domain)
    if vm.programs:
        programs = vm.programs
        return declared.Programs(
            tuple(programs.start),
            tuple(programs.stop),
            tuple(programs.status),
            tuple(programs.reset or ()),
            milliseconds(programs.timeout),
        )
    return None


def _signal(name: str, written: care.Signal, grouped: bool, guarded: tuple[str, ...]) -> declared.Signal:
    return declared.Signal(
        name,
        _source(written, guarded),
        _streak(written.fall),
        _streak(written.rise),
        written.absent.before == "failed",
        written.absent.after == "failed",
        written.required and not grouped,
        written.segment,
    )


def _source(written: care.Signal, guarded: tuple[str, ...]) -> declared.Source:
    match written:
        case care.Heartbeat():
            return declared.Heartbeat(milliseconds(written.interval), written.socket, written.cid, written.port)
        case care.Domain():
            return declared.Domain()
        case care.Carrier():
            return declared.Carrier()
        case care.Canary():
            return _canary(written, guarded)
        case care.GuestPing():
            return declared.GuestPing(milliseconds(written.every), milliseconds(written.timeout))
        case care.Command():
            return declared.Command(tuple(written.run), milliseconds(written.every), milliseconds(written.timeout))
        case care.Http():
            return declared.Http(
                written.url, written.status, milliseconds(written.every), milliseconds(written.timeout)
            )
        case _:
            assert_never(written)


def _canary(written: care.Canary, guarded: tuple[str, ...]) -> declared.Canary:
    segments = guarded if written.segment is None else (written.segment,)
    if written.negative is None:
        return declared.Canary(None, segments)
    frame = written.negative
    every_ms = milliseconds(frame.every)
    return declared.Canary(
        declared.Negative(frame.payload, every_ms, frame.source, frame.destination, frame.port), segments
    )


def _streak(written: int | str) -> declared.Streak:
    if isinstance(written, int):
        return declared.Streak(readings=written)
    return declared.Streak(ms=milliseconds(written))


def _group(name: str, written: care.Group) -> declared.Group:
    if written.n_of:
        return declared.Group(name, tuple(written.n_of.signals), written.n_of.count)
    return declared.Group(name, tuple(written.any_of or ()), 1)
