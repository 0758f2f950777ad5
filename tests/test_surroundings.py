"""The tests do not depend on what whoever starts them has set up: a few of them, started as nobody would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import UNKINDLY

HERE = Path(__file__).parent
FEW = ["cli/test_cli.py", "host/test_inherited.py", "host/test_lock.py", "host/test_run.py"]
STRANGE = {
    "RECONCILER_STATE_DIR": "/nonexistent/state",
    "RECONCILER_RUN_DIR": "/nonexistent/run",
    "RECONCILER_DEBUG": "1",
    "FORCE_COLOR": "1",
    "COLUMNS": "20",
    "TERM": "dumb",
    "LC_ALL": "C",
    "LANG": "tr_TR.UTF-8",
    "TZ": "Pacific/Kiritimati",
    "PYTHONPATH": "/nonexistent",
    "PYTHONWARNINGS": "always",
    "JOURNAL_STREAM": "8:123",
    "NOTIFY_SOCKET": "/nonexistent/notify",
    "WATCHDOG_USEC": "100000",
    "XDG_CACHE_HOME": "/nonexistent",
}


@pytest.mark.long
def test_a_few_pass_in_the_strangest_of_surroundings(tmp_path: Path) -> None:
    """Signals ignored and blocked, no HOME, no standard input, nobody else's files, spaces in names, another folder."""
    folder = tmp_path / "a b"
    folder.mkdir()
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(HERE / name) for name in FEW)]
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run(
        [*UNKINDLY, "/bin/sh", "-c", 'umask 077; exec "$@" <&-', "sh", *pytest_],
        env={**environment, **STRANGE, "TMPDIR": str(folder)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-1_000:]
    found = re.search(r"(\d+) passed", done.stdout)
    assert found
    assert int(found[1]) > 100
