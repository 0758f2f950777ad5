"""The ledger on disk: rows are appended and never changed.

    SKU.ledger.jsonl     the rows, the newest at the end. When it is full, or its first row is 13 months old, it becomes
    SKU.ledger.1.jsonl   in place of the one that was there: what is younger than 13 months is in one of the two, unless
                         there was no room for it
    SKU.ledger.mark      the last row, and when the daemon was last alive; the same, each second, in SKU.ledger.alive
                         in /run: they tell for how long nobody looked, and whether rows at the end are missing

A row counts when it is on disk (fsync), and not before. A write that fails, or is cut short by a full disk, is taken
back. What a kill or a power cut tore is taken out by the next process, which writes a row that says so.
"""

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from reconciler import __version__
from reconciler.host import clock
from reconciler.host.envelope import utc
from reconciler.host.statefile import sync_folder
from reconciler.ledger.entry import BY_HAND, Entry, EntryKind
from reconciler.ledger.row import BEGINNING, MAX_LINE, Row, fitted, line, line_hash, parse, still_open

KEPT_MS = 396 * 86_400_000  # 13 months
MAX_BYTES = 16 << 20  # of each of the two files: some 20,000 rows
_MACHINE_ID = Path("/etc/machine-id")
# What a kill or a power cut leaves of a write. More than that is something else, and is left alone.
_MOST_TORN = 1 << 20
_SHOWN = 80
# As `row.line` writes them. Within a text of JSON no quotation mark stands as it is.
_ID, _GOES_ON = re.compile(rb'"id":"((?:[^"\\]|\\.)+)"'), b'"to_ms":null'
# In a mark, for the hash of no row.
_NONE = "-"


class Booked(NamedTuple):
    """An entry with the moment at which it was booked (UTC, and since boot), and the file then in force."""

    entry: Entry
    at_ms: int
    monotonic_ms: int
    digest: str | None

    def of(self, entry: Entry) -> Self:
        """Another entry at the same moment."""
        return self._replace(entry=entry)

    def note(self, kind: EntryKind, cause: str) -> Self:
        """What the ledger has to say of itself at the same moment."""
        return self.of(Entry(kind=kind, from_ms=self.at_ms, to_ms=self.at_ms, cause=cause))


@dataclass(slots=True)
class Found:
    """What earlier processes have left.

    `open`: the intervals that go on, by their ids. `alive_ms`: when a daemon was last known to run, UTC; None: never.
    `stopped`: the last one ended in order. `amiss`: what is wrong with the files, in words; the next row says so, too.
    """

    open: dict[str, Entry] = field(default_factory=dict)
    alive_ms: int | None = None
    stopped: bool = False
    amiss: tuple[str, ...] = ()


class Disk:
    """What is asked of the system, for tests to fail and to tear."""

    write: Callable[[int, memoryview], int] = staticmethod(os.write)
    sync: Callable[[int], None] = staticmethod(os.fsync)
    truncate: Callable[[int, int], None] = staticmethod(os.ftruncate)


class _Place(NamedTuple):
    """A row's number and hash; of the last one, the place where the chain goes on."""

    n: int = 0
    hash: str = BEGINNING


