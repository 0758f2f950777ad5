"""Some of these tests need libvirt's Python binding, which is built on the machine: said aloud where it is missing."""

import importlib.util
import os

import pytest

_NEED_LIBVIRT = [
    "signals/test_domain.py",
    "signals/test_guest_ping.py",
    "signals/test_lifecycle.py",
    "hypervisor/test_libvirt_driver.py",
    "hypervisor/test_link.py",
]
_MISSING = importlib.util.find_spec("libvirt") is None
collect_ignore = _NEED_LIBVIRT if _MISSING else []


def pytest_report_header() -> list[str]:
    return [f"NO libvirt-python: these do not run: {', '.join(_NEED_LIBVIRT)}"] if _MISSING else []


def pytest_collection_modifyitems() -> None:
    if _MISSING and os.environ.get("CI"):
        pytest.exit("tests of libvirt must run in CI, and libvirt-python is missing: make .vm", returncode=3)
