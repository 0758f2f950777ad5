"""What the command line asks of a running daemon: quick to import, and content without one."""

import contextlib
from pathlib import Path
from typing import Any

from reconciler.console import Said, say, say_json, show
from reconciler.control.ask import HungError, NoDaemonError, ask, digest, running, socket_of
from reconciler.errors import HostError, ReconcilerError, TransientError
from reconciler.host import places
from reconciler.warning import Severity, Warning

# Daemons that this process has waited for in vain: once is enough, for what is done at once.
_HUNG: dict[Path, HungError] = {}


def answer(text: bytes, *, dry_run: bool, output: str) -> int | None:
    """Have a daemon that keeps a file of this content compare or repair, and print it; the exit status, or None."""
    which = digest(text)
    for path in running(places.run_dir()):
        try:
            answer = ask(path, do="audit" if dry_run else "reconcile", digest=which, output=output)
        except HungError as error:
            _HUNG[path] = error
            continue
        except (HostError, TransientError):
            # One that was killed leaves its socket behind; another appliance's may not be for us.
            continue
        if not answer.get("mine"):
            continue
        if "json" in answer:
            say_json(answer["json"])
        else:
            show(Said(str(line), bool(error)) for line, error in answer["lines"])
        if not dry_run:
            return 0 if answer["converged"] else 1
        if "exit_status" in answer:
            return int(answer["exit_status"])
        # One of an earlier version, that an upgrade has not restarted yet.
        return 1 if answer["problems"] else 3 if answer["changes"] else 0
    return None


def choice(sku: str, *, dry_run: bool) -> dict[str, str] | None:
    """What the daemon of the appliance `sku` wants; None without one, or where whoever only looks may not ask it."""
    path = socket_of(places.run_dir(), sku)
    try:
        if hung := _HUNG.get(path):
            raise hung
        return dict(ask(path, do="choice")["choice"])
    except NoDaemonError:
        return None
    except (HostError, TransientError) as error:
        if not dry_run:
            raise
        say(f"what the running daemon wants is not known, so the default counts: {error}", error=True)
        return None


def other_file(sku: str, digest: str) -> str | None:
    """The digest of the file that the daemon of the appliance `sku` goes by, if it is another one; None, or unknown."""
    path = socket_of(places.run_dir(), sku)
    if path in _HUNG:
        return None
    try:
        in_force = ask(path, do="choice").get("digest")
    except (HostError, TransientError):
        return None
    return str(in_force) if in_force and in_force != digest else None


def is_kept(sku: str) -> bool:
    """Whether a daemon keeps the appliance `sku`, also one that does not answer."""
    try:
        ask(socket_of(places.run_dir(), sku), do="choice")
    except NoDaemonError:
        return False
    except (HostError, TransientError):
        return True
    return True


def check_free(sku: str, *, dry_run: bool, topologies: tuple[str, ...]) -> None:
    """Applying by hand what a daemon keeps would be undone at once.

    Raises:
        HostError: a daemon keeps it; says what to do instead.

    """
    if dry_run or choice(sku, dry_run=False) is None:
        return
    if topologies:
        right = f"pin it there: reconcile hold {topologies[0]} --for 30m --reason …"
    else:
        right = "it has read another version of this file: reconcile reload"
    raise HostError(f"a daemon keeps {sku}, and would change it back; {right}")


def daemon_of(file: Path | None) -> Path:
    """The socket of the daemon that is meant: that of the appliance `file`, or the only one.

    Raises:
        HostError: none runs, or several do and `file` is None.
        InvalidFileError: `file` declares no appliance.

    """
    if file is not None:
        text = places.read_file(file)
        if (kept_by := _daemon_of(text)) is not None:
            return kept_by
        from reconciler.host import store

        return socket_of(places.run_dir(), store.load(text, str(file), places.state_dir()).sku)
    found = list(running(places.run_dir()))
    if not found:
        raise NoDaemonError(f"no daemon runs: nothing listens in {places.run_dir()}; start one: reconcile run")
    if len(found) > 1:
        raise HostError(f"{len(found)} daemons run ({', '.join(path.stem for path in found)}): say which with -f FILE")
    return found[0]


def _daemon_of(text: bytes) -> Path | None:
    """The socket of a daemon that keeps a file of this content: found without knowing what the file says."""
    which = digest(text)
    for path in running(places.run_dir()):
        try:
            if ask(path, do="choice").get("digest") == which:
                return path
        except HungError as error:
            _HUNG[path] = error
        except (HostError, TransientError):
            continue
    return None


def answer_of(file: Path | None, **request: Any) -> dict[str, Any]:
    """What the daemon that is meant answers to a request; see `daemon_of` and `ask`."""
    path = daemon_of(file)
    if hung := _HUNG.get(path):
        raise hung
    return ask(path, **request)


def forget_hung() -> None:
    """Ask again also those that did not answer: for whoever goes on looking."""
    _HUNG.clear()


def check_kept(answer: dict[str, Any]) -> None:
    """What was asked for is done; whether it outlives the daemon is another matter.

    Raises:
        HostError: it is not on disk; says why.

    """
    if why := answer.get("unkept"):
        raise HostError(f"this is not on disk, and a restart of the daemon may forget it: {why}")


def status_of(file: Path | None) -> dict[str, Any]:
    """What the daemon that is meant tells; where none answers, what the kernel does of `file`, or the default file.

    Raises:
        HostError, TransientError: neither can be asked; says why.
        InvalidFileError: `file` declares no appliance.

    """
    try:
        found = dict(answer_of(file, do="status")["status"])
    except NoDaemonError as error:
        return _by_the_kernel(file, error, Warning("no-daemon", Severity.WARNING, "daemon", str(error)))
    except HungError as error:
        return _by_the_kernel(file, error, Warning("daemon-hangs", Severity.ERROR, "daemon", str(error)))
    in_force, where = found.get("digest"), str(found.get("file", "-"))
    # Who may ask the daemon need not be allowed to read its file.
    with contextlib.suppress(HostError):
        if where != "-" and in_force and (given := digest(places.read_file(Path(where)))) != in_force:
            from reconciler.network.audit import other_file

            news = other_file(str(found["sku"]), str(in_force), given).warning
            found["warnings"] = [news.as_json(), *found.get("warnings", ())]
    return found


def _by_the_kernel(file: Path | None, error: ReconcilerError, why: Warning) -> dict[str, Any]:
    from reconciler.host import store
    from reconciler.host.envelope import enveloped

    try:
        text = places.read_file(file or places.DEFAULT_FILE)
    except HostError:
        if file is not None:
            raise
        raise error from None
    from reconciler.host.look import look, status
    from reconciler.network.desired import choice_of

    appliance = store.load(text, str(file or places.DEFAULT_FILE), places.state_dir())
    return enveloped(status(appliance, look(appliance, choice_of(appliance)), why), digest(text))
