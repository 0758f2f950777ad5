"""What pydantic finds wrong with the shape of a document, in words that a vendor can act on."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reconciler.appliance.written import schema
from reconciler.appliance.written.health import SIGNAL_KINDS
from reconciler.appliance.written.network import ApplianceFile
from reconciler.appliance.yaml.document import Document, Mistake, Path, Position
from reconciler.appliance.yaml.words import Guesser, kind, lookalike, shown

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}

_LIMITS = {
    "too_short": ("{found} given", "at least {min_length} are needed"),
    "too_long": ("{found} given", "at most {max_length} are allowed"),
    "greater_than_equal": ("{found} is too small", "at least {ge} is needed"),
    "less_than_equal": ("{found} is too large", "at most {le} is allowed"),
}

# The schema's own versions; what is no version at all is a slip of the pen.
_NEWER = re.compile(r"reconciler/v(?!1$)[1-9][0-9]{0,3}")

# What others find with more to say about it: `nothings` an empty value also where the model has no key, `references`
# a name that stands twice or that is missing.
_FOUND_ELSEWHERE = frozenset({"nothing", "duplicate", "incomplete"})


def validate(data: Any) -> tuple[ApplianceFile | None, list[ErrorDetails]]:
    """The file that `data` is, else None and all that is wrong with its shape."""
    try:
        return ApplianceFile.model_validate(data), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def mistakes(document: Document, errors: Iterable[ErrorDetails]) -> Iterator[Mistake]:
    """Each error of pydantic's in our words, at its place in the file."""
    # Missing keys come last, after the misspellings that explain them.
    ordered = sorted(
        (error for error in errors if not _found_elsewhere(error)),
        key=lambda error: error["type"] == "missing",
    )
    known = schema.schema() if ordered else {}
    guesser = Guesser()
    meant: set[Path] = set()
    for error in ordered:
        path = _path(document, error)
        if error["type"] == "extra_forbidden":
            keys = schema.keys_at(known, error["loc"][:-1])
            guess = guesser.closest(str(path[-1]), keys)
            meant |= {(*path[:-1], guess)} if guess else set()
            yield _unknown_key(document, path, keys, guess)
        elif error["type"] != "missing" or path not in meant:
            # A missing key whose misspelling was just named is not reported a second time.
            yield _explain(document, path, error, guesser)


def _found_elsewhere(error: ErrorDetails) -> bool:
    found = error["input"]
    if error["type"] == "union_tag_not_found" and isinstance(found, dict):
        found = found.get("kind", "")
    return error["type"] in _FOUND_ELSEWHERE or found is None


def nothings(document: Document) -> Iterator[Mistake]:
    """Every key without a value: YAML makes it null, and null means nothing in an appliance file."""
    stack: list[tuple[Path, Any]] = [((), document.data)]
    while stack:
        path, data = stack.pop()
        if data is None:
            place = document.key(path) if path else document.value(path)
            yield Mistake(place, path, "no value", "give one, or remove the key")
        children: Iterable[tuple[str | int, Any]] = ()
        if isinstance(data, dict):
            children = data.items()
        elif isinstance(data, list):
            children = enumerate(data)
        stack.extend(((*path, step), child) for step, child in children)


def _path(document: Document, error: ErrorDetails) -> Path:
    loc = tuple(step for step in error["loc"] if step != "[key]")
    # A segment written as a list is a mapping with `ports` to the model, not in the file.
    if len(loc) > 2 and loc[0] == "segments" and loc[2] == "ports" and (*loc[:2], "ports") not in document.keys:
        return (*loc[:2], *loc[3:])
    # So is a probe of which only the time is given, with `every`.
    if loc[-3:] == ("guard", "probe", "every") and loc not in document.keys:
        return loc[:-1]
    # To pydantic, the kind of a signal is a step on the way to its keys.
    if len(loc) > 3 and loc[:2] == ("health", "signals") and loc[3] in SIGNAL_KINDS:
        return (*loc[:3], *loc[4:])
    return loc


