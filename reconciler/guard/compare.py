"""What differs between the guard that the file declares and the table in the kernel: for a dry run."""

from collections.abc import Iterator

from reconciler.appliance.declared import Appliance
from reconciler.guard.rules import table_of
from reconciler.network.audit import Beside
from reconciler.warning import Severity, Warning

_SET = "reconcile guard on"


def compare(
    appliance: Appliance, *, on: bool, made: str, digest: str, noted: str | None, fingerprint: str | None
) -> Iterator[Beside]:
    """The difference, if there is one.

    `on`: False where somebody took the guard away on purpose. `made`: the digest of the table that the file asks for
    (`rules.digest_of`); `digest`: of the one that was set last; `noted`: its fingerprint then; `fingerprint`: of what
    stands in the kernel, None: nothing does.
    """
    name = table_of(appliance.sku)
    declared = any(segment.guard for segment in appliance.segments.values())
    if not declared:
        if fingerprint is not None:
            yield Beside(
                "guard-undeclared",
                "remove",
                "guard",
                name,
                "table",
                "not declared",
                None,
                f"nft delete table netdev {name}",
            )
    elif fingerprint is None:
        if on:
            yield Beside("guard-missing", "make", "guard", name, "table", "not in the kernel", "set", _SET)
        else:
            yield Beside("guard-off", "make", "guard", name, "table", "off on purpose", "set", _SET)
    elif fingerprint != noted:
        # Not ours to describe: who changed it knows what.
        yield Beside("guard-changed", "set", "guard", name, "rules", "changed by somebody", "as they were set", _SET)
    elif made != digest:
        old = "of another file, or for other interfaces"
        yield Beside("guard-outdated", "set", "guard", name, "rules", old, "as declared", _SET)


def unseen(why: str) -> Warning:
    """The kernel could not be asked for it."""
    what = f"whether it stands could not be seen: {why}"
    return Warning("guard-unknown", Severity.ERROR, "guard", what, "look as root")
