"""The file that says what is checked, and where the beats go."""

from __future__ import annotations

import configparser
import re

from reconciler.guest.agent.check import Check
from reconciler.guest.agent.probes import KINDS
from reconciler.guest.agent.readings import FAILED
from reconciler.guest.agent.section import Section

DEFAULT_CHANNEL = "/dev/virtio-ports/org.reconciler.agent.0"
MAX_CHECKS = 32
CHECK_NAME = "[A-Za-z][A-Za-z0-9_-]{0,30}"


class ConfigError(Exception):
    """The config is wrong; one line per mistake."""


class Config:
    """What the file says."""

    def __init__(self, agent: Section, checks: list[Check]) -> None:
        self.checks = checks
        self.interval_s = agent.duration("interval", "10ms", "60s", "100ms")
        right = "a character device's path, unix:/PATH or vsock:PORT"
        self.channel = agent.text("channel", r"/[^\n]*|unix:/[^\n]{1,106}|vsock:[0-9]{1,9}", right, DEFAULT_CHANNEL)
        self.watchdog = agent.path("watchdog") if "watchdog" in agent.values else ""
        self.discard = agent.text("watchdog_stop", "keep|discard", "keep or discard", "keep") == "discard"
        if "watchdog_stop" in agent.values and "watchdog" not in agent.values:
            agent.wrong("watchdog_stop", "there is no watchdog; leave it out, or add watchdog = /dev/watchdog")
        agent.only("interval", "channel", "watchdog", "watchdog_stop")


def read_check(name: str, section: Section) -> Check | None:
    """Return the check that a section describes."""
    if not re.fullmatch(CHECK_NAME, name):
        section.wrong("", "a check's name is a letter, then up to 30 letters, digits, _ or -")
    kinds = [kind for kind in KINDS if kind in section.values]
    if kinds == ["suricata", "command"]:  # there, it is the command that Suricata gets
        kinds.pop()
    if len(kinds) != 1:
        section.wrong("", f"has {' and '.join(kinds) or 'no kind'}; write exactly one of {', '.join(KINDS)}")
        return None
    make, keys, every = KINDS[kinds[0]]
    section.only(kinds[0], *keys, "every", "timeout", "tolerate", "on_silence", "on_failure")
    return Check(
        name,
        make(section),
        every_s=section.duration("every", "50ms", "60m", every),
        timeout_s=section.duration("timeout", "10ms", "60s", "500ms"),
        tolerate_s=section.duration("tolerate", "0s", "60m", "0s"),
        on_silence=section.text("on_silence", "failed|degraded", "failed or degraded", FAILED),
        on_failure=section.text("on_failure", "failed|degraded", "failed or degraded", FAILED),
    )


def parse(path: str, errors: list[str]) -> configparser.ConfigParser:
    """Return what stands in the file; raises ConfigError if it has no sections and keys."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for strict in (True, False):  # once more after a duplicate, to find other mistakes as well
        # A default section of an impossible name makes [DEFAULT] one as any other.
        parser = configparser.ConfigParser(
            strict=strict, interpolation=None, delimiters=("=",), default_section="\n", empty_lines_in_values=False
        )
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        try:
            parser.read_string(text, path)
            break
        except configparser.DuplicateSectionError as error:
            errors.append(f"{path}: [{error.section}]: stands there twice; keep one")
        except configparser.DuplicateOptionError as error:
            errors.append(f"{path}: [{error.section}] {error.option}: stands there twice; keep one")
        except configparser.Error as error:
            raise ConfigError(f"{path}: write sections and keys: {' '.join(str(error).split())}") from error
    return parser


def load(path: str) -> Config:
    """Read the file; raises ConfigError with all that is wrong with it."""
    errors: list[str] = []
    try:
        parser = parse(path, errors)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    sections = {name: Section(f"{path}: [{name}]", dict(parser.items(name)), errors) for name in parser.sections()}
    agent = sections.pop("agent", Section(f"{path}: [agent]", {}, errors))
    checks = []
    for name, section in sections.items():
        kind, _, check_name = name.partition(" ")
        if kind == "check":
            checks.append(read_check(check_name, section))
        else:
            section.wrong("", "unknown section; known are [agent] and [check NAME]")
    if len(checks) > MAX_CHECKS:
        errors.append(f"{path}: has {len(checks)} checks; write at most {MAX_CHECKS}")
    config = Config(agent, [check for check in checks if check is not None])
    if errors:
        raise ConfigError("\n".join(errors))
    return config
