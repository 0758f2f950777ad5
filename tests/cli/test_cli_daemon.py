"""`run`, `status`, `why`, `hold`, `release`, `reload`: help, wrong usage, and what they say without a daemon."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from commandline import run
from worlds import two_ports_document

from reconciler.control import ask as asking
from reconciler.control import client

COMMANDS = ("run", "status", "why", "hold", "release", "reload")
HOLD = ("hold", "bypass", "--for", "30m", "--reason", "x")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("RECONCILER_STATE_DIR", str(tmp_path / "state"))
    # Nothing here may get as far as keeping anything.
    monkeypatch.setattr("reconciler.daemon.loop.Daemon.run", _never)
    return tmp_path


def _never(*_: Any) -> None:
    raise AssertionError("a daemon was about to run in the namespace of this machine")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(json.dumps(two_ports_document()))
    return path


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a daemon would be asked; it agrees to everything."""
    asked: list[Any] = []

    def answer(file: Path | None, **request: Any) -> Any:
        asked.append((file, request))
        return {"choice": {"wire": "bypass"}, "converged": True, "sku": "two"}

    monkeypatch.setattr(client, "answer_of", answer)
    return asked


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(command: str, flag: str) -> None:
    done = run(command, flag)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: reconcile {command} ")
    assert max(map(len, done.out.splitlines())) <= 110
    assert "--file" in done.out


def test_all_of_them_are_in_the_help_of_all() -> None:
    out = run("--help").out
    for command in COMMANDS:
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("hold",), "Missing argument"),
        (("hold", "bypass"), "Missing option '--for'"),
        (("hold", "bypass", "--for", "30m"), "Missing option '--reason'"),
        (("hold", "--for", "30m", "--reason", "x"), "Missing argument"),
        (("hold", "=bypass", "--for", "30m", "--reason", "x"), "no segment before the ="),
        (("hold", "a", "b", "--for", "30m", "--reason", "x"), "unexpected extra argument"),
        (("release", "a", "b"), "unexpected extra argument"),
        (("reload", "x"), "unexpected extra argument"),
        (("status", "--output", "xml"), "'xml' is not one of"),
        (("status", "--wach"), "No such option"),
        (("why", "--log", "json"), "No such option"),
        (("run", "--log", "xml"), "'xml' is not one of"),
        (("--dry-run", "status"), "--dry-run belongs to `reconcile` itself"),
        (("-t", "bypass", "hold", "bypass", "--for", "1m", "--reason", "x"), "--topology belongs to `reconcile`"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(words: tuple[str, ...], told: str) -> None:
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


def status_of(path: str, by: str, *, converged: bool = True) -> dict[str, Any]:
    """What a daemon of one segment would answer."""
    segment = {
        "name": "wire", "topology": "inspect", "since_ms": 1_000, "verdict": "healthy", "hold": None, "flaps": 0,
        "hold_down_left_ms": None, "path": path, "path_by": by, "path_ms": 61_000, "path_evidence": "so it is",
    }  # fmt: skip
    vm = {"phase": "steady", "since_ms": 1_000, "due_ms": None, "attempts": 0, "attempts_declared": 0, "unreached": 0}
    more: dict[str, Any] = {"signals": [], "guard": None, "warnings": [], "decisions": []}
    network = {"converged": converged}
    return {"sku": "two", "choice": {"wire": "inspect"}, "segments": [segment], "vm": vm, "network": network, **more}


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize(
    ("found", "code", "first"),
    [
        (status_of("inspected", "switches"), 0, "INSPECTED  as declared"),
        (status_of("unknown", "switches"), 1, "UNKNOWN  wire: unknown whether inspected 1 min 1 s (so it is)"),
        (status_of("inspected", "switches", converged=False), 3, "INSPECTED  the network is not as wanted"),
        (status_of("bypassed", "guard"), 4, "NOT INSPECTED  wire: bypassed by the guard 1 min 1 s (so it is)"),
        (
            status_of("bypassed", "switches", converged=False),
            4,
            "NOT INSPECTED  wire: bypassed 1 min 1 s (so it is); the network is not as wanted",
        ),
        (status_of("cut", "guard"), 5, "CUT  wire: cut by the guard 1 min 1 s (so it is)"),
        (
            status_of("cut", "switches", converged=False),
            5,
            "CUT  wire: cut 1 min 1 s (so it is); the network is not as wanted",
        ),
    ],
)
def test_status_ends_with_the_worst_news_and_begins_with_it(
    monkeypatch: pytest.MonkeyPatch, found: Any, code: int, first: str, output: str
) -> None:
    monkeypatch.setattr(client, "answer_of", lambda *_, **__: {"status": found})
    monkeypatch.setenv("COLUMNS", "200")
    done = run("status", "-o", output)
    assert (done.code, done.err) == (code, "")
    if output == "json":
        assert json.loads(done.out) == found
    else:
        assert done.out.splitlines()[0] == f"● two  {first}"


def test_the_help_of_status_says_what_it_ends_with() -> None:
    out = " ".join(run("status", "--help").out.split())
    for words in ("0 as declared and every segment inspected", "5 a segment is cut", "4 a segment is bypassed"):
        assert words in out


@pytest.mark.parametrize("value", ["", "5", "m", "0m", "-1m", "1.5h", "30 m", "1w", "1M", "٣m", "9999999m", "x\x1b"])
def test_a_duration_that_is_none(value: str) -> None:
    done = run("hold", "bypass", "--for", value, "--reason", "x")
    assert done.code == 2
    assert "is no duration" in done.err
    assert "\x1b" not in done.err


def test_a_duration_that_is_too_long() -> None:
    for value in ("31d", "721h", "999999d"):
        done = run("hold", "bypass", "--for", value, "--reason", "x")
        assert done.code == 2
        assert "at most 30 days" in done.err


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (HOLD, {"do": "hold", "topology": "bypass", "seconds": 1_800, "reason": "x"}),
        (
            ("hold", "edge=bypass", "--for", "30d", "--reason", "x"),
            {"do": "hold", "topology": "bypass", "segment": "edge", "seconds": 2_592_000, "reason": "x"},
        ),
        (
            ("hold", "bypass", "--for", "1s", "--reason", "a b"),
            {"do": "hold", "topology": "bypass", "seconds": 1, "reason": "a b"},
        ),
        (("release",), {"do": "release"}),
        (("release", "edge"), {"do": "release", "segment": "edge"}),
    ],
)
def test_what_is_asked_of_the_daemon(told: list[Any], words: tuple[str, ...], request_: dict[str, Any]) -> None:
    done = run(*words)
    assert (done.code, done.out, done.err) == (0, "wire=bypass\n", "")
    assert told == [(None, request_)]


