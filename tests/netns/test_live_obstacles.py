"""What stands in the way on a live host is told by whoever is asked, and when it comes and goes."""

import contextlib
import ctypes
import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import has_tun
from live import Live, live
from test_live_daemon import Keeping, keeping

from reconciler.exit_status import of_paths
from reconciler.host.netlink import rtnetlink

pytestmark = pytest.mark.netns

# What a hand does, what undoes it, and what is told of it: code, severity, about.
HANDS = {
    "bridge forward drop": (
        "nft 'add table bridge t; add chain bridge t f { type filter hook forward priority 0; policy drop; }'",
        "nft delete table bridge t",
        [("rules", "error", "")],
    ),
    "bridge prerouting, a rule that drops some": (
        """nft 'add table bridge t; add chain bridge t f { type filter hook prerouting priority 0; };
        add rule bridge t f ether type 0x88b7 drop'""",
        "nft delete table bridge t",
        [("rules", "error", "")],
    ),
    "egress of a port": (
        "nft 'add table netdev t; add chain netdev t e { type filter hook egress device nic1 priority 0; }'",
        "nft delete table netdev t",
        [("rules", "warning", "port inside")],
    ),
    "ingress of an adapter, by inet": (
        "nft 'add table inet t; add chain inet t i { type filter hook ingress device vnet0 priority 0; policy drop; }'",
        "nft delete table inet t",
        [("rules", "error", "adapter outside")],
    ),
    "a program at a port that drops": (
        "tc qdisc add dev nic0 clsact; tc filter add dev nic0 ingress bpf da bytecode '1,6 0 0 2,'",
        "tc qdisc delete dev nic0 clsact",
        [("traffic-control", "warning", "port outside")],
    ),
    "a redirect": (
        """tc qdisc add dev nic0 ingress
        tc filter add dev nic0 ingress u32 match u32 0 0 action mirred egress redirect dev nic1""",
        "tc qdisc delete dev nic0 ingress",
        [("traffic-control", "error", "port outside")],
    ),
    "a place for filters at a switch": (
        "tc qdisc add dev sw-inside clsact",
        "tc qdisc delete dev sw-inside clsact",
        [("traffic-control", "warning", "switch sw-inside")],
    ),
    "a narrow queue": (
        "tc qdisc add dev vnet0 root tbf rate 1kbit burst 1540 limit 1540",
        "tc qdisc delete dev vnet0 root",
        [("traffic-control", "warning", "adapter outside")],
    ),
    "a station fixed to a port": (
        "bridge fdb replace 02:aa:00:00:00:07 dev nic0 master static",
        "bridge fdb delete 02:aa:00:00:00:07 dev nic0 master",
        [("station-fixed", "error", "port outside")],
    ),
    "a station taught by a program": (
        "bridge fdb add 02:aa:00:00:00:07 dev vnet0 master extern_learn",
        "bridge fdb delete 02:aa:00:00:00:07 dev vnet0 master",
        [("station-fixed", "error", "adapter outside")],
    ),
    "a station that the host is": (
        "bridge fdb add 02:aa:00:00:00:07 dev sw-outside self",
        "bridge fdb delete 02:aa:00:00:00:07 dev sw-outside self",
        [("station-fixed", "error", "switch sw-outside")],
    ),
    "a macvlan on a switch": (
        "ip link add mv0 link sw-outside type macvlan",
        "ip link delete mv0",
        [("stacked", "warning", "switch sw-outside")],
    ),
}


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    request.getfixturevalue("lab_root")
    with live(tmp_path_factory.mktemp("obstacles")) as made:
        made.converge()
        yield made


def told(host: Live, *more: str) -> list[tuple[str, str, str]]:
    """The warnings of a dry run, which finds nothing to change."""
    plan = json.loads(host.here("--dry-run", "-o", "json", *more).out)
    assert plan["changes"] == []
    return [(one["code"], one["severity"], one["about"]) for one in plan["warnings"]]


