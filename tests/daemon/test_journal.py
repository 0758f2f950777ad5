"""Lines for people, for programs, and for journald."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler import __version__
from reconciler.daemon.journal import DescriptorJournal, Journal

EVIL = "\x1b[31mred\nnext\u202e"


@pytest.fixture(autouse=True)
def _no_journald(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


def told(
    level: int = logging.INFO, text: str = "hello", *, as_json: bool = False, priority: bool = False, **data: object
) -> str:
    stream = io.StringIO()
    Journal(stream, as_json=as_json, priority=priority, digest="00ff").tell("event", text, level=level, **data)
    return stream.getvalue()


def test_text_has_the_time_and_is_loud_only_where_it_matters() -> None:
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(time + " hello\n", told())
    assert re.fullmatch(time + " warning: hello\n", told(logging.WARNING))
    assert re.fullmatch(time + " error: hello\n", told(logging.ERROR))
    assert re.fullmatch(time + " critical: hello\n", told(logging.CRITICAL))


PRIORITIES = [
    (logging.DEBUG, 7),
    (logging.INFO, 6),
    (logging.WARNING, 4),
    (logging.ERROR, 3),
    (logging.CRITICAL, 2),
]


@pytest.mark.parametrize(("level", "priority"), PRIORITIES)
def test_journald_gets_each_priority_and_no_time(level: int, priority: int) -> None:
    line = told(level, priority=True)
    assert line.startswith(f"<{priority}>")
    assert line.endswith("hello\n")
    assert not re.search(r"\d{4}-", line)


@pytest.mark.parametrize(("level", "priority"), PRIORITIES)
def test_journald_gets_each_priority_of_json_too(level: int, priority: int) -> None:
    line = told(level, as_json=True, priority=True)
    assert line.startswith(f"<{priority}>{{")
    assert json.loads(line.removeprefix(f"<{priority}>"))["level"] == logging.getLevelName(level).lower()


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("journalds", [True, False])
def test_only_the_stream_that_journald_reads_gets_priorities(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_json: bool, journalds: bool
) -> None:
    writer = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    found = os.fstat(writer)
    # Whoever redirects a service's stderr leaves the variable as it was.
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino if journalds else found.st_ino + 1}")
    journal = DescriptorJournal(writer, as_json=as_json)
    journal.tell("guard", "hello", level=logging.WARNING)
    assert journal.flush(5)
    assert (tmp_path / "log").read_text().startswith("<4>") is journalds


def test_json_is_one_object_a_line_with_what_belongs_to_the_event() -> None:
    line = told(logging.ERROR, as_json=True, code="x", why=["a", "b"])
    value = json.loads(line)
    assert line.count("\n") == 1
    assert value.pop("time").endswith("Z")
    assert value == {
        "format": "reconciler.log/1",
        "host": os.uname().nodename,
        "version": __version__,
        "digest": "00ff",
        "level": "error",
        "event": "event",
        "text": "hello",
        "code": "x",
        "why": ["a", "b"],
    }


def test_a_strangers_text_is_escaped() -> None:
    line = told(text=EVIL)
    assert line.count("\n") == 1
    assert line.rstrip("\n").isprintable()
    assert json.loads(told(text=EVIL, as_json=True, why=EVIL))["why"] == EVIL
    assert told(text=EVIL, as_json=True, why=EVIL).rstrip("\n").isprintable()


def test_a_percent_sign_is_no_format() -> None:
    assert told(text="100 %s %d").endswith("100 %s %d\n")


def test_a_value_that_json_does_not_know_is_no_reason_to_fail() -> None:
    assert json.loads(told(as_json=True, what=object()))["what"].startswith("<object")


def test_a_stream_that_is_gone_is_no_reason_to_fail(capsys: pytest.CaptureFixture[str]) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Journal(Gone()).tell("event", "hello")
    assert capsys.readouterr() == ("", "")


def test_what_libraries_log_is_not_in_it() -> None:
    stream = io.StringIO()
    Journal(stream)
    logging.getLogger("reconciler").warning("not for the operator")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("as_json", [True, False])
def test_lines_that_were_lost_are_told_in_the_form_of_all_others(tmp_path: Path, as_json: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    journal = DescriptorJournal(writer, as_json=as_json)
    journal.tell("event", "hello")
    assert journal.flush(5)
    assert journal.lost == 1
    os.dup2(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), writer)
    journal.tell("event", "again")
    assert journal.flush(5)
    first, second = (tmp_path / "log").read_text().splitlines()
    assert "again" in second
    text = "1 line was lost here: the reader of the log was not there, or too slow"
    if as_json:
        told = json.loads(first)
        assert (told["event"], told["level"], told["text"], told["lines"]) == ("lost", "warning", text, 1)
    else:
        assert first.endswith(f"Z warning: {text}")


def test_a_log_that_was_closed_before_we_began_is_nobodys() -> None:
    journal = DescriptorJournal(None)
    journal.tell("event", "hello")
    assert journal.flush(5)
    assert journal.lost == 0


def test_an_internal_error_is_one_line_with_its_place() -> None:
    stream = io.StringIO()
    journal = Journal(stream, as_json=True)

    def inner() -> None:
        raise ZeroDivisionError("a bug")

    try:
        inner()
    except ZeroDivisionError as error:
        journal.bug(error, " in a test", event="source", signal="x")
    told = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert (told["event"], told["level"], told["signal"]) == ("source", "error", "x")
    assert re.fullmatch(
        r"internal error in a test: ZeroDivisionError: a bug \(test_journal\.py:\d+ inner\)", told["text"]
    )
    assert [call.partition(":")[0] for call in told["where"]] == ["test_journal.py"] * 2


STRAYS = """
import asyncio, json, logging, os, sys, threading, time, warnings
from reconciler import __version__
from reconciler.daemon.journal import DescriptorJournal, adopt_strays
journal = DescriptorJournal(sys.stderr.fileno(), as_json=True)
adopt_strays(journal)
def fail():
    raise ZeroDivisionError("a bug")
thread = threading.Thread(target=fail, name="worker")
thread.start(); thread.join()
class Dies:
    def __del__(self):
        fail()
Dies()
warnings.warn("mind this", stacklevel=1)
try:
    fail()
except ZeroDivisionError:
    logging.getLogger("some.library").exception("it failed\\nbadly")
logging.getLogger("some.library").error("it failed quietly")
logging.getLogger("some.library").info("nobody wants to know")
async def lost():
    asyncio.get_running_loop().create_task(asyncio.to_thread(fail))
    await asyncio.sleep(0.05)
asyncio.run(lost())
assert journal.flush(5)
os._exit(0)
"""


def test_whatever_python_and_libraries_would_print_is_a_line_of_ours() -> None:
    done = subprocess.run([sys.executable, "-c", STRAYS], capture_output=True, text=True, timeout=30, check=True)
    told = [json.loads(line) for line in done.stderr.splitlines()]
    texts = [one["text"] for one in told]
    bug = r"ZeroDivisionError: a bug \(<string>:\d+ fail\)"
    expected = [
        rf"internal error in the thread worker: {bug}",
        rf"internal error in <function Dies\.__del__ at .*>: {bug}",
        r"py\.warnings: <string>:\d+: UserWarning: mind this",
        rf"internal error \(it failed\): {bug}",
        r"some\.library: it failed quietly",
        rf"internal error \(Task exception was never retrieved\): {bug}",
    ]
    assert len(texts) == len(expected), texts
    for text, pattern in zip(texts, expected, strict=True):
        assert re.fullmatch(pattern, text), text
