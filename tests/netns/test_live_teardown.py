"""`reconcile teardown` takes everything of ours away; the host is left with a joined wire, or with what it had before."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from guarded import Guarded, guarded

pytestmark = pytest.mark.netns

# Of an interface, what is somebody's setting, and not a count or a number that the kernel gave it.
_SETTINGS = ("ifname", "flags", "master", "promiscuity", "inet6_addr_gen_mode", "ifalias", "linkmode", "linkinfo")
_SYSCTLS = "for one in nic0 nic1 vnet0 vnet1; do cat /proc/sys/net/ipv6/conf/$one/disable_ipv6; done"


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    request.getfixturevalue("lab_root")
    with guarded(tmp_path_factory.mktemp("teardown")) as made:
        yield made


def settings(host: Guarded) -> tuple[list[dict[str, Any]], str, str]:
    """All that a user can set of the host's network, and that we do set."""
    links = json.loads(host.lab.run(["ip", "-d", "-j", "link"]).stdout)
    known = [{key: value for key, value in link.items() if key in _SETTINGS} for link in links]
    ruleset = host.lab.run(["nft", "list", "ruleset"]).stdout
    return known, ruleset, host.lab.run(["sh", "-c", _SYSCTLS]).stdout


def test_plain_leaves_what_there_was(host: Guarded) -> None:
    host.lab.run(["ip", "link", "set", "nic0", "up"])
    host.lab.run(["ip", "link", "set", "nic1", "up"])
    before = settings(host)
    host.well()
    host.end()
    assert settings(host) != before
    for _ in range(2):
        done = host.cli("teardown", "--leave", "plain", "--yes")
        assert (done.code, done.err) == (0, "")
        assert done.out.endswith("nothing of ours is left; the NICs are plain NICs, and no frame crosses this host\n")
        assert settings(host) == before


def test_bypass_leaves_a_wire_that_lives_without_us_and_loses_nothing(host: Guarded) -> None:
    host.well()
    with host.lab.flows(1_000) as flows:
        flows.start()
        host.until(lambda: min(flows.arrived()) > 100, "traffic")
        assert host.cli("hold", "bypass", "--for", "10m", "--reason", "it goes").code == 0
        host.goes_to("bypass")
        host.end()
        done = host.cli("teardown", "--yes")
        arrived = flows.arrived()
        host.until(lambda: all(now > then + 100 for now, then in zip(flows.arrived(), arrived, strict=True)), "more")
        assert [measured.lost for measured in flows.stop()] == [0, 0]
    assert (done.code, done.err) == (0, "")
    links, ruleset, _ = settings(host)
    assert ruleset == ""
    switches = [link["ifname"] for link in links if link.get("linkinfo", {}).get("info_kind") == "bridge"]
    assert switches == ["sw-bypass"]
    assert {link["ifname"]: link.get("master") for link in links if link["ifname"].startswith(("nic", "vnet"))} == {
        "nic0": "sw-bypass",
        "nic1": "sw-bypass",
        "vnet0": None,
        "vnet1": None,
    }


def test_it_is_refused_while_a_daemon_keeps_it_and_asks_where_somebody_can_be_asked(host: Guarded) -> None:
    host.well()
    before = settings(host)
    done = host.cli("teardown", "--yes")
    assert done.code == 1
    assert "a daemon keeps lab-2port, and would make it again; stop it first" in done.err
    host.end()
    done = host.cli("teardown")
    assert (done.code, "add --yes" in done.err) == (2, True)
    assert [link.get("master") for link in settings(host)[0]] == [link.get("master") for link in before[0]]


def test_what_cannot_be_taken_away_is_said(host: Guarded) -> None:
    host.well()
    host.end()
    host.lab.run(["ip", "link", "set", "nic0", "nomaster"])
    host.lab.run(["ip", "link", "add", "br9", "type", "bridge"])
    host.lab.run(["ip", "link", "set", "nic0", "master", "br9"])
    done = host.cli("teardown", "--leave", "plain", "--yes")
    assert done.code == 1
    assert "nothing of ours is left" not in done.out
    assert "`nic0` is in `br9`, which is not ours" in done.err
