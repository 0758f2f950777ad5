"""The guard's table and the prober in memory, and the VM between them; time is what the clock says.

As strict as the kernel: text that names what is not there is refused, so is every message to a table that is gone; a
message that was not prepared is an AssertionError. Probes are not sent one by one. Whoever changes or asks anything
calls `Wires.advance` first, which does what probes have done since the last time: as long as nothing changes, that can
be reckoned.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fake_kernel import FakeKernel

from reconciler.errors import HostError
from reconciler.guard.events import CountersRead, Installed, LeasesFound, Removed, TableFound
from reconciler.guard.orders import DirectionReport, Order, ProberReport
from reconciler.guard.rules import REMEMBERED_MS, Contents, Guarded, Ruleset, removal

_SET = re.compile(
    r"^\tset (\S+) \{ typeof [^;]+;(?: size 4;)?(?: flags \S+;)?(?: elements = \{ (.*) \};)? \}$", re.MULTILINE
)
_COUNTER = re.compile(r"^\tcounter (\S+) \{ packets (\d+) bytes (\d+) \}$", re.MULTILINE)
_CHAIN = re.compile(
    r"^\tchain (\S+) \{\n(?:\t\ttype filter hook ingress device \"(\S+)\" .*\n)?((?:\t\t.*\n)*)\t\}$", re.MULTILINE
)
_FOREVER = 1 << 62
REPORT_MS = 100


def _ms(timeout: str) -> int:
    return REMEMBERED_MS if timeout == "30d" else int(timeout.removesuffix("ms"))


class Ear:
    """As a socket of `adapter_socket`: it belongs to the device that had the name when it was opened."""

    def __init__(self, interface: str, index: int) -> None:
        self.interface, self.index, self.closed = interface, index, False

    def close(self) -> None:
        self.closed = True


@dataclass
class Process:
    """The prober itself, which outlives who started it. `up`: from when on it does what it is told."""

    consented: int
    up: int = 0
    orders: dict[str, Order] = field(default_factory=dict)
    ears: tuple[Ear, ...] = ()
    grace_ms: int = 60_000
    since: dict[str, int] = field(default_factory=dict)
    returned: dict[str, int] = field(default_factory=dict)
    leaked: dict[str, int] = field(default_factory=dict)
    hung: bool = False

    @property
    def ends(self) -> int:
        return self.consented + self.grace_ms


class Wires:
    """A VM that forwards or does not, with what stands and what is sent on its host. See the module.

    `silent`: the leases whose direction it does not forward, `dead`: none at all. `only_arp`: what is no probe passes.
    `lets_through`: what it must block. `on_order` is told of orders, and that a prober will soon tell of itself. One
    takes `start_ms` to come up, and `end_ms` to be gone when it was killed.
    """

    def __init__(self, clock: Callable[[], int], kernel: FakeKernel) -> None:
        self.clock, self.kernel = clock, kernel
        self.process: Process | None = None
        self.table = FakeTable(self)
        self.order: list[str] = []
        self.spawned = 0
        self.spawned_at: list[int] = []
        self.start_ms, self.end_ms = 0, 2
        self.ending = 0
        self.dead = self.only_arp = self.lets_through = False
        self.silent: set[str] = set()
        self.on_order: Callable[[], None] = lambda: None
        self._then = clock()

    def vm(
        self, *, dead: bool | None = None, silent: Iterable[str] | None = None, only_arp: bool | None = None
    ) -> None:
        """From now on the VM forwards otherwise."""
        self.advance()
        self.dead = self.dead if dead is None else dead
        self.silent = self.silent if silent is None else set(silent)
        self.only_arp = self.only_arp if only_arp is None else only_arp

    def device(self, interface: str) -> int:
        """The index of an interface; 0: there is none."""
        found = self.kernel.named(interface)
        return found.index if found and found.name == interface else 0

    def ear(self, interface: str, mark: bytes) -> Any:
        """As `adapter_socket`."""
        assert len(mark) == 5
        index = self.device(interface)
        if not index:
            raise HostError(f"cannot listen at {interface}: No such device")
        return Ear(interface, index)

    def forwards(self, lease: str) -> bool:
        """Whether the VM forwards in a direction, as far as it is up to the VM."""
        if lease.endswith("?"):
            return not self.dead and lease[:-1] not in self.silent
        return not self.dead and not self.only_arp and lease not in self.silent

    def _passes(self, process: Process, order: Order) -> bool:
        if not self.forwards(order.name):
            return False
        for ear in (process.ears[order.out], process.ears[order.back]):
            device = self.kernel.devices.get(ear.index)
            if device is None or device.name != ear.interface:
                return False
        return True

    def advance(self) -> None:
        """Have done what probes did since the last time."""
        then, now, process = self._then, self.clock(), self.process
        if now <= then:
            return
        self._then = now
        renewed: dict[str, tuple[int, int]] = {}
        if process and not process.hung:
            end = min(now, process.ends)
            for order in process.orders.values():
                every = order.every_us // 1_000
                last = end - end % every
                if last <= then or last <= process.since[order.name] or not self._passes(process, order):
                    continue
                process.returned[order.name] = last
                if order.negative and self.lets_through:
                    process.leaked[order.name] = process.leaked.get(order.name, 0) + 1
                if self.table.renews(order):
                    renewed[order.name] = every, end
            if now >= process.ends:
                self.process = None
        self.table.advance(then, now, renewed)

    def kill_prober(self) -> None:
        """The prober dies."""
        self.advance()
        self.process = None

    def report(self) -> ProberReport | None:
        """What the prober says now; None: there is none, or it hangs."""
        self.advance()
        if self.process is None or self.process.hung or self.clock() < self.process.up:
            return None
        told = tuple(self._report_of(self.process, one) for one in self.process.orders.values())
        now = self.clock()
        return ProberReport(now * 1_000, told, 0, 0, 0, 0, "fifo 10", "", now - self.process.consented)

    def _report_of(self, process: Process, order: Order) -> DirectionReport:
        last, now = process.returned.get(order.name), self.clock()
        fresh = last is not None and (now - last) * 1_000 < order.lost_us
        state = "unproven" if last is None else "back" if fresh else "lost"
        sent = (now - process.since[order.name]) * 1_000 // order.every_us
        return DirectionReport(
            order.name,
            order.template.frame[:12],
            state,
            None if last is None else (now - last) * 1_000,
            sent,
            0 if last is None else max(1, sent),
            0,
            None,
            process.leaked.get(order.name, 0),
        )


class FakeProber:
    """As `Probing`: one daemon's end."""

    def __init__(self, wires: Wires) -> None:
        self.wires = wires
        self.process: Process | None = None
        self.ready: list[ProberReport] = []
        self.refuses = ""
        self.reason = "it has ended"
        self.pid: int | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None

    def connect(self) -> bool:
        self.wires.advance()
        process = self.wires.process
        # Before it listens, nobody gets through.
        self.process = process if process and self.wires.clock() >= process.up else None
        if self.process:
            self.wires.on_order()
        return self.alive

    def spawn(self) -> bool:
        self.wires.advance()
        if self.refuses:
            raise HostError(self.refuses)
        if self.wires.process:
            self.end()
        if self.wires.clock() < self.wires.ending:
            return False
        now = self.wires.clock()
        self.wires.spawned += 1
        self.wires.spawned_at.append(now)
        self.process = self.wires.process = Process(now, now + self.wires.start_ms)
        self.wires.on_order()
        return True

    def order(self, orders: Sequence[Order], sockets: Sequence[Any], grace_ms: int) -> None:
        self.wires.advance()
        process, now = self.process, self.wires.clock()
        if process is None or process is not self.wires.process:
            return
        assert now >= process.up, "orders for one that may not live to see them"
        assert len({one.name for one in orders}) == len(orders)
        assert all(one.out < len(sockets) > one.back and one.lost_us >= 2 * one.every_us for one in orders)
        assert not any(one.closed for one in sockets)
        new = {one.name: one for one in orders}
        for name, old in process.orders.items():
            if name not in new or new[name].template != old.template:
                for known in (process.since, process.returned, process.leaked):
                    known.pop(name, None)
        for name in new:
            process.since.setdefault(name, now)
        process.orders, process.ears, process.grace_ms, process.consented = new, tuple(sockets), grace_ms, now
        self.wires.on_order()

    def consent(self) -> None:
        self.wires.advance()
        if self.process is not None and self.process is self.wires.process:
            self.process.consented = self.wires.clock()

    def end(self) -> None:
        self.wires.advance()
        if self.wires.process:
            self.wires.process, self.wires.ending = None, self.wires.clock() + self.wires.end_ms
        self.process = None

    def reports(self) -> Sequence[ProberReport]:
        self.wires.advance()
        ready, self.ready = self.ready, []
        if self.process is not self.wires.process:
            self.process = None
        return ready


