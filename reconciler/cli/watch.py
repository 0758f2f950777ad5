"""`reconcile status --watch`: the same lines again and again, in place on a terminal, below each other elsewhere."""

import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence

from reconciler.console import Said, rendered, say, show

# Twice a second at most, however quickly the daemon answers.
_PAUSE_S = 0.5
# Of a terminal: home; away with the rest of a line, of the screen, with all; the cursor hidden, and shown again.
_HOME, _LINE, _BELOW, _ALL = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"


def watch(look: Callable[[], Sequence[Said]]) -> None:
    """Show what `look` returns until Ctrl-C."""
    on_terminal = sys.stdout.isatty()
    try:
        if on_terminal:
            _write(_HIDE + _ALL)
        last: list[str] = []
        while True:
            began_s = time.monotonic()
            found = look()
            if on_terminal:
                _redraw(found)
            else:
                last = _append(found, last)
            time.sleep(max(_PAUSE_S - (time.monotonic() - began_s), _PAUSE_S / 2))
    except KeyboardInterrupt:
        pass
    finally:
        if on_terminal:
            _write(_SHOW)


def _redraw(found: Sequence[Said]) -> None:
    """In one piece and over what was there, so that nothing flickers; what the screen has no room for is counted."""
    room = shutil.get_terminal_size().lines - 1
    lines = [line for one in found for line in one.text.split("\n")]
    if len(lines) > room:
        lines = [*lines[: room - 1], f"… {len(lines) - room + 1} more lines"]
    _write(_HOME + "".join(f"{rendered(line, sys.stdout)}{_LINE}\n" for line in lines) + _BELOW)


def _append(found: Sequence[Said], last: list[str]) -> list[str]:
    """Only what is new: ages pass by themselves."""
    now = [re.sub(r"[0-9]+", "", line.text) for line in found]
    if now != last:
        if last:
            say()
        show(found)
        sys.stdout.flush()
    return now


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
