"""The command line: `reconcile`.

Modules are imported by the command that uses them: an audit must not pay for what a demo needs.
"""

import gc
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from reconciler import __version__
from reconciler.cli import daemon as cli_daemon
from reconciler.cli import guard as cli_guard
from reconciler.cli import report as cli_report
from reconciler.cli import teardown as cli_teardown
from reconciler.cli import unit as cli_unit
from reconciler.cli.options import FILE, OUTPUT, PATH
from reconciler.console import say, say_json, show
from reconciler.errors import ReconcilerError
from reconciler.host import places
from reconciler.host.inherited import shed_inherited_signals


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="reconcile", message="%(prog)s %(version)s")
@FILE
@click.option(
    "-t",
    "--topology",
    "topologies",
    multiple=True,
    metavar="[SEGMENT=]NAME",
    help="The topology that all segments, or one, shall have; can be repeated.  [default: what the running daemon "
    "wants, else inspect]",
)
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would change. Needs no privileges.")
@click.option(
    "--against",
    type=PATH,
    metavar="STATE.json",
    help="With --dry-run: plan against a state that `reconcile observe` captured, here or elsewhere.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "commands"]),
    default="text",
    show_default=True,
    help="For people, for programs, or (with --dry-run) as ip commands to paste.",
)
@click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another process that is reconciling the same appliance.",
)
@click.pass_context
def cli(context: click.Context, /, file: Path | None, **options: Any) -> None:
    """Make the kernel's network match the appliance file, once.

    Without a command, the network is compared with the file and what differs is repaired. With --dry-run it is only
    compared. Exit status: 0 as declared, 1 failed, invalid or not seen, 2 wrong usage; of --dry-run also 3 something
    differs, 5 a segment is cut, 4 a segment is bypassed: of several, the first in this order.
    """
    context.obj = file
    if context.invoked_subcommand is not None:
        given = [name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            flag = {"topologies": "topology"}.get(given[0], given[0]).replace("_", "-")
            raise click.UsageError(f"--{flag} belongs to `reconcile` itself, not to `{context.invoked_subcommand}`")
        return
    if options["against"] and not options["dry_run"]:
        raise click.UsageError("--against plans, and never applies: add --dry-run")
    if options["output"] == "commands" and not options["dry_run"]:
        raise click.UsageError("--output commands prints a plan: add --dry-run")
    if str(file) == str(options["against"]) == "-":
        raise click.UsageError("standard input can be read once only: name the file or the state")
    if math.isnan(options["wait"]):
        raise click.UsageError("--wait takes a number of seconds")
    once(file or places.DEFAULT_FILE, **options)


def once(
    file: Path, *, topologies: tuple[str, ...], dry_run: bool, against: Path | None, output: str, wait: float
) -> None:
    """Compare, and repair unless `dry_run`; ends the process with the exit status."""
    from reconciler.control import client
    from reconciler.control.ask import digest

    text = places.read_file(file)
    if not topologies and not against and (status := client.answer(text, dry_run=dry_run, output=output)) is not None:
        sys.exit(status)
    from reconciler.host import store

    appliance = store.load(text, str(file), places.state_dir())
    if not against:
        client.check_free(appliance.sku, dry_run=dry_run, topologies=topologies)
    choice = _choice(appliance, topologies, None if against else client.choice(appliance.sku, dry_run=dry_run))
    if dry_run:
        from reconciler.network.audit import other_file

        other = None if against else client.other_file(appliance.sku, digest(text))
        beside = (other_file(appliance.sku, other, digest(text)),) if other else ()
        _show(appliance, choice, _look(appliance, choice, against, beside), output, digest(text))
    sys.exit(_apply(appliance, choice, output, wait, digest(text)))


def _look(appliance: Any, choice: dict[str, str], against: Path | None, beside: tuple[Any, ...]) -> Any:
    """`beside`: what differs and is known already."""
    if not against:
        from reconciler.host.look import look

        return look(appliance, choice, beside)
    from reconciler.network.audit import Audit
    from reconciler.network.desired import desired
    from reconciler.network.diff import difference
    from reconciler.network.record import parse

    recorded = parse(places.read_file(against).decode("utf-8", "replace"), str(against))
    return Audit(difference(appliance, desired(appliance, choice), recorded))


def _show(appliance: Any, choice: dict[str, str], audit: Any, output: str, digest: str) -> NoReturn:
    """Print what differs, and end the process with the exit status."""
    from reconciler.host.envelope import enveloped
    from reconciler.network import report
    from reconciler.network.plan import plan

    if output == "commands":
        show(report.commands(plan(audit.found), audit))
    elif output == "json":
        say_json(enveloped(report.drift_json(appliance, choice, audit), digest))
    else:
        show(report.drift(appliance, choice, audit))
    sys.exit(audit.exit_status)


def _apply(appliance: Any, choice: dict[str, str], output: str, wait: float, digest: str) -> int:
    from reconciler.host.envelope import enveloped
    from reconciler.host.lock import lock
    from reconciler.host.netlink.kernel import Kernel
    from reconciler.host.privileges import check_may_administer
    from reconciler.network import report
    from reconciler.network.cycle import reconcile

    check_may_administer("applying", "or see what would change: --dry-run")
    tell = lambda text: say(text, error=True)  # noqa: E731
    with lock(places.run_dir(), appliance.sku, wait, tell), _interruptible() as stop, Kernel() as kernel:
        done = reconcile(kernel, appliance, choice, stop)
        interrupted = stop()
    if output == "json":
        say_json(enveloped(report.result_json(appliance, choice, done, interrupted), digest))
    else:
        show(report.result(report.title(appliance, choice), done, interrupted))
    return 0 if done.converged and not interrupted else 1


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """While it lasts, Ctrl-C and SIGTERM only raise a flag: the operation under way is finished, and reported."""
    seen: list[int] = []
    old = {number: signal.signal(number, lambda n, _: seen.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _choice(appliance: Any, given: tuple[str, ...], wanted: dict[str, str] | None) -> dict[str, str]:
    """Which topology each segment shall have: what the command line says, else what a running daemon wants."""
    from reconciler.network.desired import choice_of

    choice: dict[str, str] = choice_of(appliance)
    choice |= {seg: name for seg, name in (wanted or {}).items() if seg in choice and name in appliance.topologies}
    for word in given:
        segment, equals, name = word.rpartition("=")
        if equals and not segment:
            raise click.UsageError(f"no segment before the = in {word!a}; for all segments leave the = out")
        if name not in appliance.topologies:
            known = ", ".join(appliance.topologies)
            raise click.UsageError(f"no topology is called {name!a}; {appliance.sku} declares: {known}")
        if segment and segment not in appliance.segments:
            known = ", ".join(appliance.segments)
            raise click.UsageError(f"no segment is called {segment!a}; {appliance.sku} declares: {known}")
        choice |= {segment: name} if segment else dict.fromkeys(choice, name)
    return choice


@cli.command()
@click.argument("paths", nargs=-1, type=PATH, metavar="FILE_OR_FOLDER...")
@FILE
@OUTPUT
@click.pass_obj
def validate(group_file: Path | None, paths: tuple[Path, ...], file: Path | None, output: str) -> None:
    """Check appliance files: schema, references and proofs. Needs neither root nor hardware.

    A folder stands for all *.yaml and *.yml files in it and below. Exit status: 0 all valid, 1 not.
    """
    from reconciler.cli import validate as validation

    named = [one for one in (file or group_file, *paths) if one]
    files = validation.files(named or [places.DEFAULT_FILE])
    sys.exit(validation.run(files, as_json=output == "json"))


@cli.command()
@click.option("--all", "virtual", is_flag=True, help="Take virtual interfaces (veth, as in a lab) for NICs, too.")
def discover(virtual: bool) -> None:
    """Write a commented skeleton of an appliance file from this machine's NICs.

    A port with an address, or that a default route leads to, is taken for a management port. Needs no privileges.
    """
    from reconciler.host import hardware
    from reconciler.host.netlink.kernel import Kernel
    from reconciler.network.skeleton import skeleton

    with Kernel() as kernel:
        vendor, product = hardware.identity()
        text = skeleton(kernel.observe(), product, vendor, virtual=virtual, odd=hardware.odd_interfaces())
    say(text.rstrip("\n"))


@cli.command()
def observe() -> None:
    """Write the live state of the network as JSON, for `reconcile --dry-run --against`.

    Needs no privileges. Holds interface names, MAC addresses and IP addresses of this machine, and the
    names of the nftables rules that frames may meet (as root only), nothing else of it.
    """
    from reconciler.host.envelope import enveloped
    from reconciler.host.netlink.kernel import Kernel
    from reconciler.network.record import dump

    with Kernel() as kernel:
        network = kernel.observe()
        say_json(enveloped(dump(replace(network, surroundings=kernel.survey(network))), None))


@cli.command()
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of the appliance file."""
    from reconciler.appliance.written.schema import text

    click.echo(text(), nl=False)


@cli.command()
@click.option(
    "--print",
    "what",
    type=click.Choice(["agent", "config", "systemd", "openrc"]),
    required=True,
    help="The agent itself (one file of Python), its configuration, or the service of an init system.",
)
def guest(what: str) -> None:
    """Print what is to be copied into the VM: the agent whose heartbeat tells that the applications there work."""
    from reconciler.guest.files import guest_file

    click.echo(guest_file(what), nl=False)


@cli.command()
@click.option("--rate", type=click.IntRange(100, 20_000), default=2_000, show_default=True, help="Frames/s, each way.")
def demo(rate: int) -> None:
    """Rehearse it all in a lab of network namespaces. Needs no hardware, VM or root; leaves nothing behind."""
    try:
        from reconciler.lab.demo import run
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "rich":
            raise
        what = "the demo is drawn with rich, which is not installed: pip install rich, with the pip of this program's"
        raise ReconcilerError(f"{what} environment") from None
    sys.exit(run(rate))


for group in (cli_daemon, cli_guard, cli_report, cli_teardown, cli_unit):
    for command in group.COMMANDS:
        cli.add_command(command)


def main() -> None:
    """Run the command line. Whatever happens, the user sees a sentence, and the exit status says how it ended."""
    # A command ends soon, and keeps most of what it allocates: looking for garbage costs a tenth of its start.
    gc.disable()
    shed_inherited_signals()
    try:
        cli(prog_name="reconcile", standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted")
    except ReconcilerError as error:
        _fail(error.explained)
    except BrokenPipeError:
        # The reader left, as `head` does. Nobody is there to be told; the interpreter must not try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("RECONCILER_DEBUG"):
            raise
        _fail(f"internal error: {type(error).__name__}: {error}; RECONCILER_DEBUG=1 shows where. Please report it.")


def _fail(text: str) -> None:

    say(f"reconcile: {text}", error=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
