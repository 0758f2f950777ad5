"""The appliance file as a model: what a vendor may write, and what each word of it means.

Every description here reaches the JSON Schema, and through it the vendor's editor. Rules that need more than one
place of the file (does this port exist?) stand in `references`, rules about the resulting graph in `proof`. What the
file amounts to once its short forms are written out is an `Appliance`, in `declared`.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from reconciler.appliance.words import kind, shown

# The kernel's IFNAMSIZ is 16 with the final zero byte (linux/if.h). Its dev_valid_name() forbids "/", ":", white space,
# "." and ".."; it expands "%d" in a name that it is to create. The characters here are a safe subset of the rest.
# "all" and "default" are directories of its sysctl tree, which interfaces of these names would shadow.
INTERFACE = r"^(?!(?:all|default)$)[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,14}$"
ROLE = r"^[A-Za-z][A-Za-z0-9_-]{0,30}$"
SKU = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$"
PCI = r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-1][0-9a-f]\.[0-7]$"
MAC = r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$"
DURATION = r"^[0-9]{1,9}(ms|s|m|h)$"
DRIVER = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$"
URI = r"^[a-z][a-z0-9+]{0,30}://[!-~]{0,450}$"
DOMAIN = r"^[A-Za-z0-9._+:@-]{1,100}$"
NETDEV = r"^[!-.0-~]{1,127}$"
# What is only for people, and so ends up on their terminals. Control characters have no business there.
LINE = r"^[^\x00-\x1f\x7f-\x9f]{0,200}$"
PROSE = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]{0,2000}$"

# An appliance of 1,024 ports is the largest that is measured.
MAX_PORTS = 2048
MAX_TOPOLOGIES = 8

_UNIQUE = {"uniqueItems": True}


def _mistaken(what: str, right: str = "") -> PydanticCustomError:
    return PydanticCustomError("mistaken", "{what}", {"what": what, "right": right})


def _matching(pattern: str, what: str, right: str) -> Callable[[Any], Any]:
    compiled = re.compile(pattern)

    def check(value: Any) -> Any:
        if not isinstance(value, str):
            raise _mistaken(f"expected {what} as text, found {kind(value)}", right)
        if not compiled.fullmatch(value):
            raise _mistaken(f"not {what}: {shown(value)}", right)
        return value

    return check


def _for_schema(pattern: str) -> str:
    # In Python's regular expressions, and so in many validators, "$" also matches before a final line break. This is
    # true of no other dialect, and says the same in all.
    return pattern + r"(?!\n)"


def _text(pattern: str, what: str, right: str) -> tuple[Any, Any]:
    schema = {"type": "string", "pattern": _for_schema(pattern)}
    return BeforeValidator(_matching(pattern, what, right)), WithJsonSchema(schema)


def _whole(value: Any) -> Any:
    # To JSON Schema, 1500.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _distinct(roles: list[str]) -> list[str]:
    if len(set(roles)) < len(roles):
        raise PydanticCustomError("duplicate", "a list with an item twice")
    return roles


Interface = Annotated[
    str, *_text(INTERFACE, "an interface name", "1 to 15 of A-Z a-z 0-9 _ . @ + -, beginning with a letter, digit or _")
]
Role = Annotated[str, *_text(ROLE, "a name", "1 to 31 letters, digits, - or _, beginning with a letter")]
Sku = Annotated[str, *_text(SKU, "a SKU", "1 to 63 letters, digits, '.', '_', '+' or '-'")]
Pci = Annotated[str, *_text(PCI, "a PCI address", 'domain:bus:device.function in lower case, as in "0000:02:00.0"')]
Mac = Annotated[
    str,
    AfterValidator(str.lower),
    *_text(MAC, "a MAC address", 'six bytes in hexadecimal, as in "52:54:00:00:00:01"'),
]
Duration = Annotated[str, *_text(DURATION, "a duration", "a whole number and its unit: 200ms, 5s, 2m, 1h")]
Line = Annotated[str, *_text(LINE, "one line of at most 200 characters", "leave control characters out")]
Prose = Annotated[str, *_text(PROSE, "text of at most 2000 characters", "leave control characters out")]
Roles = Annotated[list[Role], AfterValidator(_distinct), Field(max_length=MAX_PORTS, json_schema_extra=_UNIQUE)]
# The least that makes a wire.
Wire = Annotated[
    list[Role], AfterValidator(_distinct), Field(min_length=2, max_length=MAX_PORTS, json_schema_extra=_UNIQUE)
]


class Model(BaseModel):
    """Strict, closed and frozen: the file says exactly this, and nothing else."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _something(cls, value: Any) -> Any:
        # None is the default of what may be left out; written down it means nothing, and JSON Schema refuses it too.
        if value is None:
            raise PydanticCustomError("nothing", "no value")
        return value


