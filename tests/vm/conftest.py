"""Whatever is in this folder needs a real VM: QEMU, libvirtd, and taps, which take root."""

import os

import kept
import pytest
from image import CACHE
from kernels import has_tun
from libvirtd import missing_packages

_ROWS: list[kept.Row] = []


@pytest.fixture(scope="session")
def rows() -> list[kept.Row]:
    """The table of faults; whatever is in it at the end is printed, and kept in `.cache/vm/faults.json`."""
    return _ROWS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _ROWS:
        return
    kept.write(_ROWS, CACHE / "faults.json")
    terminalreporter.section("faults of a real VM, milliseconds")
    for line in kept.table(_ROWS):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def _vm_possible(request: pytest.FixtureRequest) -> None:
    """Skips where a VM cannot run, but never in CI."""
    request.getfixturevalue("lab_root")
    reasons = [f"missing package {package}" for package in missing_packages()]
    if not has_tun():
        reasons.append("no right to make taps")
    if not reasons:
        return
    if os.environ.get("CI"):
        pytest.fail(f"tests with a real VM must run in CI: {'; '.join(reasons)}")
    pytest.skip(f"TESTS WITH A REAL VM DO NOT RUN: {'; '.join(reasons)}")
