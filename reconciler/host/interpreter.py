"""Python as we start it: isolated from the folder and the environment of whoever called us.

With ``-m`` and ``-c`` Python looks for modules in the current folder before anywhere else, and with PYTHONPATH wherever
that leads: so what somebody left in a folder would run as root because root typed `reconcile` there.

Whoever starts one does so in ``/``: what it does there by name is of root's making, and nobody wants to unmount it.
"""

import sys


def isolated(*arguments: str) -> list[str]:
    """The command line that runs this very Python with `arguments`, with nothing of the caller's on its path.

    It finds what is installed beside it, and not what only this process was led to: by PYTHONPATH, by the folder it was
    started in, or as one user's own.
    """
    return [sys.executable, "-I", *arguments]
