"""Every kind of check, against real processes, sockets and files."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import DEADLINE_S, agent, alive, children_of, eventually, serve
from processes import ending

from reconciler.lab.namespaces import Namespace

LIMIT_S = 5.0


def probe(kind: str, value: str, **keys: str) -> Callable[[], tuple[str, str]]:
    """Return a check of the config as a function."""
    errors: list[str] = []
    section = agent.Section("place", {kind: value, **keys}, errors)
    made = agent.KINDS[kind][0](section)
    assert not errors
    return lambda: made(time.monotonic() + LIMIT_S)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with ending(subprocess.Popen(["sleep", "60"])) as process:
        yield process


class TestProcess:
    def test_alive(self, tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{sleeper.pid}\n", encoding="ascii")
        assert probe("process", str(pid_file))() == ("healthy", f"pid {sleeper.pid} is alive")
        assert probe("process", str(pid_file), name="sleep")()[0] == "healthy"

    def test_a_recycled_pid(self, tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{sleeper.pid}\n", encoding="ascii")
        reading = probe("process", str(pid_file), name="Suricata-Main")()
        assert reading == ("failed", f"pid {sleeper.pid} is sleep, not Suricata-Main")

    def test_a_zombie_is_dead(self, tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{sleeper.pid}\n", encoding="ascii")
        check = probe("process", str(pid_file))
        sleeper.kill()
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        assert check() == ("failed", f"pid {sleeper.pid} is a zombie")
        sleeper.wait(DEADLINE_S)
        assert check() == ("failed", f"no process {sleeper.pid}")

    def test_a_stopped_one_does_nothing(self, tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{sleeper.pid}\n", encoding="ascii")
        sleeper.send_signal(signal.SIGSTOP)
        check = probe("process", str(pid_file))
        eventually(lambda: check() == ("failed", f"pid {sleeper.pid} is stopped"))
        sleeper.send_signal(signal.SIGCONT)
        eventually(lambda: check()[0] == "healthy")

    def test_by_name(self, tmp_path: Path) -> None:
        program = tmp_path / "a-name-longer-than-fifteen"
        program.symlink_to("/bin/sleep")
        check = probe("process", f"name:{program.name}")
        assert check() == ("failed", f"no process {program.name}")
        for _ in range(2):  # the second one has another pid
            with ending(subprocess.Popen([program, "60"])) as process:
                eventually(lambda: check()[0] == "healthy", "its name")
                assert check() == ("healthy", f"pid {process.pid} is alive")
            assert check()[0] == "failed"

    @pytest.mark.parametrize("text", ["", "x", "-1", "1 2", "99999999999"])
    def test_a_pid_file_without_a_pid(self, tmp_path: Path, text: str) -> None:
        pid_file = tmp_path / "pid"
        pid_file.write_text(text, encoding="ascii")
        assert probe("process", str(pid_file))() == ("failed", f"no pid in {pid_file}")


class TestCommand:
    @pytest.mark.parametrize(
        ("script", "reading"),
        [
            ("exit 0", ("healthy", "status 0")),
            ("echo all well; echo more", ("healthy", "all well")),
            ("echo slow; exit 1", ("degraded", "slow")),
            ("echo bad >&2; exit 2", ("failed", "bad")),
            ("exit 3", ("failed", "status 3")),
            ("kill -9 $$", ("failed", "killed by signal 9")),
        ],
    )
    def test_status(self, script: str, reading: tuple[str, str]) -> None:
        assert probe("command", f"sh -c '{script}'")() == reading

    def test_no_shell(self) -> None:
        assert probe("command", "echo $HOME ';' exit")() == ("healthy", "$HOME ; exit")

    def test_no_such_program(self) -> None:
        with pytest.raises(FileNotFoundError):
            probe("command", "/nowhere/to/be/found")()

    def test_output_without_end_is_not_kept(self) -> None:
        status, output = agent.run(["sh", "-c", "yes | head -c 1000000"], time.monotonic() + LIMIT_S)
        assert (status, len(output)) == (0, 4096)

    def test_it_is_killed_at_its_time_limit_with_its_group(self, tmp_path: Path) -> None:
        pids = tmp_path / "pids"
        script = f"sleep 60 & echo $! $$ > '{pids}.new'; mv '{pids}.new' '{pids}'; wait"
        began = time.monotonic()
        deadline = began + 0.2
        with pytest.raises(TimeoutError):
            agent.run(["sh", "-c", script], deadline)
        assert time.monotonic() < began + LIMIT_S
        for pid in pids.read_text(encoding="ascii").split():
            eventually(lambda: not alive(int(pid)))  # noqa: B023

    def test_what_it_leaves_behind_is_killed(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        assert probe("command", f"sh -c \"sleep 60 & echo $! > '{pid}'\"")()[0] == "healthy"
        eventually(lambda: not alive(int(pid.read_text(encoding="ascii"))))

    def test_no_descriptors_are_left(self) -> None:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for command in ("true", "/nowhere/to/be/found"):
            with pytest.raises(OSError) if "/" in command else open(os.devnull):  # noqa: PT011
                probe("command", command)()
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

    def test_unit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        systemctl = tmp_path / "systemctl"
        systemctl.write_text('#!/bin/sh\ntest "$1 $2" = "is-active --" && echo "${3%.service}"\n', encoding="ascii")
        systemctl.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        for word, state in {
            "active": "healthy",
            "reloading": "degraded",
            "activating": "failed",
            "x": "failed",
        }.items():
            assert probe("unit", f"{word}.service")() == (state, f"{word}.service is {word}")


@pytest.mark.netns
class TestTcp:
    """In a namespace, whose loopback is up."""

    @pytest.mark.parametrize(("family", "text"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")])
    def test_connect(self, family: socket.AddressFamily, text: str) -> None:
        with Namespace("vm") as vm, vm.entered(), socket.socket(family) as listener:
            listener.bind((text.strip("[]"), 0))
            port = listener.getsockname()[1]
            with pytest.raises(ConnectionRefusedError):
                probe("tcp", f"{text}:{port}")()
            listener.listen()
            assert probe("tcp", f"{text}:{port}")() == ("healthy", f"{text}:{port} takes connections")


class Server:
    """A unix socket that answers each line by what a function says."""

    def __init__(self, path: Path, answer: Callable[[bytes], bytes], greeting: bytes = b"") -> None:
        self.listener = serve(path)
        self._answer = answer
        self._greeting = greeting
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                try:
                    peer.sendall(self._greeting)
                    for line in lines:
                        peer.sendall(self._answer(line))
                except ConnectionError:
                    continue

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE_S)
        self.listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    servers = []

    def start(answer: Callable[[bytes], bytes], **more: Any) -> Path:
        servers.append(Server(tmp_path / "socket", answer, **more))
        return tmp_path / "socket"

    yield start
    for running in servers:
        running.close()


class TestSocket:
    def test_a_connection_is_enough(self, server: Callable[..., Path]) -> None:
        path = server(lambda _: b"")
        assert probe("socket", str(path))() == ("healthy", f"{path} answers")

    def test_lines_and_answers(self, server: Callable[..., Path]) -> None:
        path = server(lambda line: b"you said " + line)
        assert probe("socket", str(path), send="one\ntwo", expect="said one\nsaid two")()[0] == "healthy"

    def test_a_greeting_comes_before_the_first_line(self, server: Callable[..., Path]) -> None:
        path = server(lambda line: b"you said " + line, greeting=b"welcome\n")
        assert probe("socket", str(path), send="one", expect="welcome\nsaid one")()[0] == "healthy"

    def test_a_wrong_answer(self, server: Callable[..., Path]) -> None:
        errors: list[str] = []
        section = agent.Section("", {"socket": str(server(lambda _: b"no\n")), "send": "a", "expect": "yes"}, errors)
        with pytest.raises(OSError, match="'yes' is not in the answer b'no"):
            agent.socket_check(section)(time.monotonic() + 0.1)

    def test_no_answer(self, tmp_path: Path) -> None:
        with serve(tmp_path / "socket"):
            section = agent.Section("", {"socket": str(tmp_path / "socket"), "send": "a", "expect": "yes"}, [])
            with pytest.raises(TimeoutError):
                agent.socket_check(section)(time.monotonic() + 0.05)

    def test_an_answer_without_end(self, server: Callable[..., Path]) -> None:
        path = server(lambda _: b"no" * 100_000)
        with pytest.raises(OSError, match="is not in the answer"):
            probe("socket", str(path), send="a", expect="yes")()

    def test_a_full_queue_is_silence(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
            listener.bind(str(tmp_path / "socket"))
            listener.listen(0)
            waiting.enter_context(agent.connect(str(tmp_path / "socket"), time.monotonic() + LIMIT_S))
            with pytest.raises(TimeoutError):
                probe("socket", str(tmp_path / "socket"))()

    def test_nobody_listens(self, tmp_path: Path) -> None:
        serve(tmp_path / "socket").close()
        with pytest.raises(ConnectionRefusedError):
            probe("socket", str(tmp_path / "socket"))()


class FakeSuricata:
    """The command socket of Suricata, and the kernel's counters."""

    def __init__(self) -> None:
        self.counters = {"eth0": {"pkts": 100, "drop": 0}, "eth1": {"pkts": 100, "drop": 0}}
        self.received = {"eth0": 100, "eth1": 100}

    def pass_packets(self, **packets: int) -> None:
        for name, count in packets.items():
            self.received[name] += count
            self.counters[name]["pkts"] += count

    def answer(self, line: bytes) -> bytes:
        question = json.loads(line)
        if question == {"version": "0.2"}:
            answer: dict[str, Any] = {"return": "OK"}
        elif question == {"command": "uptime"}:
            answer = {"return": "OK", "message": 42}
        elif question["command"] == "iface-stat" and question["arguments"]["iface"] in self.counters:
            answer = {"return": "OK", "message": self.counters[question["arguments"]["iface"]]}
        else:
            answer = {"return": "NOK", "message": "unknown"}
        return json.dumps(answer).encode() + b"\n"


