"""Dialogues over unix sockets, which end at their deadline."""

from __future__ import annotations

import errno
import socket

from reconciler.guest.agent.programs import seconds_left

MAX_ANSWER = 65536  # bytes


def connect(path: str, deadline: float) -> socket.socket:
    """Return a connection to a unix socket."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.settimeout(seconds_left(deadline))
        peer.connect(path)
    except BlockingIOError:
        peer.close()
        raise TimeoutError from None  # its queue is full, because it does not take connections
    except BaseException:
        peer.close()
        raise
    return peer


def ask(peer: socket.socket, deadline: float, line: str, expected: str) -> str:
    """Send a line, if there is one, and read until the answer contains what is expected; return the answer."""
    peer.settimeout(seconds_left(deadline))
    if line:
        peer.sendall(line.encode() + b"\n")
    answer = b""
    while expected.encode() not in answer:
        try:
            peer.settimeout(seconds_left(deadline))
            chunk = peer.recv(4096)
        except (TimeoutError, socket.timeout):
            if not answer:
                raise
            chunk = b""
        answer += chunk
        if not chunk or len(answer) > MAX_ANSWER:
            raise OSError(errno.EPROTO, f"{expected!r} is not in the answer {answer[:60]!r}")
    return answer.decode("utf-8", "replace")
