"""The guard's step: pure, so that whatever may come can be told to it, in any order, and its laws asked of each answer."""

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from worlds import appliance, two_ports, two_ports_document

from reconciler.appliance.declared import Appliance
from reconciler.guard import effects, events, orders
from reconciler.guard.events import (
    Chosen,
    CountersRead,
    Declared,
    Disturbed,
    Event,
    Installed,
    LeasesFound,
    NotDone,
    Observed,
    ProberGone,
    ProberReported,
    ProberStill,
    ProberThere,
    Rebooted,
    Switched,
    TableFound,
    Tick,
)
from reconciler.guard.orders import DirectionReport, ProberReport
from reconciler.guard.rules import Contents, Guarded, Place
from reconciler.guard.state import GuardState, ProberLife
from reconciler.guard.step import begin, due, step, taken_away
from reconciler.guard.table import LeaseState

BYPASS, INSPECT = {"wire": "bypass"}, {"wire": "inspect"}
LEASE_MS = 200


def guarded(**more: Any) -> Appliance:
    health = {"signals": {"path": {"kind": "canary"}}}
    return appliance(**{**two_ports_document(guard={}, health=health), **more})


OF = guarded()


def bound(*adapters: int, of: Appliance = OF) -> tuple[Guarded, ...]:
    guard = of.segments["wire"].guard
    assert guard is not None
    ports = (Place("outside", "nic0", 1), Place("inside", "nic1", 2))
    roles = ("outside", "inside")
    taps = tuple(
        Place(role, f"tap{index}" if index else "", index) for role, index in zip(roles, adapters, strict=True)
    )
    return (Guarded("wire", guard, ports, taps),)


class Machine:
    """One guard, told what happens; what it asked for lies in `asked`, the last step's in `last`."""

    def __init__(self, of: Appliance = OF, *, now: int = 10_000) -> None:
        self.state = begin(of, b"s" * 16, b"n" * 16)
        self.now = now
        self.asked: list[effects.Effect] = []
        self.last: tuple[effects.Effect, ...] = ()

    def tell(self, event: Event) -> tuple[effects.Effect, ...]:
        self.state, self.last = step(self.state, event, self.now)
        self.asked += self.last
        return self.last

    def of(self, kind: type) -> list[Any]:
        return [one for one in self.last if isinstance(one, kind)]

    @property
    def held(self) -> LeaseState:
        return self.state.segments["wire"].held

    def report(self, state: str = "back", token: bytes | None = None, directions: Iterable[int] = (0, 1)) -> None:
        (one,) = self.state.bound or bound(3, 4)
        heads = orders.addresses(one, self.state.secret, token or self.state.segments["wire"].token)
        told = [
            DirectionReport(lease, head, state, 0 if state == "back" else None, 9, 9, 0, None, 0)
            for lease, head in heads.items()
        ]
        kept = tuple(told[number] for number in directions)
        self.tell(ProberReported((ProberReport(self.now * 1_000, kept, 0, 0, 0, 0, "fifo 10", "", 0),)))
        self.answer_leases()

    def answer_leases(self, *, stand: bool = True) -> None:
        while asked := self.of(effects.FindLeases):
            self.tell(LeasesFound(frozenset(one.name for one in asked[0].bound) if stand else frozenset()))

    def ready(self, topology: dict[str, str] = BYPASS) -> "Machine":
        """A table without consent, and a prober that has been given its orders."""
        self.tell(Chosen(topology, frozenset()))
        self.tell(Observed(bound(3, 4), frozenset({"wire"}), frozenset()))
        assert self.of(effects.FindTable)
        self.tell(TableFound())
        assert self.of(effects.Install)
        self.tell(Installed("print"))
        assert self.of(effects.FindProber)
        self.tell(ProberGone("none"))
        assert self.of(effects.StartProber)
        self.tell(ProberThere())
        self.report("unproven")
        assert self.of(effects.GiveOrders)
        return self

    def granted(self) -> "Machine":
        self.ready()
        self.tell(Chosen(INSPECT, frozenset()))
        self.tell(Observed(bound(3, 4), frozenset({"wire"}), frozenset({"wire"})))
        self.now += 100
        self.report()
        assert self.of(effects.Grant)
        assert self.held is LeaseState.GRANTED
        return self


