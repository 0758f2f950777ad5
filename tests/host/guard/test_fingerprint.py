"""A table's fingerprint on a live kernel: traffic and time leave it as it is, and no tampering does."""

import re

import pytest
from rules import CHAIN, GRANTED, LEASE, RULES, SOON_S, TABLE, TOKEN, frame, nft, probe, send

from reconciler.host.guard.messages import LEASE_KEY, add, batch
from reconciler.host.guard.netfilter import Netfilter
from reconciler.lab.lab import wait_until

OTHER = 'table netdev other { chain c { type filter hook ingress device "nic0" priority 0; policy accept; }; }\n'


@pytest.mark.netns
def test_traffic_elements_and_time_leave_the_fingerprint_as_it_is(netfilter: Netfilter) -> None:
    first = netfilter.fingerprint(TABLE)
    assert first is not None
    netfilter.send(batch([add(TABLE, LEASE, LEASE_KEY, 50), add(TABLE, GRANTED, TOKEN)]))
    assert netfilter.fingerprint(TABLE) == first
    wait_until(lambda: not netfilter.elements(TABLE, LEASE), SOON_S, "the lease to expire")
    assert netfilter.fingerprint(TABLE) == first
    probe()
    wait_until(lambda: bool(netfilter.elements(TABLE, LEASE)), SOON_S, "the probe to renew the lease")
    assert netfilter.fingerprint(TABLE) == first
    nft("add", "element", "netdev", TABLE, "edge/lease/outside", "{ ether timeout 10m }")
    send("far0", *[frame(b"\2\0\0\0\0\x55", b"\2\0\0\0\0\x66")] * 3)
    wait_until(lambda: "counter packets 3 " in nft("list", "table", "netdev", TABLE), SOON_S, "the rule to count")
    assert netfilter.fingerprint(TABLE) == first
    nft("reset", "counters")
    nft("-f", "-", text=OTHER)
    assert netfilter.fingerprint(TABLE) == first
    nft("-f", "-", text=f"delete table netdev {TABLE}\n{RULES}")
    assert netfilter.fingerprint(TABLE) == first


TAMPERINGS = {
    "rule added": f"add rule {CHAIN} accept",
    "rule inserted": f"insert rule {CHAIN} accept",
    "rule deleted": f"delete rule {CHAIN} handle HANDLE",
    "rule replaced": f"replace rule {CHAIN} handle HANDLE accept",
    "rule commented": f'replace rule {CHAIN} handle HANDLE ether daddr {{ 02:00:00:00:00:01, 02:00:00:00:00:02 }} drop comment "x"',
    "another address": f"replace rule {CHAIN} handle HANDLE ether daddr {{ 02:00:00:00:00:01, 02:00:00:00:00:03 }} drop",
    "rule in a chain that is jumped to": f"insert rule netdev {TABLE} edge/probe/inside drop",
    "chain emptied": f"flush chain {CHAIN}",
    "chain added": f"add chain netdev {TABLE} more",
    "chain deleted": f"flush chain netdev {TABLE} unused; delete chain netdev {TABLE} unused",
    "chain renamed": f"rename chain netdev {TABLE} unused other",
    "base chain inserted": f'add chain netdev {TABLE} more {{ type filter hook ingress device "nic0" priority -510; }}',
    "base chain on another device": (
        f"flush chain {CHAIN}; delete chain {CHAIN}; "
        f'add chain {CHAIN} {{ type filter hook ingress device "far0" priority -500; }}'
    ),
    "policy": f"chain {CHAIN} {{ policy drop; }}",
    "dormant": f"table netdev {TABLE} {{ flags dormant; }}",
    "set added": f"add set netdev {TABLE} more {{ type ether_addr; }}",
    "set deleted": f"delete set netdev {TABLE} spare",
    "set of another size": f"delete set netdev {TABLE} spare; add set netdev {TABLE} spare {{ type ether_addr; size 9; }}",
    "set with a timeout": f"delete set netdev {TABLE} spare; add set netdev {TABLE} spare {{ type ether_addr; timeout 9s; }}",
    "counter added": f"add counter netdev {TABLE} more",
    "quota added": f"add quota netdev {TABLE} more {{ 10 bytes; }}",
}


@pytest.mark.netns
@pytest.mark.parametrize("command", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_every_tampering_changes_the_fingerprint(netfilter: Netfilter, command: str) -> None:
    first = netfilter.fingerprint(TABLE)
    listed = nft("-a", "list", "chain", "netdev", TABLE, "edge/port/outside")
    handle = re.search(r"drop # handle (\d+)", listed)
    assert handle
    nft("-f", "-", text=command.replace("HANDLE", handle[1]))
    changed = netfilter.fingerprint(TABLE)
    assert changed not in (None, first)


@pytest.mark.netns
def test_the_elements_of_a_rules_own_set_are_part_of_the_rule(netfilter: Netfilter) -> None:
    """Two transactions that give the new set the old one's name."""
    first = netfilter.fingerprint(TABLE)
    vmap = "ether saddr vmap {{ 02:00:00:00:00:10 : {0}, 02:00:00:00:00:11 : drop }}"
    chain = f"netdev {TABLE} edge/adapter/inside"
    rest = f'add rule {chain} counter name "edge/port/inside" drop'
    prints = set()
    for verdict in ("goto edge/probe/inside", "accept", "drop"):
        nft("flush", "chain", *chain.split())
        nft("-f", "-", text=f"add rule {chain} {vmap.format(verdict)}\n{rest}\n")
        prints.add(netfilter.fingerprint(TABLE))
    assert len(prints) == 3
    assert first in prints


OTHERS = {
    "comment": ("reconciler:lab+x:guard", "reconciler:lab:guard"),
    "device": ('device "nic1"', 'device "far1"'),
    "priority": ("priority -500", "priority -499"),
    "hook": ("hook ingress", "hook egress"),
    "flags of a set": ("size 4; flags dynamic,timeout;", "size 4; flags timeout,dynamic; gc-interval 9s;"),
    "key of a set": ("type ether_addr", "type ipv4_addr"),
    "target of a rule": ('fwd to "nic1"', 'fwd to "nic0"'),
    "name of a counter": ("edge/port/inside", "edge/port/else"),
}


@pytest.mark.netns
@pytest.mark.parametrize(("old", "new"), OTHERS.values(), ids=OTHERS.keys())
def test_a_table_made_from_another_text_is_another(netfilter: Netfilter, old: str, new: str) -> None:
    first = netfilter.fingerprint(TABLE)
    assert old in RULES
    nft("-f", "-", text=f"delete table netdev {TABLE}\n{RULES.replace(old, new)}")
    assert netfilter.fingerprint(TABLE) not in (None, first)


@pytest.mark.netns
def test_what_counters_begin_with_is_no_part_of_it(netfilter: Netfilter) -> None:
    first = netfilter.fingerprint(TABLE)
    nft("-f", "-", text=f"delete table netdev {TABLE}\n{RULES.replace('packets 7', 'packets 8')}")
    assert netfilter.fingerprint(TABLE) == first
    nft("delete", "table", "netdev", TABLE)
    assert netfilter.fingerprint(TABLE) is None
