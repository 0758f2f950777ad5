"""The agent as a process: its beats, its channels, and how it ends."""

import fcntl
import json
import os
import re
import resource
import select
import signal
import socket
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import DEADLINE_S, Host, Running, agent, alive, children_of, eventually, serve
from processes import UNKINDLY

HANG = "[check hung]\nsocket = {socket}\nexpect = never\ntimeout = 60s\nevery = 50ms\n"


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    return tmp_path / "channel"


def config(channel: Path, *checks: str, interval: str = "10ms", more: str = "") -> str:
    return f"[agent]\ninterval = {interval}\nchannel = unix:{channel}\n{more}\n" + "\n".join(checks)


def file_check(path: Path) -> str:
    return f"[check file]\nfile = {path}\nfresher_than = 60m\nevery = 50ms\n"


class TestBeats:
    def test_bytes(self, tmp_path: Path, channel: Path) -> None:
        with Running(tmp_path, config(channel, file_check(tmp_path))), Host(channel) as host:
            line = host.line()
            beat = json.loads(line)
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            reason = beat["checks"]["file"]["reason"]
            expected = (
                f'{{"v":1,"boot":"{boot}","run":"{beat["run"]}","seq":{beat["seq"]},"interval_ms":10,'
                f'"checks":{{"file":{{"state":"healthy","reason":"{reason}"}}}}}}\n'
            )
            assert line == expected.encode("ascii")
            assert re.fullmatch("[0-9a-f]{32}", beat["run"])
            assert beat["seq"] == 1
            assert [host.beat()["seq"] for _ in range(20)] == list(range(2, 22))

    def test_pace(self, tmp_path: Path, channel: Path) -> None:
        with Running(tmp_path, config(channel, interval="20ms")), Host(channel) as host:
            host.beat()
            began = time.monotonic()
            for _ in range(20):
                host.beat()
            # No drift: an absolute schedule. A busy machine may leave beats out, so only too fast is surely wrong.
            assert time.monotonic() - began > 0.35

    def test_as_many_checks_as_there_may_be_fit_into_a_line(self, tmp_path: Path, channel: Path) -> None:
        checks = [f"[check {'c' * 29}{number:02}]\nfile = /{'x' * 500}\nfresher_than = 1s\n" for number in range(32)]
        with Running(tmp_path, config(channel, *checks)), Host(channel) as host:
            line = host.line()
            assert len(line) <= 4096
            states = json.loads(line)["checks"]
            assert len(states) == 32
            assert {check["state"] for check in states.values()} == {"failed"}

    def test_reasons_are_printable_and_short(self, tmp_path: Path, channel: Path) -> None:
        script = tmp_path / "script"
        script.write_text("#!/bin/sh\nprintf 'a\\tb\\033[1m\"\\\\é%0200d' 0\n", encoding="utf-8")
        script.chmod(0o755)
        with Running(tmp_path, config(channel, f"[check x]\ncommand = '{script}'\n")), Host(channel) as host:
            reason = host.beat()["checks"]["x"]["reason"]
            assert reason == 'a b?[1m"\\?' + "0" * 107 + "..."

    def test_no_beat_before_each_check_has_its_first_result(self, tmp_path: Path, channel: Path) -> None:
        go = tmp_path / "go"
        slow = f"[check slow]\ncommand = sh -c 'until test -e \"{go}\"; do sleep 0.01; done'\ntimeout = 30s\n"
        with Running(tmp_path, config(channel, slow, file_check(tmp_path))) as running:
            eventually(lambda: "no heartbeat: slow: no result yet" in running.log())
            assert not channel.exists()
            go.touch()
            with Host(channel) as host:
                assert host.beat()["checks"]["slow"]["state"] == "healthy"

    def test_a_check_that_hangs_blocks_no_other(self, tmp_path: Path, channel: Path) -> None:
        hung = HANG.format(socket=tmp_path / "hung").replace("60s", "50ms")
        changing = tmp_path / "changing"
        other = file_check(changing).replace("60m", "60m\non_failure = degraded")
        with serve(tmp_path / "hung"), Running(tmp_path, config(channel, hung, other)), Host(channel) as host:
            assert host.beat()["checks"]["hung"] == {"state": "failed", "reason": "no answer within 50 ms"}
            host.until("file", "degraded")
            changing.touch()
            assert host.until("file", "healthy")["checks"]["hung"]["state"] == "failed"

    def test_a_hung_check_has_one_thread_and_recovers(self, tmp_path: Path, channel: Path) -> None:
        """Opening a fifo for reading blocks beyond any time limit of ours, as a dead network file system does."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        check = f"[check fifo]\nprocess = {fifo}\nevery = 50ms\ntimeout = 50ms\n"
        with Running(tmp_path, config(channel, check)) as running, Host(channel) as host:
            for _ in range(30):
                assert host.beat()["checks"]["fifo"]["reason"] == "no answer within 50 ms"
            assert len(list(Path(f"/proc/{running.process.pid}/task").iterdir())) == 2
            fifo.rename(tmp_path / "old")
            fifo.write_text(str(os.getpid()), encoding="ascii")
            (tmp_path / "old").open("w", encoding="ascii").close()
            host.until("fifo", "healthy")


class TestNoBeats:
    @pytest.mark.long
    def test_no_threads(self, tmp_path: Path, channel: Path) -> None:
        """Its address space is too small for the stacks of its threads, and then is not any more."""
        with Running(
            tmp_path,
            config(channel, *(file_check(tmp_path).replace("file]", f"f{number}]") for number in range(20))),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (100_000_000, resource.RLIM_INFINITY)),
        ) as running:
            eventually(lambda: "no heartbeat: cannot start a thread" in running.log())
            assert not channel.exists()
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(running.process.pid, resource.RLIMIT_AS, unlimited)
            with Host(channel) as host:
                assert len(host.beat()["checks"]) == 20

    def test_no_descriptors(self, tmp_path: Path, channel: Path) -> None:
        check = "[check x]\ncommand = true\nevery = 50ms\n"
        with Running(tmp_path, config(channel, check)) as running, Host(channel) as host:
            host.until("x", "healthy")
            # What is open stays open: the channel, too.
            resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (3, 1024))
            eventually(lambda: "Too many open files" in running.log())
            resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
            eventually(lambda: running.log().endswith("heartbeat\n"))
            host.until("x", "healthy")

    def test_a_stopped_agent_is_silent_and_does_not_catch_up(self, tmp_path: Path, channel: Path) -> None:
        with Running(tmp_path, config(channel, interval="50ms")) as running, Host(channel) as host:
            host.beat()
            running.process.send_signal(signal.SIGSTOP)
            host.socket.settimeout(0.25)
            with pytest.raises(TimeoutError):  # noqa: PT012  # what was under way still comes
                while host.socket.recv(4096):
                    pass
            host.socket.settimeout(DEADLINE_S)
            began = time.monotonic()
            running.process.send_signal(signal.SIGCONT)
            received = b""
            while received.count(b"\n") < 5:
                received += host.socket.recv(4096)
            assert time.monotonic() - began > 0.1


class TestUnixChannel:
    def test_only_root_may_connect(self, tmp_path: Path, channel: Path) -> None:
        with Running(tmp_path, config(channel)), Host(channel):
            assert channel.stat().st_mode & 0o777 == 0o600

    def test_a_host_that_does_not_read_gets_one_old_beat_at_most(self, tmp_path: Path, channel: Path) -> None:
        state = tmp_path / "state"
        with Running(tmp_path, config(channel, file_check(state))) as running, Host(channel) as host:
            host.until("file", "failed")
            state.touch()
            eventually(lambda: "file: healthy" in running.log())
            beats = [host.beat() for _ in range(3)]
            # At most one was waiting, and the one that was being read.
            assert beats[-1]["checks"]["file"]["state"] == "healthy"
            assert [beat["seq"] - beats[0]["seq"] for beat in beats] == [0, 1, 2]

    def test_reconnecting(self, tmp_path: Path, channel: Path) -> None:
        with Running(tmp_path, config(channel)):
            with Host(channel) as host:
                first = host.beat()
            with Host(channel) as host:
                second = host.beat()
            assert second["run"] == first["run"]
            assert second["seq"] > first["seq"]

    def test_the_newest_host_gets_the_beats(self, tmp_path: Path, channel: Path) -> None:
        with Running(tmp_path, config(channel)), Host(channel) as old:
            old.beat()
            with Host(channel) as new:
                new.beat()
                eventually(lambda: old.line() == b"", "the old one to be let go")

    def test_a_crowd(self, tmp_path: Path, channel: Path) -> None:
        with Running(tmp_path, config(channel)) as running:
            for _ in range(30):
                with Host(channel) as host:
                    host.socket.sendall(b"hello")
            with Host(channel) as host:
                host.beat()
            assert len(list(Path(f"/proc/{running.process.pid}/fd").iterdir())) < 10

    def test_what_the_host_says_is_thrown_away_at_a_bounded_rate(self, tmp_path: Path, channel: Path) -> None:
        with Running(tmp_path, config(channel, interval="20ms")) as running, Host(channel) as host:
            first = host.beat()["seq"]
            host.socket.setblocking(False)
            flood = b'{"v":1}\n' * 8192
            accepted = 0
            received = b""
            while received.count(b"\n") < 25:
                readable, writable, _ = select.select([host.socket], [host.socket], [], DEADLINE_S)
                if writable:
                    accepted += host.socket.send(flood)
                if readable:
                    received += host.socket.recv(65536)
            assert json.loads(received.splitlines()[-2])["seq"] >= first + 20
            assert accepted < 40 * agent.MAX_INPUT + 1_000_000  # what the kernel buffers
            assert running.process.poll() is None

    def test_a_socket_that_somebody_removed(self, tmp_path: Path, channel: Path) -> None:
        with Running(tmp_path, config(channel)):
            with Host(channel) as host:
                host.beat()
            channel.unlink()
            with Host(channel) as host:
                host.beat()

    def test_a_socket_that_a_dead_agent_left(self, tmp_path: Path, channel: Path) -> None:
        serve(channel).close()
        with Running(tmp_path, config(channel)), Host(channel) as host:
            host.beat()

    def test_what_is_not_a_socket_is_not_removed(self, tmp_path: Path, channel: Path) -> None:
        channel.write_text("precious", encoding="ascii")
        with Running(tmp_path, config(channel)) as running:
            eventually(lambda: "Address already in use" in running.log())
            assert channel.read_text(encoding="ascii") == "precious"
            channel.unlink()
            with Host(channel) as host:
                host.beat()

    def test_a_folder_that_is_not_there_yet(self, tmp_path: Path) -> None:
        channel = tmp_path / "later" / "channel"
        with Running(tmp_path, config(channel)) as running:
            eventually(lambda: "No such file" in running.log())
            channel.parent.mkdir()
            with Host(channel) as host:
                host.beat()


class TestDevice:
    """A terminal is the character device that a test can make; like virtio-serial, it takes no more than fits."""

    @pytest.fixture
    def terminal(self) -> Iterator[tuple[int, str]]:
        host, device = os.openpty()
        tty.setraw(device)
        os.set_blocking(host, False)
        yield host, os.ttyname(device)
        os.close(host)
        os.close(device)

    def read(self, host: int) -> bytes:
        select.select([host], [], [], DEADLINE_S)
        return os.read(host, 65536)

    def test_beats(self, tmp_path: Path, terminal: tuple[int, str]) -> None:
        host, name = terminal
        with Running(tmp_path, f"[agent]\ninterval = 10ms\nchannel = {name}\n"):
            received = b""
            while received.count(b"\n") < 5:
                received += self.read(host)
            assert [json.loads(line)["seq"] for line in received.splitlines()[:5]] == [1, 2, 3, 4, 5]

    def test_a_line_that_was_begun_is_finished_before_the_next(self, tmp_path: Path, terminal: tuple[int, str]) -> None:
        host, name = terminal
        checks = [f"[check {'c' * 29}{number:02}]\nfile = /x\nfresher_than = 1s\n" for number in range(32)]
        with Running(tmp_path, f"[agent]\ninterval = 10ms\nchannel = {name}\n" + "\n".join(checks)) as running:
            eventually(lambda: "open" in running.log())
            full = self.settled(running.process.pid)
            received = b""
            while received.count(b"\n") < 12:
                received += self.read(host)
            lines = received.splitlines(keepends=True)[:12]
            assert any(line.startswith(b"{") for line in lines)
            assert [json.loads(line)["seq"] for line in lines] == list(range(1, 13))
            assert full

    def settled(self, pid: int) -> bool:
        """Wait until the agent's writes fail, or at least for so many beats that they must."""
        before = -1
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            written = int(re.search(r"wchar: (\d+)", Path(f"/proc/{pid}/io").read_text(encoding="ascii"))[1])  # type: ignore[index]
            if written == before:
                return True
            before = written
            select.select([], [], [], 0.1)
        return False

    def test_a_device_that_comes_later(self, tmp_path: Path, terminal: tuple[int, str]) -> None:
        host, name = terminal
        link = tmp_path / "port"
        with Running(tmp_path, f"[agent]\ninterval = 10ms\nchannel = {link}\n") as running:
            eventually(lambda: "No such file" in running.log())
            link.symlink_to(name)
            assert json.loads(self.read(host).splitlines()[0])["seq"] == 1

    def test_a_device_that_goes_and_comes_back(self, tmp_path: Path) -> None:
        link = tmp_path / "port"
        with Running(tmp_path, f"[agent]\ninterval = 10ms\nchannel = {link}\n"):
            seen = 0
            for _ in range(2):
                host, device = os.openpty()
                tty.setraw(device)
                link.symlink_to(os.ttyname(device))
                seq = json.loads(self.read(host).splitlines()[0])["seq"]
                assert seq > seen
                seen = seq
                link.unlink()
                os.close(host)
                os.close(device)

    @pytest.mark.parametrize("make", [Path.touch, os.mkfifo])
    def test_what_is_not_a_device_is_not_written_to(self, tmp_path: Path, make: Any) -> None:
        path = tmp_path / "port"
        make(path)
        with Running(tmp_path, f"[agent]\ninterval = 10ms\nchannel = {path}\n") as running:
            eventually(lambda: "not a character device" in running.log())
            assert path.stat().st_size == 0


