"""One appliance's life in a fake world, made from one seed: the real core, policy and record; all else is made up.

The VM dies, hangs, lies, flaps and is stopped; signals are lost, late, doubled and wrong; other hands edit the network;
the kernel refuses; the process is killed at any point, its memory torn, the machine rebooted. After each turn `Oracle`
says whether that was safe, and where the file has a guard, `Guarded`. Then all misfortune ends, and what is right must
come about within a bound.

    .venv/bin/python tests/simulation/world.py 4711        one seed, with its whole story
    .venv/bin/python tests/simulation/world.py 0 5000      many; prints the seeds that fail, each as a line to run
"""

import contextlib
import errno
import functools
import gc
import heapq
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2])]

from fake_kernel import Device, FakeKernel, Killed  # noqa: E402
from guarded import Guarded  # noqa: E402
from oracle import Oracle, ViolationError  # noqa: E402
from worlds import FOREIGN, appliance, host, two_ports_document  # noqa: E402

from reconciler.appliance.declared import Appliance, Domain  # noqa: E402
from reconciler.daemon import core as daemon_core  # noqa: E402
from reconciler.daemon.core import Core  # noqa: E402
from reconciler.errors import HostError, ReconcilerError, TransientError  # noqa: E402
from reconciler.guard import canary, installing, prober  # noqa: E402
from reconciler.guard import rules as guard  # noqa: E402
from reconciler.health import record  # noqa: E402
from reconciler.health.signal import HealthState, Reading, Rebooted  # noqa: E402
from reconciler.health.state import (  # noqa: E402
    Ending,
    Event,
    Hold,
    HoldPlaced,
    HoldReleased,
    Phase,
    RestartEnded,
    RestartVm,
)
from reconciler.network import cycle, ownership  # noqa: E402
from reconciler.network.state import Kind, Link, Network, Setting  # noqa: E402
from reconciler.warning import Warning  # noqa: E402

BEAT_MS = 2_000
# The prober tells of itself ten times a second, and of what has changed at once; here only the latter is so.
REPORT_MS = 3_000
TROUBLE_MS = 36_000
# When all is well with the VM: grace, rise, the longest hold-down, the longest pause of a conflict, an audit.
CALM_MS = 3_000 + 6_000 + 20_000 + 60_000 + 12_000
# Where it is not: an answer of the hypervisor that got lost, and the whole ladder.
CALM_DEAD_MS = 600_000 + 120_000
QUIET_MS = 12_000
# A VM that was stopped stays so, also for a new process that libvirtd tells nothing for longer than a VM may boot.
LONG_QUIET_MS = 30_000
_WALL_MS = 1_700_000_000_000
_MAX_STEPS = 5_000


# --- appliances ------------------------------------------------------------------------------------------------------


def _file(
    *,
    wires: int,
    taps: bool,
    domain: bool,
    first: bool,
    closed: bool,
    ladder: int,
    hold_down: str,
    guarding: dict[str, Any] | None = None,
) -> Appliance:
    signals: dict[str, Any] = {
        "wire": {"kind": "carrier"},
        "beat": {
            "kind": "heartbeat",
            "socket": "/x",
            "interval": "2s",
            "fall": 2,
            "rise": 2,
            "absent": {"before": "failed", "after": "failed"},
        },
    }
    if domain:
        signals["life"] = {"kind": "domain"}
    ports = {f"p{number}": {"match": {"name": f"eth{number}"}} for number in range(2 * wires)}
    kind = "tap" if taps else "interface"
    runs: dict[str, Any] = (
        {"libvirt": {"domain": "ips"}}
        if domain
        else {"programs": {verb: [f"/x/{verb}"] for verb in ("start", "stop", "status")}}
    )
    names = list(ports)
    return appliance(
        **two_ports_document(
            appliance={"sku": "sim"},
            **({} if guarding is None else {"guard": guarding}),
            ports={"mgmt": {"match": {"name": "mgmt0"}, "role": "management"}, **ports},
            segments={f"s{number}": names[2 * number : 2 * number + 2] for number in range(wires)},
            vm={"adapters": {role: {kind: f"vif{number}"} for number, role in enumerate(names)}, **runs},
            health={
                "grace": "3s",
                "hold_down": hold_down,
                "hold_down_max": "20s",
                "flap_memory": "40s",
                "signals": signals,
            },
            on_failure={
                "order": "restart-then-bypass" if first else "bypass-then-restart",
                "fail": "closed" if closed else "open",
                "restart": {
                    "ladder": [{"method": "reset"}, {"method": "destroy-and-start", "attempts": 2}][:ladder],
                    "backoff": "2s",
                    "backoff_max": "5s",
                    "boot_timeout": "12s",
                    "first": {"attempts": 1, "within": "15s"},
                },
            },
        )
    )