def test_consent_is_given_when_every_direction_comes_back_with_the_token_of_now_and_not_before() -> None:
    machine = Machine().ready()
    old = machine.state.segments["wire"].token
    machine.tell(Chosen(INSPECT, frozenset()))
    machine.report()
    assert not machine.of(effects.Grant), "its switches are not in place yet"
    machine.now += LEASE_MS
    machine.tell(Observed(bound(3, 4), frozenset({"wire"}), frozenset({"wire"})))
    machine.report("lost")
    assert not machine.of(effects.Grant)
    machine.report(directions=(0,))
    assert not machine.of(effects.Grant)
    machine.report(token=b"\6other")
    assert not machine.of(effects.Grant)
    machine.report()
    (grant,) = machine.of(effects.Grant)
    assert grant.token == old == machine.state.segments["wire"].token


def test_it_is_taken_in_the_step_that_hears_of_the_failure_and_nothing_is_asked_before() -> None:
    machine = Machine().granted()
    token = machine.state.segments["wire"].token
    machine.tell(Chosen(BYPASS, frozenset({"wire"})))
    assert machine.last == (effects.Withdraw(machine.state.bound[0], drain=False),)
    assert machine.state.segments["wire"].token != token
    machine = Machine().granted()
    machine.tell(Chosen(BYPASS, frozenset()))
    assert machine.last == (effects.Withdraw(machine.state.bound[0], drain=True),)


def test_a_lease_that_ran_out_is_a_trip_and_the_policy_hears_of_it() -> None:
    machine = Machine().granted()
    machine.now += 100
    machine.tell(Tick())
    machine.answer_leases(stand=False)
    assert [type(one) for one in machine.last][:1] == [effects.Withdraw]
    (news,) = machine.of(effects.Readings)
    assert "tripped" in news.readings[0].reason
    assert machine.state.segments["wire"].exposure.trips == 1


def test_what_is_taken_back_while_a_table_is_on_its_way_is_taken_back_again_when_it_is_there() -> None:
    machine = Machine().granted()
    machine.tell(Disturbed())
    machine.tell(Observed(bound(3, 4), frozenset({"wire"}), frozenset({"wire"})))
    machine.tell(TableFound("another", {}, 1, {}))
    (install,) = machine.of(effects.Install)
    token = machine.state.segments["wire"].token.hex(":")
    assert token in install.ruleset.text
    machine.answer_leases()
    machine.tell(Chosen(BYPASS, frozenset({"wire"})))
    assert machine.of(effects.Withdraw)
    assert machine.state.table.putting
    machine.tell(Installed("another one"))
    assert machine.of(effects.Withdraw), "the new table was composed with consent"
    assert machine.held is LeaseState.NOTHING


def test_while_a_table_is_on_its_way_no_other_one_is_put_and_nothing_is_granted() -> None:
    machine = Machine().ready(INSPECT)
    machine.tell(Disturbed())
    machine.tell(Observed(bound(3, 4), frozenset({"wire"}), frozenset({"wire"})))
    machine.tell(TableFound())
    assert machine.of(effects.Install)
    for _ in range(3):
        machine.now += 5_000
        machine.tell(Disturbed())
        machine.tell(Observed(bound(3, 5), frozenset({"wire"}), frozenset({"wire"})))
        assert not machine.of(effects.FindTable)
        machine.report()
        assert not machine.of(effects.Grant)


