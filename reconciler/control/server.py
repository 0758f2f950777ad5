"""The control socket: root, and one group that the operator names, ask and steer.

One request, one answer, each a line of JSON, and the connection is over. Who asks is known from the kernel, not from
what they say. Everything is bounded: how long a request may be, how long it may take to come, how many ask at once.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from reconciler.daemon.journal import Journal
from reconciler.errors import HostError, ReconcilerError, TransientError
from reconciler.host.blocking import Workers
from reconciler.host.names import group_number, login_of, person
from reconciler.warning import Severity, Warning

MAX_REQUEST = 16_384  # bytes
_MAX_CLIENTS = 16
_PATIENCE_S = 5.0
# Whoever serves names may be slow. Without a group root may ask, and without a name a user is called by the number.
_NAME_S = 1.0
_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid (linux/socket.h)

Who = Callable[[], Awaitable[str]]
"""Looks up who asks, by name: for requests that keep it, for it may take a second."""

Answer = Callable[[dict[str, Any], Who], Awaitable[dict[str, Any]]]
"""What answers a request of somebody.

Raises ReconcilerError: the request cannot be fulfilled; says why.
"""


class Control:
    """The socket at `path`, for root and `group`, answered by `answer`."""

    def __init__(self, path: Path, group: str | None, answer: Answer, journal: Journal) -> None:
        self.path = path
        self._group = group
        self._gid: int | None = None
        self._answer, self._journal = answer, journal
        self._names = Workers("names")
        self._clients = 0
        self._server: asyncio.Server | None = None

    async def find_group(self) -> None:
        """Find the group; one that is not found within a second gets in later.

        Raises:
            HostError: there is no such group.

        """
        if self._group is None:
            return
        loop = asyncio.get_running_loop()

        def late(gid: int | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._found_late, gid)

        try:
            self._gid = await self._names.call(group_number, self._group, timeout_s=_NAME_S, late=late)
        except TimeoutError:
            self._tell(f"the group {self._group!a} is not known yet; until it is, only root may ask and steer")
            return
        if self._gid is None:
            raise HostError(f"there is no group {self._group!a} that could ask and steer")

    def _found_late(self, gid: int | None) -> None:
        if gid is None:
            self._tell(f"there is no group {self._group!a} that could ask and steer")
            return
        self._gid = gid
        if self._server is not None:
            self._let_in(gid)

    def _let_in(self, gid: int) -> None:
        try:
            os.chown(self.path, -1, gid)
            self.path.chmod(0o660)
        except OSError as error:
            self._tell(f"the group {self._group!a} cannot be let in at {self.path}: {error.strerror}")

    def _tell(self, text: str) -> None:
        self._journal.warn("control", Warning("control-closed", Severity.WARNING, "", text))

    async def open(self) -> None:
        """Listen.

        Raises:
            HostError: the socket cannot be made there.

        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # Whoever was here before is dead: the lock on the appliance is ours.
            self.path.unlink(missing_ok=True)
            # Nobody gets in before the mode is what it shall be.
            mask = os.umask(0o177)
            try:
                listener.bind(str(self.path))
            finally:
                os.umask(mask)
        except OSError as error:
            listener.close()
            raise HostError(f"cannot make the control socket {self.path}: {error}") from None
        if self._gid is not None:
            self._let_in(self._gid)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_REQUEST)

    async def close(self) -> None:
        """Stop listening, and take the socket away."""
        if self._server is not None:
            self._server.close()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients > _MAX_CLIENTS:
                answer = _refusal("too many are asking at once; try again")
            else:
                answer = await self._attend(reader, writer)
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(_PATIENCE_S):
                await writer.drain()
        except (OSError, TimeoutError):
            # Whoever asked is gone, or does not listen: what is left of the answer is not kept for them.
            writer.transport.abort()
        finally:
            self._clients -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                line = await reader.readuntil(b"\n")
            request = json.loads(line)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            return _refusal(f"a request is one line of at most {MAX_REQUEST} bytes, sent at once")
        except (ValueError, RecursionError):
            return _refusal("a request is a line of JSON")
        if not isinstance(request, dict):
            return _refusal("a request is a JSON object")
        pid, uid = _peer(writer)
        login = login_of(pid)
        try:
            return {"ok": True, **await self._answer(request, lambda: self._name(uid, login))}
        except ReconcilerError as error:
            return _refusal(str(error))
        except Exception as error:  # noqa: BLE001 - it changed nothing, or the daemon ends already (see `turns`)
            self._journal.bug(error, " in an answer")
            return _refusal(f"internal error: {type(error).__name__}: {error}")

    async def _name(self, uid: int, login: int | None) -> str:
        if uid == 0 and login in (None, 0):
            return "root"
        try:
            return await self._names.call(person, uid, login, timeout_s=_NAME_S)
        except (TimeoutError, TransientError):
            return f"uid {uid}" if login in (None, uid) else f"uid {login} as uid {uid}"


def _refusal(reason: str) -> dict[str, Any]:
    return {"ok": False, "error": reason}


def _peer(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """The process at the other end and its user, from the kernel."""
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(peer)
    return pid, uid
