"""The daemon as a process, on a live kernel in the lab: it adopts, follows, repairs, is asked and steered, and survives."""

import contextlib
import grp
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from commandline import PROGRAM, Done, environment
from kernels import has_tun
from processes import ending
from test_live_audit import TAMPERINGS

from reconciler.control.ask import ask
from reconciler.errors import HostError, TransientError
from reconciler.lab.lab import Lab, _add_cable, _mac, netlink, wait_until
from reconciler.lab.namespaces import LabError, set_link_up

pytestmark = pytest.mark.netns

SOON_S = 10.0
CARRIER = {"wire": {"kind": "carrier"}}


class Keeping:
    """A lab's host, an appliance file for it, and the daemon that keeps it."""

    def __init__(self, lab: Lab, folder: Path, **more: Any) -> None:
        self.lab, self.folder = lab, folder
        self.file = folder / "keep.yaml"
        self.write(**more)
        self.folders = {"RECONCILER_STATE_DIR": str(folder / "state"), "RECONCILER_RUN_DIR": str(folder / "run")}
        self.socket = folder / "run" / "keep.sock"
        self.log = folder / "log"
        self.process: subprocess.Popen[Any] | None = None

    def write(self, *, signals: Any = None, sku: str = "keep", adapters: Any = None, **more: Any) -> None:
        health = {"hold_down": "300ms", "hold_down_max": "1s", "grace": "300ms", "flap_memory": "1s"}
        document = {
            "schema": "reconciler/v1",
            "appliance": {"sku": sku},
            "ports": {
                "mgmt": {"match": {"name": "mgmt0"}, "role": "management"},
                "outside": {"match": {"name": "nic0"}},
                "inside": {"match": {"name": "nic1"}},
            },
            "vm": {"adapters": adapters or {"outside": {"interface": "vnet0"}, "inside": {"interface": "vnet1"}}},
            "topologies": {"inspect": {"pair": "all"}, "bypass": {"join": "all"}},
            "health": {**health, "signals": CARRIER if signals is None else signals},
        }
        self.file.write_text(json.dumps({**document, **more}))

    # The process

    def start(self, *more: str, **variables: str) -> "subprocess.Popen[Any]":
        """Start it, and wait until it answers."""
        assert self.process is None or self.process.poll() is not None
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            self.process = self.lab.host.spawn(
                [*PROGRAM, "run", "-f", str(self.file), "--log", "json", *more],
                env=environment(**self.folders, **variables),
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        process = self.process
        wait_until(lambda: process.poll() is not None or self.answers(process.pid), 2 * SOON_S, "the daemon to answer")
        assert process.poll() is None, self.log.read_text()
        return process

    def answers(self, pid: int) -> bool:
        try:
            return self.status()["pid"] == pid
        except (HostError, TransientError):
            return False

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(SOON_S)
        assert "Traceback" not in self.log.read_text()
        return code

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        return ask(self.socket, do=do, **more)

    def status(self) -> dict[str, Any]:
        return dict(self.ask("status")["status"])

    def cli(self, *words: str, prefix: tuple[str, ...] = (), file: bool = True) -> Done:
        """The command line in a process of its own, in the host's namespace."""
        named = ["-f", str(self.file)] if file else []
        done = self.lab.run(
            [*prefix, *PROGRAM, *words, *named], env=environment(**self.folders), check=False, timeout_s=60
        )
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    @property
    def lines(self) -> list[dict[str, Any]]:
        whole = self.log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def told(self, *events: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] in events]

    @property
    def rss_mb(self) -> float:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) / 1024

    # The network

    def hand(self, command: str) -> None:
        done = self.lab.run(["sh", "-ec", command], check=False, timeout_s=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def where(self, *names: str) -> list[str | None]:
        """The switches of interfaces, from the kernel; None also for one that is not there."""
        told = json.loads(self.lab.run(["ip", "-j", "link"]).stdout)
        found = {one["ifname"]: one.get("master") for one in told}
        return [found.get(name) for name in names]

    def is_on(self, topology: str) -> bool:
        switches = {"inspect": ["sw-outside", "sw-inside"], "bypass": ["sw-bypass", "sw-bypass"]}[topology]
        return self.where("nic0", "nic1") == switches

    def until(self, condition: Callable[[], bool], what: str, within_s: float = SOON_S) -> float:
        """Wait for a condition; after how long it held."""
        began = time.monotonic()
        wait_until(condition, within_s, f"{what}; the log:\n{self.log.read_text()[-3000:]}")
        return time.monotonic() - began

    def goes_to(self, topology: str, within_s: float = SOON_S) -> float:
        return self.until(lambda: self.is_on(topology), topology, within_s)

    def rests(self) -> None:
        """Wait until the daemon says that all is as wanted."""
        self.until(lambda: bool(self.status()["network"]["converged"]), "a network as wanted")

    def well(self) -> None:
        """Whatever a test has left: a VM that runs, a daemon that keeps it inspected."""
        if self.lab.vm is None:
            self.lab.start_vm()
        if self.process is None or self.process.poll() is not None:
            self.start()
        with contextlib.suppress(HostError):
            self.ask("release")
        self.goes_to("inspect")
        self.rests()


@contextlib.contextmanager
def keeping(folder: Path, *, traffic: bool = True, **more: Any) -> Iterator[Keeping]:
    with Lab(2, traffic=traffic) as lab:
        yield Keeping(lab, folder, **more)


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeping]:
    request.getfixturevalue("lab_root")
    with keeping(tmp_path_factory.mktemp("daemon")) as made:
        yield made


