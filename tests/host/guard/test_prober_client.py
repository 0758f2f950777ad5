"""The daemon's end: starts, takes over, orders, hears, and knows when nobody is there any more."""

import contextlib
import fcntl
import io
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from probes import MARK, PATIENCE_S, TOKEN, Stand, direction, ended, first
from processes import ending
from worlds import two_ports

from reconciler.appliance.declared import MAX_DIRECTIONS, Probe
from reconciler.daemon.guard import GuardEffects
from reconciler.daemon.journal import Journal
from reconciler.errors import HostError
from reconciler.guard.frames import frame
from reconciler.guard.state import ProberLife, TableState
from reconciler.guard.step import begin
from reconciler.host import clock
from reconciler.host.guard import prober
from reconciler.host.guard import prober_client as program
from reconciler.host.guard.prober_client import ProberReport, Probing
from reconciler.host.statefile import StateFile
from reconciler.lab.lab import Lab, wait_until

HEARD = {
    "name": "edge/outside-inside",
    "frame": "06a1a2a3a4a502a1b2c3d400",
    "state": "back",
    "age_us": 7,
    "sent": 3,
    "returned": 2,
    "errors": 1,
    "rtt_us": [1, 2, 3],
    "negative": 0,
}
TOLD = {
    "now_us": 1,
    "directions": [HEARD],
    "late_worst_us": 2,
    "late": 3,
    "missed": 4,
    "stalls": 5,
    "priority": "fifo 10",
    "kept": "",
    "alone_ms": 6,
}


@pytest.fixture
def probing(tmp_path: Path) -> Iterator[Probing]:
    with ended(Probing(tmp_path / "run", "sku")) as probing:
        yield probing


def start(probing: Probing) -> None:
    """Start one, as soon as those before it are gone."""
    wait_until(probing.spawn, PATIENCE_S, "room for a prober")


def reports(probing: Probing) -> list[ProberReport]:
    """The next reports; none if it is gone."""
    select.select([probing], [], [], PATIENCE_S)
    return probing.reports()


def gone(probing: Probing, consent: bool = False) -> str:
    """Why nobody is there any more."""

    def is_gone() -> bool:
        if consent:
            probing.consent()
        else:
            probing.reports()
        return not probing.alive

    wait_until(is_gone, PATIENCE_S, "it to be gone")
    assert select.select([probing], [], [], 0)[0] == []
    return probing.reason


def dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_there_is_nobody_at_first(probing: Probing) -> None:
    assert not probing.connect()
    assert (probing.alive, probing.pid, probing.reports()) == (False, None, [])
    assert select.select([probing], [], [], 0)[0] == []
    probing.consent()
    assert not probing.alive


def test_it_is_started_and_only_its_owner_gets_in(probing: Probing) -> None:
    start(probing)
    assert probing.alive
    assert stat.S_IMODE(probing.path.stat().st_mode) == 0o600
    assert reports(probing)[0].directions == ()
    assert probing.pid is not None
    assert os.getsid(probing.pid) == probing.pid
    probing.end()
    assert (probing.alive, probing.reason, probing.path.exists()) == (False, "ended on purpose", False)


def test_who_watches_hears_whoever_comes_next_also_by_the_same_number(probing: Probing) -> None:
    with select.epoll() as watch:
        watch.register(probing, select.EPOLLIN)
        for _ in range(3):
            start(probing)
            wait_until(lambda: bool(watch.poll(0)), PATIENCE_S, "a report")
            assert reports(probing)
            assert probing.pid is not None
            os.kill(probing.pid, signal.SIGKILL)
            assert gone(probing)
            assert watch.poll(0) == []


def test_one_that_was_left_is_found_again(probing: Probing) -> None:
    start(probing)
    pid = probing.pid
    assert reports(probing)
    probing.close()
    assert not probing.alive
    assert probing.connect()
    assert probing.pid == pid
    assert reports(probing)


