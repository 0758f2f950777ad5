"""The control socket, with answers that are made up: who is heard, what is heard, and for how long."""

import asyncio
import grp
import io
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from reconciler.control import server as control
from reconciler.control.server import MAX_REQUEST, Control, Who
from reconciler.daemon.journal import Journal
from reconciler.errors import HostError, RequestError
from reconciler.host.names import login_of, person

Client = Callable[[Path], Coroutine[Any, Any, None]]


async def echo(request: dict[str, Any], who: Who) -> dict[str, Any]:
    if request.get("do") == "refuse":
        raise RequestError("not this")
    return {"heard": request, "user": await who()}


def served(
    path: Path,
    client: Client,
    *,
    answer: Any = echo,
    group: str | None = None,
    told: io.StringIO | None = None,
) -> list[Any]:
    """Have a client meet the socket; what the loop was told of as unhandled is returned, and should be nothing."""
    mishaps: list[Any] = []

    async def meet() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: mishaps.append(context))
        listening = Control(path, group, answer, Journal(told or io.StringIO(), as_json=True))
        await listening.find_group()
        await listening.open()
        try:
            await client(path)
        finally:
            await listening.close()

    asyncio.run(meet())
    return mishaps


async def said(path: Path, data: bytes, *, eof: bool = True) -> Any:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(data)
        if eof:
            writer.write_eof()
        return json.loads(await reader.readuntil(b"\n"))
    finally:
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it waits for ever"
        await asyncio.sleep(0.001)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _mode(path: Path) -> tuple[int, int]:
    return path.stat().st_mode & 0o777, path.stat().st_gid


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.sock"


def test_a_line_of_json_is_answered_by_one(path: Path) -> None:
    async def client(path: Path) -> None:
        me = person(os.geteuid(), login_of(os.getpid()))
        assert await said(path, b'{"do": "x"}\n') == {"ok": True, "heard": {"do": "x"}, "user": me}
        assert await said(path, b'{"do": "refuse"}\n') == {"ok": False, "error": "not this"}

    assert served(path, client) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"x\n",
        b"[]\n",
        b"null\n",
        b'"text"\n',
        b"7\n",
        b"\xff\xfe\n",
        b"\x00\n",
        b"{",
        b'{"do": "x"}',
        b"[" * 10_000 + b"\n",
        b'{"a":' * 3_000 + b"\n",
        b"9" * 10_000 + b"\n",
        b"x" * (MAX_REQUEST * 2) + b"\n",
        b"x" * 1_000_000,
    ],
    ids=lambda data: f"{data[:12]!a}-{len(data)}",
)
def test_whatever_else_is_sent_is_refused(path: Path, data: bytes) -> None:
    async def client(path: Path) -> None:
        try:
            answer = await said(path, data)
        except (OSError, ValueError, asyncio.IncompleteReadError):
            # It was too long to be read to its end, and we were told so while we still wrote.
            assert len(data) > MAX_REQUEST
        else:
            assert answer["ok"] is False
            assert answer["error"].startswith("a request is")
        assert (await said(path, b"{}\n"))["ok"]

    assert served(path, client) == []


def test_a_bug_in_an_answer_is_a_refusal_and_no_traceback(path: Path) -> None:
    async def broken(_: dict[str, Any], __: Who) -> dict[str, Any]:
        raise ZeroDivisionError("division by zero")

    async def client(path: Path) -> None:
        answer = await said(path, b"{}\n")
        assert answer == {"ok": False, "error": "internal error: ZeroDivisionError: division by zero"}

    told = io.StringIO()
    assert served(path, client, answer=broken, told=told) == []
    assert json.loads(told.getvalue())["text"].startswith("internal error in an answer: ZeroDivisionError")


def test_who_never_finishes_a_request_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PATIENCE_S", 0.1)

    async def client(path: Path) -> None:
        answer = await said(path, b'{"do"', eof=False)
        assert "sent at once" in answer["error"]

    assert served(path, client) == []


def test_who_never_reads_the_answer_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PATIENCE_S", 0.1)

    async def huge(_: dict[str, Any], __: Who) -> dict[str, Any]:
        return {"much": "x" * 4_000_000}

    async def client(path: Path) -> None:
        before = len(asyncio.all_tasks())
        descriptors = _descriptors()
        silent = []
        for _ in range(5):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.connect(str(path))
            one.sendall(b"{}\n")
            silent.append(one)
        await until(lambda: _descriptors() >= descriptors + 10)
        await until(lambda: _descriptors() <= descriptors + 5 and len(asyncio.all_tasks()) <= before)
        for one in silent:
            one.close()

    assert served(path, client, answer=huge) == []


def test_of_many_at_once_some_are_told_to_try_again_and_none_is_forgotten(path: Path) -> None:
    free = asyncio.Event()

    async def slow(_: dict[str, Any], __: Who) -> dict[str, Any]:
        await free.wait()
        return {}

    async def client(path: Path) -> None:
        asking = [asyncio.create_task(said(path, b"{}\n")) for _ in range(100)]
        done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assert done
        await until(lambda: sum(task.done() for task in asking) >= 100 - control._MAX_CLIENTS)
        free.set()
        answers = await asyncio.gather(*asking)
        assert sum(answer["ok"] for answer in answers) == control._MAX_CLIENTS
        assert {answer.get("error") for answer in answers if not answer["ok"]} == {
            "too many are asking at once; try again"
        }
        assert (await said(path, b"{}\n"))["ok"]

    assert served(path, client, answer=slow) == []


def test_who_hangs_up_in_the_middle_is_no_mishap(path: Path) -> None:
    async def client(path: Path) -> None:
        for data in (b"", b"{", b"{}\n"):
            for _ in range(20):
                _, writer = await asyncio.open_unix_connection(str(path))
                writer.write(data)
                writer.transport.abort()
        assert (await said(path, b"{}\n"))["ok"]

    assert served(path, client) == []


