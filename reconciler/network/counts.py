"""What the kernel has counted of an interface, as a value."""

from typing import NamedTuple


class LinkCounts(NamedTuple):
    """What an interface has received and sent since it is there, frames and bytes without frame check sequences.

    `dropped`: on the way out; `refused`: on the way in.
    """

    received: int
    received_bytes: int
    sent: int
    sent_bytes: int
    dropped: int
    refused: int
