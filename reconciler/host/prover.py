"""Reading an appliance file apart: a process of its own parses and proves it, so that a daemon need not.

What it takes to judge a file (pydantic, a YAML parser, graphs) costs tens of megabytes and half a second: a process
that runs for years should not carry the one, and a loop that decides about a wire must not wait for the other.
"""

import json
import subprocess
import sys
from pathlib import Path

from reconciler import codec
from reconciler.appliance.declared import Appliance
from reconciler.errors import HostError, ReconcilerError
from reconciler.host import store
from reconciler.host.interpreter import isolated

_TIMEOUT_S = 60.0
_MAX_TEXT = 200


class RefusedFileError(ReconcilerError):
    """The file declares no working appliance; the text says all that is wrong with it."""


def prove(text: bytes, name: str, folder: Path) -> Appliance:
    """The appliance that the file `name` with the content `text` declares; known ones come from the store in `folder`.

    Raises:
        RefusedFileError: with all mistakes of the file.
        HostError: no process could be started, or it did not end well.

    """
    if (known := store.known(text, folder)) is not None:
        return known
    try:
        done = subprocess.run(
            isolated("-m", "reconciler.host.prover", name, str(folder.absolute())),
            input=text,
            cwd="/",
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        answer = json.loads(done.stdout)
        if "mistakes" in answer:
            raise RefusedFileError(answer["mistakes"])
        return codec.parse(Appliance, answer["appliance"])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"cannot check {name}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = ascii(said[-1])[1:-1][:_MAX_TEXT] if said else error
        raise HostError(f"cannot check {name}: its checker ended with {done.returncode}: {why}") from None


def main() -> None:
    """Judge the file on standard input, and answer on standard output."""
    from reconciler.appliance.load import InvalidFileError

    name, folder = sys.argv[1:]
    try:
        answer: dict[str, object] = {"appliance": codec.dump(store.load(sys.stdin.buffer.read(), name, Path(folder)))}
    except InvalidFileError as error:
        answer = {"mistakes": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
