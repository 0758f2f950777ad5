"""The guard: what the kernel does with a guarded wire, by itself, as long as nobody proves that the VM forwards.

Theory. Each segment has *leases*, one for each *direction* between its adapters, taken round in a ring. A lease is an
element of a set that expires. While all of them stand, the wire belongs to the VM; as soon as one has expired, the rule
at each port's ingress forwards straight out of the peer (or drops, where the file says fail-closed), and what the VM
emits is dropped. All of this happens in rules; nobody has to be alive for it.

    port's ingress       leases stand → accept;  set aside → accept;  else → out of the peers, and counted
    adapter's ingress    our probe → renew, perhaps, and drop;  leases stand, draining, or aside → accept;  else drop

A lease is renewed by a probe that comes back at the end of its direction and bears a token that was *granted*, but
only while all leases stand. So a guard that has tripped stays tripped until it is granted again, whatever the VM
still holds: a probe that was sent before the trip renews nothing after it. Beside each lease stands when it was
renewed last, for as long as nobody may be there to ask: so the moment of a trip is known, whoever has slept through
it.

The host finds a segment in one of three *stances*:

    ARMED    the topology is `inspect`: leases may be granted, once the VM's path is proven
    TRIPPED  the topology is the segment's fallback: the guard carries (or cuts) the wire, beside the switch
    ASIDE    any other topology: what it means, its switches do; the guard lets everything pass
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from reconciler.appliance.declared import INSPECT, Appliance, Guard
from reconciler.network.state import Network, Role, Setting, pinned_mac
from reconciler.warning import Warning

# Before everybody else's rules: those of the host's firewall must not see the wire's frames (NF_IP_PRI_FIRST is the
# least; something is left for who needs to be earlier).
_PRIORITY = -500
# Added to a direction's number in the source address of what must not come through: told from probes by nothing else.
# A ring has at most 64 directions (see `references_of_guard`).
NEGATIVE = 0x80
# The set of all source addresses of probes: at an adapter that is not a probe's end, it is dropped.
_MARKS = "marks"
# So long the time of the last renewal is told by the kernel, whoever is dead meanwhile: longer than machines are left
# without a daemon. In the words of nft, and as the kernel counts.
_REMEMBERED, REMEMBERED_MS = "30d", 30 * 24 * 3_600_000
# The two bits of a MAC address's first byte (IEEE 802): locally administered, and not a group.
_LOCAL, _GROUP = 0x02, 0x01
_NO_MAC, _GROUP_BIT, _LINK_LOCAL = "00:00:00:00:00:00", "01:00:00:00:00:00", "01:80:c2:00:00:00"
_VLAN_TAG = 4  # bytes that a bridge allows a frame beyond its MTU (VLAN_HLEN)


class Stance(StrEnum):
    """What the guard is to a segment; see the theory."""

    ARMED = "armed"
    TRIPPED = "tripped"
    ASIDE = "aside"


@dataclass(frozen=True, slots=True)
class Place:
    """A port or adapter on the live host. `interface` is '' where it is not there; `index` is then 0."""

    role: str
    interface: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class Direction:
    """From one adapter to the next one of the ring, by their roles. `number`: its place in the ring."""

    segment: str
    number: int
    source: str
    target: str

    @property
    def name(self) -> str:
        """For people: ``outside → inside``."""
        return f"{self.source} → {self.target}"

    @property
    def lease(self) -> str:
        """The name of its lease's set: in a ring, where it leads says which direction it is."""
        return f"{self.segment}/lease/{self.target}"

    @property
    def renewed(self) -> str:
        """The name of the set whose element tells, by what is left of its time, when the lease was renewed last."""
        return f"{self.segment}/renewed/{self.target}"


@dataclass(frozen=True, slots=True)
class Guarded:
    """A guarded segment, bound to the live host. `ports` and `adapters` stand in the same order.

    `own`: the MAC addresses by which the host itself could be spoken to from this wire. `switches`: the segment's, of
    all topologies: what they hand up to the host is dropped.
    """

    name: str
    guard: Guard
    ports: tuple[Place, ...]
    adapters: tuple[Place, ...]
    own: frozenset[str] = frozenset()
    switches: tuple[Place, ...] = ()
    mtu: int = 1500

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The ring."""
        return directions(self.name, tuple(place.role for place in self.adapters))


@dataclass(frozen=True, slots=True)
class Contents:
    """What the table holds beside its rules, of one segment: put into a new table, so that nothing trips by it.

    `token`: the granted one, None without consent. `held`: whether the leases stand. `aside_ms`: for how long the guard
    stands aside; 0 for ever, None not at all. `renewed_ms`: when that lease was renewed last for which it is
    longest ago, by the clock that never steps; None: the table has never had any, and in a table to be put.
    """

    token: bytes | None = None
    held: bool = False
    aside_ms: int | None = None
    renewed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Text for nft that replaces the whole table in one transaction, and the digest by which its rules are known.

    The digest is over the rules and the interfaces' indexes, not over what the table holds.
    """

    text: str = field(repr=False)
    digest: str


