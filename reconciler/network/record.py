"""An observed network as JSON, and back: to plan on any machine against what was captured on another."""

import json
from dataclasses import asdict
from typing import Any

from reconciler import codec
from reconciler.errors import ReconcilerError
from reconciler.network.state import Kind, Link, Network, Nic, Setting, Value
from reconciler.network.surroundings import Station, Surroundings

STATE_FORMAT = "reconciler.state/1"

_value = codec.codec(Value).parse
_maybe = codec.codec(str | None).parse
_around = codec.codec(Surroundings | None).parse


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
        "stations": [asdict(one) for one in network.stations],
        "surroundings": network.surroundings and asdict(network.surroundings),
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
        "bus": nic.bus,
        "inet6": list(nic.inet6),
        "xdp": nic.xdp,
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
        return Network(
            links,
            codec.parse(frozenset[str], data["default_route"]),
            codec.parse(tuple[str, ...], data["bridge_netfilter"]),
            # Not in what was recorded before the kernel was asked for them.
            codec.parse(frozenset[str], data.get("routed", [])),
            codec.parse(tuple[int, ...], data.get("unresolved", [])),
            codec.parse(tuple[Station, ...], data.get("stations", [])),
            _around(data.get("surroundings")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{name}: not a recorded state: {type(error).__name__} {ascii(str(error))[:80]}"
        raise InvalidRecordError(f"{what}; `reconcile observe` writes such files") from None


def _parse_link(data: Any) -> Link:
    nic = Nic(
        index=codec.parse(int, data["index"]),
        pci=_maybe(data["pci"]),
        mac=_maybe(data["permanent_mac"]),
        driver=_maybe(data["driver"]),
        altnames=codec.parse(tuple[str, ...], data["altnames"]),
        carrier=codec.parse(bool, data["carrier"]),
        physical=codec.parse(bool, data["physical"]),
        lower=codec.parse(tuple[int, ...], data["lower"]),
        inet6=codec.parse(tuple[str, ...], data.get("inet6", [])),
        bus=_maybe(data.get("bus")),
        xdp=codec.parse(str, data.get("xdp", "")),
    )
    settings = {Setting(key): _value(value) for key, value in data["settings"].items()}
    _maybe(settings.get(Setting.SWITCH))
    return Link(codec.parse(str, data["name"]), Kind(data["kind"]), settings, nic=nic)
