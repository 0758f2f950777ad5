import pytest

from reconciler.lab.picture import ASCII, BLOCKS, FlowRow, alphabet_for, timeline

EVENTS = [(4.2, "VM killed"), (4.3, "bypass"), (7.0, "VM started")]


def row(label: str, lost: list[tuple[float, float]], **changes: float) -> FlowRow:
    rate = 100.0
    times = [n / rate + 1e-6 for n in range(1000)]
    kept = [t for t in times if not any(begin <= t < end for begin, end in lost)]
    return FlowRow(label, kept, rate, changes.get("start_s", 0.0), changes.get("end_s", 10.0))


ROWS = [row("client0 -> client1", [(4.2, 6.3)]), row("client1 -> client0", [(4.25, 4.35), (5.0, 5.1)])]


def test_blocks() -> None:
    assert timeline(ROWS, duration_s=10, events=EVENTS, width=60) == (
        "client0 -> client1  ████████████████▆××××××××▆██████████████\n"
        "client1 -> client0  █████████████████▅██▅███████████████████\n"
        "                                    12          3\n"
        "                    0                                   10 s\n"
        "  1  4.200 s  VM killed\n"
        "  2  4.300 s  bypass\n"
        "  3  7.000 s  VM started"
    )


def test_ascii() -> None:
    drawn = timeline(ROWS, duration_s=10, events=EVENTS[:1], width=40, alphabet=ASCII)
    assert drawn.isascii()
    assert drawn == (
        "client0 -> client1  ########-xxx-#######\n"
        "client1 -> client0  ########*#*#########\n"
        "                            1\n"
        "                    0               10 s\n"
        "  1  4.200 s  VM killed"
    )


def test_nothing_is_expected_outside_the_sending() -> None:
    quiet = FlowRow("a", [n / 100 for n in range(200, 600)], 100, 2.0, 6.0)
    assert timeline([quiet], duration_s=8, width=11).splitlines()[0] == "a    ████"
    dead = FlowRow("a", [], 100, 2.0, 6.0)
    assert timeline([dead], duration_s=8, width=11).splitlines()[0] == "a    ××××"


def test_slices_are_never_finer_than_the_rate_allows() -> None:
    slow = FlowRow("a", [n / 10 for n in range(20)], 10, 0, 2)
    assert timeline([slow], duration_s=2, width=80).splitlines()[0] == "a  █████"


def test_events_beyond_the_axis_stand_at_its_ends() -> None:
    drawn = timeline(ROWS[:1], duration_s=10, events=[(12.0, "late"), (-1.0, "early")], width=40).splitlines()
    assert drawn[1].strip() == "1" + 18 * " " + "2"
    assert drawn[3:] == ["  1  -1.000 s  early", "  2  12.000 s  late"]


def test_no_rows() -> None:
    assert timeline([], duration_s=2, width=10) == "  0    2 s"


def test_no_duration() -> None:
    with pytest.raises(ValueError, match="not positive"):
        timeline(ROWS, duration_s=0)


@pytest.mark.parametrize(
    ("encoding", "alphabet"),
    [("UTF-8", BLOCKS), ("utf_8", BLOCKS), ("ascii", ASCII), ("latin-1", ASCII), (None, ASCII)],
)
def test_alphabet(encoding: str | None, alphabet: object) -> None:
    assert alphabet_for(encoding) is alphabet


def test_events_of_one_slice_share_a_marker() -> None:
    drawn = timeline(ROWS[:1], duration_s=10, events=[(5.0, "b"), (4.99, "a"), (5.01, "c")], width=40).splitlines()
    assert drawn[1].strip() == "12"
    assert drawn[3:] == ["  1  4.990 s  a", "  2  5.000 s  b", "  2  5.010 s  c"]
