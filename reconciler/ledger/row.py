"""A row of the ledger: an entry, with all that tells when, where and by what it was written, as a line of JSON.

Each row bears the hash of the one before, so that none can be changed, taken out or put in without those after it.
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from reconciler import codec
from reconciler.ledger.entry import Entry

FORMAT = "reconciler.ledger/1"
BEGINNING = ""
"""What the first row of all has for the hash of the one before."""
MAX_LINE = 262_144
"""Bytes, the newline included: more than any row has whose texts are within their bounds, however they are escaped."""

_MAX_TEXT, _MAX_EVIDENCE = 500, 16
_MAX_MS = 253_402_300_799_999  # the year 9999
_MAX_NUMBER = 1 << 64
_TEXTS = ("id", "segment", "cause", "who", "reason")
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{3})Z", re.ASCII)
_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row.

    `time`: when it was booked, UTC, as all our JSON has it; `monotonic_ms`: the same moment by the clock that never
    steps, since boot. `synchronised`: what the kernel says of the wall clock (adjtimex). `digest`: the SHA-256 of the
    appliance file in force; None where there is none. `n`: 1, 2, …; `previous`: the hash of the line before.
    """

    format: str = FORMAT
    time: str
    host: str
    version: str
    digest: str | None
    appliance: str  # the SKU
    machine: str  # /etc/machine-id
    boot: str
    monotonic_ms: int
    synchronised: bool
    n: int
    previous: str
    entry: Entry

    @property
    def at_ms(self) -> int:
        """`time` in milliseconds since 1970.

        Raises:
            ValueError: it is none.

        """
        return _milliseconds(self.time)


def line(row: Row) -> bytes:
    """The row as it stands in the file, with its newline; at most `MAX_LINE` bytes where `fitted` made its entry."""
    return json.dumps(codec.dump(row), ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def line_hash(text: bytes) -> str:
    """The hash of a line, by which the next one names it."""
    return hashlib.sha256(text.rstrip(b"\n")).hexdigest()


def parse(text: bytes) -> Row:
    """The row that a line holds. Nothing in it is believed but its form.

    Raises:
        ValueError: it is no row; says why, and repeats nothing of it.

    """
    if len(text) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} bytes")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    if isinstance(data, dict) and data.get("format", FORMAT) != FORMAT:
        raise ValueError(f"not of the format {FORMAT}")
    row = codec.parse(Row, data)
    _check(row)
    return row


def _check(row: Row) -> None:
    entry = row.entry
    moments = [row.at_ms, entry.from_ms, *([] if entry.to_ms is None else [entry.to_ms])]
    if not all(0 <= one <= _MAX_MS for one in moments) or min(moments[1:]) < entry.from_ms:
        raise ValueError("a time that cannot be")
    if not (all(0 <= one < _MAX_NUMBER for one in (row.n, row.monotonic_ms, entry.frames, entry.bytes)) and row.n):
        raise ValueError("a number that cannot be")
    if not 0 <= entry.precision_ms <= _MAX_MS:
        raise ValueError("a precision that cannot be")
    if row.previous != BEGINNING and not _HASH.fullmatch(row.previous):
        raise ValueError("no hash of the row before")
    texts = [*(getattr(entry, name) for name in _TEXTS), *entry.evidence, *row.host, row.version, row.digest or ""]
    texts += [row.appliance, row.machine, row.boot]
    if max(map(len, texts)) > _MAX_TEXT or len(entry.evidence) > _MAX_EVIDENCE:
        raise ValueError("a text that is too long")


def _milliseconds(text: str) -> int:
    found = _TIME.fullmatch(text)
    year, month, day, hour, minute, second, rest = map(int, found.groups()) if found else (0,) * 7
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        raise ValueError("a time that cannot be")
    # The days since 1970 by the calendar: years begin with March, so that the day of a leap year is the last one.
    year, month = (year, month - 3) if month > 2 else (year - 1, month + 9)
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 719_469
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + rest


def fitted(entry: Entry) -> Entry:
    """The entry with its texts cut to what a row may hold."""
    cut: dict[str, Any] = {name: getattr(entry, name)[:_MAX_TEXT] for name in _TEXTS}
    return replace(entry, **cut, evidence=tuple(one[:_MAX_TEXT] for one in entry.evidence[:_MAX_EVIDENCE]))


def still_open(known: dict[str, Entry], entry: Entry) -> None:
    """Keep in `known` the intervals that go on, by their ids: the entry begins, replaces or ends one."""
    if entry.id and entry.to_ms is None:
        known[entry.id] = entry
    else:
        known.pop(entry.id, None)
