"""A daemon whose parent ignores and blocks signals, as `nohup`, a shell's `&` and some supervisors do."""

import json
import subprocess
from collections.abc import Iterator

import pytest
from commandline import PROGRAM, environment
from processes import UNKINDLY, inherited_signals
from test_live_daemon import SOON_S, Keeping, keeping

pytestmark = pytest.mark.netns


@pytest.fixture
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeping]:
    request.getfixturevalue("lab_root")
    with keeping(tmp_path_factory.mktemp("inherited")) as made:
        yield made


def test_what_it_asks_may_fail_has_the_defaults_and_it_ends_by_sigterm(kept: Keeping) -> None:
    told = kept.folder / "told"
    ask = ["/bin/sh", "-c", f"grep -e SigBlk -e SigIgn /proc/self/status > {told}; exit 2"]
    kept.write(signals={"ask": {"kind": "command", "run": ask, "every": "5s", "timeout": "4s"}})
    words = [*UNKINDLY, *PROGRAM, "run", "-f", str(kept.file), "--log", "json"]
    with kept.log.open("wb") as log:
        kept.process = kept.lab.host.spawn(words, env=environment(**kept.folders), stdin=subprocess.DEVNULL, stderr=log)
    process = kept.process
    kept.until(lambda: kept.answers(process.pid), "the daemon")
    # Whose failures are seen: of a child that nobody is told of, its status would be 0.
    kept.until(lambda: "exit status 2" in json.dumps(kept.status()["segments"]), "the failure")
    assert inherited_signals(told.read_text().splitlines()) == [set(), set()]
    kept.process.terminate()
    assert kept.process.wait(SOON_S) == 0