_EDITED = {"lease": "400ms", "drain": "300ms"}


@functools.cache
def files() -> tuple[tuple[Appliance, Appliance], ...]:
    """Appliances, each with what its file becomes when it is edited."""
    rows = [
        dict(zip(("wires", "taps", "domain", "first", "closed", "ladder"), row, strict=True))
        for row in (
            (1, False, False, False, False, 2),
            (1, False, True, False, False, 2),
            (1, True, True, True, False, 2),
            (1, False, True, True, True, 1),
            (1, True, False, False, True, 2),
            (1, False, True, False, False, 0),
            (2, False, True, False, False, 2),
            (2, True, False, True, False, 2),
            (1, False, True, False, False, 2),
            (2, True, True, True, True, 2),
        )
    ]
    # Where there is a guard, the edited file has other rules for the kernel.
    guards = (*[None] * 8, {}, {"drain": "0s", "latch": False})
    return tuple(
        (
            _file(**row, hold_down="5s", guarding=guarding),
            _file(**row, hold_down="8s", guarding=None if guarding is None else guarding | _EDITED),
        )
        for row, guarding in zip(rows, guards, strict=True)
    )


# --- the fake host ---------------------------------------------------------------------------------------------------


class Ether(FakeKernel):
    """The fake kernel. What looks the same as before is the same object; and it can refuse to be looked at."""

    def begin(self, chance: random.Random) -> None:
        self.generation = 0
        self.unreadable = 0.0
        self._chance = chance
        self._seen: dict[bool, tuple[int, Network]] = {}
        self._links: dict[tuple[int, bool], list[tuple[Any, dict[Setting, Any], Link]]] = {}
        self._networks: dict[Any, Network] = {}

    def observe(self, names: Any = None) -> Network:
        if self.unreadable and self._chance.random() < self.unreadable:
            raise self._chance.choice([TransientError("it did not hold still"), HostError("it refuses")])
        generation, found = self._seen.get(names is None, (-1, None))
        if found is None or generation != self.generation:
            found = super().observe(names)
            found = self._networks.setdefault((names is None, tuple(map(id, found.links)), found.default_route), found)
            self._seen[names is None] = self.generation, found
        return found

    def is_seen(self) -> bool:
        """Whether nothing has changed since somebody looked."""
        return any(generation == self.generation for generation, _ in self._seen.values())

    def _link(self, device: Device, *, with_driver: bool) -> Link:
        master = self.devices.get(device.master)
        looks = (device.name, master and master.name, device.carrier)
        known = self._links.setdefault((device.index, with_driver), [])
        for before, settings, link in known:
            if before == looks and settings == device.settings:
                return link
        link = super()._link(device, with_driver=with_driver)
        known.append((looks, dict(device.settings), link))
        return link

    def execute(self, *words: Any, **more: Any) -> Any:
        self.generation += 1
        try:
            return super().execute(*words, **more)
        finally:
            self.generation += 1


def a_host(number: int, chance: random.Random, *, fresh: bool) -> Ether:
    """The host of a file, never set up (`fresh`) or as an earlier start left it."""
    model = _hosts()[number][not fresh]
    kernel = Ether()
    kernel.begin(chance)
    kernel.devices = {
        index: replace(one, settings=dict(one.settings), nic=dict(one.nic)) for index, one in model.devices.items()
    }
    kernel.default_route = set(model.default_route)
    kernel._next_index = model._next_index
    return kernel


@functools.cache
def _hosts() -> tuple[tuple[FakeKernel, FakeKernel], ...]:
    made = []
    for of, _ in files():
        fresh, ready = host(of), host(of)
        cycle.reconcile(ready, of, {name: of.on_failure.fallback(name) for name in of.segments})
        made.append((fresh, ready))
    return tuple(made)


@contextlib.contextmanager
def memoised() -> Iterator[None]:
    """What is pure need not be worked out twice: the network that a choice asks for, and how it differs."""
    desired, difference = cycle.desired, cycle.difference
    networks = _NETWORKS
    found: dict[Any, Any] = {}

    def want(of: Appliance, choice: Any) -> Any:
        key = (id(of), *choice.items())
        if key not in networks:
            networks[key] = of, desired(of, choice)
        return networks[key][1]

    def differ(of: Appliance, wanted: Any, actual: Any) -> Any:
        key = (id(wanted), id(actual))
        if key not in found:
            if len(found) > 256:
                found.clear()
            # Kept with what it was made of, so that no id is used again.
            found[key] = wanted, actual, difference(of, wanted, actual)
        return found[key][2]

    def digest(sku: str, segments: Any, secret: bytes) -> str:
        key = (segments, secret)
        if key not in ruled:
            ruled[key] = guard.digest_of(sku, segments, secret)
        return ruled[key]

    ruled: dict[Any, str] = {}
    with (
        mock.patch.object(cycle, "desired", want),
        mock.patch.object(cycle, "difference", differ),
        mock.patch.object(installing, "digest_of", digest),
        mock.patch.object(prober, "CONSENT_MS", REPORT_MS),
        mock.patch.object(canary, "SILENT_MS", REPORT_MS),
        mock.patch.object(prober, "HUNG_MS", 2 * REPORT_MS),
        mock.patch.object(guard, "pinned_mac", _PINNED),
        mock.patch.object(ownership, "pinned_mac", _PINNED),
    ):
        yield


