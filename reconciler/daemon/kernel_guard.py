"""The guard with all that it takes on a live host: its table in the kernel, the prober, and their notes."""

import contextlib
import logging
import os
import re
from typing import Any

from reconciler.appliance.declared import Appliance
from reconciler.daemon.guarding import Guarding
from reconciler.daemon.journal import Journal
from reconciler.daemon.probes import Probes
from reconciler.errors import ReconcilerError
from reconciler.guard.state import Segment
from reconciler.host import clock, places
from reconciler.host.blocking import Saver
from reconciler.host.guard.netfilter import NetfilterWatch
from reconciler.host.guard.probe_socket import adapter_socket
from reconciler.host.guard.prober_client import Probing
from reconciler.host.guard.table import Table
from reconciler.host.statefile import StateFile

SECRET_BYTES = 16


class KernelGuard:
    """See the module. What is kept lies where it ends with the machine's run, as the table does."""

    def __init__(self, appliance: Appliance, journal: Journal) -> None:
        folder = places.run_dir()
        file = notes_of(appliance.sku)
        file.sweep()
        remembered = _read(file, journal)
        self._journal, self._trouble = journal, ""
        self.notes = Saver(file.write, self._tried)
        self.table = Table(appliance.sku)
        self.watch = NetfilterWatch(self.table.port)
        self.probing = Probing(folder, appliance.sku)
        secret = bytes.fromhex(remembered["secret"]) if remembered else os.urandom(SECRET_BYTES)
        probes = Probes(appliance, self.probing, clock.now_ms, journal, secret, adapter_socket, os.urandom)
        self.guarding = Guarding(appliance, self.table, probes, clock.now_ms, journal, self.notes, remembered)

        if not self.guarding.segments:
            self._tidy()

    def _tried(self, failure: Exception | None) -> None:
        trouble = str(failure or "")
        if trouble and trouble != self._trouble:
            text = f"what is known of the guard cannot be kept: {trouble}"
            self._journal.tell("guard", text, level=logging.ERROR)
        self._trouble = trouble

    def _tidy(self) -> None:
        """What an earlier process has left of a guard that is not declared any more goes."""
        with contextlib.suppress(ReconcilerError):
            self.probing.end()
            self.table.remove()

    def disturbed(self) -> bool:
        """Somebody may have changed rules: whether it is worth a look."""
        if self.watch.drain():
            self.guarding.suspicious = True
            return bool(self.guarding.segments) and self.guarding.on
        return False

    def close(self) -> None:
        """Leave the guard as it is; the prober goes on for its grace."""
        self.guarding.probes.close()
        self.probing.close()
        self.watch.close()
        self.table.close()


def notes_of(sku: str) -> StateFile:
    """Where the guard's secret lies, and what its table looked like when it was set."""
    return StateFile(places.run_dir() / f"{sku}.guard.json")


def _read(notes: StateFile, journal: Journal) -> dict[str, Any]:
    try:
        found = notes.read()
        return {} if found is None else _known(found)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        journal.tell("guard", f"what was known of the guard cannot be used: {type(error).__name__}: {error}")
        return {}


def _known(found: Any) -> dict[str, Any]:
    """What was written, as far as it is of its kind.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not.

    """
    if not re.fullmatch(r"[0-9a-f]{32}", found["secret"]):
        raise ValueError("no secret")
    segments = {str(name): dict(one) for name, one in found["segments"].items()}
    for one in segments.values():
        Segment().recall(one)
    return {
        "on": found["on"] is True,
        "secret": found["secret"],
        "digest": str(found["digest"]),
        "fingerprint": None if found["fingerprint"] is None else str(found["fingerprint"]),
        "segments": segments,
    }
