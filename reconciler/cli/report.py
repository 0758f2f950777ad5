"""`reconcile report`: what the ledger says, of one appliance or of many, for people and for programs."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import FILE, PATH
from reconciler.console import escaped, say_json, show
from reconciler.errors import HostError
from reconciler.host import clock, places

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
# A daemon that lives notes it each second: one that did so just now is taken to have looked until now.
_JUST_NOW_MS = 10_000


def _moment(_context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    from datetime import UTC, datetime

    if value is None:
        return None
    if found := re.fullmatch(r"([0-9]{1,5})([mhdw])", value):
        return max(0, clock.wall_ms() - int(found[1]) * _UNITS_MS[found[2]])
    try:
        when = datetime.fromisoformat(value)
        return max(0, int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1_000))
    except (ValueError, OverflowError):
        right = "how long ago, as in 90d or 12h, or a moment (UTC), as in 2026-08-31 or 2026-08-31T12:00"
        raise click.BadParameter(f"{value!a} is no moment: {right}", param=option) from None


@click.command()
@click.option("--since", default="90d", show_default=True, callback=_moment, help="How long ago, or a moment (UTC).")
@click.option("--until", callback=_moment, help="The same.  [default: now]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "csv", "json", "html"]),
    default="text",
    show_default=True,
    help="HTML is one file, for a browser or a printer.",
)
@click.option(
    "--merge", type=PATH, multiple=True, metavar="FILE", help="Also this ledger, say another appliance's; repeatable."
)
@FILE
@click.argument("segment", required=False)
@click.pass_obj
def report(
    group_file: Path | None,
    /,
    *,
    since: int,
    until: int | None,
    form: str,
    merge: tuple[Path, ...],
    file: Path | None,
    segment: str | None,
) -> None:
    """Tell for how much of the time frames were inspected, and where they went otherwise: when, why, by whose order.

    From the ledgers of this host (with a file, from that of its appliance), and from those that are handed in. Needs no
    daemon, and no root where the files can be read. Exit status: 0; 1 where a ledger is not whole, or none could be
    read.
    """
    from contextlib import ExitStack

    from reconciler.host.ledgers import sources
    from reconciler.ledger.history import histories
    from reconciler.ledger.reckoning import reported

    with ExitStack() as stack:
        found, homeless = histories(sources(places.ledger_dir(), _sku(file or group_file), merge, stack))
    if not found:
        raise HostError("no ledger has a row: " + "; ".join(escaped(one.what) for one in homeless))
    until = _until(max(one.known_ms for one in found)) if until is None else until
    if since >= until:
        raise click.BadParameter("it begins when it ends, or later", param_hint="'--since'")
    made = [one for one in (reported(each, segment, since, until) for each in found) if one.segments or segment is None]
    if not made:
        known = sorted({name for one in found for name in one.segments})
        raise HostError(f"no segment is called {segment!a}; the ledger speaks of: {', '.join(map(escaped, known))}")
    _print(form, made, homeless)
    sys.exit(1 if homeless or any(one.history.breaks for one in made) else 0)


def _sku(file: Path | None) -> str | None:
    if file is None:
        return None
    from reconciler.host import store

    return store.load(places.read_file(file), str(file), places.state_dir()).sku


def _until(known_ms: int) -> int:
    now = clock.wall_ms()
    return known_ms if 0 <= now - known_ms < _JUST_NOW_MS else now


def _print(form: str, made: Any, homeless: Any) -> None:
    if form == "json":
        from reconciler.cli.report_data import as_json

        say_json(as_json(made, homeless))
    elif form == "csv":
        from reconciler.cli.report_data import as_csv

        click.echo(as_csv(made, homeless), nl=False)
    elif form == "html":
        from reconciler.cli.report_html import page

        click.echo(page(made, homeless), nl=False)
    else:
        from reconciler.cli.report_text import text

        show(text(made, homeless))


COMMANDS = (report,)