class TestSuricata:
    @pytest.fixture
    def suricata(self) -> FakeSuricata:
        return FakeSuricata()

    @pytest.fixture
    def interfaces(
        self, suricata: FakeSuricata, server: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[], tuple[str, str]]:
        monkeypatch.setattr(agent, "received_packets", lambda: dict(suricata.received))
        return probe("suricata", str(server(suricata.answer)), command="iface-stat eth0 eth1")

    def test_uptime(self, suricata: FakeSuricata, server: Callable[..., Path]) -> None:
        assert probe("suricata", str(server(suricata.answer)))() == ("healthy", "up for 42 s")

    def test_refusal(self, suricata: FakeSuricata, server: Callable[..., Path]) -> None:
        with pytest.raises(OSError, match="Suricata refuses: unknown"):
            probe("suricata", str(server(suricata.answer)), command="iface-stat eth7")()

    def test_something_else_listens(self, server: Callable[..., Path]) -> None:
        with pytest.raises(OSError, match="not Suricata's protocol: hello"):
            probe("suricata", str(server(lambda _: b"hello\n")))()

    def test_traffic_and_silence_are_healthy(
        self, suricata: FakeSuricata, interfaces: Callable[[], tuple[str, str]]
    ) -> None:
        for packets in (0, 10, 10, 0, 0, 0, 10):
            suricata.pass_packets(eth0=packets, eth1=packets // 10)
            assert interfaces() == ("healthy", "captures on eth0 and eth1")

    def test_a_frozen_counter_while_the_kernel_receives(
        self, suricata: FakeSuricata, interfaces: Callable[[], tuple[str, str]]
    ) -> None:
        interfaces()
        suricata.pass_packets(eth0=10)
        suricata.received["eth1"] += 10
        # It may just not have counted them yet.
        assert interfaces()[0] == "healthy"
        suricata.received["eth1"] += 10
        assert interfaces() == ("failed", "eth1 receives, but nothing is captured")
        suricata.pass_packets(eth1=20)
        assert interfaces()[0] == "healthy"

    def test_counters_that_come_late(self, suricata: FakeSuricata, interfaces: Callable[[], tuple[str, str]]) -> None:
        interfaces()
        for _ in range(3):
            suricata.received["eth0"] += 10
            assert interfaces()[0] == "healthy"
            suricata.counters["eth0"]["pkts"] += 10
            assert interfaces()[0] == "healthy"

    def test_drops_that_grow(self, suricata: FakeSuricata, interfaces: Callable[[], tuple[str, str]]) -> None:
        suricata.counters["eth0"]["drop"] = 1000  # before the agent was there
        assert interfaces()[0] == "healthy"
        suricata.counters["eth0"]["drop"] = 1007
        assert interfaces() == ("degraded", "eth0: 7 packets dropped before inspection")
        assert interfaces()[0] == "healthy"

    def test_a_restart_counts_from_nought(
        self, suricata: FakeSuricata, interfaces: Callable[[], tuple[str, str]]
    ) -> None:
        interfaces()
        suricata.pass_packets(eth0=10, eth1=10)
        interfaces()
        suricata.counters = {name: {"pkts": 0, "drop": 5} for name in suricata.counters}
        assert interfaces()[0] == "healthy"
        suricata.pass_packets(eth0=10, eth1=10)
        assert interfaces()[0] == "healthy"

    def test_what_the_kernel_received(self) -> None:
        assert "lo" in agent.received_packets()


class TestFile:
    def test_age(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        check = probe("file", str(path), fresher_than="10s")
        with pytest.raises(FileNotFoundError):
            check()
        path.touch()
        assert check()[0] == "healthy"

    def test_what_was_written_before_anybody_looked_is_as_old_as_it_says(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        os.utime(path, times=(time.time() - 11,) * 2)
        assert probe("file", str(path), fresher_than="10s")()[0] == "failed"

    @pytest.mark.parametrize("step_s", [-86_400, 86_400])
    def test_a_clock_that_is_set_neither_ages_nor_freshens_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: int
    ) -> None:
        path, wall, ticks = tmp_path / "file", time.time, [100.0]
        path.touch()
        check = probe("file", str(path), fresher_than="10s")
        monkeypatch.setattr(agent.time, "monotonic", lambda: ticks[0])
        assert check()[0] == "healthy"
        monkeypatch.setattr(agent.time, "time", lambda: wall() + step_s)
        ticks[0] = 105.0
        assert check()[0] == "healthy"
        ticks[0] = 111.0
        assert check() == ("failed", f"{path} was written 11 s ago")
        # Written by that clock, it bears that date.
        os.utime(path, times=(wall() + step_s,) * 2)
        assert check()[0] == "healthy"


class TestBridge:
    @pytest.fixture
    def sysfs(self, tmp_path: Path) -> Path:
        for path, text in {
            "br0/flags": "0x1003",
            "br0/carrier": "1",
            "eth0/flags": "0x1003",
            "eth0/carrier": "1",
            "eth0/brport/state": "3",
            "br0/brif/eth0": "",
        }.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text + "\n", encoding="ascii")
        return tmp_path

    def reading(self, sysfs: Path, bridge: str = "br0", interface: str = "eth0") -> tuple[str, str]:
        section = agent.Section("", {"bridge": bridge, "interface": interface}, [])
        reading: tuple[str, str] = agent.bridge_check(section, str(sysfs))(0.0)
        return reading

    def test_forwarding(self, sysfs: Path) -> None:
        assert self.reading(sysfs) == ("healthy", "eth0 forwards in br0")

    def test_elsewhere(self, sysfs: Path) -> None:
        assert self.reading(sysfs, bridge="br1") == ("failed", "eth0 is not in br1")
        assert self.reading(sysfs, interface="eth1") == ("failed", "no interface eth1")

    @pytest.mark.parametrize(
        ("path", "text", "reason"),
        [
            ("eth0/flags", "0x1002", "eth0 is down"),
            ("eth0/carrier", "0", "eth0 has no carrier"),
            ("br0/flags", "0x1002", "br0 is down"),
            ("br0/carrier", "0", "br0 has no carrier"),
            ("eth0/brport/state", "2", "eth0 does not forward"),
        ],
    )
    def test_faults(self, sysfs: Path, path: str, text: str, reason: str) -> None:
        (sysfs / path).write_text(text, encoding="ascii")
        assert self.reading(sysfs) == ("failed", reason)


class Clock:
    """A check whose probe says what the test says, judged at moments that the test says."""

    def __init__(self, *, tolerate_s: float = 0.0, on_failure: str = "failed") -> None:
        self.check = agent.Check(
            "x",
            lambda _: ("healthy", ""),
            every_s=1.0,
            timeout_s=0.5,
            tolerate_s=tolerate_s,
            on_failure=on_failure,
        )

    def at(
        self, now: float, state: str | None, *, running_since: float | None = None, failures: int | None = None
    ) -> str:
        """What is said; a run that failed is the second in a row, unless told otherwise."""
        reading = None if state is None else (state, "why")
        running = running_since is not None
        failed = failures if failures is not None else 2 if state == "failed" else 0
        self.check._progress = (running, running_since if running else now, reading, failed, "")
        judged: str = self.check.judge(now)[0]
        return judged


class TestJudgement:
    def test_the_second_failed_run_in_a_row_is_failed_and_not_the_beats_that_repeat_the_first(self) -> None:
        clock = Clock()
        assert clock.at(0, "healthy") == "healthy"
        for now in (1.0, 1.1, 1.2, 1.3):
            assert clock.at(now, "failed", failures=1) == "degraded"
        assert clock.check.judge(1.3)[1] == "why; asked again"
        assert clock.at(1.4, "failed", failures=2) == "failed"
        assert clock.at(2, "healthy") == "healthy"

    def test_a_failed_run_is_repeated_at_once_and_not_in_its_turn(self) -> None:
        runs: list[float] = []

        def action(_deadline: float) -> tuple[str, str]:
            runs.append(time.monotonic())
            return "failed", "why"

        check = agent.Check("x", action, every_s=3600, timeout_s=60)
        check.start()
        assert eventually(lambda: check._progress[3] == 2)
        assert len(runs) == 2

    def test_tolerance(self) -> None:
        clock = Clock(tolerate_s=10)
        assert clock.at(0, "healthy") == "healthy"
        assert clock.at(1, "failed") == "degraded"
        assert clock.at(10.9, "failed") == "degraded"
        assert clock.at(11, "failed") == "failed"
        assert clock.at(12, "degraded") == "degraded"
        # What failed for good must be healthy before it is tolerated again.
        assert clock.at(13, "failed") == "failed"
        assert clock.at(14, "healthy") == "healthy"
        assert clock.at(15, "failed") == "degraded"

    def test_what_was_never_healthy_is_not_tolerated(self) -> None:
        assert Clock(tolerate_s=10).at(0, "failed") == "failed"

    def test_a_check_that_may_only_degrade(self) -> None:
        clock = Clock(on_failure="degraded")
        assert [clock.at(0, "healthy"), clock.at(1, "failed")] == ["healthy", "degraded"]

    def test_a_probe_that_hangs(self) -> None:
        clock = Clock()
        assert clock.at(0, "healthy") == "healthy"
        assert clock.at(1.4, "healthy", running_since=1.0) == "healthy"
        assert clock.at(1.6, "healthy", running_since=1.0) == "degraded"
        assert clock.check.judge(1.6)[1] == "no answer within 500 ms; asked again"
        # Asked again, and late again; or not even that, since it never came back.
        assert clock.at(2.1, "failed", running_since=1.5, failures=1) == "failed"
        assert Clock().at(0.6, None, running_since=0.0) == "failed"
        clock = Clock()
        assert clock.at(0, "healthy") == "healthy"
        assert clock.at(2.1, "healthy", running_since=1.0) == "failed"
        assert clock.check.judge(2.1)[1] == "no answer within 500 ms"

    def test_silence_that_another_check_judges(self) -> None:
        check = agent.Check("x", lambda _: ("healthy", ""), every_s=1.0, timeout_s=0.5, on_silence="degraded")
        check._progress = (True, 1.0, ("healthy", ""), 0, "")
        assert check.judge(1.6) == ("degraded", "no answer within 500 ms")
        check._progress = (False, 1.0, ("failed", "frozen"), 2, "")
        assert check.judge(1.7) == ("failed", "frozen")

    def test_obstacles(self) -> None:
        check = Clock().check
        check._progress = (True, 0.0, None, 0, "")
        assert check.obstacle(0.4) == "x: no result yet"
        assert check.obstacle(0.6) == ""  # its time limit is a result
        check._progress = (False, 1.0, ("healthy", ""), 0, "")
        assert check.obstacle(2.9) == ""
        assert check.obstacle(3.1) == "x: its thread does not come round"
        check._progress = (False, 1.0, ("healthy", ""), 0, "cannot start a process")
        assert check.obstacle(1.0) == "x: cannot start a process"


class TestReading:
    """What becomes of what a probe returns and raises."""

    def read(self, action: Callable[[float], Any]) -> tuple[str, str]:
        check = agent.Check("x", action, every_s=1, timeout_s=0.05)
        reading: tuple[str, str] = check._read(time.monotonic() + 0.05)
        return reading

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (TimeoutError(), "no answer within 50 ms"),
            (socket.timeout(), "no answer within 50 ms"),  # noqa: UP041  # another error before Python 3.10
            (FileNotFoundError(2, "No such file", "/x"), "/x: No such file"),
            (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
            (ValueError("bug"), "ValueError('bug')"),
        ],
    )
    def test_errors_are_failures(self, error: Exception, reason: str) -> None:
        def action(_deadline: float) -> Any:
            raise error

        assert self.read(action) == ("failed", reason)

    @pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files"), agent.CannotRun("no")])
    def test_want_of_resources_is_nobodys_failure(self, error: Exception) -> None:
        def action(_deadline: float) -> Any:
            raise error

        with pytest.raises(agent.CannotRun):
            self.read(action)

    def test_too_late_is_no_answer(self) -> None:
        def action(deadline: float) -> Any:
            eventually(lambda: time.monotonic() > deadline)
            return "healthy", ""

        assert self.read(action) == ("failed", "no answer within 50 ms")


def test_no_more_processes(tmp_path: Path) -> None:
    """A limit on processes is per user; nobody is a user who has none here."""
    users = Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2]
    if os.geteuid() != 0 or int(users) < 2:
        pytest.skip("needs root to become another user")
    script = f"""
import os, resource, sys, time
sys.path.insert(0, {str(tmp_path)!r})
import agent
os.setuid(61234)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    agent.run(["true"], time.monotonic() + 5)
except agent.CannotRun as error:
    print(error)
"""
    (tmp_path / "agent.py").write_text(Path(agent.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    tmp_path.chmod(0o755)
    before = set(children_of(os.getpid()))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert done.stdout == "cannot start a process\n"
    assert set(children_of(os.getpid())) <= before
