"""Random histories of a guarded wire: what is booked of each, against what a witness has counted. Run by hand, or by tests.

python tests/netns/histories.py FIRST BEYOND      as root: the histories of these seeds, and a table
"""

import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve()
if __name__ == "__main__":
    tests = HERE.parents[1]
    sys.path[:0] = [str(one) for one in (HERE.parent, tests, tests / "host", tests.parent)]

from booking import RATE, Books  # noqa: E402
from guarded import Guarded, guarded  # noqa: E402
from processes import PATIENCE_S  # noqa: E402
from witness import witnessed  # noqa: E402

_MOST = 5


@dataclass(frozen=True)
class Told:
    """What came of a history.

    `booked`, `passed`: frames past the VM, by the books and by the witness. `cut`, `lost`: that went nowhere, by the
    books, and of those that were sent and given to nobody. `off_ms`:
    by how much the worst begin or end is beyond what the books say of it.
    """

    seed: int
    acts: tuple[str, ...]
    booked: int
    passed: int
    cut: int
    lost: int
    exact: bool
    off_ms: int

    @property
    def right(self) -> bool:
        """Frames as counted, or at least; and no time beyond its bound."""
        frames = self.booked == self.passed if self.exact else self.booked <= self.passed
        return frames and self.cut <= self.lost and self.off_ms <= 0


class History:
    """One: a few acts, one after the other, while frames come; and in the end all is well again."""

    def __init__(self, kept: Guarded, seed: int) -> None:
        self.kept, self.chance = kept, random.Random(seed)
        self.seed = seed
        self.acts: list[str] = []

    def live(self) -> Told:
        """Raises AssertionError: it does not come to a good end."""
        kept = self.kept
        kept.write()
        kept.well()
        with witnessed(kept.lab, RATE) as witness:
            self.books = Books(kept, witness)
            for _ in range(self.chance.randint(2, _MOST)):
                among = _ACTS if self.acts else _BAD
                act = self.chance.choice([one for one in among if one is not self._last()])
                self.acts.append(act.__name__.strip("_"))
                act(self)
                self._goes_by()
            self._end()
            spans = self.books.spans("bypassed")
            off = self.books.off(spans)
            exact, lost = all(one.exact for one in spans), self.books.sent - witness.given - self.books.passed
            counts = self.books.booked("passed"), self.books.passed, self.books.booked("cut"), lost
            return Told(self.seed, tuple(self.acts), *counts, exact, off)

    def _last(self) -> "Callable[[History], None] | None":
        return next((one for one in _ACTS if self.acts and one.__name__.strip("_") == self.acts[-1]), None)

    def _goes_by(self) -> None:
        """Some frames are sent: about as long as a few leases, or not at all."""
        arrived = sum(self.books.witness.arrived) + self.chance.choice([0, 50, 300])
        self.kept.until(lambda: sum(self.books.witness.arrived) >= arrived or self._hung, "frames", PATIENCE_S)

    @property
    def _hung(self) -> bool:
        """Whether nothing arrives, for the VM swallows it, and nobody carries the wire."""
        return bool({"hangs", "fails_closed"} & set(self.acts))

    def _end(self) -> None:
        if self.kept.process is None or self.kept.process.poll() is not None:
            self.kept.start()
        self.kept.cli("guard", "on")
        self.kept.lab.unblock_vm()
        self._is_released()
        self.books.settled()

    # What happens

    def _hangs(self) -> None:
        self.kept.lab.blackhole_vm()

    def _recovers(self) -> None:
        self.kept.lab.unblock_vm()

    def _is_killed(self) -> None:
        if self.kept.process is not None and self.kept.process.poll() is None:
            self.kept.kill()

    def _is_started(self) -> None:
        if self.kept.process is None or self.kept.process.poll() is not None:
            self.kept.start()

    def _is_flushed(self) -> None:
        self.kept.hand("nft flush ruleset")

    def _is_held(self) -> None:
        self._is_started()
        self.kept.ask("hold", topology="bypass", reason="a history", seconds=600)

    def _is_released(self) -> None:
        self._is_started()
        if any(one["hold"] for one in self.kept.status()["segments"]):
            self.kept.ask("release")

    def _is_off_and_on(self) -> None:
        self.kept.cli("guard", "off")
        self._goes_by()
        self.kept.cli("guard", "on")

    def _has_another_file(self) -> None:
        self._reads(guard={"lease": self.chance.choice(["200ms", "300ms"])})

    def _fails_closed(self) -> None:
        self._reads(on_failure={"fail": "closed"})

    def _reads(self, **more: object) -> None:
        self._is_started()
        self.kept.write(**more)
        self.kept.known = self.kept.file.read_text()
        self.kept.ask("reload")


_ACTS: tuple[Callable[[History], None], ...] = (
    History._hangs,
    History._recovers,
    History._is_killed,
    History._is_started,
    History._is_flushed,
    History._is_held,
    History._is_released,
    History._is_off_and_on,
    History._has_another_file,
    History._fails_closed,
)
_BAD = (History._hangs, History._is_held, History._is_killed, History._fails_closed)


def main(words: list[str]) -> int:
    first, beyond = map(int, words)
    wrong = exact = failed = 0
    with tempfile.TemporaryDirectory() as folder, guarded(Path(folder)) as kept:
        for seed in range(first, beyond):
            try:
                told = History(kept, seed).live()
            except Exception as error:  # noqa: BLE001 - the next one has its turn
                failed += 1
                print(f"{seed}: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
                continue
            exact += told.exact
            wrong += not told.right
            mark = "" if told.right else "  WRONG"
            print(
                f"{seed}: {told.booked} of {told.passed}, {told.cut} cut of {told.lost}, {told.exact=}, {told.off_ms=}, {told.acts}{mark}",
                flush=True,
            )
    print(f"{beyond - first} histories: {wrong} wrong, {failed} did not come to an end, {exact} exact")
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
