"""What commands that look end with; the same for all of them (docs/operator.md)."""

from collections.abc import Iterable

AS_DECLARED, NOT_SEEN, USAGE, DIFFERS, BYPASSED, CUT = range(6)

# The worst first.
_OF_PATH = {"cut": CUT, "bypassed": BYPASSED, "unknown": NOT_SEEN}


def of_paths(paths: Iterable[str]) -> int:
    """What segments with these paths come to."""
    found = set(paths)
    return next((status for path, status in _OF_PATH.items() if path in found), AS_DECLARED)
