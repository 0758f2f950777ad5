import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pyroute2
import pytest
from processes import PATIENCE_S, ending

import reconciler
from reconciler.lab import namespaces
from reconciler.lab.lab import wait_until
from reconciler.lab.namespaces import LabError, Namespace, set_link_up

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("lab_rights")]

IMPORT_PATHS = f"{Path(reconciler.__file__).parents[1]}:{Path(pyroute2.__file__).parents[1]}"

# What a user without any rights runs: a lab, two clients joined by a bridge, some traffic.
LAB_SCRIPT = """
import json, sys
from reconciler.lab.namespaces import LabError, become_lab_root
try:
    become_lab_root()
except LabError as error:
    sys.exit(f"{type(error).__name__}: {error}")
from reconciler.lab.lab import Lab, netlink
with Lab(2) as lab:
    def join(ipr):
        ipr.link("add", ifname="sw", kind="bridge", state="up", br_stp_state=0)
        for port in lab.ports:
            ipr.link("set", ifname=port, master=ipr.link_lookup(ifname="sw")[0])
    netlink(lab.host, join)
    with lab.flows(1000) as traffic:
        traffic.start()
        lab.wait_until(lambda: min(traffic.arrived()) > 100, 10, "traffic")
        lost = [measured.lost for measured in traffic.stop()]
    lab.kill_vm()
print(json.dumps(lost))
"""

# Holds a lab with traffic and a program in it, and a cable from its own namespace into the lab.
HOLDER_SCRIPT = """
import sys, json
from pyroute2 import IPRoute
from reconciler.lab.lab import Lab
with Lab(2) as lab, lab.flows(100) as traffic:
    traffic.start()
    with IPRoute() as ipr:
        ipr.link("add", ifname="witness", kind="veth", peer={"ifname": "cable", "net_ns_fd": lab.host.fileno()})
    children = [lab.host.spawn(["sleep", "1000"]).pid, lab.vm.spawn(["sh", "-c", "exec sleep 1000"]).pid]
    children += [flow.source._process.pid for flow in traffic.flows]
    print(json.dumps(children), flush=True)
    sys.stdin.read()
"""


def here_now() -> str:
    """Which network namespace this thread is in."""
    return str(Path("/proc/thread-self/ns/net").readlink())


def names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def script_environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": IMPORT_PATHS, "PYTHONDONTWRITEBYTECODE": "1"}


