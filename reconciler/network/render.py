"""Differences and plans as text for people, as commands that can be pasted, and as JSON for programs."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from reconciler.network.audit import Beside
from reconciler.network.diff import Change, Difference, Make, Remove, Set
from reconciler.network.plan import AT_CREATION, MakeLink, Operation, Plan, RemoveLink, SetLink
from reconciler.network.state import MEMBERSHIP_DEFAULTS, Kind, Link, Setting, Value

# Versioned: a change that could break a reader counts up.
PLAN_FORMAT = "reconciler.plan/2"


class Line(NamedTuple):
    """One change for a person: the thing, what about it, and the old and the new value (None where there is none)."""

    thing: str
    about: str
    old: str | None
    new: str | None


def line(change: Change) -> Line:
    """A change in the file's words."""
    match change:
        case Make(link):
            return Line(link.label, link.kind.value, None, f"new: {_summary(link)}")
        case Set(link, setting, old, new):
            return Line(link.label, setting.value, spell(setting, old), spell(setting, new))
        case Remove(link):
            return Line(link.label, link.kind.value, "a leftover of ours", None)


def beside_line(one: Beside) -> Line:
    """The same of what is no link."""
    return Line(one.label, one.about, one.old, one.new)


def spell(setting: Setting, value: Value) -> str:
    """A setting's value as people write it."""
    match value:
        case None | "":
            return "none"
        case bool():
            if setting is Setting.UP:
                return "up" if value else "down"
            if setting is Setting.LEARNT:
                return "some" if value else "none"
            return "on" if value else "off"
        case tuple():
            return ", ".join(value) or "none"
        case int() if setting in (Setting.GROUP_FWD_MASK, Setting.SWITCH_GROUP_FWD_MASK):
            return f"0x{value:04x}"
        case int() if setting is Setting.AGEING:
            return f"{value / 1000:g}s"
        case _:
            return str(value)


def _summary(link: Link) -> str:
    """The settings a new link gets, less those that are the same for everything of ours."""
    listed = (Setting.SWITCH, Setting.MTU, Setting.MAC, Setting.AGEING, Setting.GROUP_FWD_MASK)
    parts = []
    for setting in listed:
        value = link.settings.get(setting)
        if value not in (None, MEMBERSHIP_DEFAULTS.get(setting)):
            parts.append(f"{setting.value} {spell(setting, value)}")
    return ", ".join(parts)


def _on(value: Value) -> str:
    return "on" if value else "off"


# How `ip link set dev NAME ...` spells a setting, as far as one word and one value do.
_LINK_WORDS: Mapping[Setting, str] = {
    Setting.MTU: "mtu",
    Setting.MAC: "address",
    Setting.ARP: "arp",
    Setting.PROMISCUOUS: "promisc",
    Setting.MARK: "alias",
    Setting.ADDRGENMODE: "addrgenmode",
    Setting.LINK_MODE: "mode",
}
_BRIDGE_WORDS: Mapping[Setting, str] = {
    Setting.STP: "stp_state",
    Setting.MULTICAST_SNOOPING: "mcast_snooping",
    Setting.VLAN_FILTERING: "vlan_filtering",
    Setting.AGEING: "ageing_time",
    Setting.SWITCH_GROUP_FWD_MASK: "group_fwd_mask",
    Setting.NF_CALL_IPTABLES: "nf_call_iptables",
    Setting.NF_CALL_IP6TABLES: "nf_call_ip6tables",
    Setting.NF_CALL_ARPTABLES: "nf_call_arptables",
    Setting.FDB_MAX_LEARNED: "fdb_max_learned",
}
_MEMBER_WORDS: Mapping[Setting, str] = {
    Setting.STATE: "state",
    Setting.GROUP_FWD_MASK: "group_fwd_mask",
    Setting.LEARNING: "learning",
    Setting.LEARNT: "fdb_flush",
    Setting.FLOOD: "flood",
    Setting.MULTICAST_FLOOD: "mcast_flood",
    Setting.BROADCAST_FLOOD: "bcast_flood",
    Setting.HAIRPIN: "hairpin",
    Setting.ISOLATED: "isolated",
    Setting.BPDU_GUARD: "guard",
    Setting.ROOT_BLOCK: "root_block",
    Setting.NEIGHBOUR_SUPPRESSION: "neigh_suppress",
    Setting.PROXY_ARP: "proxy_arp",
    Setting.LOCKED: "locked",
}
# BR_STATE_* in linux/if_bridge.h
_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")


def commands(plan: Plan) -> Iterator[str]:
    """The plan as shell commands of iproute2, procps and ethtool, one or more lines per operation."""
    for operation in plan.operations:
        for words in _commands(operation):
            yield shlex.join(words)


def operation_words(operation: Operation) -> str:
    """An operation in a few words, for reports."""
    match operation:
        case MakeLink(link):
            return f"make {link.kind.value}"
        case SetLink(_, setting, _, new):
            return f"{setting.value} {spell(setting, new)}"
        case RemoveLink():
            return "remove"


