"""Print what happens to the wire when something breaks, for each fault and for each way of looking after the wire.

Takes about 25 minutes; `--only` and `--modes` take less. `python -m bench.faults`; needs root, nft, and for some rows
Suricata and the packages of tests/vm. Times are from kernel receive timestamps, at 5,000 frames/s each way.
"""

import argparse
import platform
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.faults import cost
from bench.faults.scene import Mode, Scene
from bench.faults.scenes import SCENES, SOAK
from bench.faults.table import Table, play
from reconciler.lab.namespaces import LabUnavailableError, become_lab_root

_MODES = {"both": Mode.BOTH, "guard": Mode.GUARD, "daemon": Mode.DAEMON, "hand": Mode.HAND}
_BEGIN, _END = "<!-- make faults: begin -->", "<!-- make faults: end -->"


class _Page:
    """What is printed, line by line, and kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str = "") -> None:
        self.lines.append(line)
        print(line, flush=True)

    def put(self, path: Path, front: list[str]) -> None:
        """Put it between the two marks of a file, in the place of what was there; `front` first."""
        before, _, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
        _, mark, after = rest.partition(_END)
        if not mark:
            sys.exit(f"bench: {path} has no place for it between {_BEGIN} and {_END}")
        text = "\n".join([_BEGIN, "", *front, "", *self.lines, "", _END])
        path.write_text(before + text + after, encoding="utf-8")


def main() -> int:
    """All that was asked for. Returns 1 if a bound does not hold."""
    options = _options()
    become_lab_root()
    # Whoever ends us ends it all in the same way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began, page = time.monotonic(), _Page()
    page.say(f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}\n")
    table = Table(page.say)
    table.head()
    for scene, mode, runs in _chosen(options):
        try:
            table.row(play(scene, mode, runs, journal=options.journal))
        except LabUnavailableError as error:
            print(f"bench: {scene.name}: {error}", file=sys.stderr)
    if options.only.search("cost"):
        page.say("\n| what | measured | must reach | beside it |\n|---|---|---|---|")
        for row in cost.rows():
            page.say(f"| {row.what} | {row.measured} | {row.bound} | {row.peers} |")
    page.say(f"\nThe run took {(time.monotonic() - began) / 60:.0f} minutes.")
    broken = list(table.broken())
    front = [*table.claims(), "", "Does not hold:" if broken else "Everything holds.", "", *broken, "", *table.glance()]
    print("", *front, sep="\n")
    if options.write:
        page.put(options.write, front)
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each fault and mode; fewer of those that take long")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="by name; or: cost")
    parser.add_argument("--modes", default=",".join(_MODES), help=f"some of {','.join(_MODES)}")
    parser.add_argument("--soak", type=int, default=1, metavar="MINUTES", help="how long the machine is kept busy")
    parser.add_argument("--journal", action="store_true", help="tell on standard error what the daemon told")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into it, between its two marks")
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> Iterator[tuple[Scene, Mode, int]]:
    modes = {_MODES[word] for word in options.modes.split(",")}
    for scene, runs in [*((scene, options.runs) for scene in (*SCENES, *_real())), (SOAK, options.soak)]:
        if options.only.search(scene.name):
            yield from ((scene, mode, runs) for mode in scene.modes if mode in modes)


def _real() -> tuple[Scene, ...]:
    """Those of a real VM, where there is what they take."""
    try:
        from bench.faults import qemu
    except ImportError as error:
        print(f"bench: no real VM: {error}", file=sys.stderr)
        return ()
    return qemu.SCENES


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
