"""A VM that takes its time: frames stay inside it for some milliseconds, and for as long as it is stopped.

It is the model of a QEMU. What comes to it while it is stopped waits in the queues of its adapters, and comes out
seconds late when it goes on.
"""

import os
import signal
from pathlib import Path

from reconciler.lab import forwarder
from reconciler.lab.lab import Lab, wait_until
from reconciler.lab.namespaces import LabError
from reconciler.lab.program import Program

# Some 10,000 of the smallest frames, so that the machine's own stalls lose none at 10,000 frames/s. A real tap with its
# virtio ring holds 500 to 1,000.
_BUFFER_BYTES = 4 << 20
_SIGNAL_S = 5.0


class Delay(Program):
    """A program in the VM that forwards in place of its bridges, in all segments. Use it in a `with` statement.

    Afterwards the bridges are back, unless the VM is dead. The VM must not be killed and started in between.
    """

    def __init__(self, lab: Lab, delay_ms: float, *, buffer: int = _BUFFER_BYTES) -> None:
        """Take the VM's bridges away and start to forward.

        Args:
            lab: Its VM lives.
            delay_ms: How long each frame stays in the VM, in milliseconds, and up to half of one more.
            buffer: What the VM holds for each adapter while it is stopped, as a socket's SO_RCVBUF: a small frame takes
                some 400 bytes of it. What comes beyond is lost.

        Raises:
            LabError: The VM is dead.
        """
        self._lab = lab
        self._vm = lab.vm
        lab.unbridge_vm()
        if self._vm is None:
            raise LabError("the VM is dead")
        segments = [",".join(f"eth{index}" for index in segment) for segment in lab.segments]
        arguments = [f"--delay-ms={delay_ms}", f"--buffer={buffer}", *segments]
        super().__init__(self._vm, Path(forwarder.__file__), arguments, "the program that forwards in the VM")

    def stop(self) -> None:
        """Stop the VM: it does nothing, while its links stay up. Returns once it is stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: self._state() == "T", _SIGNAL_S, "the VM to stop")

    def cont(self) -> None:
        """Let a stopped VM go on, with all the frames that it holds."""
        os.kill(self.pid, signal.SIGCONT)

    def _state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]

    def close(self) -> None:
        """End the program, and let the VM's bridges forward again. May be called again."""
        super().close()
        if self._lab.vm is self._vm and self._vm is not None and not self._vm.closed:
            self._lab.bridge_vm()
