"""`reconcile validate`: any number of files, everything that is wrong with each."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from reconciler import report
from reconciler.appliance.declared import Appliance
from reconciler.appliance.document import Mistake, spell
from reconciler.appliance.load import InvalidFileError, load
from reconciler.errors import HostError

# Versioned: a change that could break a reader counts up.
VALIDATION_FORMAT = "reconciler.validation/1"


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


def run(paths: list[Path], read: Callable[[Path], bytes], *, as_json: bool) -> int:
    """Check the files and print what was found; 0 if all are valid, else 1."""
    results: list[dict[str, Any]] = []
    wrong = 0
    for path in paths:
        try:
            appliance = load(read(path), str(path))
        except InvalidFileError as error:
            wrong += 1
            results.append({"file": str(path), "valid": False, "mistakes": [_json(one) for one in error.mistakes]})
            if not as_json:
                report.say(str(error), error=True)
        except HostError as error:
            wrong += 1
            results.append({"file": str(path), "valid": False, "mistakes": [], "unreadable": str(error)})
            if not as_json:
                report.say(str(error), error=True)
        else:
            results.append({"file": str(path), "valid": True, "mistakes": [], "sku": appliance.sku})
            if not as_json:
                report.say(f"{path}: valid: {_summary(appliance)}")
    if as_json:
        report.say_json({"format": VALIDATION_FORMAT, "valid": not wrong, "files": results})
    elif len(paths) > 1:
        report.say(f"{len(paths) - wrong} of {len(paths)} files are valid")
    return 1 if wrong else 0


def _json(mistake: Mistake) -> dict[str, Any]:
    return {
        "line": mistake.position.line,
        "column": mistake.position.column,
        "path": spell(mistake.path),
        "what": mistake.what,
        "right": mistake.right,
    }


def _summary(appliance: Appliance) -> str:
    return ", ".join(_parts(appliance))


def _parts(appliance: Appliance) -> Iterator[str]:
    yield appliance.sku
    yield f"{len(appliance.data_ports)} data ports"
    yield f"segments {' '.join(appliance.segments)}"
    yield f"topologies {' '.join(appliance.topologies)}"
