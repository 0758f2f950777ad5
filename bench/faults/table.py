"""The table of faults: a row for each scene and mode as soon as it is measured, and what of the bounds holds."""

import contextlib
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.faults.measured import once, spoilt
from bench.faults.scene import (
    GUARDED,
    LOSSLESS,
    NONE_LOST,
    NOT_TRIPPED,
    NOTHING_WRONG,
    Bound,
    Median,
    Mode,
    Run,
    Scene,
    Within,
)
from bench.faults.stage import Stage, stage
from reconciler.errors import ReconcilerError
from reconciler.lab.namespaces import LabUnavailableError

# The sources send each 200 µs. A machine that keeps them waiting for longer than this measures itself: half of the
# tightest bound.
LATE_MS = 5.0
# Of those, so many are played again; then they count like any other.
_SPARE = 5
# A stage that is in no state to go on is built again, so often.
_STAGES = 2
_COLUMNS = (
    "fault",
    "who looks after the wire",
    "detected, ms",
    "outage, ms",
    "lost after",
    "twice / out of order / stale",
    "leaks",
    "uninspected",
    "trips",
    "runs",
    "must hold",
)


@dataclass(slots=True)
class Played:
    """All runs of a scene in a mode. `spoilt`: those that the machine spoilt, and that were played again."""

    scene: Scene
    mode: Mode
    runs: list[Run] = field(default_factory=list)
    spoilt: list[Run] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """What must hold."""
        return tuple(self.scene.expected.get(self.mode, ()))

    @property
    def broken(self) -> list[str]:
        """What does not hold, and how."""
        if not self.runs:
            return ["no run"] if self.bounds else []
        found = ((bound, bound.broken(self.runs)) for bound in self.bounds)
        return [f"{bound}: {how}" for bound, how in found if how] + self.trouble

    @property
    def outage(self) -> str:
        """Median and worst."""
        if not self.runs:
            return "–"
        if all(run.repaired for run in self.runs):
            return "until repaired"
        values = [run.outage_ms for run in self.runs]
        some = sum(run.repaired for run in self.runs)
        return f"{statistics.median(values):.1f} ({max(values):.1f}){f', {some} × until repaired' if some else ''}"


def play(scene: Scene, mode: Mode, runs: int, *, journal: bool = False) -> Played:
    """Play a scene in a mode so often, in as few stages as possible. `journal`: print what the daemon tells."""
    played = Played(scene, mode)
    wanted = min(runs, scene.most or runs)
    while len(played.runs) < wanted and len(played.trouble) < _STAGES:
        until = min(wanted, len(played.runs) + (scene.afresh or wanted))
        _on_a_stage(played, until, journal=journal)
    return played


