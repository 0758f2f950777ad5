"""Ledgers for tests: entries, and rows that follow each other."""

from typing import Any

from reconciler.ledger.entry import Entry, Kind
from reconciler.ledger.row import BEGINNING, Row, Stamp, digest, line

STAMP = Stamp(appliance="lab", file="f" * 64, version="1.2.3", host="ax6", machine="m" * 32, boot="boot-1")


def entry(kind: Kind, from_ms: int, to_ms: int | None, **more: Any) -> Entry:
    return Entry(kind=kind, from_ms=from_ms, to_ms=to_ms, **more)


def chain(*entries: Entry, by: Stamp = STAMP, after: tuple[int, str] = (0, BEGINNING)) -> list[bytes]:
    """Lines that follow the row `after`; each was booked when its entry ends, or begins."""
    (n, previous), made = after, list[bytes]()
    for one in entries:
        at = one.from_ms if one.to_ms is None else one.to_ms
        n += 1
        row = Row(n=n, previous=previous, at_ms=at, monotonic_ms=at, synchronised=True, by=by, entry=one)
        made.append(line(row))
        previous = digest(made[-1])
    return made
