"""What a value of the appliance file may be: the characters of a name, the shape of a duration, the size of a list."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from reconciler.appliance.yaml.words import kind, shown

# The kernel's IFNAMSIZ is 16 with the final zero byte (linux/if.h). Its dev_valid_name() forbids "/", ":", white space,
# "." and ".."; it expands "%d" in a name that it is to create. The characters here are a safe subset of the rest.
# "all" and "default" are directories of its sysctl tree, which interfaces of these names would shadow.
INTERFACE = r"^(?!(?:all|default)$)[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,14}$"
ROLE = r"^[A-Za-z][A-Za-z0-9_-]{0,30}$"
SKU = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$"
PCI = r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-1][0-9a-f]\.[0-7]$"
MAC = r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$"
# Bit 0 of the first byte is the group bit (IEEE 802, clause 8.2); all zeros is what the kernel has for none.
_UNICAST = r"^(?!00(?::00){5}$)[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$"
DURATION = r"^[0-9]{1,9}(ms|s|m|h)$"
DRIVER = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$"
URI = r"^[a-z][a-z0-9+]{0,30}://[!-~]{0,450}$"
DOMAIN = r"^[A-Za-z0-9._+:@-]{1,100}$"
NETDEV = r"^[!-.0-~]{1,127}$"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4 = rf"^{_BYTE}(?:\.{_BYTE}){{3}}$"
# What is only for people, and so ends up on their terminals. Control characters have no business there.
LINE = r"^[^\x00-\x1f\x7f-\x9f]{0,200}$"
PROSE = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]{0,2000}$"

# An appliance of 1,024 ports is the largest that is measured.
MAX_PORTS = 2048
MAX_TOPOLOGIES = 8

_UNIQUE = {"uniqueItems": True}


def mistaken(what: str, right: str = "") -> PydanticCustomError:
    """The error that says what is wrong with a value, and what would be right."""
    return PydanticCustomError("mistaken", "{what}", {"what": what, "right": right})


def _matching(pattern: str, what: str, right: str, meant: Callable[[str], str]) -> Callable[[Any], Any]:
    compiled = re.compile(pattern)

    def check(value: Any) -> Any:
        if not isinstance(value, str):
            raise mistaken(f"expected {what} as text, found {kind(value)}", right)
        if not compiled.fullmatch(value):
            guess = meant(value)
            better = f'did you mean "{guess}"?' if compiled.fullmatch(guess) else right
            raise mistaken(f"not {what}: {shown(value)}", better)
        return value

    return check


def for_schema(pattern: str) -> str:
    """The pattern for a JSON Schema."""
    # In Python's regular expressions, and so in many validators, "$" also matches before a final line break. This is
    # true of no other dialect, and says the same in all.
    return pattern + r"(?!\n)"


def text(pattern: str, what: str, right: str, meant: Callable[[str], str] = str.strip) -> tuple[Any, Any]:
    """What makes a `str` one that matches `pattern`, here and in the JSON Schema; `meant` guesses what was meant."""
    schema = {"type": "string", "pattern": for_schema(pattern)}
    return BeforeValidator(_matching(pattern, what, right, meant)), WithJsonSchema(schema)


def whole(value: Any) -> Any:
    """A whole number, however it was written."""
    # To JSON Schema, 1500.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _distinct(roles: list[str]) -> list[str]:
    if len(set(roles)) < len(roles):
        raise PydanticCustomError("duplicate", "a list with an item twice")
    return roles


Interface = Annotated[
    str, *text(INTERFACE, "an interface name", "1 to 15 of A-Z a-z 0-9 _ . @ + -, beginning with a letter, digit or _")
]
Role = Annotated[str, *text(ROLE, "a name", "1 to 31 letters, digits, - or _, beginning with a letter")]
Sku = Annotated[str, *text(SKU, "a SKU", "1 to 63 letters, digits, '.', '_', '+' or '-'")]


def _whole_pci(value: str) -> str:
    """What `lspci` prints of a PCI address, or somebody's capitals, as the whole address."""
    short = value.strip().lower()
    return f"0000:{short}" if re.fullmatch(r"[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", short) else short


def _unicast(value: str) -> str:
    if not re.fullmatch(_UNICAST, value):
        why = "of a group (multicast or broadcast)" if int(value[:2], 16) & 1 else "all zeros"
        raise mistaken(f"no station has the MAC address {shown(value)}: it is {why}", "give the address of one NIC")
    return value


Pci = Annotated[
    str,
    *text(PCI, "a PCI address", 'domain:bus:device.function in lower case, as in "0000:02:00.0"', meant=_whole_pci),
]
Mac = Annotated[
    str,
    AfterValidator(_unicast),
    AfterValidator(str.lower),
    text(MAC, "a MAC address", 'six bytes in hexadecimal, as in "52:54:00:00:00:01"')[0],
    WithJsonSchema({"type": "string", "pattern": for_schema(_UNICAST)}),
]
Duration = Annotated[str, *text(DURATION, "a duration", "a whole number and its unit: 200ms, 5s, 2m, 1h")]
Ipv4 = Annotated[str, *text(IPV4, "an IPv4 address", 'as in "192.0.2.1"')]
UdpPort = Annotated[int, Field(ge=1, le=65535), BeforeValidator(whole)]
Line = Annotated[str, *text(LINE, "one line of at most 200 characters", "leave control characters out")]
Prose = Annotated[str, *text(PROSE, "text of at most 2000 characters", "leave control characters out")]
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
