"""The process at one end of TCP connections, which sends and receives random bytes, and hashes both.

Standard library only and no import from this package: it is started by its path with ``python -I -S``.

Conversation: it prints ``{"ready": true, "port": ...}`` and sends on each connection at a steady rate. Then it answers
lines on its standard input, each with one: ``progress``; ``new SECONDS``, whether another connection can be made now
(of the end that connects); and ``stop SECONDS``, after which it sends no more, waits for the other end to close, too,
says all, and ends. It also ends with its standard input. Where it cannot, it prints ``{"error": ...}``.
"""

import argparse
import contextlib
import gc
import hashlib
import json
import os
import selectors
import socket
import struct
import sys
import threading
import time
from typing import Any

# What a connection begins with: whether it talks or echoes, and its number.
_GREETING = struct.Struct("!cH")
_TALK, _ECHO = b"T", b"E"
_ECHO_BYTES = 1024

_BEAT_S = 0.005
# An end that was stalled catches up at no more than four times its rate.
_CATCH_UP = 4
_PIECE = 1 << 16
_CONNECT_S = 10.0
_PRIORITY = -5
_STDIN = 0


class ConnectionEnd:
    """One end of one connection."""

    def __init__(self, peer: socket.socket, number: int) -> None:
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = peer
        self.number = number
        self.sent = self.received = 0
        self.ended = False
        self.broken: str | None = None
        self.stall_s = 0.0
        self._begun = self._arrived = time.monotonic()
        self._hash_sent, self._hash_received = hashlib.sha256(), hashlib.sha256()

    def send(self, rate: int, since_s: float) -> None:
        """Send what is due by now, and not much more than `rate` times the time since the last call."""
        due = int((time.monotonic() - self._begun) * rate) - self.sent
        size = min(due, int(since_s * rate * _CATCH_UP), _PIECE)
        if size <= 0 or self.broken:
            return
        piece = os.urandom(size)
        try:
            taken = self.peer.send(piece)
        except BlockingIOError:
            return
        except OSError as error:
            self.broken = str(error)
            return
        self._hash_sent.update(memoryview(piece)[:taken])
        self.sent += taken

    def receive(self) -> None:
        """Take in what has arrived."""
        try:
            piece = self.peer.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError as error:
            self.broken = str(error)
            return
        now = time.monotonic()
        self.stall_s = max(self.stall_s, now - self._arrived)
        self._arrived = now
        self._hash_received.update(piece)
        self.received += len(piece)
        self.ended = not piece

    def shut(self) -> None:
        """Send no more: the other end will see the end of the stream."""
        try:
            self.peer.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.broken = self.broken or str(error)

    def counts(self) -> dict[str, Any]:
        """What to say of it."""
        return {
            "sent": self.sent,
            "received": self.received,
            "hash_sent": self._hash_sent.hexdigest(),
            "hash_received": self._hash_received.hexdigest(),
            "stall_s": self.stall_s,
        }


