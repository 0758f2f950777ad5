"""The faults: each breaks something when it is entered, and repairs it when it is left."""

import contextlib
import signal
import time
from collections.abc import Iterator

from bench.faults.busy import filling, spinning
from bench.faults.scene import Mode
from bench.faults.stage import Stage, signalled
from reconciler.lab.ips import needles
from reconciler.lab.namespaces import set_link_up

LOADED_S = 3.0
MINUTE_S = 60.0
UNDER_WAY_S = 0.5
"""How long the machine has been starved before the VM fails, too."""
_RULES = 20_000
_LIVED_S = 2.5
# Below the guard's probes (`host/guard/prober.py`).
_PRIORITY = 5

Fault = Iterator[None]


# The VM


@contextlib.contextmanager
def blackhole(stage: Stage) -> Fault:
    """The VM swallows all frames; its links stay up."""
    stage.lab.blackhole_vm()
    yield
    stage.lab.unblock_vm()


@contextlib.contextmanager
def one_way(stage: Stage) -> Fault:
    """… those of one direction."""
    stage.lab.blackhole_vm([1])
    yield
    stage.lab.unblock_vm()


@contextlib.contextmanager
def one_segment(stage: Stage) -> Fault:
    """… those of the first segment."""
    stage.lab.blackhole_vm(stage.lab.segments[0])
    yield
    stage.lab.unblock_vm()


@contextlib.contextmanager
def vm_killed(stage: Stage) -> Fault:
    """The VM's namespace goes, and its adapters with it."""
    stage.made.kill_vm()
    yield
    stage.made.boot_vm()


@contextlib.contextmanager
def vm_reboots(stage: Stage) -> Fault:
    """… and is back at once, with other adapters."""
    stage.made.kill_vm()
    stage.by_hand()
    stage.made.boot_vm()
    yield


@contextlib.contextmanager
def adapter_down(stage: Stage) -> Fault:
    """The VM takes one of its adapters down."""
    _set_adapter(stage, up=False)
    yield
    _set_adapter(stage, up=True)


def _set_adapter(stage: Stage, *, up: bool) -> None:
    assert stage.lab.vm is not None
    with stage.lab.vm.entered():
        set_link_up("eth1", up=up)


@contextlib.contextmanager
def vm_stopped(stage: Stage) -> Fault:
    """The VM's processes are stopped, with all the frames that they hold."""
    # A hypervisor's whole process: what forwards, and what tells of it.
    stage.slow().stop()
    signalled(stage.made.agent.pid, signal.SIGSTOP)
    yield
    signalled(stage.made.agent.pid, signal.SIGCONT)
    stage.slow().cont()


# Suricata in it


@contextlib.contextmanager
def suricata_killed(stage: Stage) -> Fault:
    """SIGKILL."""
    stage.suricata().kill()
    yield
    stage.suricata().start()


@contextlib.contextmanager
def suricata_stopped(stage: Stage) -> Fault:
    """SIGSTOP."""
    stage.suricata().stop()
    yield
    stage.suricata().cont()


@contextlib.contextmanager
def thread_stuck(stage: Stage) -> Fault:
    """The capture thread that the guard's probes go through stands still."""
    stage.suricata().stick_one_thread(stage.thread(of_probes=True))
    yield
    stage.suricata().release_thread()


@contextlib.contextmanager
def other_thread_stuck(stage: Stage) -> Fault:
    """One that they do not go through."""
    stage.suricata().stick_one_thread(stage.thread(of_probes=False))
    yield
    stage.suricata().release_thread()


@contextlib.contextmanager
def rules_reloaded(stage: Stage) -> Fault:
    """As many rules as take seconds to load."""
    stage.suricata().reload_rules(needles(_RULES))
    yield


@contextlib.contextmanager
def all_dropped(stage: Stage) -> Fault:
    """A rule that drops every packet."""
    stage.suricata().drop_everything()
    yield
    stage.suricata().reload_rules([])


# Who looks after it


@contextlib.contextmanager
def daemon_killed(stage: Stage) -> Fault:
    """SIGKILL."""
    stage.kill_daemon()
    yield
    stage.start_daemon()


@contextlib.contextmanager
def daemon_stopped(stage: Stage) -> Fault:
    """SIGSTOP."""
    assert stage.made.daemon is not None
    signalled(stage.made.daemon.pid, signal.SIGSTOP)
    yield
    signalled(stage.made.daemon.pid, signal.SIGCONT)


@contextlib.contextmanager
def prober_killed(stage: Stage) -> Fault:
    """SIGKILL."""
    # One that ends as soon as it was started is not started again at once.
    time.sleep(_LIVED_S)
    signalled(stage.prober(), signal.SIGKILL)
    yield


@contextlib.contextmanager
def prober_stopped(stage: Stage) -> Fault:
    """SIGSTOP."""
    pid = stage.prober()
    signalled(pid, signal.SIGSTOP)
    yield
    signalled(pid, signal.SIGCONT)


@contextlib.contextmanager
def starved(stage: Stage) -> Fault:
    """Nobody without real-time priority gets a core."""
    with spinning(stage.lab.host, LOADED_S, priority=_PRIORITY):
        yield


@contextlib.contextmanager
def starved_and_hung(stage: Stage) -> Fault:
    """… and the VM swallows all frames."""
    with spinning(stage.lab.host, LOADED_S, priority=_PRIORITY):
        time.sleep(UNDER_WAY_S)
        stage.lab.blackhole_vm()
        yield
    stage.lab.unblock_vm()


@contextlib.contextmanager
def pressed(stage: Stage) -> Fault:
    """Memory is filled and let go."""
    with filling(stage.lab.host, LOADED_S):
        yield


@contextlib.contextmanager
def loaded(stage: Stage) -> Fault:
    """All cores are busy."""
    with spinning(stage.lab.host, MINUTE_S, each=2):
        yield


@contextlib.contextmanager
def both_dead(stage: Stage) -> Fault:
    """The daemon, and at the same moment the VM."""
    stage.kill_daemon()
    stage.made.kill_vm()
    yield
    stage.made.boot_vm()


# The host


@contextlib.contextmanager
def flushed(stage: Stage) -> Fault:
    """Somebody removes all rules of nf_tables."""
    stage.lab.run(["nft", "flush", "ruleset"])
    yield


@contextlib.contextmanager
def port_moved(stage: Stage) -> Fault:
    """Somebody takes a port out of its switch."""
    stage.lab.run(["ip", "link", "set", stage.lab.ports[1], "nomaster"])
    yield


@contextlib.contextmanager
def cable_out(stage: Stage) -> Fault:
    """A port loses its carrier."""
    stage.lab.unplug(1)
    yield
    stage.lab.replug(1)


@contextlib.contextmanager
def planned(stage: Stage) -> Fault:
    """Nothing is broken: somebody asks for bypass."""
    if stage.mode is not Mode.HAND:
        stage.ask(do="hold", topology="bypass", reason="planned", seconds=100)
    yield
    if stage.mode is not Mode.HAND:
        stage.ask(do="release")
