"""What every JSON value of ours bears, so that one that was mailed, stored or merged still says whose it is.

That is: when it was true, on which host, told by which version, and by which appliance file.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from reconciler import __version__
from reconciler.host import clock


def enveloped(value: Mapping[str, Any], digest: str | None, at_ms: int | None = None) -> dict[str, Any]:
    """The value, which has its `format`, with `time`, `host`, `version` and `digest` behind it; see docs/formats.md.

    `digest`: SHA-256 of the appliance file, in hexadecimal; None where no file, or more than one, is meant. `at_ms`:
    the moment that it speaks of, in milliseconds since 1970 (UTC); None: now.
    """
    return {
        "format": value["format"],
        "time": utc(clock.wall_ms() if at_ms is None else at_ms),
        "host": os.uname().nodename,
        "version": __version__,
        "digest": digest,
        **{key: one for key, one in value.items() if key != "format"},
    }


def utc(at_ms: int) -> str:
    """A moment as ISO 8601 has it, in milliseconds: ``2026-11-28T15:04:05.678Z``."""
    # In whole milliseconds: a float of that many seconds would round to others.
    seconds, rest = divmod(at_ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03}Z"