def run_script(prefix: list[str], script: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, python, "-W", "error", "-c", script],
        env=script_environment(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_entering_is_undone_also_by_an_exception() -> None:
    here = here_now()
    with Namespace("one") as one, Namespace("two") as two:
        with one.entered():
            there = here_now()
            with two.entered():
                assert len({here, there, here_now()}) == 3
            assert here_now() == there
            with pytest.raises(ZeroDivisionError), two.entered():
                raise ZeroDivisionError
            assert here_now() == there
        assert here_now() == here
    with pytest.raises(LabError, match="'one' is closed"), one.entered():
        pass
    assert one.closed
    assert here_now() == here


def test_a_new_namespace_has_a_loopback_and_nothing_else() -> None:
    with Namespace("new") as new, new.entered():
        assert names() == {"lo"}
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
        with pytest.raises(OSError, match="No such device"):
            set_link_up("nic0", up=True)


@pytest.mark.parametrize("ipv6", [True, False])
def test_ipv6_is_a_choice(ipv6: bool) -> None:
    with Namespace("new", ipv6=ipv6) as new, new.entered():
        assert ("lo" in Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii")) == ipv6


def test_spawned_programs_die_with_the_namespace_but_not_with_the_thread_that_asked() -> None:
    with Namespace("new") as new:
        children: list[subprocess.Popen[bytes]] = []
        asking = threading.Thread(target=lambda: children.append(new.spawn(["cat"], stdin=subprocess.PIPE)))
        asking.start()
        asking.join(PATIENCE_S)
        (child,) = children
        inside = str(Path(f"/proc/{child.pid}/ns/net").readlink())
        with new.entered():
            assert inside == here_now()
        # It answers, so the end of the thread that asked did not end it.
        with ending(new.spawn(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as echo:
            assert echo.communicate(b"still here", timeout=5)[0] == b"still here"
        assert child.poll() is None
    assert child.returncode == -9
    assert child.stdin is not None
    child.stdin.close()


def test_it_closes_also_after_an_interruption_inside_of_a_look_at_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ctrl-C leaves behind at a bad moment: a lock of `Popen` that nobody unlocks any more."""
    monkeypatch.setattr(namespaces, "_DEATH_S", 0.2)
    with Namespace("new") as new:
        child = new.spawn(["sleep", "1000"])
        child._waitpid_lock.acquire()
        closing = threading.Thread(target=new.close)
        closing.start()
        closing.join(PATIENCE_S)
        assert not closing.is_alive()
        child._waitpid_lock.release()
        assert child.wait(PATIENCE_S) == -9


def test_missing_programs_are_reported_at_once() -> None:
    with Namespace("new") as new, pytest.raises(FileNotFoundError, match="no-such-program"):
        new.spawn(["no-such-program"])


def test_nothing_outlives_a_killed_lab() -> None:
    with Namespace("observer") as observer:
        holder = observer.spawn(
            [sys.executable, "-c", HOLDER_SCRIPT],
            env=script_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with ending(holder):
            assert holder.stdout is not None
            children = json.loads(holder.stdout.readline())
            assert len(children) == 4
            assert all(alive(pid) for pid in children)
            with observer.entered():
                assert "witness" in names()
            holder.kill()
            wait_until(lambda: not any(alive(pid) for pid in children), 5, "the lab's programs to die")
            with observer.entered():
                wait_until(lambda: "witness" not in names(), 5, "the lab's namespaces to go")


def test_works_without_capabilities() -> None:
    # Root without capabilities is an ordinary user who happens to be able to read this interpreter. (The kernel lets
    # uid 0 be mapped only by a process that has CAP_SETFCAP.)
    done = run_script(["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", "--no-new-privs"], LAB_SCRIPT)
    if "LabUnavailableError" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stderr == ""
    assert done.stdout == "[0, 0]\n"


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_works_as_an_ordinary_user() -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    # setpriv may start an interpreter that its new user cannot start again, as the traffic sources need.
    modern = (
        "import os, sys, pyroute2, reconciler; "
        "sys.exit(sys.version_info < (3, 11) or not os.access(sys.executable, os.X_OK))"
    )
    pythons = [sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable]
    python = next((python for python in pythons if run_script(nobody, modern, python).returncode == 0), None)
    if python is None:
        pytest.skip("an ordinary user cannot read any Python here that is new enough")
    done = run_script(nobody, LAB_SCRIPT, python)
    if "LabUnavailableError" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stderr == ""
    assert done.stdout == "[0, 0]\n"


def test_refusal_says_what_to_do() -> None:
    # The limit is per user namespace: in a new one it can be zero without touching the machine's.
    forbid = ["unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh"]
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = run_script([*forbid, *drop], LAB_SCRIPT)
    if done.stderr.startswith(("unshare:", "sh:")):
        pytest.skip(done.stderr)
    assert done.returncode == 1
    assert "needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN or unprivileged user namespaces" in done.stderr
    assert "No space left on device" in done.stderr
    assert "user.max_user_namespaces is 0 (must be above 0)" in done.stderr


def test_becoming_root_is_refused_to_threads() -> None:
    script = """
import sys, threading
from reconciler.lab.namespaces import LabError, become_lab_root
go = threading.Event()
thread = threading.Thread(target=go.wait)
thread.start()
try:
    become_lab_root()
except LabError as error:
    print(error)
finally:
    go.set()
"""
    done = run_script(["setpriv", "--bounding-set=-all", "--inh-caps=-all"], script)
    assert done.stdout == "become_lab_root() must be called before the process starts threads\n"
