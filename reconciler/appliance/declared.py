"""What an appliance file amounts to: every short form written out, every default filled in. Values only.

This is what all that follows (proof, desired network, daemon) works from. It knows nothing of YAML or pydantic, so a
process that takes a proven appliance from the store pays for neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

INSPECT = "inspect"
BYPASS = "bypass"
# Holds no port: where a fail-closed appliance goes. Made where the file declares none.
ISOLATE = "isolate"
DEFAULT_SEGMENT = "wire"


@dataclass(frozen=True, slots=True)
class Match:
    """How to find a NIC; what is given must hold together, None holds always."""

    pci: str | None = None
    mac: str | None = None
    driver: str | None = None
    index: int | None = None
    name: str | None = None

    def __str__(self) -> str:
        """As in the file: ``pci 0000:02:00.0, driver igb``."""
        given = ((key, getattr(self, key)) for key in ("pci", "mac", "driver", "index", "name"))
        return ", ".join(f"{key} {value}" for key, value in given if value is not None)


@dataclass(frozen=True, slots=True)
class Port:
    """A physical NIC by its role name."""

    role: str
    match: Match
    management: bool = False
    take_over: bool = False


@dataclass(frozen=True, slots=True)
class Adapter:
    """The VM's adapter by role name; `ours` tells a tap that we make from somebody else's netdev."""

    role: str
    interface: str
    ours: bool
    mac: str | None = None
    take_over: bool = False


class Frame(StrEnum):
    """What a probe looks like to the VM."""

    ETHERNET = "ethernet"  # ethertype 0x88B5, IEEE 802 local experimental ethertype 1
    ARP = "arp"
    UDP = "udp"  # IPv4


@dataclass(frozen=True, slots=True)
class Probe:
    """The frames that prove the VM's path, one each `every_ms` and direction.

    `source`, `destination` (IPv4 addresses) and `port` (of UDP) are given where the frame has them, else None.
    """

    every_ms: int = 20
    frame: Frame = Frame.ETHERNET
    source: str | None = None
    destination: str | None = None
    port: int | None = None


MAX_DIRECTIONS = 128
"""Directions between adapters, of all guarded segments together: one prober asks in all of them, with one thread.

At a probe each 20 ms, 128 take it about half of a core.
"""


@dataclass(frozen=True, slots=True)
class Loss:
    """How much of what enters may fail to leave the host's half of the path: a share in percent, within `within_ms`."""

    share: int = 50
    within_ms: int = 1_000


@dataclass(frozen=True, slots=True)
class Guard:
    """The dead-man switch of a segment; durations in milliseconds.

    `lease_ms`: how long one returned probe keeps the VM trusted. `closed`: tripped, it cuts the wire instead of joining
    it. `latch`: after a trip the policy's hold-down has to pass; else the VM's path being proven again is enough.
    `grace_ms`: how long probes go on without the daemon. `drain_ms`: how long the VM may still emit what it holds when
    traffic leaves it on purpose. `by_daemon`: the daemon renews the lease on its verdict, and probes do not. `loss`:
    what is too much on the way between ports and adapters; None: it is not looked at.
    """

    lease_ms: int = 200
    probe: Probe = field(default_factory=Probe)
    closed: bool = False
    latch: bool = True
    grace_ms: int = 30_000
    drain_ms: int = 100
    by_daemon: bool = False
    loss: Loss | None = field(default_factory=Loss)


@dataclass(frozen=True, slots=True)
class Segment:
    """Ports that together are one wire. `mtu` in bytes, `ageing_ms` in milliseconds; not all have a `guard`."""

    name: str
    ports: tuple[str, ...]
    wire_transparent: bool = True
    mtu: int = 1500
    ageing_ms: int = 300_000
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """A virtual switch in one topology, with the roles of its members."""

    name: str
    segment: str
    ports: tuple[str, ...]
    adapters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """A named set of switches.

    `standby` are the switches of the other topologies. They exist all the time, so that no change of topology has to
    create or delete one; they hold no port, and adapters only where these have no other place. `detached` are the data
    ports that this topology leaves without a switch on purpose.
    """

    name: str
    switches: tuple[Switch, ...]
    standby: tuple[Switch, ...] = ()
    detached: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The agent's beats: over the unix socket of a virtio-serial channel, or over vsock to `port` of guest `cid`."""

    interval_ms: int
    socket: str | None = None
    cid: int | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Domain:
    """What libvirt tells of the VM's life."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """Whether somebody holds the other end of the adapters."""


@dataclass(frozen=True, slots=True)
class GuestPing:
    """The QEMU guest agent's answer, through libvirt."""

    every_ms: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Command:
    """A program that ends as monitoring plugins do."""

    run: tuple[str, ...]
    every_ms: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Http:
    """A web server's answer to GET."""

    url: str
    status: int
    every_ms: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Negative:
    """What the VM must not let through: an IPv4/UDP frame with this `payload` (ASCII), sent each `every_ms`."""

    payload: str
    every_ms: int = 1_000
    source: str = "198.18.0.1"
    destination: str = "198.19.0.1"
    port: int = 9


