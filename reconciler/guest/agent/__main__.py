"""The program: its arguments, its signals, its end."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from reconciler.guest.agent.beats import Agent
from reconciler.guest.agent.config import ConfigError, load
from reconciler.guest.agent.readings import TYPE_CHECKING, log

if TYPE_CHECKING:
    from types import CodeType

DEFAULT_CONFIG = "/etc/reconciler-agent.conf"
IN_MEMORY = "/proc/self/fd/"  # where the program is while it runs from its bytecode


def catch_signals() -> int:
    """Return a descriptor that becomes readable when the agent is to end, so that it never ends amid something."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    # Whoever started this may have blocked them, or ignored what tells that a program has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    return readable


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="reconciler-agent", description="Tell the host how this VM's security software is."
    )
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="only validate the config")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if arguments.check:
        sys.stdout.write(f"{arguments.config}: valid, {len(config.checks)} checks\n")
        return 0
    agent = Agent(config, log)
    stopping = catch_signals()
    try:
        agent.run(stopping)
        agent.farewell()
    finally:
        agent.stop()
    return 0


def start_over_from_bytecode(code: CodeType) -> None:
    """Start this program once more, from its bytecode: what compiling it took, 2.5 MB, Python does not give back."""
    import importlib.util
    import marshal

    pyc = importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)
    fd = os.memfd_create("reconciler-agent", 0)
    if os.write(fd, pyc) == len(pyc):
        options = ["-I", *["-S"] * sys.flags.no_site]
        os.execv(sys.executable, [sys.executable, *options, f"{IN_MEMORY}{fd}", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    if __file__.startswith(IN_MEMORY):
        os.close(int(__file__[len(IN_MEMORY) :]))
    elif not __package__:  # in one file
        try:
            start_over_from_bytecode(sys._getframe().f_code)  # noqa: SLF001  # the only way to the code that runs
        except (AttributeError, ImportError, OSError):
            pass  # a Python or system without what this takes: then it takes more memory
    sys.exit(main())
