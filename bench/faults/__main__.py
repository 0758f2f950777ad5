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

from bench.faults.scene import Mode, Scene
from bench.faults.scenes import SCENES, SOAK
from bench.faults.table import Table, play
from reconciler.lab.namespaces import LabUnavailableError, become_lab_root

_MODES = {"both": Mode.BOTH, "guard": Mode.GUARD, "daemon": Mode.DAEMON, "hand": Mode.HAND}


def main() -> int:
    """All that was asked for. Returns 1 if a bound does not hold."""
    options = _options()
    become_lab_root()
    # Whoever ends us ends it all in the same way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    print(f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}\n", flush=True)
    table = Table(lambda line: print(line, flush=True))
    table.head()
    for scene, mode, runs in _chosen(options):
        try:
            table.row(play(scene, mode, runs))
        except LabUnavailableError as error:
            print(f"bench: {scene.name}: {error}", file=sys.stderr)
    print("\n| fault | who | must hold | outage, ms | |\n|---|---|---|---|---|")
    for line in table.summary():
        print(line)
    print(f"\nThe run took {(time.monotonic() - began) / 60:.0f} minutes.")
    return 1 if any(played.broken for played in table.played) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=10, help="of each fault in each mode; fewer of those that take long"
    )
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="faults by name")
    parser.add_argument("--modes", default=",".join(_MODES), help=f"some of {','.join(_MODES)}")
    parser.add_argument("--soak", type=int, default=1, metavar="MINUTES", help="how long the machine is kept busy")
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> Iterator[tuple[Scene, Mode, int]]:
    modes = {_MODES[word] for word in options.modes.split(",")}
    for scene, runs in [*((scene, options.runs) for scene in SCENES), (SOAK, options.soak)]:
        if options.only.search(scene.name):
            yield from ((scene, mode, runs) for mode in scene.modes if mode in modes)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
