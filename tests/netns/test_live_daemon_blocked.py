"""The daemon while something around it blocks: the reader of its log, a disk, a name service, a file."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commandline import environment
from test_live_daemon import SOON_S, Keeping, keeping

from reconciler.lab.lab import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.long]

PIPE = 4_096


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Keeping]:
    with keeping(tmp_path, traffic=False) as made:
        yield made


def started(
    kept: Keeping, *more: str, stderr: int | None = None, but: str = "pass", answers: bool = True, **variables: str
) -> None:
    """As `Keeping.start`, with a log of somebody's; `but` is what is different in this process."""
    kept.log.write_bytes(b"")
    program = [sys.executable, "-c", f"{but}\nfrom reconciler.cli.main import main\nmain()"]
    with kept.log.open("ab") as log:
        process = kept.process = kept.lab.host.spawn(
            [*program, "run", "-f", str(kept.file), "--log", "json", *more],
            env=environment(**kept.folders, **variables),
            stdin=subprocess.DEVNULL,
            stderr=log if stderr is None else stderr,
        )
    if answers:
        wait_until(lambda: process.poll() is not None or kept.answers(process.pid), 2 * SOON_S, "the daemon to answer")
        assert process.poll() is None, kept.log.read_text()


@pytest.fixture
def full_log(kept: Keeping) -> Iterator[int]:
    """A daemon whose log nobody reads; the end to read it."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE)
    os.write(writer, b"x" * (PIPE - 1) + b"\n")
    started(kept, stderr=writer)
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


def ends(kept: Keeping) -> int:
    """Have it end; its status. It may take two seconds; a machine that others work on, some more."""
    assert kept.process is not None
    began = time.monotonic()
    kept.process.send_signal(signal.SIGTERM)
    code = kept.process.wait(SOON_S)
    assert time.monotonic() - began < 4.0
    return code


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


# --- its disk --------------------------------------------------------------------------------------------------------

DISK_HANGS = """
import os, time
os.fsync = lambda _: time.sleep(3600)
"""
DISK_IS_FULL = """
import os
def full(_): raise OSError(28, "No space left on device")
os.fsync = full
"""


@pytest.mark.parametrize("disk", [DISK_HANGS, DISK_IS_FULL], ids=["hangs", "full"])
def test_a_disk_that_does_not_take_the_memory_delays_no_failover(kept: Keeping, disk: str) -> None:
    started(kept, but=disk)
    kept.goes_to("inspect")
    for _ in range(2):
        kept.lab.kill_vm()
        kept.goes_to("bypass")
        kept.lab.start_vm()
        kept.goes_to("inspect")
    assert ends(kept) == 0
    assert kept.told("bug") == []


def test_a_disk_that_hangs_keeps_no_vm_from_its_restart_nor_does_the_watchdog_bite(kept: Keeping) -> None:
    programs = {"start": ["/bin/true"], "stop": ["/bin/true"], "status": ["/bin/true"]}
    adapters = {"outside": {"interface": "vnet0"}, "inside": {"interface": "vnet1"}}
    kept.write(vm={"programs": programs, "adapters": adapters})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(kept.folder / "notify"))
        started(kept, but=DISK_HANGS, NOTIFY_SOCKET=str(kept.folder / "notify"), WATCHDOG_USEC="1000000")
        kept.goes_to("inspect")
        kept.lab.kill_vm()
        kept.goes_to("bypass")
        manager.settimeout(1.5)
        end = time.monotonic() + 2 * SOON_S
        while kept.status()["vm"]["phase"] != "booting":
            assert time.monotonic() < end
            # Fed all the time.
            assert manager.recv(4096)
        assert ends(kept) == 0


def test_who_holds_is_told_that_it_is_not_on_disk(kept: Keeping) -> None:
    started(kept, but=DISK_IS_FULL)
    kept.goes_to("inspect")
    done = kept.cli("hold", "bypass", "--for", "1m", "--reason", "a test")
    assert (done.code, done.out) == (1, "wire=bypass\n")
    assert "not on disk" in done.err
    assert "No space left on device" in done.err
    assert kept.is_on("bypass")
    assert "would forget what was decided lately" in kept.cli("status").out
    assert [line["level"] for line in kept.told("memory")] == ["error"]


def test_a_hold_that_was_acknowledged_is_on_disk(kept: Keeping) -> None:
    for _ in range(5):
        started(kept)
        kept.ask("hold", topology="bypass", reason="x", seconds=600)
        kept.end(signal.SIGKILL)
        started(kept)
        assert kept.status()["segments"][0]["hold"]
        kept.ask("release")
        kept.end(signal.SIGKILL)
        assert json.loads((kept.folder / "state" / "keep.memory.json").read_text())["memory"]["holds"] == {}


def test_a_memory_that_cannot_be_read_is_no_reason_not_to_start(kept: Keeping) -> None:
    memory = kept.folder / "state" / "keep.memory.json"
    memory.parent.mkdir(exist_ok=True)
    os.mkfifo(memory)
    started(kept)
    assert "cannot be read within 5 s" in kept.told("memory")[0]["text"]
    kept.goes_to("inspect")
    assert ends(kept) == 0


def test_told_to_end_while_it_waits_for_its_memory_it_ends(kept: Keeping) -> None:
    memory = kept.folder / "state" / "keep.memory.json"
    memory.parent.mkdir(exist_ok=True)
    os.mkfifo(memory)
    started(kept, answers=False)
    kept.until(lambda: _waits_for(memory), "the memory to be opened")
    assert ends(kept) == 0
    assert kept.lines[-1]["text"] == "stopped before it had begun"


# --- names -----------------------------------------------------------------------------------------------------------

NAMES_HANG = """
import grp, os, pwd, time
from reconciler.control import server as control
pwd.getpwuid = grp.getgrnam = lambda _: time.sleep(3600)
control._peer = lambda _: (os.getpid(), 4711)
"""


def test_names_that_nobody_tells_delay_no_failover(kept: Keeping) -> None:
    started(kept, "--group", "nogroup", but=NAMES_HANG)
    assert "only root may ask and steer" in kept.told("control")[0]["text"]
    kept.goes_to("inspect")
    with ThreadPoolExecutor() as pool:
        hold = {"topology": "bypass", "reason": "x", "seconds": 60}
        asking = [pool.submit(kept.ask, "hold", **hold) for _ in range(4)]
        kept.lab.kill_vm()
        kept.goes_to("bypass")
        for one in asking:
            one.result()
    assert kept.status()["segments"][0]["hold"]["owner"] == "uid 4711"
    assert ends(kept) == 0


# --- its end ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("full_log")
def test_a_log_that_nobody_reads_does_not_keep_it_from_ending(kept: Keeping) -> None:
    kept.goes_to("inspect")
    assert ends(kept) == 0


def test_a_file_on_storage_that_hangs_does_not_keep_it_from_ending(kept: Keeping) -> None:
    started(kept)
    kept.file.unlink()
    os.mkfifo(kept.file)
    assert kept.process is not None
    kept.process.send_signal(signal.SIGHUP)
    # Somebody else's question is answered: nothing waits for the file but the reload itself.
    kept.until(lambda: _waits_for(kept.file), "the file to be opened")
    kept.rests()
    assert ends(kept) == 0
    assert kept.lines[-1]["text"] == "stopped; the network stays as it is"


def _waits_for(fifo: Path) -> bool:
    """Whether somebody waits in opening it to read; then the other end can be opened without waiting."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def test_a_libvirt_that_does_not_answer_does_not_keep_it_from_ending(kept: Keeping) -> None:
    pytest.importorskip("libvirt")
    path = kept.folder / "libvirt-sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
        hung.bind(str(path))
        hung.listen()
        hung.settimeout(SOON_S)
        vm = {"libvirt": {"uri": f"qemu+unix:///system?socket={path}", "domain": "ips"}}
        adapters = {"outside": {"interface": "vnet0"}, "inside": {"interface": "vnet1"}}
        kept.write(signals={"vm": {"kind": "domain"}, "ga": {"kind": "guest-ping"}}, vm={**vm, "adapters": adapters})
        started(kept)
        hung.accept()[0].close()
        channel, _ = hung.accept()
        with channel:
            assert ends(kept) == 0


