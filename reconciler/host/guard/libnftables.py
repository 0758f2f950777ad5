"""libnftables, in a process of its own: the rules on standard input, what it says on standard output.

A program, and not a module of the daemon's: the library ends the process that it is in when it has no descriptor, no
memory, or a bug. Functions and numbers are those of nftables/libnftables.h. There are no callbacks into Python, which
would need memory that can be both written and executed: the daemon's unit forbids that.

It is started without the site's packages, which take longer to be found than all that it does: standard library only.
"""

import ctypes
import json
import sys
from typing import Any

_NFT_CTX_DEFAULT = 0


def main() -> None:
    """Carry out the text, and tell ``{"failed": ..., "error": ...}``, or ``{"missing": true}``."""
    try:
        library = _library(sys.argv[1])
    except OSError:
        answer: dict[str, Any] = {"missing": True}
    else:
        answer = _carried_out(library, sys.stdin.buffer.read())
    json.dump(answer, sys.stdout)


def _carried_out(library: ctypes.CDLL, text: bytes) -> dict[str, Any]:
    context = library.nft_ctx_new(_NFT_CTX_DEFAULT)
    if not context:
        return {"failed": True, "error": "it has no memory"}
    library.nft_ctx_buffer_output(context)
    library.nft_ctx_buffer_error(context)
    failed = library.nft_run_cmd_from_buffer(context, text) != 0
    return {"failed": failed, "error": library.nft_ctx_get_error_buffer(context).decode("utf-8", "replace")}


def _library(name: str) -> ctypes.CDLL:
    library = ctypes.CDLL(name)
    context, text = ctypes.c_void_p, ctypes.c_char_p
    for function, result, arguments in (
        ("nft_ctx_new", context, [ctypes.c_uint32]),
        ("nft_ctx_buffer_output", ctypes.c_int, [context]),
        ("nft_ctx_buffer_error", ctypes.c_int, [context]),
        ("nft_ctx_get_error_buffer", text, [context]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [context, text]),
    ):
        known = getattr(library, function)
        known.restype, known.argtypes = result, arguments
    return library


if __name__ == "__main__":
    main()
