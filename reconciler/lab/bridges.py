"""The bridges inside the VM: an inline appliance that passes everything, or less if told so."""

from collections.abc import Iterable, Mapping, Sequence

from pyroute2 import IPRoute

# The VM passes every link-local group address that Linux lets a bridge pass: all but PAUSE.
_BRIDGE_GROUP_FWD_MASK = 0xFFF8
_PORT_GROUP_FWD_MASK = 0xFFFD


def build(ipr: IPRoute, segments: Mapping[int, Sequence[int]]) -> None:
    """Join the adapters of these segments, by number; those that are joined already stay as they are."""
    for number, segment in segments.items():
        if ipr.link_lookup(ifname=f"br{number}"):
            continue
        ipr.link(
            "add",
            ifname=f"br{number}",
            kind="bridge",
            state="up",
            br_stp_state=0,
            br_mcast_snooping=0,
            br_group_fwd_mask=_BRIDGE_GROUP_FWD_MASK,
        )
        bridge = ipr.link_lookup(ifname=f"br{number}")[0]
        for index in segment:
            adapter = ipr.link_lookup(ifname=f"eth{index}")[0]
            ipr.link("set", index=adapter, master=bridge)
            ipr.brport("set", index=adapter, group_fwd_mask=_PORT_GROUP_FWD_MASK)


def remove(ipr: IPRoute, numbers: Iterable[int]) -> None:
    """Take the bridges of these segments away, where there are any; the adapters stay up."""
    for number in numbers:
        for bridge in ipr.link_lookup(ifname=f"br{number}"):
            ipr.link("del", index=bridge)


def set_forwarding(ipr: IPRoute, adapters: Iterable[int], *, forward: bool) -> None:
    """Let the bridges send out of these adapters, or nothing at all."""
    # A bridge port that does not flood, and behind which no address is known, is never sent to; what it receives
    # is still forwarded. That is how one direction can be closed without a packet filter.
    flags = dict.fromkeys(("learning", "unicast_flood", "mcast_flood", "bcast_flood"), int(forward))
    for index in adapters:
        adapter = ipr.link_lookup(ifname=f"eth{index}")[0]
        ipr.brport("set", index=adapter, **flags)
        # On its own and last, because a frame may be teaching the bridge an address at this moment.
        ipr.brport("set", index=adapter, flush=True)
