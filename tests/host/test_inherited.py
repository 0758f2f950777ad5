"""A process that was started with signals ignored and blocked, and what it starts in its turn."""

import re
import subprocess
import sys

from processes import PATIENCE_S, UNKINDLY

LOOK = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
SHED = "from reconciler.host.inherited import shed_inherited_signals; shed_inherited_signals()\n"


def told(program: str) -> str:
    words = [*UNKINDLY, sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stderr == ""
    return done.stdout


def test_children_have_the_defaults_and_their_end_is_told() -> None:
    program = f"import subprocess\n{SHED}subprocess.run({LOOK})\nprint(subprocess.run(['false']).returncode)\n"
    assert re.fullmatch(r"SigBlk:\t0{16}\nSigIgn:\t0{16}\n1\n", told(program))
    # Without it, neither; or this test could not fail.
    assert not re.search(r":\t0{16}\n|^1$", told(program.replace(SHED, "")), re.MULTILINE)


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
