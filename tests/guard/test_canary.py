"""What probes tell, direction by direction, and what is made of it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from worlds import two_ports

from reconciler.appliance.declared import Appliance
from reconciler.guard.canary import SILENT_MS, UNLATCHED_MS, UNPROVEN_MS, Canaries
from reconciler.guard.orders import DirectionReport, LargeReport, canaries_of, question_of
from reconciler.guard.rules import Guarded, Place
from reconciler.health.signal import HealthState, Reading

OUT, IN = "wire/lease/outside", "wire/lease/inside"
HEAD = bytes.fromhex("06a1a2a3a4a5")
HEADS = {OUT: HEAD + bytes.fromhex("02b1b2b3b401"), IN: HEAD + bytes.fromhex("02b1b2b3b400")}


def appliance(guard: dict[str, Any] | None = None, **signals: Any) -> Appliance:
    return two_ports(guard=guard or {}, health={"signals": signals or {"path": {"kind": "canary"}}})


def bound(of: Appliance, name: str = "wire", indexes: Iterable[int] = (3, 4)) -> Guarded:
    guard = of.segments[name].guard
    assert guard is not None
    adapters = tuple(
        Place(role, f"tap{index}" if index else "", index)
        for role, index in zip(("outside", "inside"), indexes, strict=True)
    )
    return Guarded(name, guard, (Place("outside", "nic0", 1), Place("inside", "nic1", 2)), adapters)


def heard(lease: str, state: str = "back", age_ms: int | None = 0, **more: Any) -> DirectionReport:
    age_us = None if age_ms is None or state == "unproven" else age_ms * 1_000
    returned = 0 if age_us is None else 1
    told = DirectionReport(
        lease, HEADS.get(lease.removesuffix("?"), b"\0" * 12), state, age_us, 10, returned, 0, None, 0
    )
    return replace(told, **more)


def both(**more: Any) -> list[DirectionReport]:
    return [heard(OUT, **more), heard(IN, **more)]


class Ear:
    """Canaries of one appliance, and what was new at each moment."""

    def __init__(self, of: Appliance | None = None, *segments: Guarded) -> None:
        self.of = of or appliance()
        self.segments = segments or (bound(self.of),)
        self.canaries = Canaries()

    def hear(self, now: int, *told: DirectionReport) -> tuple[Reading, ...]:
        self.canaries = self.canaries.observe(told, now)
        return self.news(now)

    def news(self, now: int) -> tuple[Reading, ...]:
        self.canaries, news = self.canaries.news(self.of, self.segments, now)
        return news

    def proven(self, now: int, heads: dict[str, bytes] | None = None) -> bool:
        return self.canaries.proven(self.segments[0], HEADS if heads is None else heads, now)


def path(state: HealthState, reason: str) -> tuple[Reading, ...]:
    return (Reading("path", state, reason, "wire"),)


HEALTHY = path(HealthState.HEALTHY, "probes come back in every direction")
TRIPPED = path(HealthState.FAILED, "the guard tripped: a probe was missing for 200 ms")
SILENT = path(HealthState.ABSENT, "the prober tells nothing")
LEAK = path(HealthState.FAILED, "the VM lets through what it must block (negative canary)")


# --- readings --------------------------------------------------------------------------------------------------------


def test_it_is_healthy_when_every_direction_is_back_and_that_is_told_once() -> None:
    ear = Ear()
    assert ear.hear(100, heard(OUT), heard(IN, "unproven")) == ()
    assert ear.hear(200, *both()) == HEALTHY
    assert ear.hear(300, *both()) == ()
    ear.canaries = ear.canaries.forget("other")
    assert ear.hear(400, *both()) == ()
    ear.canaries = ear.canaries.forget()
    assert ear.hear(500, *both()) == HEALTHY


def test_a_direction_that_is_lost_is_named() -> None:
    ear = Ear()
    ear.hear(100, *both())
    lost = path(HealthState.FAILED, "probes do not come back: outside → inside")
    assert ear.hear(400, heard(OUT), heard(IN, "lost", 201)) == lost
    assert ear.hear(500, heard(OUT), heard(IN, "lost", 301)) == ()
    assert ear.hear(600, *both()) == HEALTHY


def test_without_a_latch_only_what_lasts_is_told() -> None:
    ear = Ear(appliance({"latch": False}))
    ear.hear(57_001, *both())
    assert ear.hear(60_000, *both(state="lost", age_ms=UNLATCHED_MS - 1)) == ()
    told = ear.hear(60_100, *both(state="lost", age_ms=UNLATCHED_MS))
    assert told == path(HealthState.FAILED, "probes do not come back: outside → inside, inside → outside")


def test_what_was_never_proven_is_a_failure_after_a_while() -> None:
    ear = Ear()
    dark = both(state="unproven")
    assert ear.hear(100, *dark) == ()
    assert ear.hear(100 + UNPROVEN_MS, *dark) == ()
    told = path(HealthState.FAILED, "no probe has come back yet: outside → inside, inside → outside")
    assert ear.hear(101 + UNPROVEN_MS, *dark) == told


@pytest.mark.parametrize(
    ("guard", "patience_ms"),
    [({}, UNPROVEN_MS), ({"lease": "5s"}, 5_000), ({"latch": False}, UNLATCHED_MS)],
    ids=str,
)
def test_how_long_that_may_take(guard: dict[str, Any], patience_ms: int) -> None:
    ear = Ear(appliance(guard))
    for now in range(100, 101 + patience_ms, 100):
        assert ear.hear(now, *both(state="unproven")) == ()
    (told,) = ear.hear(200 + patience_ms, *both(state="unproven"))
    assert told.state is HealthState.FAILED


@pytest.mark.parametrize("after", ["addresses", "prober", "gap"])
def test_patience_begins_again(after: str) -> None:
    """With other addresses, with another prober, and when the direction was not probed meanwhile."""
    ear = Ear()
    ear.hear(100, *both(state="back" if after == "prober" else "unproven"))
    if after == "gap":
        ear.hear(1_000)
    new = {"head": b"\6" * 12} if after == "addresses" else {}
    assert not [one for one in ear.hear(1_050, *both(state="unproven", **new)) if one.state is HealthState.FAILED]
    assert ear.hear(1_050 + UNPROVEN_MS, *both(state="unproven", **new)) == ()
    (told,) = ear.hear(1_051 + UNPROVEN_MS, *both(state="unproven", **new))
    assert told.state is HealthState.FAILED


def asked(**more: Any) -> list[DirectionReport]:
    return [heard(question_of(lease), **more) for lease in (OUT, IN)]


def test_a_vm_that_passes_arp_and_no_probes_is_told_apart_from_a_dead_one() -> None:
    hint = path(
        HealthState.ABSENT, "the VM passes ARP but no probes (ethertype 0x88b5): give the guard another `probe`"
    )
    told = [*both(state="unproven"), *asked()]
    ear = Ear()
    assert ear.hear(100, *told) == ()
    assert ear.hear(200 + UNPROVEN_MS, *told) == hint
    # One direction is not enough; and who probes by ARP has asked already.
    ear = Ear()
    ear.hear(100, *told[:3])
    assert ear.hear(200 + UNPROVEN_MS, *told[:3])[0].state is HealthState.FAILED
    arp = {"frame": "arp", "source": "192.0.2.1", "destination": "192.0.2.2"}
    ear = Ear(appliance({"probe": arp}))
    ear.hear(100, *told)
    assert ear.hear(200 + UNPROVEN_MS, *told)[0].state is HealthState.FAILED


def test_a_prober_that_is_silent_says_nothing_of_the_vm() -> None:
    ear = Ear()
    ear.hear(2_000, *both())
    assert ear.news(2_000 + SILENT_MS) == ()
    assert ear.news(2_001 + SILENT_MS) == SILENT
    assert ear.news(9_000) == ()
    assert ear.hear(9_100, *both()) == HEALTHY


def test_what_no_report_bears_out_any_more_is_too_old() -> None:
    ear = Ear()
    ear.hear(1_000, *both())
    for now in range(1_100, 1_000 + UNPROVEN_MS + SILENT_MS, 100):
        assert ear.hear(now) == (), "a prober that has no orders"
    assert ear.canaries.due(now) == now + 100
    ear.canaries, told = ear.canaries.news(ear.of, ear.segments, now + 100, present=False)
    assert told == path(HealthState.ABSENT, "the guard is not in the kernel: no probes are sent")
    assert ear.canaries.due(now + 100) is None
    assert ear.hear(9_000) == ()
    assert ear.hear(9_100, *both()) == HEALTHY


@pytest.mark.parametrize("forgotten", [False, True])
def test_so_it_is_where_no_segment_is_guarded_in_the_kernel(forgotten: bool) -> None:
    ear = Ear()
    ear.hear(1_000, *both())
    ear.segments = ()
    if forgotten:
        ear.canaries = ear.canaries.forget()
    assert ear.news(999 + UNPROVEN_MS + SILENT_MS) == ()
    (told,) = ear.news(1_000 + UNPROVEN_MS + SILENT_MS)
    assert told.state is HealthState.ABSENT


def test_what_was_never_told_is_not_told_to_be_absent() -> None:
    ear = Ear()
    ear.segments = ()
    assert ear.canaries.due(100) is None
    assert ear.news(90_000) == ()


def test_a_vm_that_is_proven_again_again_and_again_and_never_is_has_its_bound() -> None:
    ear = Ear()
    ear.hear(1_000, *both())
    told = [
        one
        for number in range(1, 40)
        for one in ear.hear(1_000 + 100 * number, *both(state="unproven", head=bytes([number]) * 12))
    ]
    assert [one.state for one in told] == [HealthState.ABSENT]


def test_where_an_adapter_is_missing_no_probe_can_be_sent() -> None:
    of = appliance()
    ear = Ear(of, bound(of, indexes=(0, 4)))
    assert ear.hear(100) == path(HealthState.FAILED, "no probe can be sent: the adapter outside is not there")
    # What was told before it went says nothing of what came back.
    ear = Ear(of)
    ear.hear(100, *both())
    ear.segments = (bound(of, indexes=(0, 0)),)
    (told,) = ear.hear(200)
    assert told.reason == "no probe can be sent: the adapter outside, inside is not there"
    ear.segments = (bound(of, indexes=(5, 6)),)
    assert ear.news(300) == ()


def negative() -> Ear:
    return Ear(appliance(path={"kind": "canary", "negative": {"payload": "EICAR", "every": "100ms"}}))


def test_what_must_not_come_through_is_a_failure_for_three_of_its_intervals() -> None:
    ear = negative()
    assert ear.hear(100, *both()) == HEALTHY
    assert ear.hear(200, heard(OUT, negative=1), heard(IN)) == LEAK
    assert ear.hear(499, heard(OUT, negative=1), heard(IN)) == ()
    assert ear.hear(500, heard(OUT, negative=1), heard(IN)) == HEALTHY
    assert ear.hear(600, heard(OUT, negative=2), heard(IN)) == LEAK
    # With another frame the count begins again.
    assert ear.hear(901, heard(OUT, head=b"\6" * 12), heard(IN)) == HEALTHY
    assert ear.hear(950, heard(OUT, head=b"\6" * 12, negative=1), heard(IN)) == LEAK


def test_who_has_no_negative_canary_does_not_mind() -> None:
    assert Ear().hear(100, *both(negative=5)) == HEALTHY


# --- a trip ----------------------------------------------------------------------------------------------------------


def test_a_trip_is_told_once_also_when_the_path_is_proven_a_moment_later() -> None:
    ear = Ear()
    ear.hear(100, *both())
    ear.canaries = ear.canaries.trip("wire")
    assert ear.hear(200, *both()) == TRIPPED
    assert ear.hear(300, *both()) == HEALTHY
    assert ear.hear(400, *both()) == ()


def test_a_trip_is_told_of_its_segment_and_of_no_other() -> None:
    of = two_ports(
        ports={name: {"match": {"name": f"eth-{name}"}} for name in "abcd"},
        segments={"left": ["a", "b"], "right": ["c", "d"]},
        vm={"adapters": {name: {"tap": f"tap-{name}"} for name in "abcd"}},
        guard={},
        health={"signals": {"path": {"kind": "canary"}}},
    )
    guard = of.segments["left"].guard
    assert guard is not None
    left, right = (
        Guarded(name, guard, (), tuple(Place(role, role, 1) for role in roles))
        for name, roles in (("left", "ab"), ("right", "cd"))
    )
    assert len(list(canaries_of(of, "left"))) == len(list(canaries_of(of, "right"))) == 1
    ear = Ear(of, left, right)
    ear.canaries = ear.canaries.trip("left")
    told = ear.hear(100)
    assert told == (Reading("path", HealthState.FAILED, TRIPPED[0].reason, "left"),)


ORDER: dict[str, tuple[Reading, ...]] = {
    "tripped": TRIPPED,
    "silent": SILENT,
    "missing": path(HealthState.FAILED, "no probe can be sent: the adapter outside is not there"),
    "negative": LEAK,
    "lost": path(HealthState.FAILED, "probes do not come back: outside → inside"),
}


@pytest.mark.parametrize("first", ORDER)
def test_the_weightiest_is_told(first: str) -> None:
    """Everything from `first` on is so at once."""
    so = list(ORDER)[list(ORDER).index(first) :]
    ear = negative()
    told = [heard(OUT, negative="negative" in so), heard(IN, "lost" if "lost" in so else "back", 300)]
    ear.canaries = ear.canaries.observe(told, 1_000)
    if "missing" in so:
        ear.segments = (bound(ear.of, indexes=(0, 4)),)
    if "tripped" in so:
        ear.canaries = ear.canaries.trip("wire")
    assert ear.news(1_100 if "silent" not in so else 1_001 + SILENT_MS) == ORDER[first]


# --- sizes -----------------------------------------------------------------------------------------------------------


def sized(ear: Ear, now: int, sent: int, *returned: int, state: str = "back") -> tuple[Reading, ...]:
    """So many frames of each size were sent, and of each so many came back out of `outside`; of the other way all."""
    standard, jumbo = returned
    one = heard(OUT, state, large=(LargeReport(1_514, sent, standard), LargeReport(9_014, sent, jumbo)))
    other = heard(IN, state, large=(LargeReport(1_514, sent, sent), LargeReport(9_014, sent, sent)))
    return ear.hear(now, one, other)


TOO_LARGE = path(
    HealthState.DEGRADED, "frames that carry 9000 bytes do not come through, those of 1500 do: inside → outside"
)


def test_a_size_that_does_not_come_through_is_told_with_the_one_that_does() -> None:
    ear = Ear()
    assert sized(ear, 1_000, 1, 1, 0) == HEALTHY
    assert sized(ear, 2_000, 4, 4, 0) == ()
    assert sized(ear, 3_000, 5, 5, 0) == TOO_LARGE
    # It is no matter of life: what is proven is proven.
    assert ear.proven(3_000)
    assert sized(ear, 4_000, 6, 6, 0) == ()
    assert sized(ear, 5_000, 7, 7, 1) == HEALTHY
    assert sized(ear, 6_000, 11, 11, 1) == ()
    assert sized(ear, 7_000, 12, 12, 1) == TOO_LARGE


def test_of_sizes_that_do_not_come_through_the_least_is_told() -> None:
    ear = Ear()
    sized(ear, 1_000, 1, 0, 0)
    text = "frames that carry 1500 bytes do not come through, those of 46 do: inside → outside"
    assert sized(ear, 2_000, 6, 0, 0) == path(HealthState.DEGRADED, text)


def test_while_no_probe_comes_back_no_size_is_missed() -> None:
    ear = Ear()
    assert sized(ear, 1_000, 5, 5, 5) == HEALTHY
    assert sized(ear, 2_000, 9, 5, 5, state="lost")[0].state is HealthState.FAILED
    assert sized(ear, 3_000, 20, 5, 5, state="lost") == ()
    assert sized(ear, 4_000, 30, 5, 5) == HEALTHY
    assert sized(ear, 5_000, 34, 9, 9) == ()


def test_a_prober_that_was_found_is_believed_what_it_has_seen() -> None:
    assert sized(Ear(), 1_000, 50, 50, 0) == TOO_LARGE
    assert sized(Ear(), 1_000, 50, 50, 40) == HEALTHY
    assert Ear().hear(1_000, *both()) == HEALTHY  # of an earlier version: it sends none


# --- the proof -------------------------------------------------------------------------------------------------------


def test_proven_is_what_came_back_just_now_with_these_addresses_in_every_direction() -> None:
    ear = Ear()
    assert not ear.proven(100)
    ear.hear(100, *both())
    assert ear.proven(100)
    assert not ear.proven(100, {})
    other = HEADS | {OUT: b"\6" * 12}
    assert not ear.proven(100, other)
    ear.hear(200, heard(OUT), heard(IN, "lost", 250))
    assert not ear.proven(200)
    ear.hear(300, heard(OUT))
    assert not ear.proven(300)
    assert ear.canaries.ways[OUT].reported == heard(OUT)
    assert ear.canaries.ways.get(IN) is None


@pytest.mark.parametrize(
    ("age_ms", "later_ms", "proven"), [(100, 0, True), (101, 0, False), (20, 80, True), (20, 81, False)]
)
def test_half_a_lease_ago_is_just_now_however_late_the_report(age_ms: int, later_ms: int, proven: bool) -> None:
    ear = Ear()
    ear.hear(1_000, *both(age_ms=age_ms))
    assert ear.proven(1_000 + later_ms) is proven
