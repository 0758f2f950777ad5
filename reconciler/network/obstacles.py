"""What stands in the way: what may take frames off the path that switches and adapters make, and is not ours to change.

    a port ─▶ XDP ─▶ tc ingress ─▶ rules at ingress, the guard's first ─▶ VLANs ─▶ the switch: its stations, the rules
           of the bridge family ─▶ rules at egress ─▶ tc egress and queues ─▶ an adapter

All of it may be there, and every setting as declared. Who drops or diverts frames by what it says is an error; who may
do so, and does not tell, is a warning.
"""

from collections.abc import Iterable, Iterator, Mapping

from reconciler.network.state import Link, Network, Role, Setting, marked_by
from reconciler.network.surroundings import CUTS, EGRESS, INGRESS, QUEUE, Chain, Filter, Station, Surroundings, Upper
from reconciler.warning import Severity, Warning

_REPAIR = "have it repaired: reconcile"
_XDP_WORDS = {"driver": "xdpdrv", "generic": "xdpgeneric", "hardware": "xdpoffload", "several": "xdp"}


def obstacles(desired: Network, actual: Network) -> Iterator[Warning]:
    """All that stands in the way of frames on `actual`. `desired`: bound to live interfaces, as in a difference."""
    ours = {link.name: link for link in desired.links if link.name in actual.by_name and link.role}
    for name, link in ours.items():
        yield from _of_link(link, actual.by_name[name])
    around = actual.surroundings or Surroundings()
    for station in dict.fromkeys((*actual.stations, *around.stations)):
        if station.interface in ours:
            yield _fixed(ours[station.interface], station)
    for filter_ in around.filters:
        if filter_.interface in ours:
            yield _filters(ours[filter_.interface], filter_)
    for upper in around.uppers:
        if upper.lower in ours:
            yield _stacked(ours[upper.lower], upper)
    yield from _rules(ours, around.chains or (), frozenset(actual.bridge_netfilter))
    if actual.bridge_netfilter:
        off = " ".join(f"net.bridge.{name}=0" for name in actual.bridge_netfilter)
        what = "br_netfilter is on: the host's firewall sees bridged frames, and may drop them"
        yield Warning("bridge-netfilter", Severity.WARNING, "", what, f"turn it off: sysctl -w {off}")
    if around.chains is None:
        what = "whether rules of nftables stand in the way could not be seen"
        yield Warning("rules-unseen", Severity.NOTE, "", what, "it takes CAP_NET_ADMIN: look again as root")


def _of_link(link: Link, live: Link) -> Iterator[Warning]:
    about, nic = _about(link), live.nic
    if nic and nic.xdp:
        what = f"an XDP program ({nic.xdp}) at `{link.name}` sees frames before the guard does, and may take them"
        off = f"if it is not yours: ip link set dev {link.name} {_XDP_WORDS.get(nic.xdp, 'xdp')} off"
        yield Warning("xdp", Severity.WARNING, about, what, off)
    is_port, up = link.role and link.role.kind == "port", live.settings.get(Setting.UP) is True
    if is_port and up and not (nic and nic.carrier):
        what = f"`{live.name}` has no carrier: nothing enters or leaves there"
        yield Warning("port-no-carrier", Severity.WARNING, about, what, "look at its cable, and beyond")
    waits, state = live.settings.get(Setting.DORMANT), live.settings.get(Setting.STATE, "forwarding")
    if nic and nic.carrier and link.switch is not None and link.switch == live.switch:
        if waits:
            what = f"`{link.name}` has a carrier and is dormant: its switch neither takes nor sends frames there"
            yield Warning(
                "not-forwarding", Severity.ERROR, about, what, "reconcile, or: ip link set mode default state up"
            )
        elif state != "forwarding":
            what = f"`{link.name}` has a carrier, and its switch does not forward there: it is {state}"
            yield Warning("not-forwarding", Severity.ERROR, about, what, _REPAIR)


