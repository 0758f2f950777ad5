"""How an appliance is cared for: its signals, what they must amount to, and what happens when the VM fails."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails

from reconciler.appliance.written.fields import (
    DOMAIN,
    DURATION,
    URI,
    Duration,
    Ipv4,
    Model,
    Role,
    Roles,
    UdpPort,
    for_schema,
    mistaken,
    text,
    whole,
)
from reconciler.appliance.yaml.words import kind, shown

# The agent's channel on the host, and programs: absolute, so that they mean the same wherever they are read.
PATH = r"^/[!-~]{1,106}$"  # sun_path of a unix socket holds 108 bytes (linux/un.h)
PROGRAM = r"^/[^\x00-\x1f\x7f]{1,4095}$"
ARGUMENT = r"^[^\x00]{0,4096}$"
HTTP = r"^https?://[!-~]{1,500}$"
PAYLOAD = r"^[ -~]{1,200}$"

MAX_SIGNALS = 32
_MAX_READINGS = 1000


def _streak(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if 1 <= value <= _MAX_READINGS:
            return value
        raise mistaken(f"{value} readings", f"from 1 to {_MAX_READINGS}")
    if not isinstance(value, str):
        raise mistaken(f"expected a number of readings or a duration, found {kind(value)}", "3, or 300ms")
    if not re.fullmatch(DURATION, value):
        raise mistaken(f"neither a number of readings nor a duration: {shown(value)}", "3, or 300ms")
    return value


Streak = Annotated[
    int | str,
    BeforeValidator(_streak),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": _MAX_READINGS},
                {"type": "string", "pattern": for_schema(DURATION)},
            ]
        }
    ),
]
Path = Annotated[str, *text(PATH, "a path", "absolute, of at most 107 visible characters, as in /run/ips/agent.sock")]


def _absolute(argv: list[str]) -> list[str]:
    if argv and not re.fullmatch(PROGRAM, argv[0]):
        wrong = mistaken(f"not a program: {shown(argv[0])}", "an absolute path: nothing is searched for")
        raise ValidationError.from_exception_data("argv", [InitErrorDetails(type=wrong, loc=(0,), input=argv[0])])
    return argv


_WORDS = {"anyOf": [{"type": "string", "pattern": for_schema(pattern)} for pattern in (PROGRAM, ARGUMENT)]}
Argument = Annotated[
    str, text(ARGUMENT, "an argument", "at most 4096 characters, none of them NUL")[0], WithJsonSchema(_WORDS)
]
Argv = Annotated[
    list[Argument],
    AfterValidator(_absolute),
    Field(
        min_length=1,
        max_length=64,
        json_schema_extra={"prefixItems": [{"type": "string", "pattern": for_schema(PROGRAM)}]},
    ),
]


class Absent(Model):
    """What it means when a signal tells nothing."""

    before: Literal["absent", "failed"] = Field(
        default="absent", description="Before its first reading, once the grace after the start is over."
    )
    after: Literal["absent", "failed"] = Field(default="absent", description="After it has told something before.")


class _Signal(Model):
    fall: Streak = Field(
        default=1, description="How many failed readings in a row, or for how long, until the signal has failed."
    )
    rise: Streak = Field(
        default=1, description="How many good readings in a row, or for how long, until the signal is healthy."
    )
    absent: Absent = Field(
        default=Absent(), description="What its silence means. `absent` is not `failed`, unless this says so."
    )
    required: bool = Field(
        default=True,
        description="Whether the VM is healthy only if this signal is. In a group, the group decides. "
        "`false` outside a group: only reported.",
    )
    segment: Role | None = Field(default=None, description="The one segment that it speaks of. Left out: all.")


class Heartbeat(_Signal):
    """Beats of the agent in the VM (`reconcile guest`), with the state of each application that it checks."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["socket"], "not": {"anyOf": [{"required": ["cid"]}, {"required": ["port"]}]}},
                {"required": ["cid", "port"], "not": {"required": ["socket"]}},
            ]
        }
    )

    kind: Literal["heartbeat"]
    socket: Path | None = Field(
        default=None, description="The unix socket of the VM's virtio-serial channel, where QEMU listens."
    )
    cid: Annotated[int, Field(ge=3, le=4294967294), BeforeValidator(whole)] | None = Field(
        default=None, description="Instead of `socket`: the VM's vsock address. Needs `port`."
    )
    port: Annotated[int, Field(ge=1, le=4294967294), BeforeValidator(whole)] | None = Field(
        default=None, description="The vsock port on which the agent listens."
    )
    interval: Duration = Field(default="100ms", description="How often the agent beats; as in its own configuration.")
    fall: Streak = Field(default=3, description="How many missing or failed beats, or for how long, until it failed.")
    rise: Streak = Field(default=5, description="How many good beats in a row, or for how long, until it is healthy.")

    @model_validator(mode="after")
    def _one_channel(self) -> Self:
        if (self.socket is None) == (self.cid is None) or (self.cid is None) != (self.port is None):
            raise mistaken("not exactly one channel", "give either `socket`, or both `cid` and `port`")
        return self