def _unknown_key(document: Document, path: Path, known: list[str], guess: str | None) -> Mistake:
    right = f"did you mean `{guess}`?" if guess else f"known here: {', '.join(known)}"
    what = f"unknown key {shown(str(path[-1]))}"
    if found := lookalike(str(path[-1])):
        what, right = f"{what} has {found[1]} in it", found[2]
    return Mistake(document.key(path), path[:-1], what, right)


def _explain(document: Document, path: Path, error: ErrorDetails, guesser: Guesser) -> Mistake:
    code, context, found = error["type"], error.get("ctx", {}), error["input"]
    place = document.key(path) if "[key]" in error["loc"] else document.value(path)
    if code == "mistaken":
        return Mistake(place, path, context["what"], context["right"])
    if code == "missing":
        return Mistake(document.value(path[:-1]), path[:-1], f"the key `{path[-1]}` is missing", "add it")
    if code in _EXPECTED:
        right = _rather(code, path, found)
        return Mistake(place, path, f"expected {_EXPECTED[code]}, found {kind(found)}", right)
    if code == "union_tag_not_found":
        return _no_kind(document, path, found, guesser)
    if code == "union_tag_invalid":
        guess = guesser.closest(str(context["tag"]), SIGNAL_KINDS)
        right = f"did you mean `{guess}`?" if guess else f"one of {', '.join(SIGNAL_KINDS)}"
        return Mistake(
            document.value((*path, "kind")), (*path, "kind"), f"no kind of signal: {shown(context['tag'])}", right
        )
    if code == "literal_error":
        return _literal(place, path, str(context["expected"]), found, guesser)
    if code in _LIMITS:
        what, right = _LIMITS[code]
        values = {**context, "found": len(found) if isinstance(found, dict | list) else found}
        return Mistake(place, path, what.format_map(values), right.format_map(values))
    # Nothing known gets here; pydantic's own words are plain enough for what a later version of it may find.
    return Mistake(place, path, error["msg"][0].lower() + error["msg"][1:], "")


def _rather(code: str, path: Path, found: Any) -> str:
    """What whoever wrote another kind of value may have meant; '' where nobody knows."""
    if code == "bool_type" and isinstance(found, str):
        return "YAML 1.2 knows only `true` and `false`"
    if code == "string_type" and not isinstance(found, dict | list):
        return "quote it"
    if path == ("guard",) and (found is False or str(found).lower() in ("off", "no", "none", "false")):
        return "for a wire without a guard remove the key; `reconcile guard off` switches one off for a while"
    return ""


def _no_kind(document: Document, path: Path, found: Any, guesser: Guesser) -> Mistake:
    kinds = f"one of {', '.join(SIGNAL_KINDS)}"
    if not isinstance(found, dict):
        return Mistake(document.value(path), path, f"expected a mapping, found {kind(found)}", "")
    if "kind" in found:
        at = (*path, "kind")
        return Mistake(document.value(at), at, f"expected a kind of signal as text, found {kind(found['kind'])}", kinds)
    meant = guesser.closest("kind", (key for key in found if isinstance(key, str)))
    if meant:
        return Mistake(document.key((*path, meant)), path, f"unknown key {shown(meant)}", "did you mean `kind`?")
    return Mistake(document.value(path), path, "the key `kind` is missing", f"add it: {kinds}")


def _literal(place: Position, path: Path, expected: str, found: Any, guesser: Guesser) -> Mistake:
    if path == ("schema",) and isinstance(found, str) and _NEWER.fullmatch(found):
        right = f"this one reads {expected}; {found} needs a newer version of lan-bypass"
        return Mistake(place, path, "this file is of a later schema than this program knows", right)
    words = [word for word in expected.replace(" or ", ", ").split("'") if word.strip(", ")]
    guess = guesser.closest(found, words) if isinstance(found, str) else None
    what = f"expected {expected}, found {shown(found) if isinstance(found, str) else kind(found)}"
    return Mistake(place, path, what, f"did you mean `{guess}`?" if guess else "")
