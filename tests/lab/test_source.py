import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.lab.source import BURST, MAX_SIZE, MIN_SIZE, StreamFrame, main, pace


def ones_complement_sum(data: bytes) -> int:
    total = sum(int.from_bytes(data[n : n + 2].ljust(2, b"\0"), "big") for n in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.integers(0, 0xFFFF), st.integers(MIN_SIZE, MAX_SIZE), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_frames_are_correct(stream: int, size: int, sequence: int, sent_ns: int) -> None:
    template = StreamFrame(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", stream, size)
    template.number(1, 2)
    frame = bytes(template.number(sequence, sent_ns))
    assert len(frame) == size >= 60
    assert frame[:14] == b"\2\0\0\0\0\2" + b"\2\0\0\0\0\1" + b"\x08\x00"
    header, datagram = frame[14:34], frame[34:]
    assert ones_complement_sum(header) == 0xFFFF
    assert int.from_bytes(header[2:4], "big") == size - 14
    pseudo = header[12:20] + bytes([0, 17]) + datagram[4:6]
    assert ones_complement_sum(pseudo + datagram) == 0xFFFF
    assert datagram[6:8] != b"\0\0", "a UDP checksum of zero would mean that there is none"
    assert int.from_bytes(datagram[4:6], "big") == len(datagram)
    assert int.from_bytes(frame[44:46], "big") == stream
    assert int.from_bytes(frame[46:54], "big") == sequence
    assert int.from_bytes(frame[54:62], "big") == sent_ns


@pytest.mark.parametrize("size", [MIN_SIZE - 1, MAX_SIZE + 1])
def test_sizes_that_do_not_fit(size: int) -> None:
    with pytest.raises(ValueError, match="frame size"):
        StreamFrame(bytes(6), bytes(6), 1, size)


class Clock:
    """Stands still except while `wait` waits; sending takes no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at_s: float) -> None:
        self.now_ns = 0
        self.stop_at_ns = int(stop_at_s * 1e9)
        self.stall_ns = {}
        self.sent: list[int] = []
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now_ns)

    def send(self, sequence: int) -> None:
        assert sequence == len(self.sent)
        self.sent.append(self.now_ns)

    def wait(self, wait_s: float) -> bool:
        self.now_ns += round(wait_s * 1e9) + self.stall_ns.pop(len(self.sent), 0)
        return self.now_ns >= self.stop_at_ns


def test_pace_is_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, stop_at_s=0.1)
    assert pace(clock.send, 1000, clock.wait) == (100, 0)
    assert clock.sent == [n * 1_000_000 for n in range(100)]


def test_pace_catches_up_in_bounded_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, stop_at_s=1)
    clock.stall_ns[100] = 200_000_000
    count, worst_ns = pace(clock.send, 1000, clock.wait)
    assert count == 1000
    assert worst_ns == 200_000_000
    assert max(clock.sent.count(moment) for moment in set(clock.sent)) == BURST
    # 200 frames were missed; at four times the rate they are made up for in 200 / (4 - 1) ms and a burst or so.
    assert clock.sent[300 + 100] <= 300_000_000 + 100_000_000 + 5_000_000
    assert clock.sent[-1] == 999_000_000


def test_unknown_interface_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-nic0", "--destination", "02:00:00:00:00:01", "--rate", "100"]) == 1
    assert capsys.readouterr().out == '{"error": "no-such-nic0: [Errno 19] No such device"}\n'