class Talker:
    """All connections of one end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._connections: dict[int, ConnectionEnd] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(_STDIN, selectors.EVENT_READ, self._take_order)
        self._stop_by: float | None = None
        self._done = False
        self.lateness_s = 0.0

    def listen(self) -> int:
        """Take connections at the address. Returns the port."""
        listener = socket.create_server((self._options.address, 0), backlog=self._options.connections + 8)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))
        port: int = listener.getsockname()[1]
        return port

    def connect(self) -> int:
        """Make the connections. Returns the port that they go to."""
        for number in range(self._options.connections):
            peer = self._call(_CONNECT_S)
            peer.sendall(_GREETING.pack(_TALK, number))
            self._begin(peer, number)
        port: int = self._options.port
        return port

    def _call(self, timeout_s: float) -> socket.socket:
        return socket.create_connection((self._options.address, self._options.port), timeout_s)

    def _begin(self, peer: socket.socket, number: int) -> None:
        connection = ConnectionEnd(peer, number)
        self._connections[number] = connection
        self._selector.register(peer, selectors.EVENT_READ, lambda: self._receive(connection))

    def _receive(self, connection: ConnectionEnd) -> None:
        connection.receive()
        if connection.ended or connection.broken:
            # Its end would be readable for ever.
            self._selector.unregister(connection.peer)

    def _accept(self, listener: socket.socket) -> None:
        peer, _ = listener.accept()
        peer.setblocking(False)
        self._selector.register(peer, selectors.EVENT_READ, lambda: self._greet(peer))

    def _greet(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)
        try:
            kind, number = _GREETING.unpack(peer.recv(_GREETING.size))
        except (OSError, struct.error):
            peer.close()
            return
        if kind == _TALK:
            self._begin(peer, number)
        else:
            self._selector.register(peer, selectors.EVENT_READ, lambda: self._echo(peer))

    def _echo(self, peer: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = peer.recv(_ECHO_BYTES)
            peer.send(data)
        if not data:
            self._selector.unregister(peer)
            peer.close()

    def run(self) -> None:
        """Talk until told to stop, or until standard input ends."""
        last = time.monotonic()
        while not self._done:
            for key, _ in self._selector.select(max(0.0, last + _BEAT_S - time.monotonic())):
                key.data()
            now = time.monotonic()
            if now - last >= _BEAT_S:
                self._beat(now - last)
                last = now

    def _beat(self, since_s: float) -> None:
        self.lateness_s = max(self.lateness_s, since_s - _BEAT_S)
        if self._stop_by is None:
            for connection in self._connections.values():
                connection.send(self._options.rate, since_s)
            return
        waiting = [one.number for one in self._connections.values() if not (one.ended or one.broken)]
        if waiting and time.monotonic() < self._stop_by:
            return
        self._done = True
        if waiting:
            say({"error": f"connections {waiting} were not closed by the other end"})
        else:
            self._report()

    def _take_order(self) -> None:
        for line in os.read(_STDIN, 4096).decode("ascii").splitlines() or ["end"]:
            word, _, number = line.partition(" ")
            if word == "stop":
                self._stop_by = time.monotonic() + float(number)
                for connection in self._connections.values():
                    connection.shut()
            elif word == "new":
                # In a thread: meanwhile the connections go on.
                threading.Thread(target=self._try, args=(float(number),), daemon=True).start()
            elif word == "progress":
                self._report()
            else:
                self._done = True

    def _report(self) -> None:
        broken = [f"connection {one.number}: {one.broken}" for one in self._connections.values() if one.broken]
        if broken:
            say({"error": "; ".join(broken)})
        else:
            counts = {number: one.counts() for number, one in sorted(self._connections.items())}
            say({"connections": counts, "lateness_s": self.lateness_s})

    def _try(self, timeout_s: float) -> None:
        begun = time.monotonic()
        word = _GREETING.pack(_ECHO, 0) + os.urandom(_ECHO_BYTES)
        try:
            with self._call(timeout_s) as peer:
                peer.sendall(word)
                back = b""
                while len(back) < _ECHO_BYTES:
                    peer.settimeout(max(0.001, begun + timeout_s - time.monotonic()))
                    piece = peer.recv(_ECHO_BYTES)
                    if not piece:
                        break
                    back += piece
        except OSError as error:
            say({"error": f"no new connection: {error}"})
            return
        if back == word[_GREETING.size :]:
            say({"took_s": time.monotonic() - begun})
        else:
            say({"error": "no new connection: it does not echo"})


def say(answer: dict[str, Any]) -> None:
    """Print a line of the conversation."""
    print(json.dumps(answer), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Hold the conversation that the module describes. Returns the exit status."""
    parser = argparse.ArgumentParser(description="talk over TCP, and hash what is said")
    parser.add_argument("address", help="to listen at, or to connect to")
    parser.add_argument("--port", type=int, help="to connect to; without it, it listens")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=int, required=True, help="bytes per second, of each connection")
    options = parser.parse_args(argv)
    talker = Talker(options)
    try:
        port = talker.listen() if options.port is None else talker.connect()
    except OSError as error:
        say({"error": f"{options.address}: {error}"})
        return 1
    gc.collect()
    gc.disable()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    say({"ready": True, "port": port})
    talker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
