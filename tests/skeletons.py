"""What `reconcile discover` has written, filled in as a person would."""

import re

from reconciler.appliance.declared import Appliance
from reconciler.appliance.load import load
from reconciler.network.skeleton import FILL_IN


def filled(text: str) -> Appliance:
    """The appliance of a skeleton, with what a person is to fill in."""
    ports = load_roles(text)
    text = text.replace(f'sku: "{FILL_IN}"', "sku: x").replace(
        f'segments: "{FILL_IN}"', f"segments: {{all: [{', '.join(ports)}]}}"
    )
    return load(text.encode(), "skeleton.yaml")


def load_roles(text: str) -> list[str]:
    """The data ports of a skeleton, by the adapters that it proposes for them."""
    return re.findall(r"^    (\S+): \{tap: ", text, re.MULTILINE)
