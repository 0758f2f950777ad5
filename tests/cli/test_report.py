"""`reconcile report`: from files alone, in four forms, and whatever a ledger that was handed in says."""

import csv
import io
import json
import os
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from commandline import run
from formats import check
from ledgers import chain, entry
from worlds import two_ports_document

from reconciler.cli import report_html
from reconciler.host import ledgers
from reconciler.ledger.entry import Counted, Entry, EntryKind

S = 1_000
BEGIN = 1_790_000_000_000
WINDOW = ("--since", "2026-09-21T14:13:20", "--until", "2026-09-21T14:30:00")  # 1,000 s from BEGIN on

EVIL = "<script>alert(1)</script>\x1b[31m\u202e\n=1+1\"'&"


def at(kind: EntryKind, since: float, until: float | None, **more: Any) -> Entry:
    return entry(kind, int(BEGIN + since * S), None if until is None else int(BEGIN + until * S), **more)


def written(folder: Path, *more: Entry, name: str = "lab.ledger.jsonl", **by: Any) -> Path:
    begun, over = at(EntryKind.START, 0, 0, evidence=("wan", "dmz")), at(EntryKind.STOP, 1_000, 1_000)
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"".join(chain(begun, *more, over, **by)))
    return folder / name


FAILED = at(
    EntryKind.BYPASSED, 100, 350, id="x", segment="wan", cause="the VM failed", evidence=("lease ran out",),
    frames=12_345, bytes=67_890, counted=Counted.EXACT,
)  # fmt: skip
HELD = at(
    EntryKind.HOLD,
    400,
    450,
    id="h",
    segment="wan",
    planned=True,
    cause="held on bypass",
    who="ann as root",
    reason="cable",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECONCILER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "state"


def test_text_fits_a_terminal_and_says_share_cause_and_who(folder: Path) -> None:
    written(folder, FAILED, HELD)
    done = run("report", *WINDOW)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "lab on ax6  2026-09-21 14:13 to 2026-09-21 14:30 UTC"
    wan = next(line for line in lines if line.startswith("  wan"))
    assert wan.split() == ["wan", "75.000", "%", "25.000", "%", "–", "–", "–"]
    assert "100 %" in next(line for line in lines if line.startswith("  dmz"))
    told = done.out
    assert "past the VM: 12,345 frames, 67,890 bytes" in told
    assert "2026-09-21 14:15:00      4 min 10 s  bypassed  wan\n    the VM failed\n" in told
    assert "    ann as root: cable" in told
    assert "rows 1 to 4" in told


def test_one_segment_alone(folder: Path) -> None:
    written(folder, FAILED, HELD)
    done = run("report", "dmz", *WINDOW)
    assert "nothing else happened" in done.out
    assert "wan" not in done.out
    done = run("report", "lan", *WINDOW)
    assert (done.code, done.out) == (1, "")
    assert "no segment is called 'lan'; the ledger speaks of: dmz, wan" in done.err


def test_json_is_what_its_schema_says(folder: Path) -> None:
    written(folder, FAILED, HELD)
    value = json.loads(run("report", "--format", "json", *WINDOW).out)
    check("exposure", value)
    (one,) = value["appliances"]
    assert one["segments"][0] == {
        "segment": "wan", "inspected_ms": 750_000, "bypassed_ms": 250_000, "held_ms": 0, "cut_ms": 0, "unknown_ms": 0,
        "unsure_ms": 0, "passed": {"frames": 12_345, "bytes": 67_890, "counted": "exact"},
        "cut": {"frames": 0, "bytes": 0, "counted": "exact"},
    }  # fmt: skip
    assert [(each["kind"], each["who"], each["lasted_ms"]) for each in one["intervals"]] == [
        ("bypassed", "", 250_000), ("hold", "ann as root", 50_000),
    ]  # fmt: skip


def test_the_rows_of_a_ledger_are_what_their_schema_says(folder: Path) -> None:
    for text in written(folder, FAILED, HELD, at(EntryKind.CUT, 5, None, id="c")).read_text().splitlines():
        check("ledger", json.loads(text))


@pytest.mark.parametrize("cause", ["=1+1", "+1", "-1", "@x", " =1", "\t=1", "\uff1d1", "'=1"])
def test_no_cell_of_csv_is_a_formula(folder: Path, cause: str) -> None:
    written(folder, at(EntryKind.CUT, 5, 6, segment="wan", cause=cause, who='a,"b"\nc', evidence=("=1", "=2")))
    table = list(csv.DictReader(io.StringIO(run("report", "--format", "csv", *WINDOW).out)))
    assert len(table) == 1
    assert table[0]["kind"] == "cut"
    assert table[0]["who"] == 'a,"b"\\nc'
    for cell in table[0].values():
        assert not re.match(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]", cell)


class Page(HTMLParser):
    """The elements of a page, and what is in it to be read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.read = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.read += data


def test_html_is_one_file_that_fetches_nothing_and_has_a_timeline(folder: Path) -> None:
    written(folder, FAILED, HELD)
    text = run("report", "--format", "html", *WINDOW).out
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not {"src", "href", "style", "onload"} & {name for name, _ in page.attributes}
    assert "default-src 'none'" in str(page.attributes)
    assert not re.search(r"url\(|@import|https?:", text)
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text
    bars = re.findall(r'<rect class="(\w+)" fill="#\w{6}" x="(\d+)" y="(\d+)" width="(\d+)"', text)
    wan = [(share, int(width)) for share, _, y, width in bars if y == "6"]
    assert wan == [("inspected", 72), ("bypassed", 180), ("inspected", 468)]
    assert "ann as root: cable" in page.read


def test_a_second_shows_in_a_year() -> None:
    pieces = [
        report_html.Piece(report_html.Share.INSPECTED, 0, 10**9),
        report_html.Piece(report_html.Share.CUT, 10**9, 10**9 + S),
        report_html.Piece(report_html.Share.INSPECTED, 10**9 + S, 365 * 86_400 * S),
    ]
    made = list(report_html.columns(pieces, 0, 365 * 86_400 * S))
    assert [share.value for *_, share in made] == ["inspected", "cut", "inspected"]
    assert made[-1][1] == report_html.COLUMNS


@pytest.mark.parametrize("form", ["text", "csv", "json", "html"])
def test_a_stranger_s_text_is_escaped_in_each_form(folder: Path, tmp_path: Path, form: str) -> None:
    written(folder)
    evil = at(
        EntryKind.CUT, 5, None, id=EVIL, segment=EVIL, cause=EVIL, who=EVIL, reason=EVIL, evidence=(EVIL, "\ud800")
    )
    path = written(tmp_path, evil, name="evil", host=EVIL, appliance=EVIL, machine=EVIL, version=EVIL)
    done = run("report", "--format", form, "--merge", str(path), *WINDOW)
    assert done.code == 0
    assert not {"\x1b", "\u202e", "\x00"} & set(done.out)
    if form == "html":
        assert "<script" not in done.out
        assert "script" not in Page(done.out).tags
    if form == "json":
        assert json.loads(done.out)


HOSTILE = {
    "nothing": b"",
    "no rows": b"\0" * 5_000,
    "a long line": b"x" * 3_000_000 + b"\n",
    "many lines": b"{}\n" * 50_000,
    "deep": b"[" * 200_000 + b"\n",
    "binary": bytes(range(256)) * 100,
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("form", ["text", "html"])
def test_what_is_no_ledger_is_named_and_the_rest_is_told(folder: Path, tmp_path: Path, what: str, form: str) -> None:
    written(folder, FAILED)
    (tmp_path / "handed").write_bytes(HOSTILE[what])
    done = run("report", "--format", form, "--merge", str(tmp_path / "handed"), *WINDOW)
    assert (done.code, done.err) == (1, "")
    assert "handed" in done.out
    assert "roken" in done.out or "BROKEN" in done.out
    assert "the VM failed" in done.out
    assert len(done.out) < 40_000


def test_of_a_file_without_an_end_so_much_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "MOST_BYTES", 2_000)
    path = written(tmp_path, *[at(EntryKind.CUT, one, one) for one in range(50)], name="long")
    done = run("report", "--merge", str(path), *WINDOW)
    assert done.code == 1
    assert "is no row: its end is missing" in done.out


def test_a_broken_chain_is_named_in_each_form(folder: Path) -> None:
    path = written(folder, FAILED, HELD)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[::2]))
    for form, told in (
        ("text", "BROKEN: row 2 is missing"), ("html", "Broken: row 2 is missing"), ("csv", "row 2 is missing"), ("json", "row 2 is missing"),
    ):  # fmt: skip
        done = run("report", "--format", form, *WINDOW)
        assert done.code == 1
        assert told in done.out


def test_appliances_of_many_machines_are_one_report(folder: Path, tmp_path: Path) -> None:
    written(folder, FAILED)
    path = written(tmp_path, HELD, name="copy", host="ax7", machine="n" * 32)
    done = run("report", "--merge", str(path), *WINDOW)
    assert [line for line in done.out.splitlines() if line.startswith("lab on")] == [
        "lab on ax6  2026-09-21 14:13 to 2026-09-21 14:30 UTC",
        "lab on ax7  2026-09-21 14:13 to 2026-09-21 14:30 UTC",
    ]


def test_whoever_has_no_ledger_or_may_not_read_it_is_told_so(folder: Path) -> None:
    done = run("report")
    assert done.code == 1
    assert done.err == f"reconcile: no ledger lies in {folder}: `reconcile run` writes one\n"
    done = run("report", "--merge", str(folder / "none"))
    assert "No such file" in done.err
    folder.mkdir()
    done = run("report", "--merge", str(folder))
    assert "it is no file" in done.err
    path = written(folder)
    if os.geteuid():
        path.chmod(0)
        assert "chgrp" in run("report").err
    assert stat.S_ISREG(path.stat().st_mode)


@pytest.mark.parametrize("value", ["", "x", "90", "90y", "-5d", "2026-13-01", "9999999d", "1d2h"])
def test_what_is_no_moment_is_wrong_usage(value: str) -> None:
    done = run("report", f"--since={value}")
    assert done.code == 2
    assert "is no moment" in done.err


def test_it_has_to_begin_before_it_ends(folder: Path) -> None:
    written(folder)
    assert run("report", "--since", "2026-09-22", "--until", "2026-09-21").code == 2
    assert run("report", "--since", "90000d").code == 0


def test_with_a_file_it_is_of_its_appliance_alone(folder: Path, tmp_path: Path) -> None:
    written(folder, FAILED, name="two.ledger.jsonl", appliance="two")
    written(folder, HELD)
    file = tmp_path / "two.yaml"
    file.write_text(json.dumps(two_ports_document()))
    assert "two on ax6" in run("report", *WINDOW).out
    assert "lab on ax6" in run("report", *WINDOW).out
    for words in (("-f", str(file), "report"), ("report", "-f", str(file))):
        done = run(*words, *WINDOW)
        assert "two on ax6" in done.out
        assert "lab on ax6" not in done.out


@pytest.mark.parametrize("form", ["text", "csv", "json", "html"])
def test_what_somebody_did_by_hand_is_told_where_no_daemon_ever_ran(folder: Path, form: str) -> None:
    folder.mkdir()
    off = at(EntryKind.GUARD_OFF, 5, None, id="g", who="ann as root", planned=True)
    (folder / "lab.ledger.jsonl").write_bytes(b"".join(chain(off)))
    done = run("report", "--format", form, *WINDOW)
    assert (done.code, done.err) == (0, "")
    assert "ann as root" in done.out
