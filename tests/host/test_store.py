"""Appliances that were proven before."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S
from worlds import two_ports_document

from reconciler.appliance import load as loading
from reconciler.appliance.load import InvalidFileError
from reconciler.host import store

TEXT = json.dumps(two_ports_document()).encode()


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that had to be parsed and proven."""
    seen: list[str] = []
    genuine = loading.load

    def counted(text: bytes, name: str) -> Any:
        seen.append(name)
        return genuine(text, name)

    monkeypatch.setattr(loading, "load", counted)
    return seen


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "proven").iterdir())


def test_a_file_that_has_not_changed_is_proven_once(tmp_path: Path, proofs: list[str]) -> None:
    first = store.load(TEXT, "a.yaml", tmp_path)
    assert store.load(TEXT, "b.yaml", tmp_path) == first
    assert proofs == ["a.yaml"]
    store.load(TEXT + b"\n", "a.yaml", tmp_path)
    assert proofs == ["a.yaml", "a.yaml"]


def test_who_hits_pays_for_neither_parser_nor_prover(tmp_path: Path) -> None:
    store.load(TEXT, "a.yaml", tmp_path)
    code = (
        "import sys; from pathlib import Path; from reconciler.host import store\n"
        "store.load(sys.stdin.buffer.read(), 'a.yaml', Path(sys.argv[1]))\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], input=TEXT, capture_output=True, timeout=PATIENCE_S, check=True
    )
    modules = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert "reconciler" in modules
    assert not modules & {"pydantic", "ruamel", "networkx", "pyroute2"}


def test_an_invalid_file_is_not_remembered(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InvalidFileError):
            store.load(b"schema: reconciler/v1", "a.yaml", tmp_path)
    assert not (tmp_path / "proven").exists()


TORN = [b"", b"{", b"[]", b"null", b'{"sku": "x"}', b"\xff\xff", b'{"sku": "x", "ports": []}', b"[" * 100_000]


@pytest.mark.parametrize("content", TORN)
def test_a_torn_or_alien_entry_is_as_good_as_none(tmp_path: Path, proofs: list[str], content: bytes) -> None:
    first = store.load(TEXT, "a.yaml", tmp_path)
    (entry,) = entries(tmp_path)
    entry.write_bytes(content)
    assert store.load(TEXT, "a.yaml", tmp_path) == first
    assert len(proofs) == 2
    # And it is repaired.
    assert store.load(TEXT, "a.yaml", tmp_path) == first
    assert len(proofs) == 2


CARE = {
    "vm": {"libvirt": {"domain": "ips"}, "adapters": {"outside": {"tap": "tap0"}, "inside": {"tap": "tap1"}}},
    "health": {
        "signals": {"beat": {"kind": "heartbeat", "socket": "/run/a"}, "up": {"kind": "carrier"}},
        "groups": {"g": {"any_of": ["up"]}},
    },
}


@pytest.mark.parametrize("alien", [..., None, 3, "Http", [], {}, {"Http": {}}, {"beat": 3}])
@pytest.mark.parametrize(
    "path",
    [
        ("hypervisor",),
        ("hypervisor", "Libvirt"),
        ("health",),
        ("health", "signals"),
        ("health", "signals", "beat"),
        ("health", "signals", "beat", "source"),
        ("health", "signals", "beat", "source", "Heartbeat"),
        ("health", "signals", "beat", "fall"),
        ("health", "groups", "g"),
        ("on_failure",),
        ("on_failure", "ladder"),
    ],
    ids=".".join,
)
def test_an_alien_entry_of_health_and_failure_is_as_good_as_none(
    tmp_path: Path, proofs: list[str], path: tuple[str, ...], alien: Any
) -> None:
    """Taken away (...) or replaced: never an error, and never taken for a signal or a hypervisor of another kind."""
    text = json.dumps(two_ports_document(**CARE)).encode()
    first = store.load(text, "a.yaml", tmp_path)
    (entry,) = entries(tmp_path)
    whole = node = json.loads(entry.read_bytes())
    for step in path[:-1]:
        node = node[step]
    if alien is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = alien
    entry.write_text(json.dumps(whole))
    again = store.load(text, "a.yaml", tmp_path)
    # What has the right shape is believed: nobody else could have written it.
    of_right_shape = path[-1] in ("beat", "g") if alien is ... else alien in (None, [], {})
    assert again == first or (of_right_shape and len(proofs) == 1), again


