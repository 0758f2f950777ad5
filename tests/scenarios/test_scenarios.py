"""Each script, and that what the policy answers is what stands there. See README.md."""

from pathlib import Path

import pytest
from scenario import SENTENCES, Script

HERE = Path(__file__).parent
SCRIPTS = sorted(HERE.glob("*.txt"))


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 25


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_policy_answers_as_the_script_has_it(path: Path, request: pytest.FixtureRequest) -> None:
    played = Script.read(path).played()
    if request.config.getoption("update_golden"):
        path.write_text(played, encoding="utf-8")
    assert played == path.read_text(encoding="utf-8")


def test_no_sentence_is_without_a_script() -> None:
    told = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    for words in (
        "says",
        "keeps saying",
        "falls silent",
        "reboots",
        "is done",
        "is refused",
        "not be asked",
        "from now on",
        "holds",
        "releases",
    ):
        assert words in told
    assert len(SENTENCES) == 16
