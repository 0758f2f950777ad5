"""What a check says: a state, and the reason for it."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False  # typing itself costs memory, too
if TYPE_CHECKING:
    from collections.abc import Callable

    Reading = tuple[str, str]  # state, reason
    Probe = Callable[[float], Reading]  # takes its deadline on the monotonic clock; may raise OSError or CannotRun
    Log = Callable[[str], None]

HEALTHY, DEGRADED, FAILED = "healthy", "degraded", "failed"


class CannotRun(Exception):  # noqa: N818  # what fails is not what is checked
    """The system denies what it takes to run a check: processes, threads, memory, descriptors."""


def printable(text: str, limit: int) -> str:
    """Return printable ASCII of at most `limit` characters."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if " " <= c <= "~" else " " if c.isspace() else "?" for c in text[:1000])
    return text if len(text) <= limit else text[: max(0, limit - 3)] + "..."[:limit]


def log(text: str) -> None:
    """Write a line to stderr, unless that would block: nobody's failure to read it may stop the heartbeat."""
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    if poller.poll(0):
        try:
            os.write(2, f"reconciler-agent: {printable(text, 500)}\n".encode("ascii"))
        except OSError:
            pass


def next_due(due: float, period_s: float, now: float) -> float:
    """Return the next moment of an absolute schedule. Moments that were missed are left out, not made up for."""
    return due + period_s * (1 + (now - due) // period_s)