def test_thousands_of_random_requests(path: Path) -> None:
    chance = random.Random(4711)

    def request() -> bytes:
        match chance.randrange(4):
            case 0:
                return chance.randbytes(chance.choice([1, 10, 100, 5_000, 40_000]))
            case 1:
                return chance.randbytes(50).replace(b"\n", b"") + b"\n"
            case 2:
                line = bytearray(b'{"do": "status", "digest": "abc", "seconds": 1e9}\n')
                for _ in range(chance.randrange(4)):
                    line[chance.randrange(len(line))] = chance.randrange(256)
                return bytes(line)
            case _:
                return b'{"do": ' + json.dumps(chance.choice([None, 1, [], "x" * 99])).encode() + b"}\n"

    async def client(path: Path) -> None:
        for _ in range(200):
            batch = [said(path, request()) for _ in range(10)]
            for answer in await asyncio.gather(*batch, return_exceptions=True):
                assert isinstance(answer, dict | OSError | ValueError | EOFError), answer
        assert (await said(path, b"{}\n"))["ok"]

    assert served(path, client) == []


def test_the_socket_is_for_its_user_alone_and_gone_afterwards(path: Path) -> None:
    async def client(path: Path) -> None:
        assert _mode(path)[0] == 0o600

    path.write_text("left behind")
    served(path, client)
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to a group")
def test_a_group_is_let_in(path: Path) -> None:
    async def client(path: Path) -> None:
        assert _mode(path) == (0o660, grp.getgrnam("daemon").gr_gid)

    served(path, client, group="daemon")


def test_a_group_that_there_is_not_is_told_before_anything_is_done(path: Path) -> None:
    with pytest.raises(HostError, match="there is no group 'no-such'"):
        served(path, _nobody, group="no-such")
    assert not path.exists()


def test_a_place_where_no_socket_can_be_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "x.sock", tmp_path / ("x" * 200)):
        with pytest.raises(HostError, match="cannot make the control socket"):
            served(path, _nobody)


async def _nobody(_: Path) -> None:
    raise AssertionError


class Slow:
    """Names that are not told before `event` is set."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.event, self.asked = answer, threading.Event(), 0

    def __call__(self, *_: Any) -> Any:
        self.asked += 1
        assert self.event.wait(10)
        return self.answer


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_NAME_S", 0.05)


@pytest.mark.usefixtures("_impatient")
def test_a_name_that_is_slow_to_come_keeps_nobody_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Slow("somebody")
    monkeypatch.setattr(control, "person", names)
    monkeypatch.setattr(control, "_peer", lambda _: (os.getpid(), 4711))

    async def client(path: Path) -> None:
        # More than may wait for a name at once.
        for _ in range(6):
            assert (await said(path, b"{}\n"))["user"] == "uid 4711"
        assert names.asked == 4
        names.event.set()
        end = time.monotonic() + 10
        while (await said(path, b"{}\n"))["user"] != "somebody":
            assert time.monotonic() < end

    assert served(path, client) == []


def test_nobody_s_name_is_looked_up_who_only_asks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def short(_: dict[str, Any], __: Who) -> dict[str, Any]:
        return {}

    names = Slow("somebody")
    monkeypatch.setattr(control, "person", names)
    monkeypatch.setattr(control, "_peer", lambda _: (os.getpid(), 4711))

    async def client(path: Path) -> None:
        assert (await said(path, b"{}\n"))["ok"]

    assert served(path, client, answer=short) == []
    assert names.asked == 0


@pytest.mark.parametrize(
    ("uid", "login", "named"),
    [(0, None, "root"), (0, 0, "root"), (0, 1, "daemon as root"), (1, 1, "daemon"), (4711, 1, "daemon as uid 4711"), (1, 4711, "uid 4711 as daemon")],
)  # fmt: skip
def test_who_asks_is_who_logged_in_and_not_only_as_whom_they_act(
    path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, login: int | None, named: str
) -> None:
    monkeypatch.setattr(control, "_peer", lambda _: (os.getpid(), uid))
    monkeypatch.setattr(control, "login_of", lambda _: login)

    async def client(path: Path) -> None:
        assert (await said(path, b"{}\n"))["user"] == named

    assert served(path, client) == []


def test_who_logged_in_is_known_from_the_kernel(path: Path) -> None:
    code = "import os, sys; open('/proc/self/loginuid', 'w').write('1'); os.execvp(sys.argv[1], sys.argv[1:])"
    ask = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.send(b'{}\\n'); print(s.recv(4096).decode())"
    command = [sys.executable, "-c", code, sys.executable, "-c", ask, str(path)]

    async def client(_: Path) -> None:
        started = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, failure = await started.communicate()
        if b"Error" in failure:
            pytest.skip(f"the kernel keeps no login here: {failure.splitlines()[-1]!r}")
        assert json.loads(out)["user"] == "daemon as root"

    assert served(path, client) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to a group")
@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("number", [1, None])
def test_a_group_that_is_slow_to_come_is_let_in_when_it_is_known(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    groups, log = Slow(number), io.StringIO()
    monkeypatch.setattr(control, "group_number", groups)

    async def client(path: Path) -> None:
        assert _mode(path)[0] == 0o600
        assert told() == ["the group 'g' is not known yet; until it is, only root may ask and steer"]
        groups.event.set()
        await until(lambda: _mode(path) == (0o660, 1) or len(told()) == 2)

    def told() -> list[str]:
        return [json.loads(line)["text"] for line in log.getvalue().splitlines()]

    assert served(path, client, group="g", told=log) == []
    assert told()[1:] == ([] if number else ["there is no group 'g' that could ask and steer"])