@pytest.mark.parametrize(
    "hangs",
    [
        # A source that does not let itself be cancelled.
        """
import asyncio
from reconciler.host.signals.command import CommandGatherer
async def run(self):
    while True:
        try: await asyncio.sleep(1)
        except asyncio.CancelledError: pass
CommandGatherer.run = run
""",
        # The loop itself, in its end.
        """
import time
from reconciler.control.server import Control
async def close(self): time.sleep(60)
Control.close = close
""",
    ],
    ids=["source", "loop"],
)
def test_in_the_end_it_is_ended_whatever_hangs(kept: Keeping, hangs: str) -> None:
    kept.write(signals={"x": {"kind": "command", "run": ["/bin/true"]}})
    started(kept, but=hangs)
    assert ends(kept) == 1
    assert kept.lines[-1]["text"] == "stopped; the network stays as it is"


# --- its log ---------------------------------------------------------------------------------------------------------


def test_a_source_that_raises_is_a_line_with_its_name_and_no_traceback(kept: Keeping) -> None:
    breaks = """
from reconciler.host.signals.command import CommandGatherer
async def run(self): raise ZeroDivisionError("a bug")
CommandGatherer.run = run
"""
    kept.write(signals={"odd": {"kind": "command", "run": ["/bin/true"]}})
    started(kept, but=breaks)
    kept.until(lambda: bool(kept.told("source")), "a line about it")
    line = kept.told("source")[0]
    assert (line["level"], line["signal"]) == ("error", "odd")
    assert line["text"] == "internal error in the source of signal odd: ZeroDivisionError: a bug (<string>:3 run)"
    assert kept.status()["signals"][0]["reason"].startswith("gathering it broke (ZeroDivisionError: a bug)")
    assert ends(kept) == 0
    assert all(isinstance(line, dict) for line in kept.lines)


# --- itself ----------------------------------------------------------------------------------------------------------


def test_a_daemon_that_was_stopped_costs_who_looks_a_second_and_the_kernel_answers(kept: Keeping) -> None:
    started(kept)
    kept.goes_to("inspect")
    kept.rests()
    assert kept.process is not None
    kept.process.send_signal(signal.SIGSTOP)
    stopped = f"the daemon (pid {kept.process.pid}) does not answer: it was stopped (SIGSTOP)"
    began = time.monotonic()
    done = kept.cli("--dry-run")
    assert time.monotonic() - began < 8
    assert (done.code, done.out.splitlines()[-1]) == (0, "nothing to do: the network is as declared")
    assert stopped in done.err
    kept.hand("ip link set nic1 nomaster")
    done = kept.cli("--dry-run")
    assert done.code == 3
    assert "nic1" in done.out
    # Where the file is known the kernel tells: a port is out of its switch.
    done = kept.cli("status")
    assert done.code == 5
    assert stopped in " ".join(done.out.split())
    done = kept.cli("status", file=False)
    assert (done.code, done.out, done.err) == (1, "", f"reconcile: {stopped}\n")
    kept.process.send_signal(signal.SIGCONT)
    kept.goes_to("inspect")
    kept.rests()
    assert ends(kept) == 0
