"""The files that are copied into a VM, for `reconcile guest --print`."""

from importlib.resources import files

from reconciler.guest.assembly import assemble

AGENT = "agent"
# What the command line calls the others, and the files beside this one.
_COPIED = {
    "config": "reconciler-agent.conf",
    "systemd": "reconciler-agent.service",
    "openrc": "reconciler-agent.openrc",
}
FILES = (AGENT, *_COPIED)


def guest_file(name: str) -> str:
    """Return the text of one of `FILES`.

    Raises:
        KeyError: There is none of that name.
    """
    if name == AGENT:
        return assemble()
    return files(__package__).joinpath(_COPIED[name]).read_text(encoding="utf-8")
