"""The events of the log: a contract with whoever filters or counts its lines (docs/formats.md).

A name, once given, means the same for ever. Another meaning is another event.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Level = Literal["info", "warning", "error", "critical"]

EventName = Literal[
    "bug",
    "calm",
    "cleared",
    "conflict",
    "control",
    "decision",
    "failed",
    "guard",
    "inspected",
    "ledger",
    "library",
    "lost",
    "memory",
    "obstacle",
    "path",
    "prober",
    "problem",
    "read",
    "refused",
    "reload",
    "repaired",
    "restart",
    "solved",
    "source",
    "start",
    "stop",
    "switched",
    "tripped",
    "unread",
]


class Logged(NamedTuple):
    """What a line of an event says, and the names of the data that it may bear beside its text."""

    meaning: str
    data: tuple[str, ...] = ()


EVENTS: Mapping[EventName, Logged] = {
    "start": Logged("the daemon has begun: what it found and what it wants", ("found",)),
    "stop": Logged("the daemon ends: what it leaves behind"),
    "reload": Logged("the file was read again, or was not taken over", ("warning",)),
    "decision": Logged("what was decided, and the readings that led to it", ("segment", "what", "why", "times")),
    "switched": Logged("the network was switched to other topologies", ("changes", "failed")),
    "repaired": Logged("what somebody had changed was put back", ("changes", "failed")),
    "failed": Logged("an operation was refused, or the daemon could not begin", ("warning",)),
    "problem": Logged("something cannot or must not be made as declared", ("warning",)),
    "solved": Logged("a problem is none any more", ("warning",)),
    "obstacle": Logged("something takes frames off their way, or may", ("warning",)),
    "cleared": Logged("it does not any more", ("warning",)),
    "conflict": Logged("somebody keeps changing something back", ("interface", "about", "suspects", "warning")),
    "refused": Logged("something is refused again and again", ("interface", "about", "warning")),
    "calm": Logged("nobody changes it back any more", ("interface", "about")),
    "unread": Logged("the network cannot be read", ("warning",)),
    "read": Logged("the network can be read again"),
    "tripped": Logged("the guard was first: a lease ran out", ("segment",)),
    "inspected": Logged(
        "inspected again, and what went past the VM, or was cut",
        ("segment", "frames", "bytes", "cut_frames", "cut_bytes"),
    ),
    "guard": Logged("the guard was set, put back, taken away, or is in trouble", ("warning",)),
    "path": Logged(
        "frames go another way now, or nowhere: warning where they pass the VM by, critical where they are cut",
        ("segment", "path", "before", "by", "evidence"),
    ),
    "prober": Logged("the process that sends the probes: trouble, or another one", ("warning",)),
    "restart": Logged("the VM could not be restarted", ("warning",)),
    "source": Logged("what gathers a signal is in trouble", ("signal", "where", "warning")),
    "memory": Logged("what a restart of the daemon would know cannot be kept, or can be again", ("warning",)),
    "ledger": Logged(
        "the ledger cannot be written, or can be again; or its file is not as it was written", ("warning",)
    ),
    "control": Logged("whoever shall be let in to ask and steer cannot be", ("warning",)),
    "library": Logged("a library complains", ("warning",)),
    "lost": Logged("lines are missing here: the reader of the log stalled", ("lines", "warning")),
    "bug": Logged("an internal error: please report it", ("where", "warning")),
}