def _on_a_stage(played: Played, wanted: int, *, journal: bool) -> None:
    made: Stage | None = None
    try:
        with (played.scene.staged or stage)(played.scene.setting, played.mode) as made:
            while len(played.runs) < wanted:
                run = once(made, played.scene)
                if journal:
                    print(f"{played.scene.name}, {played.mode}: {run}\n{made.news()}", file=sys.stderr, flush=True)
                if spoilt(run, LATE_MS) and not played.scene.loaded and len(played.spoilt) < _SPARE:
                    played.spoilt.append(run)
                else:
                    played.runs.append(run)
    except LabUnavailableError:
        raise
    except (ReconcilerError, OSError, SystemExit, AssertionError, ValueError) as error:
        played.trouble.append(f"run {len(played.runs) + 1} failed")
        print(f"bench: {played.scene.name}, {played.mode}: {type(error).__name__}: {error}", file=sys.stderr)
        if made is not None:
            with contextlib.suppress(OSError):
                print(made.told(), file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """What the project claims. `scenes`: a pattern of names; `bounds`: what must hold of all their runs together."""

    what: str
    scenes: str
    modes: tuple[Mode, ...]
    bounds: tuple[Bound, ...]


_HUNG = "^VM blackholes|one segment of two|^VM stopped"
CLAIMS = (
    Claim("daemon and VM both dead, guard alone", f"{_HUNG}|^VM killed", (Mode.GUARD,), (Within(210), NOTHING_WRONG)),
    Claim("… both at the same moment", "dead at once", (Mode.BOTH,), (Within(210), NOTHING_WRONG)),
    Claim("VM hung, daemon alive; lease 200 ms", _HUNG, (Mode.BOTH,), (Within(210), NOTHING_WRONG)),
    Claim("… lease 20 ms, probes each 2 ms", "^VM hung, lease 20", GUARDED, (Within(25), NOTHING_WRONG)),
    Claim("real QEMU killed", "real QEMU killed", (Mode.BOTH,), (Median(10), NOTHING_WRONG)),
    Claim("planned switch and back", "^planned|flows of 850", (Mode.BOTH,), (LOSSLESS,)),
    Claim("daemon killed, VM healthy", "^daemon killed", (Mode.BOTH,), (NONE_LOST, NOT_TRIPPED)),
    Claim("fully loaded, VM healthy", "busy for a minute", (Mode.BOTH,), (NOT_TRIPPED, NONE_LOST)),
)


class Table:
    """Prints rows, and keeps them for the summary. `write`: a function that takes a line."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.played: list[Played] = []
        self._write = write
        self._last: Scene | None = None

    def head(self) -> None:
        """The table's head."""
        self._write(f"| {' | '.join(_COLUMNS)} |")
        self._write("|" + "---|" * len(_COLUMNS))

    def row(self, played: Played) -> None:
        """One row."""
        name = "" if played.scene is self._last else played.scene.name
        self._last = played.scene
        self.played.append(played)
        self._write(f"| {name} | {' | '.join(_cells(played))} |")

    def glance(self) -> Iterator[str]:
        """The outages alone, a line for each scene."""
        modes = [mode for mode in Mode if any(played.mode is mode for played in self.played)]
        yield f"| outage, ms: median (worst) | {' | '.join(modes)} |"
        yield "|---|" + "---|" * len(modes)
        for scene in dict.fromkeys(played.scene.name for played in self.played):
            cells = {played.mode: played.outage for played in self.played if played.scene.name == scene}
            yield f"| {scene} | {' | '.join(cells.get(mode, '') for mode in modes)} |"

    def claims(self) -> Iterator[str]:
        """What must be reached, and what was."""
        yield "| what | must reach | measured | |\n|---|---|---|---|"
        for claim in CLAIMS:
            chosen = [one for one in self.played if one.mode in claim.modes and re.search(claim.scenes, one.scene.name)]
            runs = [run for one in chosen for run in one.runs]
            if runs:
                broken = [how for bound in claim.bounds if (how := bound.broken(runs))]
                verdict = f"**does not hold**: {'; '.join(broken)}" if broken else "holds"
                yield f"| {claim.what} | {'; '.join(map(str, claim.bounds))} | {_measured(runs)} | {verdict} |"

    def broken(self) -> Iterator[str]:
        """All that does not hold, in words."""
        for played in self.played:
            if played.broken:
                yield f"- {played.scene.name}, {played.mode}: {'; '.join(played.broken)}"


def _measured(runs: Sequence[Run]) -> str:
    outages = [run.outage_ms for run in runs]
    lost = sum(run.lost for run in runs)
    quiet = f"median {statistics.median(outages):.1f} ms, worst {max(outages):.1f}"
    return f"{quiet}; {lost} lost; {len(runs)} runs"


def _cells(played: Played) -> Iterator[str]:
    runs = played.runs
    told = [run.detected_ms for run in runs if run.detected_ms is not None]
    yield str(played.mode)
    yield _spread(told) + (f", {len(told)} of {len(runs)}" if told and len(told) < len(runs) else "")
    yield played.outage
    yield _sum(runs, "lost_after") + (
        f" (elsewhere {_sum(runs, 'elsewhere')})" if _sum(runs, "elsewhere") != "0" else ""
    )
    yield " / ".join(_sum(runs, name) for name in ("duplicated", "reordered", "stale"))
    yield _sum(runs, "leaks") + (f" (others {_sum(runs, 'strays')})" if _sum(runs, "strays") != "0" else "")
    yield _each(runs, "uninspected")
    yield _each(runs, "trips")
    late = sum(spoilt(run, LATE_MS) for run in runs)
    worst = max((run.outage_ms for run in played.spoilt), default=0)
    again = f" + {len(played.spoilt)} spoilt, worst {worst:.1f}"
    yield f"{len(runs)}{f' ({late} late)' if late else ''}{again if played.spoilt else ''}"
    held = "; ".join(map(str, played.bounds))
    yield f"**{'; '.join(played.broken)}**" if played.broken else f"{held}{': holds' if held else '–'}"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({max(values):.0f})" if values else "–"


def _sum(runs: Sequence[Run], name: str) -> str:
    return str(sum(getattr(run, name) for run in runs))


def _each(runs: Sequence[Run], name: str) -> str:
    """The median of a count, and its worst; it may not apply."""
    values = [value for run in runs if (value := getattr(run, name)) is not None]
    if not values:
        return "–"
    middle = statistics.median(values)
    return f"{middle:g}" if middle == max(values) else f"{middle:g} ({max(values)})"
