"""What this process may do."""

from reconciler.errors import HostError

_CAP_NET_ADMIN = 12  # linux/capability.h


def check_may_administer(what: str, instead: str = "") -> None:
    """Make sure that this process may change the network.

    Raises:
        HostError: `what` needs a capability that it does not have.

    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next((line.split()[1] for line in status if line.startswith("CapEff:")), "0")
    if not int(effective, 16) >> _CAP_NET_ADMIN & 1:
        raise HostError(f"{what} needs the capability CAP_NET_ADMIN: run as root{f', {instead}' if instead else ''}")
