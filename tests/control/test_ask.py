"""Asking a daemon that is not there, or is not what it should be: a sentence, in bounded time."""

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
from processes import PATIENCE_S

from reconciler.control import ask as asking
from reconciler.control import client
from reconciler.control.ask import HungError, NoDaemonError, ask, digest, running, socket_of
from reconciler.errors import HostError, TransientError

Serve = Callable[[socket.socket], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(tmp_path))
    monkeypatch.setattr(asking, "_TIMEOUT_S", 0.5)
    return tmp_path


class Impostor:
    """Listens as a daemon does, and does with each who asks what it is told to do."""

    def __init__(self, path: Path, serve: Serve) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._serve, self._over = serve, False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over:
            channel, _ = self._listener.accept()
            with channel:
                if not self._over:
                    channel.settimeout(5)
                    try:
                        self._serve(channel)
                    except OSError:
                        continue

    def close(self) -> None:
        self._over = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.connect(self._listener.getsockname())
        self._thread.join(PATIENCE_S)
        self._listener.close()


@pytest.fixture
def impostor(folder: Path) -> Iterator[Callable[[Serve], Path]]:
    made: list[Impostor] = []

    def make(serve: Serve, sku: str = "two") -> Path:
        made.append(Impostor(socket_of(folder, sku), serve))
        return socket_of(folder, sku)

    yield make
    for one in made:
        one.close()


def saying(data: bytes) -> Serve:
    def serve(channel: socket.socket) -> None:
        channel.recv(1 << 16)
        channel.sendall(data)

    return serve


def answering(**answer: Any) -> Serve:
    return saying(json.dumps(answer).encode() + b"\n")


def test_an_answer_is_what_was_said_less_that_it_is_one(impostor: Any) -> None:
    assert ask(impostor(answering(ok=True, a=[1])), do="x") == {"a": [1]}


def test_the_request_is_one_line_of_json(impostor: Any) -> None:
    heard: list[bytes] = []

    def serve(channel: socket.socket) -> None:
        heard.append(channel.recv(1 << 16))
        channel.sendall(b'{"ok": true}\n')

    ask(impostor(serve), do="hold", reason="ü\n")
    assert heard[0].count(b"\n") == 1
    assert json.loads(heard[0]) == {"do": "hold", "reason": "ü\n"}


def test_a_refusal_is_the_daemons_words(impostor: Any) -> None:
    with pytest.raises(HostError, match=r"^not today$"):
        ask(impostor(answering(ok=False, error="not today")), do="x")


@pytest.mark.parametrize("what", ["nothing", "a file", "a folder", "a dead socket"])
def test_without_a_daemon_it_says_how_to_start_one(folder: Path, what: str) -> None:
    path = socket_of(folder, "two")
    if what == "a file":
        path.write_text("")
    elif what == "a folder":
        path.mkdir()
    elif what == "a dead socket":
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.bind(str(path))
    with pytest.raises(NoDaemonError, match=r"no daemon answers at .*two\.sock: .*; start it: reconcile run"):
        ask(path, do="x")


def test_a_path_that_is_too_long_for_a_socket(folder: Path) -> None:
    with pytest.raises(NoDaemonError):
        ask(folder / ("x" * 200), do="x")


def test_a_hung_daemon_is_told_within_the_time(impostor: Any) -> None:
    over = threading.Event()
    path = impostor(lambda _: over.wait(5) and None)
    began = time.monotonic()
    with pytest.raises(TransientError, match="is it hung"):
        ask(path, do="x")
    over.set()
    assert time.monotonic() - began < 3


def test_a_daemon_that_does_not_even_accept_is_told_within_the_time(folder: Path) -> None:
    path = socket_of(folder, "two")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(0)
        listener.settimeout(PATIENCE_S)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(path))
            began = time.monotonic()
            with pytest.raises(TransientError, match="is it hung"):
                ask(path, do="x")
            assert time.monotonic() - began < 3


