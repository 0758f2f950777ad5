"""What a dry run and an application come to, as text for people and as JSON for programs.

The daemon makes these for whoever asks it, too: so they are values, and `console.show` prints them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import click

from reconciler.appliance.declared import Appliance
from reconciler.console import Said, escaped, warned
from reconciler.network import render
from reconciler.network.audit import Audit
from reconciler.network.cycle import TurnReport
from reconciler.network.diff import Change, Set
from reconciler.network.path import Path, Taken, path_json, worse
from reconciler.network.plan import Outcome, Plan, Status
from reconciler.warning import Severity, Warning

# Versioned: a change that could break a reader counts up.
REPORT_FORMAT = "reconciler.report/2"


def drift(appliance: Appliance, choice: Mapping[str, str], audit: Audit) -> Iterator[Said]:
    """A dry run as text: where frames go, a line per difference, the warnings, and what it comes to."""
    yield _said(title(appliance, choice))
    yield from _paths(audit.taken)
    for text in _columns([*map(render.line, audit.found.changes), *map(render.beside_line, audit.beside)]):
        yield Said(text)
    yield from (warned(warning, error=True) for warning in audit.warnings)
    if audit.as_declared:
        yield _said("nothing to do: the network is as declared")
    else:
        count = len(audit.found.changes) + len(audit.beside)
        yield _said(
            f"{_count(count, 'change')} to make{_errors((*audit.found.problems, *audit.unseen))}; nothing was changed"
        )


def drift_json(appliance: Appliance, choice: Mapping[str, str], audit: Audit) -> Any:
    """A dry run for programs: a JSON value."""
    made = render.as_json(appliance.sku, choice, audit.found)
    # Of a state that was recorded it is not known.
    paths = [{"name": name, **path_json(taken)} for name, taken in audit.taken.items()]
    return {
        **made,
        "converged": audit.as_declared,
        **({"paths": paths} if paths else {}),
        "changes": [*made["changes"], *map(render.beside_json, audit.beside)],
        "warnings": [warning.as_json() for warning in audit.warnings],
    }


def commands(plan: Plan, audit: Audit) -> Iterator[Said]:
    """A dry run as commands that can be pasted; what is no command is a comment."""
    for name, taken in audit.taken.items():
        if taken.path is not Path.INSPECTED:
            yield _said(f"# segment {name} is {_taken(taken)}")
    yield from (warned(warning, before="# ") for warning in audit.warnings)
    for command in render.commands(plan):
        yield _said(command)
    for one in audit.beside:
        yield _said(one.remedy)


def _paths(taken: Mapping[str, Taken]) -> Iterator[Said]:
    """Where the frames of each segment go that is not inspected; the worst first."""
    for name, one in sorted(taken.items(), key=lambda item: -worse(item[1].path)):
        if one.path is not Path.INSPECTED:
            text = click.style(_taken(one), fg="yellow" if one.path is Path.UNKNOWN else "red")
            yield Said(f"  segment {escaped(name)}: {text} ({escaped(one.evidence)})")


def _taken(one: Taken) -> str:
    if one.path is Path.UNKNOWN:
        return "unknown whether inspected"
    return f"{one.path} by the guard" if one.by_guard else one.path.value


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
    begin = "interrupted: " if interrupted else ""
    yield _said(f"{begin}{_count(made, 'change')} made; {state}{_errors(report.after.problems)}")


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
    return _columns([render.line(change) for change in changes])


def _columns(lines: Collection[render.Line]) -> list[str]:
    """The changes in columns: the thing, what about it, − old, + new. Escaped, and coloured."""
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


def _errors(warnings: Iterable[Warning]) -> str:
    count = sum(one.severity is Severity.ERROR for one in warnings)
    return f", {_count(count, 'error')}" if count else ""


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
