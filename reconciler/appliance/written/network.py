"""The appliance file as a model: what a vendor may write, and what each word of it means.

Every description here reaches the JSON Schema, and through it the vendor's editor. Rules that need more than one
place of the file (does this port exist?) stand in `references`, rules about the resulting graph in `proof`. What the
file amounts to once its short forms are written out is an `Appliance`, in `declared`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from reconciler.appliance.written.fields import (
    DRIVER,
    MAX_PORTS,
    MAX_TOPOLOGIES,
    NETDEV,
    Duration,
    Interface,
    Line,
    Mac,
    Model,
    Pci,
    Prose,
    Role,
    Roles,
    Sku,
    Wire,
    mistaken,
    text,
    whole,
)
from reconciler.appliance.written.guard import Guard, GuardOrOff
from reconciler.appliance.written.health import Health, Libvirt, OnFailure, Programs


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
    driver: Annotated[str, *text(DRIVER, "a driver name", "as `ethtool -i` prints it")] | None = Field(
        default=None, description="Kernel driver, as `ethtool -i` prints it: igb, ixgbe, virtio_net."
    )
    index: Annotated[int, Field(ge=0, le=4095), BeforeValidator(whole)] | None = Field(
        default=None,
        description="Which of the NICs of this driver, from 0, in the order of their PCI addresses. Needs `driver`.",
    )
    name: Annotated[str, *text(NETDEV, "an interface name", "1 to 127 visible characters, no /")] | None = Field(
        default=None, description="Interface name or one of its alternative names."
    )

    @model_validator(mode="after")
    def _determined(self) -> Self:
        if not self.model_fields_set:
            raise mistaken("nothing to match by", "give pci, mac, driver (with index) or name")
        if self.index is not None and self.driver is None:
            raise mistaken("`index` without `driver`", "say of which driver")
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
        description="Take the NIC even when somebody else's bridge or bond holds it, or the host itself uses it: "
        "a default route, another route, or an address is on it. These are lost. "
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
    mtu: Annotated[int, Field(ge=68, le=65535), BeforeValidator(whole)] = Field(
        default=1500,
        description="Bytes of payload a frame may carry; pinned on the segment's ports, adapters and switches.",
    )
    ageing: Duration = Field(
        default="300s",
        description="How long a switch of more than two members remembers behind which port an address is. `0s`: not "
        "at all. One of two members is a wire, and learns nothing.",
    )
    guard: GuardOrOff = Field(
        default=None,
        description="The guard of this segment, in the place of the file's own `guard` as a whole: what is left out "
        'here is the default, not what stands there. `"off"`: no guard here.',
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
        default=False,
        description="Take the interface even when somebody else's bridge holds it, or an address or a route is on it. "
        "For `interface` only.",
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = self.model_fields_set & {"tap", "interface"}
        if len(given) != 1:
            found = "both `tap` and `interface`" if given else "neither `tap` nor `interface`"
            raise mistaken(found, "give exactly one: `tap` for ours, `interface` for somebody else's")
        return self


class Vm(Model):
    """The VM that runs the security software."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["libvirt", "programs"]}})

    libvirt: Libvirt | None = Field(default=None, description="Which libvirt domain it is.")
    programs: Programs | None = Field(default=None, description="Instead of `libvirt`: programs that run it.")
    adapters: dict[Role, Adapter] = Field(
        max_length=MAX_PORTS,
        description="The VM's adapters by role; `pair: all` pairs port and adapter of the same name.",
    )

    @model_validator(mode="after")
    def _one_hypervisor(self) -> Self:
        if self.libvirt is not None and self.programs is not None:
            raise mistaken("both `libvirt` and `programs`", "one of them runs the VM: remove the other")
        return self


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
            raise mistaken(found, "give exactly one of `switches`, `pair: all`, `join: all`")
        return self


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
    guard: Guard | None = Field(
        default=None,
        description="The guard of every segment that has none of its own. Left out: none there. `{}`: all defaults.",
    )
