"""The process that sends probes through the VM, sees which come back, and outlives the daemon by a grace.

Standard library only and no import from this package: it is started by its path with ``python -I -S`` and the numbers
of descriptors: two unix sockets (SOCK_SEQPACKET), a bound one, to listen on, and one end of a pair, its first
connection; then what it is to keep open as a sign that it lives (a locked file). It opens nothing: packet sockets come
with the orders, so it needs no capability, and gives up those that it has.

Conversation, one JSON object a message. From the daemon: orders, which replace all before them; ``{}``; and
``{"end": true}``. Any of these is consent; without one for the grace it ends. Who connects last steers; who sends
nonsense is told so, and hung up on. Orders hold `grace_ms` and `directions`, each with `name`; `out` and `back`,
indexes of the packet sockets beside the message; `frame` in hex, `stamp_at`, `every_us`; `lost_us`, after which silence
is loss; `negative`, null or what must not come through, again with frame, stamp_at and every_us; and `large`, a list of
the same: what shows which sizes come through, and is no sign of life. A frame may have a `size`: zeros fill it up to
that. What does not fit into one message comes in several, all but the last with ``"more": true``: their directions and
sockets are one list.

To the daemon: a report each 100 ms, and whenever the state of a direction changes; see `orders.ProberReport`. Before
it hangs up: ``{"refused": "why"}``.
"""

import contextlib
import errno
import gc
import itertools
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from array import array
from typing import Any

STAMP = struct.Struct("!IQ")  # sequence, ns of CLOCK_MONOTONIC when it was sent
UNPROVEN, BACK, LOST = "unproven", "back", "lost"

_HEAD = 12  # bytes: destination (token) and source (mark)
_WINDOW = 1_024  # probes that may be under way at once
_MAX_MESSAGE = 180_000  # bytes
_MOST_PARTS = 64  # messages that orders may come in; how many directions that makes is for who gives them
_MOST_RIGHTS = 253  # descriptors in one message: SCM_MAX_FD of linux/net/scm.h
_MAX_US = 3_600_000_000
_MAX_TEXT = 200  # characters
_MIN_FRAME, _MAX_FRAME = 60, 1_514  # bytes, of Ethernet without frame check sequence
_MAX_SIZE = 65_549  # bytes, of the largest MTU that Linux has
_MOST_SIZES = 4

_REPORT_NS = 100_000_000
_GRACE_NS = 30_000_000_000  # until the first orders say another

# Bounds on what others can make it do between two beats: a VM that floods, a daemon that chatters. And it always
# blocks, however briefly: a real-time process that does not takes the machine down.
_MOST_FRAMES = 128
_MOST_MESSAGES = 8
_REST_NS = 50_000
_RUNAWAY_US = 500_000

_PRIORITY = 10
_NICE = -20
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_TIMESPEC = struct.Struct("@ll")
_CONTROL = socket.CMSG_SPACE(_TIMESPEC.size)
_RIGHTS = socket.CMSG_SPACE(4 * _MOST_RIGHTS)
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h


class Stream:
    """One frame, stamped again for each sending, and which of them are under way."""

    def __init__(self, frame: bytes, stamp_at: int, every_ns: int) -> None:
        self.template, self.head, self.every_ns = (frame, stamp_at), frame[:_HEAD], every_ns
        self.due_ns = self.sent = self.returned = self._sequence = 0
        self._frame, self._stamp_at = bytearray(frame), stamp_at
        # When the frame of this sequence, modulo the window, was sent; 0 once it has come back.
        self._sent_ns = array("q", bytes(8 * _WINDOW))

    def send(self, out: socket.socket, now_ns: int) -> None:
        """Send one; the next at the next multiple of the rhythm. Raises OSError: the adapter is down, gone or full."""
        self.due_ns = now_ns - now_ns % self.every_ns + self.every_ns
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._sent_ns[self._sequence % _WINDOW] = now_ns
        STAMP.pack_into(self._frame, self._stamp_at, self._sequence, now_ns)
        out.send(self._frame, socket.MSG_DONTWAIT)
        self.sent += 1

    def came_back(self, data: bytearray, size: int) -> int:
        """When the frame in `data` was sent; 0 if it is none that is under way (forged, too old, or a replay)."""
        if size < self._stamp_at + STAMP.size:
            return 0
        sequence, sent_ns = STAMP.unpack_from(data, self._stamp_at)
        if not sent_ns or self._sent_ns[sequence % _WINDOW] != sent_ns:
            return 0
        self._sent_ns[sequence % _WINDOW] = 0
        self.returned += 1
        return int(sent_ns)


