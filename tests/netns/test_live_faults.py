"""Faults on a live host: kills, interrupts, two at once, no privileges. One more run always converges."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import PYTHON, Live, live
from processes import ending

from reconciler.host.lock import lock
from reconciler.host.netlink import connection, execution
from reconciler.network.cycle import audit, reconcile
from reconciler.network.desired import choice_of
from reconciler.network.plan import Plan, plan

pytestmark = pytest.mark.netns


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    request.getfixturevalue("lab_root")
    with live(tmp_path_factory.mktemp("faults")) as made:
        made.converge()
        yield made


TAMPER = (
    "ip link delete sw-inside; ip link set nic0 mtu 1400; ip link add old type bridge;"
    "ip link set old alias reconciler:live:switch:old; ip link set nic1 master old"
)


@pytest.mark.long
def test_every_prefix_of_a_plan_followed_by_a_run_converges(lasting: Live) -> None:
    of = lasting.appliance
    for tamper, topology in (("ip link delete sw-outside", "inspect"), ("true", "bypass"), (TAMPER, "inspect")):
        choice = choice_of(of, topology)
        length = 1
        reached = 0
        while reached < length:
            lasting.converge("-t", "inspect")
            lasting.hand(tamper)
            with lasting.kernel() as kernel:
                found = audit(kernel, of, choice)
                todo = plan(found)
                length = len(todo.operations)
                assert length > 0
                kernel.execute(Plan(todo.operations[:reached], todo.needs[:reached]), found.actual)
                report = reconcile(kernel, of, choice)
            assert report.converged, (reached, report.after.changes)
            reached += 1
    lasting.converge()


KILLER = """
import os, signal, sys
from reconciler.host import ioctl
from reconciler.host.netlink import connection
left = int(sys.argv.pop(1))
def counted(function):
    def inner(*args, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **more)
    return inner
connection.Connection.send = counted(connection.Connection.send)
ioctl.make_tap = counted(ioctl.make_tap)
from reconciler.cli.main import main
main()
"""


@pytest.mark.long
def test_a_process_killed_before_any_of_its_system_calls_is_repaired_by_the_next(host: Live) -> None:
    """kill -9 at each point where something is about to change, until a process gets through."""
    for calls in range(40):
        host.hand("for i in sw-outside sw-inside sw-bypass ips-in; do ip link delete $i 2>/dev/null || true; done")
        done = host.lab.run(
            [PYTHON, "-c", KILLER, str(calls), *host.words()],
            env={**os.environ, **host.environment},
            check=False,
            timeout_s=60,
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        host.converge()
        host.is_converged()
    assert calls >= 3


@pytest.mark.parametrize("seed", range(10))
def test_a_process_killed_at_any_moment_is_repaired_by_the_next(lasting: Live, seed: int) -> None:
    chance = random.Random(seed)
    topology = chance.choice(["inspect", "bypass"])
    lasting.hand(TAMPER if topology == "inspect" else "ip link delete sw-outside")
    program = lasting.start("-t", topology)
    try:
        program.wait(chance.uniform(0.05, 0.6))
    except subprocess.TimeoutExpired:
        program.kill()
    program.communicate(timeout=30)
    assert program.returncode in (0, -signal.SIGKILL)
    lasting.converge("-t", topology)
    lasting.is_converged("-t", topology)
    lasting.converge()


def test_ctrl_c_in_the_middle_finishes_what_is_under_way_reports_and_exits_1(
    host: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = execution.Execution._carry_out

    def interrupted(self: execution.Execution, positions: list[int]) -> None:
        carried(self, positions)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(execution.Execution, "_carry_out", interrupted)
    done = host.here("-o", "json")
    report = json.loads(done.out)
    assert done.code == 1
    assert report["interrupted"] is True
    assert report["converged"] is False
    states = [one["status"] for one in report["operations"]]
    assert states[0] == "done"
    assert states[-1] == "skipped"
    assert sorted(states) == states, "what was done comes first"
    assert report["remaining"]
    # As text it says the same.
    done = host.here()
    assert done.code == 1
    assert "interrupted: " in done.out
    assert "came after an interruption" in done.err
    monkeypatch.undo()
    host.converge()
    host.is_converged()


def test_a_real_sigint_and_sigterm_end_it_in_order(lasting: Live) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        lasting.hand("ip link delete sw-outside")
        # Wherever it comes, at the import of a module or in the middle of a plan, it ends the process in order.
        with ending(lasting.start("-o", "json")) as program:
            program.send_signal(number)
            _, err = program.communicate(timeout=60)
        assert "Traceback" not in err
        assert program.returncode in (0, 1, -signal.SIGTERM, -signal.SIGINT)
        lasting.converge()
        lasting.is_converged()


def test_the_second_of_two_waits_and_says_for_whom(lasting: Live) -> None:
    lasting.hand("ip link set nic0 mtu 1400")
    folder = Path(lasting.environment["RECONCILER_RUN_DIR"])
    with lock(folder, "live", 0, lambda _: None):
        at_once = lasting.apart("--wait", "0")
        assert at_once.code == 1
        assert f"another process is reconciling live: pid {os.getpid()} (" in at_once.err
        with ending(lasting.start("--wait", "60")) as program:
            assert program.stderr is not None
            told = program.stderr.readline()
            assert f"waiting for another process that is reconciling live: pid {os.getpid()} (" in told
            assert program.poll() is None
            # A dry run waits for nobody.
            assert lasting.drift()
            _release(folder)
            out, _ = program.communicate(timeout=60)
    assert program.returncode == 0, out
    lasting.is_converged()


def _release(folder: Path) -> None:
    """Let go of the lock that this process holds, wherever it is open."""
    wanted = (folder / "live.lock").stat()
    for descriptor in map(int, (path.name for path in Path("/proc/self/fd").iterdir())):
        try:
            found = os.fstat(descriptor)
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def test_two_at_once_both_end_well(lasting: Live) -> None:
    lasting.hand("ip link delete sw-outside; ip link delete sw-inside; ip link delete sw-bypass")
    programs = [lasting.start("--wait", "60") for _ in range(2)]
    for program in programs:
        out, err = program.communicate(timeout=60)
        assert program.returncode == 0, out + err
    lasting.is_converged()


def test_a_full_batch_of_refusals_is_told_one_by_one(lasting: Live) -> None:
    """The kernel's answers to the largest batch fit the buffer of a socket without privileges."""
    import errno
    import socket

    from reconciler.host.netlink import sockets
    from reconciler.host.netlink.changes import encode
    from reconciler.host.netlink.rtnetlink import numbered
    from reconciler.network.plan import SetLink
    from reconciler.network.state import Kind, Link, Setting

    with lasting.lab.host.entered():
        opened = connection.Connection()
    opened._socket.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, 106_496
    )  # the default, 212,992, as the kernel counts
    operation = SetLink(Link("lo", Kind.OTHER, {}), Setting.MTU, None, 1)
    messages = encode(operation, {"lo": 2**30}) * sockets.CHANGES_AT_ONCE
    refused = opened.send(numbered(messages), "change links")
    opened.close()
    assert sorted(refused) == list(range(sockets.CHANGES_AT_ONCE))
    assert {one.errno for one in refused.values()} == {errno.ENODEV}


