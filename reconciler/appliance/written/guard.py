"""The guard of a segment as a vendor writes it: how long the VM is trusted, and how it proves that it forwards."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from reconciler.appliance.written.fields import Duration, Ipv4, Model, UdpPort, mistaken
from reconciler.appliance.yaml.words import kind, shown

# What a probe of each frame has besides, and must be given.
FRAMES = {"ethernet": (), "arp": ("source", "destination"), "udp": ("source", "destination", "port")}
_ADDRESSING = FRAMES["udp"]


def _frame_for_schema(frame: str) -> dict[str, Any]:
    """What a JSON Schema says of a probe of this frame; one that names none is of the first."""
    needed = FRAMES[frame]
    said = {"required": ["frame", *needed]} if needed else {}
    alien = [{"required": [key]} for key in _ADDRESSING if key not in needed]
    words = f"A probe of the frame `{frame}`."
    only = {"description": words, "properties": {"frame": {"const": frame}}}
    return {**only, **said, **({"not": {"anyOf": alien}} if alien else {})}


class Probe(Model):
    """The frames that the VM must forward, one each time and direction."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [_frame_for_schema(frame) for frame in FRAMES]})

    every: Duration = Field(
        default="20ms", description="How often one is sent; from 1ms to a quarter of the lease: one may come late."
    )
    frame: Literal["ethernet", "arp", "udp"] = Field(
        default="ethernet",
        description="What it looks like to the VM. `ethernet`: ethertype 0x88B5. `arp`: a request, for a VM that drops "
        "unknown ethertypes. `udp`: IPv4/UDP, for one whose software sees nothing but IP.",
    )
    source: Ipv4 | None = Field(
        default=None, description="Of `arp` the sender's, of `udp` the source address. Both need it."
    )
    destination: Ipv4 | None = Field(
        default=None, description="Of `arp` the address asked for, of `udp` the destination. Both need it."
    )
    port: UdpPort | None = Field(default=None, description="Of `udp` the destination port, and needed.")

    @model_validator(mode="after")
    def _addressed(self) -> Self:
        needed = FRAMES[self.frame]
        given = [key for key in _ADDRESSING if getattr(self, key) is not None]
        for key in needed:
            if key not in given:
                raise mistaken(f"a probe of the frame `{self.frame}` without `{key}`", f"needed are {_list(needed)}")
        for key in given:
            if key not in needed:
                right = f"remove it, or give a `frame` that has one: {_list(_frames_with(key))}"
                raise mistaken(f"a probe of the frame `{self.frame}` has no `{key}`", right)
        return self


def _frames_with(key: str) -> tuple[str, ...]:
    return tuple(frame for frame, keys in FRAMES.items() if key in keys)


def _list(keys: tuple[str, ...]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _probe_of_text(value: Any) -> Any:
    if not isinstance(value, str | dict | Probe):
        raise mistaken(f"expected a duration or a mapping, found {kind(value)}", "20ms, or {every: 20ms}")
    return {"every": value} if isinstance(value, str) else value


ShortProbe = Annotated[
    Probe,
    BeforeValidator(
        _probe_of_text,
        json_schema_input_type=Probe | Annotated[Duration, Field(description="Short for `{every: …}`.")],
    ),
]


_SHARE = r"^([1-9][0-9]?|100)%$"


def _share(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(_SHARE[1:-1], value):
        found = shown(value) if isinstance(value, str) else kind(value)
        raise mistaken(f"expected a share, found {found}", "whole percent from 1% to 100%, as in 50%")
    return value


class Loss(Model):
    """What of the frames that enter may be missing where they leave, between ports and adapters."""

    share: Annotated[str, BeforeValidator(_share)] = Field(
        default="50%",
        description="The share of frames, in whole percent, that is too much.",
        json_schema_extra={"pattern": _SHARE},
    )
    within: Duration = Field(
        default="1s",
        description="For how long it is counted, from 500ms to 1m; where few frames enter, up to 10s longer.",
    )


def _loss_or_off(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if value == "off":
        return None
    if not isinstance(value, dict | Loss):
        found = shown(value) if isinstance(value, str) else kind(value)
        raise mistaken(f"expected a mapping or the text `off`, found {found}", '{} for the defaults, or "off" for none')
    return handler(value)


LossOrOff = Annotated[
    Loss | None,
    WrapValidator(
        _loss_or_off,
        json_schema_input_type=Loss | Annotated[Literal["off"], Field(description="It is not looked at.")],
    ),
]


class Guard(Model):
    """The dead-man switch in the kernel: past the VM as soon as nothing proves any more that it forwards."""

    lease: Duration = Field(
        default="200ms",
        description="How long a probe that came back keeps the VM trusted; from 10ms to 60s. With daemon and VM "
        "both dead, so long no traffic passes.",
    )
    probe: ShortProbe = Field(
        default=Probe(),
        description="The frames that prove the VM's path.",
        json_schema_extra={"default": "20ms"},
    )
    fail: Literal["open", "closed"] | None = Field(
        default=None,
        description="`open`: tripped, the guard joins the wire. `closed`: it cuts it, and a VM that has failed sends "
        "the segment to `isolate`. Left out: as `on_failure.fail` says.",
    )
    latch: bool = Field(
        default=True,
        description="After a trip, `true`: traffic goes back to the VM when health's hold-down is over. `false`: as "
        "soon as its path is proven again.",
    )
    grace: Duration = Field(
        default="30s", description="How long probes go on without the daemon, for it to be restarted; at most 1h."
    )
    drain: Duration = Field(
        default="100ms",
        description="How long the VM may still emit what it holds when traffic leaves it on purpose; at most 10s.",
    )
    lease_by: Literal["probes", "daemon"] = Field(
        default="probes",
        description="Who renews the lease: each probe that comes back, in the kernel, or the daemon, on its verdict; "
        "that needs a lease of at least 1s.",
    )
    loss: LossOrOff = Field(
        default=Loss(),
        description="What enters must leave: how much may be missing between a port and its adapter until the signal "
        "`path` fails, and the guard has the wire.",
        json_schema_extra={"default": {}},
    )


def _guard_or_off(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """None for a segment that has said `off`; one that has said nothing never gets here."""
    if value == "off":
        return None
    if not isinstance(value, dict | Guard):
        found = shown(value) if isinstance(value, str) else kind(value)
        raise mistaken(f"expected a mapping or the text `off`, found {found}", '{} for the defaults, or "off" for none')
    return handler(value)


GuardOrOff = Annotated[
    Guard | None,
    WrapValidator(
        _guard_or_off,
        json_schema_input_type=Guard | Annotated[Literal["off"], Field(description="No guard here.")],
    ),
]
