"""The command that prints what makes a host run daemon and guard, and keeps network managers off its interfaces."""

from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import FILE, PATH
from reconciler.host import places


@click.command()
@FILE
@click.option(
    "--print",
    "what",
    type=click.Choice(["service", "guard", "networkmanager", "networkd"]),
    required=True,
    help="The daemon's systemd unit; one that sets the guard early in the boot; udev rules that keep NetworkManager "
    "(and newer systemd-networkd) off the appliance's interfaces; beside these, a file for older systemd-networkd.",
)
@click.option(
    "--program", default="/usr/bin/reconcile", show_default=True, metavar="PATH", help="Where this program lies."
)
@click.option(
    "--against",
    type=PATH,
    metavar="STATE.json",
    help="For ports that udev cannot find by itself (by driver and index, say): a state that `reconcile observe` "
    "captured.  [default: this machine]",
)
@click.pass_obj
def unit(group_file: Path | None, file: Path | None, what: str, program: str, against: Path | None) -> None:
    """Print what makes this host run the daemon, and keeps others off the appliance's interfaces.

    Each begins with the place where it belongs. Management ports stay with whoever manages them.
    """
    from reconciler.host import systemd

    match what:
        case "service" | "guard":
            if not program.startswith("/") or not program.isprintable() or {*program} & {*' %$"\\'}:
                raise click.UsageError(f"--program takes an absolute path without special characters, not {program!a}")
            text = systemd.service(program) if what == "service" else systemd.guard(program)
        case "networkd":
            text = systemd.networkd()
        case _:
            text = _rules(file or group_file or places.DEFAULT_FILE, against)
    click.echo(text, nl=False)


def _rules(file: Path, against: Path | None) -> str:
    from reconciler.host import store
    from reconciler.network.other_managers import takes_a_machine, udev_rules

    if str(file) == str(against) == "-":
        raise click.UsageError("standard input can be read once only: name the file or the state")
    appliance = store.load(places.read_file(file), str(file), places.state_dir())
    return udev_rules(appliance, _nics(against) if takes_a_machine(appliance) else None)


def _nics(against: Path | None) -> Any:
    if against is not None:
        from reconciler.network.record import parse

        return parse(places.read_file(against).decode("utf-8", "replace"), str(against))
    from reconciler.host.netlink.kernel import Kernel

    with Kernel() as kernel:
        return kernel.observe()


COMMANDS = (unit,)
