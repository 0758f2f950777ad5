"""Ledgers for tests: entries, and rows that follow each other."""

from typing import Any

from reconciler.host.envelope import utc
from reconciler.ledger.entry import Entry, EntryKind
from reconciler.ledger.row import BEGINNING, Row, line, line_hash

LAB = {"host": "ax6", "version": "1.2.3", "digest": "f" * 64, "appliance": "lab", "machine": "m" * 32, "boot": "boot-1"}


def entry(kind: EntryKind, from_ms: int, to_ms: int | None, **more: Any) -> Entry:
    return Entry(kind=kind, from_ms=from_ms, to_ms=to_ms, **more)


def row(of: Entry, at_ms: int = 0, n: int = 1, previous: str = BEGINNING, **more: Any) -> Row:
    what: Any = LAB | {"monotonic_ms": at_ms, "synchronised": True} | more
    return Row(time=utc(at_ms), n=n, previous=previous, entry=of, **what)


def chain(*entries: Entry, after: tuple[int, str] = (0, BEGINNING), **more: Any) -> list[bytes]:
    """Lines that follow the row `after`; each was booked when its entry ends, or begins."""
    (n, previous), made = after, list[bytes]()
    for one in entries:
        n += 1
        made.append(line(row(one, one.from_ms if one.to_ms is None else one.to_ms, n, previous, **more)))
        previous = line_hash(made[-1])
    return made
