"""A report as one HTML file: nothing is fetched, nothing runs, and it can be printed.

Whatever a ledger says is a stranger's text: it is escaped, and the page's own policy forbids all but its style.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from html import escape

from reconciler import __version__
from reconciler.cli.report_text import ORDERED, WORDS, counted, details, minute, percent, second
from reconciler.cli.words import span
from reconciler.console import escaped
from reconciler.host import clock
from reconciler.ledger.chain import Break
from reconciler.ledger.entry import Counted, Entry
from reconciler.ledger.reckoning import SHARES, Piece, Reckoned, Reported, Share

# The timeline: this many columns, each as bad as the worst moment in it, so that a second shows in 90 days.
COLUMNS = 720
_BAR, _STEP, _LEFT, _WORD = 22, 38, 110, 90
_TICKS = (
    *(timedelta(minutes=one) for one in (1, 5, 10, 30)),
    *(timedelta(hours=one) for one in (1, 3, 6, 12)),
    *(timedelta(days=one) for one in (1, 7, 14, 30, 90, 365, 3_650)),
)
_MOST_TICKS = 8

# Of a reader that does not know the style's variables; the style says the same for light and dark.
_FILL = {
    Share.INSPECTED: "#2f7d4f",
    Share.BYPASSED: "#c62828",
    Share.HELD: "#d98e04",
    Share.CUT: "#5e35b1",
    Share.UNKNOWN: "#9aa1a9",
}

_STYLE = """
:root { --ink: #1a1c1f; --soft: #5b626b; --line: #d5d9de; --page: #fff; --inspected: #2f7d4f; --bypassed: #c62828;
        --held: #d98e04; --cut: #5e35b1; --unknown: #9aa1a9; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --soft: #a3abb5; --line: #3a4048; --page: #16181b; --inspected: #4caf7a; --bypassed: #ef5350;
          --held: #f0ad2e; --cut: #9575cd; --unknown: #6c757f; } }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --inspected: #2f7d4f; --bypassed: #c62828;
                       --held: #d98e04; --cut: #5e35b1; --unknown: #9aa1a9; }
  section { break-before: page; } section:first-of-type { break-before: auto; } tr, svg { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: var(--ink); background: var(--page);
       font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .2rem; } p { margin: .3rem 0; }
.soft, th, figcaption { color: var(--soft); } .mono { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0; }
th { text-align: left; font-weight: 600; } td, th { padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
     vertical-align: top; } .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.when { white-space: nowrap; font-variant-numeric: tabular-nums; } td p { margin: 0; overflow-wrap: anywhere; }
.why { width: 45%; }
.broken { border-left: 4px solid var(--bypassed); padding: .2rem .8rem; margin: .6rem 0; font-weight: 600; }
figure { margin: 1rem 0; } svg { width: 100%; height: auto; display: block; } svg text { fill: var(--ink);
     font: 12px system-ui, sans-serif; } svg .tick { fill: var(--soft); } svg line { stroke: var(--line); }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .35em 0 1em; vertical-align: -.05em; }
@supports (fill: var(--ink)) { rect.inspected { fill: var(--inspected); } rect.bypassed { fill: var(--bypassed); }
  rect.held { fill: var(--held); } rect.cut { fill: var(--cut); } rect.unknown { fill: var(--unknown); } }
