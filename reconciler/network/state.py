"""The one vocabulary for networks, desired and actual.

A network is a set of links; a link has a kind and settings. A desired link holds the settings that are asked for; an
actual link holds those that the kernel told. A setting that an actual link lacks is one that this kernel or this kind
of link does not have: it cannot differ. So everything that is reconciled is one row of `Setting`, and comparing two
networks is comparing mappings.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.network.surroundings import Station, Surroundings

Value = str | int | bool | tuple[str, ...] | None


class Kind(StrEnum):
    """What a link is to the kernel, as far as it matters here."""

    BRIDGE = "bridge"
    TAP = "tap"
    OTHER = "other"


class Setting(StrEnum):
    """Everything that is reconciled of a link."""

    # Of any link.
    SWITCH = "switch"  # str: the name of the bridge (or other master) that holds it; None: none does
    UP = "up"
    LINK_MODE = "link-mode"  # str: default; dormant, testing: with a carrier it waits for somebody's word all the same
    DORMANT = "dormant"  # bool, of what has a carrier: whether it waits for that word, and a switch for it meanwhile
    MTU = "mtu"  # int, bytes
    MAC = "mac"  # str, lower case
    ARP = "arp"  # bool: whether the host answers ARP on it
    PROMISCUOUS = "promiscuous"  # bool: our own request, not what a bridge asks for while it holds the link
    MARK = "mark"  # str: the ifalias
    ADDRGENMODE = "addrgenmode"  # str: how the kernel makes IPv6 link-local addresses
    IPV6 = "ipv6"  # bool
    ADDRESSES = "addresses"  # tuple of IPv4 addresses with prefix length
    LRO = "large-receive-offload"  # bool, of a NIC: whether it joins frames that it receives into larger ones
    PERSISTENT = "persistent"  # bool, of a tap: whether it outlives the process that holds it
    # Of a bridge.
    STP = "stp"
    MULTICAST_SNOOPING = "multicast-snooping"
    VLAN_FILTERING = "vlan-filtering"
    AGEING = "ageing"  # int, milliseconds
    SWITCH_GROUP_FWD_MASK = "switch-group-fwd-mask"  # int, 16 bits
    NF_CALL_IPTABLES = "nf-call-iptables"
    NF_CALL_IP6TABLES = "nf-call-ip6tables"
    NF_CALL_ARPTABLES = "nf-call-arptables"
    FDB_MAX_LEARNED = "fdb-max-learned"  # int: how many stations it learns at most, 0 without bound (Linux 6.7)
    # Of a link's membership in a bridge: gone with it, and at the kernel's default with the next.
    STATE = "state"  # str: disabled, listening, learning, forwarding, blocking
    GROUP_FWD_MASK = "group-fwd-mask"  # int, 16 bits: which of 01:80:c2:00:00:0X pass
    LEARNING = "learning"
    # bool: whether the switch knows stations behind a member that does not learn. Of members that do, it is not asked,
    # nor of switches without an appliance's mark. Of a bridge it is an order only: all that it has learnt goes.
    LEARNT = "learnt"
    FLOOD = "flood"
    MULTICAST_FLOOD = "multicast-flood"
    BROADCAST_FLOOD = "broadcast-flood"
    HAIRPIN = "hairpin"
    ISOLATED = "isolated"
    BPDU_GUARD = "bpdu-guard"
    ROOT_BLOCK = "root-block"
    NEIGHBOUR_SUPPRESSION = "neighbour-suppression"
    PROXY_ARP = "proxy-arp"
    LOCKED = "locked"


# What a link has that just entered a bridge (new_nbp() in net/bridge/br_if.c; STP off puts it at forwarding at once).
MEMBERSHIP_DEFAULTS: Mapping[Setting, Value] = {
    Setting.STATE: "forwarding",
    Setting.GROUP_FWD_MASK: 0,
    Setting.LEARNING: True,
    Setting.LEARNT: False,
    Setting.FLOOD: True,
    Setting.MULTICAST_FLOOD: True,
    Setting.BROADCAST_FLOOD: True,
    Setting.HAIRPIN: False,
    Setting.ISOLATED: False,
    Setting.BPDU_GUARD: False,
    Setting.ROOT_BLOCK: False,
    Setting.NEIGHBOUR_SUPPRESSION: False,
    Setting.PROXY_ARP: False,
    Setting.LOCKED: False,
}


# What a new link has (br_dev_setup() in net/bridge/br_device.c for bridges). A kernel may be built without some of
# these features, and then refuses even their default: what is so already is not asked for.
NEW_LINK: Mapping[Setting, Value] = {
    **MEMBERSHIP_DEFAULTS,
    Setting.SWITCH: None,
    Setting.LINK_MODE: "default",
    Setting.DORMANT: False,
    Setting.MTU: 1500,
    Setting.ADDRESSES: (),
    Setting.STP: False,
    Setting.VLAN_FILTERING: False,
    Setting.SWITCH_GROUP_FWD_MASK: 0,
    Setting.NF_CALL_IPTABLES: False,
    Setting.NF_CALL_IP6TABLES: False,
    Setting.NF_CALL_ARPTABLES: False,
}


@dataclass(frozen=True, slots=True)
class Role:
    """What a link is to the appliance: ``port outside``, ``switch sw-bypass``."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


