"""The process that sends as much as goes: bytes over TCP, or the smallest frames.

Standard library only and no import from this package: it is started by its path with ``python -I -S``.

``receive ADDRESS``, ``send ADDRESS PORT SECONDS`` or ``flood INTERFACE DESTINATION FRAMES``. It prints a line of JSON
when it is ready, and one when it is done, which it begins with a line on its standard input.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable

_PIECE = bytes(1 << 20)
_LARGEST = 1 << 20
_HEADER = bytes.fromhex("02aa00000001") + b"\x88\xb7"
_PADDING = bytes(46)


def receive(address: str) -> None:
    """Take in one connection after the other, until standard input ends."""
    listener = socket.create_server((address, 0))
    say({"ready": True, "port": listener.getsockname()[1]})
    while True:
        peer, _ = listener.accept()
        with peer:
            while peer.recv(_LARGEST):
                pass


def send(address: str, port: str, seconds: str) -> None:
    """Send for so long; says how many bits per second the other end took."""
    with socket.create_connection((address, int(port)), 10) as peer:
        say({"ready": True})
        sys.stdin.readline()
        began, sent = time.monotonic(), 0
        while (now := time.monotonic()) < began + float(seconds):
            sent += peer.send(_PIECE)
        say({"rate": sent * 8 / (now - began)})


def flood(interface: str, destination: str, frames: str) -> None:
    """Send so many frames from one core; says the processor's nanoseconds for each, all that receives it included."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
        out.bind((interface, 0))
        frame, count = bytes.fromhex(destination) + _HEADER + _PADDING, int(frames)
        say({"ready": True})
        sys.stdin.readline()
        began = time.thread_time_ns()
        for _ in range(count):
            out.send(frame)
        say({"each_ns": (time.thread_time_ns() - began) / count})


def main(what: str, *arguments: str) -> None:
    """Do one of the three."""
    programs: dict[str, Callable[..., None]] = {"receive": receive, "send": send, "flood": flood}
    programs[what](*arguments)


def say(answer: object) -> None:
    """Print a line of the conversation."""
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
