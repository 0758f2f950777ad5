"""`reconcile guard on`, `off` and `show`, by hand and at boot, with a daemon and without; and what `status` tells."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import PROGRAM, Done, environment
from guarded import OTHERS, Guarded, guarded, lives, more_arrives, provers, wrong
from kernels import has_tun
from processes import PATIENCE_S

from reconciler.lab.frames import FRAMES, crossing, fitting

pytestmark = pytest.mark.netns

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("command")) as made:
        made.lab.run(["nft", "add " + OTHERS])
        yield made


@pytest.fixture
def alone(lasting: Guarded) -> Guarded:
    """No daemon, no guard."""
    lasting.write()
    if lasting.process is not None and lasting.process.poll() is None:
        lasting.end()
    assert said(lasting, "guard", "off") == "lab-2port: no trace of the guard is left\n"
    return lasting


@pytest.fixture
def kept(lasting: Guarded) -> Guarded:
    lasting.write()
    lasting.well()
    return lasting


def said(kept: Guarded, *words: str) -> str:
    done = kept.cli(*words)
    assert (done.code, done.err) == (0, "")
    return done.out


def left(kept: Guarded) -> list[str]:
    """What there is of the guard: tables, processes and files."""
    tables = [name for name in kept.names() if name != "inet theirs"]
    return [*tables, *map(str, provers(kept)), *(one.name for one in kept.notes.parent.glob("*.prober*")), *notes(kept)]


def notes(kept: Guarded) -> list[str]:
    """Those of the guard that is set, or was set aside; what was counted stays after any."""
    return [kept.notes.name] if kept.notes.exists() and json.loads(kept.notes.read_text())["secret"] else []


# --- without a daemon ------------------------------------------------------------------------------------------------


def test_off_leaves_no_trace_and_may_be_said_again(alone: Guarded) -> None:
    assert left(alone) == []
    assert said(alone, "guard", "on").startswith("lab-2port: the guard is set; until `reconcile run` has proven the VM")
    assert "netdev reconciler-lab-2port" in left(alone)
    for _ in range(2):
        assert said(alone, "guard", "off") == "lab-2port: no trace of the guard is left\n"
        assert left(alone) == []
    assert alone.names() == ["inet theirs"]


def test_off_ends_the_prober_that_a_dead_daemon_left(kept: Guarded) -> None:
    pid = kept.prober()["pid"]
    kept.kill()
    assert lives(pid)
    assert said(kept, "guard", "off") == "lab-2port: no trace of the guard is left\n"
    kept.until(lambda: not lives(pid), "the prober's end")
    assert left(kept) == []


def test_on_joins_the_wire_until_a_daemon_comes_and_on_again_changes_nothing(alone: Guarded) -> None:
    # All up, as a daemon has left them.
    for expected in ("the wire is bypassed\n", "the wire is bypassed\n"):
        assert said(alone, "guard", "on").endswith(expected)
    assert crossing(alone.lab, fitting()).exact
    passed = alone.counted()
    assert passed >= 3 * 24
    said(alone, "guard", "on")
    assert alone.counted() >= passed, "counters go on"
    alone.start()
    alone.inspects()
    assert alone.told("tripped") == []


def ports_down(kept: Guarded) -> None:
    """The host as it boots: no switch, and nothing is up."""
    for name in ("sw-outside", "sw-inside", "sw-bypass"):
        kept.lab.run(["ip", "link", "del", name], check=False)
    for name in ("nic0", "nic1"):
        kept.hand(f"ip link set {name} down promisc off")


@pytest.mark.long
def test_at_boot_the_wire_is_joined_without_a_daemon(alone: Guarded) -> None:
    ports_down(alone)
    assert said(alone, "guard", "on", "--boot").endswith(
        "until `reconcile run` has proven the VM, the wire is bypassed\n"
    )
    assert crossing(alone.lab, fitting()).exact
    assert alone.counted() > 0
    alone.start()
    with alone.lab.flows(1_000) as flows:
        flows.start()
        alone.inspects()
        more_arrives(alone, flows)
        assert wrong(flows.stop()) == []


def test_at_boot_a_vm_that_is_not_there_yet_is_no_mistake(alone: Guarded) -> None:
    alone.lab.kill_vm()
    ports_down(alone)
    assert said(alone, "guard", "on", "--boot").endswith("the wire is bypassed\n")
    assert crossing(alone.lab, {"ARP": FRAMES["ARP"]}).exact
    alone.lab.start_vm()


def test_at_boot_a_wire_that_fails_closed_is_cut(alone: Guarded) -> None:
    alone.write(guard={"fail": "closed"})
    ports_down(alone)
    assert said(alone, "guard", "on", "--boot").endswith("the wire is cut\n")
    assert crossing(alone.lab, {"ARP": FRAMES["ARP"]}, receivers=[]).exact


def test_at_boot_a_port_that_is_missing_is_said(alone: Guarded) -> None:
    text = alone.file.read_text()
    alone.file.write_text(text.replace("name: nic1", "name: nic7"))
    done = alone.cli("guard", "on", "--boot")
    assert done.code == 1
    assert done.err.startswith("reconcile: the guard is set, but not all of the wire is up: port inside: ")
    assert "nic7" in done.err
    assert len(done.err.splitlines()) == 1


# --- with a daemon ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_daemon_takes_it_away_and_sets_it_again_without_a_loss(kept: Guarded) -> None:
    pid, lines = kept.prober()["pid"], len(kept.lines)
    with kept.lab.flows(1_000) as flows:
        flows.start()
        more_arrives(kept, flows)
        assert "the daemon leaves it away until" in said(kept, "guard", "off")
        kept.until(lambda: not lives(pid), "the prober's end")
        assert left(kept) == [kept.notes.name], "which say that it is off"
        assert kept.guard()["state"] == "off"
        assert kept.is_on("inspect")
        more_arrives(kept, flows, frames=300)
        assert said(kept, "guard", "on") == "lab-2port: the guard is set; the daemon keeps it\n"
        kept.until(kept.is_leased, "the guard")
        more_arrives(kept, flows, frames=300)
        assert wrong(flows.stop()) == []
    assert {line["event"] for line in kept.lines[lines:]} & {"tripped", "switched"} == set()


def test_off_outlives_the_daemon(kept: Guarded) -> None:
    said(kept, "guard", "off")
    kept.kill()
    kept.start()
    kept.until(lambda: kept.status()["running_ms"] > 500, "what it would set")
    assert (kept.guard()["state"], provers(kept)) == ("off", [])
    assert kept.names() == ["inet theirs"]
    said(kept, "guard", "on")
    kept.inspects()


def test_a_file_without_a_guard_takes_it_away(kept: Guarded) -> None:
    kept.file.write_text(kept.file.read_text().replace("guard: {}\n", ""))
    kept.reload()
    kept.until(lambda: kept.names() == ["inet theirs"] and provers(kept) == [], "no guard")
    assert kept.status()["guard"] is None
    assert kept.is_on("inspect")
    kept.write()
    kept.reload()
    kept.inspects()


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_show_prints_what_nft_reads_and_what_is_in_force(kept: Guarded) -> None:
    shown = said(kept, "guard", "show")
    path = kept.folder / "shown.nft"
    path.write_text(shown)
    assert kept.lab.run(["nft", "-c", "-f", str(path)]).returncode == 0
    for word in ("table netdev reconciler-lab-2port", "edge/port/outside", "edge/adapter/inside", "edge/granted"):
        assert word in shown
        assert word in kept.nft("list", "ruleset")
    assert kept.mark.hex(":") not in shown, "the secret is none of a reader's business"


@pytest.mark.long
def test_status_tells_of_trips_frames_and_the_prober(kept: Guarded) -> None:
    trips = kept.guard()["trips"]
    guard: dict[str, Any] = {}

    def tells(segment: Callable[[dict[str, Any]], bool]) -> Callable[[], bool]:
        """Whether the command line tells of a segment like this and of a prober that runs.

        On a busy machine, one that starts late is replaced meanwhile, and then it tells of that.
        """

        def holds() -> bool:
            guard.update(json.loads(kept.cli("status", "-o", "json").out)["guard"])
            prober = guard["prober"]
            return bool(prober["pid"] in provers(kept) and prober["priority"] and segment(guard["segments"][0]))

        return holds

    with kept.lab.flows(1_000) as flows:
        flows.start()
        more_arrives(kept, flows)
        kept.lab.blackhole_vm()
        kept.passes_by()
        more_arrives(kept, flows)
        kept.until(tells(lambda one: one["state"] == "joined" and one["trips"] > trips), "a trip", PATIENCE_S)
        passed = kept.status()["segments"][0]["passed"]
        assert passed["ms"] > 0
        assert passed["frames"] > 200
        assert guard["prober"]["priority"].startswith(("fifo", "nice", "none"))
        text = kept.cli("status").out
        kept.lab.unblock_vm()
        kept.inspects()
    assert "  edge  bypassed by the guard  " in text
    assert re.search(r"\nguard\n  edge  tripped (once|\d+ times)\n", text)
    assert "went past the VM" in text
    both = ["back", "back"]
    kept.until(
        tells(lambda one: [way["state"] for way in one["directions"]] == both), "probes to come back", PATIENCE_S
    )
    assert told_frames(kept) >= passed["frames"]


def by_flush(kept: Guarded) -> None:
    table = kept.fingerprint()
    kept.hand("nft flush ruleset")
    kept.until(lambda: kept.fingerprint() == table, "the table")


def by_the_daemon(kept: Guarded) -> None:
    total = told_frames(kept)
    assert said(kept, "guard", "off")
    assert told_frames(kept) == total, "while it is off, too"
    assert said(kept, "guard", "on")


def by_hand(kept: Guarded) -> None:
    kept.kill()
    for word in ("off", "off", "on", "on"):
        assert said(kept, "guard", word)
    kept.start()


def by_a_flush_without_a_daemon(kept: Guarded) -> None:
    told = told_frames(kept)
    # What was read is written by a thread: one that is killed before that has read nothing.
    kept.until(lambda: noted_frames(kept) == told, "the notes")
    kept.kill()
    kept.hand("nft flush ruleset")
    kept.start()


def by_another_file(kept: Guarded) -> None:
    kept.write(guard={"lease": "300ms"})
    kept.reload()
    kept.until(lambda: kept.guard()["lease_ms"] == 300, "the other lease")


def by_a_file_without_a_guard(kept: Guarded) -> None:
    whole = kept.file.read_text()
    kept.file.write_text(whole.replace("guard: {}\n", ""))
    kept.reload()
    kept.until(lambda: kept.status()["guard"] is None, "no guard")
    kept.kill()
    kept.start()
    kept.file.write_text(whole)
    kept.reload()


def noted_frames(kept: Guarded) -> int:
    notes = json.loads(kept.notes.with_name(f"{kept.sku}.books.json").read_text())
    return sum(one["sums"]["passed"]["frames"] for one in notes["accounts"].values())


def told_frames(kept: Guarded) -> int:
    return int(kept.status()["segments"][0]["passed"]["frames"])


@pytest.mark.parametrize(
    "end", [by_flush, by_the_daemon, by_hand, by_a_flush_without_a_daemon, by_another_file, by_a_file_without_a_guard]
)
def test_whatever_becomes_of_the_table_no_frame_is_lost_or_invented(
    kept: Guarded, end: Callable[[Guarded], None]
) -> None:
    kept.ask("hold", topology="bypass", reason="maintenance", seconds=1_000)
    kept.passes_by()
    total = told_frames(kept)
    for _ in range(2):
        before = kept.counted()
        assert crossing(kept.lab, fitting()).exact
        new = kept.counted() - before
        assert new >= 3 * 24
        total += new
        assert told_frames(kept) == total
        end(kept)
        kept.until(lambda: kept.guard()["state"] == "joined", "the table")
        assert told_frames(kept) == total
    kept.ask("release")
    kept.inspects()
    assert told_frames(kept) == total
    assert not [line for line in kept.lines if line.get("frames", 0) < 0]


# --- mistakes --------------------------------------------------------------------------------------------------------


def refused(done: Done, *words: str, code: int = 1) -> None:
    assert done.code == code, done
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err, done.err


@pytest.mark.parametrize("verb", ["on", "show"])
def test_a_file_that_declares_none(alone: Guarded, verb: str) -> None:
    alone.file.write_text(alone.file.read_text().replace("guard: {}\n", ""))
    refused(alone.cli("guard", verb), "the file of lab-2port declares no guard: write `guard: {}` into it")


@pytest.mark.parametrize("words", [("on",), ("on", "--boot"), ("off",)])
def test_who_may_not(alone: Guarded, words: tuple[str, ...]) -> None:
    if os.geteuid() != 0 or not has_tun():
        pytest.skip("other users are for root of the machine only")
    with contextlib.ExitStack() as stack:
        # Readable by everybody, so that what is refused is the guard.
        for folder in [alone.folder, *alone.folder.parents][:4]:
            mode = folder.stat().st_mode
            stack.callback(folder.chmod, mode)
            folder.chmod(mode | 0o055)
        done = alone.cli("guard", *words, prefix=NOBODY)
    refused(done)
    assert len(done.err.splitlines()) == 1
    assert left(alone) == []


def test_unknown_words(alone: Guarded) -> None:
    refused(alone.cli("guard", "of"), "No such command 'of'", code=2)
    refused(alone.cli("guard", "on", "--bot"), "No such option", code=2)
    refused(alone.cli("guard", "off", "now"), "unexpected extra argument", code=2)


def test_a_daemon_of_another_file(kept: Guarded, tmp_path: Path) -> None:
    """Its appliance is another one: without a daemon of its own, it is set by hand, and the daemon's is left alone."""
    table = kept.fingerprint()
    other = tmp_path / "other.yaml"
    other.write_text(kept.file.read_text().replace("sku: lab-2port", "sku: other"))
    done = kept.lab.run([*PROGRAM, "guard", "-f", str(other), "off"], env=environment(**kept.folders), check=False)
    assert (done.returncode, done.stdout) == (0, "other: no trace of the guard is left\n")
    assert (kept.fingerprint(), kept.is_leased()) == (table, True)


@pytest.mark.long
def test_a_daemon_whose_file_declares_none(kept: Guarded) -> None:
    whole = kept.file.read_text()
    kept.file.write_text(whole.replace("guard: {}\n", ""))
    kept.reload()
    kept.file.write_text(whole)
    refused(kept.cli("guard", "on"), "the file declares no guard")
    kept.reload()
    kept.inspects()


def test_who_takes_the_guard_away_by_hand_is_in_the_report(alone: Guarded) -> None:
    said(alone, "guard", "on")
    said(alone, "guard", "off")
    done = alone.cli("report", "--since", "1h", "--format", "json")
    assert done.err == ""
    (appliance,) = json.loads(done.out)["appliances"]
    told = [(one["kind"], one["who"], one["to"] is None) for one in appliance["intervals"]]
    assert ("guard-on", "root", False) in told
    assert told[-1] == ("guard-off", "root", True)