# The bus of the host's end of an adapter of a Xen guest (drivers/net/xen-netback): what is behind it is no hardware.
XEN_BACKEND = "xen-backend"


@dataclass(frozen=True, slots=True)
class Nic:
    """Who an actual link is, beyond its name: what a port can be matched by."""

    index: int
    pci: str | None = None
    mac: str | None = None  # the permanent one
    driver: str | None = None
    altnames: tuple[str, ...] = ()
    carrier: bool = False
    physical: bool = False  # a device stands behind it, and not a VM
    lower: tuple[int, ...] = ()  # indexes of the links it runs over (VLAN, macvlan, …)
    bus: str | None = None  # of the device behind it: pci, virtio, usb, …
    inet6: tuple[str, ...] = ()  # IPv6 addresses with prefix length, less link-local ones: those come by themselves
    xdp: str = ""  # the program that sees frames before anybody: driver, generic, hardware, several; none


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface.

    `role` is None on actual links. `name` is '' on a desired port until `bind` found its NIC. A link that is not
    `required` may be missing: the VM's own adapters, while no traffic goes through the VM.
    """

    name: str
    kind: Kind
    settings: Mapping[Setting, Value]
    role: Role | None = None
    nic: Nic | None = None
    required: bool = True

    @property
    def switch(self) -> str | None:
        """Name of the bridge that holds it."""
        return self.settings.get(Setting.SWITCH)  # type: ignore[return-value]  # the one setting of this type

    @property
    def label(self) -> str:
        """For people: the role, with the interface name beside it where that says more."""
        if self.role is None:
            return f"interface {self.name}"
        return str(self.role) if self.name in ("", self.role.name) else f"{self.role} ({self.name})"


@dataclass(frozen=True, slots=True)
class Network:
    """Links in a fixed order. The rest is known of actual networks only.

    `default_route`: names of the interfaces that default routes lead to. `bridge_netfilter`: the sysctls of
    br_netfilter that are on, by which the host's firewall sees, and may drop, bridged frames. `routed`: names of the
    interfaces that other routes lead to, less those that came by themselves with an address. `unresolved`: numbers of
    the nexthop objects that default routes lead to without the kernel telling where that is. `stations`: what somebody
    has fixed in switches that bear a mark and do not learn. `surroundings`: None where nobody looked.
    """

    links: tuple[Link, ...]
    default_route: frozenset[str] = frozenset()
    bridge_netfilter: tuple[str, ...] = ()
    routed: frozenset[str] = frozenset()
    unresolved: tuple[int, ...] = ()
    stations: tuple[Station, ...] = ()
    surroundings: Surroundings | None = None
    by_name: Mapping[str, Link] = field(init=False, repr=False, compare=False)
    # Of what a switch holds, its name. Each of a failure's plans, one a segment, needs it of the same network.
    holders: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {link.name: link for link in self.links if link.name})
        object.__setattr__(self, "holders", {link.name: link.switch for link in self.links if link.switch})


def index_of(link: Link) -> int:
    """The kernel's number of a link; 0: it is not there."""
    return link.nic.index if link.nic else 0


def mark(sku: str, role: Role) -> str:
    """The ifalias by which a process without memory knows what is this appliance's."""
    return f"reconciler:{sku}:{role.kind}:{role.name}"


def marked_by(alias: Value) -> str | None:
    """The SKU of the appliance whose mark `alias` is, else None."""
    parts = alias.split(":", 2) if isinstance(alias, str) else []
    return parts[1] if len(parts) == 3 and parts[0] == "reconciler" else None


def pinned_mac(sku: str, role: Role) -> str:
    """A MAC address that is always the same for the same thing, and nobody else's: locally administered, unicast."""
    digest = hashlib.sha256(f"{sku}/{role}".encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02, *digest[1:6]]).hex(":")
