"""The daemon while something around it blocks: the reader of its log, a disk, a name service, a file."""

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import PROGRAM, environment
from test_live_daemon import SOON_S, Keeping, keeping

from reconciler.lab.lab import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.long]

PIPE = 4_096


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Keeping]:
    with keeping(tmp_path, traffic=False) as made:
        yield made


def started(kept: Keeping, stderr: int, *more: str) -> "subprocess.Popen[Any]":
    """As `Keeping.start`, with a log of somebody's."""
    process = kept.lab.host.spawn(
        [*PROGRAM, "run", "-f", str(kept.file), "--log", "json", *more],
        env=environment(**kept.folders),
        stdin=subprocess.DEVNULL,
        stderr=stderr,
    )
    kept.log.write_bytes(b"")
    kept.process = process
    wait_until(lambda: process.poll() is not None or kept.answers(process.pid), 2 * SOON_S, "the daemon to answer")
    assert process.poll() is None
    return process


@pytest.fixture
def full_log(kept: Keeping) -> Iterator[int]:
    """A daemon whose log nobody reads; the end to read it."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE)
    os.write(writer, b"x" * (PIPE - 1) + b"\n")
    started(kept, writer)
    os.close(writer)
    yield reader
    os.close(reader)


def read(reader: int, event: str) -> list[Any]:
    """What the log tells, up to a line about `event`; what it was full of left out."""
    told, end_s = b"", time.monotonic() + SOON_S
    os.set_blocking(reader, False)
    while True:
        lines = [json.loads(line) for line in told.split(b"\n")[:-1] if not line.startswith(b"x")]
        if any(line["event"] == event for line in lines):
            return lines
        assert time.monotonic() < end_s, told
        try:
            told += os.read(reader, 65_536)
        except BlockingIOError:
            time.sleep(0.01)


def test_a_log_that_nobody_reads_stops_no_failover(kept: Keeping, full_log: int) -> None:
    for _ in range(2):
        kept.goes_to("inspect")
        kept.lab.kill_vm()
        kept.goes_to("bypass")
        kept.lab.start_vm()
    kept.goes_to("inspect")
    kept.rests()
    # Nothing is lost yet: so much fits. What was decided can be read when somebody comes.
    told = read(full_log, "decision")
    assert told[0]["text"] == "keep: found no topology; wanted bypass"
    assert kept.status()["log"] == {"lost": 0}


def test_what_a_log_missed_is_counted_and_told(kept: Keeping, full_log: int) -> None:
    kept.goes_to("inspect")
    # A line for each hold, and one for each release; a quarter of a mebibyte is kept.
    reason = "x" * 200
    while not kept.status()["log"]["lost"]:
        kept.ask("hold", topology="inspect", reason=reason, seconds=60)
        kept.ask("release")
    lost = kept.status()["log"]["lost"]
    assert lost > 0
    assert f"{lost} line" in kept.cli("status").out
    (line,) = (line for line in read(full_log, "lost") if line["event"] == "lost")
    assert (line["level"], line["lines"]) == ("warning", lost)
    kept.lab.kill_vm()
    kept.goes_to("bypass")
    read(full_log, "switched")