def table_of(sku: str) -> str:
    """The table's name: the mark by which a process without memory knows what is ours."""
    # nft knows no + in a name; and a SKU has no /.
    return f"reconciler-{sku.replace('+', '/')}"


def comment_of(sku: str) -> str:
    """The comment that the table bears."""
    return f"reconciler:{sku}:guard"


def directions(segment: str, roles: tuple[str, ...]) -> tuple[Direction, ...]:
    """From each adapter to the next one: so each is proven both as one that hears and as one that speaks."""
    pairs = zip(roles, (*roles[1:], *roles[:1]), strict=True)
    return tuple(Direction(segment, number, source, target) for number, (source, target) in enumerate(pairs))


def mark_of(secret: bytes, segment: str) -> bytes:
    """What the source addresses of a segment's probes begin with: 5 bytes; the sixth is the direction's number."""
    return _local(hashlib.sha256(secret + segment.encode()).digest()[:5])


def token_from(random: bytes) -> bytes:
    """A token, of six random bytes: the destination address of probes."""
    return _local(random)


def _local(raw: bytes) -> bytes:
    return bytes([raw[0] & ~_GROUP & 0xFF | _LOCAL, *raw[1:]])


def stance(appliance: Appliance, segment: str, topology: str) -> Stance:
    """What the guard is to a segment that shall have this topology."""
    if topology == INSPECT:
        return Stance.ARMED
    return Stance.TRIPPED if topology == appliance.on_failure.fallback(segment) else Stance.ASIDE


def bind_guard(
    appliance: Appliance, desired: Network, actual: Network, lost: Mapping[str, int] | None = None
) -> tuple[Guarded, ...]:
    """The guarded segments on the live host. `desired`: any desired network of the appliance, bound to live NICs.

    `lost`: see `lost_ports`. Such a port is where it was as long as that NIC lives, whatever it is called by now:
    nobody knows of another, and frames still come by it.
    """
    names = {(link.role.kind, link.role.name): link.name for link in desired.links if link.role}
    if lost:
        taken = set(names.values())
        free = {link.nic.index: link.name for link in actual.links if link.nic and link.name not in taken}
        names |= {("port", role): free[index] for role, index in lost.items() if index in free}
    return tuple(
        _bound(appliance, name, segment.guard, names, actual)
        for name, segment in appliance.segments.items()
        if segment.guard is not None
    )


def recall_nics(kept: Mapping[str, Any]) -> dict[str, int]:
    """Of what the guard's notes hold: the NIC that each port was last, by its index.

    Raises:
        TypeError, ValueError, AttributeError: they are no notes of ours.

    """
    return {str(role): int(index) for role, index in kept.get("nics", {}).items()}


def lost_ports(nics: Mapping[str, int], problems: Iterable[Warning]) -> dict[str, int]:
    """The ports of which it is not known any more which NIC they are, and the index of the one that each was last.

    `nics`: that of each port that was ever found.
    """
    unknown = {one.about for one in problems if one.code in ("port-missing", "port-ambiguous")}
    return {role: index for role, index in nics.items() if str(Role("port", role)) in unknown}


def _bound(
    appliance: Appliance, segment: str, guard: Guard, names: Mapping[tuple[str, str], str], actual: Network
) -> Guarded:
    # In the ports' order, so that the same file always makes the same ring.
    beside = {
        role: switch.adapters[0]
        for switch in appliance.topologies[INSPECT].switches
        if switch.segment == segment and switch.adapters
        for role in switch.ports
    }
    ports = tuple(_place("port", role, names, actual) for role in appliance.segments[segment].ports)
    adapters = tuple(_place("adapter", beside[place.role], names, actual) for place in ports)
    switches = dict.fromkeys(
        switch.name
        for topology in appliance.topologies.values()
        for switch in topology.switches
        if switch.segment == segment
    )
    pinned = (pinned_mac(appliance.sku, Role("switch", name)) for name in switches)
    members = (actual.by_name[one.interface].settings.get(Setting.MAC) for one in (*ports, *adapters) if one.index)
    own = frozenset(mac for mac in (*pinned, *members) if isinstance(mac, str))
    places = tuple(_place("switch", name, names, actual) for name in switches)
    return Guarded(segment, guard, ports, adapters, own, places, appliance.segments[segment].mtu)


