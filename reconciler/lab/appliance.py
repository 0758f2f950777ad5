"""The appliance file of a lab: what a vendor would write for a machine with these NICs."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.lab.lab import MANAGEMENT


def appliance_file(
    ports: Sequence[str],
    adapters: Sequence[str],
    segments: Sequence[Sequence[int]],
    *,
    vm: Mapping[str, Any] | None = None,
    sections: Mapping[str, Any] | None = None,
    guards: Mapping[str, Mapping[str, Any] | str] | None = None,
) -> str:
    """The text of a file for a `Lab`: its `ports`, `adapters` and `segments`, in the same order.

    `vm`: what else to say of the VM. `sections`: what else to say of the appliance (`health`, `on_failure`,
    `guard`). `guards`: the guards of single segments, by the segment's name; `"off"` is none.
    """
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
        members = [roles[index] for index in segment]
        own = (guards or {}).get(name)
        lines.append(f"  {name}: {_flow(members if own is None else {'ports': members, 'guard': own})}")
    lines += ["vm:", *_block(vm or {}, "  "), "  adapters:"]
    lines += [f"    {role}: {{interface: {adapter}}}" for role, adapter in zip(roles, adapters, strict=True)]
    lines += ["topologies:", "  inspect: {pair: all}", "  bypass: {join: all}"]
    lines += _block(sections or {}, "")
    return "\n".join(lines) + "\n"


def _block(section: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Mappings of mappings line by line; what is innermost in one line."""
    for key, value in section.items():
        if isinstance(value, Mapping) and any(isinstance(one, Mapping | list) for one in value.values()):
            yield f"{indent}{key}:"
            yield from _block(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {_flow(value)}"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_flow(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    text = str(value)
    return text if re.fullmatch(r"[A-Za-z0-9/][A-Za-z0-9/._-]*", text) else json.dumps(value)
