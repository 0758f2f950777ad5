"""The ledgers that lie on this host, and those of others that somebody hands in: to be read, and not believed."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from reconciler.errors import HostError
from reconciler.host import places
from reconciler.host.ledgerfile import files, lines, read_mark
from reconciler.ledger.history import LedgerSource, Mark

# Of one file no more is read: four times what a ledger has.
MOST_BYTES = 64 << 20
_ENDINGS = (".ledger.jsonl", ".ledger.1.jsonl")


def sources(folder: Path, sku: str | None, handed_in: Iterable[Path], stack: ExitStack) -> Iterator[LedgerSource]:
    """All ledgers in a folder (or that of one appliance), with the marks beside them, and those that are handed in.

    `stack` closes the files.

    Raises:
        HostError: one cannot be read, or there is none.

    """
    handed_in = tuple(handed_in)
    here = _here(folder)
    found = sorted({name.removesuffix(end) for name in here for end in _ENDINGS if name.endswith(end)})
    skus = [one for one in found if sku in (None, one)]
    if not skus and not handed_in:
        raise HostError(f"no ledger {f'of {sku} ' if sku else ''}lies in {folder}: `reconcile run` writes one")
    for one in skus:
        noted = [read_mark(places.run_dir() / f"{one}.ledger.alive"), read_mark(folder / f"{one}.ledger.mark")]
        marks = tuple(Mark(*mark) for mark in noted if mark)
        for path in files(folder, one):
            if path.exists():
                yield _source(path, stack, marks)
    for path in handed_in:
        yield _source(path, stack)


def _here(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"cannot read {folder}: {error.strerror}") from None


def _source(path: Path, stack: ExitStack, marks: tuple[Mark, ...] = ()) -> LedgerSource:
    try:
        if path.exists() and not path.is_file():
            raise HostError(f"cannot read {path}: it is no file")
        stream = stack.enter_context(path.open("rb"))
    except PermissionError as error:
        who = "root may, and whoever it lets in: chgrp auditors FILE; chmod 640 FILE"
        raise HostError(f"cannot read {path}: {error.strerror}; {who}") from None
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from None
    return LedgerSource(str(path), _bounded(stream), marks)


def _bounded(stream: BinaryIO) -> Iterator[bytes]:
    for text in lines(stream):
        if stream.tell() > MOST_BYTES:
            # No row, so that it shows that the rest was not read.
            yield b"the file goes on"
            return
        yield text
