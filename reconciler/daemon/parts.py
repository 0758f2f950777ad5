"""What of a host the daemon works with: here its kernel, its links, and the guard on it."""

from dataclasses import dataclass
from typing import Any

from reconciler.appliance.declared import Appliance
from reconciler.daemon.guard import Background
from reconciler.daemon.journal import Journal
from reconciler.daemon.kernel_guard import KernelGuard
from reconciler.host.blocking import Saver
from reconciler.host.netlink import encoder
from reconciler.host.netlink.kernel import Kernel
from reconciler.host.netlink.watch import Watch
from reconciler.host.path_notes import noted, path_notes


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a host the daemon works with."""

    kernel: Kernel
    watch: Watch
    guard: KernelGuard

    def close(self) -> None:
        """Let go of it; the network and the guard stay as they are."""
        self.guard.close()
        self.watch.close()
        self.kernel.close()


def this_host(appliance: Appliance, journal: Journal, background: Background) -> Parts:
    """The network namespace that the thread is in."""
    encoder.load()  # no module is imported when the VM has failed
    return Parts(Kernel(), Watch(), KernelGuard(appliance, journal, background))


class PathFile:
    """Since when paths are what they are; who cannot write it has told so of what matters more (`KernelGuard`)."""

    def __init__(self, sku: str) -> None:
        self._saver = Saver(path_notes(sku).write)

    def write(self, value: Any) -> None:
        """As `PathNotes.write`."""
        self._saver.write(noted(value))
