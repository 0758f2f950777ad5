"""pyroute2 as the encoder: when it is imported, and how much of it."""

import json
import subprocess
import sys
from typing import Any

import pytest
from processes import PATIENCE_S

from reconciler.host.netlink import encoder, rtnetlink

LINK = "encoder.link(16, 0, [('IFLA_MTU', 1500)])"
ELEMENTS = "encoder.elements(2572, 0, [('NFTA_SET_ELEM_LIST_TABLE', 't')], 5)"


def after(*statements: str) -> dict[str, Any]:
    """What a fresh process says after these statements."""
    tell = "print(json.dumps({'modules': [one for one in sys.modules if one.startswith('pyroute2')], 'told': told}))"
    lines = ["import json, sys", "from reconciler.host.netlink import encoder", "told = None", *statements, tell]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_nothing_of_pyroute2_is_imported_before_something_is_encoded() -> None:
    assert after("import reconciler.host.netlink.kernel, reconciler.host.guard.table")["modules"] == []


def test_messages_of_links_import_a_few_modules_and_no_socket() -> None:
    modules = set(after(LINK)["modules"])
    assert {"pyroute2.netlink", "pyroute2.netlink.rtnl.ifinfmsg"} <= modules
    assert not modules & {"pyroute2", "pyroute2.netlink.nlsocket", "pyroute2.ndb", "pyroute2.iproute"}
    assert len(modules) < 40


def test_messages_of_sets_import_their_socket_and_no_more() -> None:
    modules = set(after(ELEMENTS)["modules"])
    assert "pyroute2.netlink.nfnetlink.nftsocket" in modules
    assert not modules & {"pyroute2", "pyroute2.ndb", "pyroute2.iproute"}
    assert len(modules) < 60


def test_loading_leaves_nothing_to_be_imported_later() -> None:
    told = after(
        "encoder.load()", "before = set(sys.modules)", LINK, ELEMENTS, "told = list(set(sys.modules) - before)"
    )
    assert told["told"] == []


@pytest.mark.parametrize("first", ["", "import pyroute2"])
def test_pyroute2_can_be_imported_whole_beside_it(first: str) -> None:
    told = after(
        first,
        f"ours = {LINK}",
        ELEMENTS,
        "from pyroute2 import IPRoute, NDB, netns",
        "import pyroute2",
        "from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg",
        f"told = [pyroute2.IPRoute is IPRoute, isinstance(encoder._rtnetlink()[0](), ifinfmsg), ours == {LINK}]",
    )
    assert told["told"] == [True, True, True]
    assert "pyroute2.iproute" in told["modules"]


def test_a_nest_may_be_empty_and_every_message_is_a_request() -> None:
    message = encoder.link(rtnetlink.RTM_NEWLINK, rtnetlink.NLM_F_CREATE, [("IFLA_LINKINFO", encoder.nest())])
    ((kind, flags, sequence, begin, end),) = rtnetlink.messages(message)
    assert (kind, flags, sequence) == (rtnetlink.RTM_NEWLINK, rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_REQUEST, 0)
    assert rtnetlink.attributes(message, begin + 16, end) == {rtnetlink.IFLA_LINKINFO: (36, 36)}
