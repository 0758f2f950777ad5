"""`reconcile validate`: any number of files, everything that is wrong or unwise with each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.appliance.declared import Appliance
from reconciler.appliance.load import InvalidFileError, load
from reconciler.appliance.unwise import warnings
from reconciler.appliance.yaml.document import Mistake, spell
from reconciler.console import escaped, say, say_json, show, warned
from reconciler.control.ask import digest
from reconciler.errors import HostError
from reconciler.host.envelope import enveloped
from reconciler.host.places import read_file
from reconciler.warning import Warning, worst_first

# Versioned: a change that could break a reader counts up.
VALIDATION_FORMAT = "reconciler.validation/1"

_MANY = 64  # files that are worth starting processes for


def files(paths: Iterable[Path]) -> list[Path]:
    """The files that `paths` stand for: themselves, and the YAML files in and below the folders among them.

    Raises:
        HostError: a folder without any.

    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.suffix in (".yaml", ".yml") and one.is_file())
            if not inside:
                raise HostError(f"no *.yaml or *.yml file in {path}")
            found += inside
        else:
            found.append(path)
    return found


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one file: `sku` and `summary` of a valid one, else `mistakes`, or why it was not even read.

    `digest`: SHA-256 of what was read, in hexadecimal; '' if nothing was. `explained`: the mistakes as text, each with
    its line of the file. `warnings`: what a valid one is unwise to say.
    """

    file: str
    sku: str = ""
    summary: str = ""
    mistakes: tuple[Mistake, ...] = ()
    unreadable: str = ""
    explained: str = ""
    digest: str = ""
    warnings: tuple[Warning, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether it declares a working appliance."""
        return not self.mistakes and not self.unreadable


def check(path: Path) -> Checked:
    """Load and prove one file."""
    try:
        text = read_file(path)
    except HostError as error:
        return Checked(str(path), unreadable=str(error))
    which = digest(text)
    try:
        appliance = load(text, str(path))
    except InvalidFileError as error:
        return Checked(str(path), mistakes=tuple(error.mistakes), explained=error.explained, digest=which)
    unwise = worst_first(warnings(appliance))
    return Checked(str(path), appliance.sku, ", ".join(_parts(appliance)), digest=which, warnings=unwise)


def run(paths: list[Path], *, as_json: bool) -> int:
    """Check the files and print what was found; 0 if all are valid, else 1."""
    checked: list[Checked] = []
    for one in _check_all(paths):
        checked.append(one)
        if not as_json:
            _say(one)
    wrong = sum(not one.valid for one in checked)
    if as_json:
        made = {"format": VALIDATION_FORMAT, "valid": not wrong, "files": [_json(one) for one in checked]}
        say_json(enveloped(made, None))
    elif len(paths) > 1:
        say(f"{len(paths) - wrong} of {len(paths)} files are valid")
    return 1 if wrong else 0


def _check_all(paths: list[Path]) -> Iterator[Checked]:
    if len(paths) < _MANY:
        yield from map(check, paths)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Forked, also where Python would start new interpreters by now: with `-c`, so with the current folder's modules.
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        yield from pool.map(check, paths, chunksize=16)


def _say(one: Checked) -> None:
    if one.valid:
        say(f"{one.file}: valid: {one.summary}")
        show(warned(each, f"{escaped(one.file)}: ", error=True) for each in one.warnings)
    elif one.unreadable:
        say(one.unreadable, error=True)
    else:
        say(one.explained, error=True)


def _json(one: Checked) -> dict[str, Any]:
    return {
        "file": one.file,
        "digest": one.digest or None,
        "valid": one.valid,
        "sku": one.sku or None,
        "unreadable": one.unreadable or None,
        "mistakes": [_mistake_json(each) for each in one.mistakes],
        "warnings": [each.as_json() for each in one.warnings],
    }


def _mistake_json(mistake: Mistake) -> dict[str, Any]:
    return {
        "line": mistake.position.line,
        "column": mistake.position.column,
        "path": spell(mistake.path),
        "what": mistake.what,
        "right": mistake.right,
    }


def _parts(appliance: Appliance) -> Iterator[str]:
    yield appliance.sku
    yield f"{len(appliance.data_ports)} data ports"
    yield f"segments {' '.join(appliance.segments)}"
    yield f"topologies {' '.join(appliance.topologies)}"
    guarded = [name for name, segment in appliance.segments.items() if segment.guard]
    yield f"guarded {' '.join(guarded)}" if guarded else "no guard"