@pytest.fixture
def kept(lasting: Keeping) -> Keeping:
    lasting.write()
    lasting.well()
    return lasting


@contextlib.contextmanager
def traffic(kept: Keeping) -> Iterator[Callable[[], int]]:
    """Frames both ways, a thousand a second; what is given ends them, and tells how many were lost or came twice."""
    with kept.lab.flows(1_000) as flows:
        flows.start()

        def end() -> int:
            kept.until(lambda: min(flows.arrived()) > 300, "traffic")
            measured = flows.stop()
            return sum(one.lost + one.duplicated for one in measured)

        yield end


# --- start, restart, stop --------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_restart_loses_no_frame_and_touches_nothing(kept: Keeping, number: signal.Signals) -> None:
    with traffic(kept) as lost:
        code = kept.end(number)
        assert code == (-9 if number is signal.SIGKILL else 0)
        assert kept.is_on("inspect")
        kept.start()
        kept.until(lambda: kept.status()["running_ms"] > 400, "what it would do wrong")
        assert lost() == 0
    assert kept.told("switched", "repaired", "failed", "problem") == []
    assert kept.lines[0]["text"] == "keep: found inspect; wanted inspect"


def test_it_says_that_it_stopped_and_takes_its_socket_away(kept: Keeping) -> None:
    kept.end()
    assert kept.lines[-1]["text"] == "stopped; the network stays as it is"
    assert not kept.socket.exists()


def test_killed_in_bypass_it_stays_there_until_the_vm_has_proven_itself(kept: Keeping) -> None:
    kept.lab.kill_vm()
    kept.goes_to("bypass")
    kept.end(signal.SIGKILL)
    kept.start()
    assert kept.is_on("bypass")
    kept.lab.start_vm()
    assert kept.goes_to("inspect") >= 0.25


def test_both_dead_and_the_daemon_started_again_it_is_in_bypass_at_once(kept: Keeping) -> None:
    kept.end(signal.SIGKILL)
    kept.lab.kill_vm()
    kept.start()
    kept.goes_to("bypass")


def test_what_to_leave_behind_can_be_said(kept: Keeping) -> None:
    kept.end()
    kept.start("--stop-topology", "bypass")
    assert kept.is_on("inspect")
    assert kept.end() == 0
    assert kept.is_on("bypass"), kept.log.read_text()
    assert kept.lines[-1]["text"] == "stopped; left on bypass, as wanted"


