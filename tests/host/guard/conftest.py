"""A namespace with two wires, and a guard's table in it."""

import os
import shutil
from collections.abc import Iterator

import pytest
from kernels import ip
from rules import RULES, TABLE, nft

from reconciler.host.guard.netfilter import Netfilter
from reconciler.lab.namespaces import Namespace, set_link_up


@pytest.fixture
def here(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """The thread is in a namespace of its own: what is sent out of `far0` enters at nic0, out of `far1` at nic1."""
    request.getfixturevalue("lab_root")
    if shutil.which("nft") is None:
        if os.environ.get("CI"):
            pytest.fail("tests of the guard must run in CI, and nft is missing: make .system-packages")
        pytest.skip("nft is missing: apt-get install nftables")
    with Namespace("guard", ipv6=False) as made, made.entered():
        for number in (0, 1):
            ip("link", "add", f"nic{number}", "type", "veth", "peer", "name", f"far{number}")
            for name in (f"nic{number}", f"far{number}"):
                set_link_up(name, up=True)
        yield made


@pytest.fixture
def table(request: pytest.FixtureRequest) -> str:
    """The table, made by nft's own program; its name."""
    request.getfixturevalue("here")
    nft("-f", "-", text=RULES)
    return TABLE


@pytest.fixture
def netfilter(request: pytest.FixtureRequest) -> Iterator[Netfilter]:
    """A socket beside the table."""
    request.getfixturevalue("table")
    with Netfilter() as opened:
        yield opened
