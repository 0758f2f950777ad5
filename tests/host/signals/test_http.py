"""A web server as a signal: real ones on loopback, most of them bad."""

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ears import Ears, running, until
from processes import PATIENCE_S

from reconciler.appliance.declared import Http
from reconciler.health.signal import HealthState, Reading
from reconciler.host.signals import http
from reconciler.host.signals.http import HttpGatherer, target

LONG_MS = 20_000
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def says(answer: bytes, heard: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if heard is not None:
            heard.append(request)
        writer.write(answer)
        await writer.drain()
        writer.close()

    return serve


def ask(
    serve: Serve,
    path: str = "/health",
    *,
    status: int = 200,
    timeout_ms: int = LONG_MS,
    scheme: str = "http",
    server: ssl.SSLContext | None = None,
    client: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> Reading:
    async def scene() -> Reading:
        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                pass
            finally:
                writer.transport.abort()

        listener = await asyncio.start_server(guarded, host, 0, ssl=server)
        port = listener.sockets[0].getsockname()[1]
        ears = Ears()
        shown = f"[{host}]" if ":" in host else host
        gatherer = HttpGatherer("web", Http(f"{scheme}://{shown}:{port}{path}", status, LONG_MS, timeout_ms), ears)
        gatherer._tls = client
        async with listener, running(gatherer):
            return (await ears.hear(1))[0]

    return asyncio.run(scene())


def get(url: str, timeout_ms: int = LONG_MS) -> Reading:
    async def scene() -> Reading:
        ears = Ears()
        async with running(HttpGatherer("web", Http(url, 200, LONG_MS, timeout_ms), ears)):
            return (await ears.hear(1))[0]

    return asyncio.run(scene())


def test_the_expected_status_is_healthy() -> None:
    heard: list[bytes] = []
    assert ask(says(OK, heard), "/a/b?c=d&e") == Reading("web", HealthState.HEALTHY, "status 200")
    lines = heard[0].decode().split("\r\n")
    assert lines[0] == "GET /a/b?c=d&e HTTP/1.1"
    assert lines[1].startswith("Host: 127.0.0.1:")
    assert "Connection: close" in lines


@pytest.mark.parametrize("status", [204, 301, 401, 418, 503])
def test_any_status_may_be_the_expected_one(status: int) -> None:
    answer = f"HTTP/1.0 {status} Whatever\r\n\r\n".encode()
    assert ask(says(answer), status=status).state is HealthState.HEALTHY
    assert ask(says(answer)) == Reading("web", HealthState.FAILED, f"status {status} instead of 200")


def test_no_redirect_is_followed() -> None:
    asked: list[bytes] = []
    answer = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    assert ask(says(answer, asked)).reason == "status 302 instead of 200"
    assert len(asked) == 1


def test_interim_answers_are_passed_over() -> None:
    assert ask(says(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK)).state is HealthState.HEALTHY


def test_a_status_line_without_a_phrase_is_one() -> None:
    assert ask(says(b"HTTP/1.1 200\r\n\r\n")).state is HealthState.HEALTHY


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"HTTP/1.1",
        b"HTTP/1.1 \r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 20 OK\r\n",
        b"HTTP/1.1 -200 OK\r\n",
        b"HTTP/1.1 099 OK\r\n",
        b"HTTP/1.1 600 OK\r\n",
        b"HTTP/2 200 OK\r\n",
        b"ICY 200 OK\r\n",
        b"200 OK\r\n",
        "HTTP/1.1 ２００ OK\r\n".encode(),
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"x" * 100_000 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * 1000 + b"\r\n" + OK,
    ],
)
def test_what_is_no_answer_has_failed(answer: bytes) -> None:
    assert ask(says(answer)).state is HealthState.FAILED


def test_a_body_without_end_is_not_read() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    assert ask(serve).state is HealthState.HEALTHY


async def _silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def _dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in OK * 100:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("serve", [_silent, _dripping])
def test_a_server_that_takes_its_time_has_failed(serve: Serve) -> None:
    began_s = time.monotonic()
    assert ask(serve, timeout_ms=100) == Reading("web", HealthState.FAILED, "no answer within 0.1 s")
    assert time.monotonic() - began_s < 5


