"""The text of an appliance file that was in force last, for a boot that finds the file broken.

A file that somebody left half written, or emptied, must not leave the wire without anybody until a person comes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from reconciler.appliance.declared import Appliance
from reconciler.errors import ReconcilerError
from reconciler.host import places
from reconciler.host.statefile import StateFile
from reconciler.warning import Severity, Warning


@dataclass(frozen=True, slots=True)
class Accepted:
    """A file's content, as bytes, and when it was accepted: UTC in ISO 8601."""

    text: bytes
    at: str


@dataclass(frozen=True, slots=True)
class InForce:
    """What a process goes by: the text of the file or, where that is broken (`warnings` says so), of an earlier one."""

    text: bytes
    appliance: Appliance
    warnings: tuple[Warning, ...] = ()


def in_force(file: Path, folder: Path, judge: Callable[[bytes, str, Path], Appliance]) -> InForce:
    """What `file` declares, by `judge`; where it declares nothing, what was accepted of it last.

    Raises:
        HostError: the file cannot be read.
        ReconcilerError: it is broken, and nothing of it was ever accepted here, or that is broken by now, too.

    """
    text = places.read_file(file)
    try:
        return InForce(text, judge(text, str(file), folder))
    except ReconcilerError as error:
        before = last(file, folder)
        if before is None or before.text == text:
            raise
        try:
            appliance = judge(before.text, str(file), folder)
        except ReconcilerError:
            raise error from None
        what = f"is broken, and what was accepted of it {before.at} is in force: {error}"
        right = "correct it, and `reconcile reload`"
        return InForce(before.text, appliance, (Warning("file-broken", Severity.ERROR, str(file), what, right),))


def keep(file: Path, text: bytes, folder: Path) -> None:
    """Note that this text of `file` is in force now. It is on disk when this returns.

    Raises:
        OSError: the disk is full, or the folder cannot be written.

    """
    if (before := last(file, folder)) is not None and before.text == text:
        return
    at = datetime.now(UTC).isoformat(timespec="seconds")
    # What is no UTF-8 was never accepted.
    _of(file, folder).write({"file": str(file), "text": text.decode(), "at": at})


def last(file: Path, folder: Path) -> Accepted | None:
    """What was accepted of `file` last, as the state in `folder` has it; None where it has nothing that can be read."""
    try:
        kept = _of(file, folder).read()
        return Accepted(str(kept["text"]).encode(), str(kept["at"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _of(file: Path, folder: Path) -> StateFile:
    # By the path: what is broken does not say which appliance it is.
    name = hashlib.sha256(str(file.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return StateFile(folder / "accepted" / f"{name}.json")
