"""A status for people: who asks has only its JSON value, and wants to start quickly."""

from collections.abc import Iterator
from typing import Any

import click

from reconciler.console import Said, escaped, warned
from reconciler.exit_status import AS_DECLARED, DIFFERS, of_paths
from reconciler.warning import Warning

_COLOURS = {
    "healthy": "green",
    "degraded": "yellow",
    "failed": "red",
    "absent": "yellow",
    "unknown": "yellow",
    "bypassed": "red",
    "cut": "red",
    "inspected": "green",
}


# What a segment's path is worth as an exit status, the worst first; none of them: 3 or 0.
_STATUS = {"cut": 5, "bypassed": 4, "unknown": 1}
# A topology, and the path that it is there for.
_MEANT = {"inspect": "inspected", "bypass": "bypassed", "isolate": "cut"}
# What the first line says of warnings of the guard.
_LACKING = {
    "the guard is off": {"guard-off"},
    "the guard is not set": {"guard-missing"},
    "the guard is in trouble": {"guard-unknown", "guard-unable"},
}
# In one line; the rest follows below.
_NAMES = 4


def exit_status(status: Any) -> int:
    """What `reconcile status` ends with: 0 as declared and inspected, 1 not seen, 3 differs, 4 bypassed, 5 cut."""
    found = {segment["path"] for segment in status["segments"]}
    differs = not status["network"]["converged"] or bool(_lacking(status)) or _is_outdated(status)
    return of_paths(found) or (DIFFERS if differs else AS_DECLARED)


def _is_outdated(status: Any) -> bool:
    """Whether the daemon goes by another file than there is."""
    return any(one["code"] == "file-not-in-force" for one in status.get("warnings", ()))


def shown(status: Any) -> Iterator[Said]:
    """`reconcile status`."""
    yield Said(f"{escaped(status['sku'])}: {'; '.join(_headline(status))}")
    for segment in status["segments"]:
        yield from _segment(segment)
    yield from _guard(status.get("guard"))
    if status["vm"]:
        yield from _vm(status["vm"])
    name = max((len(_name(signal)) for signal in status["signals"]), default=0)
    state = max((len(signal["state"]) for signal in status["signals"]), default=0)
    for signal in status["signals"]:
        text = f"{_colour(signal['state'], state)}  {escaped(signal['reason'])}{_age(signal)}"
        yield Said(f"  {_name(signal):{name}}  {text}")
    for warning in status["warnings"]:
        yield warned(Warning.from_json(warning), "  ")


def _headline(status: Any) -> Iterator[str]:
    """The worst news first."""
    by_path: dict[tuple[str, str], list[str]] = {}
    for segment in status["segments"]:
        by_path.setdefault((segment["path"], segment["path_by"]), []).append(escaped(segment["name"]))
    for path in _STATUS:
        for by in ("guard", "switches"):
            if names := by_path.get((path, by)):
                yield click.style(_news(names, path, by), fg=_COLOURS[path])
    if all(path not in _STATUS for path, _ in by_path):
        yield "inspected"
    if lacking := _lacking(status):
        yield click.style(lacking, fg="red")
    yield "the network is " + (
        "as wanted" if status["network"]["converged"] else click.style("not as wanted", fg="red")
    )


def _lacking(status: Any) -> str:
    """What of the guard that the file declares is not there, or does not work; '' if nothing."""
    codes = {warning["code"] for warning in status["warnings"]}
    return next((words for words, those in _LACKING.items() if codes & those), "")


def _news(names: list[str], path: str, by: str) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    who = f"{', '.join(names[:_NAMES])}{more} {'is' if len(names) == 1 else 'are'}"
    return f"it is unknown whether {who} inspected" if path == "unknown" else f"{who} {_path(path, by)}"


def _path(path: str, by: str) -> str:
    if path == "unknown":
        return "unknown whether inspected"
    return f"{path} by the guard" if by == "guard" else path


