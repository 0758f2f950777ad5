"""What an appliance file amounts to: every short form written out, every default filled in. Values only.

This is what all that follows (proof, desired network, daemon) works from. It knows nothing of YAML or pydantic, so a
process that takes a proven appliance from the store pays for neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass

INSPECT = "inspect"
BYPASS = "bypass"
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


@dataclass(frozen=True, slots=True)
class Segment:
    """Ports that together are one wire. `mtu` in bytes, `ageing_ms` in milliseconds."""

    name: str
    ports: tuple[str, ...]
    wire_transparent: bool = True
    mtu: int = 1500
    ageing_ms: int = 300_000


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
class Appliance:
    """One SKU, fully written out. The mappings go from the name of a thing to the thing, in the file's order."""

    sku: str
    ports: Mapping[str, Port]
    segments: Mapping[str, Segment]
    adapters: Mapping[str, Adapter]
    topologies: Mapping[str, Topology]

    @property
    def data_ports(self) -> tuple[str, ...]:
        """Roles of the ports that belong to a segment."""
        return tuple(role for role, port in self.ports.items() if not port.management)
