"""How much is tried where more of the same can always be tried: seeds, generated files, Hypothesis' examples."""

_QUICK_SHARE = 20
_QUICK_LEAST = 20

quick = False
"""Whether this run is a quick one, `--quick`: set before any test is imported."""


def examples(number: int) -> int:
    """So many of a kind, or of a quick run a twentieth of that."""
    return min(number, max(_QUICK_LEAST, number // _QUICK_SHARE)) if quick else number