def test_the_file_is_understood_before_and_after_the_command(told: list[Any], file: Path) -> None:
    run("-f", str(file), "reload")
    run("reload", "-f", str(file))
    assert told == [(file, {"do": "reload"})] * 2


def test_a_network_that_does_not_get_there_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "answer_of", lambda *_, **__: {"choice": {"a": "x", "b": "y"}, "converged": False})
    done = run(*HOLD)
    assert (done.code, done.out) == (1, "")
    assert done.err == "reconcile: wanted is a=x, b=y, and the network is not there yet: reconcile status\n"


# --- without a daemon ------------------------------------------------------------------------------------------------

ASKING = [("status",), ("status", "-o", "json"), ("status", "--watch"), ("why",), HOLD, ("release",), ("reload",)]


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_without_a_daemon_one_sentence_and_1(words: tuple[str, ...], folder: Path) -> None:
    done = run(*words)
    assert (done.code, done.out) == (1, "")
    assert done.err == (f"reconcile: no daemon runs: nothing listens in {folder / 'run'}; start one: reconcile run\n")


@pytest.mark.parametrize("words", [HOLD, ("release",), ("reload",)], ids=" ".join)
def test_with_a_file_it_says_where_it_should_have_listened(words: tuple[str, ...], folder: Path, file: Path) -> None:
    done = run(*words, "-f", str(file))
    assert (done.code, done.out) == (1, "")
    assert f"no daemon answers at {folder / 'run' / 'two.sock'}: No such file or directory" in done.err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("words", [("status",), ("status", "-o", "json"), ("why",)], ids=" ".join)
def test_with_a_file_who_looks_is_told_what_the_kernel_has(words: tuple[str, ...], file: Path) -> None:
    done = run(*words, "-f", str(file))
    assert done.err == ""
    # None of its ports is on this machine.
    assert "cut" in done.out
    assert "no interface matches name" in done.out
    assert done.code == (5 if words[0] == "status" else 0)


def test_a_file_that_is_none_is_told_as_everywhere(folder: Path) -> None:
    assert "cannot read" in run("status", "-f", str(folder / "no.yaml")).err
    (folder / "broken.yaml").write_text("{}")
    done = run("reload", "-f", str(folder / "broken.yaml"))
    assert done.code == 1
    assert "broken.yaml" in done.err


def test_a_hung_daemon_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(asking, "_AT_ONCE_S", 0.2)
    (folder / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "run" / "two.sock"))
        listener.listen()
        done = run("status")
    assert (done.code, done.out) == (1, "")
    assert "does not answer: not within 0.2 s; is it hung?" in done.err


# --- run -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.host.privileges.check_may_administer", lambda *_: None)


@pytest.mark.usefixtures("admin")
def test_a_file_that_cannot_be_kept_is_refused_before_anything_else(folder: Path, file: Path) -> None:
    assert "cannot read" in run("run", "-f", str(folder / "no.yaml")).err
    file.write_text(file.read_text().replace('"bypass"', '"bypas"'))
    done = run("run", "-f", str(file))
    assert (done.code, done.out) == (1, "")
    assert "bypas" in done.err
    assert not (folder / "run").exists()


@pytest.mark.usefixtures("admin")
def test_a_topology_to_leave_behind_must_be_declared(file: Path) -> None:
    done = run("run", "-f", str(file), "--stop-topology", "bypas")
    assert done.code == 2
    assert "no topology is called 'bypas'; two declares: inspect, bypass" in done.err


@pytest.mark.usefixtures("admin")
def test_a_folder_for_the_lock_that_cannot_be_made(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "in the way").write_text("")
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(folder / "in the way" / "run"))
    done = run("run", "-f", str(file))
    assert (done.code, done.out) == (1, "")
    assert "RECONCILER_RUN_DIR" in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_who_may_not_is_told_what_it_takes(file: Path) -> None:
    done = run("run", "-f", str(file))
    assert (done.code, done.out) == (1, "")
    assert "CAP_NET_ADMIN" in done.err


def test_a_process_without_the_capability_is_told_what_it_takes(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import builtins

    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t00000000a80405fb\n")
    genuine = builtins.open
    monkeypatch.setattr(
        builtins,
        "open",
        lambda name, *more, **options: genuine(status if name == "/proc/self/status" else name, *more, **options),
    )
    done = run("run", "-f", str(file))
    assert (done.code, done.out) == (1, "")
    assert done.err == "reconcile: keeping an appliance needs the capability CAP_NET_ADMIN: run as root\n"
