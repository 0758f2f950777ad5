"""Where frames really go, as everybody who looks says it: with a daemon, without one, and where one was stopped."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from formats import check
from guarded import Guarded, guarded

from reconciler.lab.frames import crossing, fitting

pytestmark = pytest.mark.netns

SKU = "lab-2port"


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("path")) as made:
        yield made


@pytest.fixture
def kept(lasting: Guarded) -> Iterator[Guarded]:
    """A VM that forwards, a daemon, and a wire that is inspected."""
    lasting.write()
    lasting.well()
    yield lasting
    lasting.lab.unblock_vm()


def status(kept: Guarded) -> tuple[int, Any]:
    done = kept.cli("status", "-o", "json")
    told = json.loads(done.out)
    check("status", told)
    return done.code, told


def path(kept: Guarded) -> tuple[int, str, str]:
    """What `status` ends with, and says of the wire."""
    code, told = status(kept)
    (segment,) = told["segments"]
    return code, segment["path"], segment["path_by"]


def dry_run(kept: Guarded) -> tuple[int, Any]:
    done = kept.cli("--dry-run", "-o", "json")
    return done.code, json.loads(done.out)


def hang(kept: Guarded) -> None:
    """The VM forwards nothing any more, and has its carrier still; wait until the guard has the wire."""
    kept.lab.blackhole_vm()
    kept.until(lambda: not kept.stands(), "the guard's trip")


def codes(told: Any) -> set[str]:
    return {one["code"] for one in told["warnings"]}


# --- without a daemon ------------------------------------------------------------------------------------------------


def test_inspected_by_everybody(kept: Guarded) -> None:
    assert path(kept) == (0, "inspected", "switches")
    code, plan = dry_run(kept)
    assert (code, plan["changes"], plan["paths"][0]["path"]) == (0, [], "inspected")
    kept.kill()
    # The prober outlives the daemon by its grace.
    assert path(kept) == (0, "inspected", "switches")
    assert dry_run(kept)[0] == 0


def test_a_dead_daemon_and_a_hung_vm(kept: Guarded) -> None:
    kept.kill()
    hang(kept)
    code, told = status(kept)
    (segment,) = told["segments"]
    assert (code, segment["path"], segment["path_by"]) == (4, "bypassed", "guard")
    assert "no-daemon" in codes(told)
    assert {way["path"] for way in segment["ways"]} == {"bypassed"}
    code, plan = dry_run(kept)
    assert (code, plan["changes"], plan["paths"][0]["path"]) == (4, [], "bypassed")
    text = kept.cli("--dry-run")
    assert text.code == 4
    assert "bypassed by the guard (guard: no lease stands, and it forwards nic0 to nic1)" in text.out
    assert crossing(kept.lab, fitting()).exact


def test_a_stopped_daemon_and_a_hung_vm(kept: Guarded) -> None:
    assert kept.process is not None
    os.kill(kept.process.pid, signal.SIGSTOP)
    try:
        hang(kept)
        code, told = status(kept)
        assert (code, told["segments"][0]["path"]) == (4, "bypassed")
        assert "daemon-hangs" in codes(told)
        assert dry_run(kept)[0] == 4
    finally:
        os.kill(kept.process.pid, signal.SIGCONT)


def test_the_guards_rules_are_told_and_not_what_the_file_says(kept: Guarded) -> None:
    kept.kill()
    hang(kept)
    kept.write(on_failure={"fail": "closed"})
    assert path(kept)[:2] == (4, "bypassed"), "nobody has set it again"


# --- the guard, compared ---------------------------------------------------------------------------------------------


def guard_change(plan: Any) -> tuple[str, str, str] | None:
    found = [one for one in plan["changes"] if one["role"] and one["role"]["kind"] == "guard"]
    return (found[0]["change"], found[0]["setting"], found[0]["old"] or "") if found else None


def test_a_table_that_is_gone_is_a_difference(kept: Guarded) -> None:
    kept.kill()
    kept.nft("delete", "table", "netdev", f"reconciler-{SKU}")
    code, plan = dry_run(kept)
    assert (code, guard_change(plan)) == (3, ("make", "table", "not in the kernel"))
    assert kept.cli("--dry-run", "-o", "commands").out.splitlines()[-1] == "reconcile guard on"
    code, told = status(kept)
    assert (code, "guard-missing" in codes(told)) == (3, True)


def test_rules_that_somebody_changed_are_a_difference(kept: Guarded) -> None:
    kept.kill()
    kept.nft("add", "chain", "netdev", f"reconciler-{SKU}", "mine")
    code, plan = dry_run(kept)
    assert (code, guard_change(plan)) == (3, ("set", "rules", "changed by somebody"))


def test_a_table_of_another_file_is_a_difference(kept: Guarded) -> None:
    kept.kill()
    kept.write(guard={"lease": "350ms"})
    code, plan = dry_run(kept)
    assert code == 3
    assert guard_change(plan) == ("set", "rules", "of another file, or for other interfaces")


def test_a_table_that_nobody_declared_is_a_difference(kept: Guarded) -> None:
    kept.kill()
    text = kept.file.read_text()
    kept.file.write_text("\n".join(line for line in text.splitlines() if not line.startswith("guard")))
    code, plan = dry_run(kept)
    assert (code, guard_change(plan)) == (3, ("remove", "table", "not declared"))
    commands = kept.cli("--dry-run", "-o", "commands").out.splitlines()
    assert commands[-1] == f"nft delete table netdev reconciler-{SKU}"
    kept.lab.run(commands[-1].split())
    assert dry_run(kept)[1]["changes"] == []


def test_a_guard_that_is_off_is_a_difference_with_a_daemon_and_without(kept: Guarded) -> None:
    kept.cli("guard", "off")
    for _ in range(2):
        code, plan = dry_run(kept)
        assert (code, guard_change(plan)) == (3, ("make", "table", "off on purpose"))
        assert status(kept)[0] == 3
        if kept.process and kept.process.poll() is None:
            kept.end()
    assert kept.cli("guard", "on").code == 0


# --- what the daemon goes by -----------------------------------------------------------------------------------------


def test_a_file_that_is_not_in_force_is_a_difference(kept: Guarded) -> None:
    before = kept.file.read_text()
    kept.file.write_text(before + "\n# another one\n")
    code, told = status(kept)
    assert (code, told["warnings"][0]["code"]) == (3, "file-not-in-force")
    assert told["file"] == str(kept.file)
    code, plan = dry_run(kept)
    assert (code, [one["role"]["kind"] for one in plan["changes"]]) == (3, ["daemon"])
    assert kept.cli("reload").code == 0
    kept.known = kept.file.read_text()
    assert status(kept)[0] == 0
    assert dry_run(kept)[0] == 0


# --- the ends of the wire --------------------------------------------------------------------------------------------


def test_a_cable_that_is_pulled_is_a_warning_and_a_cut(kept: Guarded) -> None:
    kept.lab.unplug(1)
    try:
        kept.until(lambda: path(kept)[:2] == (5, "cut"), "the cut")
        told = status(kept)[1]
        assert "port-no-carrier" in codes(told)
        assert {way["evidence"] for way in told["segments"][0]["ways"]} == {"port inside: nic1 has no carrier"}
        assert dry_run(kept)[0] == 5
        (line,) = [one for one in kept.told("path") if one["path"] == "cut"]
        assert line["level"] == "critical"
    finally:
        kept.lab.replug(1)
    kept.until(lambda: path(kept)[0] == 0, "the wire")


def test_since_when_is_kept_over_a_restart(kept: Guarded) -> None:
    def since() -> str:
        return str(status(kept)[1]["segments"][0]["path_since"])

    began = since()
    kept.kill()
    told = status(kept)[1]["segments"][0]
    assert told["path_since"][:19] == began[:19]
    kept.start()
    kept.until(kept.is_leased, "the lease")
    assert since()[:18] == began[:18]


# --- what stands in the way ------------------------------------------------------------------------------------------


def test_rules_that_drop_what_crosses_a_switch(kept: Guarded) -> None:
    kept.nft("add table bridge theirs { chain c { type filter hook forward priority 0; policy drop; }; }")
    try:
        kept.until(lambda: path(kept)[:2] == (1, "unknown"), "the doubt")
        assert dry_run(kept)[0] == 1
        kept.kill()
        assert path(kept)[:2] == (1, "unknown")
    finally:
        kept.nft("delete", "table", "bridge", "theirs")


# --- with a daemon ---------------------------------------------------------------------------------------------------


def test_a_canary_that_is_not_required_keeps_nobody_from_telling_the_truth(kept: Guarded) -> None:
    kept.write(signals={"canary": {"kind": "canary", "required": False}})
    kept.ask("reload")
    kept.inspects()
    hang(kept)
    kept.until(lambda: path(kept) == (4, "bypassed", "guard"), "the truth")
    assert crossing(kept.lab, fitting()).exact
    assert dry_run(kept)[0] == 4


def test_the_guard_overrules_a_hold(kept: Guarded) -> None:
    assert kept.cli("hold", "inspect", "--for", "30m", "--reason", "tests").code == 0
    hang(kept)
    kept.until(lambda: path(kept) == (4, "bypassed", "guard"), "the guard's path")
    assert crossing(kept.lab, fitting()).exact
    assert kept.cli("release").code == 0


def test_a_cut_that_was_asked_for(kept: Guarded) -> None:
    kept.write(on_failure={"fail": "closed"})
    kept.ask("reload")
    # A daemon that dies before its notes are written leaves a table that nobody can vouch for.
    kept.until(lambda: kept.is_leased() and dry_run(kept)[0] == 0, "the table of the new file, and its notes")
    kept.kill()
    hang(kept)
    assert path(kept) == (5, "cut", "guard")
    assert dry_run(kept)[0] == 5


def test_a_longer_hold_is_no_other_path(kept: Guarded) -> None:
    assert kept.cli("hold", "bypass", "--for", "30m", "--reason", "tests").code == 0
    before = status(kept)[1]["segments"][0]
    assert (before["path"], before["path_ms"] < 60_000) == ("bypassed", True)
    assert kept.cli("hold", "bypass", "--for", "31m", "--reason", "again").code == 0
    after = status(kept)[1]["segments"][0]
    assert after["path_since"][:18] == before["path_since"][:18]
    assert kept.cli("release").code == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_nic_that_was_renamed_and_then_the_vm_dies(kept: Guarded, *, restarted: bool) -> None:
    kept.hand("ip link set nic1 down; ip link set nic1 name lan9; ip link set lan9 up")
    try:
        kept.until(lambda: "port-missing" in codes(status(kept)[1]), "the news")
        if restarted:
            kept.end()
            kept.start()
        assert path(kept)[1] in ("inspected", "bypassed")
        hang(kept)
        kept.until(lambda: path(kept)[:2] == (4, "bypassed"), "the guard's path")
        assert crossing(kept.lab, fitting()).exact
        kept.kill()
        assert path(kept) == (4, "bypassed", "guard")
    finally:
        kept.hand("ip link set lan9 down; ip link set lan9 name nic1; ip link set nic1 up")


def test_a_nic_that_was_renamed_and_a_hold_on_bypass(kept: Guarded) -> None:
    kept.hand("ip link set nic1 down; ip link set nic1 name lan9; ip link set lan9 up")
    try:
        kept.until(lambda: "port-missing" in codes(status(kept)[1]), "the news")
        kept.cli("hold", "bypass", "--for", "30m", "--reason", "tests")
        kept.until(lambda: path(kept) == (4, "bypassed", "guard"), "the guard's path")
        assert crossing(kept.lab, fitting()).exact
    finally:
        kept.hand("ip link set lan9 down; ip link set lan9 name nic1; ip link set nic1 up")