def test_where_interfaces_alone_have_changed_their_chains_alone_are_put_again() -> None:
    machine = Machine().ready()
    machine.tell(Observed(bound(3, 7), frozenset({"wire"}), frozenset()))
    machine.tell(TableFound("print", {}, 1, {}))
    (install,) = machine.of(effects.Install)
    assert install.ruleset.text.startswith("add chain netdev")
    assert install.ruleset.digest == machine.state.table.made
    assert "\tset " not in install.ruleset.text
    machine.tell(Installed("a print"))
    machine.tell(Disturbed())
    machine.tell(Observed(bound(3, 8), frozenset({"wire"}), frozenset()))
    machine.tell(TableFound("somebody has changed it", {}, 1, {}))
    (install,) = machine.of(effects.Install)
    assert install.ruleset.text.startswith("add table netdev"), "what is not as it was left is put whole"


def test_a_table_that_was_gone_gets_another_token_and_no_probe_is_sent_while_it_is() -> None:
    machine = Machine().granted()
    token = machine.state.segments["wire"].token
    machine.tell(Disturbed())
    machine.tell(Observed(bound(3, 4), frozenset({"wire"}), frozenset({"wire"})))
    machine.tell(TableFound())
    machine.answer_leases()
    assert machine.state.segments["wire"].token != token
    ordered = [one for one in machine.asked if isinstance(one, effects.GiveOrders)][-1]
    assert ordered.orders.orders == ()
    machine.tell(Installed("print"))
    machine.answer_leases()
    ordered = [one for one in machine.asked if isinstance(one, effects.GiveOrders)][-1]
    assert {one.template.frame[:6] for one in ordered.orders.orders if not one.name.endswith("?")} == {
        machine.state.segments["wire"].token
    }


def test_what_was_not_proven_a_moment_ago_gets_no_lease_from_a_table_that_is_put_back() -> None:
    machine = Machine().granted()
    machine.now += 1_500
    machine.tell(Disturbed())
    machine.tell(Observed(bound(3, 4), frozenset({"wire"}), frozenset({"wire"})))
    machine.tell(TableFound())
    (install,) = machine.of(effects.Install)
    assert "timeout 200ms }" not in install.ruleset.text.split("chain")[0]
    assert not machine.of(effects.Withdraw), "there is nothing to withdraw it from"
    machine.tell(Installed("print"))
    assert [type(one) for one in machine.last if isinstance(one, effects.Withdraw)] == [effects.Withdraw]
    assert machine.held is LeaseState.NOTHING
    assert machine.state.segments["wire"].exposure.trips == 1


def test_rules_that_somebody_changed_get_another_token_and_those_that_we_change_keep_theirs() -> None:
    for fingerprint, kept in (("print", True), ("another", False)):
        machine = Machine().granted()
        token = machine.state.segments["wire"].token
        machine.tell(Declared(guarded(guard={"lease": "400ms"})))
        machine.tell(Observed(bound(3, 4, of=machine.state.appliance), frozenset({"wire"}), frozenset({"wire"})))
        machine.tell(TableFound(fingerprint, {}, 1, {}))
        assert machine.of(effects.Install)
        assert (machine.state.segments["wire"].token == token) is kept


def test_a_lease_that_cannot_be_looked_at_has_the_table_looked_for() -> None:
    machine = Machine().granted()
    machine.now += 200
    machine.tell(Tick())
    (asked,) = machine.of(effects.FindLeases)
    machine.tell(NotDone(asked, "no such set"))
    assert machine.of(effects.FindTable)
    machine.tell(NotDone(asked, "no such set"))
    assert not machine.of(effects.FindTable), "once is enough until the next look at the network"


