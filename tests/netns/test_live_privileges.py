"""The daemon with no more capabilities than its unit leaves it: they suffice, and none can be spared."""

import grp
import json
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import TAP, Live, live
from processes import PATIENCE_S

from reconciler.host import clock, systemd

pytestmark = pytest.mark.netns

# Somebody who is not root: the user that QEMU runs as. In a user namespace there is nobody else.
STRANGER = 65534 if TAP else 0
SECOND_US = 1_000_000
GROUP = next((one.gr_name for one in grp.getgrall() if (one.gr_gid != 0) == TAP), "root")


def of_unit(key: str) -> str:
    (line,) = (line for line in systemd.service().splitlines() if line.startswith(f"{key}="))
    return line.partition("=")[2]


def capabilities() -> set[str]:
    return {word.removeprefix("CAP_").lower() for word in of_unit("CapabilityBoundingSet").split()}


LIMITS = ("prlimit", f"--rtprio={of_unit('LimitRTPRIO')}", f"--rttime={SECOND_US}")
# It takes the capability SYS_RESOURCE, which a user namespace and some containers do not have. Where it is SYS_NICE that
# is to be had, that stands in for the limit.
MAY_LIMIT = subprocess.run([*LIMITS, "true"], capture_output=True, timeout=PATIENCE_S, check=False).returncode == 0
INSTEAD = set() if MAY_LIMIT or not TAP else {"sys_nice"}


def restricted(allowed: set[str]) -> tuple[str, ...]:
    """What starts a program with these capabilities at most, and with the unit's limits, as systemd would."""
    bounding = ",".join(["-all", *(f"+{one}" for one in sorted(allowed))])
    return (
        *(LIMITS if MAY_LIMIT else ()),
        "setpriv",
        "--no-new-privs",
        "--inh-caps",
        "-all",
        "--bounding-set",
        bounding,
    )


class Guest:
    """The agent's end of the channel: beats to whoever connects."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.path = folder / "agent.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self.path.chmod(0o755)
        for path in (self.path, folder):
            os.chown(path, STRANGER, STRANGER)
        self._listener.listen()
        self._listener.settimeout(0.1)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._end.is_set():
            try:
                host, _ = self._listener.accept()
            except TimeoutError:
                continue
            with host:
                self._beat(host)

    def _beat(self, host: socket.socket) -> None:
        beat = {"v": 1, "boot": clock.boot_id(), "run": secrets.token_hex(16), "interval_ms": 50, "checks": {}}
        seq = 0
        while not self._end.wait(0.05):
            seq += 1
            try:
                host.sendall(json.dumps({**beat, "seq": seq}).encode() + b"\n")
            except OSError:
                return

    def close(self) -> None:
        self._end.set()
        self._thread.join(PATIENCE_S)
        self._listener.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Live]:
    guest = Guest(tmp_path / "guest")
    try:
        with live(tmp_path) as made:
            document = json.loads(made.file.read_text())
            agent = {"kind": "heartbeat", "socket": str(guest.path), "interval": "50ms"}
            document["health"] = {"hold_down": "100ms", "grace": "100ms", "signals": {"agent": agent}}
            made.file.write_text(json.dumps(document))
            yield made
    finally:
        guest.close()


@pytest.fixture
def guarded(host: Live) -> Live:
    document = json.loads(host.file.read_text())
    document["segments"]["edge"]["guard"] = {}
    host.file.write_text(json.dumps(document))
    return host


def daemon(host: Live, allowed: set[str]) -> "subprocess.Popen[str]":
    return host.start("run", "--group", GROUP, prefix=restricted(allowed))


def status(host: Live) -> dict:
    done = host.apart("status", "-o", "json")
    return json.loads(done.out) if done.out else {}


def until(host: Live, reached) -> dict:
    """What the daemon says; before it listens, `status` has the kernel's answer."""
    deadline = time.monotonic() + 20
    while not ((found := status(host)).get("pid") and reached(found)):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def end(program: "subprocess.Popen[str]") -> str:
    program.terminate()
    _, err = program.communicate(timeout=20)
    assert program.returncode == 0, err
    return err


def test_the_unit_leaves_it_few() -> None:
    assert capabilities() == {"net_admin", "net_raw", "dac_override", "chown"}
    assert of_unit("LimitRTTIME") == "1s"


