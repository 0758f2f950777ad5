"""The daemon keeps a real VM: whatever happens to it, the network goes on, and goes back by itself.

Each case says what the topology must be, why, and how often the VM may be started. What it took is in the table that
the test run ends with. Where a case is not about booting, the VM comes back by a resume (`Machine.resume_at_next_start`),
which is to the daemon as a boot, and takes a tenth of the time.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept import HOLD_DOWN_MS, PATIENCE_S, Kept, Row, care, machine_with_foreigners, well
from machine import DOMAIN, GUEST, Machine

from reconciler.lab.lab import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.vm, pytest.mark.timeout(900)]

START = {"destroy-and-start": 2}
# Of a guest that does not boot: its agent never beats, and that shall count.
SHORT_BOOT = {"boot_timeout": "4s"}
SILENCE_FAILS = {"absent": {"before": "failed", "after": "failed"}}
IMPOSTER = (GUEST / "imposter.py").read_text()


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that most cases share; each begins with a VM that was just resumed, and a daemon that knows nothing."""
    request.getfixturevalue("lab_root")
    with machine_with_foreigners(tmp_path_factory.mktemp("faults")) as machine:
        yield machine


# The hypervisor's process


def test_qemu_killed(host: Machine, rows: list[Row]) -> None:
    with Kept(host, rows, care(host, START)) as kept:
        fault = kept.fault("QEMU killed; boots again")
        host.kill_qemu()
        fault.bypassed("has no carrier", "domain failed")
        fault.returned()
        fault.restarted(1, 1)
        told = json.loads(host.reconcile("why", "--all", "--output", "json").stdout)
        assert any(one["what"] == "inspect → bypass" and one["why"] == fault.row.reasons for one in told["decisions"])


def test_qemu_stopped(host: Machine, rows: list[Row]) -> None:
    with Kept(host, rows, care(host, START)) as kept:
        host.resume_at_next_start()
        fault = kept.fault("QEMU stopped (SIGSTOP)")
        host.stop_qemu()
        fault.bypassed("agent failed: no beat for")
        fault.decided("restarting the VM: destroy-and-start, attempt 1 of 2")
        fault.decided("the VM boots")
        host.wake()
        fault.returned()
        fault.restarted(1, 1)


def test_four_ports_in_two_segments(tmp_path: Path, rows: list[Row]) -> None:
    with (
        machine_with_foreigners(tmp_path, ports=4, segments=[[0, 1], [2, 3]]) as machine,
        Kept(machine, rows, care(machine, START)) as kept,
    ):
        machine.resume_at_next_start()
        fault = kept.fault("QEMU killed; N=4, two segments")
        machine.kill_qemu()
        fault.bypassed("has no carrier", "domain failed")
        fault.decided("the VM boots")
        machine.wake()
        fault.returned()
        fault.restarted(1, 1)


# The guest


def test_guest_panics(host: Machine, rows: list[Row]) -> None:
    with Kept(host, rows, care(host, START)) as kept:
        host.resume_at_next_start()
        fault = kept.fault("guest panic, on_crash destroy")
        host.tell("panic")
        fault.now()
        fault.bypassed("the guest panicked", "has no carrier")
        fault.decided("the VM boots")
        host.wake()
        fault.returned()
        fault.restarted(1, 1)


def test_guest_panics_and_is_preserved(host: Machine, rows: list[Row]) -> None:
    with Kept(host, rows, care(host, {"reset": 1}), on_crash="preserve") as kept:
        fault = kept.fault("guest panic, on_crash preserve; reset")
        host.tell("panic")
        fault.now()
        fault.bypassed("the guest panicked")
        fault.decided("restarting the VM: reset, attempt 1 of 1")
        fault.returned()
        fault.restarted(1, 0)


def test_guest_hangs(host: Machine, rows: list[Row]) -> None:
    with Kept(host, rows, care(host, START)) as kept:
        host.resume_at_next_start()
        fault = kept.fault("guest hung (agent spins)")
        host.tell("replace_agent", script="while True: pass")
        fault.bypassed("agent failed: no beat for")
        fault.decided("the VM boots")
        host.wake()
        fault.returned()
        fault.restarted(1, 1)


def test_guest_reboots_by_itself(host: Machine, rows: list[Row]) -> None:
    with Kept(host, rows, care(host, START)) as kept:
        fault = kept.fault("guest reboots by itself")
        host.tell("reboot")
        fault.now()
        fault.bypassed("ips reboots", "agent failed: no beat for")
        fault.decided("the VM boots: ips reboots")
        fault.returned()
        fault.restarted(0, 0)


