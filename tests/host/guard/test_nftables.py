"""Rules as text, by libnftables in a process of its own: whole or not at all, in the right namespace, and no surprises."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from kernels import ip
from processes import PATIENCE_S
from rules import RULES, TABLE, nft

from reconciler.errors import HostError
from reconciler.host.guard import nftables
from reconciler.lab.namespaces import Namespace

MANY = 20
# In another process, for a mapping that is both writable and executable is forbidden for good: linux/prctl.h, and what
# systemd's MemoryDenyWriteExecute= amounts to.
FORBIDDING = """
import ctypes, mmap, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN; from kernel 6.3 on
    sys.exit(77)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    pass
else:
    sys.exit("it is not forbidden")
from reconciler.host.guard import nftables
nftables.run("add table netdev careful")
"""


def chains() -> set[str]:
    told = json.loads(nft("-j", "list", "table", "netdev", TABLE))["nftables"]
    return {one["chain"]["name"] for one in told if "chain" in one}


@pytest.mark.netns
@pytest.mark.usefixtures("here")
def test_what_is_run_is_what_nft_lists() -> None:
    nftables.run(RULES)
    told = nft("list", "table", "netdev", TABLE)
    nft("delete", "table", "netdev", TABLE)
    nft("-f", "-", text=RULES)
    assert nft("list", "table", "netdev", TABLE) == told
    assert "packets 7 bytes 420" in told


@pytest.mark.netns
@pytest.mark.usefixtures("table")
def test_it_is_done_whole_or_not_at_all() -> None:
    before = chains()
    bad = f"add chain netdev {TABLE} more\nadd rule netdev {TABLE} more goto nowhere\n"
    with pytest.raises(HostError, match="No such file or directory"):
        nftables.run(bad)
    assert chains() == before
    # The whole table, replaced: the same again.
    nftables.run(f"add table netdev {TABLE}\ndelete table netdev {TABLE}\n{RULES}")
    assert chains() == before


@pytest.mark.netns
@pytest.mark.usefixtures("here")
def test_a_refusal_is_told_in_one_line() -> None:
    for text, said in {
        "list table netdev nope": "nftables: No such file or directory (list table netdev nope)",
        "bogus": "nftables: syntax error, unexpected newline, expecting string (bogus)",
        "add table netdev t\nadd rule netdev t nope accept\n": "nftables: Could not process rule: No such file or directory",
    }.items():
        with pytest.raises(HostError) as raised:
            nftables.run(text)
        assert str(raised.value).startswith(said[:30])
        assert "\n" not in str(raised.value)
    assert nft("list", "tables") == ""


def test_a_missing_library_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "_LIBRARY", "libnftables.so.0-that-is-nowhere")
    with pytest.raises(HostError, match=r"^libnftables is not installed: apt-get install nftables$"):
        nftables.run("list tables")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has another program run in place of the library's."""

    def is_now(text: str) -> None:
        path = tmp_path / "program.py"
        path.write_text(text)
        monkeypatch.setattr(nftables, "_PROGRAM", path)

    return is_now


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("import sys; print('netlink.c:59: Unable to open Netlink socket', file=sys.stderr); sys.exit(1)", "Unable to"),
        ("import os; os._exit(1)", "exit status 1"),
        ("import os; os.abort()", "exit status -6"),
        ("print('{')", "exit status 0"),
    ],
)
def test_a_library_that_ends_its_process_does_not_end_ours(
    program: Callable[[str], None], then: str, said: str
) -> None:
    program(then)
    with pytest.raises(HostError, match=rf"^nftables: libnftables gave up: .*{said}"):
        nftables.run("list tables")


def test_a_library_that_hangs_is_ended(program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "_TIMEOUT_S", 0.5)
    program("import time; time.sleep(3600)")
    with pytest.raises(HostError, match="timed out"):
        nftables.run("list tables")


# In a process of its own, which is to live on when it has no descriptor left.
EXHAUSTED = """
import os, resource
from reconciler.errors import HostError
from reconciler.host.guard import nftables
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for spare in range(12):
    try:
        nftables.run("add table netdev t")
        print("set")
        break
    except HostError as error:
        print(error)
    os.close(taken.pop())
"""


@pytest.mark.netns
def test_without_free_descriptors_it_is_refused_and_nobody_dies(here: Namespace) -> None:
    child = here.spawn([sys.executable, "-c", EXHAUSTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, error = child.communicate(timeout=60)
    assert (child.returncode, error) == (0, "")
    *refused, last = output.splitlines()
    assert last == "set"
    assert refused
    assert all(line == "nftables: cannot set rules: [Errno 24] Too many open files" for line in refused)


def test_the_import_loads_no_library() -> None:
    program = 'import reconciler.host.guard.nftables; print("libnftables" in open("/proc/self/maps").read())'
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.netns
def test_it_works_where_the_thread_is(here: Namespace) -> None:
    with Namespace("elsewhere") as elsewhere:
        with elsewhere.entered():
            nftables.run("add table netdev there")
            assert nft("list", "tables") == "table netdev there\n"
        assert nft("list", "tables") == ""
        with here.entered():
            nftables.run("add table netdev back")
        assert nft("list", "tables") == "table netdev back\n"


@pytest.mark.netns
@pytest.mark.usefixtures("here")
def test_an_interface_that_was_made_again_is_not_taken_for_the_old_one() -> None:
    text = 'add table netdev t\nadd chain netdev t c\nflush chain netdev t c\nadd rule netdev t c fwd to "other"\n'
    for _ in range(3):
        ip("link", "add", "other", "type", "bridge")
        nftables.run(text)
        # By its name, and not the number of one that is gone.
        assert 'fwd to "other"' in nft("list", "table", "netdev", "t")
        ip("link", "delete", "other")
        assert 'fwd to "other"' not in nft("list", "table", "netdev", "t")


@pytest.mark.long
@pytest.mark.netns
@pytest.mark.usefixtures("here")
def test_threads_in_several_namespaces_do_not_get_in_each_others_way() -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with Namespace(f"thread {number}", ipv6=False) as own, own.entered():
                for spare in range(number):
                    ip("link", "add", f"spare{spare}", "type", "bridge")
                ip("link", "add", "mine", "type", "bridge")
                for turn in range(MANY):
                    nftables.run(
                        f'add table netdev t{turn}\nadd chain netdev t{turn} c\nadd rule netdev t{turn} c fwd to "mine"\n'
                    )
                assert nft("list", "ruleset").count('fwd to "mine"') == MANY
        except BaseException as error:  # noqa: BLE001  # it is raised below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert failures == []


@pytest.mark.netns
def test_it_needs_no_memory_that_can_be_written_and_executed(here: Namespace) -> None:
    child = here.spawn([sys.executable, "-c", FORBIDDING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, error = child.communicate(timeout=60)
    if child.returncode == 77:
        pytest.skip("this kernel cannot forbid it")
    assert (child.returncode, error, output) == (0, "", "")
    with here.entered():
        assert nft("list", "tables") == "table netdev careful\n"
