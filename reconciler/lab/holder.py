"""The process that holds one thread of another process still, as a bug or a driver would: SIGSTOP stops all of them.

Standard library only and no import from this package: it is started by its path with ``python -I -S``.

Conversation: it prints ``{"ready": true}`` once the thread stands still. It stands until standard input ends, or this
process does: the kernel lets go of what a dead tracer held. Where it cannot, it prints ``{"error": ...}`` and exits
with 1.
"""

import argparse
import ctypes
import json
import os
import sys

# linux/ptrace.h and linux/wait.h
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_WALL = 0x40000000
_STDIN = 0

_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, thread: int) -> None:
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_long(thread), None, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")


def main(argv: list[str] | None = None) -> int:
    """Hold the conversation that the module describes. Returns the exit status."""
    parser = argparse.ArgumentParser(description="hold one thread still")
    parser.add_argument("thread", type=int)
    options = parser.parse_args(argv)
    try:
        _ptrace(_SEIZE, options.thread)
        _ptrace(_INTERRUPT, options.thread)
        os.waitpid(options.thread, _WALL)
    except OSError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"ready": True}), flush=True)
    while os.read(_STDIN, 1):
        pass
    _ptrace(_DETACH, options.thread)
    return 0


if __name__ == "__main__":
    sys.exit(main())
