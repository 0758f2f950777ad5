"""Rights for the tests that need network namespaces, and the smallest network that joins two clients."""

from collections.abc import Callable, Iterator

import pytest
from pyroute2 import IPRoute

from reconciler.lab.lab import Lab, netlink
from reconciler.lab.namespaces import LabError, become_lab_root


@pytest.fixture(scope="session")
def lab_rights() -> None:
    try:
        become_lab_root()
    except LabError as error:
        pytest.skip(str(error))


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    request.getfixturevalue("lab_rights")
    with Lab(2) as lab:
        yield lab


@pytest.fixture
def join() -> Callable[[Lab, str, list[str]], None]:
    def join(lab: Lab, switch: str, members: list[str]) -> None:
        def action(ipr: IPRoute) -> None:
            ipr.link("add", ifname=switch, kind="bridge", state="up", br_stp_state=0, br_mcast_snooping=0)
            master = ipr.link_lookup(ifname=switch)[0]
            for member in members:
                ipr.link("set", index=ipr.link_lookup(ifname=member)[0], master=master)

        netlink(lab.host, action)

    return join


@pytest.fixture
def inspected(lab: Lab, join: Callable[[Lab, str, list[str]], None]) -> Lab:
    """A lab in which each port is joined with its adapter, so that all traffic goes through the VM."""
    for index, (port, adapter) in enumerate(zip(lab.ports, lab.adapters, strict=True)):
        join(lab, f"sw{index}", [port, adapter])
    return lab
