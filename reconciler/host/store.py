"""Appliances that were proven before: a file that has not changed need not be parsed and proven again.

Parsing and proving cost most of a dry run's time, and their result depends on nothing but the file and this program.
What is stored is trusted only where nobody but its user or root could have written it.
"""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reconciler import __version__, appliance, codec
from reconciler.appliance.declared import Appliance

_KEPT = 32  # files; older ones are removed


def load(text: bytes, name: str, folder: Path) -> Appliance:
    """The appliance that the file `name` with the content `text` declares: from the store in `folder`, or loaded.

    Raises:
        InvalidFileError: with all mistakes of the file.

    """
    entry = _entry(text, folder)
    found = _read(entry)
    if found is not None:
        return found
    from reconciler.appliance.load import load as parse_and_prove

    proven = parse_and_prove(text, name)
    _write(entry, proven)
    return proven


def known(text: bytes, folder: Path) -> Appliance | None:
    """The appliance that a file of this content declares, if the store in `folder` has it."""
    return _read(_entry(text, folder))


def _entry(text: bytes, folder: Path) -> Path:
    return folder / "proven" / f"{_digest(text)}.json"


def _digest(text: bytes) -> str:
    """Of the file and of the program that judges it."""
    stamps = sorted(
        (path, status.st_mtime_ns, status.st_size)
        for path in _program()
        for status in [os.stat(path)]  # noqa: PTH116
    )
    return hashlib.sha256(repr((__version__, stamps)).encode() + text).hexdigest()


def _program() -> Iterator[str]:
    # Not by pathlib: this is on the way of each dry run.
    yield codec.__file__
    for folder, _, names in os.walk(appliance.__path__[0]):
        yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))  # noqa: PTH118


def _read(entry: Path) -> Appliance | None:
    try:
        with open(entry, "rb") as file:
            if not (_trusted(os.fstat(file.fileno())) and _trusted(entry.parent.stat())):
                return None
            return codec.parse(Appliance, json.load(file))
    except (OSError, ValueError, RecursionError):
        # Missing, torn or alien: as good as not there.
        return None


def _trusted(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _write(entry: Path, proven: Appliance) -> None:
    # A store that cannot be written costs time, nothing else.
    with contextlib.suppress(OSError):
        entry.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=entry.parent, prefix=".")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(codec.dump(proven), file)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(entry)
        except OSError:
            Path(temporary).unlink()
            raise
        for old in _surplus(entry.parent):
            old.unlink(missing_ok=True)


def _surplus(folder: Path) -> Iterator[Path]:
    # Whatever lies there: also what processes that were killed left half-written.
    entries = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    yield from entries[_KEPT:]
