"""A web server in the VM: GET, and the status that is expected.

Only the status line is read: not the headers, not the body. No redirect is followed, no proxy asked, and one time limit
holds for everything, so that a server that drips its answer byte by byte has failed like any other.
"""

import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from reconciler.appliance.declared import Http
from reconciler.errors import ReconcilerError, TransientError
from reconciler.health.signal import HealthState, News, Reading
from reconciler.host.blocking import Workers
from reconciler.host.signals.schedule import poll

_MAX_LINE = 4096
_MAX_LINES = 64  # of interim answers (1xx) before the one that counts
_MAX_ADDRESSES = 4
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r\n]")
# What this host itself lacks says nothing of the VM.
_OURS = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EACCES, errno.EPERM)


class Target(NamedTuple):
    """A URL, taken apart."""

    tls: bool
    host: str
    port: int
    request: bytes


def target(url: str) -> Target:
    """What to ask whom.

    Raises:
        TransientError: the URL names no host, a port that is none, or holds a password.

    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise TransientError(f"{url}: {error}") from None
    if not parts.hostname or parts.username is not None or parts.password is not None or port == 0:
        raise TransientError(f"{url}: neither user nor password can be part of it, and a host must be")
    host = f"[{parts.hostname.partition('%')[0]}]" if ":" in parts.hostname else parts.hostname
    lines = (
        f"GET {parts.path or '/'}{'?' if parts.query else ''}{parts.query} HTTP/1.1",
        f"Host: {host}{f':{port}' if port else ''}",
        "User-Agent: reconciler",
        "Accept: */*",
        "Connection: close",
    )
    tls = parts.scheme == "https"
    return Target(tls, parts.hostname, port or (443 if tls else 80), "\r\n".join((*lines, "", "")).encode("ascii"))


class HttpGatherer:
    """Asks a web server again and again; never twice at once."""

    def __init__(self, signal: str, source: Http, publish: Callable[[News], None]) -> None:
        self._signal, self._source, self._publish = signal, source, publish
        self._workers = Workers(f"signal {signal}", limit=2)
        self._tls: ssl.SSLContext | None = None

    async def run(self) -> None:
        """Ask at once and then on schedule, until cancelled."""
        await poll(self._source.every_ms, self._ask)

    async def _ask(self) -> None:
        state, reason = await self._answer()
        self._publish(Reading(self._signal, state, reason))

    async def _answer(self) -> tuple[HealthState, str]:
        timeout_s = self._source.timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout_s):
                status = await self._get(target(self._source.url))
        except ReconcilerError as error:
            return HealthState.ABSENT, str(error)
        except TimeoutError:
            return HealthState.FAILED, f"no answer within {timeout_s:g} s"
        except ssl.SSLError as error:
            return HealthState.FAILED, f"TLS: {getattr(error, 'verify_message', '') or error.reason or 'failed'}"
        except OSError as error:
            # Not strerror: asyncio writes its own.
            reason = os.strerror(error.errno) if error.errno else "no connection"
            return HealthState.ABSENT if error.errno in _OURS else HealthState.FAILED, reason
        except (EOFError, ValueError):  # ValueError: a line too long
            return HealthState.FAILED, "what answers is no web server"
        if status == self._source.status:
            return HealthState.HEALTHY, f"status {status}"
        return HealthState.FAILED, f"status {status} instead of {self._source.status}"

    async def _get(self, wanted: Target) -> int:
        context = await self._context() if wanted.tls else None
        with await self._connection(wanted) as connection:
            reader, writer = await asyncio.open_connection(
                sock=connection,
                ssl=context,
                server_hostname=wanted.host if context else None,
                limit=_MAX_LINE,
            )
            try:
                writer.write(wanted.request)
                return await _status(reader)
            finally:
                # Not close(): that would wait for the server to agree.
                writer.transport.abort()

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            # Reads the machine's certificates, which takes tens of milliseconds.
            self._tls = await self._workers.call(ssl.create_default_context, timeout_s=60)
        return self._tls

    async def _connection(self, wanted: Target) -> socket.socket:
        failure: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
        for family, address in await self._addresses(wanted):
            connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                await asyncio.get_running_loop().sock_connect(connection, address)
            except OSError as error:
                connection.close()
                failure = error
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise failure

    async def _addresses(self, wanted: Target) -> list[tuple[int, tuple[str, int]]]:
        """Where the host is. A name is looked up in a worker: whoever serves names may take its time."""

        def look_up(flags: int = 0) -> list[tuple[int, tuple[str, int]]]:
            found = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=flags)
            return [(entry[0], entry[4]) for entry in found[:_MAX_ADDRESSES]]  # type: ignore[misc]

        try:
            return look_up(socket.AI_NUMERICHOST)
        except OSError:
            pass
        try:
            return await self._workers.call(look_up, timeout_s=60)
        except (OSError, UnicodeError) as error:
            raise TransientError(f"{wanted.host} has no address: {getattr(error, 'strerror', None) or error}") from None


async def _status(reader: asyncio.StreamReader) -> int:
    """The status of the answer; interim answers are passed over.

    Raises:
        EOFError: this is no answer.

    """
    for _ in range(_MAX_LINES):
        line = await reader.readline()
        if match := _STATUS.match(line):
            status = int(match[1])
            if status >= 200:
                return status
        elif not line or not (line.isspace() or b":" in line):
            raise EOFError
    raise EOFError
