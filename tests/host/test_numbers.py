"""Numbers that were typed from the kernel's headers, beside pyroute2's."""

from collections.abc import Mapping
from typing import Any

import pytest
from pyroute2 import netlink
from pyroute2.netlink import nfnetlink, nlmsgerr, rtnl
from pyroute2.netlink.nfnetlink import nftsocket
from pyroute2.netlink.rtnl import ifaddrmsg, ifinfmsg, rtmsg, tcmsg
from pyroute2.netlink.rtnl.ifinfmsg.plugins import tun

from reconciler.host.guard import fingerprint, messages, netfilter
from reconciler.host.netlink import rtnetlink, sockets, watch
from reconciler.host.netlink.rtnetlink import AttributePlace
from reconciler.host.surroundings import chains, traffic
from reconciler.network.state import Setting

OURS = [rtnetlink, sockets, watch, messages, fingerprint, netfilter, chains, traffic]
THEIRS = [netlink, rtnl, nfnetlink, nftsocket, ifinfmsg, ifaddrmsg, rtmsg, tcmsg, nlmsgerr, tun]
PREFIXES = (
    "AF_",
    "ARPHRD_",
    "DEVCONF_",
    "IFA_",
    "IFF_",
    "IFLA_",
    "NETLINK_",
    "NF",
    "NHA_",
    "NL",
    "RT",
    "SO_",
    "SOL_",
    "TCA_",
    "TC_H_",
)
# Numbers of the kernel that pyroute2 has no name for.
UNKNOWN = {
    "ARPHRD_ETHER",
    "DEVCONF_DISABLE_IPV6",  # see below
    "IFF_TAP",  # see below
    "NETLINK_CAP_ACK",
    "NFNETLINK_V0",
    "NFNL_MSG_BATCH_BEGIN",
    "NFNL_MSG_BATCH_END",
    "NFPROTO_UNSPEC",
    "NFTA_DEVICE_PREFIX",
    "NFTA_OBJ_DATA",
    "NFTA_OBJ_NAME",
    "NFTA_OBJ_TABLE",
    "NFTA_OBJ_TYPE",
    "NFTNL_UDATA_TABLE_COMMENT",
    "NFT_OBJECT_COUNTER",
    "NFT_SET_ANONYMOUS",  # see below
    "NF_DROP",
    "NF_QUEUE",
    "NF_STOLEN",
    "NHA_GROUP",
    "NHA_ID",
    "NHA_OIF",
    "NLA_TYPE_MASK",
    "RTA_NH_ID",
    "RTEXT_FILTER_SKIP_STATS",
    "RTM_GETNEXTHOP",
    "RTM_NEWNEXTHOP",
    "RTN_UNICAST",
    "RTPROT_KERNEL",
    "SO_RCVBUFFORCE",
    "TCA_ACT_KIND",
    "TCA_ACT_OPTIONS",
    "TCA_GACT_PARMS",
    "TCA_MIRRED_PARMS",
    "TCA_U32_SEL",
}


def _forms(of: Any, seen: set[int]) -> Any:
    """All classes of messages and attributes of a module or class, and of these."""
    for one in vars(of).values():
        if isinstance(one, type) and id(one) not in seen:
            seen.add(id(one))
            yield one
            yield from _forms(one, seen)


def known() -> dict[str, set[int]]:
    """Everything that pyroute2 has a number for, by name."""
    found: dict[str, set[int]] = {}
    seen: set[int] = set()
    for module in THEIRS:
        for name, value in vars(module).items():
            if isinstance(value, int):
                found.setdefault(name, set()).add(value)
        for form in _forms(module, seen):
            for at, entry in enumerate(getattr(form, "nla_map", ())):
                name, number = (entry[1], entry[0]) if isinstance(entry[0], int) else (entry[0], at)
                found.setdefault(name, set()).add(number)
    return found


def ours() -> dict[str, int]:
    return {
        name.lstrip("_"): value
        for module in OURS
        for name, value in vars(module).items()
        if isinstance(value, int) and name.lstrip("_").startswith(PREFIXES)
    }


def test_numbers_are_those_that_pyroute2_has() -> None:
    theirs = known()
    compared = {name: value for name, value in ours().items() if name in theirs}
    assert {name: {value} for name, value in compared.items()} == {name: theirs[name] for name in compared}
    assert ours().keys() - compared.keys() == UNKNOWN


def test_numbers_that_pyroute2_has_in_other_clothes() -> None:
    inet6 = ifinfmsg.ifinfmsg.af_spec_inet.inet6
    assert inet6.ipv6_devconf.field_names.index("disable_ipv6") == rtnetlink.DEVCONF_DISABLE_IPV6
    assert ifinfmsg.IFT_TAP == rtnetlink.IFF_TAP
    assert nftsocket.nft_set_msg.set_flags.ops.index("NFT_SET_ANONYMOUS") == fingerprint.NFT_SET_ANONYMOUS - 1


LATER = {"IFLA_BR_FDB_MAX_LEARNED"}
WIDTHS = {"uint8": rtnetlink.U8, "uint16": rtnetlink.U16, "uint32": rtnetlink.U32, "ipv6_devconf": rtnetlink.U32}


@pytest.mark.parametrize(
    ("table", "form"),
    [
        (rtnetlink.BRIDGE, ifinfmsg.ifinfmsg.ifinfo.bridge_data),
        (rtnetlink.MEMBER, ifinfmsg.protinfo_bridge),
        (rtnetlink.INET6, ifinfmsg.ifinfmsg.af_spec_inet.inet6),
    ],
    ids=["bridge", "member", "inet6"],
)
def test_settings_stand_where_pyroute2_has_them(table: Mapping[Setting, AttributePlace], form: Any) -> None:
    theirs = {name: (at, width) for at, (name, width) in enumerate(form.nla_map)}
    for name, number, width in table.values():
        if name in LATER:
            # Of a later kernel than pyroute2 knows: it stands behind all that it has.
            assert name not in theirs
            assert number >= len(form.nla_map)
            continue
        at, named = theirs[name]
        assert (at, WIDTHS[named]) == (number, width), name
