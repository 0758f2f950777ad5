"""Names of users and groups. Whoever serves them (sssd, LDAP) may take its time: these are for workers."""

import grp
import pwd


def user_name(uid: int) -> str:
    """The name of a user; one that has none is called by the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def group_number(name: str) -> int | None:
    """The number of a group; None: there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
