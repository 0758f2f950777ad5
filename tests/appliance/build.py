"""Appliance files for tests, as data, and as YAML text of one line (JSON is YAML)."""

import json

from reconciler.appliance.load import InvalidFileError, load


def file(ports=("a", "b"), segments=None, inspect=None, bypass=None, **more):
    """A file with these data ports, an adapter for each, and the short forms where nothing else is given."""
    data = {
        "schema": "reconciler/v1",
        "appliance": {"sku": "test"},
        "ports": {port: {"match": {"name": f"eth-{port}"}} for port in ports},
        "vm": {"adapters": {port: {"tap": f"tap-{port}"} for port in ports}},
        "topologies": {"inspect": inspect or {"pair": "all"}, "bypass": bypass or {"join": "all"}},
    }
    if segments:
        data["segments"] = segments
    data["topologies"] |= more.pop("topologies", {})
    return data | more


def appliance(data):
    return load(json.dumps(data).encode(), "test")


def mistakes(data):
    """All mistakes of a file, as ``path: what; right``."""
    try:
        appliance(data)
    except InvalidFileError as error:
        return [str(mistake).split(" ", 1)[1] for mistake in error.mistakes]
    return []


def switches(**members):
    """``sw=(["port"], ["adapter"])`` as the long form of a topology."""
    return {
        "switches": {
            name: {"ports": list(ports), "adapters": list(adapters)} for name, (ports, adapters) in members.items()
        }
    }
