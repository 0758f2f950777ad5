"""From what the vendor wrote of health and failure to what it amounts to: see `expand`."""

from typing import assert_never

from reconciler.appliance import care, declared, model
from reconciler.appliance.words import milliseconds


def health(written: care.Health | None) -> declared.Health:
    """How health is judged."""
    written = written or care.Health()
    groups = {name: _group(name, group) for name, group in written.groups.items()}
    grouped = {role for group in groups.values() for role in group.signals}
    return declared.Health(
        {name: _signal(name, signal, name in grouped) for name, signal in written.signals.items()},
        groups,
        milliseconds(written.grace),
        milliseconds(written.hold_down),
        milliseconds(written.hold_down_max),
        milliseconds(written.flap_memory),
    )


def on_failure(file: model.ApplianceFile) -> declared.OnFailure:
    """What happens when the VM fails. Where no hypervisor is declared, nothing can be restarted."""
    written = file.on_failure or care.OnFailure()
    restart = written.restart
    startable = file.vm.libvirt or file.vm.programs
    return declared.OnFailure(
        written.order == "restart-then-bypass",
        written.fail == "closed",
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


def _signal(name: str, written: care.Signal, grouped: bool) -> declared.Signal:
    return declared.Signal(
        name,
        _source(written),
        _streak(written.fall),
        _streak(written.rise),
        written.absent.before == "failed",
        written.absent.after == "failed",
        written.required and not grouped,
        written.segment,
    )


def _source(written: care.Signal) -> declared.Source:
    match written:
        case care.Heartbeat():
            return declared.Heartbeat(milliseconds(written.interval), written.socket, written.cid, written.port)
        case care.Domain():
            return declared.Domain()
        case care.Carrier():
            return declared.Carrier()
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


def _streak(written: int | str) -> declared.Streak:
    if isinstance(written, int):
        return declared.Streak(readings=written)
    return declared.Streak(ms=milliseconds(written))


def _group(name: str, written: care.Group) -> declared.Group:
    if written.n_of:
        return declared.Group(name, tuple(written.n_of.signals), written.n_of.count)
    return declared.Group(name, tuple(written.any_of or ()), 1)
