"""A report for programs: JSON, and CSV for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from reconciler.console import escaped
from reconciler.host.envelope import enveloped, utc
from reconciler.ledger.chain import Break
from reconciler.ledger.entry import Entry
from reconciler.ledger.reckoning import SHARES, Frames, Reckoned, Reported

FORMAT = "reconciler.exposure/1"
_COLUMNS = (
    *("appliance", "host", "machine", "kind", "segment", "from", "to", "lasted_ms", "precision_ms", "planned"),
    *("cause", "evidence", "who", "reason", "frames", "bytes", "counted"),
)
# What spreadsheets take for the beginning of a formula; the last four are the wide forms of the first.
_FORMULA = ("=", "+", "-", "@", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def as_json(made: Sequence[Reported], homeless: Iterable[Break]) -> dict[str, Any]:
    """The report as a JSON value; see docs/formats.md."""
    value = {
        "format": FORMAT,
        "since": utc(made[0].since_ms),
        "until": utc(made[0].until_ms),
        "appliances": [_appliance(one) for one in made],
        "broken": [_break(one) for one in homeless],
    }
    return enveloped(value, None)


def _appliance(one: Reported) -> dict[str, Any]:
    history = one.history
    return {
        "appliance": history.appliance,
        "host": history.host,
        "machine": history.machine,
        "first": {"row": history.first.n, "time": history.first.time},
        "last": {"row": history.last.n, "time": history.last.time, "hash": history.last_hash},
        "known_until": utc(history.known_ms),
        "broken": [_break(broken) for broken in history.breaks],
        "notes": list(history.notes),
        "segments": [_segment(segment) for segment in one.segments],
        "intervals": [_interval(one, entry) for entry in one.happened],
    }


def _break(one: Break) -> dict[str, Any]:
    return {"text": one.what, "from": _utc(one.from_ms), "to": _utc(one.to_ms)}


def _segment(one: Reckoned) -> dict[str, Any]:
    return {
        "segment": one.segment,
        **{f"{share.value}_ms": one.lasted(share) for share in SHARES},
        "unsure_ms": one.unsure_ms,
        "passed": _frames(one.passed),
        "cut": _frames(one.cut),
    }


def _frames(one: Frames) -> dict[str, Any]:
    return {"frames": one.frames, "bytes": one.bytes, "counted": one.counted.value}


def _interval(one: Reported, entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind.value,
        "segment": entry.segment,
        "from": utc(entry.from_ms),
        "to": _utc(entry.to_ms),
        "lasted_ms": one.lasted(entry),
        "precision_ms": entry.precision_ms,
        "planned": entry.planned,
        "cause": entry.cause,
        "evidence": list(entry.evidence),
        "who": entry.who,
        "reason": entry.reason,
        "frames": entry.frames,
        "bytes": entry.bytes,
        "counted": entry.counted.value,
    }


def _utc(at_ms: int | None) -> str | None:
    return None if at_ms is None else utc(at_ms)


def as_csv(made: Sequence[Reported], homeless: Iterable[Break]) -> str:
    """What happened, a row each, and where a ledger is broken: as RFC 4180 has it, and safe in a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for one in made:
        whose = [one.history.appliance, one.history.host, one.history.machine]
        for broken in one.history.breaks:
            writer.writerow(map(_cell, _broken(whose, broken)))
        for entry in one.happened:
            writer.writerow(map(_cell, [*whose, *_interval(one, entry).values()]))
    for broken in homeless:
        writer.writerow(map(_cell, _broken(["", "", ""], broken)))
    return out.getvalue()


def _broken(whose: list[str], one: Break) -> list[Any]:
    return [*whose, "broken", "", _utc(one.from_ms), _utc(one.to_ms), "", "", "", one.what, *[""] * 6]


def _cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula, whoever chose it."""
    if isinstance(value, list):
        value = "; ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return value
    text = escaped(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