LISTENER = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind(sys.argv[1])
listener.listen(8)
print("listens", flush=True)
{then}
"""


@pytest.fixture
def daemons(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], tuple[Path, Any]]]:
    """Processes that listen as daemons do, and then do something else."""
    monkeypatch.setattr(asking, "_TIMEOUT_S", 15.0)
    begun: list[subprocess.Popen[str]] = []

    def begin(then: str) -> tuple[Path, Any]:
        path = socket_of(folder, f"d{len(begun)}")
        words = [sys.executable, "-c", LISTENER.format(then=then), str(path)]
        begun.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert begun[-1].stdout is not None
        assert begun[-1].stdout.readline() == "listens\n"
        return path, begun[-1]

    yield begin
    for one in begun:
        one.kill()
        one.communicate(timeout=PATIENCE_S)


SLEEPS = "time.sleep(3600)"


@pytest.mark.parametrize("verb", ["status", "audit", "hold"])
def test_a_daemon_that_was_stopped_costs_a_second(daemons: Any, verb: str) -> None:
    path, process = daemons(SLEEPS)
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(HungError, match=rf"the daemon \(pid {process.pid}\) does not answer: it was stopped"):
        ask(path, do=verb)
    assert 1.0 <= time.monotonic() - began < 8


def test_a_daemon_that_hangs_costs_a_second(daemons: Any) -> None:
    path, process = daemons(SLEEPS)
    began = time.monotonic()
    with pytest.raises(HungError, match=rf"the daemon \(pid {process.pid}\) does not answer: it hangs"):
        ask(path, do="status")
    assert 1.0 <= time.monotonic() - began < 8


@pytest.mark.parametrize(
    "busy", ["while time.monotonic() < end: pass", "while time.monotonic() < end: time.sleep(0.01)"]
)
def test_a_daemon_that_is_busy_is_waited_for(daemons: Any, busy: str) -> None:
    answer = 'channel = listener.accept()[0]; channel.recv(100); channel.sendall(b\'{"ok": true, "late": 1}\\n\')'
    path, _ = daemons(f"end = time.monotonic() + 2.5\n{busy}\n{answer}\n{SLEEPS}")
    assert ask(path, do="status") == {"late": 1}


def test_one_that_has_to_wait_for_the_disk_itself_does_not_hang(daemons: Any) -> None:
    answer = "channel = listener.accept()[0]; channel.recv(100); time.sleep(2.5); channel.sendall(b'{\"ok\": true}\\n')"
    path, _ = daemons(f"{answer}\n{SLEEPS}")
    assert ask(path, do="hold") == {}


def test_a_daemon_that_is_busy_for_ever_is_not_waited_for_as_long(
    daemons: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_AT_ONCE_S", 1.5)
    path, _ = daemons("while True: pass")
    with pytest.raises(HungError, match=r"not within 1\.5 s; is it hung"):
        ask(path, do="status")


def test_a_stopped_daemon_is_waited_for_once(daemons: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path, process = daemons(SLEEPS)
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert client.answer(b"file", dry_run=True, output="text") is None
    assert client.choice(path.stem, dry_run=True) is None
    assert "the default counts: the daemon (pid" in capsys.readouterr().err
    with pytest.raises(HungError):
        client.check_free(path.stem, dry_run=False, topologies=())
    assert 1.0 <= time.monotonic() - began < 8


def test_one_that_was_busy_for_a_moment_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_TIMEOUT_S", 5.0)
    path = socket_of(folder, "two")
    answers: list[Any] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(0)
        listener.settimeout(PATIENCE_S)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(path))
            waiting = threading.Thread(target=lambda: answers.append(ask(path, do="x")))
            waiting.start()
            listener.accept()[0].close()
            channel, _ = listener.accept()
            with channel:
                channel.recv(100)
                channel.sendall(b'{"ok": true, "late": 1}\n')
            waiting.join(PATIENCE_S)
    assert answers == [{"late": 1}]


def test_an_answer_that_drips_does_not_last_for_ever(impostor: Any) -> None:
    over = threading.Event()

    def serve(channel: socket.socket) -> None:
        while not over.wait(0.1):
            channel.sendall(b" ")

    path = impostor(serve)
    began = time.monotonic()
    with pytest.raises(TransientError):
        ask(path, do="x")
    over.set()
    assert time.monotonic() - began < 3


def test_an_answer_without_end_is_not_kept(impostor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_MAX_ANSWER", 1 << 20)

    def serve(channel: socket.socket) -> None:
        while True:
            channel.sendall(b"x" * 65_536)

    with pytest.raises(TransientError):
        ask(impostor(serve), do="x")


@pytest.mark.parametrize("data", [b"", b"{", b'{"ok": true', b"\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_half_an_answer_is_a_daemon_that_ended(impostor: Any, data: bytes) -> None:
    with pytest.raises(TransientError, match="the daemon ended while it answered"):
        ask(impostor(saying(data)), do="x")


@pytest.mark.parametrize("data", [b"[]\n", b"null\n", b"7\n", b'"ok"\n'])
def test_an_answer_that_is_none_of_ours(impostor: Any, data: bytes) -> None:
    with pytest.raises(HostError, match="is no daemon of ours"):
        ask(impostor(saying(data)), do="x")


def test_a_daemon_that_refuses_before_it_has_heard_all_is_understood(impostor: Any) -> None:
    def serve(channel: socket.socket) -> None:
        channel.sendall(b'{"ok": false, "error": "too long"}\n')

    with pytest.raises(HostError, match="too long"):
        ask(impostor(serve), do="x", reason="x" * 5_000_000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_socket_that_is_for_others_says_for_whom(impostor: Any) -> None:
    path = impostor(answering(ok=True))
    path.chmod(0)
    with pytest.raises(HostError, match="be root, or of the group"):
        ask(path, do="x")


# --- the command line's questions ------------------------------------------------------------------------------------


def test_sockets_and_nothing_else_are_daemons(folder: Path) -> None:
    for name in ("b.sock", "a.sock", "a.lock", "x"):
        (folder / name).write_text("")
    assert [path.name for path in running(folder)] == ["a.sock", "b.sock"]
    assert list(running(folder / "no")) == []
    assert list(running(folder / "x")) == []


def test_nobody_to_ask_is_no_answer_and_no_error(folder: Path) -> None:
    socket_of(folder, "dead").write_text("")
    assert client.answer(b"file", dry_run=True, output="text") is None
    assert client.choice("two", dry_run=False) is None
    client.check_free("two", dry_run=False, topologies=())


@pytest.mark.parametrize(
    ("told", "dry_run", "status"),
    [
        ({"changes": 0, "problems": 0}, True, 0),
        ({"changes": 2, "problems": 0}, True, 3),
        ({"changes": 2, "problems": 1}, True, 1),
        ({"converged": True}, False, 0),
        ({"converged": False}, False, 1),
    ],
)
def test_what_the_daemon_found_is_printed_and_becomes_the_exit_status(
    impostor: Any, capsys: pytest.CaptureFixture[str], told: dict[str, Any], dry_run: bool, status: int
) -> None:
    impostor(answering(ok=True, mine=True, lines=[["good", False], ["bad", True]], **told))
    assert client.answer(b"file", dry_run=dry_run, output="text") == status
    assert capsys.readouterr() == ("good\n", "bad\n")


def test_json_is_printed_as_it_is(impostor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    impostor(answering(ok=True, mine=True, json={"a": 1}, changes=0, problems=0))
    assert client.answer(b"file", dry_run=True, output="json") == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_of_several_the_one_that_keeps_this_file_answers(impostor: Any) -> None:
    asked: list[Any] = []

    def other(channel: socket.socket) -> None:
        asked.append(json.loads(channel.recv(1 << 16)))
        channel.sendall(b'{"ok": true, "mine": false}\n')

    impostor(other, "a")
    impostor(answering(ok=True, mine=True, lines=[], changes=1, problems=0), "b")
    assert client.answer(b"file", dry_run=True, output="text") == 3
    assert asked == [{"do": "audit", "digest": digest(b"file"), "output": "text"}]


def test_applying_what_a_daemon_keeps_is_refused(impostor: Any) -> None:
    impostor(answering(ok=True, choice={"wire": "bypass"}))
    assert client.choice("two", dry_run=False) == {"wire": "bypass"}
    client.check_free("two", dry_run=True, topologies=())
    with pytest.raises(HostError, match="reconcile reload"):
        client.check_free("two", dry_run=False, topologies=())
    with pytest.raises(HostError, match="reconcile hold edge=bypass --for 30m"):
        client.check_free("two", dry_run=False, topologies=("edge=bypass",))


@pytest.mark.usefixtures("folder")
def test_which_daemon_is_meant(impostor: Any) -> None:
    with pytest.raises(NoDaemonError, match="start one: reconcile run"):
        client.daemon_of(None)
    path = impostor(answering(ok=True), "one")
    assert client.daemon_of(None) == path
    impostor(answering(ok=True), "other")
    with pytest.raises(HostError, match=r"2 daemons run \(one, other\): say which with -f FILE"):
        client.daemon_of(None)
