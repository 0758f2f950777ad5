"""Restarting a VM by the vendor's programs; here they keep a diary."""

import asyncio
import importlib.util
import time
from pathlib import Path

import pytest
from worlds import two_ports

from reconciler.appliance.declared import Appliance, Libvirt, Programs
from reconciler.errors import HostError, TransientError, UnreachedError
from reconciler.host.hypervisor.driver import hypervisor_of
from reconciler.host.hypervisor.libvirt import LibvirtHypervisor
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.hypervisor.programs import ProgramsHypervisor

SH = "/bin/sh"
VM = {"adapters": {"outside": {"tap": "tap0"}, "inside": {"tap": "tap1"}}}


class Vendor:
    """Programs that write down that they ran, and end as told."""

    def __init__(self, folder: Path) -> None:
        self._diary = folder / "diary"
        self.own_actions = OwnActions()
        self.scripts = {"start": "exit 0", "stop": "exit 0", "status": "exit 0", "reset": "exit 0"}
        self.argv: dict[str, tuple[str, ...]] = {}
        """Instead of these."""
        self.has_reset = True
        self.timeout_ms = 20_000

    def restart(self, method: str) -> list[str]:
        asyncio.run(self.hypervisor.restart(method))
        assert not self.own_actions.acting
        return self.done

    @property
    def done(self) -> list[str]:
        return self._diary.read_text(encoding="ascii").split() if self._diary.exists() else []

    @property
    def hypervisor(self) -> ProgramsHypervisor:
        argv = {name: (SH, "-c", f"echo {name} >> '{self._diary}'; {script}") for name, script in self.scripts.items()}
        if not self.has_reset:
            argv["reset"] = ()
        return ProgramsHypervisor(Programs(**(argv | self.argv), timeout_ms=self.timeout_ms), self.own_actions)


@pytest.fixture
def vendor(tmp_path: Path) -> Vendor:
    return Vendor(tmp_path)


def test_destroy_and_start_is_stop_and_start(vendor: Vendor) -> None:
    assert vendor.restart("destroy-and-start") == ["stop", "start"]
    assert vendor.own_actions == OwnActions()


def test_a_reset_is_a_reset(vendor: Vendor) -> None:
    assert vendor.restart("reset") == ["status", "reset"]


def test_without_a_reset_it_is_stop_and_start(vendor: Vendor) -> None:
    vendor.has_reset = False
    assert vendor.restart("reset") == ["stop", "start"]


def test_what_does_not_run_is_not_reset(vendor: Vendor) -> None:
    vendor.scripts["status"] = "exit 1"
    assert vendor.restart("reset") == ["status", "stop", "start"]


@pytest.mark.parametrize(
    ("program", "script", "why"),
    [
        ("stop", "echo first; echo no such VM >&2; exit 7", r"stop \(/bin/sh\): exit status 7: no such VM"),
        ("start", "kill -9 $$", r"start \(/bin/sh\): killed by signal 9"),
        ("start", "sleep 60", r"start \(/bin/sh\): killed: it took too long"),
        ("start", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", "killed: it wrote more than"),
    ],
)
def test_a_program_that_fails_says_which_and_why(vendor: Vendor, program: str, script: str, why: str) -> None:
    vendor.scripts[program] = script
    if "sleep" in script:
        vendor.timeout_ms = 300
    with pytest.raises(TransientError, match=why):
        vendor.restart("destroy-and-start")
    assert vendor.done[-1] == program
    # It may be down now, and that was us.
    assert vendor.own_actions == OwnActions(destroyed=True)


@pytest.mark.parametrize("script", ["exit 2", "exit 3", "kill -9 $$"])
def test_a_status_that_is_none_decides_nothing(vendor: Vendor, script: str) -> None:
    vendor.scripts["status"] = script
    with pytest.raises(TransientError, match="status"):
        vendor.restart("reset")
    assert vendor.done == ["status"]
    assert vendor.own_actions == OwnActions()


@pytest.mark.parametrize("method", ["reset", "destroy-and-start"])
@pytest.mark.parametrize("program", ["start", "stop", "status", "reset"])
def test_a_program_that_is_not_there_was_not_asked(vendor: Vendor, program: str, method: str) -> None:
    """And nothing else was done: the VM is not stopped by who cannot start it."""
    vendor.argv[program] = (f"/no/such/{program}",)
    needed = {"reset": ("status", "reset"), "destroy-and-start": ("start", "stop")}
    if program not in needed[method]:
        vendor.restart(method)
        return
    with pytest.raises(UnreachedError, match=f"/no/such/{program} cannot be started"):
        vendor.restart(method)
    assert vendor.done == (["status"] if program == "reset" else [])


def test_half_a_restart_was_one(vendor: Vendor, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.write_text("#!/no/such/shell\n")
    start.chmod(0o755)
    vendor.argv["start"] = (str(start),)
    with pytest.raises(TransientError, match=f"{start} cannot be started") as caught:
        vendor.restart("destroy-and-start")
    assert not isinstance(caught.value, UnreachedError)
    assert vendor.done == ["stop"]


@pytest.mark.parametrize(("program", "reached"), [("status", False), ("reset", True)])
def test_called_off_before_the_vm_was_asked(vendor: Vendor, program: str, reached: bool) -> None:
    vendor.scripts[program] = "sleep 60"

    async def scene() -> None:
        restart = asyncio.create_task(vendor.hypervisor.restart("reset"))
        end_s = time.monotonic() + 10
        while program not in vendor.done:
            assert time.monotonic() < end_s
            await asyncio.sleep(0.001)
        restart.cancel()
        with pytest.raises(asyncio.CancelledError if reached else UnreachedError):
            await restart

    asyncio.run(scene())
    assert not vendor.own_actions.acting


def test_a_method_that_is_none(vendor: Vendor) -> None:
    with pytest.raises(HostError, match="no method to restart a VM: pray"):
        vendor.restart("pray")


# Which driver


def test_nobody_restarts_a_vm_that_the_file_says_nothing_of() -> None:
    assert hypervisor_of(two_ports(), OwnActions()) is None


def with_libvirt() -> Appliance:
    return two_ports(vm={**VM, "libvirt": {"uri": "test:///default", "domain": "test"}})


def test_libvirt_restarts_what_libvirt_runs() -> None:
    assert isinstance(with_libvirt().hypervisor, Libvirt)
    assert isinstance(hypervisor_of(with_libvirt(), OwnActions()), LibvirtHypervisor)


def test_programs_restart_what_programs_run() -> None:
    programs = {name: [f"/opt/vendor/{name}"] for name in ("start", "stop", "status")}
    assert isinstance(hypervisor_of(two_ports(vm={**VM, "programs": programs}), OwnActions()), ProgramsHypervisor)


def test_without_libvirt_python_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(HostError, match=r"libvirt-python is not installed: pip install libvirt-python"):
        hypervisor_of(with_libvirt(), OwnActions())
