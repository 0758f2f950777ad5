"""From the bytes of an appliance file to a proven `Appliance`, or to everything that is wrong with it."""

from collections.abc import Iterator
from typing import Any

from reconciler.appliance.declared import Appliance
from reconciler.appliance.expand.network import expand
from reconciler.appliance.rules import network as references
from reconciler.appliance.written import shape
from reconciler.appliance.yaml import document
from reconciler.appliance.yaml.document import Document, DocumentError, Mistake
from reconciler.appliance.yaml.excerpt import excerpt
from reconciler.errors import ReconcilerError

# Who has more to correct reads no further either; and a hostile file cannot fill a terminal or a log.
MAX_MISTAKES = 100


class InvalidFileError(ReconcilerError):
    """A file that does not declare a working appliance; `mistakes` holds what is wrong, in the file's order.

    Of very many, the first `MAX_MISTAKES` stand for themselves and one more for the rest.
    """

    def __init__(self, name: str, mistakes: list[Mistake], text: bytes) -> None:
        super().__init__("\n".join(f"{name}:{mistake}" for mistake in mistakes))
        self.name = name
        self.mistakes = mistakes
        self._text = text

    @property
    def explained(self) -> str:
        """Each mistake with the line that it is about, and a mark under the place."""
        listed = ((str(mistake), excerpt(self._text, mistake.position)) for mistake in self.mistakes)
        return "\n".join(f"{self.name}:{what}\n{where}".rstrip("\n") for what, where in listed)


def load(text: bytes, name: str) -> Appliance:
    """The appliance that the file `name` with the content `text` declares, checked and proven.

    Raises:
        InvalidFileError: with all mistakes of the file.

    """
    try:
        read = document.read(text)
    except DocumentError as error:
        raise InvalidFileError(name, [error.mistake], text) from None
    file, errors = shape.validate(read.data)
    found = [*read.mistakes, *shape.nothings(read), *shape.mistakes(read, errors), *references.mistakes(read)]
    if found or file is None:
        found += _proof_of_the_rest(read)
        raise InvalidFileError(name, _in_order(found), text)
    appliance = expand(file)
    found += _proof(read, appliance)
    if found:
        raise InvalidFileError(name, _in_order(found), text)
    return appliance


def _proof(read: Document, appliance: Appliance) -> Iterator[Mistake]:
    # networkx costs more to import than everything else here together: only who proves pays for it.
    from reconciler.appliance.proof import prove

    for flaw in prove(appliance):
        yield Mistake(read.key(flaw.path), flaw.path, flaw.what, flaw.right)


def _proof_of_the_rest(read: Document) -> Iterator[Mistake]:
    """Proofs of a file that has mistakes elsewhere, so that all come at once.

    Where the mistakes are in what the proofs are about, there is nothing to prove until they are corrected.
    """
    graph = _graph_only(read.data)
    file, _ = shape.validate(graph)
    if file and not any(references.mistakes(Document(graph, read.keys, read.values))):
        yield from _proof(read, expand(file))


def _graph_only(data: Any) -> Any:
    """What the graph is made of, as the file has it, and stand-ins that are right for all else; None without any."""
    try:
        ports, adapters = data["ports"], data["vm"]["adapters"]
        if any(set(port) - {"match", "role", "take_over"} for port in ports.values()):
            # One of the unknown keys may be a misspelt `role`.
            return None
        return {
            "schema": "reconciler/v1",
            "appliance": {"sku": "rest"},
            "ports": {
                role: {"match": {"driver": "any", "index": index}, "role": port.get("role", "data")}
                for index, (role, port) in enumerate(ports.items())
            },
            "vm": {"adapters": {role: {"tap": f"any-{index}"} for index, role in enumerate(adapters)}},
            **{key: data[key] for key in ("segments", "topologies") if key in data},
        }
    except (AttributeError, KeyError, TypeError):
        return None


def _in_order(found: list[Mistake]) -> list[Mistake]:
    ordered = sorted(dict.fromkeys(found), key=lambda mistake: mistake.position)
    if len(ordered) <= MAX_MISTAKES:
        return ordered
    first, rest = ordered[:MAX_MISTAKES], ordered[MAX_MISTAKES:]
    return [
        *first,
        Mistake(rest[0].position, (), f"and {len(rest)} more mistakes from here on", "correct the first ones"),
    ]
