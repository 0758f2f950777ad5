"""Whether a ledger is whole: each row follows the one before, by number and by hash.

What the chain cannot show is that rows at its end were taken away: for that somebody else has to have seen its last
hash, which `reconcile status` and `reconcile report` print, and a mark beside the file keeps.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.ledger.entry import EntryKind
from reconciler.ledger.row import BEGINNING, Row, line_hash, parse


@dataclass(frozen=True, slots=True)
class ChainedRow:
    """A row, and the hash of its line."""

    row: Row
    hash: str


@dataclass(frozen=True, slots=True)
class Break:
    """Where the chain is broken, in words; nothing of a file is repeated.

    `from_ms`, `to_ms`: between which rows, UTC: what was written there is not known; None where it is no span of time.
    """

    what: str
    from_ms: int | None = None
    to_ms: int | None = None


def links(lines: Iterable[bytes]) -> Iterator[ChainedRow | Break]:
    """What each line of a file is."""
    for number, text in enumerate(lines, 1):
        if not text.endswith(b"\n"):
            yield Break(f"line {number} is no row: its end is missing")
            continue
        try:
            yield ChainedRow(parse(text), line_hash(text))
        except ValueError as error:
            yield Break(f"line {number} is no row: {error}")


def ordered(found: Iterable[ChainedRow]) -> tuple[tuple[ChainedRow, ...], tuple[Break, ...]]:
    """The rows of one appliance by their numbers, each once, however many files they come from; and what is broken."""
    links: dict[int, ChainedRow] = {}
    breaks: list[Break] = []
    for one in found:
        other = links.setdefault(one.row.n, one)
        if other.hash != one.hash:
            breaks.append(Break(f"row {one.row.n} is there in two versions", other.row.at_ms, one.row.at_ms))
    rows = tuple(links[n] for n in sorted(links))
    return rows, tuple(breaks + list(_breaks(rows)))


def _breaks(rows: Sequence[ChainedRow]) -> Iterator[Break]:
    if rows and (what := _first(rows[0].row)):
        yield Break(what)
    for before, after in itertools.pairwise(rows):
        if what := _between(before, after.row):
            yield Break(what, *sorted((before.row.at_ms, after.row.at_ms)))


def _between(before: ChainedRow, row: Row) -> str:
    first, last = before.row.n + 1, row.n - 1
    if first <= last:
        return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"
    if row.previous != before.hash:
        return f"row {before.row.n} is not the one that row {row.n} was written after: one of them was changed"
    return ""


def _first(row: Row) -> str:
    """The first row of all, or one that continues, and names the hash of the last before it."""
    if row.n == 1:
        return "" if row.previous == BEGINNING else "row 1 names a row before it"
    if row.entry.kind is EntryKind.CONTINUED:
        return ""
    return f"it begins with row {row.n}: what came before is missing"
