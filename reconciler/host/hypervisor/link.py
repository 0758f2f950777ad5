"""Connections to libvirt, for workers: everything here but `text` may block for seconds.

libvirt-python is an extra, and importing it takes up to a tenth of a second: it is imported by the first call.
"""

import asyncio
import contextlib
import re
from typing import Any

from reconciler.errors import HostError, UnreachedError

MISSING = (
    "the file asks for libvirt (vm.libvirt), and libvirt-python is not installed: "
    "pip install libvirt-python, with the pip of this program's environment"
)
# libvirtd that does not answer pings is given up after (count + 1) × interval: a call that waits for it then ends.
_KEEPALIVE_S, _KEEPALIVE_COUNT = 2, 3
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def library() -> Any:
    """The module `libvirt`.

    Raises:
        HostError: it is not installed.

    """
    try:
        import libvirt
    except ImportError:
        raise HostError(MISSING) from None
    return libvirt


def connect(uri: str, loop: asyncio.AbstractEventLoop) -> Any:
    """Open a virConnect whose events come on `loop`.

    Raises:
        HostError: libvirt-python is not installed.
        UnreachedError: there is no answer at `uri`.

    """
    libvirt = library()
    from reconciler.host.hypervisor import events

    events.attach(loop)
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise UnreachedError(f"libvirt is not reachable at {uri}: {text(error)}") from None
    with contextlib.suppress(libvirt.libvirtError):  # a driver inside this process knows no keepalive
        connection.setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_COUNT)
    return connection


def close(connection: Any) -> None:
    """Close it, whatever state it is in.

    Must be called: a connection that is merely forgotten is closed by whichever thread drops the last reference, and
    that might be the loop's.
    """
    with contextlib.suppress(library().libvirtError):
        connection.close()


def find(connection: Any, domain: str) -> Any | None:
    """The virDomain of that name, or of that UUID; None where there is none.

    Raises:
        libvirtError: any other trouble.

    """
    libvirt = library()
    look_ups = (
        [connection.lookupByName, connection.lookupByUUIDString]
        if _UUID.fullmatch(domain)
        else [connection.lookupByName]
    )
    for look_up in look_ups:
        try:
            return look_up(domain)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return None


def is_it(domain: Any, wanted: str) -> bool:
    """Whether a virDomain is the one that the file names. Asks nobody: it holds both."""
    return bool(domain.name() == wanted or domain.UUIDString() == wanted.lower())


def text(error: BaseException) -> str:
    """What libvirt said, in one line."""
    said = getattr(error, "get_error_message", lambda: None)() or str(error) or type(error).__name__
    return " ".join(said.split())
