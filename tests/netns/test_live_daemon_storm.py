"""The daemon under fire: storms of link changes, floods of requests. It lives, stays small, and decides right."""

import contextlib
import fcntl
import json
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_live_daemon import CARRIER, Keeping, keeping

from reconciler.control.server import MAX_REQUEST
from reconciler.lab.namespaces import Namespace

pytestmark = [pytest.mark.netns, pytest.mark.long]

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
CHANGES = 10_000


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeping]:
    request.getfixturevalue("lab_root")
    with keeping(tmp_path_factory.mktemp("storm"), signals=CARRIER) as made:
        yield made


@pytest.fixture
def kept(lasting: Keeping) -> Keeping:
    lasting.well()
    return lasting


def blow(namespace: Namespace, names: list[str], changes: int) -> float:
    """Change links that are nobody's business up and down; how many seconds that took."""
    with namespace.entered():
        control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    requests = [[struct.pack("16sH22x", name.encode(), flags) for flags in (_IFF_UP, 0)] for name in names]
    began = time.monotonic()
    with control:
        for number in range(changes):
            fcntl.ioctl(control, _SIOCSIFFLAGS, requests[number // 2 % len(names)][number % 2])
    return time.monotonic() - began


@contextlib.contextmanager
def strangers(kept: Keeping, namespace: Namespace, number: int = 4) -> Iterator[list[str]]:
    """Links of somebody else's."""
    names = [f"other{one}" for one in range(number)]

    def hand(command: str) -> None:
        kept.lab.run(["sh", "-ec", command], namespace=namespace, timeout_s=60)

    hand(";".join(f"ip link add {name} type veth peer name {name}-far" for name in names))
    try:
        yield names
    finally:
        hand(";".join(f"ip link delete {name}" for name in names))


class Storm:
    """One that blows beside the test."""

    def __init__(self, namespace: Namespace, names: list[str], changes: int) -> None:
        self.took_s = 0.0
        self._thread = threading.Thread(target=self._blow, args=(namespace, names, changes))
        self._thread.start()

    def _blow(self, *words: Any) -> None:
        self.took_s = blow(*words)

    @property
    def blows(self) -> bool:
        return self._thread.is_alive()

    def abates(self) -> None:
        self._thread.join(60)
        assert not self.blows


def test_a_storm_in_another_namespace_is_not_even_heard(kept: Keeping) -> None:
    before = kept.rss_mb
    with strangers(kept, kept.lab.office) as names:
        storm = Storm(kept.lab.office, names, CHANGES)
        kept.lab.kill_vm()
        assert kept.goes_to("bypass") < 2.0
        storm.abates()
    assert kept.status()["queue"] == {"bound": 1024, "dropped": 0, "netlink_overruns": 0}
    assert kept.rss_mb - before < 5


def test_a_storm_of_other_links_of_the_host_delays_nothing_for_long_and_costs_no_memory(kept: Keeping) -> None:
    before = kept.rss_mb
    with strangers(kept, kept.lab.host) as names:
        storm = Storm(kept.lab.host, names, CHANGES)
        kept.hand("ip link set nic1 nomaster")
        kept.until(lambda: kept.where("nic1") == ["sw-inside"], "the drift to be repaired")
        kept.lab.kill_vm()
        took = kept.goes_to("bypass")
        blew = storm.blows
        assert kept.status()["sku"] == "keep"
        storm.abates()
        kept.until(lambda: not kept.status()["network"]["changes"], "rest")
    assert took < 2.0, (took, blew)
    assert kept.rss_mb - before < 10
    assert kept.told("bug", "failed", "conflict") == []


def test_links_that_come_and_go_by_hundreds_are_nobodys_business(kept: Keeping) -> None:
    before = kept.rss_mb
    lines = [f"link add o{number} type veth peer name p{number}" for number in range(150)]
    lines += [f"link delete o{number}" for number in range(150)]
    done = kept.lab.run(
        ["sh", "-c", "printf '%s\\n' \"$0\" | ip -batch -", "\n".join(lines)], timeout_s=60, check=False
    )
    assert done.returncode == 0, done.stderr
    kept.lab.kill_vm()
    assert kept.goes_to("bypass") < 2.0
    assert kept.rss_mb - before < 10
    assert kept.told("bug", "failed", "conflict", "repaired")[-3:] == kept.told("repaired")[-3:]


def test_news_that_the_kernel_had_to_drop_say_look_again(kept: Keeping) -> None:
    assert kept.process is not None
    overruns = kept.status()["queue"]["netlink_overruns"]
    kept.process.send_signal(signal.SIGSTOP)
    try:
        with strangers(kept, kept.lab.host) as names:
            blow(kept.lab.host, names, CHANGES)
            # Of this, nothing can be heard any more.
            kept.lab.kill_vm()
            kept.hand("ip link set nic1 nomaster")
    finally:
        kept.process.send_signal(signal.SIGCONT)
    kept.goes_to("bypass")
    assert kept.status()["queue"]["netlink_overruns"] > overruns


def test_a_daemon_that_starts_in_a_storm_starts(kept: Keeping) -> None:
    kept.end()
    with strangers(kept, kept.lab.host) as names:
        storm = Storm(kept.lab.host, names, CHANGES)
        kept.start()
        storm.abates()
    assert kept.is_on("inspect")
    assert kept.told("switched", "repaired") == []


# --- requests --------------------------------------------------------------------------------------------------------


def _nonsense(chance: random.Random) -> bytes:
    hostile = [None, True, 0, -1, 1e308, 10**300, "", "x" * 999, "\ud800", [], {}, [[]], {"a": {}}]
    match chance.randrange(5):
        case 0:
            return chance.randbytes(chance.choice([0, 1, 100, MAX_REQUEST, 4 * MAX_REQUEST]))
        case 1:
            return chance.randbytes(200).replace(b"\n", b"") + b"\n"
        case 2:
            line = bytearray(b'{"do": "hold", "topology": "bypass", "reason": "x", "seconds": 1}\n')
            for _ in range(chance.randint(1, 4)):
                line[chance.randrange(len(line) - 1)] = chance.randrange(256)
            # Whatever else is changed, a hold it must not become.
            return bytes(line).replace(b'"hold"', b'"halt"')
        case 3:
            verb = chance.choice(["status", "audit", "reconcile", "release", "choice", "halt"])
            more = {key: chance.choice(hostile) for key in ("digest", "output", "segment", "topology")}
            return json.dumps({"do": verb, **more}).encode() + b"\n"
        case _:
            keys = ("topology", "reason", "seconds", "segment")
            return json.dumps({"do": "hold", **{key: chance.choice(hostile) for key in keys}}).encode() + b"\n"


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _flood(path: Path, seed: int, requests: int, mishaps: list[str]) -> None:
    chance = random.Random(seed)
    kept_open: list[socket.socket] = []
    for _ in range(requests):
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(10)
        try:
            channel.connect(str(path))
            channel.sendall(_nonsense(chance))
            fate = chance.randrange(4)
            if fate == 0:
                channel.shutdown(socket.SHUT_WR)
                answer = b""
                while part := channel.recv(1 << 16):
                    answer += part
                json.loads(answer)
            elif fate == 1:
                # Says half a word, and stays on the line.
                kept_open.append(channel)
                if len(kept_open) > 8:
                    kept_open.pop(0).close()
                continue
        except (BrokenPipeError, ConnectionResetError):
            pass
        except (OSError, ValueError) as error:
            mishaps.append(f"{type(error).__name__}: {error}")
        channel.close()
    for channel in kept_open:
        channel.close()


def test_thousands_of_hostile_requests_by_many_at_once(kept: Keeping) -> None:
    assert kept.process is not None
    before, descriptors = kept.rss_mb, _descriptors(kept.process.pid)
    mishaps: list[str] = []
    threads = [threading.Thread(target=_flood, args=(kept.socket, seed, 500, mishaps)) for seed in range(8)]
    for thread in threads:
        thread.start()
    # Meanwhile the work goes on.
    kept.lab.kill_vm()
    assert kept.goes_to("bypass") < 3.0
    for thread in threads:
        thread.join(60)
    assert mishaps == []
    assert kept.process.poll() is None
    kept.until(lambda: kept.answers(kept.process.pid if kept.process else 0), "an answer")
    pid = kept.process.pid
    # What is opened once and kept, as the ledger's file is, is no connection.
    kept.until(lambda: _descriptors(pid) <= descriptors + 4, "all connections to be over")
    assert kept.rss_mb - before < 15
    assert "Traceback" not in kept.log.read_text()
    assert kept.told("bug") == []
    assert kept.status()["segments"][0]["hold"] is None


def test_those_who_only_sit_there_keep_nobody_out_for_long(kept: Keeping) -> None:
    silent = []
    for _ in range(90):
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(10)
        channel.connect(str(kept.socket))
        silent.append(channel)
    try:
        kept.lab.kill_vm()
        assert kept.goes_to("bypass") < 2.0
        pid = kept.process.pid if kept.process else 0
        kept.until(lambda: kept.answers(pid), "an answer")
    finally:
        for channel in silent:
            channel.close()
