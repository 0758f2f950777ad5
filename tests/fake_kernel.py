"""A kernel in memory, with the verbs of `host.netlink.kernel.Kernel` and its rules, but without its mercy.

What the real kernel would refuse, it refuses with the same errno; what no caller of ours should ever ask, it answers
with an AssertionError. tests/host/test_contract.py holds it against the real one.

Faults: `fail_at[i]` is the errno of the i-th operation; `kill_after` operations the process "dies" (`Killed`);
`foreign_hand` may edit the network before each operation. `log` tells what was asked and what was answered.
"""

import errno
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.network.counts import LinkCounts
from reconciler.network.default_route import default_route_interfaces, in_use
from reconciler.network.plan import AT_CREATION, MakeLink, Operation, Outcome, Plan, RemoveLink, SetLink, Status, Step
from reconciler.network.state import MEMBERSHIP_DEFAULTS, Kind, Link, Network, Nic, Setting, Value, marked_by
from reconciler.network.surroundings import Station, Surroundings

_ANY: dict[Setting, Value] = {
    Setting.UP: False,
    Setting.LINK_MODE: "default",
    Setting.DORMANT: False,
    Setting.ARP: True,
    Setting.PROMISCUOUS: False,
    Setting.MARK: "",
    Setting.MTU: 1500,
    Setting.MAC: "",
    Setting.ADDRGENMODE: "eui64",
    Setting.IPV6: True,
    Setting.ADDRESSES: (),
}
_BRIDGE: dict[Setting, Value] = {
    Setting.STP: False,
    Setting.MULTICAST_SNOOPING: True,
    Setting.VLAN_FILTERING: False,
    Setting.AGEING: 300_000,
    Setting.SWITCH_GROUP_FWD_MASK: 0,
    Setting.NF_CALL_IPTABLES: False,
    Setting.NF_CALL_IP6TABLES: False,
    Setting.NF_CALL_ARPTABLES: False,
    Setting.FDB_MAX_LEARNED: 0,
}
_MTU = {Kind.BRIDGE: (68, 65535), Kind.TAP: (68, 65521), Kind.OTHER: (68, 65535)}
# Bits that net/bridge refuses: of a bridge BR_GROUPFWD_RESTRICTED (STP, PAUSE, LACP), of a port PAUSE.
_REFUSED_GROUPS = {Setting.SWITCH_GROUP_FWD_MASK: 0x0007, Setting.GROUP_FWD_MASK: 0x0002}
_TYPES: dict[Setting, type] = {
    **dict.fromkeys(Setting, bool),
    **dict.fromkeys((Setting.MAC, Setting.MARK, Setting.ADDRGENMODE, Setting.STATE, Setting.LINK_MODE), str),
    **dict.fromkeys((Setting.MTU, Setting.AGEING, Setting.SWITCH_GROUP_FWD_MASK, Setting.GROUP_FWD_MASK), int),
    Setting.FDB_MAX_LEARNED: int,
    Setting.ADDRESSES: tuple,
}


class Killed(BaseException):
    """The process that reconciled is no more. No handler of `Exception` may save it."""


class RefusedError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


@dataclass
class Device:
    """One interface as the fake kernel keeps it."""

    name: str
    index: int
    kind: Kind
    settings: dict[Setting, Value]
    nic: dict[str, Any] = field(default_factory=dict)
    master: int = 0
    plugged: bool = True  # whether a carrier comes with being up
    held: bool = False  # of a tap: whether a process holds its only queue
    busy: bool = False  # something (a macvlan) runs on it, and lets no bridge have it
    can_enslave: bool = False  # a bond or another master that is no bridge
    mtu_pinned: bool = False  # of a bridge: somebody set its MTU
    counters: LinkCounts = field(default_factory=lambda: LinkCounts(0, 0, 0, 0, 0, 0))

    def count(self, received: int = 0, sent: int = 0) -> None:
        """So many frames of 60 bytes and their headers cross it."""
        rx, rx_bytes, tx, tx_bytes, *lost = self.counters
        self.counters = LinkCounts(rx + received, rx_bytes + 74 * received, tx + sent, tx_bytes + 74 * sent, *lost)

    @property
    def carrier(self) -> bool:
        return bool(self.settings[Setting.UP]) and self.plugged

    @property
    def running(self) -> bool:
        return self.carrier and not self.settings[Setting.DORMANT]


