"""The files that are copied into a VM, for `reconcile guest --print`."""

from importlib.resources import files

# What the command line calls them, and the files beside this one.
FILES = {
    "agent": "agent.py",
    "config": "reconciler-agent.conf",
    "systemd": "reconciler-agent.service",
    "openrc": "reconciler-agent.openrc",
}


def guest_file(name: str) -> str:
    """Return the text of one of `FILES`.

    Raises:
        KeyError: There is none of that name.
    """
    return files(__package__).joinpath(FILES[name]).read_text(encoding="utf-8")
