"""The appliance file of a lab: what a vendor would write for a machine with these NICs."""

from collections.abc import Sequence

from reconciler.lab.lab import MANAGEMENT


def appliance_file(ports: Sequence[str], adapters: Sequence[str], segments: Sequence[Sequence[int]]) -> str:
    """The text of a file for a `Lab`: its `ports`, `adapters` and `segments`, in the same order."""
    roles = ["outside", "inside"] if len(ports) == 2 else [f"port{index}" for index in range(len(ports))]
    lines = [
        "schema: reconciler/v1",
        f"appliance: {{sku: lab-{len(ports)}port}}",
        "ports:",
        f"  mgmt: {{match: {{name: {MANAGEMENT}}}, role: management}}",
        *(f"  {role}: {{match: {{name: {port}}}}}" for role, port in zip(roles, ports, strict=True)),
        "segments:",
    ]
    for number, segment in enumerate(segments):
        name = "edge" if len(segments) == 1 else f"seg{number}"
        lines.append(f"  {name}: [{', '.join(roles[index] for index in segment)}]")
    lines += ["vm:", "  adapters:"]
    lines += [f"    {role}: {{interface: {adapter}}}" for role, adapter in zip(roles, adapters, strict=True)]
    lines += ["topologies:", "  inspect: {pair: all}", "  bypass: {join: all}"]
    return "\n".join(lines) + "\n"