class FakeTable:
    """As `Table`, of all that a machine has only one: it outlives who speaks to it.

    `refuses`: why every message is refused. `before_message` may raise before a message has done anything,
    `after_message` when it has. `traffic`: frames that come in each millisecond; those that meet no lease are counted,
    and told to `counts`.
    """

    def __init__(self, wires: Wires) -> None:
        self.wires = wires
        self.rules: str | None = None
        self.sets: dict[str, dict[str, int]] = {}
        self.passed: dict[str, tuple[int, int]] = {}
        self.hooks: dict[str, tuple[str, int]] = {}
        self.refuses = ""
        self.before_message: Callable[[str], None] = lambda _: None
        self.after_message: Callable[[str], None] = lambda _: None
        self.traffic = 0
        self.counts: Callable[[str, int], None] = lambda _, __: None
        self.installed = self.replaced = self.handle = 0
        self._prepared: dict[str, Guarded] = {}

    # What others do to it.

    def flush(self) -> None:
        """Somebody runs ``nft flush ruleset``."""
        self.wires.advance()
        self.rules, self.sets, self.passed, self.hooks = None, {}, {}, {}

    def tamper(self) -> None:
        """Somebody adds a rule of their own."""
        self.wires.advance()
        assert self.rules is not None
        self.rules += "\tchain stranger {\n\t}\n"

    def forget(self) -> None:
        """What a process has prepared dies with it."""
        self._prepared = {}

    # What the kernel does by itself.

    def renews(self, order: Order) -> bool:
        """Whether a probe that comes back renews its lease, as long as all of them stand."""
        token, mark = (order.template.frame[at : at + 6].hex(":") for at in (0, 6))
        if self.rules is None or order.name not in self.sets:
            return False
        segment, _, target = order.name.split("/")
        hook = self.hooks.get(f"{segment}/adapter/{target}", ("", 0))
        return (
            token in self.sets[f"{segment}/granted"]
            and f"ether saddr {mark} goto {segment}/probe/{target}" in self.rules
            and f"update @{order.name} " in self.rules
            and self.wires.device(hook[0]) == hook[1] != 0
        )

    def advance(self, then: int, now: int, renewed: Mapping[str, tuple[int, int]]) -> None:
        """Renew and expire. `renewed`: by lease, how often, and until when a probe has come back."""
        segments: dict[str, list[str]] = {}
        for name in self.sets:
            if "/lease/" in name:
                segments.setdefault(name.split("/")[0], []).append(name)
        for leases in segments.values():
            dark = [self.sets[one].get("ether", 0) for one in leases if not self._goes_on(one, then, renewed)]
            for one in leases:
                if one not in renewed or self.sets[one].get("ether", 0) <= then:
                    continue
                every, end = renewed[one]
                last = min(end, *(until - 1 for until in dark), now)
                last -= last % every
                if last > then:
                    until = last + self._lease_ms(one)
                    self.sets[one]["ether"] = max(self.sets[one]["ether"], until)
                    self.sets[one.replace("/lease/", "/renewed/")]["ether"] = last + REMEMBERED_MS
        self.sets = {name: {key: until for key, until in one.items() if until > now} for name, one in self.sets.items()}
        if self.traffic:
            self._count(segments, now - then)

    def _count(self, segments: Iterable[str], lasted_ms: int) -> None:
        for segment in segments:
            if not self._open(segment) and (more := self.carry(segment, lasted_ms * self.traffic)):
                self.counts(segment, more)

    def carry(self, segment: str, more: int) -> int:
        """So many frames come in at the first port that is there, and meet no lease; how many are counted."""
        counter = next((name for name in self.passed if name.startswith(f"{segment}/port/")), None)
        if counter is None:
            return 0
        frames, size = self.passed[counter]
        self.passed[counter] = frames + more, size + 60 * more
        cuts = "fwd to" not in (self.rules or "")
        for name, (_, index) in self.hooks.items():
            if name.startswith(f"{segment}/port/") and (device := self.wires.kernel.devices.get(index)):
                device.count(received=more if name == counter else 0, sent=0 if cuts or name == counter else more)
        return more

    def _goes_on(self, lease: str, then: int, renewed: Mapping[str, tuple[int, int]]) -> bool:
        """Whether a lease still stands when the next probe comes back, and so on until the last of them."""
        if lease not in renewed:
            return False
        every = renewed[lease][0]
        return self.sets[lease].get("ether", 0) > then - then % every + every

    def _lease_ms(self, lease: str) -> int:
        found = re.search(rf"update @{re.escape(lease)} \{{ meta iiftype timeout (\d+)ms \}}", self.rules or "")
        assert found
        return int(found[1])

    def has(self, name: str) -> bool:
        """Whether a set holds anything now."""
        self.wires.advance()
        return bool(self.sets.get(name))

    def tokens(self, segment: str) -> set[str]:
        """What is granted."""
        self.wires.advance()
        return set(self.sets.get(f"{segment}/granted", {}))

    def opens(self, segment: str) -> bool:
        """Whether a segment's ports let frames through to where they are: its leases stand, or it stands aside."""
        self.wires.advance()
        return self._open(segment)

    def _open(self, segment: str) -> bool:
        if self.rules is None:
            return True
        leases = [one for name, one in self.sets.items() if name.startswith(f"{segment}/lease/")]
        return all(leases) or bool(self.sets.get(f"{segment}/aside"))

    # As `Table`.

    def _message(self, what: str) -> None:
        self.wires.advance()
        self.before_message(what)
        if self.refuses:
            raise HostError(self.refuses)
        if self.rules is None and not what.startswith(("install", "remove")):
            raise HostError(f"cannot {what}: No such file or directory")
        self.wires.order.append(what)

    def _set(self, name: str, key: str, for_ms: int | None = None) -> None:
        self.sets[name][key] = _FOREVER if for_ms is None else self.wires.clock() + for_ms

    def install(self, ruleset: Ruleset) -> Installed:
        self._message("install")
        before = None if self.rules is None else CountersRead(self.handle, dict(self.passed))
        if ruleset.text.startswith("add chain"):
            return self._replace(ruleset.text, before)
        name = re.match(r"add table netdev (\S+)\n", ruleset.text)
        assert name
        assert ruleset.text.startswith(removal(name[1]))
        text = ruleset.text.removeprefix(removal(name[1]))
        chains = {found[1]: (found[2], found[3]) for found in _CHAIN.finditer(text)}
        sets = {found[1]: found[2] for found in _SET.finditer(text)}
        counters = {found[1]: (int(found[2]), int(found[3])) for found in _COUNTER.finditer(text)}
        assert set(counters.values()) <= {(0, 0)}
        told = text.count("\tset ") + text.count("\tcounter ") - text.count("\t\tcounter ") + text.count("\tchain ")
        assert told == len(chains) + len(sets) + len(counters), text
        rules = "".join(body for _, body in chains.values())
        assert set(re.findall(r"@([^\s]+)", rules)) <= sets.keys()
        assert set(re.findall(r'counter name "([^"]+)"', rules)) <= counters.keys()
        assert set(re.findall(r"goto ([^\s,]+)", rules)) <= chains.keys()
        self._check_interfaces(rules, chains)
        self.hooks = {chain: (one, self.wires.device(one)) for chain, (one, _) in chains.items() if one}
        self.sets = {name: {} for name in sets}
        for name, told_elements in sets.items():
            for element in (told_elements or "").split(", ") if told_elements else ():
                key, _, timeout = element.partition(" timeout ")
                self._set(name, key, _ms(timeout) if timeout else None)
        self.rules, self.passed, self._prepared = text, counters, {}
        self.installed += 1
        self.handle += 1
        self.after_message("install")
        return Installed(self.fingerprint(), before)

    def _check_interfaces(self, rules: str, chains: Mapping[str, tuple[str, str]]) -> None:
        for interface in {*re.findall(r'(?:fwd|dup) to "([^"]+)"', rules), *(one for one, _ in chains.values() if one)}:
            if not self.wires.device(interface):
                raise HostError(f"nftables: {interface}: No such file or directory")

    def _replace(self, text: str, before: CountersRead | None) -> Installed:
        """Chains at other interfaces; all else stays."""
        if self.rules is None:
            raise HostError("nftables: No such file or directory")
        chains = {found[1]: (found[2], found[3]) for found in _CHAIN.finditer(text)}
        self._check_interfaces("".join(body for _, body in chains.values()), chains)
        gone = set(re.findall(r"^delete chain netdev \S+ (\S+)$", text, re.MULTILINE))
        assert chains.keys() <= gone | chains.keys()
        kept = _CHAIN.sub(lambda found: "" if found[1] in gone else found[0], self.rules)
        self.rules = kept + "\n".join(found[0] for found in _CHAIN.finditer(text))
        self.hooks = {name: hook for name, hook in self.hooks.items() if name not in gone}
        self.hooks |= {chain: (one, self.wires.device(one)) for chain, (one, _) in chains.items() if one}
        self.replaced += 1
        self.after_message("install")
        return Installed(self.fingerprint(), before)

    def remove(self) -> Removed:
        counted, handle = dict(self.passed), None if self.rules is None else self.handle
        self._message("remove")
        self.flush()
        self.after_message("remove")
        return Removed(handle, counted)

    def find(self, bound: Iterable[Guarded]) -> TableFound:
        fingerprint = self.fingerprint()
        if fingerprint is None:
            return TableFound()
        contents = {}
        for one in bound:
            with contextlib.suppress(HostError):
                contents[one.name] = self.contents(one)
        return TableFound(fingerprint, contents, self.handle, self.counters())

    def standing(self, bound: Iterable[Guarded]) -> LeasesFound:
        bound = tuple(bound)
        standing = frozenset(one.name for one in bound if self.stands(one))
        return LeasesFound(standing, {one.name: self._renewed_ms(one) for one in bound if one.name not in standing})

    def _renewed_ms(self, one: Guarded) -> int | None:
        until = [self._elements(way.renewed).get("ether") for way in one.directions]
        return min((each - REMEMBERED_MS for each in until if each), default=None)

    def count(self) -> CountersRead:
        return CountersRead(None if self.rules is None else self.handle, self.counters())

    def fingerprint(self) -> str | None:
        if self.refuses:
            raise HostError(self.refuses)
        if self.rules is None:
            return None
        return str(hash((re.sub(r"(elements = .*?;)|(packets \d+ bytes \d+)", "", self.rules), str(self.hooks))))

    def counters(self) -> Mapping[str, tuple[int, int]]:
        if self.refuses:
            raise HostError(self.refuses)
        return dict(self.passed)

    def contents(self, one: Guarded) -> Contents:
        self.wires.advance()
        aside = self._elements(f"{one.name}/aside")
        tokens = [bytes.fromhex(key.replace(":", "")) for key in self._elements(f"{one.name}/granted")]
        until = aside.get("ether")
        left = None if until is None else 0 if until == _FOREVER else until - self.wires.clock()
        return Contents(tokens[0] if tokens else None, self.stands(one), left, self._renewed_ms(one))

    def _elements(self, name: str) -> Mapping[str, int]:
        self.wires.advance()
        if self.refuses:
            raise HostError(self.refuses)
        if name not in self.sets:
            raise HostError(f"cannot list set {name}: No such file or directory")
        return self.sets[name]

    def stands(self, one: Guarded) -> bool:
        return all(self._elements(direction.lease) for direction in one.directions)

    def prepare(self, segments: Iterable[Guarded]) -> None:
        self._prepared = {one.name: one for one in segments}

    def _emptied(self, one: Guarded) -> None:
        for name in (
            *(way.lease for way in one.directions),
            *(f"{one.name}/{n}" for n in ("granted", "aside", "drain")),
        ):
            self.sets[name].clear()

    def _ready(self, what: str, one: Guarded) -> Guarded:
        prepared = self._prepared[one.name]
        assert prepared.guard == one.guard, "what was prepared is for another guard"
        assert prepared.directions == one.directions
        self._message(f"{what} {one.name}")
        if not all(way.lease in self.sets for way in one.directions):
            raise HostError(f"cannot {what}: No such file or directory")
        self._emptied(one)
        return prepared

    def withdraw(self, one: Guarded, *, drain: bool) -> None:
        what = "drain" if drain else "withdraw"
        prepared = self._ready(what, one)
        if drain and prepared.guard.drain_ms:
            self._set(f"{one.name}/drain", "ether", prepared.guard.drain_ms)
        self.after_message(f"{what} {one.name}")

    def stand_aside(self, one: Guarded) -> None:
        self._ready("stand aside", one)
        self._set(f"{one.name}/aside", "ether")
        self.after_message(f"stand aside {one.name}")

    def grant(self, one: Guarded, token: bytes) -> None:
        assert len(token) == 6
        assert token[0] & 3 == 2, "no unicast address that is locally administered"
        self._message(f"grant {one.name}")
        self._emptied(one)
        self._set(f"{one.name}/granted", token.hex(":"))
        self._lease(one)
        self.after_message(f"grant {one.name}")

    def renew(self, one: Guarded) -> None:
        self._message(f"renew {one.name}")
        self._lease(one)
        self.after_message(f"renew {one.name}")

    def _lease(self, one: Guarded) -> None:
        for direction in one.directions:
            self._set(direction.lease, "ether", one.guard.lease_ms)
            self._set(direction.renewed, "ether", REMEMBERED_MS)
