"""As much of udev as `network.manners` speaks: what it sets for a device. The real one is asked in tests/netns."""

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(r'([A-Z]+)(?:\{(\w+)\})?(==|!=|=)"([^"\\]*)"')


@dataclass(frozen=True)
class Device:
    """`parents`: names of the devices above it. `env`: what udev's own rules have found out already."""

    name: str
    parents: tuple[str, ...] = ()
    address: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def told(rules: str, device: Device, action: str = "add") -> dict[str, str]:
    """What the rules set of a device's environment."""
    env = {"INTERFACE": device.name, **device.env}
    made: dict[str, str] = {}
    label: str | None = None
    for line in rules.splitlines():
        if line.startswith("#"):
            continue
        tokens = _TOKEN.findall(line)
        # Nothing is left over: no mistyped operator, no stray quote.
        assert _TOKEN.sub("", line).replace(",", "").strip() == "", line
        assert tokens
        label = None if (("LABEL", "", "=", label) in tokens) else label
        if label or not all(_holds(one, device, env | made, action) for one in tokens if one[2] != "="):
            continue
        for key, name, operator, value in tokens:
            if operator == "=" and key == "ENV":
                made[name] = value
            elif operator == "=" and key == "GOTO":
                label = value
            else:
                assert operator != "=" or key == "LABEL", line
    assert label is None, "a GOTO that leads nowhere"
    return made


def _holds(token: tuple[str, str, str, str], device: Device, env: Mapping[str, str], action: str) -> bool:
    key, name, operator, pattern = token
    found = {
        "SUBSYSTEM": ["net"],
        "ACTION": [action],
        "KERNELS": [device.name, *device.parents],
        "ATTR": [device.address] if name == "address" else [],
        "ENV": [env.get(name, "")],
    }[key]
    matched = any(fnmatch.fnmatchcase(value, one) for value in found for one in pattern.split("|"))
    return matched is (operator == "==")
