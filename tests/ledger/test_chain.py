"""Rows and their chain: whatever is changed, taken out or put in shows; and nothing of a stranger's file is believed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import chain, entry, row

from reconciler.ledger.chain import Break, ChainedRow, links, ordered
from reconciler.ledger.entry import Counted, Entry, EntryKind
from reconciler.ledger.row import MAX_LINE, fitted, line, line_hash, parse

WHOLE = chain(*(entry(EntryKind.CUT, at, at + 5) for at in range(10)))


def faults(lines: list[bytes]) -> list[str]:
    found = [*links(lines)]
    rows, breaks = ordered(one for one in found if isinstance(one, ChainedRow))
    assert [one.row.n for one in rows] == sorted({one.row.n for one in rows})
    return [one.what for one in (*found, *breaks) if isinstance(one, Break)]


def test_what_was_written_is_whole_in_whatever_order_it_comes() -> None:
    assert not faults(WHOLE)
    assert not faults([*reversed(WHOLE), *WHOLE])


def changed(text: bytes) -> bytes:
    return text.replace(b'"frames":0', b'"frames":1')


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([*WHOLE[:3], changed(WHOLE[3]), *WHOLE[4:]], "row 4 is not the one that row 5 was written after: one of them was changed"),
        ([*WHOLE[:3], *WHOLE[4:]], "row 4 is missing"),
        ([*WHOLE[:3], *WHOLE[6:]], "rows 4 to 6 are missing"),
        ([*WHOLE, changed(WHOLE[2])], "row 3 is there in two versions"),
        (WHOLE[2:], "it begins with row 3: what came before is missing"),
        ([*WHOLE[:3], b"\0" * 80 + b"\n", *WHOLE[3:]], "line 4 is no row: no JSON"),
        ([*WHOLE[:-1], WHOLE[-1][:-1]], "line 10 is no row: its end is missing"),
    ],
)  # fmt: skip
def test_whatever_was_done_to_it_shows(lines: list[bytes], told: str) -> None:
    assert faults(lines) == [told]


def test_a_file_that_continues_says_so() -> None:
    lines = chain(entry(EntryKind.CONTINUED, 5, 5), entry(EntryKind.STOP, 6, 6), after=(41, line_hash(b"somebody")))
    assert not faults(lines)
    assert [one.row.n for one in links(lines) if isinstance(one, ChainedRow)] == [42, 43]


def test_any_byte_that_is_changed_shows() -> None:
    text = b"".join(WHOLE)
    for place in range(0, len(text) - len(WHOLE[-1]), 7):  # nothing follows the last row
        other = text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]
        assert faults(other.splitlines(keepends=True)), place


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"n":' + b"9" * 5_000 + b"}", b"x" * (MAX_LINE + 1),
        line(row(entry(EntryKind.CUT, 5, 4))),
        WHOLE[0].replace(b'"n":1', b'"n":0'), WHOLE[0].replace(b'"n":1', b'"n":true'), WHOLE[0].replace(b'"n":1', b'"n":1.5'),
        WHOLE[0].replace(b"ledger/1", b"ledger/2"), WHOLE[0].replace(b'"previous":""', b'"previous":"a"'),
        WHOLE[0].replace(b"01-01T", b"02-30T").replace(b"Z", b""), WHOLE[0].replace(b"1970-", b"0000-"), WHOLE[0].replace(b'"from_ms":0', b'"from_ms":' + b"9" * 300), WHOLE[0].replace(b'"bytes":0', b'"bytes":-1'),
        WHOLE[0].replace(b'"cause":""', b'"cause":"' + b"x" * 600 + b'"'), WHOLE[0].replace(b'"cut"', b'"<b>"'),
    ],
)  # fmt: skip
def test_what_is_no_row_is_refused_and_not_repeated(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[^<\n]{1,120}$"):
        parse(text)


TEXT = st.text(max_size=3_000)


@given(TEXT, TEXT, st.lists(TEXT, max_size=40), st.integers(0, 1 << 62), st.sampled_from(Counted))
def test_whatever_is_told_fits_into_a_row_and_is_read_again(
    cause: str, who: str, evidence: list[str], frames: int, counted: Counted
) -> None:
    told = fitted(
        Entry(
            kind=EntryKind.BYPASSED,
            from_ms=1,
            to_ms=None,
            cause=cause,
            who=who,
            evidence=tuple(evidence),
            frames=frames,
            counted=counted,
        )
    )
    of = row(told, 1, 7, line_hash(b""))
    text = line(of)
    assert len(text) <= MAX_LINE
    assert text.count(b"\n") == 1
    assert text.isascii()
    assert parse(text) == of
    assert fitted(told) == told


def test_a_row_is_json_that_anybody_can_read() -> None:
    read = json.loads(WHOLE[0])
    assert list(read)[:5] == ["format", "time", "host", "version", "digest"]
    assert read["format"] == "reconciler.ledger/1"
    assert read["entry"]["kind"] == "cut"
    assert line_hash(WHOLE[0]) == json.loads(WHOLE[1])["previous"]


@given(st.integers(0, 253_402_300_799_999))
def test_the_time_of_a_row_is_read_as_it_was_written(at_ms: int) -> None:
    assert row(entry(EntryKind.STOP, 0, 0), at_ms).at_ms == at_ms
