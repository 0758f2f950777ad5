"""A core on a fake kernel, with a clock that stands still until it is moved, and everything that it told."""

import io
import json
from collections.abc import Callable
from typing import Any

from fake_kernel import FakeKernel
from worlds import appliance, host, two_ports_document

from reconciler.appliance.declared import Appliance
from reconciler.daemon.core import Core
from reconciler.daemon.journal import Journal
from reconciler.health import record
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import Event, RestartVm

PROGRAMS = {"programs": {"start": ["/x"], "stop": ["/x"], "status": ["/x"]}}


def watched(*, signals: dict[str, Any] | None = None, vm: dict[str, Any] | None = None, **more: Any) -> Appliance:
    """Two ports; the VM's own adapters, whose carrier is a signal."""
    health = {"hold_down": "10s", "hold_down_max": "40s", "grace": "5s", "flap_memory": "1h"}
    document = two_ports_document(
        vm={"adapters": {"outside": {"interface": "vif0"}, "inside": {"interface": "vif1"}}, **(vm or {})},
        health={**health, "signals": {"wire": {"kind": "carrier"}} if signals is None else signals},
    )
    return appliance(**{**document, **more})


TWO_WIRES = {
    "ports": {
        "mgmt": {"match": {"name": "mgmt0"}, "role": "management"},
        **{f"p{number}": {"match": {"name": f"eth{number}"}} for number in range(4)},
    },
    "segments": {"a": ["p0", "p1"], "b": ["p2", "p3"]},
    "vm": {"adapters": {f"p{number}": {"interface": f"vif{number}"} for number in range(4)}},
}
BEAT = {"kind": "heartbeat", "socket": "/x", "interval": "1s", "fall": 2, "rise": 1}


class Kept:
    """See the module. As `Memory` it keeps what it was given, as JSON."""

    def __init__(self, of: Appliance | None = None, kernel: FakeKernel | None = None, *, now: int = 1_000) -> None:
        self.of = of or watched()
        self.kernel = kernel or host(self.of)
        self.now = now
        self.told = io.StringIO()
        self.memory: str | None = None
        self.order: list[str] = []
        self.restarts: list[RestartVm] = []
        self.programs: tuple[str, ...] = ()
        self.on_remember: Callable[[], None] = lambda: None
        self.on_restart: Callable[[], None] = lambda: None
        self.core = self._new()

    def _new(self) -> Core:
        journal = Journal(self.told, as_json=True)
        return Core(
            self.of, self.kernel, lambda: self.now, journal, self, self._restart, lambda then: then(self.programs)
        )

    def remember(self, state: Any) -> None:
        self.order.append(f"memory after {len(self.kernel.log)} operations")
        self.on_remember()
        self.memory = json.dumps(record.dump(state))

    def useless(self, error: Exception) -> None:
        self.core.journal.tell("memory", str(error))

    def _restart(self, effect: RestartVm) -> None:
        self.order.append(f"restart {effect.method}")
        self.on_restart()
        self.restarts.append(effect)

    def start(self, *, shift: int | None = None) -> "Kept":
        self.core.start(json.loads(self.memory) if self.memory else None, shift)
        return self

    def killed_and_started(self) -> "Kept":
        """Another process, with what the last one wrote."""
        self.kernel.kill_after = None
        self.on_remember = self.on_restart = lambda: None
        self.core = self._new()
        return self.start()

    def turn(self, *events: Event, changed: bool = False) -> None:
        self.core.turn(events, changed=changed)

    def wait(self, milliseconds: int) -> None:
        """Let time pass; turns come as they are due."""
        end = self.now + milliseconds
        for _ in range(10_000):
            if self.core.due_ms > end:
                break
            assert self.core.due_ms >= self.now
            self.now = max(self.now, self.core.due_ms)
            self.turn()
        else:
            raise AssertionError("it does not rest")
        self.now = end

    def inspected(self) -> "Kept":
        """A start on a network that was never set up, until the VM has proven itself."""
        self.start()
        self.wait(10_001)
        assert self.choice == "inspect"
        self.forget()
        return self

    def inspected_by_beats(self) -> "Kept":
        """The same, where the VM proves itself by ten beats a second."""
        return self._beaten(100)

    def inspected_by_seconds(self) -> "Kept":
        """The same, by one."""
        return self._beaten(1_000)

    def _beaten(self, every_ms: int) -> "Kept":
        self.start()
        for _ in range(12_000 // every_ms):
            self.now += every_ms
            self.turn(beat())
        assert self.choice == "inspect"
        self.forget()
        return self

    def forget(self) -> None:
        """What happened until now is not asked about."""
        self.told.truncate(0)
        self.told.seek(0)
        self.order.clear()
        self.kernel.log.clear()

    def power(self, *, on: bool) -> None:
        """The VM's end of its adapters comes or goes."""
        for name in ("vif0", "vif1"):
            self.kernel.plug(self.kernel[name], on)

    @property
    def choice(self) -> str:
        (topology,) = set(self.core.state.choice.values())
        return topology

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.told.getvalue().splitlines()]

    def events(self, *kinds: str) -> list[str]:
        return [line["event"] for line in self.lines if not kinds or line["event"] in kinds]

    def texts(self, kind: str) -> list[str]:
        return [line["text"] for line in self.lines if line["event"] == kind]

    def where(self, name: str) -> str | None:
        master = self.kernel.devices.get(self.kernel[name].master)
        return master.name if master else None


def beat(state: HealthState = HealthState.HEALTHY, reason: str = "beats") -> Reading:
    return Reading("beat", state, reason)