def test_a_dead_one_is_noticed_waited_for_and_replaced(probing: Probing) -> None:
    start(probing)
    former = probing.pid
    assert former is not None
    os.kill(former, signal.SIGKILL)
    assert "ended" in gone(probing)
    assert not probing.connect()
    start(probing)
    assert probing.pid != former
    assert reports(probing)
    wait_until(lambda: probing.reports() is not None and not Path(f"/proc/{former}").exists(), PATIENCE_S, "no zombie")


@pytest.mark.parametrize("stopped", [False, True], ids=["well", "hung"])
def test_there_is_never_a_second_one(probing: Probing, stopped: bool) -> None:
    start(probing)
    assert reports(probing)
    former = probing.pid
    assert former is not None
    if stopped:
        os.kill(former, signal.SIGSTOP)
    with ended(Probing(probing.path.parent, "sku")) as successor:
        start(successor)
        assert successor.pid not in (former, None)
        assert reports(successor)
        wait_until(lambda: dead(former), PATIENCE_S, "the former's end")
        assert "ended" in gone(probing)
        # Whose end takes nothing from its successor.
        successor.consent()
        assert successor.alive


def test_one_that_hangs_is_noticed_and_killed(probing: Probing) -> None:
    start(probing)
    assert reports(probing)
    pid = probing.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert "hangs" in gone(probing, consent=True)
    wait_until(lambda: dead(pid), PATIENCE_S, "its end")
    start(probing)
    assert reports(probing)


# --- never two at a time ---------------------------------------------------------------------------------------------

SLOW = "import time; time.sleep(%g)\n"


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Path]:
    """A copy of the program that takes so many seconds to come up, and is started from now on."""

    def made(seconds: float) -> Path:
        copy = tmp_path / "slow.py"
        copy.write_text(SLOW % seconds + Path(prober.__file__).read_text())
        monkeypatch.setattr(program, "_PROGRAM", copy)
        return copy

    return made


def running(copy: Path) -> list[int]:
    """The living processes of a program."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(copy) in (folder / "cmdline").read_bytes().split(b"\0") and not dead(int(folder.name)):
                found.append(int(folder.name))
    return found


class Driven:
    """A daemon's guard with a real prober, on the real clock, and no segment that needs probes now."""

    def __init__(self, probing: Probing) -> None:
        self.told = io.StringIO()
        nobody: Any = None
        of = two_ports(guard={}, health={"signals": {"path": {"kind": "canary"}}})
        self.guard = GuardEffects(
            replace(begin(of, os.urandom(16), os.urandom(16)), table=TableState(known=True)),
            table=nobody,
            prober=probing,
            listener=nobody,
            clock=clock.now_ms,
            journal=Journal(self.told),
            notes=StateFile(probing.path.with_name("notes")),
        )

    def turn(self) -> bool:
        """Whether the prober has reported."""
        self.guard.listen()
        return self.guard.state.prober.life is ProberLife.REPORTING


def test_one_that_takes_long_to_come_up_is_waited_for(probing: Probing, slow: Callable[[float], Path]) -> None:
    copy, driven, most = slow(1.6), Driven(probing), [0]

    def comes() -> bool:
        most[0] = max(most[0], len(running(copy)))
        return driven.turn()

    wait_until(comes, PATIENCE_S, "its first report")
    assert (most, running(copy), driven.told.getvalue()) == ([1], [probing.pid], "")


@pytest.mark.parametrize("how", ["its socket's file is gone", "it has not come up yet"])
def test_an_earlier_one_that_nobody_can_connect_to_is_ended_first(
    probing: Probing, slow: Callable[[float], Path], how: str
) -> None:
    copy = slow(100 if "come up" in how else 0)
    start(probing)
    if "file" in how:
        assert reports(probing)
        probing.path.unlink()
    former = probing.pid
    assert former is not None
    seen = []

    def started() -> bool:
        begun = probing.spawn()
        seen.append(len(running(copy)))
        return begun

    wait_until(started, PATIENCE_S, "another one")
    assert (max(seen) <= 1, dead(former), probing.pid == former) == (True, True, False)


