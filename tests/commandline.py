"""The command line as a user meets it: in this process, where that is enough, or in one of its own."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple
from unittest import mock

from reconciler.cli.main import main

PROGRAM = [sys.executable, "-m", "reconciler"]


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run(*words: str, stdin: bytes = b"") -> Done:
    """`main` in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", ["reconcile", *words]),
        mock.patch.object(sys, "stdin", given),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    assert isinstance(code, int | None), code
    assert "Traceback" not in texts[1]
    return Done(code or 0, *texts)


def environment(**more: str) -> dict[str, str]:
    """This process's, less what could colour or lead a run astray."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("RECONCILER_", "LC_", "PYTHON", "LANG"))
    }
    # Lines as long as they like.
    return {**kept, "COLUMNS": "1000", **more}


def process(words: Sequence[str], *, stdin: bytes = b"", env: Mapping[str, str] | None = None, **more: Any) -> Done:
    """A process of its own, to its end, that only looks: it runs in the namespace of this machine."""
    assert {"-n", "--dry-run", "validate", "schema", "observe", "discover"} & set(words), words
    done = subprocess.run(
        [*PROGRAM, *words],
        input=stdin,
        capture_output=True,
        env=environment(**(env or {})),
        timeout=60,
        check=False,
        **more,
    )
    out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
    assert "Traceback" not in err
    return Done(done.returncode, out, err)