def test_switched_off_nothing_is_known_of_the_path_any_more() -> None:
    machine = Machine().granted()
    machine.tell(Switched(on=False))
    assert [type(one) for one in machine.last][:3] == [effects.StandAside, effects.EndProber, effects.RemoveTable]
    (news,) = machine.of(effects.Readings)
    assert (news.readings[0].state, news.readings[0].reason) == ("absent", "the guard is off: no probes are sent")
    machine.tell(events.Removed(1, {"wire/port/outside": (7, 700)}))
    assert machine.state.segments["wire"].exposure.total == (7, 700)
    assert machine.state.segments["wire"].exposure.open_since is None
    machine.tell(NotDone(effects.RemoveTable(), "busy"))
    assert machine.state.on, "what could not be taken away is looked after"


def test_what_was_counted_belongs_to_the_table_that_counted_it() -> None:
    machine = Machine().ready()
    counted = {"wire/port/outside": (100, 6_000), "wire/port/inside": (3, 180)}
    machine.tell(CountersRead(1, counted))
    assert machine.state.segments["wire"].exposure.total == (103, 6_180)
    machine.tell(CountersRead(1, counted))
    assert machine.state.segments["wire"].exposure.total == (103, 6_180)
    machine.tell(CountersRead(2, {"wire/port/outside": (5, 300)}))
    assert machine.state.segments["wire"].exposure.total == (108, 6_480)
    machine.tell(CountersRead(2, {"wire/port/outside": (2, 120)}))
    assert machine.state.segments["wire"].exposure.total == (110, 6_600), "somebody has reset the counters"
    machine.tell(CountersRead(None, {}))
    machine.tell(Installed("x"))
    assert machine.state.segments["wire"].exposure.total == (110, 6_600)


def test_a_process_that_dies_before_it_hears_of_its_table_books_nothing_twice() -> None:
    machine, counted = Machine().ready(), {"wire/port/outside": (100, 6_000)}
    machine.tell(Disturbed())
    machine.tell(Observed(bound(3, 4), frozenset(), frozenset()))
    machine.tell(TableFound("somebody has changed it", {}, 1, counted))
    assert machine.of(effects.Install)
    kinds = [type(one) for one in machine.last]
    assert kinds.index(effects.Keep) < kinds.index(effects.Install)
    kept = [one.value for one in machine.asked if isinstance(one, effects.Keep)][-1]
    for handle, booked in ((1, 107), (2, 207), (3, 207)):
        again = Machine()
        again.state = begin(OF, b"t" * 16, b"m" * 16, kept)
        again.tell(Chosen(BYPASS, frozenset()))
        again.tell(Observed(bound(3, 4), frozenset(), frozenset()))
        again.tell(TableFound("print", {}, handle, {"wire/port/outside": (107, 6_420)}))
        assert again.state.segments["wire"].exposure.total == (booked, 60 * booked)


def test_what_was_counted_between_two_looks_and_the_install_is_booked_once() -> None:
    machine = Machine().ready()
    at = {"wire/port/outside": (100, 6_000)}
    machine.tell(Disturbed())
    machine.tell(Observed(bound(3, 4), frozenset(), frozenset()))
    machine.tell(TableFound("somebody has changed it", {}, 1, at))
    assert machine.of(effects.Install)
    machine.tell(CountersRead(1, {"wire/port/outside": (103, 6_180)}))
    machine.tell(Installed("print", CountersRead(1, {"wire/port/outside": (105, 6_300)})))
    machine.tell(CountersRead(2, {"wire/port/outside": (4, 240)}))
    assert machine.state.segments["wire"].exposure.total == (109, 6_540)
    machine.tell(Disturbed())
    machine.tell(Observed(bound(5, 6), frozenset(), frozenset()))
    machine.tell(TableFound("print", {}, 2, {"wire/port/outside": (5, 300)}))
    (install,) = machine.of(effects.Install)
    assert install.ruleset.text.startswith("add chain"), "this one stays, and counts on"
    machine.tell(CountersRead(2, {"wire/port/outside": (8, 480)}))
    machine.tell(Installed("another", CountersRead(2, {"wire/port/outside": (7, 420)})))
    machine.tell(CountersRead(2, {"wire/port/outside": (9, 540)}))
    assert machine.state.segments["wire"].exposure.total == (114, 6_840)