_NETWORKS: dict[Any, Any] = {}
_PINNED = functools.cache(ownership.pinned_mac)


class Story:
    """What is told, for whoever replays a seed. Otherwise nobody listens."""

    def __init__(self, now: Callable[[], int], *, aloud: bool) -> None:
        self._now, self.aloud = now, aloud

    def tell(self, event: str, text: str, **_: Any) -> None:
        if self.aloud:
            print(f"{self._now() / 1000:9.3f}  {event:10} {text}")

    def warn(self, event: str, warning: Warning, **_: Any) -> None:
        self.tell(event, warning.line)

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


# --- the world -------------------------------------------------------------------------------------------------------


class World:
    """See the module."""

    def __init__(self, seed: int, *, aloud: bool = False) -> None:
        self.chance = random.Random(seed)
        self.now = 1_000
        self.story = Story(lambda: self.now, aloud=aloud)
        self._file = seed % len(files())
        self.appliance, self.edited = files()[self._file]
        self.steps = self._under_way = 0
        self._due: int | None = None
        self._libvirtd_ms = 20
        self._away = False
        self._booted = 0
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._disk: str | None = None
        self._remembered: Any = None
        self._die_at = ""
        self._noise = self._deaf = 0.0
        self._lie: HealthState | None = None
        self._doomed = False
        self._news_due = False
        self.vm = "running"
        self.vm_life = self.life = 0
        self.calm = False
        self.core: Core | None = None
        self.oracle = Oracle(self.appliance)
        self.guarded: Guarded | None = None
        self._orders = self._changes = 0
        self.has_domain = any(isinstance(one.source, Domain) for one in self.appliance.health.signals.values())
        self._make_host()

    @property
    def clock(self) -> int:
        """As the machine counts: from its boot on."""
        return self.now - self._booted

    def _make_host(self) -> None:
        self.kernel = a_host(self._file, self.chance, fresh=self._booted > 0 or self.chance.random() < 0.2)
        self.taps = next(iter(self.appliance.adapters.values())).ours
        self.adapters = [one.interface for one in self.appliance.adapters.values()]
        self.ports = [port.match.name or "" for port in self.appliance.ports.values() if not port.management]
        self.foreign = self._look_at_foreign()
        if any(segment.guard for segment in self.appliance.segments.values()):
            kernel = self.kernel
            self.guarded = Guarded(self.appliance, lambda: self.clock, kernel, kernel.is_seen)
            self.guarded.wires.on_order = self._prober_is_ordered

    # Time

    def at(self, wait_ms: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + wait_ms, next(self._count), what))

    def run(self) -> None:
        """The whole life.

        Raises:
            ViolationError: it was not safe, or did not come to a good end.

        """
        if self.chance.random() < 0.3:
            self.vm = self.chance.choice(["dead", "hung"])
            self._set_adapters(present=self.vm == "hung")
        else:
            self._set_adapters(present=True)
        self._forwards()
        self._start()
        self._beat()
        for _ in range(self.chance.randint(2, 9)):
            self.at(self.chance.randrange(TROUBLE_MS), self._misfortune)
        self._until(self.now + TROUBLE_MS)
        end = self._end_all_trouble()
        quiet_ms = LONG_QUIET_MS if self.end == "stopped" else QUIET_MS
        while True:
            self._until(self.now + QUIET_MS // 2)
            if self.now < end:
                try:
                    self._judge()
                except ViolationError:
                    continue
            done = len(self.kernel.log)
            self._until(self.now + quiet_ms)
            if len(self.kernel.log) == done:
                self._judge()
                return
            # It was good for a moment between two events of a VM that comes back.
            if self.now >= end:
                raise ViolationError("it does not rest when all is done")

    def _until(self, end: int) -> None:
        same, self._due = 0, None
        while True:
            if self._due is None:
                self._due = self.core.due_ms + self._booted if self.core else end
            due = min(self._due, end)
            soonest = min(due, self._agenda[0][0] if self._agenda else end)
            if soonest >= end:
                self.now = end
                return
            same = same + 1 if soonest <= self.now else 0
            if same > 200 or self.steps > _MAX_STEPS:
                raise ViolationError(f"it does not rest: {self.steps} steps, {same} of them at once")
            self.now = max(self.now, soonest)
            if self._agenda and self._agenda[0][0] <= self.now:
                heapq.heappop(self._agenda)[2]()
            else:
                self._turn()

    # The process

    def _start(self) -> None:
        if self.core is not None:
            return
        self.life, self._due = self.life + 1, None
        core = Core(
            self.appliance,
            self.kernel,
            lambda: self.clock,
            self.story,  # type: ignore[arg-type]
            self,
            self._restart,
            lambda then: then(("NetworkManager",)),
            self.guarded and self.guarded.begin(self.appliance, self.story, self.chance),
        )
        core.books = self.guarded and self.guarded.keeps_books(core)
        value = json.loads(self._disk) if self._disk else None
        shift = None
        if value is not None and value["booted"] != self._booted:
            wall = _WALL_MS + self.now
            shift = (self.clock - wall) - (value["now_ms"] - value["wall_ms"])
        try:
            core.start(value["memory"] if value else None, shift)
        except Killed:
            self._died(core)
            return
        except ReconcilerError as error:
            # The service manager tries again.
            self.story.tell("start", f"failed: {error}")
            self.at(1_000, self._start)
            return
        self.core = core
        self.oracle.started(core, self.clock, remembered=value and value["memory"], rebooted=shift is not None)
        if self.has_domain:
            # libvirtd may be away for longer than a VM takes to boot.
            self.at(self._libvirtd_ms if self.calm else self.chance.choice([20, 20, 20, 20_000]), self._tell_domain)
        self._after(())

    def _turn(self, *events: Event, changed: bool = False) -> None:
        self.steps += 1
        core = self.core
        if core is None:
            return
        self._due = None
        self.oracle.before(core, events)
        done = len(self.kernel.log)
        try:
            core.turn(events, changed=changed)
        except Killed:
            self._died(core)
            return
        if len(self.kernel.log) > done and self.chance.random() < 0.5:
            # What we do ourselves is heard like anything else.
            self._links_change()
        self._after(events, done)

    def _after(self, events: tuple[Event, ...], done: int = 0) -> None:
        assert self.core is not None
        if self.guarded:
            self.guarded.after(self.core.state.choice)
        refused = any(number for _, number in self.kernel.log[done:])
        self.oracle.after(self.core, events, self.clock, self.kernel, refused=refused)
        if self.guarded and len(self.kernel.log) != done:
            # What is in place now is proven by the next report, and that comes within a tenth of a second.
            self._path_changes()
        if len(self.kernel.log) != done and self._look_at_foreign() != self.foreign:
            raise ViolationError(f"foreign things were changed: {self._look_at_foreign()}")
        if self._remembered != record.dump(self.core.state):
            raise ViolationError("the turn is over, and its memory is not on the disk")
        if self._die_at == "idle":
            self._died(self.core)

    def _died(self, core: Core) -> None:
        self.story.tell("KILLED", self._die_at or "while it acted")
        self.oracle.died(core, self.clock, begun=core is self.core, idle=self._die_at == "idle")
        self.core, self._due, self._die_at, self.kernel.kill_after = None, None, "", None
        torn = self.chance.random() < 0.1 and not self.calm
        if torn:
            self.story.tell("TORN", "the memory is lost")
            self._disk = None
            self.oracle.amnesia()
        if self.guarded:
            self.guarded.died(torn=torn)
        self.at(self.chance.choice([0, 30, 500, 4_000]), self._start)

    def remember(self, state: Any) -> None:
        """As `Memory`."""
        if self._die_at == "before memory":
            raise Killed
        self._remembered = record.dump(state)
        value = {
            "booted": self._booted,
            "now_ms": self.clock,
            "wall_ms": _WALL_MS + self.now,
            "memory": self._remembered,
        }
        self._disk = json.dumps(value)
        if self._die_at == "after memory":
            raise Killed

    def useless(self, error: Exception) -> None:
        """As `Memory`: what we have written is never that."""
        raise ViolationError(f"it does not know its own memory: {error}")

    def _restart(self, effect: RestartVm) -> None:
        if self._die_at == "restart":
            raise Killed
        self.story.tell("RESTART", effect.method)
        self.oracle.restarted(self.clock)
        life, wait = self.life, self.chance.randint(300, 2_000)
        self._under_way += 1
        fate: Ending | None = Ending.DONE
        if not self.calm:
            # None: it is done, and nobody hears of it.
            fate = self.chance.choice([Ending.DONE, Ending.DONE, *Ending, None])
            if self._away:
                fate, wait = Ending.UNREACHED, self.chance.choice([20, 2_000, 30_000])

        def end() -> None:
            self._under_way -= 1
            if fate in (Ending.DONE, None):
                self._vm("booting")
            if fate is not None and life == self.life:
                if fate is Ending.UNREACHED:
                    self.oracle.unreached()
                self._turn(RestartEnded(effect.asked_ms, fate, "" if fate is Ending.DONE else "it does not"))

        self.at(wait, end)

    # The VM, and what tells of it

    def _vm(self, state: str) -> None:
        """The VM goes over to a state, and what can be seen of that is told."""
        self.story.tell("VM", state)
        self.vm = state
        self.vm_life += 1
        self._forwards()
        self._set_adapters(present=state not in ("dead", "stopped"))
        if self.has_domain:
            self.at(self.chance.choice([10, 100, 250]), self._tell_domain)
        if state == "booting" and not self._doomed:
            life = self.vm_life
            slow = 2_000 if self.calm else 16_000
            self.at(self.chance.randint(500, slow), lambda: self._vm("running") if life == self.vm_life else None)
        if state in ("dead", "stopped"):
            self._tell(Reading("beat", HealthState.ABSENT, "the channel was closed"))

    def _set_adapters(self, *, present: bool) -> None:
        changed = False
        for name in self.adapters:
            device = self.kernel.named(name)
            if self.taps:
                # The switches of ours are not there before the first start, and neither are the taps.
                if device is not None and device.plugged != present:
                    self.kernel.plug(device, present)
                    changed = True
            elif present and device is None:
                self.kernel.add(name, up=True)
                changed = True
            elif not present and device is not None:
                self.kernel.remove(name)
                changed = True
        if changed:
            self._links_change()

    def _links_change(self) -> None:
        """Netlink tells of it, mostly; and a tap that came late gets its VM."""
        self.kernel.generation += 1
        if self.chance.random() < self._deaf or self._news_due:
            return
        self._news_due = True

        def news() -> None:
            self._news_due = False
            if self.taps:
                self._set_adapters(present=self.vm not in ("dead", "stopped"))
            self._turn(changed=True)

        self.at(self.chance.choice([0, 1, 3]), news)

    def _forwards(self, silent: set[str] | None = None) -> None:
        if self.guarded:
            self.guarded.vm(forwards=self.vm in ("running", "sick"), silent=silent)
            self._path_changes()

    # The prober

    def _prober_is_ordered(self) -> None:
        self._orders += 1
        number = self._orders

        def again() -> None:
            if number == self._orders:
                self.at(REPORT_MS, again)
                self._prober_tells()

        self.at(REPORT_MS, again)
        self._path_changes()

    def _path_changes(self) -> None:
        """The prober has something to tell soon: what came back for the first time, and what was lost."""
        self._changes += 1
        number = self._changes
        for wait_ms in (45, 245, 445):
            self.at(wait_ms, lambda: self._prober_tells() if number == self._changes else None)

    def _prober_tells(self) -> None:
        guarded, core = self.guarded, self.core
        if guarded is None or core is None or not guarded.prober.alive:
            return
        if guarded.prober.process is guarded.wires.process and (told := guarded.wires.report()):
            guarded.prober.ready.append(told)
        self._due = None
        self.oracle.before(core, ())
        done, before = len(self.kernel.log), core.state
        try:
            core.listen()
        except Killed:
            self._died(core)
            return
        if core.state is not before or len(self.kernel.log) > done:
            self.steps += 1
            self._after((), done)
        else:
            guarded.after(core.state.choice)

    def _tell_domain(self) -> None:
        told = {
            "dead": Reading("life", HealthState.FAILED, "the hypervisor died"),
            "stopped": Reading("life", HealthState.FAILED, "was shut down", deliberate=True),
        }.get(self.vm, Reading("life", HealthState.HEALTHY, "runs"))
        if self._lie is not None:
            told = Reading("life", self._lie, "a lie")
        self._tell(told)

    def _beat(self) -> None:
        self.at(BEAT_MS, self._beat)
        truth = {"running": HealthState.HEALTHY, "sick": HealthState.FAILED}.get(self.vm)
        state = self._lie if self._lie is not None and self.vm not in ("dead", "stopped") else truth
        if state is not None:
            self._tell(Reading("beat", state, "beats"))

    def _tell(self, reading: Reading) -> None:
        if self._noise and self.chance.random() < self._noise:
            match self.chance.choice(["lost", "late", "double"]):
                case "lost":
                    return
                case "late":
                    self.at(self.chance.randint(1, 5_000), lambda: self._turn(reading))
                    return
                case _:
                    self._turn(reading, reading)
                    return
        self._turn(reading)

    # Misfortune

    def _misfortune(self) -> None:
        if self.calm:
            return
        what = self.chance.choice(_OF_GUARDS if self.guarded else _MISFORTUNES)
        self.story.tell("FATE", what.__name__)
        what(self)

    def _dies(self) -> None:
        self._vm("dead")

    def _hangs(self) -> None:
        if self.vm == "running":
            self._vm("hung")

    def _sickens(self) -> None:
        if self.vm == "running":
            self._vm("sick")

    def _is_stopped(self) -> None:
        self._vm("stopped")

    def _is_started(self) -> None:
        if self.vm != "running":
            self._vm("booting")

    def _is_doomed(self) -> None:
        self._doomed = not self._doomed
        self._vm("booting" if self.chance.random() < 0.5 else "dead")

    def _reboots(self) -> None:
        if self.vm == "running" and self.has_domain:
            self._vm("booting")
            self._turn(Rebooted("life", "the guest reboots"))

    def _flaps(self) -> None:
        for number in range(self.chance.randint(2, 4)):
            self.at(number * 9_000, lambda: self.calm or self._vm("dead"))
            self.at(number * 9_000 + self.chance.randint(50, 2_000), lambda: self.calm or self._vm("running"))

    def _lies(self) -> None:
        self._lie = self.chance.choice(
            [HealthState.HEALTHY, HealthState.FAILED, HealthState.DEGRADED, HealthState.ABSENT]
        )
        self.at(self.chance.randint(1_000, 15_000), lambda: setattr(self, "_lie", None))

    def _loses_libvirtd(self) -> None:
        """It is absent, and comes back, perhaps again and again."""
        for number in range(self.chance.randint(1, 4)):
            gone = number * 6_000 + self.chance.randint(0, 3_000)
            self.at(gone, lambda: self._turn(Reading("life", HealthState.ABSENT, "libvirtd does not answer")))
            self.at(gone + self.chance.randint(100, 3_000), self._tell_domain)

    def _loses_the_hypervisor(self) -> None:
        """Nobody can be asked for a restart; whether the signals hear of it is another matter."""
        self._away = True
        self.at(self.chance.randint(5_000, 100_000), lambda: setattr(self, "_away", False))

    def _gets_noisy(self) -> None:
        self._noise = self.chance.choice([0.1, 0.5, 0.9])
        self.at(self.chance.randint(5_000, 30_000), lambda: setattr(self, "_noise", 0.0))

    def _goes_deaf(self) -> None:
        """Netlink events are lost, or never come."""
        self._deaf = 1.0
        self.at(self.chance.randint(1_000, 25_000), lambda: setattr(self, "_deaf", 0.0))

    def _is_blinded(self) -> None:
        """The VM forwards in some directions only."""
        if self.guarded is None:
            return
        leases = [one for ring in self.guarded.leases.values() for one in ring]
        self._forwards({one for one in leases if self.chance.random() < 0.5})
        self.at(self.chance.choice([50, 150, 300, 3_000, 15_000]), lambda: self._forwards(set()))

    def _is_flushed(self) -> None:
        """Somebody runs `nft flush ruleset`, or loses the prober."""
        if self.guarded is None:
            return
        self.guarded.disturb()
        if self.chance.random() < 0.3:
            self.guarded.wires.kill_prober()
            self.at(1, self._prober_tells)
            return
        self.guarded.flush()
        self.at(self.chance.choice([0, 1, 3]), self._rules_change)

    def _rules_change(self) -> None:
        kept = self.guarded and self.guarded.guarding
        if kept and self.chance.random() >= self._deaf:
            kept.disturb()
            self._turn(changed=True)

    def _rules_are_refused(self) -> None:
        if self.guarded:
            table = self.guarded.table
            table.refuses = self.chance.choice(["ENOBUFS", "EPERM"])
            self.at(self.chance.randint(50, 8_000), lambda: setattr(table, "refuses", ""))

    def _refuses(self) -> None:
        first = len(self.kernel.log)
        for number in range(self.chance.randint(1, 12)):
            if self.chance.random() < 0.7:
                self.kernel.fail_at[first + number] = self.chance.choice([errno.EBUSY, errno.ENOMEM, errno.ENODEV])

    def _is_unreadable(self) -> None:
        self.kernel.unreadable = self.chance.choice([0.5, 1.0])
        self.at(self.chance.randint(200, 8_000), lambda: setattr(self.kernel, "unreadable", 0.0))

    def _is_held(self) -> None:
        topology = self.chance.choice(list(self.appliance.topologies))
        until = self.clock + self.chance.randint(500, 40_000)
        segment = self.chance.choice([None, *self.appliance.segments])
        self._turn(HoldPlaced(Hold(topology, "root", "because", until), segment))

    def _is_released(self) -> None:
        self._turn(HoldReleased("root", self.chance.choice([None, *self.appliance.segments])))

    def _is_edited(self) -> None:
        """Another hand at the network."""
        if self._edit():
            self._links_change()

    def _edit(self) -> bool:
        ours = [one for one in self.kernel.devices.values() if one.name not in (*FOREIGN, "lo")]
        device = self.chance.choice(ours)
        match self.chance.randrange(5):
            case 0 if device.kind is not Kind.BRIDGE:
                self.kernel.enslave(device, 0)
            case 1 if device.kind is not Kind.BRIDGE:
                bridges = [one for one in ours if one.kind is Kind.BRIDGE]
                if not bridges:
                    return False
                self.kernel.enslave(device, self.chance.choice(bridges).index)
            case 2 if device.kind is Kind.BRIDGE:
                self.kernel.remove(device.name)
            case 3:
                self.kernel.set_up(device, up=False)
            case _:
                device.settings[Setting.MTU] = 1400
        return True

    def _is_fought(self) -> None:
        """A manager that wants a port out of our switch, again and again."""
        name = self.chance.choice(self.ports)

        def again(left: int) -> None:
            device = self.kernel.named(name)
            if self.calm or left == 0:
                return
            if device is not None and device.master:
                self.kernel.enslave(device, 0)
                self._links_change()
            self.at(300, lambda: again(left - 1))

        again(self.chance.randint(5, 30))

    def _is_unplugged(self) -> None:
        name = self.chance.choice(self.ports)
        device = self.kernel.named(name)
        if device is None:
            return
        self.kernel.remove(name)
        self._links_change()
        self.at(self.chance.randint(100, 20_000), lambda: self._replug(device))

    def _replug(self, device: Device) -> None:
        if self.kernel.named(device.name) is None:
            self.kernel.add(device.name, nic=device.nic, up=True)
            self._links_change()

    def _is_killed(self) -> None:
        self._die_at = self.chance.choice(["idle", "before memory", "after memory", "restart", "act"])
        if self._die_at == "act":
            self.kernel.kill_after = len(self.kernel.log) + self.chance.randint(0, 6)
        elif self._die_at == "idle":
            self._turn()
        if self.guarded and self.chance.random() < 0.5:
            said = self.guarded.said + self.chance.randint(0, 1)
            if self.chance.random() < 0.5:
                self.guarded.die_before = said
            else:
                self.guarded.die_after = said + 1

    def _is_reloaded(self) -> None:
        if self.core is None:
            return
        self.appliance, self.edited = self.edited, self.appliance
        core, self._due = self.core, None
        self.oracle.before(core, ())
        self.oracle.declared(self.appliance)
        if self.guarded:
            self.guarded.appliance = self.appliance
        done = len(self.kernel.log)
        try:
            core.declare(self.appliance)
        except Killed:
            self._died(core)
            return
        self._after((), done)
        if self.has_domain:
            self._tell_domain()

    def _power_fails(self) -> None:
        """The machine boots again: nothing is left but the disk."""
        self.story.tell("POWER", "cut")
        if self.core is not None:
            self.oracle.died(self.core, self.clock, begun=True, idle=True)
        self.core, self._due, self._die_at, self.vm = None, None, "", "booting"
        self.life += 1
        self.vm_life += 1
        self.oracle.power_cut(self.clock, self.now)
        self._booted = self.now - self.chance.randint(500, 2_000)
        self._make_host()
        self._forwards()
        self._set_adapters(present=True)
        self._doomed = False
        life = self.vm_life
        self.at(self.chance.randint(1_000, 9_000), lambda: self._vm("running") if life == self.vm_life else None)
        self.at(self.chance.randint(0, 1_000), self._start)

    def _dies_idle(self) -> None:
        self._die_at = "idle"
        self._turn()

    # The end

    def _end_all_trouble(self) -> int:
        """Until when it may take, now that nothing goes wrong any more."""
        self.calm = True
        self._noise = self._deaf = self.kernel.unreadable = 0.0
        self._lie, self._die_at = None, ""
        if self.guarded:
            self.guarded.table.refuses = ""
            self.guarded.die_before = self.guarded.die_after = None
            self._forwards(set())
        self.kernel.fail_at.clear()
        self.kernel.kill_after = None
        for name in self.ports:
            if self.kernel.named(name) is None:
                self.kernel.add(name, up=True)
        self.end = self.chance.choice(["well", "well", "dead", "stopped"] if self.has_domain else ["well", "dead"])
        self.story.tell("CALM", self.end)
        if self.core is None:
            self._start()
        self._doomed = self.end == "dead"
        self._vm({"well": "running", "dead": "dead", "stopped": "stopped"}[self.end])
        if self.core is not None and self.core.state.holds:
            self._turn(HoldReleased("root"))
        if self.end == "stopped":
            self._libvirtd_ms = 20_000
            self.at(8_000, self._dies_idle)
        if self.has_domain:
            # Past what was still under way.
            self.at(6_000, self._tell_domain)
        self._links_change()
        return self.now + (CALM_MS if self.end == "well" else CALM_DEAD_MS)

    def _judge(self) -> None:
        """Whether it came to a good end."""
        core = self.core
        if core is None or core.found is None:
            raise ViolationError("no process in the end")
        if self._under_way or (self.vm == "booting" and not self._doomed):
            raise ViolationError("the VM is still being restarted")
        if self.end == "stopped" and self.vm == "running":
            # It was being restarted when it was stopped, before anybody could tell.
            self.end = "well"
        fallback = self.appliance.on_failure.fallback
        state = core.state
        if state.choice != {name: "inspect" if self.end == "well" else fallback(name) for name in state.segments}:
            raise ViolationError(f"{self.end}, and in the end it is on {state.choice}")
        left = cycle.audit(self.kernel, self.appliance, state.choice)
        if left.changes or left.problems or core.found.changes:
            raise ViolationError(f"the network is not as wanted: {left.changes} {left.problems}")
        if self.end == "dead" and self.appliance.on_failure.ladder and state.vm.phase is not Phase.GIVEN_UP:
            raise ViolationError(f"the VM is dead for ever, and it is {state.vm}")
        if self.end == "well" and state.vm.phase not in (Phase.STEADY, Phase.RESTARTING):
            raise ViolationError(f"all is well, and it is {state.vm}")
        if self.guarded:
            core.see_paths(ask=True)
            self.guarded.judge(well=self.end == "well")
        # Nobody brings back what was stopped on purpose; where all was tried before, it stays given up. Nor is anything
        # done where the answer of a restart got lost, and it still counts as under way.
        left_alone = state.vm.phase in (Phase.STOOD_DOWN, Phase.GIVEN_UP, Phase.RESTARTING) and self.vm == "stopped"
        if self.end == "stopped" and self.appliance.on_failure.ladder and not left_alone:
            raise ViolationError(f"the VM was stopped on purpose, and it is {state.vm}, the VM {self.vm}")

    def _look_at_foreign(self) -> Any:
        kernel, found = self.kernel, []
        for name in FOREIGN:
            device = kernel.named(name)
            found.append(device and (device.index, device.master, tuple(device.settings.items())))
        return found


_MISFORTUNES: tuple[Callable[[World], None], ...] = (
    World._dies,
    World._dies,
    World._hangs,
    World._sickens,
    World._is_stopped,
    World._is_started,
    World._is_started,
    World._is_doomed,
    World._reboots,
    World._flaps,
    World._lies,
    World._loses_libvirtd,
    World._loses_libvirtd,
    World._loses_the_hypervisor,
    World._gets_noisy,
    World._goes_deaf,
    World._refuses,
    World._is_unreadable,
    World._is_held,
    World._is_held,
    World._is_released,
    World._is_edited,
    World._is_edited,
    World._is_fought,
    World._is_unplugged,
    World._is_killed,
    World._is_killed,
    World._is_killed,
    World._is_reloaded,
    World._power_fails,
)
_OF_GUARDS = (*_MISFORTUNES, *[World._is_blinded] * 4, *[World._is_flushed] * 3, World._rules_are_refused)


def live(seed: int, *, aloud: bool = False) -> World:
    """The life of one seed, to its good end.

    Raises:
        ViolationError: it was not safe, or had none.

    """
    world = World(seed, aloud=aloud)
    with memoised():
        world.run()
    return world


def reproduce(seed: int) -> str:
    """The command line that replays a seed."""
    return f"{sys.executable} {HERE.relative_to(HERE.parents[2])} {seed}"


def main(words: list[str]) -> int:
    first, *more = map(int, words)
    if not more:
        world = live(first, aloud=True)
        print(f"seed {first}: {world.steps} steps, a good end")
        return 0
    failed = steps = 0
    files()
    # Nothing of a life outlives it but by reference counts that soon are none.
    gc.freeze()
    gc.disable()
    for seed in range(first, *more):
        if seed % 256 == 0:
            gc.collect()
        try:
            steps += live(seed).steps
        except Exception as error:  # noqa: BLE001 - whatever it is, the next seed has its turn
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {error!s:.400}\n    {reproduce(seed)}", flush=True)
    print(f"{more[0] - first} seeds, {steps} steps, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    # Nothing stands in anybody's way here, or it is found by an audit: looking for it each second is only more steps.
    # In a process of its own: other tests have the daemon look as often as it does.
    daemon_core.SURVEY_MS = 10_000
    sys.exit(main(sys.argv[1:]))
