"""Three thousand lives in a fake world, none of them unsafe, all with a good end. See `world`."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from effort import examples
from processes import PATIENCE_S
from world import HERE, ViolationError, live

SEEDS = int(os.environ.get("SIMULATION_SEEDS", examples(3_000)))
_PROCESSES = 2
_TIMEOUT_S = 900


@pytest.mark.timeout(_TIMEOUT_S + 300)
def test_every_seed_is_safe_and_comes_to_a_good_end() -> None:
    """`SIMULATION_SEEDS` asks for more of them."""
    cuts = [SEEDS * number // _PROCESSES for number in range(_PROCESSES + 1)]
    programs = [
        subprocess.Popen(
            [sys.executable, str(HERE), str(first), str(last)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=HERE.parents[2],
            text=True,
        )
        for first, last in itertools.pairwise(cuts)
    ]
    try:
        told = [program.communicate(timeout=_TIMEOUT_S)[0] for program in programs]
    finally:
        for program in programs:
            program.kill()
            program.communicate(timeout=PATIENCE_S)
    if any(program.returncode for program in programs):
        pytest.fail("".join(told), pytrace=False)


def test_a_seed_lives_the_same_life_each_time() -> None:
    one, other = live(7), live(7)
    assert (one.steps, one.now, one.kernel.log) == (other.steps, other.now, other.kernel.log)


@pytest.mark.long
def test_a_seed_that_fails_prints_the_line_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the simulation would notice a policy that forgets a hold."""
    from world import main

    from reconciler.health import state

    def held_by_nobody(self: state.State) -> dict[str, str]:
        return {name: self._of(name, segment) for name, segment in self.segments.items()}

    monkeypatch.setattr(state.State, "choice", property(held_by_nobody))
    assert main(["0", "40"]) == 1
    lines = capsys.readouterr().out.splitlines()
    command = next(line.strip() for line in lines if line.startswith("    "))
    python, script, seed = command.split()
    assert (python, Path(script).name) == (sys.executable, "world.py")
    with pytest.raises(ViolationError):
        live(int(seed))
