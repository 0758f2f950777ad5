"""A status for people: who asks has only its JSON value, and wants to start quickly.

The worst news stands in the first line; then a line for each segment; then what else is wrong, the VM with its signals,
the guard; and at the end what was decided last. What does not fit into a line goes on below, between two words.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import click

from reconciler.cli.decisions_text import decided_since, decisions_of, together
from reconciler.cli.words import COLOURS, MANY, first_of, fit, names_of, painted, styled, times, whole_span
from reconciler.console import NO_BREAK, Said, escaped, warning_lines
from reconciler.exit_status import AS_DECLARED, DIFFERS, of_paths
from reconciler.warning import Warning

# Versioned: a change that could break a reader counts up.
WHY_FORMAT = "reconciler.why/1"

# What the first line says of a segment's path that is not inspected; the worst first.
_HEAD = {"cut": "CUT", "bypassed": "NOT INSPECTED", "unknown": "UNKNOWN"}
# A topology, and the path that it is there for.
_MEANT = {"inspect": "inspected", "bypass": "bypassed", "isolate": "cut"}
# What the first line says where one of these warnings is there; of each line the first that is.
_DIFFERENCES = (
    {
        "the guard is off": {"guard-off"},
        "the guard is not set": {"guard-missing"},
        "the guard is in trouble": {"guard-unknown", "guard-unable"},
    },
    {"the daemon goes by another file": {"file-not-in-force"}},
)
_NOBODY = {"no daemon answers": {"no-daemon"}, "the daemon hangs": {"daemon-hangs"}}
_DECISIONS, _LATEST = 5, 8
# What a guard's state means for its segment; the others are no news, for the segment's own line says it.
_GATES = {"off": "off", "missing": "not in the kernel", "unknown": "the kernel does not tell"}


def exit_status(status: Any) -> int:
    """What `reconcile status` ends with: 0 as declared and inspected, 1 not seen, 3 differs, 4 bypassed, 5 cut."""
    found = {segment["path"] for segment in status["segments"]}
    return of_paths(found) or (DIFFERS if any(_differences(status)) else AS_DECLARED)


def of_segment(status: Any, segment: str | None) -> Any:
    """The status of one segment, and of what all of them share; of all of them, if None.

    Raises:
        click.UsageError: there is no such segment; names those that there are.

    """
    if segment is None:
        return status
    known = [one["name"] for one in status["segments"]]
    if segment not in known:
        raise click.UsageError(f"no segment is called {segment!a}; {status['sku']} declares: {', '.join(known)}")
    guard = status.get("guard")
    others = {f"segment {name}" for name in known if name != segment}
    return {
        **status,
        "choice": {segment: status["choice"][segment]},
        "segments": [one for one in status["segments"] if one["name"] == segment],
        "signals": [one for one in status["signals"] if one["segment"] in (None, segment)],
        "warnings": [one for one in status["warnings"] if one["about"] not in others],
        "decisions": [one for one in status["decisions"] if one["segment"] in (None, segment)],
        "guard": guard and {**guard, "segments": [one for one in guard["segments"] if one["name"] == segment]},
    }


# --- `reconcile status` ----------------------------------------------------------------------------------------------


def shown(status: Any, width: int) -> Iterator[Said]:
    """All of it, in lines of `width` columns."""
    yield from fit(_headline(status), width, hang=2)
    yield from segments_of(status["segments"], width)
    if status["warnings"]:
        yield Said("warnings")
        yield from _warnings(status["warnings"], width)
    yield from vm_of(status["vm"], width)
    if status["signals"]:
        yield Said("signals")
        yield from _signals(status["signals"], width)
    yield from _guard(status.get("guard"), width)
    yield from decisions_of(together(status["decisions"])[-_DECISIONS:], width, len(status["choice"]))


def short(status: Any, width: int | None) -> Iterator[Said]:
    """A line for each segment: its name, its path, and for people since when and why; in `width` columns, if given."""
    name = max(len(one["name"]) for one in status["segments"])
    for one in status["segments"]:
        told = [_span_of(one), _cause(one)]
        text = f"{escaped(one['name']):{name}}  {one['path']:9}  {'  '.join(each for each in told if each)}".rstrip()
        if width and len(text) > width:
            text = f"{text[: width - 1].rstrip()}…"
        yield Said(text.replace(one["path"], painted(one["path"]), 1).replace(NO_BREAK, " "))


def _headline(status: Any) -> str:
    """The worst news first: `● ax6  NOT INSPECTED  wan: bypassed 4 min 6 s (VM failed)`."""
    bad = [path for path in _HEAD if any(one["path"] == path for one in status["segments"])]
    news = [each for path in bad for each in _news(status["segments"], path)]
    news += _differences(status)
    if nobody := _of_warnings(status, _NOBODY):
        news.append(nobody)
    colour = COLOURS[bad[0]] if bad else "yellow" if news else "green"
    head = _HEAD[bad[0]] if bad else "INSPECTED"
    mark = styled("●", colour)
    return f"{mark} {escaped(status['sku'])}  {styled(head, colour)}  {'; '.join(news) or 'as declared'}"


def _news(segments: list[Any], path: str) -> Iterator[str]:
    """Of all segments on a path: those together of which the same is to be told."""
    of = sorted((one for one in segments if one["path"] == path), key=_same)
    for _, same in groupby(of, _same):
        told = list(same)
        names = names_of([one["name"] for one in told], len(segments))
        oldest = max(told, key=lambda one: one["path_ms"] or 0)
        cause = _cause(oldest)
        yield f"{names}: {_path(oldest)} {_span_of(oldest)}{f' ({cause})' if cause else ''}".rstrip()


def _same(segment: Any) -> tuple[str, str]:
    return segment["path_by"], _cause(segment)


def _differences(status: Any) -> Iterator[str]:
    """What is not as the file declares it, although every frame may be inspected."""
    for words in _DIFFERENCES:
        if told := _of_warnings(status, words):
            yield told
    if not status["network"]["converged"]:
        yield "the network is not as wanted"


def _of_warnings(status: Any, words: Mapping[str, set[str]]) -> str:
    codes = {warning["code"] for warning in status["warnings"]}
    return next((told for told, those in words.items() if codes & those), "")


def _path(segment: Any) -> str:
    if segment["path"] == "unknown":
        return "unknown whether inspected"
    return f"{segment['path']} by the guard" if segment["path_by"] == "guard" else str(segment["path"])


def _cause(segment: Any) -> str:
    """Why a segment is not inspected, in a few words; '' where it is."""
    path, hold = segment["path"], segment["hold"]
    if path == "inspected":
        return ""
    if path == _MEANT.get(segment["topology"]):
        if hold and hold["topology"] == segment["topology"]:
            return f"held{NO_BREAK}by{NO_BREAK}{escaped(hold['owner'])}"
        if segment["hold_down_left_ms"] is not None:
            return f"VM healthy, inspected in {whole_span(segment['hold_down_left_ms'])}"
        return f"VM{NO_BREAK}{segment['verdict']}"
    # Not what is wanted: the kernel's own evidence, unless everybody knows by now.
    return (
        f"VM{NO_BREAK}failed" if segment["verdict"] == "failed" and path != "cut" else escaped(segment["path_evidence"])
    )


def segments_of(segments: list[Any], width: int) -> Iterator[Said]:
    """A line for each segment: where its frames go, since when, and what else is to be known of it."""
    rows = [
        (
            escaped(one["name"]),
            _path(one),
            COLOURS[one["path"]],
            _span_of(one),
            "; ".join(_about_segment(one)),
        )
        for one in segments
    ]
    if apart := len(segments) > MANY:
        rows = [(*row[:4], "; ".join(_about_segment(one, apart=True))) for row, one in zip(rows, segments, strict=True)]
    name, path, age = (max(len(row[column]) for row in rows) for column in (0, 1, 3))
    for row in rows:
        text = f"  {row[0]:{name}}  {styled(row[1], row[2])}{' ' * (path - len(row[1]))}  {row[3]:{age}}  {row[4]}"
        yield from fit(text.rstrip(), width, hang=2 + name + 2)
    if apart:
        for hold, names in _holds(segments):
            yield from fit(f"  {names_of(names, len(segments))} {hold}", width)


def _holds(segments: list[Any]) -> Iterator[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for one in segments:
        if one["hold"]:
            found.setdefault(_hold(one["hold"]), []).append(one["name"])
    return iter(found.items())


def _hold(hold: Any) -> str:
    who = f"held on {hold['topology']} by {escaped(hold['owner'])}"
    return f"{who} for {whole_span(hold['left_ms'])} more: {escaped(hold['reason'])}"


def _about_segment(segment: Any, *, apart: bool = False) -> Iterator[str]:
    """`apart`: the whole of a hold is told elsewhere."""
    # Where no daemon tells, nothing is wanted, and nobody judges.
    if segment["since_ms"] is not None:
        if segment["path"] != _MEANT.get(segment["topology"], segment["path"]):
            yield f"wanted: {segment['topology']}"
        elif segment["topology"] not in _MEANT:
            yield f"on {segment['topology']}"
        yield f"VM {painted(segment['verdict'])}"
    if segment["hold_down_left_ms"] is not None:
        yield f"back to inspect in {whole_span(segment['hold_down_left_ms'])}"
    if segment["flaps"]:
        yield f"failed {times(segment['flaps'])} soon after a return"
    if segment["hold"] and not apart:
        yield _hold(segment["hold"])
    for what, how in (("passed", "went past the VM"), ("cut", "were cut")):
        # Where no daemon tells, nobody counts.
        counted = segment.get(what)
        if counted and (counted["frames"] or counted["ms"]):
            frames = f"{counted['frames']} frames ({counted['bytes']} bytes)"
            yield f"{frames} {how}, in {whole_span(counted['ms'])}"
    if segment["path"] in _HEAD and (cause := _cause(segment)) and cause == escaped(segment["path_evidence"]):
        yield cause


def _warnings(warnings: Iterable[Any], width: int) -> Iterator[Said]:
    for one in warnings:
        for line in warning_lines(Warning.from_json(one)):
            yield from fit(f"  {line}", width, hang=8 if line.startswith(" ") else 4)


def vm_of(vm: Any, width: int) -> Iterator[Said]:
    """What is done about the VM: nothing, where no ladder of restarts is declared, or where no daemon tells (None)."""
    if vm is None or not vm["attempts_declared"]:
        return
    attempts = f", restart {vm['attempts']} of {vm['attempts_declared']}" if vm["attempts"] else ""
    left = f", {whole_span(vm['due_ms'])} left" if vm["due_ms"] is not None else ""
    yield from fit(f"VM {vm['phase']} for {whole_span(vm['since_ms'])}{attempts}{left}", width)


def _signals(signals: list[Any], width: int) -> Iterator[Said]:
    rows: list[tuple[str, str, str]] = []
    for name, group in groupby(signals, lambda one: one["name"]):
        for state, alike in groupby(sorted(group, key=_state), _state):
            found = list(alike)
            if len(found) > MANY:
                why = "" if state == "healthy" else first_of([escaped(one["reason"]) for one in found])
                rows.append((f"{escaped(name)} ({len(found)} segments)", state, why))
            else:
                rows += [(_name(one), state, escaped(one["reason"]) + _age(one)) for one in found]
    longest, widest = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    for row in rows:
        text = f"  {row[0]:{longest}}  {painted(row[1])}{' ' * (widest - len(row[1]))}  {row[2]}"
        yield from fit(text.rstrip(), width, hang=2 + longest + 2)


def _state(signal: Any) -> str:
    return str(signal["state"])


def _guard(guard: Any, width: int) -> Iterator[Said]:
    if not guard:
        return
    rows = [
        (escaped(one["name"]), "; ".join(_about_guard(one)) or "never tripped", one["directions"])
        for one in guard["segments"]
    ]
    yield Said("guard")
    alike = Counter(row[1] for row in rows)
    rows = [row for row in rows if alike[row[1]] <= MANY]
    rows += [(f"{number} segments", text, []) for text, number in alike.items() if number > MANY]
    name = max((len(row[0]) for row in rows), default=0)
    for row in rows:
        yield from fit(f"  {row[0]:{name}}  {row[1]}", width, hang=2 + name + 2)
        for way in row[2]:
            yield from fit(f"{' ' * (2 + name + 2)}{_direction(way)}", width, hang=2 + name + 4)


def _about_guard(segment: Any) -> Iterator[str]:
    if segment["state"] in _GATES:
        yield styled(_GATES[segment["state"]], "red")
    if segment["trips"]:
        yield f"tripped {times(segment['trips'])}"


def _direction(way: Any) -> str:
    rtt = f", {way['rtt_us'][1] / 1000:.2f}{NO_BREAK}ms" if way["rtt_us"] else ""
    missing = f"{way['sent'] - way['returned']} of {way['sent']} missing"
    return f"{escaped(way['from'])} → {escaped(way['to'])}: {way['state']}{rtt}, {missing}"


# --- `reconcile why` -------------------------------------------------------------------------------------------------


def reasons(status: Any, width: int, *, since_ms: int | None = None, all_of_them: bool = False) -> Iterator[Said]:
    """For each segment the readings that its verdict rests on; then what was decided, and which readings led to it.

    The latest eight, or those of the last `since_ms`, or all that are kept. Of many segments those that are in trouble.
    """
    if len(status["segments"]) <= MANY:
        for segment in status["segments"]:
            yield from segments_of([segment], width)
            for reason in segment["why"]:
                yield from fit(f"    {escaped(reason)}", width, hang=6)
    else:
        yield from segments_of(status["segments"], width)
        ill = [one for one in status["segments"] if one["verdict"] != "healthy" and one["why"]]
        for one in ill[:MANY]:
            yield from fit(f"  {escaped(one['name'])}: {first_of([escaped(reason) for reason in one['why']])}", width)
        if len(ill) > MANY:
            yield from fit(f"  and {len(ill) - MANY} more: reconcile why SEGMENT", width)
    yield from vm_of(status["vm"], width)
    decisions = together(decided_since(status["decisions"], since_ms))
    if since_ms is None and not all_of_them:
        decisions = decisions[-_LATEST:]
    yield from decisions_of(decisions, width, len(status["choice"]), reasons=True)
    if since_ms is not None and not decisions:
        yield from fit(f"nothing was decided in the last {whole_span(since_ms)}", width)


def why_json(status: Any, since_ms: int | None = None) -> dict[str, Any]:
    """The same for programs: of the status what belongs to it, in an envelope of its own format."""
    kept = ("time", "host", "version", "digest", "sku", "segments", "vm")
    decisions = decided_since(status["decisions"], since_ms)
    return {"format": WHY_FORMAT, **{key: status[key] for key in kept}, "decisions": decisions}


# --- words -----------------------------------------------------------------------------------------------------------


def _span_of(segment: Any) -> str:
    """How long a segment's path is what it is; '' where nobody knows."""
    return "" if segment["path_ms"] is None else whole_span(segment["path_ms"])


def _name(signal: Any) -> str:
    return escaped(signal["name"] + (f" ({signal['segment']})" if signal["segment"] else ""))


def _age(signal: Any) -> str:
    observed = signal["observed_ms"]
    return "" if observed is None or observed < 2_000 else f" ({whole_span(observed)} ago)"
