"""What we ourselves do to the VM, so that our own destroy is not taken for an operator's."""

from dataclasses import dataclass


@dataclass(slots=True)
class OwnActions:
    """Shared by the driver, which writes it, and the signals, which read it; both live on one loop.

    `acting`: a restart is under way. `destroyed`: the VM is down because we destroyed it; holds until it is seen
    running, however long that takes. A process that was killed in between is told so by its successor's policy.
    """

    acting: bool = False
    destroyed: bool = False
