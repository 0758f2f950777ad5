"""What was decided, for people."""

from collections.abc import Iterator
from typing import Any

from reconciler.cli.words import first_of, fit, names_of, whole_span
from reconciler.console import Said, escaped

_AT_ONCE_MS = 1_000


def together(decisions: list[Any]) -> list[Any]:
    """Decisions of which many segments have the same at once are one, at the place of the latest."""
    found: list[Any] = []
    for one in decisions:
        same = next((each for each in found if _goes_with(each, one)), None)
        if same:
            found.remove(same)
        names = [*(same["segments"] if same else ()), *([one["segment"]] if one["segment"] else ())]
        found.append({**one, "segments": names})
    return found


def _goes_with(one: Any, later: Any) -> bool:
    alike = (
        one["what"] == later["what"]
        and one["times"] == later["times"]
        and one["age_ms"] - later["age_ms"] < _AT_ONCE_MS
    )
    return bool(alike and later["segment"] and one["segment"]) and later["segment"] not in one["segments"]


def decisions_of(decisions: list[Any], width: int, of: int, *, reasons: bool = False) -> Iterator[Said]:
    """Each with its age; `of` so many segments. `reasons`: with all that led to it, line by line."""
    if not decisions:
        return
    yield from fit("decided, the latest last", width)
    ages = [f"{whole_span(one['age_ms'])} ago" for one in decisions]
    age = max(map(len, ages))
    hang = 2 + age + 2
    for one, ago in zip(decisions, ages, strict=True):
        segments = one.get("segments") or ([one["segment"]] if one["segment"] else [])
        where = f"{names_of(segments, of)}: " if segments else ""
        changes = f", the latest of {one['times']} changes" if one["times"] > 1 else ""
        why = [escaped(reason) for reason in one["why"]]
        # That all is well needs no reasons here.
        brief = "" if reasons or not why or one["level"] == "info" else f" ({first_of(why)})"
        yield from fit(f"  {ago:{age}}  {where}{escaped(one['what'])}{changes}{brief}", width, hang)
        for reason in why if reasons else ():
            yield from fit(f"{' ' * (hang + 2)}{reason}", width, hang + 4)


def decided_since(decisions: list[Any], since_ms: int | None) -> list[Any]:
    """The decisions of so long; all of them, if None."""
    return [one for one in decisions if since_ms is None or one["age_ms"] <= since_ms]
