"""What a dry run and an application come to, as text for people and as JSON for programs.

The daemon makes these for whoever asks it, too: so they are values, and `console.show` prints them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from reconciler.appliance.declared import Appliance
from reconciler.console import Said, escaped, warned
from reconciler.network import render
from reconciler.network.cycle import TurnReport
from reconciler.network.diff import Change, Difference, Set
from reconciler.network.plan import Outcome, Plan, Status

# Versioned: a change that could break a reader counts up.
REPORT_FORMAT = "reconciler.report/2"


def drift(appliance: Appliance, choice: Mapping[str, str], found: Difference) -> Iterator[Said]:
    """A dry run as text: a line per change, the warnings, and what it comes to."""
    yield _said(title(appliance, choice))
    for text in _lines(found.changes):
        yield Said(text)
    yield from (warned(warning, error=True) for warning in found.warnings)
    count = len(found.changes)
    if count == 0 and not found.problems:
        yield _said("nothing to do: the network is as declared")
    else:
        yield _said(f"{_count(count, 'change')} to make{_errors(found)}; nothing was changed")


def drift_json(appliance: Appliance, choice: Mapping[str, str], found: Difference) -> Any:
    """A dry run for programs: a JSON value."""
    return render.as_json(appliance.sku, choice, found)


def commands(plan: Plan, found: Difference) -> Iterator[Said]:
    """A dry run as commands that can be pasted; what is no command is a comment."""
    yield from (warned(warning, before="# ") for warning in found.warnings)
    for command in render.commands(plan):
        yield _said(command)


def result(title: str, report: TurnReport, interrupted: bool) -> Iterator[Said]:
    """What applying did, as text, under a `title`."""
    yield _said(title)
    left = {_about(change) for change in report.after.changes}
    for change, text in zip(report.before.changes, _lines(report.before.changes), strict=True):
        yield Said(text if _about(change) not in left else f"{text}  {click.style('not done', fg='red')}")
    for outcome in report.outcomes:
        if outcome.status is Status.FAILED:
            yield _said(f"failed: {_operation(outcome)}: {outcome.why}", error=True)
    skipped = sum(outcome.status is Status.SKIPPED for outcome in report.outcomes)
    if skipped:
        yield _said(
            f"skipped: {_count(skipped, 'operation')} that needed what failed or came after an interruption", error=True
        )
    yield from (warned(warning, error=True) for warning in report.after.warnings)
    made = len(report.before.changes) - sum(_about(change) in left for change in report.before.changes)
    state = "the network is as declared" if report.converged else f"{_count(len(left), 'change')} still to make"
    yield _said(
        f"{'interrupted: ' if interrupted else ''}{_count(made, 'change')} made; {state}{_errors(report.after)}"
    )


def result_json(appliance: Appliance, choice: Mapping[str, str], report: TurnReport, interrupted: bool) -> Any:
    """What applying did, for programs: a JSON value."""
    found = render.as_json(appliance.sku, choice, report.before)
    remaining = render.as_json(appliance.sku, choice, report.after)
    return {
        **found,
        "format": REPORT_FORMAT,
        "converged": report.converged,
        "interrupted": interrupted,
        "operations": [_outcome_json(outcome) for outcome in report.outcomes],
        "warnings": remaining["warnings"],
        "remaining": remaining["changes"],
    }


def _said(text: str, *, error: bool = False) -> Said:
    return Said(escaped(text, but="\n"), error)


def title(appliance: Appliance, choice: Mapping[str, str]) -> str:
    """What a network is about: the appliance, and the topologies that it is to have."""
    topologies = set(choice.values())
    wanted = topologies.pop() if len(topologies) == 1 else ", ".join(f"{seg}={top}" for seg, top in choice.items())
    return f"{appliance.sku}: {wanted}"


def _lines(changes: Iterable[Change]) -> list[str]:
    """The changes in columns: the thing, what about it, − old, + new. Escaped, and coloured."""
    lines = [render.line(change) for change in changes]
    things = [escaped(line.thing) for line in lines]
    thing = max(map(len, things), default=0)
    about = max((len(line.about) for line in lines), default=0)
    return [
        f"  {name:{thing}}  {line.about:{about}}  {_change(line.old, line.new)}"
        for name, line in zip(things, lines, strict=True)
    ]


def _change(old: str | None, new: str | None) -> str:
    parts = [click.style(f"− {escaped(old)}", fg="red")] if old is not None else []
    return "  ".join(parts + ([click.style(f"+ {escaped(new)}", fg="green")] if new is not None else []))


def _about(change: Change) -> tuple[str, str]:
    """What a change is about, so that one that is left can be told from one that was made."""
    return change.link.name, change.setting.value if isinstance(change, Set) else type(change).__name__


def _errors(found: Difference) -> str:
    return f", {_count(len(found.problems), 'error')}" if found.problems else ""


def _operation(outcome: Outcome) -> str:
    words = render.operation_words(outcome.operation)
    return f"{outcome.operation.link.label}: {words}"


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "operation": render.operation_words(outcome.operation),
        "interface": outcome.operation.link.name,
        "status": outcome.status.value,
        "errno": outcome.errno or None,
        "why": outcome.why or None,
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
