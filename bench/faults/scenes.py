"""The scenes of the table: what is broken, where, and what must hold then."""

from bench.faults import acts
from bench.faults.scene import (
    ALL_INSPECTED,
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

# The least that there is; see `guard/orders.py`.
_GRACE = {"grace": "4s"}
_FAST = {"lease": "20ms", "probe": "2ms"}
_TWO = ((0, 1), (2, 3))


def _put_back(line: Line) -> bool:
    return line["event"] == "guard" and "put" in str(line["text"])


def _repaired(line: Line) -> bool:
    return str(line["event"]) == "repaired"


_SURICATA = Setting(inside=Inside.SURICATA)
_PROOF = (Within(10), NOTHING_WRONG)

SCENES = (
    Scene("VM blackholes, both ways", acts.blackhole, hung()),
    Scene("VM blackholes, one way", acts.one_way, hung()),
    Scene("… one segment of two (N=4)", acts.one_segment, hung(210, ONLY_THERE), Setting(4, _TWO)),
    Scene("VM hung, lease 20 ms, probes each 2 ms", acts.blackhole, hung(25), Setting(guard=_FAST), modes=GUARDED),
    Scene("VM killed: its adapters vanish", acts.vm_killed, hung()),
    Scene("VM's adapter down inside", acts.adapter_down, tells()),
    Scene("VM stopped, and resumed", acts.vm_stopped, hung(), Setting(inside=Inside.SLOW)),
    Scene("VM reboots: other adapters at once", acts.vm_reboots, hung()),
    Scene("daemon and VM dead at once", acts.both_dead, {Mode.BOTH: (Within(210), NOTHING_WRONG)}, modes=(Mode.BOTH,)),
    Scene("Suricata killed", acts.suricata_killed, hung(), _SURICATA),
    Scene("Suricata stopped (SIGSTOP)", acts.suricata_stopped, hung(), _SURICATA),
    Scene("Suricata: the probes' capture thread stuck", acts.thread_stuck, hung(), _SURICATA),
    Scene("Suricata: another capture thread stuck", acts.other_thread_stuck, {}, _SURICATA, modes=KEPT, most=5),
    Scene(
        "Suricata reloads 20,000 rules",
        acts.rules_reloaded,
        dict.fromkeys(GUARDED, (STILL_LEASED, ALL_INSPECTED, NOTHING_WRONG)),
        _SURICATA,
        modes=GUARDED,
        most=3,
    ),
    Scene(
        "Suricata's rules drop all user traffic",
        acts.all_dropped,
        dict.fromkeys(GUARDED, (STILL_LEASED, ALL_INSPECTED, NOTHING_WRONG)),
        _SURICATA,
        modes=GUARDED,
        most=5,
    ),
    Scene(
        "daemon killed, VM healthy", acts.daemon_killed, unmoved(Mode.BOTH, Mode.DAEMON), modes=(Mode.BOTH, Mode.DAEMON)
    ),
    Scene(
        "… and not started again within a grace of 4 s",
        acts.daemon_killed,
        {Mode.BOTH: _PROOF},
        Setting(guard=_GRACE),
        modes=(Mode.BOTH,),
        lasts_s=5.0,
        most=5,
    ),
    Scene(
        "daemon stopped (SIGSTOP)", acts.daemon_stopped, unmoved(Mode.BOTH, Mode.DAEMON), modes=(Mode.BOTH, Mode.DAEMON)
    ),
    Scene("prober killed", acts.prober_killed, {Mode.BOTH: _PROOF}, modes=(Mode.BOTH,)),
    Scene("prober stopped (SIGSTOP)", acts.prober_stopped, {Mode.BOTH: _PROOF}, modes=(Mode.BOTH,)),
    Scene(
        "daemon starved: all cores busy, real-time",
        acts.starved,
        {Mode.BOTH: (NOT_TRIPPED, NONE_LOST, NOTHING_WRONG)},
        modes=(Mode.BOTH, Mode.DAEMON),
        lasts_s=acts.LOADED_S,
        most=5,
        loaded=True,
    ),
    Scene(
        "… and the VM blackholes",
        acts.starved_and_hung,
        {Mode.BOTH: (Within(210), NOTHING_WRONG)},
        modes=(Mode.BOTH, Mode.DAEMON),
        lasts_s=acts.LOADED_S - acts.UNDER_WAY_S,
        most=5,
        loaded=True,
    ),
    Scene(
        "memory pressure: 4 GiB filled, again and again",
        acts.pressed,
        unmoved(Mode.BOTH),
        modes=(Mode.BOTH,),
        lasts_s=acts.LOADED_S,
        most=5,
        loaded=True,
    ),
    Scene(
        "`nft flush ruleset` by somebody",
        acts.flushed,
        {Mode.BOTH: (Acts(100, "put back"), NONE_LOST), Mode.GUARD: (NONE_LOST,)},
        modes=GUARDED,
        told=_put_back,
    ),
    Scene(
        "somebody takes a port out of its switch",
        acts.port_moved,
        {Mode.BOTH: (Acts(50, "repaired"),)},
        modes=KEPT,
        afresh=3,
        told=_repaired,
    ),
    Scene("a port's cable out, and in again", acts.cable_out, {Mode.BOTH: (STILL_LEASED,)}, modes=KEPT),
    Scene(
        "planned switch and back, 10,000 frames/s, N=2",
        acts.planned,
        {Mode.BOTH: (LOSSLESS,)},
        Setting(rate=10_000),
        modes=(Mode.BOTH, Mode.DAEMON, Mode.HAND),
    ),
    Scene(
        "… N=4, 12 flows of 850 frames/s",
        acts.planned,
        {Mode.BOTH: (LOSSLESS,)},
        Setting(4, rate=850),
        modes=(Mode.BOTH, Mode.DAEMON, Mode.HAND),
    ),
)

SOAK = Scene(
    "all cores busy for a minute, VM healthy",
    acts.loaded,
    {Mode.BOTH: (NOT_TRIPPED, NONE_LOST, NOTHING_WRONG)},
    modes=(Mode.BOTH,),
    lasts_s=acts.MINUTE_S,
    loaded=True,
)
"""Run as often as minutes are asked for."""
