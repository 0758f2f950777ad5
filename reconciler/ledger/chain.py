"""Whether a ledger is whole: each row follows the one before, by number and by hash.

What the chain cannot show is that rows at its end were taken away: for that somebody else has to have seen its last
hash, which `reconcile report` prints and the daemon's log holds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reconciler.ledger.entry import EntryKind
from reconciler.ledger.row import BEGINNING, Row, line_hash, parse


@dataclass(frozen=True, slots=True)
class ChainedRow:
    """A row where it was found, and its own hash."""

    row: Row
    hash: str


@dataclass(frozen=True, slots=True)
class Break:
    """Where the chain is broken. `line`: of the file, from 1. `what`: in words; nothing of the file is repeated."""

    line: int
    what: str


def links(lines: Iterable[bytes]) -> Iterator[ChainedRow | Break]:
    """Each row of a file, and each place where the chain is broken, in the file's order."""
    before: ChainedRow | None = None
    for number, text in enumerate(lines, 1):
        try:
            row = parse(text)
        except ValueError as error:
            yield Break(number, f"this is no row: {error}")
            continue
        if not text.endswith(b"\n"):
            yield Break(number, "this row is torn: its end is missing")
        link = ChainedRow(row, line_hash(text))
        if fault := _fault(before, link):
            yield Break(number, fault)
        yield link
        before = link


def _fault(before: ChainedRow | None, link: ChainedRow) -> str:
    row = link.row
    if before is None:
        return _first(row)
    if row.n <= before.row.n:
        return f"row {row.n} comes after row {before.row.n}"
    if row.n != before.row.n + 1:
        gap = (
            f"row {before.row.n + 1} is" if row.n == before.row.n + 2 else f"rows {before.row.n + 1} to {row.n - 1} are"
        )
        return f"{gap} missing"
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
