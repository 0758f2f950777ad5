"""What the kernel tells of traffic control: disciplines and filters, as far as they may take frames away. No I/O.

Numbers are those of linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h and tc_act/tc_gact.h.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from reconciler.host.netlink.rtnetlink import TCMSG, attributes, string

# An attribute with a name (IFNAMSIZ).
_KIND_BYTES = 4 + 16
TC_H_ROOT, TC_H_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
AT_INGRESS, AT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_U32_SEL = 5
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_GACT_PARMS, TCA_MIRRED_PARMS = 2, 2
# Where each kind of filter has its actions.
_ACTIONS = {"bpf": 1, "matchall": 2, "basic": 3, "flower": 3, "cgroup": 1, "fw": 4, "route": 6, "flow": 9, "u32": 7}
# struct tc_gact, tc_mirred: what is done, and in the latter to which interface.
_GACT, _MIRRED = struct.Struct("=8xi"), struct.Struct("=20xi")
_VERDICTS = {2: "drop", 4: "steal", 5: "queue", 7: "redirect", 8: "steal"}
_MIRRED_DOES = {1: "redirect", 2: "mirror", 3: "redirect", 4: "mirror"}
# Queues that send all that they are given, in some order, unless more comes than the interface can send.
_PLAIN = frozenset({"noqueue", "pfifo_fast", "pfifo", "bfifo", "fq_codel", "fq", "mq", "mqprio", "codel", "sfq"})


class Discipline(NamedTuple):
    """`hooks`: it does nothing but hold filters (clsact, ingress). Else it stands at the root of the way out."""

    interface: int
    kind: str
    handle: int
    hooks: bool


class Caught(NamedTuple):
    """Of a filter."""

    kind: str
    does: tuple[str, ...]


def discipline(data: bytes, offset: int, end: int) -> Discipline | None:
    """The discipline that an RTM_NEWQDISC message tells; None: one of those that every interface has."""
    _, index, handle, parent, _ = TCMSG.unpack_from(data, offset)
    if parent not in (TC_H_ROOT, TC_H_INGRESS):
        return None
    # The kind comes first, and is all that matters of most.
    attrs = attributes(data, offset + TCMSG.size, min(end, offset + TCMSG.size + _KIND_BYTES))
    kind = string(data, attrs[TCA_KIND]) if TCA_KIND in attrs else ""
    hooks = parent == TC_H_INGRESS
    return None if kind in _PLAIN and not hooks else Discipline(index, kind, handle, hooks)


def filter_(data: bytes, offset: int, end: int) -> Caught | None:
    """The filter that an RTM_NEWTFILTER message tells; None: it tells of a place for filters."""
    _, _, handle, _, _ = TCMSG.unpack_from(data, offset)
    attrs = attributes(data, offset + TCMSG.size, end)
    if TCA_KIND not in attrs or not handle:
        return None
    kind = string(data, attrs[TCA_KIND])
    options = attributes(data, *attrs[TCA_OPTIONS]) if TCA_OPTIONS in attrs else {}
    if kind == "u32" and TCA_U32_SEL not in options:
        return None  # its hash table
    place = _ACTIONS.get(kind)
    if place not in options:
        return Caught(kind, ())
    return Caught(kind, tuple(dict.fromkeys(_deeds(data, options[place]))))


def _deeds(data: bytes, span: tuple[int, int]) -> Iterator[str]:
    for action in attributes(data, *span).values():
        attrs = attributes(data, *action)
        if TCA_ACT_KIND not in attrs or TCA_ACT_OPTIONS not in attrs:
            continue
        options = attributes(data, *attrs[TCA_ACT_OPTIONS])
        match string(data, attrs[TCA_ACT_KIND]):
            case "gact" if _holds(options, TCA_GACT_PARMS, _GACT):
                does = _VERDICTS.get(_GACT.unpack_from(data, options[TCA_GACT_PARMS][0])[0])
            case "mirred" if _holds(options, TCA_MIRRED_PARMS, _MIRRED):
                does = _MIRRED_DOES.get(_MIRRED.unpack_from(data, options[TCA_MIRRED_PARMS][0])[0])
            case _:
                does = None
        if does:
            yield does


def _holds(options: dict[int, tuple[int, int]], number: int, layout: struct.Struct) -> bool:
    return number in options and options[number][1] - options[number][0] >= layout.size
