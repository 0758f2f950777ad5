"""Setting and removing the guard where no daemon runs: at boot, or by hand. Use it within the appliance's lock."""

import os

from reconciler.appliance.declared import Appliance
from reconciler.daemon.kernel_guard import SECRET_BYTES, notes_of
from reconciler.errors import HostError
from reconciler.guard.rules import bind_guard, ruleset
from reconciler.host import places
from reconciler.host.guard.prober_client import Probing
from reconciler.host.guard.table import Table
from reconciler.network.diff import Difference


def set_guard(appliance: Appliance, found: Difference) -> None:
    """Set the guard's table, without consent: tripped, until a daemon gives it. Counters go on.

    Raises:
        HostError: the kernel refused, or what a daemon needs to take over cannot be kept.

    """
    notes = notes_of(appliance.sku)
    secret = os.urandom(SECRET_BYTES)
    bound = bind_guard(appliance, found.desired, found.actual)
    with Table(appliance.sku) as table:
        made = ruleset(appliance.sku, bound, secret, {}, table.counters())
        fingerprint = table.install(made)
    kept = {"on": True, "secret": secret.hex(), "digest": made.digest, "fingerprint": fingerprint, "segments": {}}
    try:
        notes.write(kept)
    except OSError as error:
        raise HostError(f"the guard is set, and {notes.path} cannot be written: {error.strerror}") from None


def remove_guard(sku: str) -> None:
    """Take the table away, end the prober, and forget both.

    Raises:
        HostError: the kernel refused.

    """
    Probing(places.run_dir(), sku).end()
    with Table(sku) as table:
        table.remove()
    notes_of(sku).path.unlink(missing_ok=True)
