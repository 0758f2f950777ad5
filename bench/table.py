"""A table of figures, each beside its bound and its peers'."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its bound and its peers'."""

    what: str
    measured: str
    bound: str
    peers: str = ""


def show(rows: Iterable[Row]) -> None:
    """Print the table, each row as it comes."""
    print(f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}\n")
    print("| what | measured | must reach | peers, same run |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.measured} | {row.bound} | {row.peers} |", flush=True)
