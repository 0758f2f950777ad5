"""Each file of the corpus: what `load` says and where, and that other validators of the schema say the same."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from reconciler.appliance.load import InvalidFileError, load
from reconciler.appliance.written import schema, shape
from reconciler.appliance.yaml import document

ROOT = Path(__file__).parents[2]
VALID = sorted((ROOT / "tests" / "corpus" / "valid").glob("*.yaml"))
BROKEN = sorted((ROOT / "tests" / "corpus" / "broken").glob("*.yaml"))
TOPOLOGIES = sorted((ROOT / "topologies").glob("*.yaml"))
VALIDATOR = Draft202012Validator(schema.schema())


def name(path):
    return path.stem


def header(path):
    head = re.match(r"# schema: (accept|reject)\n# error: (\d+):(\d+): (.+)\n", path.read_text())
    assert head, f"{path} lacks its header"
    return head[1], int(head[2]), int(head[3]), head[4]


def rejected(path):
    return header(path)[0] == "reject"


def beneath_the_schema(path):
    """What YAML itself refuses; each loader has its own ideas there, and a schema never sees it."""
    return path.stem.startswith("yaml-")


def test_there_is_enough_of_it():
    assert len(VALID) >= 12
    assert len(BROKEN) >= 60
    assert len(TOPOLOGIES) >= 6


@pytest.mark.parametrize("path", VALID + TOPOLOGIES, ids=name)
def test_valid(path):
    load(path.read_bytes(), path.name)
    read = document.read(path.read_bytes())
    assert not list(VALIDATOR.iter_errors(read.data))
    assert shape.validate(read.data)[0]


@pytest.mark.parametrize("path", BROKEN, ids=name)
def test_broken(path):
    _, line, column, expected = header(path)
    with pytest.raises(InvalidFileError) as caught:
        load(path.read_bytes(), path.name)
    said = [(m.position.line, m.position.column, f"{m.what}; {m.right}") for m in caught.value.mistakes]
    assert any(at == line and where == column and expected in words for at, where, words in said), said


@pytest.mark.parametrize("path", [path for path in BROKEN if not beneath_the_schema(path)], ids=name)
def test_verdict_of_schema_and_model(path):
    data = document.read(path.read_bytes()).data
    assert bool(list(VALIDATOR.iter_errors(data))) is rejected(path)
    assert (shape.validate(data)[0] is None) is rejected(path)


def check_jsonschema(*files):
    program = [sys.executable, "-m", "check_jsonschema", "--output-format", "json"]
    where = ["--schemafile", str(ROOT / "schemas" / "appliance.schema.json")]
    ran = subprocess.run([*program, *where, *map(str, files)], capture_output=True, text=True, timeout=60, check=False)
    return json.loads(ran.stdout)


@pytest.mark.long
def test_check_jsonschema_accepts():
    files = [path for path in BROKEN if not rejected(path) and not beneath_the_schema(path)]
    said = check_jsonschema(*VALID, *TOPOLOGIES, *files)
    assert said["status"] == "ok", said


@pytest.mark.long
def test_check_jsonschema_rejects():
    files = [path for path in BROKEN if rejected(path)]
    said = check_jsonschema(*files)
    assert {Path(error["filename"]) for error in said["errors"]} == set(files)
    assert not said.get("parse_errors")


@pytest.mark.parametrize("path", TOPOLOGIES, ids=name)
def test_topology_files_tell_the_editor_and_the_vendor(path):
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=../schemas/appliance.schema.json\n#\n# ")
    assert "Where the facts come from" in text
    assert "reconcile discover" in text
