"""`reconcile teardown`: everything of ours goes, and the host keeps a joined wire, or plain NICs."""

import sys
from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import FILE
from reconciler.console import say, show
from reconciler.errors import HostError
from reconciler.host import places

_WAIT_S = 10.0
# What is left, in words: for whoever is asked, and for the report.
_LEFT = {
    "bypass": "each wire stays joined past the VM, by a plain switch, until the machine boots",
    "plain": "the NICs are plain NICs, and no frame crosses this host",
}


@click.command()
@FILE
@click.option(
    "--leave",
    type=click.Choice(list(_LEFT)),
    default="bypass",
    show_default=True,
    help="Each wire joined by a switch until the machine boots, or plain NICs and no wire.",
)
@click.option("--yes", is_flag=True, help="Do not ask. Needed where nobody can be asked.")
@click.pass_obj
def teardown(group_file: Path | None, file: Path | None, leave: str, yes: bool) -> None:
    """Take everything of ours away: guard, switches, taps, and what was set on NICs.

    Stop and disable the services first, or they make it again; to lose no frame that is inside the VM, `reconcile hold
    bypass` before that. MTU and large-receive-offload of the NICs stay as they
    are, and so do the records in /var/lib/reconciler. Exit status: 0 done, 1 not all of it.
    """
    from reconciler.control import client
    from reconciler.host import store
    from reconciler.host.privileges import check_may_administer

    file = file or group_file or places.DEFAULT_FILE
    appliance = store.load(places.read_file(file), str(file), places.state_dir())
    if client.is_kept(appliance.sku):
        right = "stop it first: systemctl disable --now reconciler reconciler-guard"
        raise HostError(f"a daemon keeps {appliance.sku}, and would make it again; {right}")
    check_may_administer("taking it all away")
    if not yes:
        _ask(appliance.sku, leave)
    sys.exit(0 if _carry_out(appliance, leave) else 1)


def _ask(sku: str, leave: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: add --yes")
    click.confirm(f"{sku}: guard, switches and taps go; {_LEFT[leave]}. Go on?", abort=True)


def _carry_out(appliance: Any, leave: str) -> bool:
    from reconciler.daemon.kernel_guard import remove_guard
    from reconciler.host.lock import lock
    from reconciler.host.netlink.kernel import Kernel
    from reconciler.network import report
    from reconciler.network.cycle import bring
    from reconciler.network.teardown import freed, joined, plain

    # The guard covers the way to a joined wire. Plain NICs it would join: there it goes first.
    rounds = {"bypass": (joined(appliance), None), "plain": (None, freed(appliance), plain(appliance))}[leave]
    converged = True
    with lock(places.run_dir(), appliance.sku, _WAIT_S, lambda text: say(text, error=True)), Kernel() as kernel:
        for wanted in rounds:
            if wanted is None:
                remove_guard(appliance.sku)
                continue
            done = bring(kernel, appliance, wanted)
            if done.before.changes or done.after.problems:
                show(report.result(f"{appliance.sku}: taken away", done, interrupted=False))
            converged = converged and done.converged
    if converged:
        say(f"{appliance.sku}: nothing of ours is left; {_LEFT[leave]}")
    return converged


COMMANDS = (teardown,)