def test_guest_does_not_boot_until_repaired(host: Machine, rows: list[Row]) -> None:
    with Kept(host, rows, care(host, START, restart=SHORT_BOOT, agent=SILENCE_FAILS)) as kept:
        host.define(boots=False)
        fault = kept.fault("VM does not boot again; repaired by hand")
        host.kill_qemu()
        fault.bypassed("has no carrier", "domain failed")
        fault.decided("restart 1 of 2 did not help")
        fault.decided("given up after 2 of 2 restarts")
        fault.left_alone("given-up", restarts=2, starts=2)
        host.define()
        host.resume_at_next_start()
        host.destroy()
        host.virsh("start", DOMAIN)
        host.wake()
        fault.returned()
        fault.restarted(2, 3)


# Operators


def test_operator_shuts_the_vm_down(host: Machine, rows: list[Row]) -> None:
    # As long as the grace lasts, nothing is restarted: here it is for a guest that takes its time to shut down.
    with Kept(host, rows, care(host, START, health={"grace": "20s"})) as kept:
        # A stand-in for systemd's, which the QEMU guest agent calls.
        host.shell("mkdir -p /sbin; printf '#!/bin/sh\\necho o > /proc/sysrq-trigger\\n' > /sbin/shutdown")
        host.shell("chmod +x /sbin/shutdown")
        fault = kept.fault("operator's clean shutdown (virsh shutdown)")
        # The guest may be off before its agent has answered.
        host.virsh("shutdown", DOMAIN, "--mode", "agent", check=False)
        fault.bypassed("has no carrier", "is shutting down", "was shut down", "agent failed")
        fault.decided("the VM was stopped, paused or moved on purpose")
        fault.left_alone("stood-down")
        host.resume_at_next_start()
        host.virsh("start", DOMAIN)
        host.wake()
        fault.returned()
        fault.restarted(0, 1)


def test_operator_pauses_the_vm(host: Machine, rows: list[Row]) -> None:
    pings = {"ping": {"kind": "guest-ping", "every": "1s", "timeout": "500ms", "required": False}}
    with Kept(host, rows, care(host, START, signals=pings)) as kept:
        fault = kept.fault("operator pauses and resumes (virsh suspend)")
        host.virsh("suspend", DOMAIN)
        fault.bypassed("was paused by an operator", "agent failed: no beat")
        fault.left_alone("stood-down")
        host.virsh("resume", DOMAIN)
        fault.returned()
        fault.restarted(0, 0)


# The application


def test_application_dies_hangs_and_flaps(host: Machine, rows: list[Row]) -> None:
    """Nothing is declared that restarts the VM; each failure soon after the return doubles the hold-down."""
    with Kept(host, rows, care(host, health={"flap_memory": "1h"})) as kept:
        for flaps, (name, signal, reason) in enumerate(
            [
                # Its pid and its answers are asked for apart: either may be missed first.
                ("application dead", "KILL", "app"),
                ("application hung; a flap", "USR2", "app-answers: "),
                ("application dead; a second flap", "KILL", "app"),
            ]
        ):
            fault = kept.fault(name)
            host.tell("signal", whom="app", name=signal)
            fault.bypassed(reason)
            if signal != "KILL":
                host.tell("signal", whom="app", name="KILL")
            host.tell("start", whom="app")
            fault.returned(HOLD_DOWN_MS << flaps)
            fault.restarted(0, 0)
            assert kept.status()["segments"][0]["flaps"] == flaps


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("lies", "the agent sends what is no beat"),
        ("floods", "the agent floods its channel"),
        ("replays", "agent failed: no beat for"),
    ],
)
def test_hostile_agent(host: Machine, rows: list[Row], mood: str, reason: str) -> None:
    with Kept(host, rows, care(host)) as kept:
        host.tell("replace_agent", script=IMPOSTER)
        kept.wait_status(lambda status: "beats" in status["signals"][0]["reason"] and well(status), "a good imposter")
        fault = kept.fault(f"agent {mood}")
        host.shell(f"echo {mood} > /run/mood")
        fault.bypassed(reason)
        # As long as it goes on, it is not believed.
        kept.wait_status(lambda status: status["segments"][0]["since_ms"] > 3 * HOLD_DOWN_MS, "to stay in bypass")
        assert kept.status()["segments"][0]["course"] == "fallback"
        host.shell("echo good > /run/mood")
        fault.returned()
        fault.restarted(0, 0)


# libvirtd and the daemon


def test_libvirtd_killed(host: Machine, rows: list[Row]) -> None:
    with Kept(host, rows, care(host, START)) as kept:
        fault = kept.fault("libvirtd killed, and started again")
        host.libvirtd.kill()
        fault.decided("unknown whether the VM is healthy: stays on inspect")
        host.libvirtd.start()
        kept.wait_status(well, "to be well")
        fault.unmoved()
        fault.restarted(0, 0)

        host.resume_at_next_start()
        host.libvirtd.kill()
        fault = kept.fault("libvirtd dead, and then QEMU killed")
        host.kill_qemu()
        fault.bypassed("has no carrier")
        fault.decided("the hypervisor could not be asked to restart the VM (libvirt is not reachable")
        # More often than the ladder has attempts.
        kept.wait_status(lambda status: status["vm"]["unreached"] > 3, "for libvirtd to be asked for in vain")
        host.libvirtd.start()
        fault.decided("the VM boots")
        host.wake()
        fault.returned()
        fault.restarted(1, 1)


