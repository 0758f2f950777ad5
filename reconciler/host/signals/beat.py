"""One beat of the agent in the VM: a line of JSON, from a guest that is not trusted.

    {"v": 1, "boot": "<uuid>", "run": "<32 hex>", "seq": 1, "interval_ms": 100,
     "checks": {"suricata": {"state": "healthy", "reason": "pid 312 runs"}}}

Strict: what is not exactly this is no beat. The line's length bounds all else. `boot` is the guest kernel's boot id,
`run` the agent's own, new with each start of it, and `seq` rises within the two. The last beat of an agent that was
told to stop, as when the VM shuts down, has `"stopping": true` beside the rest.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from reconciler.health.signal import HealthState

VERSION = 1
MAX_LINE = 4096  # bytes, with the newline
MAX_CHECKS = 32
MAX_SEQ = 2**53 - 1  # what every JSON implementation can count to
MAX_INTERVAL_MS = 3_600_000

_KEYS = {"v", "boot", "run", "seq", "interval_ms", "checks"}
_CHECK_KEYS = {"state", "reason"}
_BOOT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_RUN = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,30}", re.ASCII)
_REASON = re.compile(r"[ -~]{0,120}", re.ASCII)
# In a beat this is only found at its number: within a text a quote would be escaped, and a check is no number.
_SEQ = re.compile(rb'"seq": ?([1-9][0-9]{0,15})')
_STATES = {state.value: state for state in (HealthState.HEALTHY, HealthState.DEGRADED, HealthState.FAILED)}


class NoBeatError(ValueError):
    """A line that is no beat; the text says why, in our own words: nothing of the guest's is repeated."""


@dataclass(frozen=True, slots=True)
class Check:
    """What the agent says of one application."""

    name: str
    state: HealthState
    reason: str


@dataclass(frozen=True, slots=True)
class Beat:
    """One beat that is well-formed. Whether it is to be believed, `beats` says."""

    boot: str
    run: str
    seq: int
    interval_ms: int
    checks: tuple[Check, ...]
    stopping: bool = False


class Reader:
    """Reads beats, and those fast that differ from the one before in nothing but their number.

    Which is nearly all of them. What stands before and after the number was found to be a beat then; the same bytes
    around another number are one, too.
    """

    def __init__(self) -> None:
        self._beat: Beat | None = None
        self._before = self._after = b""

    def read(self, line: bytes) -> Beat:
        """The beat in one line, as `parse` reads it.

        Raises:
            NoBeatError: it holds none.

        """
        found = _SEQ.search(line)
        if found and self._beat and line[: found.start(1)] == self._before and line[found.end(1) :] == self._after:
            seq = int(found[1])
            if seq <= MAX_SEQ and len(line) < MAX_LINE:
                known = self._beat
                return Beat(known.boot, known.run, seq, known.interval_ms, known.checks, known.stopping)
        beat = parse(line)
        if found and int(found[1]) == beat.seq:
            self._beat, self._before, self._after = beat, line[: found.start(1)], line[found.end(1) :]
        return beat


def parse(line: bytes) -> Beat:
    """The beat in one line, without its newline.

    Raises:
        NoBeatError: it holds none.

    """
    if len(line) >= MAX_LINE:
        raise NoBeatError(f"longer than {MAX_LINE} bytes")
    try:
        data = _DECODER.decode(line.decode("ascii"))
    except NoBeatError:
        raise
    except (ValueError, RecursionError):
        raise NoBeatError("not a line of JSON in ASCII") from None
    if not isinstance(data, dict):
        raise NoBeatError("not a JSON object")
    version = data.get("v")
    if type(version) is int and version > VERSION:
        raise NoBeatError("the agent is newer than this daemon, which understands version 1")
    if version != VERSION or type(version) is not int or data.keys() - {"stopping"} != _KEYS:
        raise NoBeatError("not the keys of a beat")
    return Beat(
        _text(data["boot"], _BOOT, "boot id"),
        _text(data["run"], _RUN, "run id"),
        _whole(data["seq"], MAX_SEQ, "sequence number"),
        _whole(data["interval_ms"], MAX_INTERVAL_MS, "interval"),
        _checks(data["checks"]),
        _yes(data.get("stopping", False)),
    )


def _checks(data: Any) -> tuple[Check, ...]:
    if not isinstance(data, dict) or len(data) > MAX_CHECKS:
        raise NoBeatError("no checks, or too many")
    return tuple(_check(name, check) for name, check in data.items())


def _check(name: str, check: Any) -> Check:
    if not isinstance(check, dict) or check.keys() != _CHECK_KEYS:
        raise NoBeatError("not the keys of a check")
    state = check["state"]
    if not isinstance(state, str) or state not in _STATES:
        raise NoBeatError("not the state of a check")
    return Check(_text(name, _NAME, "name of a check"), _STATES[state], _text(check["reason"], _REASON, "reason"))


def _text(value: Any, pattern: re.Pattern[str], what: str) -> str:
    if isinstance(value, str) and pattern.fullmatch(value):
        return value
    raise NoBeatError(f"not a {what}")


def _whole(value: Any, most: int, what: str) -> int:
    # Not isinstance: True is an int, too.
    if type(value) is int and 1 <= value <= most:
        return value
    raise NoBeatError(f"not a {what}")


def _yes(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise NoBeatError("neither true nor false")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise NoBeatError("a key twice")
    return made


def _short(digits: str) -> int:
    if len(digits) > 16:
        raise NoBeatError("a number too large")
    return int(digits)


def _refuse(_: str) -> NoReturn:
    raise NoBeatError("a number that is not whole")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_short, parse_float=_refuse, parse_constant=_refuse, strict=True
)