def files(folder: Path, sku: str) -> tuple[Path, Path]:
    """Where the rows of an appliance lie: the older file, and the one that is written."""
    return folder / f"{sku}.ledger.1.jsonl", folder / f"{sku}.ledger.jsonl"


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a file of which nothing is believed; of one that is too long, so much that it shows."""
    while text := stream.readline(MAX_LINE + 1):
        rest = text
        while not rest.endswith(b"\n") and (rest := stream.readline(MAX_LINE)):
            pass
        yield text


def _rows(stream: BinaryIO, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, Row, str]]:
    """Of the lines that begin and end at these places those that are rows: where it ends, the row, and its hash."""
    for begin, over in spans:
        if over - begin > MAX_LINE:
            continue
        stream.seek(begin)
        text = stream.read(over - begin)
        if text.endswith(b"\n"):
            with contextlib.suppress(ValueError):
                yield over, parse(text), line_hash(text)


def read_mark(path: Path) -> tuple[int, str, int] | None:
    """The number and hash of the last row when the mark was made, and when that was; None where there is none."""
    try:
        with path.open("rb") as file:
            n, last, alive = file.read(200).split()
        return int(n), last.decode("ascii").removeprefix(_NONE), int(alive)
    except (OSError, ValueError):
        return None


class LedgerFile:
    """The ledger of the appliance `sku`; one process at a time (the appliance's lock). All of it blocks."""

    def __init__(
        self, folder: Path, run_folder: Path, sku: str, *, disk: Disk | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        self.older, self.path = files(folder, sku)
        self._kept_mark, self._live_mark = folder / f"{sku}.ledger.mark", run_folder / f"{sku}.ledger.alive"
        self._disk, self._max_bytes = disk or Disk(), max_bytes
        self._sku, self._machine, self._boot = sku, _machine(), clock.boot_id()
        self._known = False
        self._descriptor: int | None = None
        self._end = _Place()
        self._size = self._good = 0
        self._torn = False
        self._first: dict[Path, tuple[int, int]] = {}  # of each file: number and time of its first row
        self._open: dict[str, Entry] = {}
        self._amiss: list[str] = []

    @property
    def end(self) -> tuple[int, str]:
        """The number of the last row, and its hash."""
        return self._end

    def find(self) -> Found:
        """Read what is there, take out what is torn at its end, and be ready to append.

        Raises:
            OSError: it cannot be read or written.

        """
        self._end, self._open, self._first, self._amiss = _Place(), {}, {}, []
        found, going = Found(), dict[bytes, bytes]()
        for path in (self.older, self.path):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:
                self._read(path, stream, found, going)
        for text in going.values():
            with contextlib.suppress(ValueError):
                still_open(self._open, parse(text).entry)
        self._take_out_torn()
        for path in (self._kept_mark, self._live_mark):
            if mark := read_mark(path):
                self._compare(*mark, found)
        found.open, found.amiss = dict(self._open), tuple(self._amiss)
        self._known = True
        return found

    def append(self, batch: Sequence[Booked]) -> None:
        """Write a row for each; all are on disk when this returns, and none counts if it does not.

        Raises:
            OSError: the disk is full, or refuses; what was written is taken back.

        """
        if not self._known:
            self.find()
        self._be_open(batch[0])
        entries = list(batch)
        if self._amiss:
            entries.insert(0, batch[0].note(EntryKind.REPAIRED, "; ".join(self._amiss)))
        if not self._size and self._end.n:
            # What is known from the rows before must not go with them.
            entries[:0] = [self._continued(batch[0]), *map(batch[0].of, self._open.values())]
        place, made, synchronised = self._end, list[bytes](), clock.synchronised()
        for one in entries:
            made.append(line(self._row(one, place, synchronised=synchronised)))
            place = _Place(place.n + 1, line_hash(made[-1]))
        self._put(b"".join(made))
        self._first.setdefault(self.path, (self._end.n + 1, entries[0].at_ms))
        self._end, self._amiss = place, []
        for one in entries:
            still_open(self._open, one.entry)

    def mark(self, alive_ms: int, *, kept: bool) -> None:
        """Note that the daemon was alive at this moment: for who starts next, and if `kept` also after a reboot.

        Raises:
            OSError: it cannot be written.

        """
        text = b"%020d %64s %020d\n" % (self._end.n, (self._end.hash or _NONE).encode(), alive_ms)
        for path in (self._live_mark, self._kept_mark)[: 1 + kept]:
            # In place and of one length: one or the other is there. Not synced: a power cut costs some of it.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                os.write(descriptor, text)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    # Reading

    def _read(self, path: Path, stream: BinaryIO, found: Found, going: dict[bytes, bytes]) -> None:
        """Take in what a file holds; afterwards `_good` is where its last row ends, and `going` has what goes on.

        A row takes forty microseconds to parse, and there may be twenty thousand: the daemon that begins parses those
        that it needs, the last of an interval that goes on among them.
        """
        self._good, ends = 0, [0]
        for text in lines(stream):
            ends.append(stream.tell())
            if name := _ID.search(text):
                if _GOES_ON in text:
                    going[name[1]] = text
                else:
                    going.pop(name[1], None)
        spans = list(itertools.pairwise(ends))
        for _, row, _ in _rows(stream, spans):
            self._first[path] = row.n, row.at_ms
            break
        for over, row, of_line in _rows(stream, reversed(spans)):
            if not self._good:
                self._good, self._end = over, _Place(row.n, of_line)
            if row.entry.kind not in BY_HAND:
                found.alive_ms, found.stopped = row.at_ms, row.entry.kind is EntryKind.STOP
                break

    def _take_out_torn(self) -> None:
        """Take out what follows the last row, and remember what it was."""
        self._size, self._torn = 0, False
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        good = self._good if self.path in self._first else 0
        with open(descriptor, "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            self._size = size
            if size == good:
                return
            file.seek(good)
            rest = file.read(_MOST_TORN)
            if size - good > _MOST_TORN:
                self._amiss.append(f"its last {size - good} bytes are no rows, and were left where they are")
                file.seek(0, os.SEEK_END)
                self._size += file.write(b"\n")
                return
            self._disk.truncate(file.fileno(), good)
            self._disk.sync(file.fileno())
            self._size = good
        what = f"its last {len(rest)} bytes were no row (SHA-256 {line_hash(rest)}), and were taken out"
        self._amiss.append(f"{what}: {ascii(rest[:_SHOWN])[2:-1]}")

    def _compare(self, n: int, last: str, alive_ms: int, found: Found) -> None:
        """What a mark says that the rows do not."""
        found.alive_ms = max(alive_ms, found.alive_ms or 0)
        if n > self._end.n:
            self._amiss.append(f"rows {self._end.n + 1} to {n} were written and are not there")
            self._end = _Place(n, last)
        elif n == self._end.n and last != self._end.hash:
            self._amiss.append(f"row {n} is another one than was written")

    # Writing

    def _be_open(self, first: Booked) -> None:
        """Have the right file open, whole, and with room in it."""
        if self._descriptor is not None and self._torn:
            self._disk.truncate(self._descriptor, self._size)
            self._torn = False
        if (
            self._descriptor is not None
            and (status := os.fstat(self._descriptor))
            and (not status.st_nlink or status.st_size != self._size)
        ):
            self.close()
            self._look_again()
        _, since_ms = self._first.get(self.path, (0, first.at_ms))
        if self._size and (self._size >= self._max_bytes or first.at_ms - since_ms > KEPT_MS):
            self._turn_over()
        if self._descriptor is None:
            self._make()

    def _look_again(self) -> None:
        """Somebody else has changed the file: it goes on behind what is there, from the row that we wrote last."""
        end = self._end
        self._amiss.append("somebody else has changed the file while it was written")
        self._first.pop(self.path, None)
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as stream:
            self._read(self.path, stream, Found(), {})
        self._end = end
        self._take_out_torn()

    def _make(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, flags, 0o600)
        if not self._size:
            with contextlib.suppress(OSError):
                # Whoever was let in stays in.
                older = self.older.stat()
                os.chown(self._descriptor, older.st_uid, older.st_gid)
                os.fchmod(self._descriptor, stat.S_IMODE(older.st_mode))
            sync_folder(self.path.parent)

    def _turn_over(self) -> None:
        self.close()
        self.path.replace(self.older)
        self._size = 0
        self._first = {self.older: self._first[self.path]} if self.path in self._first else {}
        sync_folder(self.path.parent)

    def _continued(self, first: Booked) -> Booked:
        older, number = self._first.get(self.older), self._end.n
        kept = f"rows {older[0]} to {number} lie in {self.older.name}" if older else f"rows 1 to {number} are not there"
        gone = f"; rows 1 to {older[0] - 1} were dropped, for their age or for room" if older and older[0] > 1 else ""
        return first.note(EntryKind.CONTINUED, kept + gone)

    def _row(self, one: Booked, before: _Place, *, synchronised: bool) -> Row:
        return Row(
            time=utc(one.at_ms),
            host=os.uname().nodename,
            version=__version__,
            digest=one.digest,
            appliance=self._sku,
            machine=self._machine,
            boot=self._boot,
            monotonic_ms=one.monotonic_ms,
            synchronised=synchronised,
            n=before.n + 1,
            previous=before.hash,
            entry=fitted(one.entry),
        )

    def _put(self, data: bytes) -> None:
        assert self._descriptor is not None  # noqa: S101 - it is open
        self._torn = True
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._disk.write(self._descriptor, rest) :]
            self._disk.sync(self._descriptor)
        except OSError:
            # What the kernel could not keep it forgets: all of it is written again.
            with contextlib.suppress(OSError):
                self._take_back(self._descriptor)
            raise
        self._torn = False
        self._size += len(data)

    def _take_back(self, descriptor: int) -> None:
        self._disk.truncate(descriptor, self._size)
        self._torn = False


def _machine() -> str:
    with contextlib.suppress(OSError):
        return _MACHINE_ID.read_text(encoding="ascii", errors="replace").strip()
    return ""
