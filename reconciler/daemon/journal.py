"""What the daemon tells whoever reads its log: one line for each thing that it decided, did, or could not do.

Text for people, or JSON for programs: each line an object with `level`, `event` (see `log_events`), `text`, what
belongs to the event, and the envelope of all our JSON. Where journald reads, each line begins with its priority.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from reconciler.console import escaped
from reconciler.host import clock
from reconciler.host.blocking import Outlet
from reconciler.host.envelope import enveloped, utc
from reconciler.log_events import EventName, Level
from reconciler.warning import Severity, Warning

# Versioned: a change that could break a reader counts up.
LOG_FORMAT = "reconciler.log/1"

LEVELS: Mapping[Level, int] = {
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
# sd-daemon(3): the priority that journald takes from the beginning of a line.
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_LEVELS = {Severity.NOTE: logging.INFO, Severity.WARNING: logging.WARNING, Severity.ERROR: logging.ERROR}
# Lines that are kept until the end of a turn. Who has more to say writes them earlier.
_GATHERED = 1_000
# Of where an internal error happened: the innermost calls.
_CALLS_LISTED = 8


class Lines(Protocol):
    """Where lines go: an `Outlet`, or a stream that never blocks."""

    def write(self, line: str, /) -> object:
        """Write a line, its newline included."""
        ...


@dataclass(frozen=True, slots=True)
class _Line:
    at_ms: int
    event: EventName
    text: str
    level: int
    data: Mapping[str, Any]


class Journal:
    """Lines to `out`, as text or JSON. Any thread may tell something.

    `priority`: each line begins with its own, for journald. `digest`: the appliance file's, which JSON lines bear; who
    reads another file puts another one.
    """

    def __init__(self, out: Lines, *, as_json: bool = False, priority: bool = False, digest: str | None = None) -> None:
        self._out = out
        self._as_json, self._priority, self.digest = as_json, priority, digest
        self._kept: list[_Line] = []
        self._gathering = 0
        # Held for moments only. Again by the same thread where a destructor complains meanwhile.
        self._lock = threading.RLock()

    def tell(self, event: EventName, text: str, *, level: int = logging.INFO, **data: Any) -> None:
        """Write one line. Text and data may be a stranger's: they are escaped."""
        with self._lock:
            self._kept.append(_Line(clock.wall_ms(), event, text, level, data))
            if not self._gathering or len(self._kept) >= _GATHERED:
                self._write()

    def warn(self, event: EventName, warning: Warning, *, level: int | None = None, **data: Any) -> None:
        """Write one line of bad news. `level`: that of its severity, unless given."""
        level = _LEVELS[warning.severity] if level is None else level
        self.tell(event, warning.line, level=level, warning=warning.as_json(), **data)

    def bug(
        self,
        error: BaseException,
        about: str = "",
        *,
        event: EventName = "bug",
        level: int = logging.ERROR,
        **data: Any,
    ) -> None:
        """Tell of an error that nobody foresaw: one line with the place where it happened, and never a traceback."""
        calls = traceback.extract_tb(error.__traceback__)[-_CALLS_LISTED:]
        where = [f"{os.path.basename(call.filename)}:{call.lineno} {call.name}" for call in calls]  # noqa: PTH119
        what = f"internal error{about}: {type(error).__name__}: {error}{f' ({where[-1]})' if where else ''}"
        self.warn(event, Warning("internal-error", Severity.ERROR, "", what), level=level, where=where, **data)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """While it lasts, lines are kept, each with its time: neither making nor writing them comes before the wire."""
        self._gathering += 1
        try:
            yield
        finally:
            with self._lock:
                self._gathering -= 1
                if not self._gathering:
                    self._write()

    @property
    def lost(self) -> int:
        """How many lines nobody could read."""
        return 0

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """That there are such lines, if any."""
        return (_lost(self.lost),) if self.lost else ()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is written, but no longer than this; whether it is."""
        return True

    def _write(self) -> None:
        kept, self._kept = self._kept, []
        # Nobody is there to be told of it.
        with contextlib.suppress(OSError):
            for one in kept:
                self._out.write(self._line(one))

    def _line(self, one: _Line) -> str:
        if self._as_json:
            line = _json(one, self.digest)
        else:
            # journald knows the time.
            line = _words(one) if self._priority else f"{utc(one.at_ms)} {_words(one)}"
        return f"<{_PRIORITY[one.level]}>{line}\n" if self._priority else f"{line}\n"


class DescriptorJournal(Journal):
    """A journal that is read at the other end of `descriptor`, by somebody who may stall. None: by nobody."""

    def __init__(self, descriptor: int | None, *, as_json: bool = False, digest: str | None = None) -> None:
        if descriptor is None:
            descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._outlet = Outlet(descriptor, self._lost_line)
        super().__init__(self._outlet, as_json=as_json, priority=_is_journald(descriptor), digest=digest)

    @property
    def lost(self) -> int:
        """As `Journal.lost`."""
        return self._outlet.lost

    def flush(self, timeout_s: float) -> bool:
        """As `Journal.flush`."""
        return self._outlet.flush(timeout_s)

    def _lost_line(self, number: int) -> str:
        lost = _lost(number, " here")
        one = lost.as_json()
        level = _LEVELS[lost.severity]
        return self._line(_Line(clock.wall_ms(), "lost", lost.line, level, {"lines": number, "warning": one}))


def _lost(number: int, where: str = "") -> Warning:
    what = "1 line was lost" if number == 1 else f"{number} lines were lost"
    return Warning("log-lost", Severity.WARNING, "", f"{what}{where}: the reader of the log was not there, or too slow")


def adopt_strays(journal: Journal) -> None:
    """From now on what Python and its libraries would print to stderr by themselves is a line of this journal."""

    def thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            journal.bug(args.exc_value, f" in the thread {args.thread.name}" if args.thread else "")

    def unraisable(args: "sys.UnraisableHookArgs") -> None:
        if args.exc_value is not None:
            journal.bug(args.exc_value, f" in {args.object!a:.100}")

    threading.excepthook = thread
    sys.unraisablehook = unraisable
    logging.getLogger().addHandler(_Strays(journal))
    logging.captureWarnings(capture=True)


class _Strays(logging.Handler):
    """What libraries have to complain of."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        text, error = record.getMessage().split("\n")[0], record.exc_info[1] if record.exc_info else None
        if error:
            self._journal.bug(error, f" ({text})")
        else:
            complaint = Warning("library-complains", Severity.WARNING, record.name, text)
            self._journal.warn("library", complaint, level=max(record.levelno, logging.WARNING))


def _is_journald(descriptor: int) -> bool:
    """Whether systemd's journal reads there: the variable tells its stream, and who inherits it may write elsewhere."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _json(one: _Line, digest: str | None) -> str:
    level = logging.getLevelName(one.level).lower()
    line = {"format": LOG_FORMAT, "level": level, "event": one.event, "text": one.text, **one.data}
    return json.dumps(enveloped(line, digest, one.at_ms), default=str)


def _words(one: _Line) -> str:
    loud = f"{logging.getLevelName(one.level).lower()}: " if one.level >= logging.WARNING else ""
    return f"{loud}{escaped(one.text)}"
