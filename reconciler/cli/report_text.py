"""A report for people who read it on a terminal of 80 columns."""

from collections.abc import Iterator

import click

from reconciler.cli.words import fit, span
from reconciler.console import Said, escaped
from reconciler.host.envelope import utc
from reconciler.ledger.chain import Break
from reconciler.ledger.entry import Counted, Entry, EntryKind
from reconciler.ledger.reckoning import SHARES, Frames, Reckoned, Reported, Share

WIDTH = 80
WORDS = {
    Share.INSPECTED: "inspected",
    Share.BYPASSED: "bypassed",
    Share.HELD: "by order",
    Share.CUT: "cut",
    Share.UNKNOWN: "unknown",
}
ORDERED = "By order: bypassed, because somebody held it there or took the guard away."
_COLOURS = {
    EntryKind.BYPASSED: "red",
    EntryKind.CUT: "red",
    EntryKind.UNKNOWN: "yellow",
    EntryKind.NO_EVIDENCE: "yellow",
}


def text(made: list[Reported], homeless: tuple[Break, ...]) -> Iterator[Said]:
    """The lines of it, the bad news of each appliance first."""
    for broken in homeless:
        yield from _bad(broken)
    for number, one in enumerate(made):
        if number or homeless:
            yield Said("")
        yield from _appliance(one)


def _appliance(one: Reported) -> Iterator[Said]:
    history = one.history
    what = click.style(f"{escaped(history.appliance)} on {escaped(history.host)}", bold=True)
    yield Said(f"{what}  {minute(one.since_ms)} to {minute(one.until_ms)} UTC")
    for broken in history.breaks:
        yield from _bad(broken)
    yield Said("")
    yield from _shares(one)
    yield Said("")
    for entry in one.happened:
        yield from _happened(one, entry)
    if not one.happened:
        yield Said("  nothing else happened")
    yield Said("")
    for note in history.notes:
        yield from _wrapped(f"  note: {escaped(note)}")
    rows = f"rows {history.first.n} to {history.last.n}"
    when = f"{minute(history.first.at_ms)} to {minute(history.last.at_ms)}"
    whole = "not whole" if history.breaks else "each follows the one before"
    yield from _wrapped(f"  {rows}, {when}: {whole}; the last is")
    yield Said(f"    {history.last_hash}")


def _shares(one: Reported) -> Iterator[Said]:
    if not one.segments:
        yield Said("  no daemon has run: its segments are not known")
        return
    width = max(7, *(len(escaped(segment.segment)) for segment in one.segments))
    yield Said(f"  {'segment':{width}}" + "".join(f"{WORDS[share]:>13}" for share in SHARES))
    for segment in one.segments:
        yield from _segment(segment, one.until_ms - one.since_ms, width)
    if any(segment.lasted(Share.HELD) for segment in one.segments):
        yield Said(f"  {ORDERED}")


def _bad(one: Break) -> Iterator[Said]:
    when = f" ({utc(one.from_ms)} to {utc(one.to_ms)})" if one.from_ms is not None and one.to_ms is not None else ""
    for line in _wrapped(f"  BROKEN: {escaped(one.what)}{when}"):
        yield Said(click.style(line.text, fg="red"))


def _segment(one: Reckoned, whole_ms: int, width: int) -> Iterator[Said]:
    shares = "".join(f"{percent(one.lasted(share), whole_ms):>13}" for share in SHARES)
    times = "".join(f"{span(one.lasted(share)) if one.lasted(share) else '–':>13}" for share in SHARES)
    yield Said(f"  {escaped(one.segment):{width}}{shares}")
    yield Said(f"  {'':{width}}{times}")
    for what, frames in (("past the VM", one.passed), ("cut", one.cut)):
        if frames.frames or frames.counted is not Counted.EXACT:
            yield Said(f"  {'':{width}}  {what}: {counted(frames)}")
    if one.unsure_ms:
        yield Said(f"  {'':{width}}  the bounds of intervals are known to within {span(one.unsure_ms)} in all")


def _happened(one: Reported, entry: Entry) -> Iterator[Said]:
    """A line with when, for how long and what; below it, indented, why, who and how much."""
    kind = click.style(entry.kind.value, fg=_COLOURS.get(entry.kind))
    lasted = (
        "" if entry.to_ms == entry.from_ms else span(one.lasted(entry)) + (" so far" if entry.to_ms is None else "")
    )
    where = f"  {escaped(entry.segment)}" if entry.segment else ""
    yield Said(f"  {second(entry.from_ms)}  {lasted:>14}  {kind}{where}")
    for more in details(entry):
        yield from _wrapped(f"    {escaped(more)}")


def details(entry: Entry) -> Iterator[str]:
    """What there is to say of an entry, beside when and what; a stranger's text is in it as it came."""
    if entry.cause:
        yield entry.cause
    if entry.who or entry.reason:
        yield ": ".join(one for one in (entry.who, entry.reason) if one)
    if entry.kind in (EntryKind.BYPASSED, EntryKind.CUT) and (entry.frames or entry.counted is not Counted.NO):
        yield counted(Frames(entry.frames, entry.bytes, entry.counted))
    if entry.precision_ms:
        yield f"from and to are known to within {span(entry.precision_ms)}"
    if entry.evidence and entry.kind is not EntryKind.RELOAD:
        yield "; ".join(entry.evidence)


def counted(frames: Frames) -> str:
    """Frames and bytes, and how well they are known."""
    if frames.counted is Counted.NO or (frames.counted is Counted.AT_LEAST and not frames.frames):
        return "frames were not counted"
    least = "at least " if frames.counted is Counted.AT_LEAST else ""
    return f"{least}{frames.frames:,} frame{'s' if frames.frames != 1 else ''}, {frames.bytes:,} bytes"


def percent(part_ms: int, whole_ms: int) -> str:
    """A share, so that neither nothing nor all of it is what is merely close to that."""
    if part_ms in (0, whole_ms):
        return "100 %" if part_ms else "–"
    share = 100 * part_ms / whole_ms
    return "< 0.001 %" if share < 0.001 else "> 99.999 %" if share > 99.999 else f"{share:.3f} %"


def minute(at_ms: int) -> str:
    """A moment to the minute."""
    return utc(at_ms)[:16].replace("T", " ")


def second(at_ms: int) -> str:
    """A moment to the second."""
    return utc(at_ms)[:19].replace("T", " ")


def _wrapped(line: str) -> Iterator[Said]:
    return fit(line, WIDTH, hang=len(line) - len(line.lstrip()))