def test_libvirtd_stopped(host: Machine, rows: list[Row]) -> None:
    """It hangs before anything can be asked of it, for longer than the only attempt would have waited."""
    with Kept(host, rows, care(host, {"reset": 1})) as kept:
        host.resume_at_next_start()
        os.kill(host.libvirtd.pid, signal.SIGSTOP)
        try:
            fault = kept.fault("libvirtd hung (SIGSTOP), and then QEMU killed")
            host.kill_qemu()
            fault.bypassed("has no carrier")
            fault.decided("the hypervisor could not be asked to restart the VM", timeout_s=60)
        finally:
            os.kill(host.libvirtd.pid, signal.SIGCONT)
        fault.decided("the VM boots")
        host.wake()
        fault.returned()
        fault.restarted(1, 1)


def test_daemon_killed_in_each_state(host: Machine, rows: list[Row]) -> None:
    """One story: a VM that does not boot again, and is repaired by hand, under a daemon that is killed all the time."""
    with Kept(host, rows, care(host, START, restart=SHORT_BOOT, agent=SILENCE_FAILS)) as kept:
        fault = kept.fault("daemon killed: inspect")
        kept.replace_daemon()
        kept.wait_status(well, "to be well")
        fault.unmoved()
        fault.restarted(0, 0)

        host.define(boots=False)
        death = kept.fault("daemon killed: fallback, settling")
        host.kill_qemu()
        death.bypassed("has no carrier", "domain failed")
        kept.replace_daemon()
        death.decided("restarting the VM: destroy-and-start, attempt 1 of 2")

        fault = kept.fault("daemon killed: restarting")
        wait_until(lambda: kept.remembers('"restarting"'), PATIENCE_S, "the daemon to remember its restart")
        kept.replace_daemon()
        kept.wait_status(lambda status: status["vm"]["phase"] == "booting", "to boot")
        kept.is_wired("bypass")

        fault = kept.fault("daemon killed: booting")
        kept.replace_daemon()
        fault.decided("restart 1 of 2 did not help")

        fault = kept.fault("daemon killed: waiting")
        kept.replace_daemon()
        fault.decided("restarting the VM: destroy-and-start, attempt 2 of 2")
        fault.decided("given up after 2 of 2 restarts")

        fault = kept.fault("daemon killed: given-up")
        kept.replace_daemon()
        fault.left_alone("given-up")
        fault.unmoved()
        # The one that died in the middle of a restart may not have come to it.
        death.restarted(2, 1, 2)

        host.define()
        host.resume_at_next_start()
        host.destroy()
        host.virsh("start", DOMAIN)
        fault.decided("healthy; stays on bypass")
        fault = kept.fault("daemon killed: proving")
        kept.replace_daemon()
        fault.returned()
        fault.restarted(0, 0)

        fault = kept.fault("daemon killed: stood-down")
        host.virsh("suspend", DOMAIN)
        fault.bypassed("was paused by an operator", "agent failed: no beat")
        fault.decided("the VM was stopped, paused or moved on purpose")
        kept.replace_daemon()
        fault.left_alone("stood-down")
        host.virsh("resume", DOMAIN)
        fault.returned()
        fault.restarted(0, 0)


def test_daemon_and_vm_killed(host: Machine, rows: list[Row]) -> None:
    with Kept(host, rows, care(host, START)) as kept:
        host.resume_at_next_start()
        kept.kill_daemon()
        host.kill_qemu()
        fault = kept.fault("daemon and QEMU killed; from the daemon's start")
        kept.start_daemon()
        fault.bypassed("has no carrier", "domain failed")
        fault.decided("the VM boots")
        host.wake()
        fault.returned()
        fault.restarted(1, 1)


# The other order


def test_restart_then_bypass(host: Machine, rows: list[Row]) -> None:
    first = {"first": {"attempts": 1, "within": "30s"}}
    order = {"order": "restart-then-bypass"}
    with Kept(host, rows, care(host, START, restart=SHORT_BOOT | first, agent=SILENCE_FAILS, on_failure=order)) as kept:
        host.define(boots=False)
        fault = kept.fault("restart-then-bypass: the 2nd restart helps")
        host.kill_qemu()
        fault.decided("stays on inspect while the VM is restarted")
        fault.decided("the VM boots")
        fault.unmoved()
        host.define()
        host.resume_at_next_start()
        fault.bypassed("agent failed", "domain failed", "carrier")
        fault.decided("restarting the VM: destroy-and-start, attempt 2 of 2")
        fault.decided("the VM boots")
        host.wake()
        fault.returned()
        fault.restarted(2, 2)
