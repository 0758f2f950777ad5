"""A real systemd-networkd, told to configure every interface, leaves alone what the rules mark."""

import json
from pathlib import Path

import pytest
from live import TAP, live
from udev import Device, told

from reconciler.host import systemd
from reconciler.network.other_managers import udev_rules

_PLACES = (Path("/usr/lib/systemd/systemd-networkd"), Path("/lib/systemd/systemd-networkd"))
NETWORKD = next((str(path) for path in _PLACES if path.exists()), "")
pytestmark = [
    pytest.mark.netns,
    pytest.mark.long,
    pytest.mark.skipif(not NETWORKD, reason="systemd-networkd is not installed"),
    pytest.mark.skipif(not TAP, reason="networkd wants to become another user, which a user namespace does not have"),
]

ADDRESS = "198.51.100.7"
EVERYTHING = f"[Match]\nName=*\n[Network]\nAddress={ADDRESS}/24\nLinkLocalAddressing=no\nConfigureWithoutCarrier=yes\n"
# In mounts of its own: /sys shows this namespace's interfaces, and what udev knows of them and networkd's files are
# ours. It runs until the management port is configured: it takes interfaces in no order, so then for a second more.
RUN = """
mount -t sysfs none /sys
for i in /run /etc/systemd/network; do mkdir -p $i; mount -t tmpfs none $i; done
mkdir -p /run/udev
cp -r "$1"/data /run/udev/data
cp "$1"/*.network /etc/systemd/network
"$2" >"$1"/log 2>&1 &
for i in $(seq 100); do ip -4 -br address show dev mgmt0 | grep -q %s && break; sleep 0.1; done
sleep 1
kill $!
"""


@pytest.mark.parametrize("with_us", [True, False])
def test_networkd_configures_what_is_not_ours(tmp_path: Path, with_us: bool) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "50-all.network").write_text(EVERYTHING)
    if with_us:
        (tmp_path / "05-reconciler.network").write_text(systemd.networkd())
    with live(tmp_path) as host:
        host.converge()
        rules = udev_rules(host.appliance)
        for link in json.loads(host.lab.run(["ip", "-j", "link"]).stdout):
            env = told(rules, Device(link["ifname"]))
            known = ["I:1", *(f"E:{key}={value}" for key, value in env.items()), "V:1"]
            (tmp_path / "data" / f"n{link['ifindex']}").write_text("\n".join(known) + "\n")
        script = RUN % ADDRESS
        host.lab.run(["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), NETWORKD], timeout_s=30)
        found = json.loads(host.lab.run(["ip", "-4", "-j", "address"]).stdout)
        taken = {one["ifname"] for one in found if any(a.get("local") == ADDRESS for a in one["addr_info"])}
        ours = {"nic0", "nic1", "vnet0", host.inside, "sw-outside", "sw-inside", "sw-bypass"}
        assert "mgmt0" in taken, (tmp_path / "log").read_text()
        assert taken & ours == (set() if with_us else ours)
