"""What enters must leave: what is lost between two samples, and what no counter can tell."""

from dataclasses import replace

import pytest

from reconciler.appliance.declared import Guard, Loss
from reconciler.guard.crossing import DARK_MS, LEAST, OLD_MS, Crossings, CrossingSample, takes, ways_of
from reconciler.guard.rules import Guarded, Place
from reconciler.health.signal import HealthState
from reconciler.network.counts import LinkCounts
from reconciler.network.path import Path

PORTS = (Place("out", "nic0", 1), Place("in", "nic1", 2))
ADAPTERS = (Place("out", "tap0", 3), Place("in", "tap1", 4))
ONE = Guarded("wire", Guard(), PORTS, ADAPTERS)
ALL, NONE = frozenset({"wire"}), frozenset[str]()
SIGNALS = {"path": ("wire",)}
SIZE = 100


class Host:
    """Counters of a host that forwards what it is told to; `at_ms` goes on by half a second with each look."""

    def __init__(self, one: Guarded = ONE) -> None:
        self.one = one
        self.at_ms = 0
        self.counted = {way.counter: 0 for way in ways_of(one)}
        self.links = {place.index: [0] * 6 for place in (*one.ports, *one.adapters)}
        self.probes = dict.fromkeys((("wire", place.role) for place in one.adapters), 0)
        self.known = Crossings()
        self.handle = 7

    def cross(self, frames: int, *, lost: int = 0, dropped: int = 0, back: bool = False) -> None:
        """Frames enter at the port `out`, or at its adapter (`back`), and leave at the other, less these."""
        source, target = (3, 1) if back else (1, 3)
        self.counted["wire/emitted/out" if back else "wire/entered/out"] += frames
        self.counted["wire/seen/out"] += 0 if back else frames
        for place, number in ((0, frames), (1, frames * SIZE)):
            self.links[source][place] += number
        sent = frames - lost - dropped
        for place, number in ((2, sent), (3, sent * SIZE), (4, dropped)):
            self.links[target][place] += number

    def sample(self) -> CrossingSample:
        links = {index: LinkCounts(*counts) for index, counts in self.links.items()}
        counted = {name: (frames, frames * SIZE) for name, frames in self.counted.items()}
        return CrossingSample(self.at_ms, self.handle, counted, links, links, dict(self.probes))

    def look(self, whole: frozenset[str] = ALL, waiting: frozenset[str] = NONE) -> tuple[HealthState, str]:
        self.at_ms += 500
        self.known = self.known.look([self.one], whole, waiting, self.sample())
        self.known = self.known.settle([self.one], whole, NONE, self.at_ms)
        self.known, _ = self.known.news(SIGNALS, whole)
        told = self.known.told["path/wire"]
        return told.state, told.reason

    def looks(self, frames: int, times: int = 4, **how: int) -> HealthState:
        """Look so often, and have as many frames cross each time; what is said in the end."""
        state = self.look()[0]
        for _ in range(times):
            self.cross(frames, **how)  # type: ignore[arg-type]
            state = self.look()[0]
        return state


def test_what_leaves_is_healthy_and_so_is_silence() -> None:
    assert Host().looks(1_000) is HealthState.HEALTHY
    assert Host().looks(0, times=100) is HealthState.HEALTHY


@pytest.mark.parametrize("back", [False, True])
def test_what_does_not_leave_is_a_loss_between_two_points(back: bool) -> None:
    host = Host()
    host.looks(1_000, back=back)
    host.cross(1_000, lost=1_000, back=back)
    host.look()
    host.cross(1_000, lost=1_000, back=back)
    state, reason = host.look()
    assert state is HealthState.FAILED
    ends = "adapter out (tap0) → port out (nic0)" if back else "port out (nic0) → adapter out (tap0)"
    assert reason == f"{ends}: 2000 of 2000 frames that entered in 1.0 s did not leave"
    (found,) = host.known.findings()["wire"]
    assert (found.path, found.source, found.target) == (Path.CUT, *((None, "out") if back else ("out", None)))


