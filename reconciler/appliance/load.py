"""From the bytes of an appliance file to a proven `Appliance`, or to everything that is wrong with it."""

from collections.abc import Iterator
from typing import Any

from reconciler.appliance import document, references, shape
from reconciler.appliance.declared import Appliance
from reconciler.appliance.document import Document, DocumentError, Mistake
from reconciler.appliance.expand import expand
from reconciler.errors import ReconcilerError


class InvalidFileError(ReconcilerError):
    """A file that does not declare a working appliance; `mistakes` holds all that is wrong, in the file's order."""

    def __init__(self, name: str, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(f"{name}:{mistake}" for mistake in mistakes))
        self.name = name
        self.mistakes = mistakes


def load(text: bytes, name: str) -> Appliance:
    """The appliance that the file `name` with the content `text` declares, checked and proven.

    Raises:
        InvalidFileError: with all mistakes of the file.

    """
    try:
        read = document.read(text)
    except DocumentError as error:
        raise InvalidFileError(name, [error.mistake]) from None
    file, errors = shape.validate(read.data)
    found = [*shape.nothings(read), *shape.mistakes(read, errors)]
    if isinstance(read.data, dict):
        found += references.mistakes(read)
    if not found and file is not None:
        appliance = expand(file)
        found += _proof(read, appliance)
        if not found:
            return appliance
    elif errors:
        found += _proof_of_the_rest(read, errors)
    raise InvalidFileError(name, _in_order(found))


def _proof(read: Document, appliance: Appliance) -> Iterator[Mistake]:
    # networkx costs more to import than everything else here together: only who proves pays for it.
    from reconciler.appliance.proof import prove  # noqa: PLC0415

    for flaw in prove(appliance):
        yield Mistake(read.key(flaw.path), flaw.path, flaw.what, flaw.right)


def _proof_of_the_rest(read: Document, errors: list[Any]) -> Iterator[Mistake]:
    """Proofs of a file that has mistakes elsewhere, so that all come at once: without the values that are wrong.

    Where what is left is no appliance any more, there is nothing to prove until the mistakes are mended.
    """
    rest = shape.pruned(read, errors)
    file, _ = shape.validate(rest)
    if file and not any(references.mistakes(Document(rest, read.keys, read.values))):
        yield from _proof(read, expand(file))


def _in_order(found: list[Mistake]) -> list[Mistake]:
    return sorted(dict.fromkeys(found), key=lambda mistake: mistake.position)
