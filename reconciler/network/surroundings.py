"""What else is in a kernel that may take frames off their way, as it was found: facts, and no judgement (`obstacles`).

These are nobody's settings, and nothing here is ever changed by us.
"""

from dataclasses import dataclass

# Hooks that a chain or a filter hangs at, beside those that netfilter has names for.
INGRESS, EGRESS, QUEUE, FLOWTABLE = "ingress", "egress", "queue", "flowtable"
# What is done to a frame that then does not go its way. Whoever is silent about it may do so all the same.
CUTS = frozenset({"drop", "reject", "queue", "redirect", "forward", "steal"})


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of traffic control on an interface, or the discipline that filters hang at, if none does.

    `hook`: ingress or egress; queue: on the way out, where what waits to be sent waits. `kind`: tc's name for it (bpf,
    flower, clsact, netem). `does`: what becomes of frames that it catches, as far as it tells: drop, redirect, mirror.
    """

    interface: str
    hook: str
    kind: str
    does: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain of nftables, or a flowtable (`hook`).

    `interfaces`: those that it hangs at; a name with a * at its end stands for many, and none for all that its family
    sees. `guard`: the SKU of the appliance whose guard it is part of. `does`: drop, if that is its policy, and what
    rules of its table do to frames; of a guard it is not asked.
    """

    family: str
    table: str
    name: str
    hook: str
    interfaces: tuple[str, ...] = ()
    guard: str = ""
    does: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Station:
    """An address that somebody fixed to a member of a switch, or to the switch itself, by hand or by a program."""

    interface: str
    mac: str
    how: str  # static, permanent (the host itself), external


@dataclass(frozen=True, slots=True)
class Upper:
    """An interface that runs over another one. `kind`: the kernel's name for it: vlan, macvlan, macsec."""

    interface: str
    kind: str
    lower: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All of it. `chains`: None where they may not be read, which takes CAP_NET_ADMIN.

    `stations`: of switches that learn; those of the others come with each observation (`Network.stations`).
    """

    filters: tuple[Filter, ...] = ()
    chains: tuple[Chain, ...] | None = ()
    stations: tuple[Station, ...] = ()
    uppers: tuple[Upper, ...] = ()
