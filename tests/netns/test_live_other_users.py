"""What any local user can do to a host that keeps an appliance: nothing of ours can be opened, locked, held or spoken to."""

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guarded import Guarded, guarded
from live import TAP, live

from reconciler.host import ioctl

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0 or not TAP, reason="only root can become somebody else"),
]

NOBODY = 65_534


def of_nobody(work: Callable[[], object]) -> int:
    """The error with which the kernel refuses `work` to another user; 0 if it does not."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def hold(path: Path) -> Callable[[], object]:
    """Lock what lies there, or connect to it. (Whether one may is looked at before what kind of socket it is.)"""

    def work() -> None:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as channel:
                channel.connect(str(path))
        else:
            fcntl.flock(os.open(path, os.O_RDONLY | os.O_NONBLOCK), fcntl.LOCK_EX | fcntl.LOCK_NB)

    return work


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Guarded]:
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    with guarded(tmp_path) as made:
        made.start()
        made.inspects()
        yield made


def test_no_file_of_a_running_daemon_can_be_locked_and_no_socket_spoken_to(kept: Guarded) -> None:
    run, state = (Path(kept.folders[f"RECONCILER_{name}_DIR"]) for name in ("RUN", "STATE"))
    kept.ask("hold", topology="bypass", reason="so that there is something to remember", seconds=100)
    kept.until(lambda: any(state.glob("*.memory.json")), "the memory")
    found = [path for folder in (run, state) for path in folder.rglob("*") if not path.is_dir()]
    names = {path.name.removeprefix(kept.sku) for path in found}
    assert {".lock", ".sock", ".prober", ".prober.lock", ".guard.json", ".memory.json", ".ledger.jsonl"} <= names
    # These may be read, and no more: none of ours locks them, so that a lock holds up nobody.
    read = {
        path for path in found if path.parent.name == "proven" or path.name.endswith((".ledger.mark", ".ledger.alive"))
    }
    assert {path for path in read if of_nobody(lambda path=path: path.open("r+b").close()) != errno.EACCES} == set()
    refused = {path: of_nobody(hold(path)) for path in found if path not in read}
    # What is written beside a file, and takes its place, may be gone by now.
    assert {path for path, error in refused.items() if error not in (errno.EACCES, errno.ENOENT)} == set()
    # The way there is open, or this would say nothing.
    assert of_nobody(lambda: list(run.iterdir())) == 0


def test_another_user_cannot_take_the_place_of_the_vm_at_a_tap_of_ours(tmp_path: Path) -> None:
    """`/dev/net/tun` is for everybody on most systems, and a tap without an owner for whoever opens that."""
    with live(tmp_path) as host:
        host.converge()
        host.hand("ip tuntap add dev anybodys mode tap")

        def refused(name: str) -> int:
            with host.lab.host.entered():
                tun = os.open(ioctl._TUN, os.O_RDWR | os.O_CLOEXEC)
                try:
                    request = ioctl._ifreq(name, ioctl._IFF_TAP | ioctl._IFF_NO_PI)
                    return of_nobody(lambda: fcntl.ioctl(tun, ioctl._TUNSETIFF, request))
                finally:
                    os.close(tun)

        # Newer kernels may refuse this one, too.
        assert refused("anybodys") in (0, errno.EPERM)
        assert refused(host.inside) == errno.EPERM
        # And root's VM still can.
        with host.lab.host.entered():
            ioctl.persist_tap(host.inside)
