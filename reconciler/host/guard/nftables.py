"""libnftables: rules as nft's text, in this process. Functions and numbers are those of nftables/libnftables.h.

Not nft itself: that would be a process to start, while the wire waits. And not its own Python binding, which is a
Debian package for Debian's Python only. There are no callbacks into Python, which would need memory that can be both
written and executed: the daemon's unit forbids that.
"""

import ctypes
import functools
import threading
from typing import NamedTuple

from reconciler.errors import HostError

_LIBRARY = "libnftables.so.1"
_NFT_CTX_DEFAULT = 0
_NFT_CTX_OUTPUT_STATELESS = 1 << 2
# The library remembers the indexes of interfaces for the length of a run, and for the whole process.
_ONE_AT_A_TIME = threading.Lock()


class _Told(NamedTuple):
    failed: bool
    output: str
    error: str


def run(text: str) -> None:
    """Carry out commands, in one transaction, in the network namespace that the thread is in.

    Raises:
        HostError: libnftables is missing, or refused the text, or the kernel did. Nothing was changed.

    """
    told = _run(text, 0)
    if told.failed:
        raise HostError(f"nftables: {_reason(text, told.error)}")


def listing(command: str, *, stateless: bool = False) -> str:
    """What a command prints, such as `list table netdev NAME`. `stateless`: without counts and what is left of time.

    Raises:
        HostError: libnftables is missing, or what is to be listed.

    """
    told = _run(command, _NFT_CTX_OUTPUT_STATELESS if stateless else 0)
    if told.failed:
        raise HostError(f"nftables: {_reason(command, told.error)}")
    return told.output


def _run(text: str, output_flags: int) -> _Told:
    library = _library()
    with _ONE_AT_A_TIME:
        # Made anew each time: its socket belongs to the namespace that the thread is in.
        context = library.nft_ctx_new(_NFT_CTX_DEFAULT)
        if not context:
            raise HostError("libnftables has no memory")
        try:
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_buffer_error(context)
            library.nft_ctx_output_set_flags(context, output_flags)
            failed = library.nft_run_cmd_from_buffer(context, text.encode()) != 0
            output, error = library.nft_ctx_get_output_buffer(context), library.nft_ctx_get_error_buffer(context)
        finally:
            library.nft_ctx_free(context)
    return _Told(failed, output.decode("utf-8", "replace"), error.decode("utf-8", "replace"))


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise HostError("libnftables is not installed: apt-get install nftables") from error
    context, number, text = ctypes.c_void_p, ctypes.c_uint, ctypes.c_char_p
    for name, result, arguments in (
        ("nft_ctx_new", context, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [context]),
        ("nft_ctx_buffer_output", ctypes.c_int, [context]),
        ("nft_ctx_buffer_error", ctypes.c_int, [context]),
        ("nft_ctx_output_set_flags", None, [context, number]),
        ("nft_ctx_get_output_buffer", text, [context]),
        ("nft_ctx_get_error_buffer", text, [context]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [context, text]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _reason(text: str, error: str) -> str:
    """In one line what is wrong, and where.

    For commands of several lines the library shows the first of them instead of the one it means, so it is left out.
    """
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    if not lines:
        return "refused, without a reason"
    first = lines[0].removeprefix("Error: ")
    return first if "\n" in text.strip() or len(lines) == 1 else f"{first} ({lines[1]})"
