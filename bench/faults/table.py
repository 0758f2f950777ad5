"""The table of faults: a row for each scene and mode as soon as it is measured, and what of the bounds holds."""

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.faults.measured import once, spoilt
from bench.faults.scene import Bound, Mode, Run, Scene
from bench.faults.stage import Stage, stage
from reconciler.errors import ReconcilerError
from reconciler.lab.namespaces import LabUnavailableError

# The sources send each 200 µs. A machine that keeps them waiting for longer than this measures itself.
LATE_MS = 10.0
# Of those, so many are played again; then they count like any other.
_SPARE = 5
# A stage that is in no state to go on is built anew, so often.
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
    took_s: float = 0.0

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
        if all(run.mended for run in self.runs):
            return "until mended"
        values = [run.outage_ms for run in self.runs]
        some = sum(run.mended for run in self.runs)
        return f"{statistics.median(values):.1f} ({max(values):.1f}){f', {some} × until mended' if some else ''}"


def play(scene: Scene, mode: Mode, runs: int) -> Played:
    """Play a scene in a mode so often, in as few stages as possible."""
    played, began = Played(scene, mode), time.monotonic()
    wanted = min(runs, scene.most or runs)
    for _ in range(_STAGES):
        if len(played.runs) < wanted:
            _on_a_stage(played, wanted)
    played.took_s = time.monotonic() - began
    return played


def _on_a_stage(played: Played, wanted: int) -> None:
    made: Stage | None = None
    try:
        with stage(played.scene.setting, played.mode) as made:
            while len(played.runs) < wanted:
                run = once(made, played.scene)
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

    def summary(self) -> Iterator[str]:
        """The bounds, each with whether it holds."""
        for played in self.played:
            for bound in played.bounds:
                how = bound.broken(played.runs) if played.runs else "no run"
                verdict = f"**does not hold**: {how}" if how else "holds"
                yield f"| {played.scene.name} | {played.mode} | {bound} | {played.outage} | {verdict} |"


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
    late = (
        f" + {len(played.spoilt)} spoilt, worst {max(run.outage_ms for run in played.spoilt):.1f}"
        if played.spoilt
        else ""
    )
    yield f"{len(runs)}{late}"
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
