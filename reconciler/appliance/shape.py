"""What pydantic finds wrong with the shape of a document, in words that a vendor can act on."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reconciler.appliance import schema
from reconciler.appliance.document import Document, Mistake, Path
from reconciler.appliance.model import ApplianceFile, kind, shown

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}


def validate(data: Any) -> tuple[ApplianceFile | None, list[ErrorDetails]]:
    """The file that `data` is, else None and all that is wrong with its shape."""
    try:
        return ApplianceFile.model_validate(data), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def mistakes(document: Document, errors: Iterable[ErrorDetails]) -> Iterator[Mistake]:
    """Each error of pydantic's in our words, at its place in the file."""
    # Nothing is `nothings`' finding. Missing keys come last, after the misspellings that explain them.
    ordered = sorted(
        (error for error in errors if error["input"] is not None), key=lambda error: error["type"] == "missing"
    )
    known = schema.schema() if ordered else {}
    meant: set[Path] = set()
    for error in ordered:
        path = _path(document, error)
        if error["type"] == "extra_forbidden":
            guess = closest(str(path[-1]), schema.keys_at(known, path[:-1]))
            meant |= {(*path[:-1], guess)} if guess else set()
            yield _unknown_key(document, path, schema.keys_at(known, path[:-1]), guess)
        elif error["type"] != "missing" or path not in meant:
            # A missing key whose misspelling was just named is not reported a second time.
            yield _explain(document, path, error)


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


def pruned(document: Document, errors: Iterable[ErrorDetails]) -> Any:
    """The document without the values that are wrong, so that the rest of it can be judged all the same."""
    data = _copy(document.data)
    paths = {_path(document, error) for error in errors}
    for path in sorted((path for path in paths if path), key=lambda path: [str(step) for step in path], reverse=True):
        parent = data
        for step in path[:-1]:
            parent = parent[step] if _has(parent, step) else None
        if isinstance(parent, dict):
            parent.pop(path[-1], None)
    return data


def closest(word: str, words: Iterable[str]) -> str | None:
    """The word that was probably meant, if one is near enough."""
    candidates = list(words)
    folded = {candidate.casefold(): candidate for candidate in candidates}
    found = difflib.get_close_matches(word[:64].casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def _copy(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(value) for value in data] if isinstance(data, list) else data


def _has(data: Any, step: str | int) -> bool:
    if isinstance(data, dict):
        return step in data
    return isinstance(data, list) and isinstance(step, int) and step < len(data)


def _path(document: Document, error: ErrorDetails) -> Path:
    loc = tuple(step for step in error["loc"] if step != "[key]")
    # A segment written as a list is a mapping with `ports` to the model, not in the file.
    if len(loc) > 2 and loc[0] == "segments" and loc[2] == "ports" and (*loc[:2], "ports") not in document.keys:
        return (*loc[:2], *loc[3:])
    return loc


def _unknown_key(document: Document, path: Path, known: list[str], guess: str | None) -> Mistake:
    right = f"did you mean `{guess}`?" if guess else f"known here: {', '.join(known)}"
    return Mistake(document.key(path), path[:-1], f"unknown key {shown(str(path[-1]))}", right)


def _explain(document: Document, path: Path, error: ErrorDetails) -> Mistake:
    code, context, found = error["type"], error.get("ctx", {}), error["input"]
    place = document.key(path) if "[key]" in error["loc"] else document.value(path)
    if code == "mistaken":
        return Mistake(place, path, context["what"], context["right"])
    if code == "missing":
        return Mistake(document.value(path[:-1]), path[:-1], f"the key `{path[-1]}` is missing", "add it")
    if code in _EXPECTED:
        right = "YAML 1.2 knows only `true` and `false`" if code == "bool_type" and isinstance(found, str) else ""
        return Mistake(place, path, f"expected {_EXPECTED[code]}, found {kind(found)}", right)
    if code == "literal_error":
        return _literal(place, path, str(context["expected"]), found)
    if code == "string_pattern_mismatch":
        right = f"it must match {context['pattern']}"
        return Mistake(place, path, f"not of the right form: {shown(str(found))}", right)
    # Ranges and lengths: pydantic's own words are plain enough.
    return Mistake(place, path, error["msg"][0].lower() + error["msg"][1:], "")


def _literal(place: Any, path: Path, expected: str, found: Any) -> Mistake:
    words = [word for word in expected.replace(" or ", ", ").split("'") if word.strip(", ")]
    guess = closest(found, words) if isinstance(found, str) else None
    what = f"expected {expected}, found {shown(found) if isinstance(found, str) else kind(found)}"
    return Mistake(place, path, what, f"did you mean `{guess}`?" if guess else "")