@pytest.mark.parametrize("how", ["its socket's file is gone", "it has not come up yet", "it is stopped"])
def test_so_is_one_that_a_killed_daemon_left(probing: Probing, slow: Callable[[float], Path], how: str) -> None:
    """It is no child of ours, and nobody knows of it but its lock."""
    copy = slow(100 if "come up" in how else 0)
    begin = (
        "import sys; from pathlib import Path; from reconciler.host.guard import prober_client as p\n"
        "p._PROGRAM = Path(sys.argv[1]); q = p.Probing(Path(sys.argv[2]), 'sku')\n"
        "assert q.spawn()\n"
        "import select; sys.argv[3] == 'up' and select.select([q], [], [])\n"
        "print(q.pid, flush=True); import os; os._exit(0)\n"
    )
    up = "no" if "come up" in how else "up"
    words = [sys.executable, "-c", begin, str(copy), str(probing.path.parent), up]
    former = int(subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout)
    wait_until(lambda: running(copy) == [former], PATIENCE_S, "it")
    if "file" in how:
        probing.path.unlink()
    if "stopped" in how:
        os.kill(former, signal.SIGSTOP)
    slow(0)
    start(probing)
    wait_until(lambda: running(copy) == [probing.pid], PATIENCE_S, "the other one alone")
    assert dead(former)
    assert reports(probing)


def test_at_the_end_none_is_left_whoever_started_it(probing: Probing, slow: Callable[[float], Path]) -> None:
    copy = slow(100)
    start(probing)
    other = Probing(probing.path.parent, "sku")
    other.end()
    wait_until(lambda: running(copy) == [], PATIENCE_S, "its end")
    assert list(probing.path.parent.iterdir()) == []


def test_nobody_but_its_owner_can_take_the_lock(probing: Probing) -> None:
    lock = probing.path.with_name("sku.prober.lock")
    lock.parent.mkdir()
    lock.touch(mode=0o666)
    start(probing)
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    assert lock.read_text() == str(probing.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_lock_that_is_somebody_elses_is_refused(probing: Probing) -> None:
    lock = probing.path.with_name("sku.prober.lock")
    lock.parent.mkdir()
    lock.touch()
    os.chown(lock, 65534, 65534)
    with pytest.raises(HostError, match="somebody else's"):
        probing.spawn()


@pytest.mark.parametrize("text", ["", "none", "-1", "0", "99999999999999999999", str(os.getpid())])
def test_whoever_has_not_the_lock_is_not_killed_for_what_stands_in_it(probing: Probing, text: str) -> None:
    lock = probing.path.with_name("sku.prober.lock")
    lock.parent.mkdir()
    lock.write_text(text)
    start(probing)
    assert reports(probing)


def test_one_of_which_nothing_is_known_is_waited_for(probing: Probing) -> None:
    lock = probing.path.with_name("sku.prober.lock")
    lock.parent.mkdir()
    with lock.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert not probing.spawn()
        assert not probing.alive
    start(probing)


@pytest.mark.parametrize("said", ["nonsense", "[]", '{"now_us": 1}', "7", "[" * 50_000])
def test_one_of_another_tongue_is_told_and_killed(probing: Probing, said: str) -> None:
    serve = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.bind(sys.argv[1]); s.listen()\n"
        "print('ready', flush=True); c, _ = s.accept(); c.send(sys.stdin.buffer.read()); c.recv(9); sys.exit(5)\n"
    )
    probing.path.parent.mkdir()
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ending(subprocess.Popen([sys.executable, "-c", serve, str(probing.path)], **pipes)) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
        assert probing.connect()
        other.stdin.write(said)
        other.stdin.close()
        assert "nonsense" in gone(probing)
        # It would have ended with 5 (and `probing` may have waited for it before us).
        assert other.wait(PATIENCE_S) != 5


def test_a_place_where_there_can_be_no_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot start the probe sender"):
        Probing(tmp_path / ("x" * 120), "sku").spawn()
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot start the probe sender"):
        Probing(tmp_path / "file", "sku").spawn()