@pytest.mark.parametrize(("lost", "state"), [(49, HealthState.HEALTHY), (50, HealthState.FAILED)])
def test_the_share_is_as_declared(lost: int, state: HealthState) -> None:
    assert Host().looks(100, lost=lost) is state
    half = replace(ONE, guard=Guard(loss=Loss(share=10)))
    assert Host(half).looks(100, lost=lost // 5) is (HealthState.FAILED if lost == 50 else HealthState.HEALTHY)


def test_what_the_vm_does_not_take_is_no_fault_of_the_path() -> None:
    assert Host().looks(1_000, dropped=900) is HealthState.HEALTHY
    assert Host().looks(1_000, dropped=400, lost=500) is HealthState.FAILED


def test_our_own_probes_are_no_frames_that_left() -> None:
    host = Host()
    host.look()
    for _ in range(3):
        host.cross(40, lost=40)
        host.probes["wire", "out"] += 25
        host.links[3][2] += 25
        state, _ = host.look()
    assert state is HealthState.FAILED


def test_nor_are_they_missing_where_they_were_never_sent() -> None:
    """A port has the name of its adapter, and what we send out of the one does not leave by the other."""
    host = Host()
    host.look()
    for _ in range(3):
        host.cross(100, back=True)
        host.probes["wire", "out"] += 90
        host.links[3][2] += 90
        assert host.look()[0] is HealthState.HEALTHY


def test_a_few_frames_are_no_evidence_and_a_few_more_are() -> None:
    host = Host()
    host.look()
    host.cross(LEAST - 1, lost=LEAST - 1)
    assert {host.look()[0] for _ in range((OLD_MS + 2_000) // 500)} == {HealthState.HEALTHY}
    host.cross(LEAST - 1, lost=LEAST - 1)
    assert {host.look()[0] for _ in range(4)} == {HealthState.HEALTHY}
    host.cross(1, lost=1)
    assert host.look()[0] is HealthState.FAILED


def test_what_waits_in_front_of_a_vm_that_is_held_up_is_not_judged() -> None:
    host = Host()
    host.look()
    host.cross(1_000, lost=1_000)
    assert {host.look(waiting=ALL)[0] for _ in range(4)} == {HealthState.HEALTHY}
    host.links[3][2] += 1_000  # it takes them
    assert host.look()[0] is HealthState.HEALTHY
    back_ms = {way.lease: 1_000 for way in ONE.directions}
    assert takes(ONE, back_ms, 1_150)
    assert not takes(ONE, back_ms, 1_151)
    assert not takes(ONE, {}, 1_000)


def test_a_window_that_somebody_disturbed_is_thrown_away() -> None:
    """Another table, other interfaces, the wire elsewhere: what was counted before says nothing of after."""
    for disturb in ("handle", "counter", "link", "away"):
        host = Host()
        host.links[3] = [9] * 6
        host.look()
        host.cross(1_000, lost=1_000)
        if disturb == "handle":
            host.handle += 1
        elif disturb == "counter":
            host.counted["wire/entered/out"] = 0
        elif disturb == "link":
            host.links[3] = [0] * 6
        else:
            host.look(whole=NONE)
        assert host.look()[0] is HealthState.HEALTHY, disturb
        assert host.look()[0] is HealthState.HEALTHY, disturb


def test_a_reader_that_is_held_up_between_two_readings_loses_nothing() -> None:
    """Links are read before and after the table: sent is the most that it can have been."""
    host = Host()
    host.look()
    before = {index: LinkCounts(*counts) for index, counts in host.links.items()}
    host.cross(1_000)
    late = replace(host.sample(), before=before)  # it was held up behind the first reading
    host.known = host.known.look([ONE], ALL, NONE, replace(late, at_ms=1_500))
    host.cross(1_000)
    held_up = host.sample()
    host.cross(1_000)
    after = {index: LinkCounts(*counts) for index, counts in host.links.items()}
    host.known = host.known.look([ONE], ALL, NONE, replace(held_up, after=after, at_ms=3_000))
    assert host.known.lost == host.known.strays == {}


def test_a_loss_is_over_when_nothing_stands_in_the_way_and_nothing_crosses() -> None:
    host = Host()
    assert host.looks(1_000, lost=1_000) is HealthState.FAILED
    host.known = host.known.settle([ONE], NONE, ALL, host.at_ms + 60_000)
    assert host.known.lost
    assert host.look(whole=NONE)[0] is HealthState.FAILED
    assert host.look(whole=NONE)[0] is HealthState.FAILED
    assert host.look(whole=NONE)[0] is HealthState.ABSENT


def test_a_loss_is_over_when_frames_leave_again() -> None:
    host = Host()
    assert host.looks(1_000, lost=1_000) is HealthState.FAILED
    assert host.looks(1_000) is HealthState.HEALTHY


def test_what_leaves_a_port_and_no_adapter_brought_has_passed_the_vm_by() -> None:
    host = Host()
    host.look()
    for _ in range(2):
        host.cross(10, back=True)
        host.links[1][2] += 500
        host.links[1][3] += 500 * SIZE
        state, _ = host.look()
    assert state is HealthState.HEALTHY
    (found,) = host.known.findings()["wire"]
    assert (found.path, found.target) == (Path.BYPASSED, "out")
    assert found.evidence == "1020 frames left nic0 in 1.0 s, and the VM brought 20"


def test_what_an_adapter_brings_joined_leaves_in_segments() -> None:
    host = Host()
    host.look()
    for _ in range(2):
        host.links[3][0] += 100
        host.links[3][1] += 100 * 64_000
        host.counted["wire/emitted/out"] += 10
        host.links[1][2] += 100 * 44
        host.links[1][3] += 100 * 44 * 1_514
        host.look()
    assert host.known.strays == host.known.lost == {}


def test_an_adapter_of_two_ports_is_not_counted() -> None:
    shared = replace(ONE, adapters=(ADAPTERS[0], ADAPTERS[0]))
    assert [way for way in ways_of(shared) if not way.alone] == []
    there = [way for way in ways_of(ONE) if "in" not in (way.source.role, way.target.role)]
    assert list(ways_of(replace(ONE, ports=(PORTS[0], Place("in"))))) == there


def test_where_it_is_off_nothing_is_looked_at() -> None:
    off = replace(ONE, guard=Guard(loss=None))
    assert Crossings().due([off]) is None
    assert Crossings().due([ONE]) == 500


def test_what_a_nic_received_and_the_rules_did_not_see_is_lost_whoever_has_the_wire() -> None:
    host = Host()
    host.look(whole=NONE)
    for _ in range(2):
        host.links[1][0] += 500
        host.links[1][1] += 500 * SIZE
        state, reason = host.look(whole=NONE)
    assert state is HealthState.FAILED
    assert reason == "port out: of 1000 frames that nic0 received in 1.0 s, 0 came as far as the guard's rules"
    (found,) = host.known.findings()["wire"]
    assert (found.path, found.source, found.always) == (Path.CUT, "out", True)
    # What the kernel could not take is no fault of anybody's in the way.
    for _ in range(3):
        host.links[1][0] += 500
        host.links[1][1] += 500 * SIZE
        host.links[1][5] += 500
        state, _ = host.look(whole=NONE)
    assert state is not HealthState.FAILED


def without_table(known: Crossings, at_ms: int, entered: int, left: int) -> Crossings:
    """The guard is off: so many frames went into the VM by now, and so many came out."""
    links = {3: LinkCounts(left, 0, entered, 0, 0, 0), 4: LinkCounts(0, 0, 0, 0, 0, 0)}
    return known.look_through([ONE], links, at_ms)


def test_without_a_table_a_vm_from_which_nothing_comes_out_is_dark_and_one_that_drops_much_is_not() -> None:
    known = without_table(Crossings(), 0, 0, 0)
    known = without_table(known, DARK_MS - 1, 10_000, 0)
    assert (known.dark, known.findings()) == ({}, {})
    known = without_table(known, DARK_MS, 10_000, 0)
    assert [one.path for one in known.findings()["wire"]] == [Path.CUT]
    told = known.news(SIGNALS, NONE, "off")[1]
    assert [(one.state, "none came out" in one.reason) for one in told] == [(HealthState.FAILED, True)]
    # Something comes out again; or it is another VM.
    assert without_table(known, DARK_MS + 1, 20_000, 1).dark == {}
    assert known.look_through([ONE], {3: LinkCounts(0, 0, 0, 0, 0, 0)}, DARK_MS + 1).dark == {}
    # Some of what enters may be dropped, and too little says nothing.
    known = Crossings()
    for number in range(10):
        known = without_table(known, number * DARK_MS, number * 10_000, number)
        assert known.dark == {}
    for number in range(10):
        known = without_table(known, 100_000 + number * OLD_MS, 200_000 + number * (LEAST - 1), 10)
        assert known.dark == {}


def test_old_readings_are_none_when_the_table_goes() -> None:
    host = Host()
    host.looks(1_000)
    known, told = without_table(host.known, 10_000, 0, 0).news(SIGNALS, NONE, "the guard is off")
    assert [one.state for one in told] == [HealthState.ABSENT]
    assert known.news(SIGNALS, NONE, "the guard is off")[1] == ()


def test_what_the_rules_did_not_see_and_left_another_port_has_passed_the_vm_by_and_is_not_lost() -> None:
    host = Host()
    host.look(whole=NONE)
    for _ in range(2):
        for place, number in ((0, 500), (1, 500 * SIZE)):
            host.links[PORTS[0].index][place] += number
            host.links[PORTS[1].index][place + 2] += number
        state, _ = host.look(whole=NONE)
    assert state is not HealthState.FAILED
    (found,) = host.known.findings()["wire"]
    assert (found.path, found.source, found.always) == (Path.BYPASSED, "out", True)
    assert "1000 left elsewhere that no port had let in" in found.evidence