def reasons(status: Any, *, all_of_them: bool) -> Iterator[Said]:
    """`reconcile why`: for each segment and the VM the last decision, or all that are kept, with what led to it."""
    for segment in status["segments"]:
        yield from _segment(segment)
        for reason in segment["why"]:
            yield Said(f"    {escaped(reason)}")
    if status["vm"]:
        yield from _vm(status["vm"])
    decisions = status["decisions"] if all_of_them else status["decisions"][-8:]
    if decisions:
        yield Said("decided, the latest last:")
    for one in decisions:
        where = f"{escaped(one['segment'])}: " if one["segment"] else ""
        yield Said(f"  {span(one['age_ms'])} ago  {where}{escaped(one['what'])}")
        for reason in one["why"]:
            yield Said(f"      {escaped(reason)}")


def span(milliseconds: int) -> str:
    """A length of time for people: its two largest units, or milliseconds."""
    if milliseconds < 1_000:
        return f"{milliseconds} ms"
    seconds = milliseconds // 1_000
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    first = next(index for index, (_, size) in enumerate(units) if seconds >= size)
    parts = []
    for unit, size in units[first : first + 2]:
        count, seconds = divmod(seconds, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts)


def _segment(segment: Any) -> Iterator[Said]:
    hold = segment["hold"]
    text = f"{escaped(segment['name'])}: "
    if segment["path"] != _MEANT.get(segment["topology"], segment["path"]):
        text += click.style(_path(segment["path"], segment["path_by"]), fg=_COLOURS[segment["path"]]) + "; wanted: "
    text += segment["topology"]
    text += f" for {span(segment['since_ms'])}" if segment["since_ms"] is not None else ""
    text += f", the VM is {_colour(segment['verdict'])} here"
    if segment["hold_down_left_ms"] is not None:
        text += f", back to inspect in {span(segment['hold_down_left_ms'])}"
    if segment["flaps"]:
        text += f", failed {segment['flaps']} times soon after a return"
    yield Said(text)
    if hold:
        yield Said(
            f"    held on {hold['topology']} by {escaped(hold['owner'])} for {span(hold['left_ms'])} more: "
            f"{escaped(hold['reason'])}"
        )


def _guard(guard: Any) -> Iterator[Said]:
    if not guard:
        return
    for segment in guard["segments"]:
        yield Said(f"guard of {escaped(segment['name'])}: {_guarded(segment)}")
        for one in segment["directions"]:
            rtt = f", {one['rtt_us'][1] / 1000:.2f} ms" if one["rtt_us"] else ""
            missing = f"{one['sent'] - one['returned']} of {one['sent']} missing"
            yield Said(f"    {escaped(one['from'])} → {escaped(one['to'])}: {one['state']}{rtt}, {missing}")


def _guarded(segment: Any) -> str:
    words = {
        "leased": f"inspected, on a lease of {segment['lease_ms']} ms",
        "joined": "bypassed by the guard",
        "cut": "cut by the guard",
        "aside": "inactive: the switches decide",
        "off": click.style("off", fg="yellow"),
        "missing": click.style("is not in the kernel", fg="red"),
        "unknown": click.style("the kernel does not tell", fg="red"),
    }
    text = words[segment["state"]]
    if segment["trips"]:
        text += f"; tripped {segment['trips']} time{'s' if segment['trips'] != 1 else ''}"
    passed = segment["passed"]
    if passed["frames"]:
        what = "kept from the wire" if segment["state"] == "cut" else "went past the VM"
        text += f"; {passed['frames']} frames ({passed['bytes']} bytes) {what}, in {span(segment['open_ms'])}"
    return text


def _vm(vm: Any) -> Iterator[Said]:
    attempts = f", restart {vm['attempts']} of {vm['attempts_declared']}" if vm["attempts"] else ""
    then = f", {span(vm['due_ms'])} left" if vm["due_ms"] is not None else ""
    yield Said(f"VM: {vm['phase']} for {span(vm['since_ms'])}{attempts}{then}")


def _name(signal: Any) -> str:
    return escaped(signal["name"] + (f" ({signal['segment']})" if signal["segment"] else ""))


def _age(signal: Any) -> str:
    observed_ms = signal["observed_ms"]
    return "" if observed_ms is None or observed_ms < 2_000 else f"  ({span(observed_ms)} ago)"


def _colour(word: str, width: int = 0) -> str:
    return click.style(f"{word:{width}}", fg=_COLOURS.get(word))
