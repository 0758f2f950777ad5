"""A small file that outlives its process: written whole or not at all, and never a reason not to start."""

import contextlib
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
        """Replace the value; after a power cut the file holds the old one or the new one.

        Raises:
            OSError: the disk is full, or the folder cannot be written.

        """
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
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

    def set_aside(self) -> Path:
        """Move a file that cannot be used out of the way, for people to look at; an older one is replaced.

        Raises:
            OSError: the folder cannot be written.

        """
        aside = self.path.with_name(f"{self.path.name}.set-aside")
        self.path.replace(aside)
        return aside
