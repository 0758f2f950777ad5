"""What a service manager is told."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.host.service import Service


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        yield listening


def test_started_by_hand_nobody_is_told() -> None:
    service = Service()
    assert service.watchdog_ms is None
    service.tell(READY="1")


@pytest.mark.parametrize("abstract", [False, True])
def test_it_is_told_in_one_datagram(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@reconciler-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    manager.bind(name.replace("@", "\0", 1) if abstract else name)
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    Service().tell(READY="1", STATUS="keeping apu2 – well")
    assert manager.recv(4096).decode() == "READY=1\nSTATUS=keeping apu2 – well"


@pytest.mark.parametrize("address", ["/no/such/socket", "@no-such", "relative", "/" + "x" * 300])
def test_a_manager_that_does_not_listen_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    Service().tell(READY="1")


def test_a_manager_that_does_not_read_is_not_waited_for(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    service = Service()
    for _ in range(10_000):
        service.tell(WATCHDOG="1")


@pytest.mark.parametrize(
    ("microseconds", "pid", "expected"),
    [
        ("30000000", None, 15_000),
        ("30000000", "ours", 15_000),
        ("30000000", "1", None),
        ("", None, None),
        ("soon", None, None),
        ("-5", None, None),
    ],
)
def test_the_watchdog_is_fed_at_half_of_its_time(
    monkeypatch: pytest.MonkeyPatch, microseconds: str, pid: str | None, expected: int | None
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/x")
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)
    assert Service().watchdog_ms == expected


def test_a_watchdog_that_cannot_be_fed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert Service().watchdog_ms is None
