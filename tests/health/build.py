"""Rules and signals for tests, without a file, and every kind of them by chance."""

import random
from collections.abc import Iterator
from dataclasses import replace

from reconciler.appliance.declared import (
    Canary,
    Carrier,
    Command,
    Domain,
    Group,
    GuestPing,
    Health,
    Heartbeat,
    Http,
    OnFailure,
    Rung,
    Signal,
    Source,
    Streak,
)
from reconciler.health.signal import HealthState, Reading, Rebooted
from reconciler.health.state import (
    Declared,
    Ending,
    Event,
    Hold,
    HoldPlaced,
    HoldReleased,
    RestartEnded,
    Rules,
    Tick,
    VmState,
)

BEAT = Heartbeat(100, "/run/agent.sock")
POLLED = (GuestPing(1000, 400), Command(("/bin/check",), 1000, 400), Http("http://vm/", 200, 1000, 400))
SOURCES: tuple[Source, ...] = (BEAT, Domain(), Carrier(), Canary(segments=("wire",)), *POLLED)


def streak(value: int | str) -> Streak:
    return Streak(readings=value) if isinstance(value, int) else Streak(ms=int(value.removesuffix("ms")))


def signal(source: Source, name: str = "s", fall: int | str = 1, rise: int | str = 1, **more: object) -> Signal:
    return Signal(name, source, streak(fall), streak(rise), **more)  # type: ignore[arg-type]


def health(*signals: Signal, groups: tuple[Group, ...] = (), **more: int) -> Health:
    """Short times, so that the tests' histories see them pass."""
    times = {"grace_ms": 300, "hold_down_ms": 2_000, "hold_down_max_ms": 9_000, "flap_memory_ms": 60_000, **more}
    grouped = {name for group in groups for name in group.signals}
    by_name = {one.name: one for one in signals}
    assert all(not by_name[name].required for name in grouped)
    return Health(by_name, {group.name: group for group in groups}, **times)


LADDER = (Rung("reset", 1), Rung("destroy-and-start", 2))


def on_failure(**more: object) -> OnFailure:
    times = {"backoff_ms": 1_500, "backoff_max_ms": 4_000, "boot_timeout_ms": 5_000, "first_ms": 4_000}
    return OnFailure(**{"ladder": LADDER, **times, **more})  # type: ignore[arg-type]


def rules(of: Health, failing: OnFailure | None = None, segments: tuple[str, ...] = ("wire",)) -> Rules:
    return Rules(segments, ("inspect", "bypass", "isolate"), of, failing or on_failure())


DOMAIN, CARRIER = signal(Domain(), "domain"), signal(Carrier(), "carrier", fall="50ms", rise="100ms")
HEARTBEAT = signal(BEAT, "beat", fall=3, rise=2)
BOTH = ("lan", "wan")
# Of two segments only one has a guard.
CANARY = signal(Canary(segments=("lan",)), "canary")
PATHS = tuple(signal(POLLED[2], f"path-{name}", fall=2, segment=name) for name in BOTH)
ANY = Group("any", ("ping", "check"), 1)
MEMBERS = (signal(POLLED[0], "ping", required=False), signal(POLLED[1], "check", fall="1500ms", required=False))

# What the policy is driven by: every order, ladder, kind of signal and number of segments.
ALL_RULES = (
    rules(health(HEARTBEAT, DOMAIN, CARRIER)),
    rules(health(HEARTBEAT, DOMAIN, CARRIER), on_failure(restart_first=True, first_attempts=2)),
    rules(health(HEARTBEAT, DOMAIN, CARRIER), on_failure(restart_first=True, first_attempts=9, first_ms=30_000), BOTH),
    rules(health(HEARTBEAT, DOMAIN, *PATHS), segments=BOTH),
    rules(health(HEARTBEAT, CARRIER, CANARY), on_failure(closed=frozenset({"lan"})), BOTH),
    rules(health(HEARTBEAT, *MEMBERS, groups=(ANY,)), on_failure(closed=frozenset({"wire"}))),
    rules(health(HEARTBEAT), on_failure(ladder=())),
    rules(health(signal(Domain(), "domain", fails_after=True, fails_before=True)), on_failure(backoff_ms=0)),
    rules(
        health(HEARTBEAT, DOMAIN, hold_down_ms=0, grace_ms=0),
        on_failure(restart_first=True, first_ms=0, boot_timeout_ms=0, backoff_ms=0),
    ),
    rules(health(signal(Domain(), "domain", segment="lan")), segments=BOTH),
    rules(health()),
)
STATES = tuple(HealthState)


def answered(event: Event, vm: VmState) -> Event:
    """The event; if it is a restart's answer, then to the one that is under way."""
    return replace(event, asked_ms=vm.since_ms) if isinstance(event, RestartEnded) else event


def events(chance: random.Random, of: Rules) -> Iterator[Event]:
    """What may happen to an appliance with these rules, for ever; readings most of all, and moods that last."""
    mood = HealthState.HEALTHY
    names = list(of.keys)
    while True:
        if chance.random() < 0.06:
            mood = chance.choice(
                [
                    HealthState.HEALTHY,
                    HealthState.HEALTHY,
                    HealthState.FAILED,
                    HealthState.FAILED,
                    HealthState.ABSENT,
                    HealthState.ABSENT,
                ]
            )
            wanted = mood is HealthState.FAILED and chance.random() < 0.3
            # Mostly all agree: the VM is one.
            for name, segment in names * 3 if chance.random() < 0.8 else ():
                yield Reading(name, mood, "told", segment, deliberate=wanted)
        what = chance.random()
        if what < 0.7 and names:
            name, segment = chance.choice(names)
            state = chance.choice(STATES) if chance.random() < 0.1 else mood
            yield Reading(
                name, state, "told", segment, deliberate=state is HealthState.FAILED and chance.random() < 0.05
            )
        elif what < 0.74:
            yield Rebooted("libvirt", "by itself")
        elif what < 0.86:
            # Of an earlier restart; `answered` makes it the answer to the one that is under way.
            yield RestartEnded(-1, chance.choice([Ending.DONE, Ending.DONE, *Ending]), "no such domain")
        elif what < 0.88:
            segment = chance.choice([None, *of.segments])
            hold = Hold(chance.choice(of.topologies), "alice", "tests", chance.randrange(60_000))
            yield HoldPlaced(hold, segment)
        elif what < 0.92:
            yield HoldReleased("bob", chance.choice([None, *of.segments]))
        elif what < 0.925:
            of = chance.choice(ALL_RULES)
            names = list(of.keys)
            yield Declared(of)
        else:
            yield Tick()
