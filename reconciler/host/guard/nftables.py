"""Rules as nft's text, carried out by libnftables: in a process of its own, which it may end without taking us along.

Not nft itself, whose program need not be installed where its library is; and not its own Python binding, which is a
Debian package for Debian's Python only. It takes some 25 ms to start, and as long as the kernel needs for the rules:
for workers, never on the failover path.
"""

import json
import subprocess
from pathlib import Path

from reconciler.errors import HostError
from reconciler.host.interpreter import isolated

_LIBRARY = "libnftables.so.1"
_PROGRAM = Path(__file__).with_name("libnftables.py")
# A table is many hooks, and for each the kernel may wait for all cores.
_TIMEOUT_S = 50.0
_MAX_TEXT = 200


def run(text: str) -> None:
    """Carry out commands, in one transaction, in the network namespace that the thread is in. Blocks.

    Raises:
        HostError: libnftables is missing, or refused the text, or the kernel did. Nothing was changed. Or it has not
            come to an end: then something may have been.

    """
    try:
        done = subprocess.run(
            isolated("-S", str(_PROGRAM), _LIBRARY),
            input=text.encode(),
            cwd="/",
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"nftables: cannot set rules: {error}") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = ascii(said[-1])[1:-1][:_MAX_TEXT] if said else f"exit status {done.returncode}"
        raise HostError(f"nftables: libnftables gave up: {why}") from None
    if answer.get("missing"):
        raise HostError("libnftables is not installed: apt-get install nftables")
    if answer["failed"]:
        raise HostError(f"nftables: {_reason(text, answer['error'])}")


def _reason(text: str, error: str) -> str:
    """In one line what is wrong, and where.

    For commands of several lines the library shows the first of them instead of the one it means, so it is left out.
    """
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    if not lines:
        return "refused, without a reason"
    first = lines[0].removeprefix("Error: ")
    return first if "\n" in text.strip() or len(lines) == 1 else f"{first} ({lines[1]})"