def test_the_next_table_is_not_counted_before_the_last_of_the_one_before_is_told() -> None:
    machine = Machine().ready()
    machine.tell(Disturbed())
    machine.tell(Observed(bound(3, 4), frozenset(), frozenset()))
    machine.tell(TableFound("somebody has changed it", {}, 1, {"wire/port/outside": (100, 6_000)}))
    machine.tell(CountersRead(2, {"wire/port/outside": (3, 180)}))
    machine.tell(Installed("print", CountersRead(1, {"wire/port/outside": (105, 6_300)})))
    machine.tell(CountersRead(2, {"wire/port/outside": (4, 240)}))
    assert machine.state.segments["wire"].exposure.total == (109, 6_540)


def test_while_the_guard_has_the_wire_it_is_counted_with_each_report_and_kept() -> None:
    machine = Machine().ready()
    machine.now += 100
    machine.report()
    assert machine.of(effects.ReadCounters)
    machine.tell(CountersRead(1, {"wire/port/outside": (7, 420)}))
    assert machine.of(effects.Keep)[0].value["segments"]["wire"]["total"] == [7, 420]
    machine = Machine().granted()
    machine.tell(CountersRead(1, {}))
    machine.now += 100
    machine.report()
    assert not machine.of(effects.ReadCounters)


@pytest.mark.parametrize(("ago", "since"), [(250, -50), (300, -100), (150, 0), (None, 0)])
def test_a_trip_was_when_the_kernel_says_and_not_when_it_was_seen(ago: int | None, since: int) -> None:
    machine = Machine().granted()
    machine.now += 5_000
    machine.tell(Tick())
    machine.tell(LeasesFound(frozenset(), {"wire": None if ago is None else machine.now - ago}))
    assert machine.state.segments["wire"].exposure.trips == 1
    assert machine.state.segments["wire"].exposure.open_since == machine.now + since
    assert machine.state.segments["wire"].exposure.open_within == (LEASE_MS if ago is None else 10)


@pytest.mark.parametrize(
    ("token", "ago", "since", "within"), [(b"t" * 6, 8_200, 8_000, 10), (None, 8_200, 8_200, LEASE_MS)]
)
def test_a_process_that_comes_late_knows_since_when_the_guard_has_the_wire(
    token: bytes | None, ago: int, since: int, within: int
) -> None:
    kept = [one.value for one in Machine().granted().asked if isinstance(one, effects.Keep)][-1]
    assert kept["segments"]["wire"]["open_since"] is None
    again = Machine(now=60_000)
    again.state = begin(OF, b"t" * 16, b"m" * 16, kept)
    again.tell(Chosen(BYPASS, frozenset()))
    again.tell(Observed(bound(3, 4), frozenset(), frozenset()))
    again.tell(TableFound("print", {"wire": Contents(token, renewed_ms=60_000 - ago)}, 1, {}))
    assert again.state.segments["wire"].exposure.open_since == 60_000 - since
    assert again.state.segments["wire"].exposure.open_within == within


def test_what_was_counted_of_a_segment_outlives_its_guard() -> None:
    machine = Machine().ready()
    machine.tell(CountersRead(1, {"wire/port/outside": (7, 420)}))
    machine.tell(Declared(two_ports()))
    machine.tell(events.Removed(1, {"wire/port/outside": (9, 540)}))
    (kept,) = machine.of(effects.Keep)
    assert kept.value["segments"]["wire"]["total"] == [9, 540]
    machine.now += 60_000
    machine.tell(Declared(OF))
    again = machine.state.segments["wire"].exposure
    assert again.total == (9, 540)
    later = begin(OF, b"t" * 16, b"m" * 16, kept.value)
    assert later.segments["wire"].exposure.total == (9, 540)


