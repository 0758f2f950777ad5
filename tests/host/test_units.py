"""The files for systemd: that they say what the daemon needs, and that systemd understands them."""

import configparser
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from commandline import run

from reconciler.cli import unit as cli_unit
from reconciler.cli.main import cli
from reconciler.host import ioctl, systemd
from reconciler.host.guard import prober
from reconciler.host.netlink import execution
from reconciler.host.places import DEFAULT_FILE

ROOT = Path(__file__).parent.parent.parent
ANALYZE = shutil.which("systemd-analyze")
# As docs/auditor.md tells it.
EXPOSURE = 3.9
EXPOSURE_OF_GUARD = 2.5
PRINTED = {"service": systemd.service, "guard": systemd.guard}
NAMES = {"service": "reconciler.service", "guard": "reconciler-guard.service"}


def settings(text: str) -> list[tuple[str, str]]:
    """All lines ``Key=value``, in order: a key may come more than once."""
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "["))]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def setting(text: str, key: str) -> list[str]:
    return [value for found, value in settings(text) if found == key]


@pytest.fixture(autouse=True, scope="module")
def _hooked_up() -> None:
    for command in cli_unit.COMMANDS:
        cli.add_command(command)


@pytest.mark.parametrize("what", NAMES)
def test_each_unit_is_printed_with_its_place_in_the_first_line(what: str) -> None:
    done = run("unit", "--print", what)
    assert (done.code, done.err) == (0, "")
    assert done.out == PRINTED[what]()
    assert done.out.startswith(f"# /etc/systemd/system/{NAMES[what]}, made by `reconcile unit --print {what}`")


def test_the_file_for_networkd_is_printed_with_its_place_in_the_first_line() -> None:
    assert run("unit", "--print", "networkd").out.startswith("# /etc/systemd/network/05-reconciler.network")


def test_the_rules_are_printed_for_the_file() -> None:
    done = run("unit", "--print", "networkmanager", "-f", str(ROOT / "topologies/pcengines-apu2.yaml"))
    assert done.out == (ROOT / "tests/network/other-managers/pcengines-apu2.rules").read_text(encoding="utf-8")
    assert (done.code, done.err) == (0, "")


def test_ports_that_are_counted_are_found_in_a_captured_state(tmp_path: Path) -> None:
    file = tmp_path / "appliance.yaml"
    text = (ROOT / "examples/vendor-ci/appliance.yaml").read_text(encoding="utf-8")
    file.write_text(text.replace('pci: "0000:02:00.0"', "driver: igb, index: 1"))
    state = ROOT / "examples/vendor-ci/state.json"
    done = run("unit", "--print", "networkmanager", "-f", str(file), "--against", str(state))
    assert (done.code, done.err) == (0, "")
    assert 'KERNELS=="0000:02:00.0", ATTR{address}=="00:0d:b9:00:00:02"' in done.out


def test_where_the_program_lies_can_be_said() -> None:
    done = run("unit", "--print", "service", "--program", "/opt/reconciler/bin/reconcile")
    assert setting(done.out, "ExecStart") == ["/opt/reconciler/bin/reconcile run"]
    assert setting(done.out, "ExecReload") == ["/opt/reconciler/bin/reconcile reload"]
    guard = run("unit", "--print", "guard", "--program", "/opt/reconciler/bin/reconcile")
    assert setting(guard.out, "ExecStart") == ["/opt/reconciler/bin/reconcile guard on --boot"]
    for program in ("reconcile", "/a b", "/a%i", "/a\nExecStartPre=/evil", "/$A"):
        for what in NAMES:
            refused = run("unit", "--print", what, "--program", program)
            assert (refused.code, refused.out) == (2, "")


def test_nothing_is_set_twice_but_what_adds_up() -> None:
    keys = [key for key, _ in settings(systemd.service())]
    twice = {key for key in keys if keys.count(key) > 1}
    assert twice == {"Before", "SystemCallFilter"}


@pytest.mark.parametrize("what", NAMES)
def test_it_may_reach_what_the_program_writes_beside_its_own_folders(what: str) -> None:
    text = PRINTED[what]()
    assert setting(text, "ReadWritePaths") == [f"-{execution._IPV6}"]
    assert setting(text, "DeviceAllow") == [f"{ioctl._TUN} rw"]
    assert setting(text, "ConditionPathExists") == [str(DEFAULT_FILE)]
    for key in ("StateDirectory", "RuntimeDirectory"):
        assert setting(text, key) == ["reconciler"]


def test_every_kind_of_socket_in_the_program_is_allowed() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("host", "daemon", "health", "network")
        for path in (ROOT / "reconciler" / folder).rglob("*.py")
    )
    (allowed,) = setting(systemd.service(), "RestrictAddressFamilies")
    assert set(re.findall(r"socket\.(AF_[A-Z0-9]+)", source)) <= {*allowed.split()}


def test_the_networkd_file_matches_what_the_rules_set() -> None:
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(systemd.networkd())
    key, _, value = parser["Match"]["Property"].partition("=")
    assert f'ENV{{{key}}}="{value}"' in (ROOT / "tests/network/other-managers/lab.rules").read_text(encoding="utf-8")
    assert dict(parser["Link"]) == {"Unmanaged": "yes"}


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_understands_every_line(tmp_path: Path, what: str) -> None:
    unit = tmp_path / NAMES[what]
    # Neither the program nor udev need be installed where the tests run.
    text = PRINTED[what]("/bin/sh").replace("/usr/bin/udevadm", "/bin/sh")
    unit.write_text(text, encoding="utf-8")
    done = analyze("verify", "--man=no", str(unit))
    about = [line for line in (done.stdout + done.stderr).splitlines() if "reconciler" in line]
    assert about == []


