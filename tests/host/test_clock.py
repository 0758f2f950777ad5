"""The clocks."""

import pytest

from reconciler.host import clock


@pytest.mark.parametrize(("answer", "right"), [(0, True), (1, True), (4, True), (5, False), (-1, False)])
def test_the_clock_is_right_where_the_kernel_says_so(answer: int, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # TIME_OK, TIME_INS, TIME_WAIT; TIME_ERROR; a kernel that does not tell (linux/timex.h).
    monkeypatch.setattr(clock, "_adjtimex", lambda: lambda _: answer)
    assert clock.synchronised() is right


def test_the_kernel_is_asked_and_nothing_is_set() -> None:
    before = clock.wall_ms() - clock.now_ms()
    assert clock.synchronised() in (True, False)
    assert abs(clock.wall_ms() - clock.now_ms() - before) < 1_000