@pytest.mark.parametrize("name", HANDS)
def test_a_dry_run_tells_what_stands_in_the_way(host: Live, name: str) -> None:
    does, undoes, expected = HANDS[name]
    assert told(host) == []
    host.hand(does)
    try:
        assert told(host) == expected
        text, commands = host.here("--dry-run"), host.here("--dry-run", "-o", "commands")
        recorded = host.file.with_name("state.json")
        recorded.write_text(host.here_alone("observe").out)
        assert told(host, "--against", str(recorded)) == expected
        code, severity, _ = expected[0]
        assert severity in text.err, (code, text)
        assert commands.out.startswith("# ")
        assert all(line.startswith("# ") for line in commands.out.splitlines())
    finally:
        host.hand(undoes)
    assert told(host) == []


@contextlib.contextmanager
def xdp(name: str) -> Iterator[None]:
    """A program at an interface that lets everything pass (linux/bpf.h: r0 = XDP_PASS; exit)."""
    code = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)
    held = [ctypes.create_string_buffer(one) for one in (code, b"GPL\0")]
    order = struct.pack("=IIQQIIQII16sI", 6, 2, *map(ctypes.addressof, held), 0, 0, 0, 0, 0, b"", 0)
    number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
    load, size = 5, len(order)
    loaded = ctypes.CDLL(None, use_errno=True).syscall(number, load, ctypes.create_string_buffer(order), size)
    assert loaded >= 0, os.strerror(ctypes.get_errno())
    try:
        _attach(name, loaded)
        yield
    finally:
        _attach(name, -1)
        os.close(loaded)


def _attach(name: str, program: int) -> None:
    generic, attached = 2, rtnetlink.attribute(1, struct.pack("=i", program))
    nest = rtnetlink.attribute(rtnetlink.IFLA_XDP, attached + rtnetlink.attribute(3, struct.pack("=I", generic)))
    body = rtnetlink.IFINFO.pack(0, 0, socket.if_nametoindex(name), 0, 0) + nest
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asking:
        acknowledge = 0x4
        asking.send(rtnetlink.message(rtnetlink.RTM_SETLINK, acknowledge, body))
        assert struct.unpack_from("=i", asking.recv(4096), 16) == (0,)


@pytest.mark.skipif(not has_tun(), reason="programs of this kind are for root of the machine only")
def test_an_xdp_program_is_told_with_the_words_that_take_it_away(host: Live) -> None:
    with host.lab.host.entered(), xdp("nic1"):
        assert told(host) == [("xdp", "warning", "port inside")]
        assert "ip link set dev nic1 xdpgeneric off" in host.here("--dry-run").err
    assert told(host) == []


def test_rules_that_may_not_be_read_are_a_note(host: Live) -> None:
    """A dry run needs no privilege; what it cannot see without one, it says."""
    done = host.apart("--dry-run", "-o", "json", prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))
    plan = json.loads(done.out)
    assert [one["code"] for one in plan["warnings"]] == ["rules-unseen"]
    assert [one["severity"] for one in plan["warnings"]] == ["note"]
    assert done.code == of_paths(one["path"] for one in plan["paths"])


def test_the_daemon_tells_of_it_when_it_comes_and_when_it_goes(lab_root: None, tmp_path: Path) -> None:
    del lab_root
    with keeping(tmp_path) as kept:
        kept.start()
        kept.until(lambda: kept.is_on("inspect"), "the VM on the wire")
        for name in ("bridge forward drop", "a redirect", "a station fixed to a port"):
            does, undoes, [(code, severity, _)] = HANDS[name]
            kept.hand(does)
            follows(kept, "obstacle", (severity, code), name)
            kept.hand(undoes)
            follows(kept, "cleared", ("info", code), name)
        assert len(logged(kept, "obstacle")) == len(logged(kept, "cleared")) == 3


def follows(kept: Keeping, event: str, expected: tuple[str, str], what: str) -> None:
    kept.until(lambda: logged(kept, event)[-1:] == [expected], f"{what}: {event} in the log")


def logged(kept: Keeping, event: str) -> list[tuple[str, str]]:
    return [(one["level"], one["warning"]["code"]) for one in kept.told(event)]
