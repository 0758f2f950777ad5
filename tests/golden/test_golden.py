"""What the dry run says, case by case, through the real command line. See README.md."""

import json
import re
from pathlib import Path

import pytest
from commandline import run

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/appliance.yaml"))
FORMS = {"text": "plan.txt", "json": "plan.json", "commands": "commands.txt"}


@pytest.fixture(autouse=True)
def _own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_STATE_DIR", str(tmp_path_factory.getbasetemp() / "golden-state"))


def test_there_are_cases() -> None:
    assert len(CASES) >= 12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_the_dry_run_says_what_is_expected(case: str, form: str, request: pytest.FixtureRequest) -> None:
    folder = HERE / case
    choice = folder / "choice"
    words = [word for line in (choice.read_text().split() if choice.exists() else []) for word in ("-t", line)]
    done = run("-f", str(folder / "appliance.yaml"), "-n", "--against", str(folder / "actual.json"), "-o", form, *words)
    expected = folder / FORMS[form]
    # stdout, then what went to stderr, then how it ended: all that a user meets.
    said = done.out if form == "json" else f"{done.out}{done.err}[exit {done.code}]\n"
    if form == "json":
        # Whose it is, and when it was told.
        said, gone = re.subn(r'^  "(?:time|host|version|digest)": .*\n', "", said, flags=re.MULTILINE)
        assert gone == 4
    if form == "commands":
        said = done.out
        assert done.err == ""
    if request.config.getoption("update_golden"):
        expected.write_text(said, encoding="utf-8")
    assert said == expected.read_text(encoding="utf-8")
    if form == "json":
        plan = json.loads(said)
        # What a change repairs is an error until then, and no reason to fail.
        errors = {one["code"] for one in plan["warnings"] if one["severity"] == "error"} - {"not-forwarding"}
        assert done.code == (1 if errors else 3 if plan["changes"] else 0)
        assert plan["converged"] is (done.code == 0)
