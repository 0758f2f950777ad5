"""The demo holds what it claims, and leaves nothing behind, also when it is interrupted."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ending

from reconciler.lab.lab import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("lab_root"), pytest.mark.long]


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "reconciler", "demo"]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def processes_of(session: int) -> list[str]:
    """Command lines of the processes that are still in a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[3]) == session:
                found.append((folder / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_everything_holds(tmp_path: Path) -> None:
    with ending(start(tmp_path)) as demo:
        output, errors = demo.communicate(timeout=60)
    assert demo.returncode == 0, output + errors
    assert "Everything held." in output
    assert "DOES NOT HOLD" not in output
    for event in ("VM killed", "application dead", "tampered", "daemon killed"):
        assert event in output.split("what was measured")[1], "the timeline shows what happened"
    assert "restarting the VM" in output
    assert re.search(r"holds (at least )?\d{3,} frames from .*: the sinks counted", output)
    assert list(tmp_path.iterdir()) == []
    # The kernel ends what the demo started when it ends itself: soon, not before.
    wait_until(lambda: not processes_of(demo.pid), 10, "the demo's processes to end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("moment", ["holds traffic flows", "the VM dies"])
def test_interrupted_it_leaves_nothing(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    with ending(start(tmp_path)) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if moment in line:
                break
        else:
            pytest.fail("the demo ended early")
        os.kill(demo.pid, number)
        _, errors = demo.communicate(timeout=30)
    assert demo.returncode == 1
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    # The kernel ends what the demo started when it ends itself: soon, not before.
    wait_until(lambda: not processes_of(demo.pid), 10, "the demo's processes to end")