class ProbedDirection:
    """From one adapter through the VM to another: what is sent, and what is known of what came back."""

    def __init__(self, order: dict[str, Any], sockets: list[socket.socket]) -> None:
        """Raises ValueError, TypeError or LookupError: there is no such direction."""
        self.out, self.back = (sockets[_number(order[key], 0, len(sockets) - 1)] for key in ("out", "back"))
        if self.out.family != socket.AF_PACKET or self.back.family != socket.AF_PACKET:
            raise ValueError("probes go through packet sockets")
        self.name = order["name"]
        if not isinstance(self.name, str) or len(self.name) > _MAX_TEXT:
            raise ValueError("a direction has a name")
        self.probe = _stream(order)
        self.negative = None if order["negative"] is None else _stream(order["negative"])
        self.large = [_stream(one) for one in order.get("large", ())[:_MOST_SIZES]]
        least_us = 2 * self.probe.every_ns // 1_000
        self.lost_ns = _number(order["lost_us"], least_us, _MAX_US) * 1_000
        self.state = UNPROVEN
        # When one came back, when one was to be sent, and since when we do so without a stall of our own.
        self.returned_ns = self.last_ns = self.resumed_ns = self.errors = 0
        self.rtts: list[int] = []  # since the last report

    def inherit(self, old: "ProbedDirection") -> None:
        """Go on where the direction of the same name left off, if the frames are the same."""
        if self.probe.template != old.probe.template:
            return
        old.probe.every_ns, self.probe = self.probe.every_ns, old.probe
        self.state, self.errors, self.rtts = old.state, old.errors, old.rtts
        self.returned_ns, self.last_ns, self.resumed_ns = old.returned_ns, old.last_ns, old.resumed_ns
        if self.negative and old.negative and self.negative.template == old.negative.template:
            old.negative.every_ns, self.negative = self.negative.every_ns, old.negative
        if [one.template for one in self.large] == [one.template for one in old.large]:
            self.large = old.large

    def lost_at(self) -> int:
        """When the silence has lasted too long; what we ourselves did not send is none."""
        return max(self.returned_ns, self.resumed_ns) + self.lost_ns

    def report(self, now_ns: int) -> dict[str, Any]:
        """What is told of it; the round-trip times are those since the last report."""
        rtts, self.rtts = self.rtts, []
        return {
            "name": self.name,
            "frame": self.probe.head.hex(),
            "state": self.state,
            "age_us": (now_ns - self.returned_ns) // 1_000 if self.returned_ns else None,
            "sent": self.probe.sent,
            "returned": self.probe.returned,
            "errors": self.errors,
            "rtt_us": [n // 1_000 for n in (min(rtts), sum(rtts) // len(rtts), max(rtts))] if rtts else None,
            "negative": self.negative.returned if self.negative else 0,
            "large": [(len(one.template[0]), one.sent, one.returned) for one in self.large],
        }


class Prober:
    """Sends what it was ordered to, for as long as somebody consents."""

    def __init__(self, listener: socket.socket, peer: socket.socket, priority: str, kept: str) -> None:
        self.listener, self.priority, self.kept = listener, priority, kept
        self.peer: socket.socket | None = peer
        self.directions: dict[str, ProbedDirection] = {}
        self.streams: list[tuple[ProbedDirection, Stream]] = []
        self.ears: dict[int, tuple[socket.socket, dict[bytes, tuple[ProbedDirection, Stream]]]] = {}
        self.poll = select.poll()
        self.sockets: list[socket.socket] = []
        # Of orders that have not come whole yet: directions as told, the sockets that go with them.
        self.parts: tuple[list[Any], list[socket.socket]] = ([], [])
        self.received = 0
        self.grace_ns, self.consented_ns, self.ended = _GRACE_NS, time.monotonic_ns(), False
        self.report_ns = self.late_worst_ns = self.late = self.missed = self.stalls = self.taken = 0
        self.buffer = bytearray(2_048)

    def run(self) -> None:
        """Until the end is ordered, or nobody has consented for the grace."""
        while not self.ended:
            now_ns = time.monotonic_ns()
            if now_ns - self.consented_ns >= self.grace_ns:
                return
            self._send(now_ns)
            if (self._drain() + self._judge(now_ns)) or now_ns >= self.report_ns:
                self._report()
            self._attend()

    def _send(self, now_ns: int) -> None:
        for direction, stream in self.streams:
            if now_ns >= stream.due_ns:
                if stream is direction.probe:
                    self._be_late(direction, now_ns)
                try:
                    stream.send(direction.out, now_ns)
                except OSError:
                    if stream in direction.large:
                        # What does not fit out comes through as little as what does not come back.
                        stream.sent += 1
                    else:
                        direction.errors += 1

    def _be_late(self, direction: ProbedDirection, now_ns: int) -> None:
        probe = direction.probe
        late_ns = now_ns - probe.due_ns if probe.due_ns else 0
        self.late_worst_ns = max(self.late_worst_ns, late_ns)
        self.late += late_ns > probe.every_ns // 2
        self.missed += late_ns // probe.every_ns
        # After a stall of ours, silence counts from now on: it says nothing of the VM.
        if now_ns - direction.last_ns > probe.every_ns + direction.lost_ns // 2:
            self.stalls += direction.last_ns > 0
            direction.resumed_ns = now_ns
        direction.last_ns = now_ns

    def _drain(self) -> int:
        """Take in what has come back. Returns how many directions came back to life by it."""
        revived = 0
        for _ in range(_MOST_FRAMES):
            # Cheaper than to find each socket empty.
            ready = self.poll.poll(0)
            if not ready:
                break
            for descriptor, _ in ready:
                ear, streams = self.ears[descriptor]
                try:
                    size, control, _, _ = ear.recvmsg_into([self.buffer], _CONTROL, socket.MSG_DONTWAIT)
                except OSError:
                    # The adapter is gone; the kernel says so once.
                    for direction, _ in streams.values():
                        direction.errors += 1
                    continue
                if found := streams.get(bytes(self.buffer[:_HEAD])):
                    revived += self._take_in(*found, size, control)
        return revived

    def _take_in(
        self, direction: ProbedDirection, stream: Stream, size: int, control: list[tuple[int, int, bytes]]
    ) -> bool:
        sent_ns = stream.came_back(self.buffer, size)
        if not sent_ns or stream is not direction.probe:
            return False
        arrived_ns = _arrived(control, sent_ns)
        direction.rtts.append(arrived_ns - sent_ns)
        direction.returned_ns = max(direction.returned_ns, arrived_ns)
        revived, direction.state = direction.state != BACK, BACK
        return revived

    def _judge(self, now_ns: int) -> int:
        """Find what is lost. Returns how many directions are since the last time."""
        lost = [one for one in self.directions.values() if one.state == BACK and now_ns >= one.lost_at()]
        for one in lost:
            one.state = LOST
        return len(lost)

    def _report(self) -> None:
        now_ns = time.monotonic_ns()
        self.report_ns = now_ns - now_ns % _REPORT_NS + _REPORT_NS
        value = {
            "now_us": now_ns // 1_000,
            "directions": [direction.report(now_ns) for direction in self.directions.values()],
            "late_worst_us": self.late_worst_ns // 1_000,
            "late": self.late,
            "missed": self.missed,
            "stalls": self.stalls,
            "priority": self.priority,
            "kept": self.kept,
            "alone_ms": (now_ns - self.consented_ns) // 1_000_000,
        }
        if self.peer is not None:
            self.late_worst_ns = 0
            # Who does not read misses it.
            with contextlib.suppress(OSError):
                self.peer.send(json.dumps(value).encode(), socket.MSG_DONTWAIT)

    def _attend(self) -> None:
        """Sleep until something is due, or the daemon says something."""
        dues = [stream.due_ns for _, stream in self.streams]
        dues += [direction.lost_at() for direction in self.directions.values() if direction.state == BACK]
        wake_ns = min(*dues, self.report_ns, self.consented_ns + self.grace_ns)
        wait_s = max(_REST_NS, wake_ns - time.monotonic_ns()) / 1e9
        sources = [self.listener, self.peer] if self.peer else [self.listener]
        ready, _, _ = select.select(sources if self.taken < _MOST_MESSAGES else [], [], [], wait_s)
        self.taken = self.taken + 1 if ready else 0
        if self.listener in ready:
            self._accept()
        elif self.peer in ready:
            self._take_orders(self.peer)

    def _accept(self) -> None:
        try:
            peer, _ = self.listener.accept()
        except OSError:
            return
        # struct ucred: pid, uid, gid (linux/socket.h)
        _, uid, _ = struct.unpack("=iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            peer.close()
            return
        if self.peer is not None:
            self.peer.close()
            self._drop_parts()
        self.peer = peer
        self._report()

    def _take_orders(self, peer: socket.socket) -> None:
        sockets: list[socket.socket] = []
        try:
            data, control, flags, _ = peer.recvmsg(_MAX_MESSAGE, _RIGHTS, socket.MSG_DONTWAIT)
            sockets = _adopt(control)
            # An end of it has no data, and is no JSON; nor is what was cut off.
            self._obey(json.loads(b"" if flags & socket.MSG_CTRUNC else data), sockets)
        except BlockingIOError:
            return
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            self._hang_up(peer, f"{type(error).__name__}: {error}")
        for one in sockets:
            if one not in self.sockets and one not in self.parts[1]:
                one.close()

    def _hang_up(self, peer: socket.socket, why: str) -> None:
        """Whoever is told nonsense by us or tells us nonsense is told why: it may be the only word that people get."""
        with contextlib.suppress(OSError):
            peer.send(json.dumps({"refused": why[:_MAX_TEXT]}).encode(), socket.MSG_DONTWAIT)
        self.peer = None
        peer.close()
        self._drop_parts()

    def _drop_parts(self) -> None:
        for one in self.parts[1]:
            one.close()
        self.parts, self.received = ([], []), 0

    def _obey(self, message: dict[str, Any], sockets: list[socket.socket]) -> None:
        """What is not understood as a whole is not done, and is no consent."""
        if "directions" in message:
            self._order(message, sockets)
        self.ended = message.get("end") is True
        self.consented_ns = time.monotonic_ns()

    def _order(self, message: dict[str, Any], sockets: list[socket.socket]) -> None:
        grace_ns = _number(message["grace_ms"], 0, _MAX_US // 1_000) * 1_000_000
        self.received += 1
        _number(self.received, 1, _MOST_PARTS)
        directions, before = self.parts
        self.parts = [*directions, *message["directions"]], [*before, *sockets]
        if message.get("more") is not True:
            (directions, sockets), self.parts, self.received = self.parts, ([], []), 0
            try:
                self._replace({order["name"]: ProbedDirection(order, sockets) for order in directions}, sockets)
            finally:
                for one in sockets:
                    if one not in self.sockets:
                        one.close()
            self.grace_ns, self.report_ns = grace_ns, 0

    def _replace(self, directions: dict[str, ProbedDirection], sockets: list[socket.socket]) -> None:
        for name, direction in directions.items():
            if name in self.directions:
                direction.inherit(self.directions[name])
        self.directions, self.streams = directions, []
        self.ears, self.poll = {}, select.poll()
        for direction in directions.values():
            for stream in filter(None, (direction.probe, direction.negative, *direction.large)):
                self.streams.append((direction, stream))
                ear = self.ears.setdefault(direction.back.fileno(), (direction.back, {}))
                ear[1][stream.head] = (direction, stream)
                self.poll.register(direction.back, select.POLLIN)
        for one in self.sockets:
            one.close()
        self.sockets = sockets


def _stream(order: dict[str, Any]) -> Stream:
    frame = bytes.fromhex(order["frame"])
    _number(len(frame), _MIN_FRAME, _MAX_FRAME)
    stamp_at = _number(order["stamp_at"], _HEAD, len(frame) - STAMP.size)
    size = _number(order.get("size", len(frame)), len(frame), _MAX_SIZE)
    return Stream(frame.ljust(size, b"\0"), stamp_at, _number(order["every_us"], 1_000, _MAX_US) * 1_000)


def _number(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError("no number, or out of bounds")
    return value


def _arrived(control: list[tuple[int, int, bytes]], sent_ns: int) -> int:
    """When the kernel received a frame, in ns of CLOCK_MONOTONIC; within bounds also when the wall clock is stepped."""
    now_ns = time.monotonic_ns()
    if not control or control[0][1] != _SO_TIMESTAMPNS or len(control[0][2]) != _TIMESPEC.size:
        return now_ns
    seconds, nanoseconds = _TIMESPEC.unpack(control[0][2])
    received_ns: int = now_ns - time.time_ns() + seconds * 1_000_000_000 + nanoseconds
    return max(sent_ns, min(now_ns, received_ns))


def _adopt(control: list[tuple[int, int, bytes]]) -> list[socket.socket]:
    """The sockets that came with a message. Raises OSError: something else came; all are closed."""
    # Nothing but descriptors is asked for, and the kernel sends them in one piece.
    descriptors = array("i", b"".join(data[: len(data) // 4 * 4] for _, _, data in control))
    try:
        return [socket.socket(fileno=os.dup(one)) for one in descriptors]
    finally:
        for one in descriptors:
            os.close(one)


def _take_priority() -> str:
    """Be real-time, so that a busy machine is not taken for a dead VM; else as nice as it gets. Says what it became."""
    resource.setrlimit(resource.RLIMIT_RTTIME, (_RUNAWAY_US, _RUNAWAY_US))
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        return f"nice {nice}" if nice < 0 else f"none: {errno.errorcode.get(error.errno or 0, error.errno)}"
    return f"fifo {_PRIORITY}"


def _drop_capabilities() -> str:
    """Give up what it does not need: everything. Returns why it could not, or ''."""
    try:
        # Here, because it may fail where memory cannot be made executable.
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        # First, so that not even root gets them back by executing something.
        failed = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        failed = failed or libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
        return os.strerror(ctypes.get_errno()) if failed else ""
    except (ImportError, AttributeError, OSError, MemoryError) as error:
        return str(error)[:_MAX_TEXT]


def main() -> int:
    """Serve the sockets whose numbers are the arguments. Returns the exit status."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    kept_open = [int(number) for number in sys.argv[1:]]
    listener, peer = (socket.socket(fileno=number) for number in kept_open[:2])
    # What the daemon's libraries left open for its children is not for us to keep.
    ends = [2, *sorted(kept_open), os.sysconf("SC_OPEN_MAX")]
    for before, after in itertools.pairwise(ends):
        os.closerange(before + 1, after)
    os.chdir("/")
    listener.setblocking(False)
    # Here and not where the socket was made: who connects learns from the kernel the pid of who listens.
    listener.listen(_MOST_MESSAGES)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("-900")  # as the daemon's unit
    priority, kept = _take_priority(), _drop_capabilities()
    # Nothing here makes cycles; and memory that is not written to stays shared with the file cache.
    gc.disable()
    Prober(listener, peer, priority, kept).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