class Product(Model):
    """What hardware this file is for."""

    sku: Sku = Field(description="The stock-keeping unit: names the appliance in marks, locks and reports.")
    vendor: Line = Field(default="", description="Who makes the hardware.")
    description: Prose = Field(default="", description="What it is, for people.")


class Match(Model):
    """How to find the NIC of a port on the live machine; all keys that are given must hold for one and the same NIC."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "dependentRequired": {"index": ["driver"]}})

    pci: Pci | None = Field(default=None, description='PCI address, as `lspci -D` prints it: "0000:02:00.0".')
    mac: Mac | None = Field(default=None, description="Permanent MAC address: the one in the NIC, not one set later.")
    driver: Annotated[str, *_text(DRIVER, "a driver name", "as `ethtool -i` prints it")] | None = Field(
        default=None, description="Kernel driver, as `ethtool -i` prints it: igb, ixgbe, virtio_net."
    )
    index: Annotated[int, Field(ge=0, le=4095), BeforeValidator(_whole)] | None = Field(
        default=None,
        description="Which of the NICs of this driver, from 0, in the order of their PCI addresses. Needs `driver`.",
    )
    name: Annotated[str, *_text(NETDEV, "an interface name", "1 to 127 visible characters, no /")] | None = Field(
        default=None, description="Interface name or one of its alternative names."
    )

    @model_validator(mode="after")
    def _determined(self) -> Self:
        if not self.model_fields_set:
            raise _mistaken("nothing to match by", "give pci, mac, driver (with index) or name")
        if self.index is not None and self.driver is None:
            raise _mistaken("`index` without `driver`", "say of which driver")
        return self


class Port(Model):
    """One physical NIC by its role."""

    match: Match = Field(description="How to find the NIC.")
    role: Literal["data", "management"] = Field(
        default="data",
        description="`data`: part of a segment. `management`: never touched, and never part of a switch.",
    )
    take_over: bool = Field(
        default=False,
        description="Take the NIC even when somebody else's bridge or bond holds it, or the default route uses it. "
        "Has no meaning for a management port: that is never touched.",
    )


class Segment(Model):
    """Ports that together are one wire: a frame that enters at one leaves at the others."""

    ports: Wire = Field(description="The data ports of this wire.")
    transparency: Literal["wire", "standard"] = Field(
        default="wire",
        description="`wire`: link-local protocols (LLDP, LACP, EAPOL) pass. "
        "`standard`: they end here, as a bridge of IEEE 802.1D has it.",
    )
    mtu: Annotated[int, Field(ge=68, le=65535), BeforeValidator(_whole)] = Field(
        default=1500,
        description="Bytes of payload a frame may carry; pinned on the segment's ports, adapters and switches.",
    )
    ageing: Duration = Field(
        default="300s", description="How long a switch remembers behind which port an address is. `0s`: not at all."
    )


def _segment_of_list(value: Any) -> Any:
    return {"ports": value} if isinstance(value, list) else value


ShortSegment = Annotated[
    Segment,
    BeforeValidator(
        _segment_of_list,
        json_schema_input_type=Segment | Annotated[Wire, Field(description="Short for `{ports: […]}`.")],
    ),
]


class Libvirt(Model):
    """Where libvirt runs the VM."""

    uri: Annotated[str, *_text(URI, "a libvirt URI", "driver://host/path, as in qemu:///system")] = Field(
        default="qemu:///system", description="libvirt connection URI."
    )
    domain: Annotated[str, *_text(DOMAIN, "a domain name", "1 to 100 letters, digits or . _ + : @ -")] = Field(
        description="Name or UUID of the libvirt domain."
    )


class Adapter(Model):
    """One of the VM's virtual adapters, as the host sees it."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["tap"]}, {"required": ["interface"]}]})

    tap: Interface | None = Field(
        default=None, description="Ours: a persistent tap of this name, created when missing, that the VM attaches to."
    )
    interface: Interface | None = Field(
        default=None, description="Somebody else's: a netdev of this name that the hypervisor makes (vif, vmnet, veth)."
    )
    mac: Mac | None = Field(default=None, description="The adapter's MAC address inside the VM.")
    take_over: bool = Field(
        default=False, description="Take the interface even when somebody else's bridge holds it. For `interface` only."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = self.model_fields_set & {"tap", "interface"}
        if len(given) != 1:
            found = "both `tap` and `interface`" if given else "neither `tap` nor `interface`"
            raise _mistaken(found, "give exactly one: `tap` for ours, `interface` for somebody else's")
        return self


class Vm(Model):
    """The VM that runs the security software."""

    libvirt: Libvirt | None = Field(default=None, description="Which libvirt domain it is.")
    adapters: dict[Role, Adapter] = Field(
        max_length=MAX_PORTS,
        description="The VM's adapters by role; `pair: all` pairs port and adapter of the same name.",
    )


class Switch(Model):
    """One virtual switch: a Linux bridge without address, spanning tree or VLAN filter."""

    ports: Roles = Field(default=[], description="Data ports in this switch.")
    adapters: Roles = Field(default=[], description="Adapters of the VM in this switch.")


class Topology(Model):
    """A named set of switches, written out or in a short form."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [form]} for form in ("switches", "pair", "join")]}
    )

    switches: dict[Interface, Switch] | None = Field(
        default=None,
        max_length=MAX_PORTS,
        description="The switches by name; the name is that of the bridge interface.",
    )
    pair: Literal["all"] | None = Field(
        default=None,
        description="Short for one switch `sw-PORT` per data port, holding the port and the adapter of the same name.",
    )
    join: Literal["all"] | None = Field(
        default=None,
        description="Short for one switch per segment, holding all of its ports: `sw-TOPOLOGY`, "
        "or `sw-TOPOLOGY-SEGMENT` where there are several segments.",
    )
    detached: Roles = Field(default=[], description="Data ports that this topology leaves without a switch on purpose.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = sorted(self.model_fields_set & {"switches", "pair", "join"})
        if len(given) != 1:
            found = "both `" + "` and `".join(given) + "`" if given else "no switches"
            raise _mistaken(found, "give exactly one of `switches`, `pair: all`, `join: all`")
        return self


class Health(Model):
    """How health is judged. The daemon reads it."""

    hold_down: Duration = Field(
        default="30s", description="How long the VM must be healthy before traffic goes back through it."
    )


class OnFailure(Model):
    """What happens when the VM fails. The daemon reads it."""

    order: Literal["bypass-then-restart", "restart-then-bypass"] = Field(
        default="bypass-then-restart", description="What comes first: traffic past the VM, or the VM's restart."
    )
    fail: Literal["open", "closed"] = Field(
        default="open",
        description="`open`: traffic goes on uninspected. `closed`: traffic stops until it is inspected.",
    )


REQUIRED_TOPOLOGIES = ("inspect", "bypass")


def _complete(topologies: dict[str, Topology]) -> dict[str, Topology]:
    if any(name not in topologies for name in REQUIRED_TOPOLOGIES):
        raise PydanticCustomError("incomplete", "a required topology is missing")
    return topologies


class ApplianceFile(Model):
    """One hardware SKU: its ports, its VM, its topologies, its health policy."""

    model_config = ConfigDict(title="reconciler appliance")

    schema_: Literal["reconciler/v1"] = Field(alias="schema", description="The version of this format.")
    appliance: Product = Field(description="What hardware this file is for.")
    ports: dict[Role, Port] = Field(min_length=2, max_length=MAX_PORTS, description="The physical NICs by role.")
    segments: dict[Role, ShortSegment] | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Which ports form one wire. Left out, all data ports form the one segment `wire`.",
    )
    vm: Vm = Field(description="The VM that runs the security software.")
    topologies: Annotated[dict[Role, Topology], AfterValidator(_complete)] = Field(
        max_length=MAX_TOPOLOGIES,
        description="The named sets of switches; `inspect` and `bypass` are required.",
        json_schema_extra={"required": [*REQUIRED_TOPOLOGIES]},
    )
    health: Health | None = Field(default=None, description="How health is judged.")
    on_failure: OnFailure | None = Field(default=None, description="What happens when the VM fails.")
