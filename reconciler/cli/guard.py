"""The commands that set, take away and show the guard."""

import contextlib
from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import FILE
from reconciler.console import say, warned
from reconciler.console import show as print_lines
from reconciler.errors import HostError, ReconcilerError
from reconciler.host import places

_WAIT_S = 10.0


@click.group()
@FILE
@click.pass_context
def guard(context: click.Context, /, file: Path | None) -> None:
    """Set, take away or show the dead-man switch in the kernel.

    `reconcile run` keeps the guard by itself wherever the file declares one; `reconcile status` tells how it is.
    """
    context.obj = file or context.obj


@guard.command()
@FILE
@click.option(
    "--boot", is_flag=True, help="Also bring the ports up and set the switches to where a failed VM leaves them."
)
@click.pass_obj
def on(group_file: Path | None, file: Path | None, boot: bool) -> None:
    """Set the guard: the wire is bypassed (or cut, where the file says so) until a daemon has proven the VM.

    With --boot for an early unit, so that frames pass from the first moment (`reconcile unit --print guard`).
    """
    file = file or group_file
    if answer := _answer_of(file, on=True):
        say(f"{answer['sku']}: the guard is set; the daemon keeps it")
        _check_kept(answer)
        return
    appliance, warnings = _in_force(file)
    from reconciler.daemon.kernel_guard import set_guard
    from reconciler.host.lock import lock
    from reconciler.host.netlink.kernel import Kernel
    from reconciler.host.privileges import check_may_administer
    from reconciler.network.cycle import audit, reconcile

    check_may_administer("setting the guard")
    print_lines(warned(one, error=True) for one in warnings)
    fallback = {name: appliance.on_failure.fallback(name) for name in appliance.segments}
    with lock(places.run_dir(), appliance.sku, _WAIT_S, lambda text: say(text, error=True)), Kernel() as kernel:
        # First, so that nothing that is brought up later is ever unguarded; and again for what came up by it.
        set_guard(appliance, audit(kernel, appliance, fallback))
        _book(appliance.sku, file, on=True)
        if boot:
            done = reconcile(kernel, appliance, fallback)
            set_guard(appliance, done.after)
            if not done.converged:
                wrong = [problem.line for problem in done.after.problems]
                raise HostError(
                    "the guard is set, but not all of the wire is up: " + "; ".join(wrong or ["see --dry-run"])
                )
    say(f"{appliance.sku}: the guard is set; until `reconcile run` has proven the VM, {_meanwhile(appliance)}")


@guard.command()
@FILE
@click.pass_obj
def off(group_file: Path | None, file: Path | None) -> None:
    """Take every trace of the guard away: its table, its prober and their notes. What it has counted stays.

    A running daemon leaves it away until `reconcile guard on`, or until the machine boots.
    """
    file = file or group_file
    if answer := _answer_of(file, on=False):
        say(f"{answer['sku']}: the guard was taken away; the daemon leaves it away until `reconcile guard on`")
        _check_kept(answer)
        return
    appliance = _load(file)
    from reconciler.daemon.kernel_guard import remove_guard
    from reconciler.host.lock import lock
    from reconciler.host.netlink.kernel import Kernel
    from reconciler.host.privileges import check_may_administer
    from reconciler.network.cycle import audit
    from reconciler.network.desired import choice_of
    from reconciler.network.plan import forgetting

    check_may_administer("taking the guard away")
    with lock(places.run_dir(), appliance.sku, _WAIT_S, lambda text: say(text, error=True)), Kernel() as kernel:
        remove_guard(appliance.sku)
        _book(appliance.sku, file, on=False)
        # Switches have the wire now: where stations were before the guard had it says nothing of now.
        with contextlib.suppress(ReconcilerError):
            found = audit(kernel, appliance, choice_of(appliance))
            kernel.execute(forgetting(found), found.actual)
    say(f"{appliance.sku}: no trace of the guard is left")


@guard.command()
@FILE
@click.pass_obj
def show(group_file: Path | None, file: Path | None) -> None:
    """Print the rules that the guard of the file has on this machine, as nft reads them. Needs no privileges."""
    appliance = _guarded(file or group_file)
    from reconciler.guard.rules import bind_guard, ruleset
    from reconciler.host.netlink.kernel import Kernel
    from reconciler.network.cycle import audit
    from reconciler.network.desired import choice_of

    with Kernel() as kernel:
        found = audit(kernel, appliance, choice_of(appliance))
    bound = bind_guard(appliance, found.desired, found.actual)
    # The addresses of the probes are a secret of the daemon: other ones stand here for them.
    # Tabs are control characters, which nobody's terminal gets from us.
    say(ruleset(appliance.sku, bound, b"", {}).text.rstrip("\n").expandtabs(4))


def _book(sku: str, file: Path | None, *, on: bool) -> None:
    from reconciler.control.ask import digest
    from reconciler.daemon.ledger import guard_switched_by_hand

    # Standard input was read already.
    text = None if str(file) == "-" else places.read_file(file or places.DEFAULT_FILE)
    try:
        guard_switched_by_hand(sku, digest(text) if text is not None else None, on=on)
    except HostError as error:
        say(f"reconcile: {error}", error=True)


def _load(file: Path | None) -> Any:
    from reconciler.host import store

    file = file or places.DEFAULT_FILE
    return store.load(places.read_file(file), str(file), places.state_dir())


def _in_force(file: Path | None) -> tuple[Any, Any]:
    """The appliance, also where its file is broken, as after a power cut amid an edit; and warnings of that."""
    from reconciler.host import store
    from reconciler.host.accepted import in_force

    found = in_force(file or places.DEFAULT_FILE, places.state_dir(), store.load)
    return _with_guard(found.appliance), found.warnings


def _guarded(file: Path | None) -> Any:
    return _with_guard(_load(file))


def _with_guard(appliance: Any) -> Any:
    if not any(segment.guard for segment in appliance.segments.values()):
        raise HostError(f"the file of {appliance.sku} declares no guard: write `guard: {{}}` into it")
    return appliance


def _answer_of(file: Path | None, *, on: bool) -> dict[str, Any] | None:
    """What the daemon says that did it: the one that keeps `file`, or the only one. None: none runs."""
    from reconciler.control import client
    from reconciler.control.ask import NoDaemonError

    try:
        return client.answer_of(file, do="guard", on=on)
    except NoDaemonError:
        return None


def _check_kept(answer: dict[str, Any]) -> None:
    from reconciler.control.client import check_kept

    check_kept(answer)


def _meanwhile(appliance: Any) -> str:
    closed = [name for name in appliance.segments if name in appliance.on_failure.closed]
    if not closed:
        return "the wire is bypassed"
    if len(closed) == len(appliance.segments):
        return "the wire is cut"
    return f"the wire is bypassed, and cut on {', '.join(closed)}"


COMMANDS = (guard,)
