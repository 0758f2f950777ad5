"""A file is judged by a process of its own, and what that process does is judged, too."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from worlds import two_ports, two_ports_document

from reconciler.errors import HostError
from reconciler.host import prover, store
from reconciler.host.prover import RefusedFileError, prove

GOOD = json.dumps(two_ports_document()).encode()


def test_a_good_file_becomes_an_appliance_and_is_known_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prove(GOOD, "a.yaml", tmp_path) == two_ports()
    assert store.known(GOOD, tmp_path) == two_ports()
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    assert prove(GOOD, "a.yaml", tmp_path) == two_ports()


@pytest.mark.parametrize("text", [b"", b"\xff", b"{", b"[]", b"- \x1b[8m", GOOD.replace(b'"bypass"', b'"bypas"')])
def test_a_broken_file_is_refused_with_all_its_mistakes(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(RefusedFileError) as caught:
        prove(text, "a.yaml", tmp_path)
    assert "a.yaml" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "checker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("kill -9 $$", "its checker ended with -9"),
        ("exit 3", "its checker ended with 3"),
        ("echo '{'", "its checker ended with 0"),
        ("echo '[]'", "its checker ended with 0"),
        ("echo 7", "its checker ended with 0"),
        ("echo '{}'", "its checker ended with 0"),
        ("echo '{\"appliance\": {}}'", "its checker ended with 0"),
        ("echo '{\"appliance\": null}'", "its checker ended with 0"),
        ("cat > /dev/null; printf '%100000s' | tr ' ' '['", "its checker ended with 0"),
    ],
)
def test_a_checker_that_ends_badly_is_the_hosts_fault_and_not_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    checker(tmp_path, monkeypatch, script)
    with pytest.raises(HostError, match=r"cannot check a\.yaml") as caught:
        prove(GOOD, "a.yaml", tmp_path / "state")
    assert told in str(caught.value)


def test_a_checker_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checker(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(prover, "_TIMEOUT_S", 0.2)
    with pytest.raises(HostError, match="timed out"):
        prove(GOOD, "a.yaml", tmp_path / "state")


def test_no_checker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    with pytest.raises(HostError, match=r"cannot check a\.yaml"):
        prove(GOOD, "a.yaml", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="a store that nobody may write")
def test_a_store_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert prove(GOOD, "a.yaml", tmp_path / "file") == two_ports()