@pytest.mark.long
def test_the_service_manager_is_told_when_it_is_ready_alive_and_stopping(kept: Keeping) -> None:
    kept.end()
    path = kept.folder / "notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(SOON_S)
        kept.start(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="400000")
        assert b"READY=1" in manager.recv(4096)
        for _ in range(5):
            assert manager.recv(4096) == b"WATCHDOG=1"
        assert kept.process is not None
        # One that is stopped is not alive.
        kept.process.send_signal(signal.SIGSTOP)
        manager.settimeout(0.5)
        assert _heard(manager) < 10
        kept.process.send_signal(signal.SIGCONT)
        manager.settimeout(SOON_S)
        kept.end()
        told = b""
        while b"STOPPING" not in told:
            told = manager.recv(4096)


def _heard(manager: socket.socket) -> int:
    """How much is told before nothing is for a while."""
    number = 0
    with contextlib.suppress(TimeoutError):
        while manager.recv(4096):
            number += 1
            assert number < 1_000
    return number


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\x00" * 10_000, b'{"boot": 1}', b'{"now_ms": 1e999, "boot": "", "wall_ms": 1}']
)
def test_a_memory_of_garbage_is_set_aside_and_nothing_lost(kept: Keeping, content: bytes) -> None:
    kept.end()
    memory = kept.folder / "state" / "keep.memory.json"
    memory.write_bytes(content)
    kept.start()
    assert kept.is_on("inspect")
    assert kept.told("switched", "repaired") == []
    assert "set aside" in kept.told("memory")[0]["text"]
    assert memory.with_name("keep.memory.json.set-aside").read_bytes() == content


def test_a_second_one_for_the_same_appliance_is_told_who_keeps_it(kept: Keeping) -> None:
    program = kept.lab.host.spawn(
        [*PROGRAM, "run", "-f", str(kept.file)],
        env=environment(**kept.folders),
        stderr=subprocess.PIPE,
        text=True,
    )
    with ending(program) as second:
        assert second.stderr is not None
        assert kept.process is not None
        assert f"pid {kept.process.pid} (" in second.stderr.readline()
        second.terminate()
        second.communicate(timeout=SOON_S)
    assert kept.answers(kept.process.pid)


def test_a_group_that_there_is_not_ends_it_before_anything_is_touched(kept: Keeping) -> None:
    kept.end()
    kept.hand("ip link set nic0 nomaster")
    done = kept.cli("run", "--group", "nobody-is-in-it")
    assert (done.code, done.out) == (1, "")
    assert "there is no group 'nobody-is-in-it'" in done.err
    assert kept.where("nic0") == [None]


# --- what happens to the network -------------------------------------------------------------------------------------


def test_the_vm_dies_and_comes_back(kept: Keeping) -> None:
    for _ in range(2):
        kept.lab.kill_vm()
        assert kept.goes_to("bypass") < 1.0
        assert kept.status()["segments"][0]["verdict"] == "failed"
        kept.lab.start_vm()
        assert kept.goes_to("inspect") >= 0.25
        kept.rests()
        assert kept.where("vnet0", "vnet1") == ["sw-outside", "sw-inside"]
    assert kept.told("conflict", "failed", "bug") == []


def test_traffic_flows_on_while_the_vm_is_dead(kept: Keeping) -> None:
    kept.lab.kill_vm()
    kept.goes_to("bypass")
    with traffic(kept) as lost:
        assert lost() == 0


@pytest.mark.long
def test_the_cable_is_pulled_and_put_back(kept: Keeping) -> None:
    before = len(kept.told("switched", "problem", "failed"))
    kept.lab.unplug(0)
    kept.until(lambda: "NO-CARRIER" in kept.lab.run(["ip", "link", "show", "nic0"]).stdout, "no carrier")
    assert kept.is_on("inspect")
    kept.lab.replug(0)
    kept.rests()
    assert kept.is_on("inspect")
    assert len(kept.told("switched", "problem", "failed")) == before
    with traffic(kept) as lost:
        assert lost() == 0


def warned(kept: Keeping) -> dict[str, str]:
    """The codes of the warnings, and about what they are."""
    return {one["code"]: one["about"] for one in kept.status()["warnings"]}


