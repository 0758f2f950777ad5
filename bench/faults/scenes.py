"""The faults: each breaks something when it is entered, and mends it when it is left."""

import contextlib
import signal
import time
from collections.abc import Iterator

from bench.faults.busy import filling, spinning
from bench.faults.scene import (
    GUARDED,
    KEPT,
    LOSSLESS,
    NONE_LOST,
    NOT_TRIPPED,
    NOTHING_WRONG,
    ONLY_THERE,
    STILL_LEASED,
    Acts,
    Inside,
    Line,
    Mode,
    Scene,
    Setting,
    Within,
    hung,
    tells,
    unmoved,
)
from bench.faults.stage import Stage, signalled
from reconciler.lab.ips import needles
from reconciler.lab.namespaces import set_link_up

RULES = 20_000
_LOADED_S = 3.0
_MINUTE_S = 60.0
_UNDER_WAY_S = 0.5
_LIVED_S = 2.5
# The least that there is; see `daemon/probes.py`.
_GRACE = {"grace": "4s"}
_FAST = {"lease": "20ms", "probe": "2ms"}
_TWO = ((0, 1), (2, 3))

Fault = Iterator[None]


# The VM


@contextlib.contextmanager
def _blackhole(stage: Stage) -> Fault:
    stage.lab.blackhole_vm()
    yield
    stage.lab.unblock_vm()


@contextlib.contextmanager
def _one_way(stage: Stage) -> Fault:
    stage.lab.blackhole_vm([1])
    yield
    stage.lab.unblock_vm()


@contextlib.contextmanager
def _one_segment(stage: Stage) -> Fault:
    stage.lab.blackhole_vm(stage.lab.segments[0])
    yield
    stage.lab.unblock_vm()


@contextlib.contextmanager
def _vm_killed(stage: Stage) -> Fault:
    stage.made.kill_vm()
    yield
    stage.made.boot_vm()


@contextlib.contextmanager
def _vm_reboots(stage: Stage) -> Fault:
    stage.made.kill_vm()
    stage.by_hand()
    stage.made.boot_vm()
    yield


@contextlib.contextmanager
def _adapter_down(stage: Stage) -> Fault:
    _set_adapter(stage, up=False)
    yield
    _set_adapter(stage, up=True)


def _set_adapter(stage: Stage, *, up: bool) -> None:
    assert stage.lab.vm is not None
    with stage.lab.vm.entered():
        set_link_up("eth1", up=up)


@contextlib.contextmanager
def _vm_stopped(stage: Stage) -> Fault:
    # A hypervisor's whole process: what forwards, and what tells of it.
    stage.slow().stop()
    signalled(stage.made.agent.pid, signal.SIGSTOP)
    yield
    signalled(stage.made.agent.pid, signal.SIGCONT)
    stage.slow().cont()


# Suricata in it


@contextlib.contextmanager
def _suricata_killed(stage: Stage) -> Fault:
    stage.suricata().kill()
    yield
    stage.suricata().start()


@contextlib.contextmanager
def _suricata_stopped(stage: Stage) -> Fault:
    stage.suricata().stop()
    yield
    stage.suricata().cont()


@contextlib.contextmanager
def _thread_stuck(stage: Stage) -> Fault:
    stage.suricata().stick_one_thread(stage.thread(of_probes=True))
    yield
    stage.suricata().release_thread()


@contextlib.contextmanager
def _other_thread_stuck(stage: Stage) -> Fault:
    stage.suricata().stick_one_thread(stage.thread(of_probes=False))
    yield
    stage.suricata().release_thread()


@contextlib.contextmanager
def _rules_reloaded(stage: Stage) -> Fault:
    stage.suricata().reload_rules(needles(RULES))
    yield


@contextlib.contextmanager
def _all_dropped(stage: Stage) -> Fault:
    stage.suricata().drop_everything()
    yield
    stage.suricata().reload_rules([])


# Who looks after it


@contextlib.contextmanager
def _daemon_killed(stage: Stage) -> Fault:
    stage.kill_daemon()
    yield
    stage.start_daemon()


