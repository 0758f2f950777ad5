"""What a process inherits of its parent's signals, and should not hand on.

A shell has what it starts in the background ignore SIGINT; `nohup` has it ignore SIGHUP; a supervisor may block
signals, or ignore SIGCHLD. All of that outlives `exec`: a child that was to be ended by a signal is not, and of one
that failed `subprocess` says that it ended with 0, since the kernel kept no status of it.
"""

import signal

# Python itself ignores them, and `subprocess` gives them back to what it starts.
_PYTHONS_OWN = {signal.SIGPIPE, signal.SIGXFSZ}


def shed_inherited_signals() -> None:
    """Give whatever this process starts the signals' defaults, and this process the signals that were kept from it.

    What it was to ignore it goes on ignoring, by a handler that does nothing: handlers end with `exec`. To be called by
    the main thread, before there are others: they inherit what is blocked.

    """
    for number in signal.valid_signals() - _PYTHONS_OWN:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number is signal.SIGCHLD else _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _ignore(*_: object) -> None:
    """Nothing."""