class FakeKernel:
    """See the module."""

    def __init__(self) -> None:
        self.devices: dict[int, Device] = {}
        self.default_route: set[str] = set()
        self.routed: set[str] = set()  # where other routes lead to, less those that come with an address
        self.unresolved: tuple[int, ...] = ()
        self.bridge_netfilter: tuple[str, ...] = ()
        self.stations: tuple[Station, ...] = ()
        self.surroundings = Surroundings()
        self.fail_at: dict[int, int] = {}
        self.kill_after: int | None = None
        self.foreign_hand: Callable[[int, FakeKernel], None] | None = None
        self.lacks: frozenset[Setting] = frozenset()  # features that this kernel was built without
        self.log: list[tuple[Operation, int]] = []
        self._next_index = 1

    def count(self, indexes: Iterable[int]) -> dict[int, LinkCounts]:
        """As `Kernel.count`."""
        return {index: self.devices[index].counters for index in indexes if index in self.devices}

    def merges(self, interfaces: Iterable[str]) -> bool:
        """As `Kernel.merges`."""
        return False

    # Scenery: what hands other than ours make.

    def add(self, name: str, kind: Kind = Kind.OTHER, nic: dict[str, Any] | None = None, **settings: Value) -> Device:
        """Add an interface; keywords are settings' names with underscores."""
        assert self.named(name) is None, name
        given = {Setting(key.replace("_", "-")): value for key, value in settings.items()}
        device = self._new(name, kind, given, nic or {})
        device.plugged = kind is not Kind.TAP
        device.mtu_pinned = Setting.MTU in given
        return device

    def _new(self, name: str, kind: Kind, given: dict[Setting, Value], nic: dict[str, Any]) -> Device:
        index = self._next_index
        self._next_index += 1
        base = {**_ANY, **(_BRIDGE if kind is Kind.BRIDGE else {})}
        if kind is Kind.TAP:
            base[Setting.PERSISTENT] = True
        if kind is Kind.OTHER:
            base[Setting.LRO] = False
        base[Setting.MAC] = f"02:fa:ce:00:{index >> 8:02x}:{index & 255:02x}"
        device = Device(name, index, kind, base, nic)
        self.devices[index] = device
        for setting, value in given.items():
            if setting is not Setting.SWITCH:
                assert setting in base, f"a new {kind} has no {setting}"
                base[setting] = value
        if isinstance(master := given.get(Setting.SWITCH), str):
            self.enslave(device, self[master].index)
        return device

    def named(self, name: str) -> Device | None:
        return next(
            (one for one in self.devices.values() if name == one.name or name in one.nic.get("altnames", ())), None
        )

    def __getitem__(self, name: str) -> Device:
        device = self.named(name)
        assert device is not None, f"no interface {name}"
        return device

    def rename(self, old: str, new: str) -> None:
        assert self.named(new) is None
        self[old].name = new
        self.default_route, self.routed = (
            {new if name == old else name for name in names} for names in (self.default_route, self.routed)
        )

    def remove(self, name: str) -> None:
        """Delete an interface, whatever it is."""
        self._remove(self[name])

    def enslave(self, device: Device, master: int) -> None:
        """What do_set_master() of net/core/rtnetlink.c does: out of the old master first, whatever comes after."""
        if device.master == master:
            return
        self._leave(device)
        if not master:
            return
        bridge = self.devices.get(master)
        if bridge is None:
            raise RefusedError(errno.EINVAL)
        if bridge.kind is not Kind.BRIDGE and not bridge.can_enslave:
            raise RefusedError(errno.EOPNOTSUPP)
        if device.kind is Kind.BRIDGE:
            raise RefusedError(errno.ELOOP)
        if device.name == "lo":
            raise RefusedError(errno.EINVAL)
        if device.busy:
            raise RefusedError(errno.EBUSY)
        device.master = master
        if bridge.kind is Kind.BRIDGE:
            device.settings |= MEMBERSHIP_DEFAULTS
            if device.settings.get(Setting.LRO):
                # dev_disable_lro() in br_add_if()
                device.settings[Setting.LRO] = False
            self._settle(device)
            self._fit_mtu(bridge)

    def set_up(self, device: Device, up: bool) -> None:
        """Raise or lower an interface, with what follows for memberships."""
        if device.settings[Setting.UP] is not up:
            device.settings[Setting.UP] = up
            self._carrier_changed(device)
        for one in self.devices.values():
            if one is device or one.master == device.index:
                self._settle(one)

    def plug(self, device: Device, plugged: bool) -> None:
        """Give an interface a carrier, or take it."""
        device.plugged = plugged
        self._carrier_changed(device)
        self._settle(device)

    @staticmethod
    def _carrier_changed(device: Device) -> None:
        """rfc2863_policy() of net/core/link_watch.c."""
        device.settings[Setting.DORMANT] = device.carrier and device.settings[Setting.LINK_MODE] != "default"

    def _settle(self, device: Device) -> None:
        """br_stp_enable_port() and br_stp_disable_port(): a member forwards once it and its bridge are up."""
        bridge = self.devices.get(device.master)
        if bridge is not None and bridge.kind is Kind.BRIDGE:
            first = "listening" if bridge.settings[Setting.STP] else "forwarding"
            device.settings[Setting.STATE] = first if bridge.settings[Setting.UP] and device.running else "disabled"

    def _leave(self, device: Device) -> None:
        old = self.devices.get(device.master)
        device.master = 0
        for setting in MEMBERSHIP_DEFAULTS:
            device.settings.pop(setting, None)
        if old is not None:
            self._fit_mtu(old)

    def _fit_mtu(self, bridge: Device) -> None:
        """br_mtu_auto_adjust(): until somebody sets it, a bridge's MTU follows its smallest member."""
        if bridge.kind is Kind.BRIDGE and not bridge.mtu_pinned:
            sizes = [one.settings[Setting.MTU] for one in self.devices.values() if one.master == bridge.index]
            bridge.settings[Setting.MTU] = min(sizes, default=1500)  # type: ignore[type-var]

    def _remove(self, device: Device) -> None:
        for member in self.devices.values():
            if member.master == device.index:
                self._leave(member)
        del self.devices[device.index]
        self._leave(device)
        self.default_route.discard(device.name)
        self.routed.discard(device.name)

    # The verbs.

    def observe(self, names: Collection[str] | None = None) -> Network:
        links = [self._link(device, with_driver=names is None) for device in self.devices.values()]
        links.sort(key=lambda link: link.nic.index if link.nic else 0)
        everything = Network(
            tuple(links),
            frozenset(self.default_route),
            self.bridge_netfilter,
            frozenset(self.routed),
            self.unresolved,
            self.stations,
        )
        if names is None:
            return everything
        assert all(isinstance(name, str) and name for name in names), names
        return replace(everything, links=tuple(self._concerning(everything, frozenset(names))))

    def survey(self, actual: Network) -> Surroundings:
        assert all(link.nic and link.nic.index for link in actual.links), "a network that nobody observed"
        return self.surroundings

    def _concerning(self, everything: Network, names: frozenset[str]) -> list[Link]:
        def wanted(link: Link) -> bool:
            assert link.nic is not None
            return link.kind is not Kind.OTHER or link.name in names or bool(names & set(link.nic.altnames))

        ours = {
            link.name
            for link in everything.links
            if wanted(link) and (link.name in names or marked_by(link.settings[Setting.MARK]))
        }
        kept = {link.name for link in everything.links if wanted(link) or link.switch in ours}
        kept |= default_route_interfaces(everything) | in_use(everything).keys()
        kept |= {link.switch for link in everything.links if link.name in kept and link.switch}
        return [link for link in everything.links if link.name in kept]

    def _link(self, device: Device, *, with_driver: bool) -> Link:
        master = self.devices.get(device.master)
        settings = {Setting.SWITCH: master.name if master else None, **device.settings}
        if Setting.FDB_MAX_LEARNED in self.lacks:
            settings.pop(Setting.FDB_MAX_LEARNED, None)
        if Setting.STATE in settings and not device.running:
            del settings[Setting.STATE]
        if device.kind is Kind.BRIDGE or not device.carrier:
            del settings[Setting.DORMANT]
        if settings.get(Setting.LEARNING) is not False or not (master and marked_by(master.settings[Setting.MARK])):
            settings.pop(Setting.LEARNT, None)
        told = dict(device.nic)
        if not with_driver:
            told.pop("driver", None)
        return Link(device.name, device.kind, settings, nic=Nic(device.index, **told, carrier=device.carrier))

    def execute(self, plan: Plan, actual: Network, stop: Callable[[], bool] = lambda: False) -> tuple[Outcome, ...]:
        assert len(plan.needs) == len(plan.operations)
        assert all(need < position for position, needs in enumerate(plan.needs) for need in needs), "a need not yet met"
        steps = [operation.step for operation in plan.operations]
        assert steps == sorted(steps), "the steps of a plan are out of order"
        index_of = {link.name: link.nic.index for link in actual.links if link.nic}
        outcomes: list[Outcome] = []
        stopped = False
        for operation, needs in zip(plan.operations, plan.needs, strict=True):
            stopped = stopped or stop()
            if stopped:
                outcomes.append(Outcome(operation, Status.SKIPPED, "interrupted"))
            elif any(outcomes[need].status is not Status.DONE for need in needs):
                outcomes.append(Outcome(operation, Status.SKIPPED, "what it needs was not done"))
            else:
                outcomes.append(self._try(operation, index_of))
        return tuple(outcomes)

    def prepare(self, plan: Plan, actual: Network) -> Callable[[], object] | None:
        plain = (Step.MOVE, Step.MEMBERSHIP)
        if not plan.operations or any(operation.step not in plain for operation in plan.operations):
            return None
        return lambda: self.execute(plan, actual)

    def _try(self, operation: Operation, index_of: dict[str, int]) -> Outcome:
        count = len(self.log)
        if self.foreign_hand:
            self.foreign_hand(count, self)
        if self.kill_after is not None and count >= self.kill_after:
            raise Killed(f"after {count} operations")
        number = self.fail_at.get(count, 0)
        if not number:
            try:
                self._do(operation, index_of)
            except RefusedError as error:
                number = error.errno
        self.log.append((operation, number))
        if isinstance(operation, RemoveLink) and number == errno.ENODEV:
            number = 0
        if number:
            return Outcome(operation, Status.FAILED, errno.errorcode[number], number)
        return Outcome(operation, Status.DONE)

    def _do(self, operation: Operation, index_of: dict[str, int]) -> None:
        match operation:
            case MakeLink(link):
                index_of[link.name] = self._make(link).index
            case SetLink(link, setting, old, new):
                _check(setting, new)
                device = self.devices.get(index_of.get(link.name, 0))
                if setting in (Setting.IPV6, Setting.LRO):
                    # What goes by name: a file of /proc/sys, and an ioctl.
                    device = self.named(link.name)
                if device is None:
                    raise RefusedError(errno.ENOENT if setting is Setting.IPV6 else errno.ENODEV)
                if link.kind is Kind.BRIDGE and setting is Setting.LEARNT:
                    self._forget(device)
                else:
                    self._set(device, setting, old, new, index_of)
            case RemoveLink(link):
                device = self.devices.get(index_of.get(link.name, 0))
                if device is None:
                    raise RefusedError(errno.ENODEV)
                assert device.kind is not Kind.OTHER, f"{device.name} is not ours to delete"
                self._remove(device)
            case _:
                raise AssertionError(f"unknown operation {operation!r}")

    def _forget(self, bridge: Device) -> None:
        for member in self.devices.values():
            if member.master == bridge.index:
                member.settings[Setting.LEARNT] = False

    def _make(self, link: Link) -> Device:
        assert link.kind in (Kind.BRIDGE, Kind.TAP), f"nobody can make {link.kind}"
        assert 0 < len(link.name.encode()) < 16, link.name
        taken = self.named(link.name) is not None
        if link.kind is Kind.TAP:
            if taken:
                raise RefusedError(errno.EBUSY)
            device = self._new(link.name, Kind.TAP, {Setting.MARK: link.settings[Setting.MARK]}, {})
            device.plugged = False
            return device
        if taken:
            raise RefusedError(errno.EEXIST)
        given = {one: value for one, value in link.settings.items() if one in AT_CREATION[Kind.BRIDGE]}
        return self._new(link.name, Kind.BRIDGE, given, {})

    def _set(self, device: Device, setting: Setting, old: Value, new: Value, index_of: dict[str, int]) -> None:
        if setting is Setting.SWITCH:
            if new is not None and new not in index_of:
                raise RefusedError(errno.ENODEV)
            self.enslave(device, index_of[new] if isinstance(new, str) else 0)
            return
        if setting is Setting.ADDRESSES:
            assert new == (), "a wire has no address"
            gone = set(old) if isinstance(old, tuple) else set()
            device.settings[setting] = tuple(one for one in device.settings[setting] if one not in gone)  # type: ignore[union-attr]
            return
        if setting in MEMBERSHIP_DEFAULTS:
            self._set_membership(device, setting, new)
            return
        if setting is Setting.LRO:
            if new:
                # There are only veth pairs, bridges and taps here: none of them has any.
                raise RefusedError(errno.EOPNOTSUPP)
            device.settings |= {setting: False} if setting in device.settings else {}
            return
        if setting in _BRIDGE and device.kind is not Kind.BRIDGE:
            raise RefusedError(errno.EOPNOTSUPP)
        if setting is Setting.PERSISTENT:
            assert device.kind is Kind.TAP
            if device.held:
                raise RefusedError(errno.EBUSY)
        if setting in _REFUSED_GROUPS and isinstance(new, int) and new & _REFUSED_GROUPS[setting]:
            raise RefusedError(errno.EINVAL)
        if setting is Setting.MTU:
            _check_mtu(device.kind, new)
            # __dev_set_mtu() asks the driver, here the bridge, only for another MTU than it has.
            device.mtu_pinned = device.mtu_pinned or device.settings[setting] != new
        if setting in self.lacks and setting is Setting.FDB_MAX_LEARNED:
            # A number that is beyond those that a kernel knows is passed over (nla_parse_nested_deprecated()).
            return
        if setting in self.lacks:
            raise RefusedError(errno.EOPNOTSUPP)
        if setting is Setting.IPV6 and not new:
            device.nic.pop("inet6", None)
        if setting is Setting.UP:
            assert isinstance(new, bool)
            self.set_up(device, new)
            return
        device.settings[setting] = new
        if setting is Setting.DORMANT:
            self._settle(device)
        if setting is Setting.MTU and device.master:
            self._fit_mtu(self.devices[device.master])

    def _set_membership(self, device: Device, setting: Setting, new: Value) -> None:
        if not device.master:
            raise RefusedError(errno.EOPNOTSUPP)
        if setting in _REFUSED_GROUPS and isinstance(new, int) and new & _REFUSED_GROUPS[setting]:
            raise RefusedError(errno.EINVAL)
        if setting is Setting.STATE:
            if self.devices[device.master].settings[Setting.STP]:
                raise RefusedError(errno.EBUSY)
            if not device.settings[Setting.UP] or (not device.plugged and new != "disabled"):
                raise RefusedError(errno.ENETDOWN)
            # br_port_state_selection() has the last word: without spanning tree nothing stays blocked.
            new = "forwarding" if new == "blocking" else new
        assert (setting, new) != (Setting.LEARNT, True), "what is learnt, frames teach"
        if setting is Setting.LEARNING and not new:
            device.settings[Setting.LEARNT] = False
        device.settings[setting] = new
        if device.settings[Setting.STATE] == "disabled":
            # The change is announced, and br_port_carrier_check() finds a member that could forward.
            self._settle(device)


def _check(setting: Setting, new: Value) -> None:
    assert isinstance(setting, Setting)
    if setting is Setting.SWITCH:
        assert new is None or (isinstance(new, str) and new), new
        return
    assert type(new) is _TYPES[setting], f"{setting} cannot be {new!r}"
    if setting is Setting.MAC:
        first = bytes.fromhex(str(new).replace(":", ""))
        assert len(first) == 6
        assert not first[0] & 1, "a link with a multicast address"
    if setting in _REFUSED_GROUPS:
        assert 0 <= int(str(new)) <= 0xFFFF


def _check_mtu(kind: Kind, value: Value) -> None:
    assert type(value) is int
    low, high = _MTU[kind]
    if not low <= value <= high:
        raise RefusedError(errno.EINVAL)