@pytest.mark.long
def test_they_suffice_for_all_that_the_daemon_does(host: Live) -> None:
    program = daemon(host, capabilities())
    until(host, lambda found: found and found["choice"] == {"edge": "inspect"} and found["network"]["converged"])
    told = Path(f"/proc/{program.pid}/status").read_text()
    assert int(told.partition("CapEff:")[2].split()[0], 16).bit_count() == 4
    # Bridges, ports, the tap and the writes to /proc/sys: nothing differs from what is declared.
    host.is_converged()
    found = host.lab.run(["ip", "-d", "-j", "link", "show", host.inside]).stdout
    assert json.loads(found)[0]["linkinfo"]["info_kind"] == ("tun" if TAP else "veth")
    assert host.lab.run(["cat", f"/proc/sys/net/ipv6/conf/{host.inside}/disable_ipv6"]).stdout == "1\n"
    about = Path(host.environment["RECONCILER_RUN_DIR"], "live.sock").stat()
    assert about.st_mode & 0o777 == 0o660
    assert about.st_gid == grp.getgrnam(GROUP).gr_gid
    # Drift is repaired, the file is reloaded, and it ends by itself.
    host.hand("ip link set nic1 nomaster")
    until(host, lambda found: found["network"]["repaired"] > 0 and found["network"]["converged"])
    assert host.apart("reload").code == 0
    end(program)


@pytest.mark.long
def test_they_suffice_for_the_guard_and_its_prober(guarded: Live) -> None:
    program = daemon(guarded, capabilities() | INSTEAD)
    found = until(guarded, lambda found: found and found["guard"] and found["guard"]["prober"]["priority"])
    try:
        assert found["guard"]["on"]
        assert [one for one in found["warnings"] if one["severity"] == "error"] == []
        assert found["guard"]["prober"]["alive"]
        if TAP:
            assert found["guard"]["prober"]["priority"] == "fifo 10"
        told = Path(f"/proc/{found['guard']['prober']['pid']}/status").read_text()
        assert {told.partition(f"{one}:")[2].split()[0] for one in ("CapEff", "CapPrm", "CapInh")} == {"0" * 16}
        sent = until(guarded, lambda found: any(one["sent"] for one in directions(found)))
        assert [one["name"] for one in sent["guard"]["segments"]] == ["edge"]
        assert "table netdev reconciler-live" in guarded.lab.run(["nft", "list", "tables"]).stdout
    finally:
        guarded.apart("guard", "off")
        end(program)
    assert guarded.lab.run(["nft", "list", "tables"]).stdout == ""


def directions(found: dict) -> list[dict]:
    return [one for segment in found["guard"]["segments"] for one in segment["directions"]]


@pytest.mark.long
def test_without_net_raw_no_probes_are_sent_and_it_says_why(guarded: Live) -> None:
    program = daemon(guarded, capabilities() - {"net_raw"})
    try:
        until(guarded, lambda found: found and found["guard"] and found["guard"]["on"])
        guarded.apart("guard", "off")
    finally:
        err = end(program)
    assert "it takes the capability CAP_NET_RAW" in err


def test_without_net_admin_it_says_what_it_needs(host: Live) -> None:
    with daemon(host, capabilities() - {"net_admin"}) as program:
        _, err = program.communicate(timeout=20)
    assert program.returncode == 1
    assert "CAP_NET_ADMIN" in err


@pytest.mark.skipif(not TAP, reason="in a user namespace there is one user and one group")
def test_without_chown_the_control_socket_cannot_be_the_groups(host: Live) -> None:
    """Who cannot be let in is told, and the wire is kept all the same."""
    program = daemon(host, capabilities() - {"chown"})
    until(host, bool)
    assert "cannot be let in" in end(program)


@pytest.mark.skipif(not TAP, reason="in a user namespace there is one user and one group")
def test_without_dac_override_the_agents_socket_of_another_user_is_closed(host: Live) -> None:
    program = daemon(host, capabilities() - {"dac_override"})
    found = until(host, lambda found: found and found["signals"][0]["reason"] != "nothing reported yet")
    assert "Permission denied" in found["signals"][0]["reason"]
    end(program)
