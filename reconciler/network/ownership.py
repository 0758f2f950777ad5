"""What may be touched. Ownership comes first: whatever is refused here is not even compared.

Ours is what bears this appliance's mark. The file can grant more: a data port is ours to move while nobody else holds
it and the host does not speak over it, and with `take_over` also then. A management port is nobody's to grant.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from reconciler.appliance.declared import Appliance
from reconciler.network.bind import NOT_FOUND, Bound
from reconciler.network.default_route import default_route_interfaces, in_use
from reconciler.network.state import MEMBERSHIP_DEFAULTS, Kind, Link, Network, Role, Setting, marked_by, pinned_mac
from reconciler.warning import Severity, Warning


class Claims(NamedTuple):
    """What is left of the desired network to compare, what is ours to tidy, and what was refused."""

    desired: Network
    strangers: tuple[Link, ...]  # somebody's interfaces in a switch of ours, that are to leave it
    leftovers: tuple[Link, ...]  # marked as ours, and not desired any more
    problems: tuple[Warning, ...]


def claim(appliance: Appliance, bound: Bound, actual: Network) -> Claims:
    """Divide the world into what the appliance may change and what it must not."""
    problems: list[Warning] = []
    refused: set[str] = set()
    kept: list[Link] = []
    # A default route or an address on a switch of ours is somebody's tampering with that switch, and protects nothing.
    ours = lambda link: is_ours(appliance, link)  # noqa: E731
    own_connection = default_route_interfaces(actual, ours)
    host = _Host(bound.management, own_connection, in_use(actual, ours))
    for link in bound.desired.links:
        reason = _refusal(appliance, link, host, actual)
        if reason is None:
            kept.append(link)
        else:
            problems.append(reason)
            refused.add(link.name)
    # Nothing is moved into a switch that is not ours to fill.
    kept = [_where_it_is(link) if link.switch in refused else link for link in kept]
    desired = replace(bound.desired, links=tuple(kept))
    strangers, left = _strangers(appliance, bound, actual, own_connection)
    own = bound.management | own_connection
    warned = (_intruder(link) if link.name in own else _unknown(link) for link in left)
    # What holds somebody who must not be touched stays, too.
    kept_in = {link.switch for link in left}
    leftovers = tuple(
        link
        for link in actual.links
        if is_ours(appliance, link) and link.name not in bound.desired.by_name and link.name not in kept_in
    )
    return Claims(desired, strangers, leftovers, (*problems, *warned))


def is_ours(appliance: Appliance, link: Link) -> bool:
    """Whether a live link was made by us for this appliance.

    A bridge whose maker died before it could set the mark is known by the MAC address that it was created with.
    """
    alias = link.settings.get(Setting.MARK)
    if alias:
        return marked_by(alias) == appliance.sku and link.kind is not Kind.OTHER
    pinned = pinned_mac(appliance.sku, Role("switch", link.name))
    return link.kind is Kind.BRIDGE and link.settings.get(Setting.MAC) == pinned


class _Host(NamedTuple):
    """The interfaces that are the host's own: by the file, by a default route, by what it uses them for."""

    management: frozenset[str]
    own_connection: frozenset[str]
    in_use: Mapping[str, str]


def _refusal(appliance: Appliance, link: Link, host: _Host, actual: Network) -> Warning | None:
    live = actual.by_name.get(link.name)
    if live is None or link.role is None:
        return None
    if link.role.kind == "switch" or link.kind is Kind.TAP:
        return _refuse_maker(appliance, link, live)
    if link.name in host.management:
        return _no("management", link, "is the management port", "it is never touched: correct the match in the file")
    if _may_take_over(appliance, link.role):
        return None
    if link.name in host.own_connection:
        return _no("default-route", link, _carries(actual.unresolved), _TAKE_OVER)
    master = actual.by_name.get(live.switch) if live.switch else None
    if live.switch and (master is None or not is_ours(appliance, master)):
        return _no("foreign-switch", link, f"is in `{live.switch}`, which is not ours", _TAKE_OVER)
    if link.name in host.in_use and not live.switch and not _silenced(live):
        return _no("in-use", link, host.in_use[link.name], _TAKE_OVER)
    return None


def _silenced(live: Link) -> bool:
    """Whether a port in no switch is as we leave one: nobody else has a NIC promiscuous and without ARP for an address.

    An address that comes to such a port, as to one in a switch of ours, is somebody's tampering with a wire.
    """
    return live.settings.get(Setting.ARP) is False and live.settings.get(Setting.PROMISCUOUS) is True


def _carries(unresolved: tuple[int, ...]) -> str:
    if not unresolved:
        return "carries the default route"
    return f"may carry the default route: the kernel does not tell where nexthop {unresolved[0]} leads"


_TAKE_OVER = "free it, or give it `take_over: true` in the file"


def _refuse_maker(appliance: Appliance, link: Link, live: Link) -> Warning | None:
    """A switch or tap that exists must be ours already."""
    if live.kind is not link.kind:
        return _no("name-taken", link, f"is the name of another kind of interface ({live.kind})", "rename one of them")
    if is_ours(appliance, live):
        return None
    owner = marked_by(live.settings.get(Setting.MARK))
    whose = f"belongs to the appliance `{owner}`" if owner else "was not made by us and bears no mark of ours"
    right = (
        "rename one of them" if link.role and link.role.kind == "switch" else "remove it, or declare it as `interface`"
    )
    return _no("foreign", link, whose, right)


def _no(code: str, link: Link, what: str, right: str) -> Warning:
    return Warning(code, Severity.ERROR, str(link.role), f"refused: `{link.name}` {what}", right)


def _may_take_over(appliance: Appliance, role: Role) -> bool:
    if role.kind == "port":
        return appliance.ports[role.name].take_over
    return appliance.adapters[role.name].take_over


def _where_it_is(link: Link) -> Link:
    """The link, with nothing asked of the switch that holds it."""
    about_switch = {Setting.SWITCH, *MEMBERSHIP_DEFAULTS}
    return replace(link, settings={key: value for key, value in link.settings.items() if key not in about_switch})


def _strangers(
    appliance: Appliance, bound: Bound, actual: Network, own_connection: frozenset[str]
) -> tuple[tuple[Link, ...], tuple[Link, ...]]:
    """Members of our switches that nobody declared there: those that are to leave, and those that are left alone.

    Who is in a switch of ours is ours to say; but not at the price of the host's own connection, and not while a port
    was not found: its NIC may be there under another name, carrying the traffic.
    """
    ours = {link.name for link in actual.links if link.kind is Kind.BRIDGE and is_ours(appliance, link)}
    known = bound.desired.by_name
    found = [link for link in actual.links if link.switch in ours and link.name not in known]
    own = bound.management | own_connection
    unsure = any(problem.code in NOT_FOUND for problem in bound.problems)
    stays = {link.name for link in found if unsure or link.name in own}
    return tuple(link for link in found if link.name not in stays), tuple(link for link in found if link.name in stays)


def _unknown(link: Link) -> Warning:
    what = f"`{link.name}`, undeclared, is in our switch `{link.switch}`, and may be the port that was not found"
    right = "it is not touched: correct the port's match first"
    return Warning("stranger", Severity.ERROR, str(Role("switch", link.switch or "")), what, right)


def _intruder(link: Link) -> Warning:
    what = f"`{link.name}`, the host's own connection, is in our switch `{link.switch}`"
    right = f"it is not touched: take it out by hand (ip link set {link.name} nomaster)"
    return Warning("management", Severity.ERROR, str(Role("switch", link.switch or "")), what, right)