@dataclass(frozen=True, slots=True)
class Canary:
    """Whether the guard's probes come back at the opposite adapters of `segments`; `negative`: and what must never."""

    negative: Negative | None = None
    segments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostPath:
    """Whether what the guard accepts at ports and adapters of `segments` leaves at the other end of its switch."""

    segments: tuple[str, ...] = ()


Source = Heartbeat | Domain | Carrier | Canary | HostPath | GuestPing | Command | Http


@dataclass(frozen=True, slots=True)
class Streak:
    """How long something must be so before it is believed: `readings` in a row, or `ms` without a break."""

    readings: int | None = None
    ms: int | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A source of evidence, and how its readings are judged.

    `fails_before` and `fails_after`: whether its silence is a failure, before its first reading and after. `segment`:
    the one it speaks of; None: all. `required`: whether it has a say of its own; one in a group speaks through that.
    """

    name: str
    source: Source
    fall: Streak
    rise: Streak
    fails_before: bool = False
    fails_after: bool = False
    required: bool = True
    segment: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Signals of which `least` must be healthy."""

    name: str
    signals: tuple[str, ...]
    least: int


@dataclass(frozen=True, slots=True)
class Health:
    """How health is judged; durations in milliseconds.

    `grace_ms`: how long after a start silence says nothing. `hold_down_ms`: how long a segment must be healthy before
    it is inspected again; doubled for each flap up to `hold_down_max_ms`. A flap is forgotten after `flap_memory_ms` of
    undisturbed inspection.
    """

    signals: Mapping[str, Signal] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    grace_ms: int = 30_000
    hold_down_ms: int = 30_000
    hold_down_max_ms: int = 600_000
    flap_memory_ms: int = 3_600_000


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung of the restart ladder: a method, tried so often."""

    method: str  # "reset" or "destroy-and-start"
    attempts: int


@dataclass(frozen=True, slots=True)
class OnFailure:
    """What happens when the VM fails; durations in milliseconds.

    `restart_first`: the VM is restarted before traffic leaves it, for `first_attempts` within `first_ms`. `closed`: the
    segments whose traffic stops until it is inspected again. Between attempts `backoff_ms` pass, doubled each time up
    to `backoff_max_ms`; a started VM has `boot_timeout_ms` to become healthy.
    """

    restart_first: bool = False
    closed: frozenset[str] = frozenset()
    ladder: tuple[Rung, ...] = ()
    backoff_ms: int = 5_000
    backoff_max_ms: int = 300_000
    boot_timeout_ms: int = 120_000
    first_attempts: int = 1
    first_ms: int = 60_000

    def fallback(self, segment: str) -> str:
        """The topology of a segment that has failed."""
        return ISOLATE if segment in self.closed else BYPASS


@dataclass(frozen=True, slots=True)
class Libvirt:
    """A VM that libvirt runs."""

    uri: str
    domain: str


@dataclass(frozen=True, slots=True)
class Programs:
    """A VM that programs of the vendor's start and stop; `status` exits with 0 while it runs."""

    start: tuple[str, ...]
    stop: tuple[str, ...]
    status: tuple[str, ...]
    reset: tuple[str, ...] = ()
    timeout_ms: int = 30_000


Hypervisor = Libvirt | Programs


@dataclass(frozen=True, slots=True)
class Appliance:
    """One SKU, fully written out. The mappings go from the name of a thing to the thing, in the file's order."""

    sku: str
    ports: Mapping[str, Port]
    segments: Mapping[str, Segment]
    adapters: Mapping[str, Adapter]
    topologies: Mapping[str, Topology]
    hypervisor: Hypervisor | None = None
    health: Health = field(default_factory=Health)
    on_failure: OnFailure = field(default_factory=OnFailure)

    @property
    def data_ports(self) -> tuple[str, ...]:
        """Roles of the ports that belong to a segment."""
        return tuple(role for role, port in self.ports.items() if not port.management)

    @property
    def homes(self) -> Mapping[str, str]:
        """The segment of each adapter: the one whose traffic it inspects."""
        return {role: switch.segment for switch in self.topologies[INSPECT].switches for role in switch.adapters}
