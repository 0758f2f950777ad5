"""What changes the kernel, as bytes: pyroute2 knows the attributes, their numbers, nests and widths.

It is not imported before something is encoded (a dry run encodes nothing), and then without most of itself. Whoever
imports any part of a package runs the package's `__init__`, and pyroute2's imports all it has: 260 modules, 15 MB, and
more time than a whole dry run takes. The messages of rtnetlink need 40 of these modules, and 1.5 MB. So its `__init__`
waits while they are imported; afterwards the package is as if nobody had asked for it, and can be imported whole.
"""

import functools
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reconciler.host.netlink.rtnetlink import NLM_F_REQUEST

Attributes = Sequence[tuple[str, Any]]
"""Names of attributes as pyroute2 and the kernel have them, and their values; the value of a nest is made by `nest`."""


def nest(*attributes: tuple[str, Any]) -> dict[str, Any]:
    """The value of an attribute that holds others."""
    return {"attrs": list(attributes)}


def link(kind: int, flags: int, attributes: Attributes = (), *, ifi_flags: int = 0, ifi_change: int = 0) -> bytes:
    """A message about the link of index 0, with the fields of struct ifinfomsg."""
    return _encoded(_rtnetlink()[0], kind, flags, attributes, {"flags": ifi_flags, "change": ifi_change})


def address(kind: int, flags: int, attributes: Attributes, *, family: int, prefixlen: int) -> bytes:
    """A message about an address on the link of index 0, with the fields of struct ifaddrmsg."""
    return _encoded(_rtnetlink()[1], kind, flags, attributes, {"family": family, "prefixlen": prefixlen})


def elements(kind: int, flags: int, attributes: Attributes, family: int) -> bytes:
    """A message about elements of a set, in a table of this family (NFPROTO_*)."""
    return _encoded(_nftables()[0], kind, flags, attributes, {"nfgen_family": family})


def table(kind: int, flags: int, attributes: Attributes, family: int) -> bytes:
    """A message about a table of this family (NFPROTO_*)."""
    return _encoded(_nftables()[2], kind, flags, attributes, {"nfgen_family": family})


def mark(kind: int, subsystem: int) -> bytes:
    """The beginning or the end of a batch for a subsystem of nfnetlink."""
    return _encoded(_nftables()[1], kind, 0, (), {"res_id": subsystem})


def load() -> None:
    """Import now what would be imported by the first message."""
    _rtnetlink()
    _nftables()


def _encoded(form: Any, kind: int, flags: int, attributes: Attributes, fields: dict[str, int]) -> bytes:
    message = form()
    message.setvalue({**fields, "attrs": list(attributes)})
    message["header"] = {"type": kind, "flags": flags | NLM_F_REQUEST}
    message.encode()
    return bytes(message.data)


@functools.cache
def _rtnetlink() -> tuple[Any, Any]:
    with _in_parts("pyroute2"):
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    return ifinfmsg, ifaddrmsg


@functools.cache
def _nftables() -> tuple[Any, Any, Any]:
    with _in_parts("pyroute2"):
        from pyroute2.netlink.nfnetlink import nfgen_msg
        from pyroute2.netlink.nfnetlink.nftsocket import nft_set_elem_list_msg, nft_table_msg
    return nft_set_elem_list_msg, nfgen_msg, nft_table_msg


@contextmanager
def _in_parts(package: str) -> Iterator[None]:
    """Parts of a package can be imported, and its `__init__` is not run."""
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None:
        yield
        return
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[package]
