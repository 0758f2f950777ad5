"""What all tests share: Hypothesis without surprises, and the right to make network namespaces."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import effort
import pytest
from hypothesis import HealthCheck, Phase, settings
from processes import zombies
from surroundings import make_plain

from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.namespaces import LabError, become_lab_root

# The same examples in every run, no clock, no folder left behind: a test that fails here fails everywhere.
settings.register_profile(
    "project",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
# For whoever writes a property: fail at once, and shrink later.
settings.register_profile("hasty", settings.get_profile("project"), phases=[Phase.explicit, Phase.generate])
# A property that asks for more examples than others asks `effort` for them.
settings.register_profile("quick", settings.get_profile("project"), max_examples=20)
settings.load_profile("project")

make_plain()

_LAB_ERROR = pytest.StashKey[str | None]()
_ZOMBIES: dict[int, str] = {}


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what tests/golden expects again")
    parser.addoption(
        "--quick", action="store_true", help="two minutes: no VM, nothing that is marked long, fewer seeds"
    )
    if not pluginmanager.hasplugin("timeout"):
        # A distribution's pytest: without pytest-timeout, nothing heeds the limits, and the tests run all the same.
        for name in ("timeout", "timeout_method"):
            parser.addini(name, "of pytest-timeout, which is not installed")


def pytest_configure(config: pytest.Config) -> None:
    if sys.getfilesystemencoding() != "utf-8":
        raise pytest.UsageError("names of files are more than ASCII here: set PYTHONUTF8=1, as `make test` does")
    if config.option.quick:
        effort.quick = True
        settings.load_profile("quick")
    if not config.pluginmanager.hasplugin("timeout"):
        config.addinivalue_line("markers", "timeout(seconds): of pytest-timeout, which is not installed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.quick:
        left_out = [one for one in items if one.get_closest_marker("vm") or one.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [one for one in items if not (one.get_closest_marker("vm") or one.get_closest_marker("long"))]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Become root of a lab while the process still has one thread, if any test of this run needs it."""
    session.config.stash[_LAB_ERROR] = None
    if session.config.option.collectonly or not any(item.get_closest_marker("netns") for item in session.items):
        return
    try:
        become_lab_root()
    except LabError as error:
        session.config.stash[_LAB_ERROR] = str(error)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid: str) -> None:
    """Remember after which test a zombie was there first; somebody may yet wait for it."""
    for pid in zombies():
        _ZOMBIES.setdefault(pid, nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that leaves zombies, now that all fixtures have ended, has failed."""
    left = zombies()
    for pid in [*_ZOMBIES]:
        if pid not in left:
            del _ZOMBIES[pid]
    _ZOMBIES.update((pid, "the end of a fixture") for pid in left - _ZOMBIES.keys())
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _ZOMBIES:
        terminalreporter.section("FAILED: children that were not waited for")
        for pid, place in sorted(_ZOMBIES.items()):
            terminalreporter.write_line(f"{pid}, a zombie since {place}")


@pytest.fixture(scope="session")
def lab_root(pytestconfig: pytest.Config) -> None:
    """The right to make network namespaces. Skips without it, but never in CI."""
    error = pytestconfig.stash[_LAB_ERROR]
    if error is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"namespace tests must run in CI: {error}")
    pytest.skip(f"NAMESPACE TESTS DO NOT RUN: {error}")


@pytest.fixture(scope="session")
def suricata_installed() -> None:
    """Skips without Suricata, but never in CI."""
    if shutil.which("suricata") is None:
        assert not os.environ.get("CI"), "Suricata must be tested in CI: .ci/backports suricata:suricata"
        pytest.skip("SURICATA IS NOT TESTED: it is not installed")


@pytest.fixture(scope="session", autouse=True)
def _machine_is_out_of_bounds() -> Iterator[None]:
    """No test changes the machine's own network: in the namespace that pytest was started in, plans are not executed."""
    genuine = Kernel.execute
    own = _namespace()

    def guarded(self: Kernel, *words: Any, **more: Any) -> Any:
        # A BaseException, so that no handler of the command line takes it for a mishap.
        if _namespace() == own:
            pytest.exit("a test was about to change the network of this machine", returncode=3)
        return genuine(self, *words, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kernel, "execute", guarded)
        yield


def _namespace() -> tuple[int, int]:
    status = Path("/proc/thread-self/ns/net").stat()
    return status.st_dev, status.st_ino


@pytest.fixture(autouse=True)
def _netns_mark(request: pytest.FixtureRequest) -> None:
    """Whatever is marked `netns` needs `lab_root`."""
    if request.node.get_closest_marker("netns"):
        request.getfixturevalue("lab_root")
