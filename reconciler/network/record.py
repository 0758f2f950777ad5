"""An observed network as JSON, and back: to plan on any machine against what was captured on another."""

import json
from typing import Any

from reconciler.errors import ReconcilerError
from reconciler.network.state import Kind, Link, Network, Nic, Setting, Value

STATE_FORMAT = "reconciler.state/1"


class InvalidRecordError(ReconcilerError):
    """A file that is not a recorded state."""


def dump(network: Network) -> dict[str, Any]:
    """The network as a JSON value; see docs/auditor.md for its shape."""
    return {
        "format": STATE_FORMAT,
        "default_route": sorted(network.default_route),
        "bridge_netfilter": list(network.bridge_netfilter),
        "routed": sorted(network.routed),
        "unresolved": list(network.unresolved),
        "links": [_link(link) for link in network.links],
    }


def _link(link: Link) -> dict[str, Any]:
    nic = link.nic or Nic(0)
    return {
        "name": link.name,
        "kind": link.kind.value,
        "index": nic.index,
        "pci": nic.pci,
        "permanent_mac": nic.mac,
        "driver": nic.driver,
        "altnames": list(nic.altnames),
        "carrier": nic.carrier,
        "physical": nic.physical,
        "lower": list(nic.lower),
        "settings": {setting.value: value for setting, value in link.settings.items()},
    }


def parse(text: str, name: str) -> Network:
    """The network that `text` records.

    Raises:
        InvalidRecordError: it is not JSON, or not of this format; says where.

    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRecordError(f"{name}: not JSON: {error}; `reconcile observe` writes such files") from None
    found = data.get("format") if isinstance(data, dict) else None
    if found != STATE_FORMAT:
        what = f"{name}: format is {ascii(found)[:60]}, expected '{STATE_FORMAT}'"
        raise InvalidRecordError(f"{what}; `reconcile observe` writes such files")
    try:
        links = tuple(_parse_link(link) for link in data["links"])
        routes = frozenset(_text(route) for route in data["default_route"])
        return Network(
            links,
            routes,
            tuple(_text(sysctl) for sysctl in data["bridge_netfilter"]),
            # Not in what was recorded before the kernel was asked for them.
            frozenset(_text(name) for name in data.get("routed", ())),
            tuple(_number(nexthop) for nexthop in data.get("unresolved", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{name}: not a recorded state: {type(error).__name__} {ascii(str(error))[:80]}"
        raise InvalidRecordError(f"{what}; `reconcile observe` writes such files") from None


def _parse_link(data: Any) -> Link:
    nic = Nic(
        index=_number(data["index"]),
        pci=_text_or_none(data["pci"]),
        mac=_text_or_none(data["permanent_mac"]),
        driver=_text_or_none(data["driver"]),
        altnames=tuple(_text(name) for name in data["altnames"]),
        carrier=data["carrier"] is True,
        physical=data["physical"] is True,
        lower=tuple(_number(index) for index in data["lower"]),
    )
    settings = {Setting(key): _value(value) for key, value in data["settings"].items()}
    _text_or_none(settings.get(Setting.SWITCH))
    return Link(_text(data["name"]), Kind(data["kind"]), settings, nic=nic)


def _value(value: Any) -> Value:
    if isinstance(value, list):
        return tuple(_text(item) for item in value)
    if value is None or isinstance(value, str | int):
        return value
    raise ValueError(f"a setting cannot be {ascii(value)[:40]}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {ascii(value)[:40]}")
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected a number, found {ascii(value)[:40]}")
    return value
