"""A small file that outlives its process: written whole or not at all, and never a reason not to start."""

import contextlib
import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

_MAX_BYTES = 1 << 20


class StateFile:
    """The file at `path`, holding one JSON value."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Any:
        """The value; None where there is no file.

        Raises:
            ValueError: the file holds no JSON value, or is too large; says which file.
            OSError: it cannot be read.

        """
        try:
            with open(self.path, "rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(data) > _MAX_BYTES:
            raise ValueError(f"{self.path} has more than {_MAX_BYTES} bytes")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path} is no JSON: {error}") from None

    def write(self, value: Any) -> None:
        """Replace the value. It is on disk when this returns; after a power cut before, the old one or the new one is.

        Raises:
            OSError: the disk is full, or the folder cannot be written.

        """
        folder = self.path.parent
        made = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=self._temporary)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(value, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
        # Which name leads to which content is the folder's to keep.
        for one in (folder, *(new.parent for new in made)):
            sync_folder(one)

    def sweep(self) -> None:
        """Take away what processes have left that were ended while they wrote. For a time when nobody writes."""
        with contextlib.suppress(OSError):
            for path in self.path.parent.iterdir():
                if path.name.startswith(self._temporary):
                    path.unlink()

    @property
    def _temporary(self) -> str:
        return f".{self.path.name}."

    def set_aside(self) -> Path:
        """Move a file that cannot be used out of the way, for people to look at; an older one is replaced.

        Raises:
            OSError: the folder cannot be written.

        """
        aside = self.path.with_name(f"{self.path.name}.set-aside")
        self.path.replace(aside)
        return aside


def sync_folder(folder: Path) -> None:
    """Wait until the folder is on disk: which name leads to which content.

    Raises:
        OSError: it cannot be opened, or the disk refuses.

    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # A file system whose folders cannot be synced keeps them as well as it can.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
