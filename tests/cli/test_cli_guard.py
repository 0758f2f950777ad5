"""`guard on`, `off` and `show`: help, wrong usage, what a daemon is asked, and that mistakes are sentences."""

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import run
from worlds import two_ports_document

from reconciler.control import client
from reconciler.daemon import kernel_guard
from reconciler.errors import HostError

VERBS = ("on", "off", "show")


@pytest.fixture(autouse=True)
def _nothing_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests run beside the machine's own network: what gets as far as applying has failed already."""
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("RECONCILER_STATE_DIR", str(tmp_path / "state"))
    for name in ("set_guard", "remove_guard"):
        monkeypatch.setattr(kernel_guard, name, _never)


def _never(*_: Any) -> None:
    raise AssertionError("the network of this machine was about to be changed")


def written(tmp_path: Path, **more: Any) -> str:
    path = tmp_path / "two.yaml"
    path.write_text(json.dumps({**two_ports_document(), **more}))
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return written(tmp_path, guard={})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What a daemon is asked, by the name of its socket; it agrees."""
    found: list[tuple[str, dict[str, Any]]] = []

    def answer(path: Path, **request: Any) -> dict[str, Any]:
        found.append((path.name, request))
        return {"on": request["on"], "sku": path.stem}

    monkeypatch.setattr(client, "ask", answer)
    return found


@pytest.mark.parametrize("words", [(), *((verb,) for verb in VERBS)])
def test_help(words: tuple[str, ...]) -> None:
    done = run("guard", *words, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: reconcile guard {' '.join(words)}".rstrip())
    assert max(map(len, done.out.splitlines())) <= 110
    assert "--file" in done.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("of",), "No such command 'of'"),
        (("on", "now"), "unexpected extra argument"),
        (("on", "--bot"), "No such option"),
        (("off", "--boot"), "No such option"),
        (("show", "--output", "json"), "No such option"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(words: tuple[str, ...], told: str) -> None:
    done = run("guard", *words)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_that_is_not_there_or_is_broken(tmp_path: Path, verb: str) -> None:
    done = run("guard", verb, "-f", str(tmp_path / "none.yaml"))
    assert (done.code, done.out) == (1, "")
    assert "none.yaml" in done.err
    done = run("guard", verb, "-f", written(tmp_path, guard={"lease": "1h"}))
    assert (done.code, done.out) == (1, "")
    assert "lease" in done.err


@pytest.mark.parametrize("verb", ["on", "show"])
def test_a_file_that_declares_no_guard(tmp_path: Path, verb: str) -> None:
    sku = two_ports_document()["appliance"]["sku"]
    done = run("guard", verb, "-f", written(tmp_path))
    assert (done.code, done.out) == (1, "")
    assert done.err == f"reconcile: the file of {sku} declares no guard: write `guard: {{}}` into it\n"


@pytest.mark.parametrize("before", [True, False], ids=["file before the verb", "file behind it"])
@pytest.mark.parametrize(("verb", "on"), [("on", True), ("off", False)])
def test_a_daemon_is_asked_and_does_it(file: str, asked: list[Any], before: bool, verb: str, on: bool) -> None:
    sku = two_ports_document()["appliance"]["sku"]
    done = run("guard", *(("-f", file, verb) if before else (verb, "-f", file)))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{sku}: the guard ")
    assert "daemon" in done.out
    assert asked == [(f"{sku}.sock", {"do": "guard", "on": on})]


@pytest.mark.parametrize("verb", ["on", "off"])
def test_a_daemon_that_refuses(file: str, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise HostError("the file declares no guard")

    monkeypatch.setattr(client, "ask", refuse)
    done = run("guard", verb, "-f", file)
    assert (done.code, done.out, done.err) == (1, "", "reconcile: the file declares no guard\n")


@pytest.mark.parametrize("words", [("on",), ("on", "--boot"), ("off",)])
def test_who_may_not_is_told_what_it_takes(file: str, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    def refuse(what: str) -> None:
        raise HostError(f"{what} takes the capability CAP_NET_ADMIN")

    monkeypatch.setattr("reconciler.host.privileges.check_may_administer", refuse)
    done = run("guard", *words, "-f", file)
    assert (done.code, done.out) == (1, "")
    assert " the guard " in done.err or " the guard" in done.err
    assert "CAP_NET_ADMIN" in done.err
