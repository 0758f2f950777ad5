"""What the machine says it is, and what its interfaces are for."""

import contextlib
from pathlib import Path

_DMI = Path("/sys/class/dmi/id")
_NET = Path("/sys/class/net")
# DEVTYPE of an interface's uevent: SET_NETDEV_DEVTYPE in net/wireless/core.c and drivers/net/wwan.
_NO_WIRES = {"wlan": "a wireless NIC", "wwan": "a mobile radio"}


def identity() -> tuple[str, str]:
    """Vendor and product name as the firmware tells them; '' where it does not."""
    return _field("sys_vendor"), _field("product_name")


def odd_interfaces() -> dict[str, str]:
    """The interfaces that are no end of a wire, each with what it is: radios, and virtual functions of another NIC."""
    found = {}
    with contextlib.suppress(OSError):
        for interface in sorted(_NET.iterdir()):
            if (interface / "device" / "physfn").exists():
                found[interface.name] = "a virtual function (SR-IOV) of another NIC"
            elif what := _NO_WIRES.get(_type(interface)):
                found[interface.name] = what
    return found


def _type(interface: Path) -> str:
    with contextlib.suppress(OSError):
        for line in (interface / "uevent").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("DEVTYPE="):
                return line.partition("=")[2]
    return ""


def _field(name: str) -> str:
    with contextlib.suppress(OSError):
        return (_DMI / name).read_text(encoding="utf-8", errors="replace").strip()
    return ""
