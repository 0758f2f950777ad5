"""All JSON that is printed is what the published schemas say, and bears the same envelope."""

import errno
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from commandline import run
from formats import check, enumerate_again, schema
from guards import Guards
from keeping import PROGRAMS, Kept, watched
from worlds import converge, host, two_ports, two_ports_document

from reconciler import __version__
from reconciler.cli.status_text import why_json
from reconciler.daemon.journal import Journal
from reconciler.daemon.status import status
from reconciler.health.signal import HealthState, Reading
from reconciler.health.state import Ending, Hold, HoldPlaced, RestartEnded
from reconciler.host.envelope import enveloped, utc
from reconciler.log_events import EVENTS
from reconciler.network import report
from reconciler.network.cycle import reconcile
from reconciler.network.desired import choice_of
from reconciler.network.record import dump
from reconciler.network.state import Kind, Role, Setting, mark

ROOT = Path(__file__).parent.parent
SCHEMAS = sorted(path.name.removesuffix(".schema.json") for path in ROOT.glob("schemas/*.schema.json"))
FORMATS = [name for name in SCHEMAS if name != "appliance"]
GOLDEN = sorted((ROOT / "tests" / "golden").glob("*/plan.json"))
ENVELOPE = ("format", "time", "host", "version", "digest")


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(tmp_path / "run"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(json.dumps(two_ports_document()))
    return path


# --- the schemas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_each_schema_has_the_envelope(name: str) -> None:
    of, other = schema(name), schema("plan")
    assert of["properties"]["format"]["const"].startswith(f"reconciler.{name}/")
    assert list(of["properties"])[: len(ENVELOPE)] == list(ENVELOPE)
    assert set(ENVELOPE) <= set(of["required"])
    assert of["additionalProperties"] is False
    for key in ENVELOPE[1:]:
        assert of["properties"][key] == other["properties"][key]


def objects(of: Any) -> list[dict[str, Any]]:
    found = [of] if isinstance(of, dict) and of.get("type") == "object" else []
    inner = of.values() if isinstance(of, dict) else of if isinstance(of, list) else ()
    return found + [one for each in inner for one in objects(each)]


@pytest.mark.parametrize("name", FORMATS)
def test_no_object_of_a_schema_is_open_without_a_word(name: str) -> None:
    assert all("additionalProperties" in one for one in objects(schema(name)))


def log_cases() -> dict[str, list[str]]:
    return {name: [*schema("log")["required"], *logged.data] for name, logged in EVENTS.items()}


@pytest.mark.parametrize("name", ["plan", "report", "state", "log"])
def test_what_is_enumerated_is_what_there_is(name: str, request: pytest.FixtureRequest) -> None:
    settings = [setting.value for setting in Setting]
    if request.config.getoption("update_golden"):
        enumerate_again(name, settings, log_cases())
    of = schema(name)
    if name != "log":
        assert of["$defs"]["setting"]["enum"] == settings
        return
    assert of["properties"]["event"]["enum"] == list(EVENTS)
    cases = {one["if"]["properties"]["event"]["const"]: one["then"]["propertyNames"]["enum"] for one in of["allOf"]}
    assert cases == log_cases()
    assert set(of["properties"]) == {*of["required"], *(one for logged in EVENTS.values() for one in logged.data)}


def test_the_page_names_each_format_with_its_number() -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    named = set(re.findall(r"reconciler\.[a-z]+/\d+", page))
    assert {schema(name)["properties"]["format"]["const"] for name in FORMATS} <= named


# --- what is printed -------------------------------------------------------------------------------------------------


def test_the_envelope_says_when_where_by_what_and_of_which_file() -> None:
    value = enveloped({"format": "reconciler.plan/2", "x": 1}, "ab", 1_764_342_305_007)
    assert value == {
        "format": "reconciler.plan/2",
        "time": "2025-11-28T15:05:05.007Z",
        "host": os.uname().nodename,
        "version": __version__,
        "digest": "ab",
        "x": 1,
    }


def test_a_moment_before_1970_and_far_ahead_is_spelt() -> None:
    assert (utc(-1), utc(253_402_300_799_999)) == ("1969-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parent.name)
def test_each_plan_is_as_published(path: Path) -> None:
    check("plan", enveloped(json.loads(path.read_text(encoding="utf-8")), None))


def test_a_dry_run_is_as_published_and_names_its_file(file: Path, tmp_path: Path) -> None:
    kernel = host(two_ports())
    kernel.remove("eth0")
    kernel.bridge_netfilter = ("bridge-nf-call-iptables",)
    kernel.add("old", Kind.BRIDGE, mark=mark("two", Role("switch", "old")))
    state = tmp_path / "state.json"
    state.write_text(json.dumps(dump(kernel.observe())))
    value = json.loads(run("-f", str(file), "-n", "-o", "json", "--against", str(state)).out)
    check("plan", value)
    assert value["digest"] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("refused", [False, True])
def test_a_report_is_as_published(refused: bool) -> None:
    of = two_ports()
    kernel, choice = host(of), choice_of(of)
    if refused:
        kernel.fail_at = {0: errno.EPERM}
    done = reconcile(kernel, of, choice)
    assert done.converged is not refused
    check("report", enveloped(report.result_json(of, choice, done, interrupted=False), "0" * 64))


def test_a_captured_state_is_as_published() -> None:
    done = run("observe")
    value = json.loads(done.out)
    check("state", value)
    assert value["digest"] is None
    of = two_ports()
    kernel = host(of)
    converge(kernel, of, choice_of(of))
    check("state", enveloped(dump(kernel.observe()), None))


def test_a_validation_is_as_published_and_names_its_files(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("schema: reconciler/v1\n")
    value = json.loads(run("validate", "-o", "json", str(file), str(broken), str(tmp_path / "nowhere.yaml")).out)
    check("validation", value)
    digests = [hashlib.sha256(one.read_bytes()).hexdigest() for one in (file, broken)]
    assert [one["digest"] for one in value["files"]] == [*digests, None]


def test_a_status_is_as_published_whatever_the_state() -> None:
    kept = Guards().granted()
    for step in (
        lambda: None,
        lambda: kept.wires.vm(dead=True),
        lambda: kept.turn(HoldPlaced(Hold("bypass", "ann", "new cables", kept.now + 60_000))),
        lambda: kept.guarding.switch(on=False),
        lambda: setattr(kept.core, "found", None),
    ):
        step()
        kept.wait(1_000)
        taken = kept.core.see_paths(ask=True)
        guard, warnings = kept.guarding.status(kept.core.paths.guards)
        value = enveloped({**status(kept.core, taken, warnings), "guard": guard, "pid": 1}, "0" * 64)
        check("status", value)
        check("why", why_json(value, 10_000))


def test_the_lines_of_a_story_are_as_published() -> None:
    kept = Kept(watched(vm=PROGRAMS)).start()
    kept.wait(12_000)
    kept.power(on=False)
    kept.turn(changed=True)
    kept.wait(1_001)
    kept.turn(RestartEnded(kept.restarts[-1].asked_ms, Ending.REFUSED, "no"))
    kept.power(on=True)
    kept.turn(changed=True)
    kept.turn(HoldPlaced(Hold("bypass", "ann", "new cables", kept.now + 60_000)))
    kept.turn(Reading("nobody", HealthState.HEALTHY, "?"))
    kept.kernel["sw-bypass"].settings[Setting.STP] = True
    kept.turn(changed=True)
    kept.kernel.remove("eth0")
    kept.turn(changed=True)
    kept.wait(12_000)
    assert len(set(kept.events())) > 5
    for line in kept.lines:
        check("log", line)


def test_an_internal_error_is_as_published(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(sys.stdout, as_json=True)
    journal.bug(ZeroDivisionError("a bug"), " in a test")
    journal.bug(ZeroDivisionError("a bug"), " in a test", event="source", signal="x")
    for line in capsys.readouterr().out.splitlines():
        check("log", json.loads(line))