def test_a_nic_that_is_renamed_is_missed_by_name_and_found_again(kept: Keeping) -> None:
    before = len(kept.told("problem"))
    kept.hand("ip link set nic1 down; ip link set nic1 name elsewhere")
    kept.until(lambda: "port-missing" in warned(kept), "the problem")
    assert re.search("this machine has:\n +[a-z0-9]+: ", kept.cli("status").out)
    assert kept.where("nic0") == ["sw-outside"]
    kept.hand("ip link set elsewhere name nic1")
    kept.rests()
    assert kept.is_on("inspect")
    (missing,) = (one for one in kept.told("problem")[before:] if one["warning"]["code"] == "port-missing")
    assert re.search("; this machine has: [a-z0-9]+: .*mac .*; [a-z0-9]+: ", missing["text"])
    assert len(kept.told("problem")) == len(kept.told("solved"))


def test_a_nic_that_keeps_its_old_name_beside_the_new_one_is_followed(kept: Keeping) -> None:
    kept.hand("ip link set nic1 down; ip link set nic1 name elsewhere; ip link property add dev elsewhere altname nic1")
    try:
        kept.until(lambda: kept.where("elsewhere") == ["sw-inside"], "the renamed NIC")
        kept.rests()
        kept.lab.kill_vm()
        kept.until(lambda: kept.where("nic0", "elsewhere") == ["sw-bypass", "sw-bypass"], "bypass")
    finally:
        kept.hand(
            "ip link property del dev elsewhere altname nic1; ip link set elsewhere down; ip link set elsewhere name nic1"
        )


@pytest.mark.long
def test_a_nic_that_is_gone_and_comes_back_as_another_one(kept: Keeping) -> None:
    kept.hand("ip link delete nic1")
    kept.until(lambda: "port-missing" in warned(kept), "the problem")
    # It is followed while it is away, too.
    kept.lab.kill_vm()
    kept.until(lambda: kept.where("nic0") == ["sw-bypass"], "bypass of what is left")
    netlink(
        kept.lab.host, lambda ipr: _add_cable(ipr, "nic1", kept.lab.clients[1], "wire", address=_mac("02:00:00", 1))
    )
    with kept.lab.clients[1].entered():
        set_link_up("wire", up=True)
    kept.goes_to("bypass")
    kept.lab.start_vm()
    kept.goes_to("inspect")
    kept.rests()
    with traffic(kept) as lost:
        assert lost() == 0


@pytest.mark.skipif(not has_tun(), reason="/dev/net/tun is for root of the machine only")
def test_a_tap_of_ours_that_is_deleted_is_made_again(kept: Keeping) -> None:
    kept.end()
    kept.write(signals={}, adapters={"outside": {"tap": "keep-out"}, "inside": {"tap": "keep-in"}})
    try:
        kept.start()
        kept.rests()
        assert kept.where("keep-out", "keep-in") == ["sw-outside", "sw-inside"]
        kept.hand("ip link delete keep-in")
        kept.until(lambda: kept.where("keep-in") == ["sw-inside"], "the tap")
        kept.rests()
    finally:
        kept.end()
        kept.write()


def test_drift_by_hand_is_repaired_within_a_tenth_of_a_second_and_told(kept: Keeping) -> None:
    commands = (
        "ip link set nic1 nomaster",
        "ip link set nic0 mtu 1400",
        "ip link set sw-outside type bridge stp_state 1",
        "ip link set vnet0 nomaster",
        "ip link delete sw-bypass",
        "ip link set nic0 type bridge_slave hairpin on",
        "ip address add 198.51.100.1/24 dev nic1",
    )
    took = []
    for command in commands:
        before = kept.status()["network"]["repaired"]
        began = time.monotonic()
        kept.hand(command)
        kept.until(lambda before=before: kept.status()["network"]["repaired"] > before, command)  # type: ignore[misc]
        took.append(time.monotonic() - began)
        kept.rests()
    assert kept.is_on("inspect")
    assert any("nic1) switch: none → sw-inside" in line["text"] for line in kept.told("repaired"))
    # With the shell that made it and the question whether it was repaired; in the best of these cases.
    assert min(took) < 0.1, took
    assert kept.told("conflict") == []


