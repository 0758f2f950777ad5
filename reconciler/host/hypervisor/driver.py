"""What restarts a VM, whoever runs it."""

import importlib.util
from typing import Protocol

from reconciler.appliance.declared import Appliance, Libvirt
from reconciler.errors import HostError
from reconciler.host.hypervisor.libvirt import LibvirtHypervisor
from reconciler.host.hypervisor.link import MISSING
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.hypervisor.programs import ProgramsHypervisor

RESET, DESTROY_AND_START = "reset", "destroy-and-start"


class Hypervisor(Protocol):
    """Who can restart the VM. One restart at a time."""

    async def restart(self, method: str) -> None:
        """Restart by the method of a rung: ``reset`` or ``destroy-and-start``. A VM that is down is started by both.

        It has begun to boot when this returns; whether it becomes healthy, the signals say.

        Raises:
            UnreachedError: whoever runs the VM could not be asked (nobody answers, or its program cannot be started),
                also where this was cancelled before. Nothing was done, and nothing will be.
            HostError: it cannot be done, and trying again will not help: no such VM, no right.
            TransientError: it was not done this time, or nobody knows whether it was.

        """


def hypervisor_of(appliance: Appliance, own_actions: OwnActions) -> Hypervisor | None:
    """The one that the file declares; None: nobody restarts this VM.

    Raises:
        HostError: the file asks for libvirt, and libvirt-python is not installed.

    """
    declared = appliance.hypervisor
    if declared is None:
        return None
    if isinstance(declared, Libvirt):
        if importlib.util.find_spec("libvirt") is None:
            raise HostError(MISSING)
        return LibvirtHypervisor(declared, own_actions)
    return ProgramsHypervisor(declared, own_actions)