class Domain(_Signal):
    """What libvirt tells: the VM runs, crashed, was shut down, paused or migrated. Needs `vm.libvirt`."""

    kind: Literal["domain"]


class Carrier(_Signal):
    """The carrier of the VM's adapters: goes when the hypervisor dies. Speaks of each segment by itself."""

    kind: Literal["carrier"]


class Negative(Model):
    """A frame that the VM must not let through: IPv4/UDP, with a payload that a rule of the vendor's drops."""

    payload: Annotated[str, *text(PAYLOAD, "a payload", "1 to 200 printable characters of ASCII")] = Field(
        description="What the rule looks for."
    )
    every: Duration = Field(default="1s", description="How often it is sent, in each direction.")
    source: Ipv4 = Field(default="198.18.0.1", description="Its source; the default is for tests (RFC 2544).")
    destination: Ipv4 = Field(default="198.19.0.1", description="Its destination; the default is for tests (RFC 2544).")
    port: UdpPort = Field(default=9, description="Its destination port; the default is that of discard.")


class Canary(_Signal):
    """The guard's probes come back through the VM, both ways. Speaks of each guarded segment by itself."""

    kind: Literal["canary"]
    negative: Negative | None = Field(
        default=None, description="Besides, what must never come through: then the VM inspects nothing, and has failed."
    )


class _Polled(_Signal):
    every: Duration = Field(default="5s", description="How often it is asked.")
    timeout: Duration = Field(default="2s", description="How long an answer may take; a late one is a failure.")
    fall: Streak = Field(default=2, description="How many failed readings in a row, or for how long, until it failed.")


class GuestPing(_Polled):
    """The QEMU guest agent answers a ping through libvirt. Needs `vm.libvirt`, and qemu-guest-agent in the VM."""

    kind: Literal["guest-ping"]


class Command(_Polled):
    """Any program, by the exit status of monitoring plugins: 0 healthy, 1 degraded, 2 failed, 3 unknown."""

    kind: Literal["command"]
    run: Argv = Field(description="The program by its absolute path, and its arguments. No shell.")


class Http(_Polled):
    """GET of a URL at the VM's management address."""

    kind: Literal["http"]
    url: Annotated[str, *text(HTTP, "a web address", "http://… or https://…")] = Field(description="What to get.")
    status: Annotated[int, Field(ge=100, le=599), BeforeValidator(whole)] = Field(
        default=200, description="The expected status."
    )


SIGNAL_KINDS = ("heartbeat", "domain", "carrier", "canary", "guest-ping", "command", "http")


def _kind_of(value: Any) -> Any:
    found = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return found if isinstance(found, str) else None


Signal = Annotated[
    Annotated[Heartbeat, Tag("heartbeat")]
    | Annotated[Domain, Tag("domain")]
    | Annotated[Carrier, Tag("carrier")]
    | Annotated[Canary, Tag("canary")]
    | Annotated[GuestPing, Tag("guest-ping")]
    | Annotated[Command, Tag("command")]
    | Annotated[Http, Tag("http")],
    Discriminator(_kind_of),
]


class Quorum(Model):
    """How many of which signals."""

    count: Annotated[int, Field(ge=1, le=MAX_SIGNALS), BeforeValidator(whole)] = Field(description="How many.")
    signals: Roles = Field(min_length=1, max_length=MAX_SIGNALS, description="Of which.")