@pytest.mark.netns
@pytest.mark.usefixtures("lab_root")
def test_as_many_directions_as_a_guard_may_have_are_ordered_in_several_messages(tmp_path: Path) -> None:
    with Lab(2) as lab:
        stand = Stand(lab, tmp_path)
        stand.listen()
        many = [
            replace(
                direction(number % 2),
                name=f"{number:>060}",
                out=number,
                back=number ^ 1,
                template=frame(Probe(), MARK + bytes([number]), TOKEN),
                every_us=200_000,
                lost_us=2_000_000,
            )
            for number in range(MAX_DIRECTIONS)
        ]
        with ended(stand.probing):
            start(stand.probing)
            sockets = [stand.sockets[number % 2].dup() for number in range(MAX_DIRECTIONS)]
            stand.probing.order(many, sockets, 60_000)
            for one in (*sockets, *stand.sockets):
                one.close()
            report = stand.until_states(*["back"] * MAX_DIRECTIONS)
            assert [one.name for one in report.directions] == [one.name for one in many]
            stand.probing.order([], [], 60_000)
            stand.until_states()


def test_what_it_refuses_it_says_why(probing: Probing) -> None:
    start(probing)
    assert reports(probing)
    probing.order([direction(0)], [], 60_000)
    assert "it refused its orders: ValueError" in gone(probing)


def test_a_report_is_taken_for_what_it_says() -> None:
    report = program._report(json.loads(json.dumps(TOLD)))
    assert (report.now_us, report.late_worst_us, report.late, report.missed, report.stalls) == (1, 2, 3, 4, 5)
    assert (report.priority, report.kept, report.alone_ms) == ("fifo 10", "", 6)
    assert first(report).head == bytes.fromhex(str(HEARD["frame"]))
    assert (first(report).age_us, first(report).rtt_us) == (7, (1, 2, 3))
    silent = program._report({**TOLD, "directions": [{**HEARD, "age_us": None, "rtt_us": None}]})
    assert (first(silent).age_us, first(silent).rtt_us) == (None, None)


WRONG = [-1, 1 << 64, 1.5, True, None, "1", [], {}]


@pytest.mark.parametrize("key", TOLD)
def test_a_report_with_something_else_in_it_is_none(key: str) -> None:
    for wrong in [*WRONG, "x" * 300]:
        if (key in {"priority", "kept"} and wrong == "1") or (key == "directions" and wrong in ([], {})):
            continue
        with pytest.raises((ValueError, TypeError, LookupError)):
            program._report({**TOLD, key: wrong})
    with pytest.raises(LookupError):
        program._report({name: value for name, value in TOLD.items() if name != key})


@pytest.mark.parametrize("key", HEARD)
def test_a_direction_with_something_else_in_it_is_none(key: str) -> None:
    for wrong in WRONG:
        if (key == "name" and wrong == "1") or (key in {"age_us", "rtt_us"} and wrong is None):
            continue
        with pytest.raises((ValueError, TypeError, LookupError)):
            program._report({**TOLD, "directions": [{**HEARD, key: wrong}]})


@pytest.mark.netns
def test_the_sockets_of_an_order_may_be_closed(tmp_path: Path) -> None:
    with Lab(2) as lab:
        stand = Stand(lab, tmp_path)
        stand.listen()
        with ended(stand.probing):
            start(stand.probing)
            stand.order()
            for one in stand.sockets:
                one.close()
            stand.until_states("back", "back")


def test_it_keeps_nothing_open_that_is_ours(probing: Probing) -> None:
    near, far = socket.socketpair()
    with near, far:
        os.set_inheritable(far.fileno(), True)
        start(probing)
        assert reports(probing)
        kept = {str(Path(f"/proc/{probing.pid}/fd/{number}").readlink()) for number in (0, 1, 2)}
        assert kept == {os.devnull}
        far.close()
        near.settimeout(PATIENCE_S)
        assert near.recv(1) == b""
    probing.reports()
    assert probing.alive, probing.reason
