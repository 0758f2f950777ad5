"""What must hold after every turn, whatever happens: reckoned from what was told and what came of it, not by the policy."""

from dataclasses import dataclass, field
from typing import Any

from fake_kernel import FakeKernel

from reconciler.appliance.declared import Appliance, Domain
from reconciler.daemon.core import Core
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import Course, Event, HoldPlaced, HoldReleased, Phase

PAST = (Course.FALLBACK, Course.PROVING)


class ViolationError(Exception):
    """What must never happen has happened, or what must happen has not."""


@dataclass
class Wire:
    """What is known of one segment."""

    past: bool
    healthy_since: int | None = None
    flaps: int = 0
    returned: int | None = None
    spared_since: int | None = None
    dead: list[tuple[bool, int]] = field(default_factory=list)
    """After a death: what the next process may find itself in (past the VM, flaps)."""


class Oracle:
    """See the module."""

    def __init__(self, appliance: Appliance) -> None:
        self.appliance = appliance
        self.wires: dict[str, Wire] = {}
        self.holds: dict[str, tuple[str, int]] = {}
        self.restarts = 0
        self.on_purpose = False
        self._well_since: int | None = None
        self._checked: object = None
        self._sure = True
        self._forgot = True
        self._held_before = self._events_hold = False
        self._told: tuple[Event, ...] = ()
        self._stood_down = False

    # Lives of the process

    def started(self, core: Core, now: int, *, remembered: Any, rebooted: bool) -> None:
        """A new process, after its first turn. `remembered`: the memory that it found."""
        for name, segment in core.state.segments.items():
            past = segment.course in PAST
            wire = self.wires.get(name)
            if wire is None or self._forgot or remembered is None:
                self.wires[name] = Wire(past, flaps=segment.flaps, returned=segment.returned_ms)
                continue
            # What the dead one decided last may be on the disk, or not yet.
            disk = remembered["segments"].get(name, {"course": "inspect", "flaps": 0})
            known = [*wire.dead, (Course(disk["course"]) in PAST, disk["flaps"])]
            if not rebooted and not past and all(was for was, _ in known):
                raise ViolationError(f"{name}: a new process goes back to inspect by itself")
            # It may have left it again at once.
            flaps = {one for _, one in known} | {0 for was, _ in known if past and not was}
            flaps |= {one + 1 for was, one in known if past and not was}
            if segment.flaps not in flaps:
                raise ViolationError(f"{name}: {segment.flaps} flaps are remembered of {known}")
            self.wires[name] = Wire(past, flaps=segment.flaps, returned=segment.returned_ms)
        held = {name: (one.topology, one.until_ms) for name, one in core.state.holds.items()}
        expected = {name: one for name, one in self.holds.items() if one[1] > now}
        if self._sure and not self._forgot and remembered is not None and not rebooted and held != expected:
            raise ViolationError(f"held was {expected}, and a new process holds {held}")
        self.holds = held
        if self._forgot or rebooted or remembered is None:
            self.restarts, self.on_purpose = 0, False
        self._sure, self._forgot, self._well_since = True, False, None
        self._stood_down = core.state.vm.phase is Phase.STOOD_DOWN

    def died(self, core: Core, now: int, *, begun: bool, idle: bool) -> None:
        """The process was killed; if not `idle`, in the middle of a turn, of which anything may be left.

        `begun`: it had come through its start before.
        """
        for name, segment in core.state.segments.items():
            wire = self.wires.setdefault(name, Wire(past=True))
            if not wire.dead:
                wire.dead.append((wire.past, wire.flaps))
            if not begun:
                wire.dead.append((segment.course in PAST, segment.flaps))
            elif not idle:
                self._move(name, wire, segment, now)
                wire.dead.append((wire.past, wire.flaps))
                wire.dead.append((wire.past, segment.flaps))
        self._sure = self._sure and idle
        if begun:
            self._recover(core, now)
        if not idle and self._hears_of_life():
            self.on_purpose = False

    def amnesia(self) -> None:
        """Its memory is lost, too."""
        self._forgot = True

    def power_cut(self, now: int, wall: int) -> None:
        """The machine's clock begins again; what the wires suffered is remembered."""
        self._sure = False
        self._forgot = True

    def declared(self, appliance: Appliance) -> None:
        """The file was reloaded."""
        self.appliance = appliance

    # Turns

    def before(self, core: Core, events: tuple[Event, ...]) -> None:
        """A turn begins."""
        self._held_before = bool(core.state.holds)
        self._told = events
        self._events_hold = any(isinstance(one, HoldPlaced | HoldReleased) for one in events)

    def restarted(self, now: int) -> None:
        """The VM is about to be restarted."""
        most = sum(rung.attempts for rung in self.appliance.on_failure.ladder)
        self.restarts += 1
        if self.restarts > most:
            raise ViolationError(f"restart {self.restarts}, and the ladder has {most}")
        if any(until > now for _, until in self.holds.values()) and not self._events_hold:
            raise ViolationError("the VM is restarted while held")
        if self.on_purpose and not self._hears_of_life():
            raise ViolationError("the VM was stopped on purpose, and is restarted")

    def unreached(self) -> None:
        """The restart that was asked for last was not carried out, and that is told: it was none."""
        self.restarts = max(0, self.restarts - 1)

    def _hears_of_life(self) -> bool:
        """Whether the turn is about what libvirt tells."""
        return any(isinstance(one, Reading) and one.signal == "life" for one in self._told)

    def after(self, core: Core, events: tuple[Event, ...], now: int, kernel: FakeKernel, *, refused: bool) -> None:
        """A turn is over."""
        state = core.state
        self._hear(events, now)
        self._recover(core, now)
        held = {name: (one.topology, one.until_ms) for name, one in state.holds.items()}
        if held != self.holds:
            raise ViolationError(f"held is {self.holds}, and the process holds {held}")
        choice, rules = state.choice, self.appliance.on_failure
        for name, segment in state.segments.items():
            wire = self.wires.setdefault(name, Wire(past=segment.course in PAST))
            self._move(name, wire, segment, now)
            if state.vm.phase is Phase.STOOD_DOWN and not self._stood_down and segment.flaps == wire.flaps - 1:
                # Somebody stopped it, which was counted as a flap before that was known.
                wire.flaps -= 1
            wanted = self.holds[name][0] if name in self.holds else rules.fallback(name) if wire.past else "inspect"
            if choice[name] != wanted:
                raise ViolationError(f"{name} should be on {wanted}, and is on {choice[name]}")
            if name in self.holds:
                wire.spared_since = None
            else:
                self._check_failed(name, wire, segment.verdict.state is HealthState.FAILED, choice[name], now)
        self._stood_down = state.vm.phase is Phase.STOOD_DOWN
        if core.found is not None and not refused and not getattr(kernel, "unreadable", 0):
            self._check_carrier(core, choice)
            self._check_network(core, choice, kernel)

    def _hear(self, events: tuple[Event, ...], now: int) -> None:
        for event in events:
            match event:
                case HoldPlaced(hold, segment):
                    for name in self.appliance.segments if segment is None else (segment,):
                        self.holds[name] = (hold.topology, hold.until_ms)
                case HoldReleased(_, segment):
                    self.holds = {name: one for name, one in self.holds.items() if segment not in (None, name)}
                case Reading("life", state, _, _, deliberate) if state is not HealthState.ABSENT:
                    self.on_purpose = deliberate and any(
                        isinstance(one.source, Domain) for one in self.appliance.health.signals.values()
                    )
        self.holds = {name: one for name, one in self.holds.items() if one[1] > now}

    def _move(self, name: str, wire: Wire, segment: Any, now: int) -> None:
        """Follow a segment's course, and say whether it may take it."""
        health = self.appliance.health
        healthy = segment.verdict.state is HealthState.HEALTHY
        before, wire.healthy_since = wire.healthy_since, None
        if healthy:
            wire.healthy_since = now if before is None else before
        past = segment.course in PAST
        returned = segment.returned_ms not in (None, wire.returned)
        if returned or (wire.past and not past):
            least = min(health.hold_down_ms << wire.flaps, health.hold_down_max_ms)
            # It may have failed again in the same turn.
            since = before if before is not None else wire.healthy_since
            if not wire.past or since is None or now - since < least:
                lasted = None if since is None else now - since
                raise ViolationError(f"{name}: back to inspect after {lasted} ms of health, of {least} ms hold-down")
            wire.returned = now
            self.restarts = 0
        if past and (returned or not wire.past):
            soon = wire.returned is not None and now - wire.returned < health.flap_memory_ms
            wire.flaps = wire.flaps + 1 if soon else 0
        wire.past = past

    def _recover(self, core: Core, now: int) -> None:
        """Where nothing has failed for a hold-down and all is well, the ladder begins again, also if traffic never left."""
        segments = core.state.segments.values()
        failed = any(one.course is not Course.INSPECT or one.verdict.state is HealthState.FAILED for one in segments)
        self._well_since = None if failed else now if self._well_since is None else self._well_since
        well = all(one.verdict.state is HealthState.HEALTHY for one in segments)
        lasts = self._well_since is not None and now - self._well_since >= self.appliance.health.hold_down_ms
        if well and lasts:
            self.restarts = 0

    def _check_failed(self, name: str, wire: Wire, failed: bool, topology: str, now: int) -> None:
        rules = self.appliance.on_failure
        if not failed or topology == rules.fallback(name):
            wire.spared_since = None
            return
        if not rules.restart_first or not rules.ladder:
            raise ViolationError(f"{name} has failed, and is on {topology}")
        wire.spared_since = now if wire.spared_since is None else wire.spared_since
        if now - wire.spared_since >= rules.first_ms:
            raise ViolationError(f"{name} has failed {now - wire.spared_since} ms ago, and is on {topology}")

    def _check_carrier(self, core: Core, choice: dict[str, str]) -> None:
        """Whatever the other signals say: where the adapters are gone, nothing is left to inspect."""
        rules = self.appliance.on_failure
        if rules.restart_first:
            return
        for role, segment in self.appliance.homes.items():
            if segment in self.holds:
                continue
            live = core.found.actual.by_name.get(self.appliance.adapters[role].interface)  # type: ignore[union-attr]
            gone = live is None or live.nic is None or not live.nic.carrier
            if gone and choice[segment] != rules.fallback(segment):
                raise ViolationError(f"{segment}: its adapters have no carrier, and it is on {choice[segment]}")

    def _check_network(self, core: Core, choice: dict[str, str], kernel: FakeKernel) -> None:
        """Where the kernel obeys, what is wanted is so; but for what is being fought about, and what is not there."""
        found = core.found
        assert found is not None
        if found is self._checked or not core.converged or core.conflicts.under_way or kernel.fail_at:
            return
        self._checked = found
        for name, topology in choice.items():
            for switch in self.appliance.topologies[topology].switches:
                members = [str(self.appliance.ports[role].match.name) for role in switch.ports]
                astray = [one for one in members if found.actual.by_name[one].switch != switch.name]
                if switch.segment == name and astray:
                    raise ViolationError(f"{name} is wanted on {topology}, and {astray} are not in {switch.name}")
