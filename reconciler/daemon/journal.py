"""What the daemon tells whoever reads its log: one line for each thing that it decided, did, or could not do.

Text for people, or JSON for programs: each line an object with `time`, `level`, `event` (stable, for programs), `text`,
and what belongs to the event.
"""

import json
import logging
import logging.handlers
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from reconciler.console import escaped

# sd-daemon(3): the priority that journald takes from the beginning of a line.
# Lines that are kept until the end of a turn. Who has more to say writes them earlier.
_GATHERED = 1_000
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Journal:
    """Lines to `stream`, as text or JSON."""

    def __init__(self, stream: TextIO, *, as_json: bool = False) -> None:
        # Not in the tree of loggers: what a library logs is not for the operator.
        self._logger = logging.Logger("reconciler")  # noqa: LOG001
        handler = logging.StreamHandler(stream)
        handler.setFormatter(_Json() if as_json else _Text(journald=bool(os.environ.get("JOURNAL_STREAM"))))
        self._lines = logging.handlers.MemoryHandler(_GATHERED, flushLevel=logging.CRITICAL + 1, target=handler)
        self._gathering = 0
        self._logger.addHandler(self._lines)

    def tell(self, event: str, text: str, *, level: int = logging.INFO, **data: Any) -> None:
        """Write one line. Text and data may be a stranger's: they are escaped."""
        self._logger.log(level, "%s", text, extra={"event": event, "data": data})
        if not self._gathering:
            self._lines.flush()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """While it lasts, lines are kept, each with its time: a reader that is stuck must not hold up a failover."""
        self._gathering += 1
        try:
            yield
        finally:
            self._gathering -= 1
            if not self._gathering:
                self._lines.flush()


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": vars(record)["event"],
            "text": record.getMessage(),
            **vars(record)["data"],
        }
        return json.dumps(told, default=str)


class _Text(logging.Formatter):
    def __init__(self, *, journald: bool) -> None:
        super().__init__()
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        text = escaped(record.getMessage())
        # journald knows the time, and takes the priority.
        begin = f"<{_PRIORITY[record.levelno]}>" if self._journald else f"{_time(record)} "
        loud = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{begin}{loud}{text}"


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