def _place(kind: str, role: str, names: Mapping[tuple[str, str], str], actual: Network) -> Place:
    live = actual.by_name.get(names.get((kind, role), ""))
    if live is None or live.nic is None:
        return Place(role)
    return Place(role, live.name, live.nic.index)


def ruleset(sku: str, segments: Iterable[Guarded], secret: bytes, contents: Mapping[str, Contents]) -> Ruleset:
    """The table of an appliance.

    `secret`: what the probes' source addresses are made of. `contents`: of segments that the table shall hold something
    for. Its counters begin at zero.
    """
    segments = tuple(segments)
    rules = _all_rules(segments, secret)
    things = "\n".join(line for one in segments for line in _sets(one, contents.get(one.name, Contents())))
    name = table_of(sku)
    text = f'table netdev {name} {{\n\tcomment "{comment_of(sku)}"\n{things}\n{rules}\n}}\n'
    return Ruleset(removal(name) + text, _digest(sku, segments, rules))


def digest_of(sku: str, segments: Iterable[Guarded], secret: bytes) -> str:
    """The digest of an appliance's table, whatever it holds."""
    segments = tuple(segments)
    return _digest(sku, segments, _all_rules(segments, secret))


def _all_rules(segments: tuple[Guarded, ...], secret: bytes) -> str:
    marks = [mac for one in segments for extra in (0, NEGATIVE) for mac in _marks(one, secret, extra)]
    rules = (line for one in segments for line in (*_probes(one), *_hooks(one, secret)))
    return "\n".join([*_set(_MARKS, "ether saddr", "", marks), *rules])


def _digest(sku: str, segments: tuple[Guarded, ...], rules: str) -> str:
    places = [(place.role, place.index) for one in segments for place in (*one.ports, *one.adapters, *one.switches)]
    return hashlib.sha256(f"{table_of(sku)}\n{rules}\n{places}\n{sorted(counters(segments))}".encode()).hexdigest()


def replacement(sku: str, changed: Iterable[tuple[Guarded, Guarded]], secret: bytes) -> str:
    """Text for nft that replaces the chains of segments, for other interfaces, and leaves all that they hold alone.

    `changed`: each segment as the table has it, and as it shall be; of the same file, so with the same roles.
    """
    changed, name = tuple(changed), table_of(sku)
    old = dict.fromkeys(chain for pair in changed for one in pair for chain in _hooked(one))
    # Its interface may have taken a chain along; `add` of one that is there changes nothing.
    gone = "".join(f"{verb} chain netdev {name} {chain}\n" for chain in old for verb in ("add", "flush", "delete"))
    made = "\n".join(line for _, new in changed for line in _hooks(new, secret))
    return f"{gone}table netdev {name} {{\n{made}\n}}\n"


def removal(table: str) -> str:
    """Text for nft that takes a table away, whether or not it is there."""
    return f"add table netdev {table}\ndelete table netdev {table}\n"


def counters(segments: Iterable[Guarded]) -> Iterator[str]:
    """The names of all counters: frames that a port let past the VM, and those of an adapter's that were dropped.

    Where it is looked for losses, also all that came as far as a port's rules, and those that entered there, or were
    emitted by an adapter, to be forwarded.
    """
    for one in segments:
        yield from (f"{one.name}/port/{place.role}" for place in one.ports)
        yield from (f"{one.name}/adapter/{place.role}" for place in one.adapters)
        if one.guard.loss:
            yield from (f"{one.name}/seen/{place.role}" for place in one.ports)
            yield from (f"{one.name}/entered/{place.role}" for place in one.ports)
            yield from (f"{one.name}/emitted/{place.role}" for place in one.adapters)


def _marks(one: Guarded, secret: bytes, extra: int = 0) -> list[str]:
    return [(mark_of(secret, one.name) + bytes([direction.number + extra])).hex(":") for direction in one.directions]


def _sets(one: Guarded, held: Contents) -> Iterator[str]:
    for name in counters([one]):
        yield f"\tcounter {name} {{ packets 0 bytes 0 }}"
    yield from _set(f"{one.name}/granted", "ether daddr", "", [held.token.hex(":")] if held.token else [])
    for direction in one.directions:
        lease = [f"ether timeout {one.guard.lease_ms}ms"] if held.held else []
        yield from _set(direction.lease, "meta iiftype", "size 4; flags dynamic,timeout;", lease)
        now = [f"ether timeout {_REMEMBERED}"] if held.held else []
        yield from _set(direction.renewed, "meta iiftype", "size 4; flags dynamic,timeout;", now)
    yield from _set(f"{one.name}/drain", "meta iiftype", "flags timeout;", [])
    aside = [] if held.aside_ms is None else ["ether" + (f" timeout {held.aside_ms}ms" if held.aside_ms else "")]
    yield from _set(f"{one.name}/aside", "meta iiftype", "flags timeout;", aside)