class Group(Model):
    """Signals that have their say together."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["any_of"]}, {"required": ["n_of"]}]})

    any_of: Annotated[Roles, Field(min_length=1)] | None = Field(default=None, description="One healthy is enough.")
    n_of: Quorum | None = Field(default=None, description="So many must be healthy.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.any_of is None) == (self.n_of is None):
            raise mistaken("not exactly one form", "give exactly one of `any_of`, `n_of`")
        return self


class Health(Model):
    """How health is judged."""

    signals: dict[Role, Signal] = Field(
        default={}, max_length=MAX_SIGNALS, description="The signals by name. Without any, nothing is judged."
    )
    groups: dict[Role, Group] = Field(
        default={}, max_length=MAX_SIGNALS, description="Signals that have their say together, by the group's name."
    )
    grace: Duration = Field(
        default="30s", description="How long after a start of the daemon or the VM silence says nothing."
    )
    hold_down: Duration = Field(
        default="30s", description="How long the VM must be healthy before traffic goes back through it."
    )
    hold_down_max: Duration = Field(default="10m", description="Each flap doubles the hold-down, up to this.")
    flap_memory: Duration = Field(
        default="1h", description="After so long an undisturbed inspection a flap is forgotten."
    )


class Rung(Model):
    """One rung of the ladder."""

    method: Literal["reset", "destroy-and-start"] = Field(
        description="`reset`: as the button does. `destroy-and-start`: the another process of the hypervisor."
    )
    attempts: Annotated[int, Field(ge=1, le=100), BeforeValidator(whole)] = Field(
        default=1, description="How often, before the next rung."
    )


class First(Model):
    """How long `restart-then-bypass` leaves the traffic where it is."""

    attempts: Annotated[int, Field(ge=1, le=100), BeforeValidator(whole)] = Field(
        default=1, description="So many attempts to restart the VM."
    )
    within: Duration = Field(default="1m", description="And no longer than this.")


class Restart(Model):
    """How a failed VM is restarted."""

    ladder: list[Rung] = Field(
        default=[Rung(method="reset", attempts=1), Rung(method="destroy-and-start", attempts=3)],
        max_length=16,
        description="What is tried, in order. An empty list: the VM is never restarted.",
    )
    backoff: Duration = Field(default="5s", description="The pause before the second attempt; each further doubles it.")
    backoff_max: Duration = Field(default="5m", description="The longest pause between attempts.")
    boot_timeout: Duration = Field(
        default="2m", description="How long a started VM has to become healthy before the attempt has failed."
    )
    first: First = Field(default=First(), description="What `restart-then-bypass` tries before it bypasses.")


class OnFailure(Model):
    """What happens when the VM fails."""

    order: Literal["bypass-then-restart", "restart-then-bypass"] = Field(
        default="bypass-then-restart", description="What comes first: traffic past the VM, or the VM's restart."
    )
    fail: Literal["open", "closed"] = Field(
        default="open",
        description="`open`: traffic goes on uninspected. `closed`: traffic stops until it is inspected: segments go "
        "to the topology `isolate`, which holds no port where the file declares none. A guard may say "
        "otherwise for its segment.",
    )
    restart: Restart = Field(default=Restart(), description="How the VM is restarted, where a hypervisor is declared.")


class Libvirt(Model):
    """Where libvirt runs the VM."""

    uri: Annotated[str, *text(URI, "a libvirt URI", "driver://host/path, as in qemu:///system")] = Field(
        default="qemu:///system", description="libvirt connection URI."
    )
    domain: Annotated[str, *text(DOMAIN, "a domain name", "1 to 100 letters, digits or . _ + : @ -")] = Field(
        description="Name or UUID of the libvirt domain."
    )


class Programs(Model):
    """Programs that run a VM which libvirt does not; each by its absolute path, with its arguments, without a shell."""

    start: Argv = Field(description="Starts the VM; ends with 0 when it has.")
    stop: Argv = Field(description="Ends the VM at once, as pulling the plug does; 0 also if it did not run.")
    status: Argv = Field(description="Ends with 0 while the VM runs, with 1 while it does not.")
    reset: Argv | None = Field(default=None, description="Resets the VM. Left out, `reset` is `stop` and `start`.")
    timeout: Duration = Field(default="30s", description="How long each of them may take.")
