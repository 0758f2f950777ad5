"""Planned switches under the guard's cover: nothing is lost, nothing comes twice, connections live on; and frames of
every kind while it is tripped.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guarded import Guarded, guarded, more_arrives, wrong

from reconciler.lab.delay import Delay
from reconciler.lab.frames import FRAMES, crossing
from reconciler.lab.ips import FORBIDDEN, Suricata
from reconciler.lab.talk import Talk

pytestmark = [pytest.mark.netns, pytest.mark.long]

JUMBO_MTU = 9000


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("switches")) as made:
        yield made


@pytest.fixture
def kept(lasting: Guarded) -> Guarded:
    lasting.write()
    lasting.well()
    return lasting


@pytest.fixture(scope="module")
def four(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Four ports that are one wire; jumbo frames pass."""
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("four"), 4, mtu=JUMBO_MTU, segments=[(0, 1, 2, 3)]) as made:
        made.well()
        yield made


@pytest.fixture(scope="module")
def jumbo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Two ports, whose wire passes jumbo frames."""
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("jumbo"), mtu=JUMBO_MTU) as made:
        made.well()
        yield made


def there_and_back(kept: Guarded, moved: Any) -> None:
    """To bypass and back to inspect, on purpose; `moved` waits for traffic in between."""
    moved()
    hold(kept)
    moved()
    kept.ask("release")
    kept.inspects()
    moved()


def hold(kept: Guarded) -> None:
    kept.ask("hold", topology="bypass", reason="maintenance", seconds=100)
    assert kept.is_on("bypass"), "it answers when the switch is made"
    assert kept.guard()["state"] == "joined"


# --- frames ----------------------------------------------------------------------------------------------------------


def test_two_ports_lose_duplicate_and_reorder_nothing(kept: Guarded) -> None:
    with kept.lab.flows(10_000) as flows:
        flows.start()
        for _ in range(2):
            there_and_back(kept, lambda: more_arrives(kept, flows, frames=3_000))
        assert wrong(flows.stop()) == []
    assert kept.told("tripped") == []


def test_four_ports_lose_duplicate_and_reorder_nothing(four: Guarded) -> None:
    # Twelve flows, some 10,000 frames a second in all.
    with four.lab.flows(850) as flows:
        flows.start()
        for _ in range(2):
            there_and_back(four, lambda: more_arrives(four, flows, frames=300))
        assert wrong(flows.stop()) == []
    assert four.told("tripped") == []


def test_through_a_vm_that_takes_its_time_nothing_is_lost_or_duplicated(kept: Guarded) -> None:
    with Delay(kept.lab, 3), kept.lab.flows(10_000) as flows:
        kept.inspects()
        flows.start()
        for _ in range(2):
            there_and_back(kept, lambda: more_arrives(kept, flows, frames=3_000))
        measured = flows.stop()
    assert [(one.lost, one.duplicated) for one in measured] == [(0, 0), (0, 0)]


@pytest.mark.parametrize(("drain", "lost"), [("1s", False), ("0s", True)])
def test_what_is_inside_the_vm_is_let_out_as_the_file_says(kept: Guarded, drain: str, lost: bool) -> None:
    kept.write(guard={"drain": drain, "lease": "1s"})
    kept.well()
    with Delay(kept.lab, 150), kept.lab.flows(1_000) as flows:
        kept.inspects()
        flows.start()
        there_and_back(kept, lambda: more_arrives(kept, flows))
        measured = flows.stop(patience_s=1)
    assert [bool(one.lost) for one in measured] == [lost, lost]
    assert [one.duplicated for one in measured] == [0, 0]


# --- connections -----------------------------------------------------------------------------------------------------


def more_bytes(kept: Guarded, talk: Talk, size: int = 300_000) -> None:
    before = talk.received()
    kept.until(lambda: min(b - a for a, b in zip(before, talk.received(), strict=True)) > size, "bytes both ways")


def test_connections_survive_and_are_closed_cleanly(kept: Guarded) -> None:
    with Talk(*kept.lab.clients, connections=4) as talk:
        for _ in range(2):
            there_and_back(kept, lambda: more_bytes(kept, talk))
        assert talk.new_connection() > 0
        assert talk.stop().intact


def test_connections_survive_a_vm_that_dies_under_them(kept: Guarded) -> None:
    with Talk(*kept.lab.clients, connections=4) as talk:
        more_bytes(kept, talk)
        kept.lab.blackhole_vm()
        kept.passes_by()
        more_bytes(kept, talk)
        kept.lab.unblock_vm()
        kept.inspects()
        more_bytes(kept, talk)
        assert talk.stop().intact


@contextlib.contextmanager
def connection(kept: Guarded, addresses: tuple[str, str]) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection between the clients, which have these addresses."""
    with contextlib.ExitStack() as stack:
        with kept.lab.clients[1].entered():
            listener = stack.enter_context(socket.create_server((addresses[1], 0)))
        with kept.lab.clients[0].entered():
            here = stack.enter_context(socket.create_connection(listener.getsockname(), timeout=10))
        there, _ = listener.accept()
        with there:
            there.setblocking(False)
            yield here, there


@pytest.mark.usefixtures("suricata_installed")
def test_connections_survive_through_suricata_which_blocks_as_before(kept: Guarded, tmp_path: Path) -> None:
    with Suricata(kept.lab, tmp_path) as suricata:
        kept.inspects()
        trips = kept.guard()["trips"]
        with Talk(*kept.lab.clients, connections=4) as talk:
            there_and_back(kept, lambda: more_bytes(kept, talk))
            assert talk.stop().intact
        with Talk(*kept.lab.clients) as talk, connection(kept, ("198.51.100.1", "198.51.100.2")) as (here, there):
            before = suricata.blocked()
            here.send(FORBIDDEN)
            kept.until(lambda: suricata.blocked() > before, "the forbidden words to be blocked")
            with pytest.raises(BlockingIOError):
                there.recv(1)
            assert talk.stop().intact
        assert kept.guard()["trips"] == trips


# --- frames of every kind --------------------------------------------------------------------------------------------


def trip(kept: Guarded) -> None:
    """The daemon is gone, and the VM hangs: the switches still lead to it, and the guard alone carries the wire."""
    kept.kill()
    kept.lab.blackhole_vm()
    kept.until(lambda: not kept.stands(), "the trip")


@pytest.mark.parametrize("sender", [0, 1])
def test_every_kind_of_frame_passes_once_and_unchanged_while_tripped(jumbo: Guarded, sender: int) -> None:
    jumbo.well()
    trip(jumbo)
    assert crossing(jumbo.lab, FRAMES, sender).exact


@pytest.mark.parametrize("sender", [0, 3])
def test_every_kind_of_frame_reaches_each_of_the_others_once_while_tripped(four: Guarded, sender: int) -> None:
    four.well()
    trip(four)
    assert crossing(four.lab, FRAMES, sender).exact


def test_every_kind_of_frame_passes_once_and_unchanged_in_bypass(jumbo: Guarded) -> None:
    jumbo.well()
    hold(jumbo)
    assert crossing(jumbo.lab, FRAMES).exact


def test_what_is_cut_lets_no_kind_of_frame_pass(jumbo: Guarded) -> None:
    jumbo.write(guard={"fail": "closed"})
    jumbo.well()
    trip(jumbo)
    assert crossing(jumbo.lab, FRAMES, receivers=[], copies=1).exact
    jumbo.write()