@contextlib.contextmanager
def _daemon_stopped(stage: Stage) -> Fault:
    assert stage.made.daemon is not None
    signalled(stage.made.daemon.pid, signal.SIGSTOP)
    yield
    signalled(stage.made.daemon.pid, signal.SIGCONT)


@contextlib.contextmanager
def _prober_killed(stage: Stage) -> Fault:
    # One that ends as soon as it was started is not started again at once.
    time.sleep(_LIVED_S)
    signalled(stage.prober(), signal.SIGKILL)
    yield


@contextlib.contextmanager
def _prober_stopped(stage: Stage) -> Fault:
    pid = stage.prober()
    signalled(pid, signal.SIGSTOP)
    yield
    signalled(pid, signal.SIGCONT)


@contextlib.contextmanager
def _starved(stage: Stage) -> Fault:
    with spinning(stage.lab.host, _LOADED_S, priority=5):
        yield


@contextlib.contextmanager
def _starved_and_hung(stage: Stage) -> Fault:
    with spinning(stage.lab.host, _LOADED_S, priority=5):
        time.sleep(_UNDER_WAY_S)
        stage.lab.blackhole_vm()
        yield
    stage.lab.unblock_vm()


@contextlib.contextmanager
def _pressed(stage: Stage) -> Fault:
    with filling(stage.lab.host, _LOADED_S):
        yield


@contextlib.contextmanager
def _loaded(stage: Stage) -> Fault:
    with spinning(stage.lab.host, _MINUTE_S, each=2):
        yield


@contextlib.contextmanager
def _both_dead(stage: Stage) -> Fault:
    stage.kill_daemon()
    stage.made.kill_vm()
    yield
    stage.made.boot_vm()


# The host


@contextlib.contextmanager
def _flushed(stage: Stage) -> Fault:
    stage.lab.run(["nft", "flush", "ruleset"])
    yield


@contextlib.contextmanager
def _port_moved(stage: Stage) -> Fault:
    stage.lab.run(["ip", "link", "set", stage.lab.ports[1], "nomaster"])
    yield


@contextlib.contextmanager
def _cable_out(stage: Stage) -> Fault:
    stage.lab.unplug(1)
    yield
    stage.lab.replug(1)


@contextlib.contextmanager
def _planned(stage: Stage) -> Fault:
    if stage.mode is not Mode.HAND:
        stage.ask(do="hold", topology="bypass", reason="planned", seconds=100)
    yield
    if stage.mode is not Mode.HAND:
        stage.ask(do="release")


def _put_back(line: Line) -> bool:
    return line["event"] == "guard" and "put" in str(line["text"])


def _mended(line: Line) -> bool:
    return str(line["event"]) == "mended"


_SURICATA = Setting(inside=Inside.SURICATA)
_PROOF = (Within(10), NOTHING_WRONG)

