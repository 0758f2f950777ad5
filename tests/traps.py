"""A folder of somebody's who means ill: whoever imports anything from it leaves a trace."""

from pathlib import Path

_SPRUNG = """
import os
with open(os.path.join({folder!r}, "SPRUNG"), "a") as file:
    file.write(__name__ + "\\n")
"""
# Ours; what ours imports; what Python itself or its libraries import of their own accord.
_NAMES = (
    "reconciler/__init__",
    "reconciler/host/__init__",
    "reconciler/__main__",
    "json",
    "subprocess",
    "click",
    "pydantic",
    "libvirt",
    "sitecustomize",
    "usercustomize",
    "multiprocessing/__init__",
    "multiprocessing/forkserver",
)


def lay(folder: Path) -> Path:
    """The folder, with a trap of every name, and none of them sprung."""
    for name in _NAMES:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_SPRUNG.format(folder=str(folder)))
    (folder / "SPRUNG").unlink(missing_ok=True)
    return folder


def sprung(folder: Path) -> list[str]:
    """The names of the modules that were imported from there."""
    trace = folder / "SPRUNG"
    return trace.read_text().split() if trace.exists() else []