@pytest.mark.long
def test_whatever_an_audit_can_find_there_is_news_of(kept: Keeping) -> None:
    """Else it would wait for the next look that no news asks for."""
    late = []
    for name, (command, _) in TAMPERINGS.items():
        # Of an alias that is given to a link that is down, the kernel tells nobody (netdev_state_change()).
        if name in ("vlan_filtering", "a leftover"):
            continue
        # What was repaired before is no conflict.
        kept.ask("reload")
        kept.rests()
        before = kept.status()["network"]["repaired"]
        # A hand of several commands may find the first of them repaired when it comes to the last.
        kept.lab.run(["sh", "-c", command.replace("reconciler:live:", "reconciler:keep:")], check=False)
        try:
            kept.until(lambda before=before: kept.status()["network"]["repaired"] > before, name, 3)  # type: ignore[misc]
        except LabError:
            # What a reload has every switch forget may have taken it along: then it is gone, and nobody had to be told.
            if kept.cli("--dry-run").code == 3:
                late.append(name)
            kept.cli()
    kept.hand("ip link delete stranger0")
    assert late == []


def test_somebody_who_fights_is_recognised_and_slowed_down_and_over_when_all_switches(kept: Keeping) -> None:
    def undo() -> bool:
        with contextlib.suppress(AssertionError):
            kept.hand("ip link set nic1 nomaster")
        return bool(kept.told("conflict"))

    kept.until(undo, "a conflict")
    assert warned(kept)["conflict"] == "nic1"
    kept.hand("ip link set nic1 nomaster")
    assert kept.where("nic1") == [None]
    kept.ask("hold", topology="bypass", reason="x", seconds=60)
    assert kept.is_on("bypass")
    assert "conflict" not in warned(kept)


# --- other signals ---------------------------------------------------------------------------------------------------