def _fixed(link: Link, station: Station) -> Warning:
    whose = f"`{link.name}` ({station.how}): frames to it that come from there go nowhere"
    if station.how == "permanent":
        whose = "the host itself: no frame to it goes on"
    where = "self" if link.role and link.role.kind == "switch" else "master"
    away = f"take it away: bridge fdb delete {station.mac} dev {link.name} {where}"
    return Warning("station-fixed", Severity.ERROR, _about(link), f"{station.mac} is fixed to {whose}", away)


def _filters(link: Link, found: Filter) -> Warning:
    name, about = link.name, _about(link)
    if found.hook == QUEUE:
        what = (
            f"what leaves by `{name}` waits in a queue ({found.kind}) of traffic control, which may drop or divert it"
        )
        away = f"tc qdisc delete dev {name} root"
    elif found.kind in ("clsact", "ingress"):
        what = f"traffic control has a place for filters at `{name}` ({found.kind}), which may drop or divert frames"
        away = f"tc qdisc delete dev {name} {found.kind}"
    else:
        does = f": {_deeds(found.does)}" if found.does else ", which may drop or divert frames"
        what = f"a filter of traffic control ({found.kind}) stands at the {found.hook} of `{name}`{does}"
        away = f"tc filter delete dev {name} {found.hook}"
    return Warning("traffic-control", _severity(found.does), about, what, f"if it is not yours: {away}")


def _stacked(link: Link, upper: Upper) -> Warning:
    name = upper.interface
    if link.role and link.role.kind == "switch":
        what = f"`{name}` ({upper.kind}) runs over it: the host can be seen from the wire there"
        severity = Severity.WARNING
    elif upper.kind == "vlan":
        what = f"`{name}` (vlan) runs over `{link.name}`, and takes that VLAN's frames before the switch sees them"
        severity = Severity.ERROR
    else:
        what = f"`{name}` ({upper.kind}) runs over `{link.name}`, which no switch can take while it does"
        severity = Severity.ERROR
    return Warning("stacked", severity, _about(link), what, f"take it away: ip link delete {name}")


def _rules(ours: Mapping[str, Link], chains: Iterable[Chain], firewall: frozenset[str]) -> Iterator[Warning]:
    own = {marked_by(link.settings.get(Setting.MARK)) for link in ours.values()} - {None}
    for chain in chains:
        if chain.guard and chain.guard in own:
            continue
        where = f"{chain.name} of table {chain.family} {chain.table}"
        look = f"if it is not yours: nft delete table {chain.family} {chain.table}"
        if chain.family == "bridge":
            what = f"rules ({chain.hook}) see every frame that crosses a switch{_does(chain)}: chain {where}"
            yield Warning("rules", _severity(chain.does), "", what, look)
        elif chain.hook in (INGRESS, EGRESS) or chain.interfaces:
            for name in _hung(chain, ours):
                whose = f", of the guard of the appliance `{chain.guard}`" if chain.guard else ""
                what = f"rules stand at the {chain.hook} of `{name}`{_does(chain)}: chain {where}{whose}"
                yield Warning("rules", _severity(chain.does), _about(ours[name]), what, look)
        elif firewall:
            what = f"br_netfilter hands frames to the host's firewall{_does(chain)}: chain {where}"
            off = " ".join(f"net.bridge.{name}=0" for name in sorted(firewall))
            yield Warning("rules", _severity(chain.does), "", what, f"turn it off: sysctl -w {off}")


def _hung(chain: Chain, ours: Mapping[str, Link]) -> list[str]:
    """The interfaces of ours that a chain hangs at."""
    exact = [name for name in chain.interfaces if name in ours]
    many = tuple(name[:-1] for name in chain.interfaces if name.endswith("*"))
    return exact + [name for name in ours if many and name.startswith(many) and name not in exact]


def _does(chain: Chain) -> str:
    return f", and some of its table {_deeds(chain.does)}" if chain.does else ", and may drop or divert them"


def _deeds(does: tuple[str, ...]) -> str:
    return " and ".join(does) + " frames"


def _severity(does: tuple[str, ...]) -> Severity:
    return Severity.ERROR if CUTS & set(does) else Severity.WARNING


def _about(link: Link) -> str:
    return str(link.role or Role("interface", link.name))
