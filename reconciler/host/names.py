"""Names of users and groups. Whoever serves them (sssd, LDAP) may take its time: these are for workers."""

import grp
import pwd
from pathlib import Path

_NOBODY = 0xFFFF_FFFF  # (uid_t) -1: set by no login


def user_name(uid: int) -> str:
    """The name of a user; one that has none is called by the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def person(uid: int, login: int | None) -> str:
    """Whoever acts as the user `uid`, and logged in as `login` (None: nobody did): ``ann as root``."""
    name = user_name(uid)
    return name if login in (None, uid) else f"{user_name(login)} as {name}"


def login_of(pid: int) -> int | None:
    """The user who logged in, and from whom the process comes through su, sudo and all; None: nobody (a service).

    From /proc, which answers at once.
    """
    try:
        uid = int(Path(f"/proc/{pid}/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if uid == _NOBODY else uid


def group_number(name: str) -> int | None:
    """The number of a group; None: there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