@pytest.mark.parametrize("secret", [b"s" * 16, b""])
def test_taken_away_by_hand_what_was_counted_is_kept_and_no_secret(secret: bytes) -> None:
    machine = Machine().ready()
    machine.tell(CountersRead(1, {"wire/port/outside": (7, 420)}))
    kept = {**[one for one in machine.asked if isinstance(one, effects.Keep)][-1].value, "secret": secret.hex()}
    machine.now += 500
    left = taken_away(kept, events.Removed(1, {"wire/port/outside": (9, 540), "wire/adapter/inside": (1, 60)}))
    assert left
    assert left["secret"] == ""
    assert left["on"]
    found = begin(OF, b"t" * 16, b"m" * 16, left)
    assert found.secret == b"t" * 16
    assert found.segments["wire"].exposure.total == (9, 540)
    assert found.segments["wire"].exposure.open_since is None
    assert taken_away({}, events.Removed(1, {"wire/port/outside": (9, 540)}))
    assert taken_away({}, events.Removed(1, {"wire/port/outside": (0, 0)})) is None
    assert taken_away({}, events.Removed()) is None


@pytest.mark.parametrize("reports", [False, True])
def test_there_are_never_two_probers(reports: bool) -> None:
    """Whoever was killed may take its time to be gone; whoever was started may never say a word."""
    machine, alive, started = Machine().ready(), 1, 1
    for number in range(600):
        machine.now += 100
        machine.tell(Tick())
        machine.answer_leases()
        if machine.of(effects.EndProber):
            machine.tell(ProberGone("killed"))
        for _ in range(50):
            if not machine.of(effects.StartProber):
                break
            if alive and number % 3:
                machine.tell(ProberStill())
                machine.now += 5
                machine.tell(Tick())
                continue
            alive, started = 1, started + 1
            machine.tell(ProberThere())
            assert not machine.of(effects.GiveOrders), "it gets none before it has reported"
            if reports:
                machine.report()
                assert machine.of(effects.GiveOrders)
    assert started <= (70_000 // 1_100 if reports else 6)


def test_one_that_is_slow_to_start_is_given_ten_seconds_and_failures_double_the_wait() -> None:
    machine = Machine().ready()
    machine.tell(ProberGone("it has ended"))
    while not machine.of(effects.StartProber):
        machine.now += 100
        machine.tell(Tick())
    machine.tell(ProberThere())
    began, waits = machine.now, []
    for _ in range(5):
        while not machine.of(effects.EndProber):
            machine.now = max(machine.now + 1, min(due(machine.state, machine.now), machine.now + 500))
            machine.tell(Tick())
        assert machine.now - began >= 10_000
        machine.tell(ProberGone("killed"))
        gone = machine.now
        while not machine.of(effects.StartProber):
            machine.now += 100
            machine.tell(Tick())
        waits.append(machine.now - gone)
        machine.tell(ProberThere())
        began = machine.now
    assert waits == sorted(waits)
    assert waits[0] <= 2_100
    assert waits[-1] >= 16_000


def test_notes_are_what_a_later_process_goes_on_from() -> None:
    machine = Machine().granted()
    machine.tell(CountersRead(1, {"wire/port/outside": (7, 700)}))
    kept = [one.value for one in machine.asked if isinstance(one, effects.Keep)][-1]
    again = begin(OF, b"t" * 16, b"m" * 16, kept)
    assert again.secret == machine.state.secret
    assert again.segments["wire"].exposure == machine.state.segments["wire"].exposure
    assert again.segments["wire"].token != machine.state.segments["wire"].token
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        begin(OF, b"t" * 16, b"m" * 16, {**kept, "secret": "ab"})


# --- any history -----------------------------------------------------------------------------------------------------


def anything(chance: random.Random, state: GuardState) -> Event:
    """Answers to questions that nobody asked among it: what comes in the background comes when it comes."""
    adapters = chance.choice([(3, 4), (3, 4), (3, 5), (0, 4)])
    token = chance.choice([state.segments["wire"].token, b"\6other"]) if state.segments else b"\6other"
    (one,) = bound(3, 4)
    heads = orders.addresses(one, state.secret, token)
    kind = chance.choice(["back", "back", "lost", "unproven"])
    told = tuple(
        DirectionReport(lease, head, kind, 0 if kind == "back" else None, 9, 9, 0, None, 0)
        for lease, head in heads.items()
    )
    asked = chance.choice(
        [effects.FindTable(()), effects.FindLeases(()), effects.ReadCounters(), effects.RemoveTable()]
    )
    segment = effects.Withdraw(one, drain=False), effects.Grant(one, token), effects.StandAside(one)
    counted = {"wire/port/outside": (chance.randint(0, 9), 9)}
    return chance.choice(
        [
            Chosen(chance.choice([BYPASS, INSPECT]), frozenset(chance.choice([(), ("wire",)]))),
            Observed(
                bound(*adapters), frozenset(chance.choice([(), ("wire",)])), frozenset(chance.choice([(), ("wire",)]))
            ),
            TableFound(chance.choice([None, "print", "other"]), {}, chance.choice([None, 1, 2]), counted),
            LeasesFound(frozenset(chance.choice([(), ("wire",), ("wire",)]))),
            CountersRead(chance.choice([None, 1, 2]), counted),
            Installed("print", chance.choice([None, CountersRead(chance.randint(1, 3), counted)])),
            NotDone(chance.choice([asked, *(segment if state.segments else ())]), "no"),
            ProberReported((ProberReport(0, told, 0, 0, 0, 0, "fifo 10", "", 0),)),
            ProberThere(found=chance.random() < 0.5),
            ProberStill(),
            ProberGone("gone"),
            Switched(on=chance.random() < 0.7),
            Declared(chance.choice([OF, OF, guarded(guard={"drain": "0s"})])),
            Disturbed(),
            Rebooted(),
            Tick(),
        ]
    )


@pytest.mark.parametrize("seed", range(60))
def test_whatever_comes_its_laws_hold(seed: int) -> None:
    chance, machine = random.Random(seed), Machine()
    spent: set[bytes] = set()
    for _ in range(300):
        before, event = machine.state, anything(chance, machine.state)
        machine.now += chance.choice([0, 1, 20, 100, 1_000, 11_000])
        machine.tell(event)
        for grant in machine.of(effects.Grant):
            heads = orders.addresses(grant.one, machine.state.secret, grant.token)
            ways = machine.state.canaries.ways
            assert all(ways[lease].reported.head == head for lease, head in heads.items()), "never without proof"
            assert all(ways[lease].reported.state == "back" for lease in heads)
            assert machine.state.segments["wire"].in_place
            assert not before.table.putting
            assert grant.token not in spent, "no token twice"
        held = before.segments["wire"].held if "wire" in before.segments else LeaseState.NOTHING
        if isinstance(event, Chosen) and before.bound and held is LeaseState.GRANTED and event.choice == BYPASS:
            assert isinstance(machine.last[0], effects.Withdraw), "first, and in the step that hears of it"
        if machine.of(effects.Withdraw) and held is LeaseState.GRANTED:
            spent.add(before.segments["wire"].token)
        assert len(machine.of(effects.StartProber)) + len(machine.of(effects.FindProber)) <= 1
        if machine.of(effects.StartProber):
            assert before.prober.life is ProberLife.NOBODY or isinstance(event, ProberGone)
        assert sum(isinstance(one, effects.Install) for one in machine.last) <= 1
        exposure = machine.state.segments["wire"].exposure
        assert exposure.total.frames >= 0
        assert due(machine.state, machine.now) is not None


def test_an_answer_that_is_late_changes_nothing_that_it_must_not() -> None:
    machine = Machine().granted()
    before = machine.state
    machine.tell(Installed("late"))
    assert replace(machine.state, kept=None) == replace(before, kept=None), "nobody is putting a table"
