"""Whether somebody holds the other end of the VM's adapters, out of a network that was observed anyway."""

from collections.abc import Iterator

from reconciler.appliance.declared import Appliance, Carrier
from reconciler.health.signal import HealthState, Reading
from reconciler.network.state import Network


def readings(appliance: Appliance, network: Network) -> tuple[Reading, ...]:
    """One reading for each signal of this kind and each segment that it speaks of and that has adapters."""
    return tuple(
        _reading(signal.name, segment, interfaces, network)
        for signal in appliance.health.signals.values()
        if isinstance(signal.source, Carrier)
        for segment, interfaces in _interfaces(appliance).items()
        if signal.segment in (None, segment)
    )


def _interfaces(appliance: Appliance) -> dict[str, list[str]]:
    """The VM's adapters on this host, by segment."""
    found: dict[str, list[str]] = {}
    for role, segment in appliance.homes.items():
        found.setdefault(segment, []).append(appliance.adapters[role].interface)
    return found


def _reading(signal: str, segment: str, interfaces: list[str], network: Network) -> Reading:
    wrong = list(_wrong(interfaces, network))
    if wrong:
        return Reading(signal, HealthState.FAILED, "; ".join(wrong), segment)
    return Reading(signal, HealthState.HEALTHY, f"carrier on {', '.join(interfaces)}", segment)


def _wrong(interfaces: list[str], network: Network) -> Iterator[str]:
    for interface in interfaces:
        link = network.by_name.get(interface)
        if link is None:
            yield f"no interface {interface}"
        elif link.nic is None or not link.nic.carrier:
            yield f"{interface} has no carrier"