SCENES = (
    Scene("VM blackholes, both ways", _blackhole, hung()),
    Scene("VM blackholes, one way", _one_way, hung()),
    Scene("… one segment of two (N=4)", _one_segment, hung(210, ONLY_THERE), Setting(4, _TWO)),
    Scene("VM hung, lease 20 ms, probes each 2 ms", _blackhole, hung(25), Setting(guard=_FAST), modes=GUARDED),
    Scene("VM killed: its adapters vanish", _vm_killed, hung()),
    Scene("VM's adapter down inside", _adapter_down, tells()),
    Scene("VM stopped, and resumed", _vm_stopped, hung(), Setting(inside=Inside.SLOW)),
    Scene("VM reboots: other adapters at once", _vm_reboots, hung()),
    Scene("daemon and VM dead at once", _both_dead, {Mode.BOTH: (Within(210), NOTHING_WRONG)}, modes=(Mode.BOTH,)),
    Scene("Suricata killed", _suricata_killed, hung(), _SURICATA),
    Scene("Suricata stopped (SIGSTOP)", _suricata_stopped, hung(), _SURICATA),
    Scene("Suricata: the probes' capture thread stuck", _thread_stuck, hung(), _SURICATA),
    Scene("Suricata: another capture thread stuck", _other_thread_stuck, {}, _SURICATA, modes=KEPT, most=5),
    Scene(
        "Suricata reloads 20,000 rules",
        _rules_reloaded,
        dict.fromkeys(GUARDED, (STILL_LEASED, NOTHING_WRONG)),
        _SURICATA,
        modes=GUARDED,
        most=3,
    ),
    Scene(
        "Suricata's rules drop all user traffic",
        _all_dropped,
        dict.fromkeys(GUARDED, (STILL_LEASED, NOTHING_WRONG)),
        _SURICATA,
        modes=GUARDED,
        most=5,
    ),
    Scene("daemon killed, VM healthy", _daemon_killed, unmoved(Mode.BOTH, Mode.DAEMON), modes=(Mode.BOTH, Mode.DAEMON)),
    Scene(
        "… and not started again within a grace of 4 s",
        _daemon_killed,
        {Mode.BOTH: _PROOF},
        Setting(guard=_GRACE),
        modes=(Mode.BOTH,),
        lasts_s=5.0,
        most=5,
    ),
    Scene("daemon stopped (SIGSTOP)", _daemon_stopped, unmoved(Mode.BOTH, Mode.DAEMON), modes=(Mode.BOTH, Mode.DAEMON)),
    Scene("prober killed", _prober_killed, {Mode.BOTH: _PROOF}, modes=(Mode.BOTH,)),
    Scene("prober stopped (SIGSTOP)", _prober_stopped, {Mode.BOTH: _PROOF}, modes=(Mode.BOTH,)),
    Scene(
        "daemon starved: all cores busy, real-time",
        _starved,
        {Mode.BOTH: (NOT_TRIPPED, NONE_LOST, NOTHING_WRONG)},
        modes=(Mode.BOTH, Mode.DAEMON),
        lasts_s=_LOADED_S,
        most=5,
        loaded=True,
    ),
    Scene(
        "… and the VM blackholes",
        _starved_and_hung,
        {Mode.BOTH: (Within(210), NOTHING_WRONG)},
        modes=(Mode.BOTH, Mode.DAEMON),
        lasts_s=_LOADED_S - _UNDER_WAY_S,
        most=5,
        loaded=True,
    ),
    Scene(
        "memory pressure: 4 GiB filled, again and again",
        _pressed,
        unmoved(Mode.BOTH),
        modes=(Mode.BOTH,),
        lasts_s=_LOADED_S,
        most=5,
        loaded=True,
    ),
    Scene(
        "`nft flush ruleset` by somebody",
        _flushed,
        {Mode.BOTH: (Acts(100, "put back"), NONE_LOST), Mode.GUARD: (NONE_LOST,)},
        modes=GUARDED,
        told=_put_back,
    ),
    Scene(
        "somebody takes a port out of its switch",
        _port_moved,
        {Mode.BOTH: (Acts(50, "mended"),)},
        modes=KEPT,
        told=_mended,
    ),
    Scene("a port's cable out, and in again", _cable_out, {Mode.BOTH: (STILL_LEASED,)}, modes=KEPT),
    Scene(
        "planned switch and back, 10,000 frames/s, N=2",
        _planned,
        {Mode.BOTH: (LOSSLESS,)},
        Setting(rate=10_000),
        modes=(Mode.BOTH, Mode.DAEMON, Mode.HAND),
    ),
    Scene(
        "… N=4, 12 flows of 850 frames/s",
        _planned,
        {Mode.BOTH: (LOSSLESS,)},
        Setting(4, rate=850),
        modes=(Mode.BOTH, Mode.DAEMON, Mode.HAND),
    ),
)

SOAK = Scene(
    "all cores busy for a minute, VM healthy",
    _loaded,
    {Mode.BOTH: (NOT_TRIPPED, NONE_LOST, NOTHING_WRONG)},
    modes=(Mode.BOTH,),
    lasts_s=_MINUTE_S,
    loaded=True,
)
"""Run as often as minutes are asked for."""
