"""A process that was started with signals ignored and blocked, and what it starts in its turn."""

import subprocess
import sys

from processes import PATIENCE_S, UNKINDLY, inherited_signals

LOOK = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
SHED = "from reconciler.host.inherited import shed_inherited_signals; shed_inherited_signals()\n"


def told(program: str) -> str:
    words = [*UNKINDLY, sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stderr == ""
    return done.stdout


def test_children_have_the_defaults_and_their_end_is_told() -> None:
    program = f"import subprocess\n{SHED}subprocess.run({LOOK})\nprint(subprocess.run(['false']).returncode)\n"
    *kept, status = told(program).splitlines()
    assert (inherited_signals(kept), status) == ([set(), set()], "1")
    # Without it, neither; or this test could not fail.
    *kept, status = told(program.replace(SHED, "")).splitlines()
    assert all(inherited_signals(kept))
    assert status != "1"


def test_what_it_was_to_ignore_it_ignores_and_what_was_blocked_arrives() -> None:
    program = (
        f"import signal\n{SHED}"
        "for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1): signal.raise_signal(number)\n"
        "print('ignored', flush=True)\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print('blocked')\n"
    )
    assert told(program) == "ignored\n"


def test_where_nothing_was_inherited_nothing_changes() -> None:
    program = (
        "import signal\n"
        "now = lambda: ([signal.getsignal(one) for one in signal.valid_signals()], signal.pthread_sigmask(0, ()))\n"
        f"before = now()\n{SHED}print(before == now())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout == "True\n"