def test_every_torn_prefix_of_an_entry_is_as_good_as_none(tmp_path: Path) -> None:
    first = store.load(TEXT, "a.yaml", tmp_path)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    for size in range(0, len(whole), 97):
        entry.write_bytes(whole[:size])
        assert store.load(TEXT, "a.yaml", tmp_path) == first


@pytest.mark.parametrize("mode", [stat.S_IWGRP, stat.S_IWOTH])
@pytest.mark.parametrize("what", ["entry", "folder"])
def test_what_others_could_have_written_is_not_trusted(tmp_path: Path, proofs: list[str], mode: int, what: str) -> None:
    store.load(TEXT, "a.yaml", tmp_path)
    (entry,) = entries(tmp_path)
    target = entry if what == "entry" else entry.parent
    target.chmod(stat.S_IMODE(target.stat().st_mode) | mode)
    store.load(TEXT, "a.yaml", tmp_path)
    assert len(proofs) == 2


def test_what_somebody_else_owns_is_not_trusted(
    tmp_path: Path, proofs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load(TEXT, "a.yaml", tmp_path)
    (entry,) = entries(tmp_path)
    if os.geteuid() == 0 and _may_give_away(entry):
        assert entry.stat().st_uid == 65534
    else:
        # An entry of ours, seen by another user.
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
        if entry.stat().st_uid == 0:
            pytest.skip("root's entries are trusted by everybody, and this root cannot give one away")
    store.load(TEXT, "a.yaml", tmp_path)
    assert len(proofs) == 2


def _may_give_away(path: Path) -> bool:
    try:
        os.chown(path, 65534, 65534)
    except OSError:
        return False
    return True


def test_the_number_of_entries_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "proven").mkdir()
    for number in range(50):
        # Also what a killed process left half-written.
        (tmp_path / "proven" / f".torn{number}").write_text("")
        (tmp_path / "proven" / f"{number}.json").write_text("{}")
        for name in (f".torn{number}", f"{number}.json"):
            os.utime(tmp_path / "proven" / name, (number, number))
    store.load(TEXT, "a.yaml", tmp_path)
    left = entries(tmp_path)
    assert len(left) <= 33
    # The newest stay, and ours among them.
    assert sum(entry.name.startswith(".torn") for entry in left) <= 16
    assert len([entry for entry in left if len(entry.stem) == 64]) == 1


def test_another_program_proves_again(tmp_path: Path, proofs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    store.load(TEXT, "a.yaml", tmp_path)
    monkeypatch.setattr(store, "__version__", "999")
    store.load(TEXT, "a.yaml", tmp_path)
    assert len(proofs) == 2
    rooms, form = tmp_path / "appliance", tmp_path / "codec.py"
    (rooms / "rules").mkdir(parents=True)
    monkeypatch.setattr(store.appliance, "__path__", [str(rooms)])
    monkeypatch.setattr(store.codec, "__file__", str(form))
    files = [rooms / "declared.py", rooms / "rules" / "guard.py", form]
    for path in files:
        path.write_text("")
    store.load(TEXT, "a.yaml", tmp_path)
    for path in files:
        before = len(proofs)
        os.utime(path, (1, 1))
        for _ in range(2):
            store.load(TEXT, "a.yaml", tmp_path)
        assert len(proofs) == before + 1, path


def test_a_store_that_cannot_be_written_costs_only_time(tmp_path: Path, proofs: list[str]) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert store.load(TEXT, "a.yaml", tmp_path / "file").sku == "two"
    assert len(proofs) == 2