class Agent:
    """QEMU's end of the agent's channel."""

    def __init__(self, path: Path) -> None:
        self.path, self.state, self.silent, self._over = path, "healthy", False, False
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        self._server.bind(str(path))
        self._server.listen(4)
        self._server.settimeout(0.1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        number = 0
        while not self._over:
            try:
                channel, _ = self._server.accept()
            except TimeoutError:
                continue
            run = os.urandom(16).hex()
            with channel, contextlib.suppress(OSError):
                while not self._over:
                    number += 1
                    beat = {
                        "v": 1,
                        "boot": "01234567-89ab-cdef-0123-456789abcdef",
                        "run": run,
                        "seq": number,
                        "interval_ms": 50,
                        "checks": {"ips": {"state": self.state, "reason": f"is {self.state}"}},
                    }
                    if not self.silent:
                        channel.sendall(json.dumps(beat).encode() + b"\n")
                    threading.Event().wait(0.05)

    def close(self) -> None:
        self._over = True
        self._thread.join(SOON_S)
        self._server.close()


@pytest.mark.long
def test_missed_and_failing_beats_lead_to_bypass_and_good_ones_back(kept: Keeping) -> None:
    kept.end()
    channel = kept.folder / "agent.sock"
    kept.write(
        signals={"beat": {"kind": "heartbeat", "socket": str(channel), "interval": "50ms", "fall": 6, "rise": 3}}
    )
    agent = Agent(channel)
    try:
        kept.start()
        kept.goes_to("inspect")
        kept.until(lambda: kept.status()["signals"][0]["state"] == "healthy", "a healthy beat")
        agent.state = "failed"
        kept.goes_to("bypass")
        assert "ips: is failed" in kept.status()["segments"][0]["why"][0]
        agent.state = "healthy"
        kept.goes_to("inspect")
        agent.silent = True
        kept.goes_to("bypass")
        assert "no beat for" in kept.status()["segments"][0]["why"][0]
        agent.silent = False
        kept.goes_to("inspect")
    finally:
        agent.close()
        kept.end()


@pytest.mark.long
def test_a_program_says_how_the_vm_is(kept: Keeping) -> None:
    kept.end()
    verdict = kept.folder / "verdict"
    verdict.write_text("0")
    program = ["/bin/sh", "-c", f"echo it is so; exit $(cat {verdict})"]
    kept.write(
        signals={"ask": {"kind": "command", "run": program, "every": "50ms", "timeout": "40ms", "fall": 2, "rise": 2}}
    )
    try:
        kept.start()
        kept.goes_to("inspect")
        kept.until(lambda: kept.status()["signals"][0]["state"] == "healthy", "a healthy answer")
        verdict.write_text("2")
        kept.goes_to("bypass")
        assert kept.status()["segments"][0]["why"] == ["ask failed: it is so"]
        verdict.write_text("3")
        kept.until(lambda: kept.status()["segments"][0]["verdict"] == "unknown", "unknown")
        assert kept.is_on("bypass")
        verdict.write_text("0")
        kept.goes_to("inspect")
    finally:
        kept.end()


# --- the file --------------------------------------------------------------------------------------------------------


def reloaded(kept: Keeping, how: str) -> tuple[bool, str]:
    """Whether the file was reloaded, and what was said."""
    if how == "command":
        done = kept.cli("reload", file=False)
        return done.code == 0, done.out + done.err
    before = len(kept.told("reload"))
    assert kept.process is not None
    kept.process.send_signal(signal.SIGHUP)
    kept.until(lambda: len(kept.told("reload")) > before, "a line about the file", 30)
    line = kept.told("reload")[-1]
    return line["level"] == "info", line["text"]


@pytest.mark.parametrize("how", ["command", "SIGHUP"])
def test_a_good_file_is_gone_over_to(kept: Keeping, how: str) -> None:
    kept.write(segments={"wire": {"ports": ["outside", "inside"], "mtu": 1400}})
    assert reloaded(kept, how)[0]
    kept.rests()
    assert "mtu 1400" in kept.lab.run(["ip", "link", "show", "nic0"]).stdout
    kept.write()
    assert reloaded(kept, how)[0]
    kept.rests()
    assert "mtu 1500" in kept.lab.run(["ip", "link", "show", "nic0"]).stdout


@pytest.mark.parametrize("how", ["command", "SIGHUP"])
@pytest.mark.parametrize("fault", ["broken", "foreign", "gone"])
def test_a_file_that_will_not_do_changes_nothing_and_why_is_said(kept: Keeping, how: str, fault: str) -> None:
    if fault == "broken":
        kept.file.write_text(kept.file.read_text().replace('"bypass"', '"bypas"'))
    elif fault == "foreign":
        kept.write(sku="another")
    else:
        kept.file.unlink()
    done, text = reloaded(kept, how)
    assert not done
    assert {"broken": "bypas", "foreign": "is of another now", "gone": "cannot read"}[fault] in text
    kept.lab.kill_vm()
    kept.goes_to("bypass")
    kept.write()


@pytest.mark.long
def test_many_reloads_at_once_leave_one_of_each_gatherer(kept: Keeping) -> None:
    kept.end()
    tally = kept.folder / "tally"
    tally.write_text("")
    program = ["/bin/sh", "-c", f"echo x >> {tally}"]
    kept.write(signals={"ask": {"kind": "command", "run": program, "every": "200ms", "timeout": "150ms"}})
    try:
        kept.start()
        threads = [threading.Thread(target=kept.ask, args=("reload",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON_S)
            assert not thread.is_alive()
        before, began = len(tally.read_text()) // 2, time.monotonic()
        kept.until(lambda: time.monotonic() - began > 1.0, "some runs")
        # Five a second, and eight times as many where each reload had left its own.
        assert len(tally.read_text()) // 2 - before <= 8
    finally:
        kept.end()


def test_a_file_from_standard_input_cannot_be_read_again_and_that_is_said(kept: Keeping) -> None:
    kept.end()
    with kept.file.open("rb") as given, kept.log.open("wb") as log:
        kept.process = kept.lab.host.spawn(
            [*PROGRAM, "run", "-f", "-", "--log", "json"], env=environment(**kept.folders), stdin=given, stderr=log
        )
    process = kept.process
    kept.until(lambda: kept.answers(process.pid), "the daemon")
    for how in ("command", "SIGHUP"):
        done, text = reloaded(kept, how)
        assert not done
        assert "standard input" in text
    kept.end()


# --- asking and steering ---------------------------------------------------------------------------------------------


def test_status_why_hold_and_release_from_the_command_line(kept: Keeping) -> None:
    done = kept.cli("status")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("● keep  INSPECTED  as declared\n  wire  inspected  ")
    done = kept.cli("hold", "bypass", "--for", "10m", "--reason", "new cables", file=False)
    assert done == (0, "wire=bypass\n", "")
    assert kept.is_on("bypass")
    done = kept.cli("status")
    assert done.code == 4
    assert done.out.startswith("● keep  NOT INSPECTED  wire: bypassed ")
    assert "(held by root)\n  wire  bypassed  " in done.out
    assert "held on bypass by root for 9 min" in done.out
    assert "new cables" in done.out
    assert "held on bypass by root: new cables" in kept.cli("why").out
    found = json.loads(kept.cli("why", "-o", "json", "--all").out)
    assert found["decisions"][-1]["what"] == "held on bypass by root: new cables"
    assert kept.cli("release", "wire") == (0, "wire=inspect\n", "")
    assert kept.is_on("inspect")
    assert kept.cli("release") == (1, "", "reconcile: nothing is held\n")
    assert json.loads(kept.cli("status", "-o", "json").out)["format"] == "reconciler.status/2"


@pytest.mark.long
def test_a_hold_outlives_the_daemon_and_ends_by_itself(kept: Keeping) -> None:
    kept.ask("hold", topology="bypass", reason="x", seconds=3)
    kept.end(signal.SIGKILL)
    kept.start()
    assert kept.is_on("bypass")
    assert kept.status()["segments"][0]["hold"]["owner"] == "root"
    kept.goes_to("inspect")
    kept.until(lambda: any("is over" in line["what"] for line in kept.told("decision")), "the line that says why")


def test_the_vm_dies_while_held_on_inspect_and_nothing_moves(kept: Keeping) -> None:
    kept.ask("hold", topology="inspect", reason="x", seconds=60)
    kept.lab.kill_vm()
    kept.until(lambda: kept.status()["segments"][0]["verdict"] == "failed", "the failure")
    assert kept.is_on("inspect")
    done = kept.cli("status")
    assert done.code == 5
    assert re.fullmatch(r"● keep  CUT  wire: cut .*; the network is not as wanted", done.out.splitlines()[0])
    kept.ask("release")
    assert kept.is_on("bypass")


def test_watching_prints_again_when_something_changed(kept: Keeping) -> None:
    program = kept.lab.host.spawn(
        [*PROGRAM, "-f", str(kept.file), "status", "--watch"],
        env=environment(**kept.folders),
        stdout=subprocess.PIPE,
        text=True,
    )
    with ending(program) as watching:
        out = watching.stdout
        assert out is not None
        assert out.readline() == "● keep  INSPECTED  as declared\n"
        assert out.readline().startswith("  wire  inspected  ")
        # One that does not answer is asked again.
        assert kept.process is not None
        kept.process.send_signal(signal.SIGSTOP)
        _read_until(out, "● keep  INSPECTED  ", "the daemon hangs\n")
        kept.process.send_signal(signal.SIGCONT)
        _read_until(out, "● keep  INSPECTED  as declared\n")
        kept.ask("hold", topology="bypass", reason="x", seconds=60)
        _read_until(out, "  wire  bypassed")
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=SOON_S)
        assert watching.returncode == 0


def _read_until(out: IO[str], begin: str, end: str = "") -> None:
    line = out.readline()
    while not (line.startswith(begin) and line.endswith(end)):
        assert line
        line = out.readline()


def test_the_daemon_answers_a_dry_run_and_a_reconciliation(kept: Keeping) -> None:
    kept.lab.kill_vm()
    kept.goes_to("bypass")
    kept.rests()
    # Bypass is what it wants, and so nothing differs; that nothing is inspected is told all the same.
    done = kept.cli("--dry-run")
    assert (done.code, done.err) == (4, "")
    assert "nothing to do: the network is as declared" in done.out
    assert kept.cli() == (0, "keep: bypass\n0 changes made; the network is as declared\n", "")
    assert json.loads(kept.cli("--dry-run", "-o", "json").out)["changes"] == []
    assert json.loads(kept.cli("-o", "json").out)["converged"] is True
    done = kept.cli("--dry-run", "--topology", "inspect")
    assert done.code in (1, 3)
    assert "port outside (nic0)" in done.out


def test_what_the_daemon_would_undo_is_refused_with_what_to_do(kept: Keeping) -> None:
    done = kept.cli("--topology", "bypass")
    assert (done.code, done.out) == (1, "")
    assert "reconcile hold bypass" in done.err
    kept.file.write_text(kept.file.read_text() + "\n")
    done = kept.cli()
    assert done.code == 1
    assert "reconcile reload" in done.err
    assert kept.is_on("inspect")


def test_a_daemon_that_was_killed_leaves_a_socket_that_is_in_nobodys_way(kept: Keeping) -> None:
    kept.end(signal.SIGKILL)
    assert kept.socket.exists()
    assert kept.cli("--dry-run").code == 0
    done = kept.cli("status")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("● keep  INSPECTED  no daemon answers\n  wire  inspected  ")
    assert "start it: reconcile run" in done.out
    kept.start()


# --- who may ask -----------------------------------------------------------------------------------------------------

NOBODY = 65534


def asking_as(kept: Keeping, *groups: int) -> Done:
    ids = ["--reuid", str(NOBODY), "--regid", str(NOBODY)]
    ids += ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    return kept.cli("status", prefix=("setpriv", *ids, "--"), file=False)


@pytest.fixture
def open_folder(kept: Keeping) -> Iterator[Keeping]:
    """Where another user may at least look."""
    if os.geteuid() != 0 or not has_tun():
        pytest.skip("other users are for root of the machine only")
    folders = [kept.folder, *kept.folder.parents]
    modes = {folder: folder.stat().st_mode for folder in folders if folder != Path("/")}
    for folder in modes:
        folder.chmod(folder.stat().st_mode | 0o005)
    yield kept
    for folder, mode in modes.items():
        folder.chmod(mode)


def test_without_a_group_root_alone_may_ask(open_folder: Keeping) -> None:
    kept = open_folder
    status = kept.socket.stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, 0)
    done = asking_as(kept)
    assert (done.code, done.out) == (1, "")
    assert "be root, or of the group" in done.err


def test_with_a_group_its_members_may_ask_too_and_their_name_is_the_kernels_word(open_folder: Keeping) -> None:
    kept = open_folder
    group = grp.getgrnam("daemon")
    kept.end()
    kept.start("--group", "daemon")
    status = kept.socket.stat()
    assert (status.st_mode & 0o777, status.st_gid) == (0o660, group.gr_gid)
    assert asking_as(kept).code == 1
    assert asking_as(kept, group.gr_gid).code == 0
    ids = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--groups", str(group.gr_gid), "--")
    done = kept.cli("hold", "bypass", "--for", "1m", "--reason", "x", prefix=ids, file=False)
    assert done.code == 0, done
    assert kept.status()["segments"][0]["hold"]["owner"] == "nobody"
    kept.end()


def test_the_memory_is_for_root_alone(kept: Keeping) -> None:
    assert (kept.folder / "state" / "keep.memory.json").stat().st_mode & 0o077 == 0


def test_a_file_that_is_broken_at_boot_leaves_what_was_accepted_in_force(kept: Keeping) -> None:
    kept.well()
    good = kept.file.read_text()
    accepted = Path(kept.folders["RECONCILER_STATE_DIR"]) / "accepted"
    kept.until(lambda: any(accepted.glob("*.json")), "the text to be kept")
    kept.end()
    kept.file.write_text(good[: len(good) // 2])
    kept.start()
    kept.goes_to("inspect")
    (warning,) = [one for one in kept.status()["warnings"] if one["code"] == "file-broken"]
    assert "is in force" in warning["text"]
    kept.file.write_text(good)
    kept.ask("reload")
    assert [one for one in kept.status()["warnings"] if one["code"] == "file-broken"] == []
