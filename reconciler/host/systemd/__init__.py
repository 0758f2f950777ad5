"""Files that make a host set the guard and run the daemon, and systemd-networkd leave its interfaces alone."""

from importlib.resources import files

_PROGRAM = "/usr/bin/reconcile"


def service(program: str = _PROGRAM) -> str:
    """The unit of the daemon; `program` is where the command line lies."""
    return _unit("reconciler.service", program)


def guard(program: str = _PROGRAM) -> str:
    """The unit that sets the guard early in the boot."""
    return _unit("reconciler-guard.service", program)


def networkd() -> str:
    """The file by which systemd-networkd leaves alone what the udev rules mark (see `network.manners`)."""
    return _text("05-reconciler.network")


def _unit(name: str, program: str) -> str:
    return _text(name).replace(f"={_PROGRAM} ", f"={program} ")


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