# --- without privileges ----------------------------------------------------------------------------------------------


def _nobody() -> tuple[str, ...]:
    """A user without any right over networks.

    As root of the machine: nobody, who may read files (this checkout may lie in a home folder) and nothing else. As
    root of a user namespace there is no other user: then root without capabilities.
    """
    with open("/proc/self/uid_map", encoding="ascii") as file:
        mapped = int(file.read().split()[2])
    if os.geteuid() == 0 and mapped > 65534:
        reader = ("--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search")
        return ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *reader, "--")
    return ("setpriv", "--inh-caps", "-all", "--bounding-set", "-all", "--")


def _without_rights(host: Live, *words: str) -> tuple[int, str, str]:
    done = host.apart(*words, prefix=_nobody())
    return done.code, done.out, done.err


def test_nobody_is_nobody(lasting: Live) -> None:
    script = "import sys; print(next(line for line in open('/proc/self/status') if line.startswith('CapEff')))"
    done = lasting.lab.run([*_nobody(), sys.executable, "-c", script])
    assert int(done.stdout.split()[1], 16) & ~(1 << 2) == 0, "no capability but perhaps to read files"


@pytest.mark.long
def test_without_privileges_one_can_look_but_not_apply(lasting: Live, tmp_path: Path) -> None:
    lasting.is_converged()
    lasting.environment |= {"RECONCILER_STATE_DIR": "/nonexistent/state", "HOME": "/nonexistent"}
    try:
        lasting.hand("ip link set nic0 mtu 1400")
        code, out, err = _without_rights(lasting, "--dry-run")
        assert code == 3
        assert len(err.splitlines()) == 1
        assert err.startswith("note: whether rules of nftables stand in the way could not be seen")
        assert "1400" in out
        assert _without_rights(lasting, "validate")[0] == 0
        for command in ("observe", "discover"):
            words = [*_nobody(), *_program(command)]
            with ending(lasting.lab.host.spawn(words, stdout=subprocess.PIPE, text=True)) as program:
                out, _ = program.communicate(timeout=60)
            assert program.returncode == 0
            assert "nic0" in out if command == "observe" else out.startswith("# yaml-language-server")
        before = lasting.dump("nic0", "sw-outside")
        code, out, err = _without_rights(lasting)
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert "CAP_NET_ADMIN" in err
        assert lasting.dump("nic0", "sw-outside") == before
    finally:
        lasting.environment["RECONCILER_STATE_DIR"] = str(tmp_path / "state")
        del lasting.environment["HOME"]
        lasting.converge()


def _program(command: str) -> list[str]:
    return [sys.executable, "-m", "reconciler", command]


def test_what_nobody_observes_is_what_root_observes_but_for_the_rules_of_nftables(lasting: Live) -> None:
    def look(prefix: tuple[str, ...]) -> tuple[dict[str, object], object]:
        words = [*prefix, *_program("observe")]
        with ending(lasting.lab.host.spawn(words, stdout=subprocess.PIPE, text=True)) as program:
            out, _ = program.communicate(timeout=60)
        seen = json.loads(out)
        del seen["time"]
        return seen, seen["surroundings"].pop("chains")

    (seen, unseen), (all_of_it, chains) = look(_nobody()), look(())
    assert seen == all_of_it
    assert (unseen, chains) == (None, [])