def test_a_server_that_accepts_nobody_has_failed() -> None:
    """The queue of connections is full: the kernel does not even answer."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        reading = get(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout_ms=100)
    assert reading.state is HealthState.FAILED


def test_nobody_there_has_failed() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        reading = get(f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert reading == Reading("web", HealthState.FAILED, "Connection refused")


def test_a_name_without_an_address_says_nothing_of_the_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(http.socket, "getaddrinfo", look_up)
    reading = get("http://vm.invalid/")
    assert reading == Reading("web", HealthState.ABSENT, "vm.invalid has no address: Name or service not known")


def test_a_name_server_that_hangs_does_not_hang_us(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = socket.getaddrinfo

    def look_up(host: str, port: int, *, flags: int = 0, **more: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return genuine(host, port, flags=flags, **more)
        time.sleep(0.5)
        return []

    monkeypatch.setattr(http.socket, "getaddrinfo", look_up)
    began_s = time.monotonic()
    assert get("http://vm.invalid/", timeout_ms=50).state is HealthState.FAILED
    assert time.monotonic() - began_s < 0.45


def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = socket.getaddrinfo

    def look_up(host: str, port: int, *, flags: int = 0, **more: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return genuine(host, port, flags=flags, **more)
        return [*genuine("127.9.9.9", port, **more), *genuine("127.0.0.1", port, **more)]

    monkeypatch.setattr(http.socket, "getaddrinfo", look_up)

    async def scene() -> None:
        ears = Ears()
        listener = await asyncio.start_server(says(OK), "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with listener, running(HttpGatherer("web", Http(f"http://vm:{port}/", 200, LONG_MS, LONG_MS), ears)):
            assert (await ears.hear(1))[0].state is HealthState.HEALTHY

    asyncio.run(scene())


def test_no_route_says_nothing_of_the_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(HttpGatherer, "_connection", refuse)
    assert get("http://192.0.2.1/") == Reading("web", HealthState.ABSENT, "Network is unreachable")


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    assert ask(says(OK)).state is HealthState.HEALTHY


def test_ipv6_is_asked_in_brackets() -> None:
    heard: list[bytes] = []
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        assert target("http://[::1]:8080/").request.split(b"\r\n")[1] == b"Host: [::1]:8080"
        return
    assert ask(says(OK, heard), host="::1").state is HealthState.HEALTHY
    assert b"Host: [::1]:" in heard[0]


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@vm/",
        "http://user@vm/",
        "http:///x",
        "http://vm:0/",
        "http://vm:99999/",
        "http://vm:x/",
        "http://[::1/",
    ],
)
def test_a_url_that_cannot_be_asked_says_so(url: str) -> None:
    reading = get(url)
    assert reading.state is HealthState.ABSENT
    assert reading.reason.startswith(url)


@pytest.mark.parametrize(
    ("url", "port", "first", "host"),
    [
        ("http://vm", 80, b"GET / HTTP/1.1", b"Host: vm"),
        ("https://vm?x=1#y", 443, b"GET /?x=1 HTTP/1.1", b"Host: vm"),
        ("http://VM:8080/%20", 8080, b"GET /%20 HTTP/1.1", b"Host: vm:8080"),
        ("http://[fe80::1%25eth0]/", 80, b"GET / HTTP/1.1", b"Host: [fe80::1]"),
    ],
)
def test_a_url_is_taken_apart(url: str, port: int, first: bytes, host: bytes) -> None:
    wanted = target(url)
    assert (wanted.port, *wanted.request.split(b"\r\n")[:2]) == (port, first, host)


def test_it_is_asked_again_and_leaves_nothing_open() -> None:
    async def scene() -> None:
        ears = Ears()
        listener = await asyncio.start_server(says(OK), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        async with listener, running(HttpGatherer("web", Http(url, 200, 2, LONG_MS), ears)):
            assert {reading.state for reading in await ears.hear(20)} == {HealthState.HEALTHY}
        await until(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(scene(), debug=True)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody has signed but itself."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=vm", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(file), "-out", f"{file}.crt"),
        ],
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    with file.open("a") as both:
        both.write(Path(f"{file}.crt").read_text())
    return file


def _server(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_certificate_that_is_trusted(certificate: Path) -> None:
    client = ssl.create_default_context(cafile=str(certificate))
    assert ask(says(OK), scheme="https", server=_server(certificate), client=client).state is HealthState.HEALTHY


def test_a_certificate_that_nobody_trusts_has_failed(certificate: Path) -> None:
    reading = ask(says(OK), scheme="https", server=_server(certificate))
    assert reading.state is HealthState.FAILED
    assert reading.reason.startswith("TLS: self")


def test_a_certificate_for_somebody_else_has_failed(certificate: Path) -> None:
    client = ssl.create_default_context(cafile=str(certificate))
    reading = ask(says(OK), scheme="https", server=_server(certificate), client=client, host="127.0.0.2")
    assert reading.state is HealthState.FAILED
    assert "127.0.0.2" in reading.reason


def test_no_tls_where_tls_is_asked_for_has_failed() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()

    reading = ask(serve, scheme="https", client=ssl.create_default_context())
    assert reading.state is HealthState.FAILED
    assert reading.reason.startswith("TLS: ")


def test_a_handshake_that_hangs_has_failed() -> None:
    reading = ask(_silent, scheme="https", client=ssl.create_default_context(), timeout_ms=100)
    assert reading == Reading("web", HealthState.FAILED, "no answer within 0.1 s")