@pytest.mark.parametrize(("what", "exposure"), [("service", EXPOSURE), ("guard", EXPOSURE_OF_GUARD)])
@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_it_is_as_little_exposed_as_the_docs_say(tmp_path: Path, what: str, exposure: float) -> None:
    unit = tmp_path / NAMES[what]
    unit.write_text(PRINTED[what](), encoding="utf-8")
    done = analyze("security", "--offline=true", "--no-pager", f"--threshold={exposure * 10 + 1:.0f}", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    # Other releases weigh a little differently.
    assert float(found[1]) <= exposure + 0.3
    assert f"{exposure}" in (ROOT / "docs/auditor.md").read_text(encoding="utf-8")


def analyze(*words: str) -> "subprocess.CompletedProcess[str]":
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *words], capture_output=True, text=True, timeout=60, check=False)


def test_the_daemon_is_started_before_whoever_would_configure_its_ports() -> None:
    before = [*itertools.chain.from_iterable(one.split() for one in setting(systemd.service(), "Before"))]
    assert {"network-pre.target", "libvirtd.service", "virtqemud.service"} == {*before}
    assert setting(systemd.service(), "Wants") == ["network-pre.target"]
    assert setting(systemd.service(), "After") == []


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_the_prober_may_become_real_time_and_give_up_its_capabilities_and_that_is_all() -> None:
    text = systemd.service()
    extra = {"sched_setscheduler", "capset", "adjtimex"}
    assert calls(text) & (group("@resources") | group("@privileged")) == extra | group("@chown")
    assert not calls(systemd.guard()) & (group("@resources") | group("@privileged"))
    # As real-time as it asks to be, by a limit and not by a capability that would allow more.
    assert setting(text, "LimitRTPRIO") == [str(prober._PRIORITY)]
    assert setting(text, "RestrictRealtime") == []
    assert "SYS_NICE" not in setting(text, "CapabilityBoundingSet")[0]
    # It lowers this limit of its own, which is above.
    assert prober._RUNAWAY_US <= 1_000_000
    assert setting(text, "LimitRTTIME") == ["1s"]
    # And it outlives the daemon.
    assert setting(text, "KillMode") == ["process"]


def group(name: str) -> set[str]:
    """The system calls of one of systemd's groups."""
    lines = [line.strip() for line in analyze("syscall-filter", "--no-pager", name).stdout.splitlines()[1:]]
    words = {line for line in lines if line and not line.startswith("#")}
    return words.union(*(group(word) for word in words if word.startswith("@")))


def calls(text: str) -> set[str]:
    """The system calls that a unit allows: its first filter is a list of those, the others add and take away."""
    allowed = group("@default")
    for value in setting(text, "SystemCallFilter"):
        for word in value.removeprefix("~").split():
            words = group(word) if word.startswith("@") else {word}
            allowed = allowed - words if value.startswith("~") else allowed | words
    return allowed


def test_the_guard_is_set_before_the_daemon_and_after_whoever_flushes_all_rules() -> None:
    text = systemd.guard()
    before, after = (
        {*itertools.chain.from_iterable(one.split() for one in setting(text, key))} for key in ("Before", "After")
    )
    assert before == {"network-pre.target", "reconciler.service", "shutdown.target"}
    assert after == {
        "local-fs.target",
        "nftables.service",
        "systemd-udevd.service",
        "systemd-udev-trigger.service",
    }
    assert setting(text, "Wants") == ["network-pre.target"]
    assert setting(text, "DefaultDependencies") == ["no"]
    # Early, but never in the way of the boot.
    assert setting(text, "ExecStartPre") == ["-/usr/bin/udevadm settle --timeout=10"]
    assert setting(text, "TimeoutStartSec") == ["45s"]


def test_the_end_of_the_guards_unit_takes_nothing_away() -> None:
    text = systemd.guard()
    assert setting(text, "RemainAfterExit") == ["yes"]
    assert not [key for key, _ in settings(text) if key.startswith("ExecStop")]
    # The folder with the daemon's socket, and what it must know to take the guard over.
    assert setting(text, "RuntimeDirectoryPreserve") == ["yes"]


def test_the_guards_unit_ties_its_hands_as_the_daemons_does_and_tighter() -> None:
    ours, daemons = (dict(settings(text)) for text in (systemd.guard(), systemd.service()))
    wider = {"CapabilityBoundingSet", "RestrictAddressFamilies", "SystemCallFilter", "RestrictRealtime"}
    ties = ("Protect", "Restrict", "SystemCall", "Capability", "Device", "ReadOnly", "NoNew", "Lock", "Memory", "UMask")
    assert {key for key in daemons if key.startswith(ties)} <= ours.keys()
    assert not [key for key in daemons if key.startswith(ties) and key not in wider and ours[key] != daemons[key]]
    for key in ("CapabilityBoundingSet", "RestrictAddressFamilies"):
        assert {*ours[key].split()} < {*daemons[key].split()}
