"""What a run of the tests finds around itself, and must not depend on: environment, locale, umask, signals."""

import contextlib
import locale
import os
import tempfile
from pathlib import Path

from reconciler.host.inherited import shed_inherited_signals

# Whoever looks for Python's modules, or keeps their compiled form elsewhere, goes on doing so.
_PYTHONS = {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONNOUSERSITE"}
_FAMILIES = ("RECONCILER_", "LC_", "LIBVIRT_", "VIRSH_", "SYSTEMD_", "LISTEN_", "WATCHDOG_", "PYTHON", "CLICOLOR")
_NAMES = {
    *("LANG", "LANGUAGE"),
    *("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "COLUMNS", "LINES", "PAGER", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
    *("NOTIFY_SOCKET", "JOURNAL_STREAM", "INVOCATION_ID"),
    *("XDG_CACHE_HOME", "BASH_ENV", "ENV", "CDPATH", "POSIXLY_CORRECT"),
}
_LOCALE = "C.UTF-8"


def make_plain() -> None:
    """Take away what whoever started this process has set up for other ends, for it and for all that it starts."""
    shed_inherited_signals()
    os.umask(0o022)
    for name in [*os.environ]:
        if name not in _PYTHONS and (name in _NAMES or name.startswith(_FAMILIES)):
            del os.environ[name]
    os.environ["LANG"] = _LOCALE
    locale.setlocale(locale.LC_ALL, _LOCALE)
    _go_where_programs_run()
    _forget_who_logged_in()
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # Closed; what is opened next would be taken for a standard stream.
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def _forget_who_logged_in() -> None:
    """Whoever steers the daemon is called by the login that it comes from: here by none, where the kernel lets us."""
    with contextlib.suppress(OSError):
        Path("/proc/self/loginuid").write_text(str(0xFFFF_FFFF), encoding="ascii")


def _go_where_programs_run() -> None:
    """Tests start programs from temporary folders, which some machines mount `noexec`."""
    for place in (Path(tempfile.gettempdir()), Path("/var/tmp"), Path(__file__).parents[1] / ".cache"):
        place.mkdir(exist_ok=True)
        if not os.statvfs(place).f_flag & os.ST_NOEXEC:
            os.environ["TMPDIR"] = tempfile.tempdir = str(place)
            return
