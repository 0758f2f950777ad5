"""The networks that an appliance leaves behind when it is taken away: a joined wire, or plain NICs.

Everything of ours that these do not ask for is a leftover, and goes by the same plan as any other.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from reconciler.appliance.declared import BYPASS, Appliance
from reconciler.network.desired import choice_of, desired
from reconciler.network.state import Kind, Network, Setting, Value

# What we have changed of a NIC, as the kernel gives it a new one (ether_setup() in net/ethernet/eth.c, and the default
# of addrconf in net/ipv6/addrconf.c). MTU, and whether frames are joined while they are received, stay: nobody noted
# what they were.
_PLAIN: Mapping[Setting, Value] = {
    Setting.PROMISCUOUS: False,
    Setting.ARP: True,
    Setting.ADDRGENMODE: "eui64",
    Setting.IPV6: True,
}


def joined(appliance: Appliance) -> Network:
    """Each wire joined as in bypass, and nothing else: no way through a VM that is going, too."""
    wanted = desired(appliance, choice_of(appliance, BYPASS))
    ports = [link for link in wanted.links if link.role and link.role.kind == "port"]
    holders = {link.switch for link in ports}
    return replace(wanted, links=tuple(link for link in wanted.links if link in ports or link.name in holders))


def freed(appliance: Appliance, settings: Mapping[Setting, Value] = MappingProxyType({})) -> Network:
    """Every port, and every adapter of somebody else's, out of our switches, with these `settings`."""
    wanted = desired(appliance, choice_of(appliance, BYPASS))
    links = [link for link in wanted.links if link.role and link.role.kind != "switch" and link.kind is Kind.OTHER]
    asked = {Setting.SWITCH: None, **settings}
    return replace(wanted, links=tuple(replace(link, settings=asked, required=False) for link in links))


def plain(appliance: Appliance) -> Network:
    """As `freed`, and as the kernel makes a NIC. For links that are free already: none of them speaks on a wire."""
    return freed(appliance, _PLAIN)