def _commands(operation: Operation) -> Iterator[list[str]]:
    match operation:
        case MakeLink(link) if link.kind is Kind.BRIDGE:
            at_once = [setting for setting in link.settings if setting in AT_CREATION[Kind.BRIDGE]]
            general = [word for s in at_once if s in _LINK_WORDS for word in (_LINK_WORDS[s], str(link.settings[s]))]
            special = [word for s in at_once if s in _BRIDGE_WORDS for word in _bridge_words(s, link.settings[s])]
            yield ["ip", "link", "add", "name", link.name, *general, "type", "bridge", *special]
        case MakeLink(link):
            yield ["ip", "tuntap", "add", "dev", link.name, "mode", "tap", "user", "root"]
            yield ["ip", "link", "set", "dev", link.name, "alias", str(link.settings[Setting.MARK])]
        case RemoveLink(link):
            yield ["ip", "link", "delete", "dev", link.name]
        case SetLink(link, Setting.ADDRESSES, old, _):
            # The kernel lists a subnet's secondary addresses after their primary, and deletes them with it.
            for address in reversed(old if isinstance(old, tuple) else ()):
                yield ["ip", "address", "delete", address, "dev", link.name]
        case SetLink(link, Setting.IPV6, _, new):
            yield ["sysctl", "-qw", f"net/ipv6/conf/{link.name}/disable_ipv6={int(not new)}"]
        case SetLink(link, Setting.PERSISTENT, _, _):
            yield ["ip", "tuntap", "add", "dev", link.name, "mode", "tap", "user", "root"]
        case SetLink(link, Setting.LRO, _, new):
            yield ["ethtool", "-K", link.name, "lro", _on(new)]
        case SetLink(Link(kind=Kind.BRIDGE) as link, Setting.LEARNT, _, _):
            yield ["ip", "link", "set", "dev", link.name, "type", "bridge", _MEMBER_WORDS[Setting.LEARNT]]
        case SetLink(link, setting, _, new):
            yield ["ip", "link", "set", "dev", link.name, *_set_words(setting, new)]


def _set_words(setting: Setting, new: Value) -> list[str]:
    if setting is Setting.SWITCH:
        return ["nomaster"] if new is None else ["master", str(new)]
    if setting is Setting.UP:
        return ["up" if new else "down"]
    if setting is Setting.DORMANT:
        return ["state", "dormant" if new else "up"]
    if setting in _BRIDGE_WORDS:
        return ["type", "bridge", *_bridge_words(setting, new)]
    if setting in _MEMBER_WORDS:
        return ["type", "bridge_slave", *_member_words(setting, new)]
    return [_LINK_WORDS[setting], _on(new) if isinstance(new, bool) else str(new)]


def _bridge_words(setting: Setting, value: Value) -> tuple[str, str]:
    if setting is Setting.AGEING and isinstance(value, int):
        value = value // 10  # USER_HZ, hundredths of a second
    return _BRIDGE_WORDS[setting], str(int(value)) if isinstance(value, int) else str(value)


def _member_words(setting: Setting, value: Value) -> list[str]:
    word = _MEMBER_WORDS[setting]
    if setting is Setting.LEARNT:
        return [word]
    if setting is Setting.STATE:
        return [word, str(_STATES.index(str(value)))]
    # What a member that learns no more has learnt goes with it.
    forget = [_MEMBER_WORDS[Setting.LEARNT]] if (setting, value) == (Setting.LEARNING, False) else []
    return [word, _on(value) if isinstance(value, bool) else str(value), *forget]


def as_json(sku: str, choice: Mapping[str, str], found: Difference) -> dict[str, Any]:
    """A dry run for programs; see docs/auditor.md for its shape."""
    return {
        "format": PLAN_FORMAT,
        "appliance": sku,
        "choice": dict(choice),
        "converged": not found.changes and not found.problems,
        "changes": [_change_json(change) for change in found.changes],
        "warnings": [warning.as_json() for warning in found.warnings],
    }


def _change_json(change: Change) -> dict[str, Any]:
    link = change.link
    about = {"kind": link.role.kind, "name": link.role.name} if link.role else None
    common = {"role": about, "interface": link.name}
    match change:
        case Make():
            return {"change": "make", **common, "settings": {key.value: value for key, value in link.settings.items()}}
        case Set(_, setting, old, new):
            return {"change": "set", **common, "setting": setting.value, "old": old, "new": new}
        case Remove():
            return {"change": "remove", **common}


def beside_json(one: Beside) -> dict[str, Any]:
    """A difference that is about no link, as a dry run has it for programs."""
    return {
        "change": one.change,
        "role": {"kind": one.kind, "name": one.name},
        "interface": "",
        "setting": one.about,
        "old": one.old,
        "new": one.new,
        "remedy": one.remedy,
    }