.key.inspected { background: var(--inspected); } .key.bypassed { background: var(--bypassed); }
.key.held { background: var(--held); } .key.cut { background: var(--cut); } .key.unknown { background: var(--unknown); }
"""


def page(made: Sequence[Reported], homeless: Iterable[Break]) -> str:
    """The whole file."""
    first = made[0]
    title = f"Where frames went, {minute(first.since_ms)} to {minute(first.until_ms)} UTC"
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(title)}</h1>",
        f'<p class="soft">Made {second(clock.wall_ms())} UTC by reconcile {_text(__version__)}. All times are UTC.</p>',
        *(_broken(one) for one in homeless),
        *(part for one in made for part in _section(one)),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _text(text: str) -> str:
    return escape(escaped(text))


def _broken(one: Break) -> str:
    known = one.from_ms is not None and one.to_ms is not None
    when = f" ({second(one.from_ms or 0)} to {second(one.to_ms or 0)})" if known else ""
    return f'<p class="broken">Broken: {_text(one.what)}{when}</p>'


def _section(one: Reported) -> Iterator[str]:
    history = one.history
    yield f"<section><h2>{_text(history.appliance)} on {_text(history.host)}</h2>"
    yield from (_broken(broken) for broken in history.breaks)
    if one.segments:
        yield from _shares(one)
        yield from _timeline(one)
    yield from _happened(one)
    yield from (f'<p class="soft">{_text(note)}</p>' for note in history.notes)
    whole = "It is not whole." if history.breaks else "Each row follows the one before."
    rows = f"rows {history.first.n} to {history.last.n}, {minute(history.first.at_ms)} to {minute(history.last.at_ms)}"
    machine = _text(history.machine) or "unknown"
    yield f'<p class="soft">From {rows}. {whole} Machine {machine}. Hash of the last row:</p>'
    yield f'<p class="mono">{_text(history.last_hash)}</p></section>'


def _shares(one: Reported) -> Iterator[str]:
    heads = "".join(f'<th class="number">{WORDS[share]}</th>' for share in SHARES)
    yield f"<table><thead><tr><th>segment</th>{heads}</tr></thead><tbody>"
    for segment in one.segments:
        cells = "".join(_share(segment, share, one.until_ms - one.since_ms) for share in SHARES)
        text = "; ".join(_frames(segment))
        yield f"<tr><td>{_text(segment.segment)}</td>{cells}</tr>"
        if text:
            yield f'<tr><td></td><td colspan="{len(SHARES)}">{text[:1].upper()}{text[1:]}.</td></tr>'
    yield "</tbody></table>"


def _share(segment: Reckoned, share: Share, whole_ms: int) -> str:
    lasted = segment.lasted(share)
    time = f'<br><span class="soft">{span(lasted)}</span>' if lasted else ""
    return f'<td class="number">{_text(percent(lasted, whole_ms))}{time}</td>'


def _frames(segment: Reckoned) -> Iterator[str]:
    for what, frames in (("past the VM", segment.passed), ("cut", segment.cut)):
        if frames.frames or frames.counted is not Counted.EXACT:
            yield f"{what}: {_text(counted(frames))}"
    if segment.unsure_ms:
        yield f"bounds to within {span(segment.unsure_ms)} in all"


def _timeline(one: Reported) -> Iterator[str]:
    width, height = _LEFT + COLUMNS, _STEP * len(one.segments) + 24
    names = ", ".join(segment.segment for segment in one.segments)
    label = f'role="img" aria-label="Timeline of {_text(names)}"'
    yield f'<figure><svg viewBox="0 0 {width} {height}" {label}>'
    for at, word in _ticks(one.since_ms, one.until_ms):
        x = _LEFT + COLUMNS * (at - one.since_ms) / (one.until_ms - one.since_ms)
        yield f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - 18}"/>'
        # At the right edge it ends there.
        if x < width - _WORD:
            yield f'<text class="tick" x="{x + 3:.1f}" y="{height - 5}">{word}</text>'
    for row, segment in enumerate(one.segments):
        top = row * _STEP + 6
        shown = escaped(segment.segment)
        yield f'<text x="0" y="{top + 15}">{escape(shown if len(shown) < 16 else shown[:14] + "…")}</text>'
        for begin, over, share in columns(segment.pieces, one.since_ms, one.until_ms):
            place = f'x="{_LEFT + begin}" y="{top}" width="{over - begin}" height="{_BAR}"'
            yield f'<rect class="{share.value}" fill="{_FILL[share]}" {place}><title>{WORDS[share]}</title></rect>'
    keys = "".join(f'<span class="key {share.value}"></span>{WORDS[share]}' for share in SHARES)
    column = span(max(1, (one.until_ms - one.since_ms) // COLUMNS))
    yield f"</svg><figcaption>{keys}<br>Each column is {column} wide, and as bad as the worst moment in it. {ORDERED}"
    yield "</figcaption></figure>"


def columns(pieces: Iterable[Piece], since_ms: int, until_ms: int) -> Iterator[tuple[int, int, Share]]:
    """Runs of columns of one share: first, and one behind the last."""
    order = {share: number for number, share in enumerate(Share)}
    worst = [Share.INSPECTED] * COLUMNS
    whole = until_ms - since_ms
    for piece in pieces:
        first = (piece.from_ms - since_ms) * COLUMNS // whole
        behind = -(-(piece.to_ms - since_ms) * COLUMNS // whole)
        for column in range(first, min(behind, COLUMNS)):
            worst[column] = max(worst[column], piece.share, key=order.__getitem__)
    begin = 0
    for column in range(1, COLUMNS + 1):
        if column == COLUMNS or worst[column] is not worst[begin]:
            yield begin, column, worst[begin]
            begin = column


def _ticks(since_ms: int, until_ms: int) -> Iterator[tuple[int, str]]:
    whole = timedelta(milliseconds=until_ms - since_ms)
    step = next((one for one in _TICKS if whole / one <= _MOST_TICKS), _TICKS[-1])
    size = int(step.total_seconds() * 1_000)
    form = "%Y-%m-%d" if step >= timedelta(days=1) else "%d %b %H:%M"
    for at in range(-(-since_ms // size) * size, until_ms, size):
        yield at, f"{datetime.fromtimestamp(at // 1_000, UTC):{form}}"


def _happened(one: Reported) -> Iterator[str]:
    if not one.happened:
        yield '<p class="soft">Nothing else happened.</p>'
        return
    heads = "".join(f"<th>{head}</th>" for head in ("from", "for", "what", "segment", "why, who, how much"))
    yield f"<table><thead><tr>{heads}</tr></thead><tbody>"
    for entry in one.happened:
        yield _row(one, entry)
    yield "</tbody></table>"


def _row(one: Reported, entry: Entry) -> str:
    lasted = "" if entry.to_ms == entry.from_ms else span(one.lasted(entry))
    more = "<br>so far" if entry.to_ms is None else ""
    text = "".join(f"<p>{_text(line)}</p>" for line in details(entry))
    cells = [
        f'<td class="when">{second(entry.from_ms)}</td><td class="when">{lasted}{more}</td>',
        f'<td>{_text(entry.kind.value)}</td><td>{_text(entry.segment)}</td><td class="why">{text}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"