class TestVsock:
    def test_only_the_host_may_connect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not every machine has vsock, so its addresses are played here."""
        addresses = [(3, 1024), (1, 1024), (2, 1024)]
        pairs = [socket.socketpair() for _ in addresses]

        class FakeListener:
            def accept(self) -> tuple[socket.socket, tuple[int, int]]:
                if not addresses:
                    raise BlockingIOError
                return pairs[3 - len(addresses)][0], addresses.pop(0)

            def setblocking(self, flag: bool) -> None:
                assert not flag

            def close(self) -> None:
                pass

        channel = agent.VsockListener("5100", lambda _: None)
        monkeypatch.setattr(channel, "_listen", FakeListener)
        assert channel.send(b"beat\n")
        channel.close()
        for number, (near, far) in enumerate(pairs):
            assert far.recv(10) == (b"beat\n" if number == 2 else b"")
            near.close()
            far.close()

    def test_the_channel_of_that_name(self) -> None:
        assert isinstance(agent.open_channel("vsock:5100", lambda _: None), agent.VsockListener)


class TestWatchdog:
    def watchdog(self, tmp_path: Path, stop: str) -> tuple[Path, str]:
        device = tmp_path / "watchdog"
        device.touch()
        return device, f"watchdog = {device}\nwatchdog_stop = {stop}\n"

    @pytest.mark.parametrize(("stop", "end"), [("keep", b"\0"), ("discard", b"V")])
    def test_petting_and_the_end(self, tmp_path: Path, channel: Path, stop: str, end: bytes) -> None:
        device, more = self.watchdog(tmp_path, stop)
        with Running(tmp_path, config(channel, more=more)) as running:
            eventually(lambda: device.read_bytes() == b"\0")
            assert running.stop() == 0
        assert device.read_bytes()[-1:] == end

    def test_it_is_not_armed_before_checks_run(self, tmp_path: Path, channel: Path) -> None:
        device, more = self.watchdog(tmp_path, "keep")
        hung = HANG.format(socket=tmp_path / "hung")
        with serve(tmp_path / "hung"), Running(tmp_path, config(channel, hung, more=more)) as running:
            eventually(lambda: "no heartbeat" in running.log())
            assert running.stop() == 0
        assert device.read_bytes() == b""

    def test_each_second_while_checks_run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """By a clock of the test's own: what comes round in three seconds."""
        path = tmp_path / "agent.conf"
        device, more = self.watchdog(tmp_path, "keep")
        path.write_text(config(tmp_path / "c", interval="100ms", more=more), encoding="ascii")
        lines: list[str] = []
        made = agent.Agent(agent.load(str(path)), lines.append)
        now = 1000.0
        sleeps = 0

        def wait(_read: object, _write: object, _other: object, seconds: float) -> tuple[bool]:
            nonlocal now, sleeps
            now += seconds
            sleeps += 1
            return (now > 1003.05,)

        with monkeypatch.context() as patch:
            patch.setattr(agent.time, "monotonic", lambda: now)
            patch.setattr(agent.select, "select", wait)
            made.run(-1)
        made.stop()
        assert device.read_bytes() == bytes(4)
        assert 31 <= sleeps <= 35  # sums of floats

    @pytest.mark.long
    def test_a_fifo_whose_reader_comes_later(self, tmp_path: Path, channel: Path) -> None:
        device = tmp_path / "watchdog"
        os.mkfifo(device)
        with Running(tmp_path, config(channel, more=f"watchdog = {device}\n")) as running:
            eventually(lambda: "No such device" in running.log())
            reader = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
            eventually(lambda: "watchdog: armed" in running.log())
            os.close(reader)
            with Host(channel) as host:
                host.beat()


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signals_end_it_cleanly(self, tmp_path: Path, channel: Path, number: signal.Signals) -> None:
        with Running(tmp_path, config(channel, interval="60s")) as running, Host(channel):
            running.process.send_signal(number)
            assert running.process.wait(DEADLINE_S) == 0
            assert not channel.exists()
            assert "Traceback" not in running.log()

    def test_so_they_do_where_it_was_started_deaf_to_them(self, tmp_path: Path, channel: Path) -> None:
        told = tmp_path / "told"
        check = f"[check x]\ncommand = sh -c 'grep -e SigBlk -e SigIgn /proc/self/status > \"{told}\"; exit 3'\n"
        with Running(tmp_path, config(channel, check), prefix=UNKINDLY) as running, Host(channel) as host:
            assert "3" in host.until("x", "failed")["checks"]["x"]["reason"]
            # Its programs have the defaults of those that end one: signals 1 to 15 but for SIGUSR1, that is 10.
            blocked, ignored = (int(line.split()[1], 16) for line in told.read_text(encoding="ascii").splitlines())
            assert (blocked, ignored & 0b111110111111111) == (0, 0)
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(DEADLINE_S) == 0

    @pytest.mark.long
    def test_its_last_beat_says_so(self, tmp_path: Path, channel: Path) -> None:
        with Running(tmp_path, config(channel, interval="1s")) as running, Host(channel) as host:
            first = host.beat()
            assert "stopping" not in first
            running.process.send_signal(signal.SIGTERM)
            last = host.beat()
            assert last["stopping"] is True
            assert last["seq"] == first["seq"] + 1
            assert last.keys() - first.keys() == {"stopping"}

    def test_checks_that_hang_do_not_keep_it(self, tmp_path: Path, channel: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        checks = [
            f"[check fifo]\nprocess = {fifo}\ntimeout = 10ms\n",
            "[check command]\ncommand = sleep 60\ntimeout = 60s\n",
        ]
        with Running(tmp_path, config(channel, *checks)) as running:
            (child,) = eventually(lambda: children_of(running.process.pid), "the command to start")
            assert running.stop() == 0
            eventually(lambda: not alive(child))

    def test_nobody_reads_its_log(self, tmp_path: Path, channel: Path) -> None:
        """A log that nobody reads must not stop the heartbeat."""
        reader, writer = os.pipe()
        size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(writer, False)
        assert os.write(writer, bytes(size)) == size
        os.set_blocking(writer, True)
        flapping = tmp_path / "flapping"
        with Running(tmp_path, config(channel, file_check(flapping)), stderr=writer), Host(channel) as host:
            for _ in range(3):
                host.until("file", "failed")
                flapping.touch()
                host.until("file", "healthy")
                flapping.unlink()
        os.close(reader)
        os.close(writer)

    def test_it_logs_changes_only(self, tmp_path: Path, channel: Path) -> None:
        state = tmp_path / "state"
        with Running(tmp_path, config(channel, file_check(state))) as running, Host(channel) as host:
            for _ in range(2):
                host.until("file", "failed")
                state.touch()
                host.until("file", "healthy")
                state.unlink()
            log = running.log()
        assert [line.split(": ")[1:3] for line in log.splitlines() if ": file: " in line][:4] == [
            ["file", "failed"],
            ["file", "healthy"],
        ] * 2 or log.count("file: ") == 5


def test_memory(tmp_path: Path, channel: Path) -> None:
    """Bytes of its own and of this Python; a Python of one's own build may be far bigger than Debian's."""
    checks = [file_check(tmp_path).replace("file]", f"f{number}]") for number in range(5)]
    with Running(tmp_path, config(channel, *checks)) as running, Host(channel) as host:
        host.beat()
        status = Path(f"/proc/{running.process.pid}/status").read_text(encoding="ascii")
        anonymous_kib = int(re.search(r"RssAnon:\s+(\d+)", status)[1])  # type: ignore[index]
        assert anonymous_kib < 9_000