def _set(name: str, of: str, more: str, elements: list[str]) -> Iterator[str]:
    filled = f" elements = {{ {', '.join(elements)} }};" if elements else ""
    yield f"\tset {name} {{ typeof {of};{f' {more}' if more else ''}{filled} }}"


def _leases(one: Guarded) -> str:
    return " ".join(f"meta iiftype @{direction.lease}" for direction in one.directions)


def _probes(one: Guarded) -> Iterator[str]:
    """The chains that a probe goes to at its end."""
    for direction in one.directions:
        renew = f"{_leases(one)} update @{direction.lease} {{ meta iiftype timeout {one.guard.lease_ms}ms }}"
        renew += f" update @{direction.renewed} {{ meta iiftype timeout {_REMEMBERED} }}"
        rules = [] if one.guard.by_daemon else [f"ether daddr @{one.name}/granted {renew}"]
        yield from _chain(f"{one.name}/probe/{direction.target}", "", [*rules, "drop"])


def _hooked(one: Guarded) -> Iterator[str]:
    """The names of the chains that hang at a segment's interfaces."""
    for kind, places in (("port", one.ports), ("adapter", one.adapters), ("switch", one.switches)):
        yield from (f"{one.name}/{kind}/{place.role}" for place in places if place.index)


def _hooks(one: Guarded, secret: bytes) -> Iterator[str]:
    """These chains."""
    leases = _leases(one)
    mark_by_target = dict(zip((direction.target for direction in one.directions), _marks(one, secret), strict=True))
    # Nobody on the wire may speak to the host by an address that belongs to it.
    unseen = f"ether daddr {{ {', '.join(sorted(one.own))} }} drop"
    for place in one.ports:
        if place.index:
            act = f'counter name "{one.name}/port/{place.role}" {_action(one, place)}'
            accepted = _accepted(one, leases, f"entered/{place.role}")
            seen = [f'counter name "{one.name}/seen/{place.role}"'] if one.guard.loss else []
            rules = [*seen, unseen, *accepted, f"meta iiftype @{one.name}/aside accept", act]
            yield from _chain(f"{one.name}/port/{place.role}", place.interface, rules)
    for place in one.adapters:
        if place.index:
            here = f"ether saddr {mark_by_target[place.role]} goto {one.name}/probe/{place.role}"
            rules = [here, f"ether saddr @{_MARKS} drop", unseen]
            rules += _accepted(one, leases, f"emitted/{place.role}")
            rules += [f"meta iiftype @{one.name}/{name} accept" for name in ("drain", "aside")]
            rules.append(f'counter name "{one.name}/adapter/{place.role}" drop')
            yield from _chain(f"{one.name}/adapter/{place.role}", place.interface, rules)

    # What is for all (broadcast, multicast), a switch gives to the host, too. The host has no business on this wire.
    for place in one.switches:
        if place.index:
            yield from _chain(f"{one.name}/switch/{place.role}", place.interface, ["drop"])


def _accepted(one: Guarded, leases: str, counter: str) -> list[str]:
    """While the leases stand; counted is what a switch must forward (br_handle_frame(), is_skb_forwardable()).

    That is not what is for the link-local groups, bears a source that is none, or is larger than the wire's frames.
    What a NIC has joined from several frames is larger, too, and as little counted.
    """
    if not one.guard.loss:
        return [f"{leases} accept"]
    proper = f"ether daddr & ff:ff:ff:ff:ff:f0 != {_LINK_LOCAL} ether saddr & {_GROUP_BIT} == {_NO_MAC}"
    proper += f" ether saddr != {_NO_MAC} meta length <= {one.mtu + _VLAN_TAG}"
    return [f'{leases} {proper} counter name "{one.name}/{counter}" accept', f"{leases} accept"]


def _action(one: Guarded, place: Place) -> str:
    """What becomes of a frame that enters at a port when the VM is not trusted."""
    peers = [peer.interface for peer in one.ports if peer.index and peer is not place]
    if one.guard.closed or not peers:
        return "drop"
    return " ".join([*(f'dup to "{peer}"' for peer in peers[:-1]), f'fwd to "{peers[-1]}"'])


def _chain(name: str, interface: str, rules: Iterable[str]) -> Iterator[str]:
    hook = f'\t\ttype filter hook ingress device "{interface}" priority {_PRIORITY}; policy accept;'
    yield "\n".join([f"\tchain {name} {{", *([hook] if interface else []), *(f"\t\t{rule}" for rule in rules), "\t}"])
