"""The commands that start, ask and steer the daemon."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import FILE, OUTPUT
from reconciler.console import Said, escaped, json_text, say, say_json, show, width
from reconciler.errors import HostError, ReconcilerError
from reconciler.host import places
from reconciler.warning import Severity, Warning

_STDERR = 2  # its descriptor
# A log that nobody reads does not keep the daemon from ending.
_FLUSH_S = 0.3
_LONGEST_S = 30 * 86_400
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _seconds(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", value)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f"{value!a} is no duration: a whole number and its unit, as in 30m, 2h, 1d")
    seconds = int(found[1]) * _UNITS_S[found[2]]
    if seconds > _LONGEST_S:
        raise click.BadParameter("at most 30 days")
    return seconds


@click.command()
@FILE
@click.option(
    "--log", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Log lines."
)
@click.option("--group", metavar="NAME", help="Whose members may ask and steer it, beside root.  [default: nobody's]")
@click.option("--stop-topology", metavar="NAME", help="What to leave behind when stopped.  [default: what there is]")
@click.pass_obj
def run(group_file: Path | None, file: Path | None, form: str, group: str | None, stop_topology: str | None) -> None:
    """Keep the appliance on the topology that its health asks for, for ever.

    Runs in the foreground and logs to standard error. SIGHUP reads the file again; SIGTERM ends it, and leaves the
    network as it is.
    """
    from reconciler.control.ask import digest
    from reconciler.daemon.journal import DescriptorJournal, adopt_strays
    from reconciler.host.accepted import in_force
    from reconciler.host.blocking import exit_within
    from reconciler.host.lock import lock
    from reconciler.host.privileges import check_may_administer
    from reconciler.host.prover import prove

    check_may_administer("keeping an appliance")
    file = file or group_file or places.DEFAULT_FILE
    found = in_force(file, places.state_dir(), prove)
    appliance = found.appliance
    if stop_topology and stop_topology not in appliance.topologies:
        known = ", ".join(appliance.topologies)
        raise click.UsageError(f"no topology is called {stop_topology!a}; {appliance.sku} declares: {known}")
    with lock(places.run_dir(), appliance.sku, 10.0, lambda text: say(text, error=True)):
        from reconciler.daemon.loop import LAST_RESORT_S, Daemon

        # Without one, whoever started us has closed it.
        journal = DescriptorJournal(_STDERR if sys.stderr else None, as_json=form == "json", digest=digest(found.text))
        adopt_strays(journal)
        last_resort = lambda: exit_within(LAST_RESORT_S, 1)  # noqa: E731
        status = 0
        try:
            Daemon(file, found, journal, group=group, stop=stop_topology, last_resort=last_resort).run()
        except ReconcilerError as error:
            journal.warn("failed", Warning("daemon-ended", Severity.ERROR, "", str(error)))
            status = 1
        except Exception:
            # It is in the journal already.
            if os.environ.get("RECONCILER_DEBUG"):
                raise
            status = 1
    journal.flush(_FLUSH_S)
    # Not by way of the interpreter: in its end it closes what libraries hold open, and would wait for one that hangs.
    os._exit(status)


@click.command()
@click.argument("segment", required=False)
@FILE
@OUTPUT
@click.option(
    "-s", "--short", "brief", is_flag=True, help="A line for each segment: its name, its path, since when, why."
)
@click.option("-w", "--watch", is_flag=True, help="Go on, in place on a terminal. Ctrl-C ends it, with 0.")
@click.pass_obj
def status(
    group_file: Path | None, segment: str | None, file: Path | None, output: str, *, brief: bool, watch: bool
) -> None:
    """Tell where frames go, of all segments or of one, and what the daemon knows; without one, what the kernel tells.

    The worst news first, the latest decisions last. Exit status: 0 as declared and every segment inspected; 5 a segment
    is cut; 4 a segment is bypassed; 1 it could not be seen; 3 something differs; 2 wrong usage. Of several, the first
    in this order.
    """
    from reconciler.cli import status_text
    from reconciler.cli.watch import watch as watch_until_interrupted
    from reconciler.control.client import forget_hung, status_of

    if brief and output == "json":
        raise click.UsageError("--short is for text; JSON has all there is")

    def look() -> Any:
        return status_text.of_segment(status_of(file or group_file), segment)

    def lines(found: Any) -> list[Said]:
        if output == "json":
            return [Said(json_text(found))]
        columns = width()
        if brief:
            return list(status_text.short(found, columns if sys.stdout.isatty() else None))
        return list(status_text.shown(found, columns))

    def lines_or_why_not() -> list[Said]:
        forget_hung()
        try:
            return lines(look())
        except ReconcilerError as error:
            return [Said(f"{click.style('●', fg='red')} {escaped(str(error))}", error=not sys.stdout.isatty())]

    found = look()
    if watch:
        watch_until_interrupted(lines_or_why_not)
        return
    show(lines(found))
    sys.exit(status_text.exit_status(found))


@click.command()
@click.argument("segment", required=False)
@FILE
@OUTPUT
@click.option("--since", "seconds", callback=_seconds, metavar="DURATION", help="What was decided since then: 1h, 2d.")
@click.option("-a", "--all", "everything", is_flag=True, help="All decisions that are kept, not only the latest eight.")
@click.pass_obj
def why(
    group_file: Path | None,
    segment: str | None,
    file: Path | None,
    output: str,
    seconds: int | None,
    *,
    everything: bool,
) -> None:
    """Tell what was decided lately, of all segments or of one, and which readings led to it."""
    from reconciler.cli import status_text
    from reconciler.control.client import status_of

    found = status_text.of_segment(status_of(file or group_file), segment)
    since_ms = None if seconds is None else seconds * 1_000
    if output == "json":
        say_json(status_text.why_json(found, since_ms))
    else:
        show(status_text.reasons(found, width(), since_ms=since_ms, all_of_them=everything))


@click.command()
@click.argument("topology", metavar="[SEGMENT=]TOPOLOGY")
@click.option(
    "--for", "seconds", callback=_seconds, required=True, metavar="DURATION", help="30m, 2h, 1d; at most 30d."
)
@click.option("--reason", required=True, help="Why; others will read it.")
@FILE
@click.pass_obj
def hold(group_file: Path | None, topology: str, seconds: int, reason: str, file: Path | None) -> None:
    """Pin all segments, or one, to a topology for a while. The VM is not restarted meanwhile."""
    from reconciler.control.client import answer_of

    segment, equals, name = topology.rpartition("=")
    if equals and not segment:
        raise click.UsageError(f"no segment before the = in {topology!a}; for all segments leave the = out")
    where = {"segment": segment} if segment else {}
    _steered(answer_of(file or group_file, do="hold", topology=name, seconds=seconds, reason=reason, **where))


@click.command()
@click.argument("segment", required=False)
@FILE
@click.pass_obj
def release(group_file: Path | None, segment: str | None, file: Path | None) -> None:
    """Take back the holds on all segments, or on one."""
    from reconciler.control.client import answer_of

    _steered(answer_of(file or group_file, do="release", **({"segment": segment} if segment else {})))


def _steered(answer: dict[str, Any]) -> None:
    from reconciler.control.client import check_kept

    choice = ", ".join(f"{segment}={topology}" for segment, topology in answer["choice"].items())
    if not answer["converged"]:
        raise HostError(f"wanted is {choice}, and the network is not there yet: reconcile status")
    say(choice)
    check_kept(answer)


@click.command()
@FILE
@click.pass_obj
def reload(group_file: Path | None, file: Path | None) -> None:
    """Have the daemon read its file again. A broken file changes nothing."""
    from reconciler.control.client import answer_of

    # The file may have changed since the daemon read it: its appliance is asked for by name only.
    say(f"{answer_of(file or group_file, do='reload')['sku']}: the file was reloaded")


COMMANDS = (run, status, why, hold, release, reload)
