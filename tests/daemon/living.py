"""A whole daemon on a fake kernel, with its loop, its socket and its disk, and without a namespace."""

import asyncio
import contextlib
import io
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fake_guard import FakeProber, Wires
from fake_kernel import FakeKernel
from worlds import host

from reconciler.appliance.declared import Appliance
from reconciler.control.ask import ask, socket_of
from reconciler.daemon.guard import GuardEffects
from reconciler.daemon.journal import Journal
from reconciler.daemon.loop import Daemon
from reconciler.daemon.parts import Parts
from reconciler.guard.step import begin
from reconciler.host import clock
from reconciler.host.accepted import InForce
from reconciler.host.blocking import Saver
from reconciler.warning import Warning

SOON_S = 10.0


class Wake:
    """What can be read after `ring`."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.lost = 0

    def fileno(self) -> int:
        return self.descriptor

    def ring(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def drain(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        return True

    def close(self) -> None:
        os.close(self.descriptor)


class NoGuard:
    """The guard of a file that declares none, as `KernelGuard`."""

    def __init__(self, of: Appliance, kernel: FakeKernel, journal: Journal) -> None:
        self.watch = Wake()
        wires = Wires(clock.now_ms, kernel)
        self.notes = Saver(lambda _: None)
        self.effects = GuardEffects(
            begin(of, b"x" * 16, b"y" * 16),
            table=wires.table,
            prober=FakeProber(wires),
            listener=wires.ear,
            clock=clock.now_ms,
            journal=journal,
            notes=self.notes,
        )
        self.probing = Wake()
        self.warnings: tuple[Warning, ...] = ()

    def disturbed(self) -> bool:
        return self.watch.drain() and False

    def close(self) -> None:
        self.watch.close()
        self.probing.close()


class Kernel(FakeKernel):
    """One that tells when links change, and can be closed."""

    def close(self) -> None:
        return


class Living:
    """See the module. `lives` runs the daemon, and a scene beside it on its loop."""

    def __init__(self, of: Appliance, folder: Path, *, file: str = "") -> None:
        self.file = folder / "a.yaml"
        self.file.write_text(file or "{}")
        self.log = io.StringIO()
        journal = Journal(self.log, as_json=True)
        self.kernel = Kernel()
        vars(self.kernel).update(vars(host(of)))
        self.links = Wake()
        parts: Any = Parts(self.kernel, self.links, NoGuard(of, self.kernel, journal))  # type: ignore[arg-type]
        text = self.file.read_bytes()
        self.daemon = Daemon(self.file, InForce(text, of), journal, group=None, stop=None, parts=lambda *_: parts)
        self.socket = socket_of(folder, of.sku)
        self._parts = parts

    def lives(self, scene: Callable[["Living"], Awaitable[None]]) -> None:
        """Raises what ends the daemon, or the scene."""

        async def life() -> None:
            serving = asyncio.create_task(self.daemon._serve())
            try:
                await until(lambda: serving.done() or self.socket.exists(), "the daemon to listen")
                if not serving.done():
                    async with asyncio.timeout(6 * SOON_S):
                        await scene(self)
            finally:
                self.daemon._end()
                await serving

        try:
            asyncio.run(life())
        finally:
            self._parts.close()

    # What happens

    def plug(self, *adapters: str, on: bool) -> None:
        """The VM's end of these adapters comes or goes."""
        for name in adapters:
            self.kernel.plug(self.kernel[name], on)
        self.links.ring()

    async def ask(self, do: str, **more: Any) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self.socket, do=do, **more)

    async def status(self) -> dict[str, Any]:
        return dict((await self.ask("status"))["status"])

    async def goes_to(self, topology: str, *segments: str) -> None:
        choice = lambda: {self.choice[name] for name in segments or self.choice}  # noqa: E731
        await until(lambda: choice() == {topology}, topology)

    @property
    def choice(self) -> dict[str, str]:
        return self.daemon._turns.core.state.choice

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def told(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


async def until(condition: Callable[[], bool], what: str) -> None:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + SOON_S
    while not condition():
        assert loop.time() < end_s, f"waited in vain for {what}"
        await asyncio.sleep(0.002)
