"""What the machine says it is."""

import contextlib
from pathlib import Path

_DMI = Path("/sys/class/dmi/id")


def identity() -> tuple[str, str]:
    """Vendor and product name as the firmware tells them; '' where it does not."""
    return _told("sys_vendor"), _told("product_name")


def _told(name: str) -> str:
    with contextlib.suppress(OSError):
        return (_DMI / name).read_text(encoding="utf-8", errors="replace").strip()
    return ""
