"""The command line, used by root in a folder of somebody's who means ill: nothing there is run, and names still work."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import traps
from commandline import Done, environment
from live import Live, live
from processes import PATIENCE_S, ending

from reconciler.lab.lab import wait_until

pytestmark = pytest.mark.netns

RECONCILE = str(Path(sys.executable).with_name("reconcile"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path) as made:
        yield made


@pytest.fixture
def trap(tmp_path: Path, host: Live) -> Path:
    """Where the user is; the appliance file lies there, too."""
    folder = traps.lay(tmp_path / "trap")
    shutil.copy(host.file, folder / "new.yaml")
    return folder


def typed(host: Live, trap: Path, *words: str) -> Done:
    """`reconcile` as installed, typed in that folder."""
    done = host.lab.run(
        [RECONCILE, *words], cwd=trap, env=environment(**host.environment), timeout_s=PATIENCE_S, check=False
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def test_no_command_runs_what_lies_in_the_callers_folder(host: Live, trap: Path) -> None:
    many = [f"{number}.yaml" for number in range(70)]
    for name in many:
        shutil.copy(trap / "new.yaml", trap / name)
    (trap / "broken.yaml").write_text("{}")
    commands = {
        ("validate", "new.yaml"): 0,
        ("validate", *many): 0,
        ("-f", "new.yaml", "--dry-run"): 3,
        ("schema",): 0,
        ("discover",): 0,
        ("unit", "-f", "new.yaml", "--print", "networkmanager"): 0,
        ("run", "-f", "broken.yaml"): 1,
        ("-f", "new.yaml"): 0,
        ("status", "-f", "new.yaml"): 5,
    }
    for words, code in commands.items():
        done = typed(host, trap, *words)
        assert (words, done.code, traps.sprung(trap)) == (words, code, []), done


@pytest.mark.parametrize("relative", [True, False])
def test_the_daemon_proves_its_file_and_a_new_one_with_nothing_of_the_callers(
    host: Live, trap: Path, relative: bool
) -> None:
    folders = {name: os.path.relpath(path, trap) if relative else path for name, path in host.environment.items()}
    with ending(
        host.lab.host.spawn(
            [RECONCILE, "run", "-f", "new.yaml"],
            cwd=trap,
            env=environment(**folders),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    ) as daemon:
        ready = lambda: daemon.poll() is not None or typed(host, trap, "status").out  # noqa: E731
        wait_until(ready, PATIENCE_S, "the daemon to answer")
        assert daemon.poll() is None, traps.sprung(trap)
        document = json.loads((trap / "new.yaml").read_text())
        document["appliance"]["description"] = "never seen before"
        (trap / "new.yaml").write_text(json.dumps(document))
        done = typed(host, trap, "reload")
        assert (done.code, done.err) == (0, "")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE_S) == 0
    assert traps.sprung(trap) == []
    assert len([*(Path(host.environment["RECONCILER_STATE_DIR"]) / "proven").iterdir()]) == 2
