"""Health and failure in the file: all mistakes at once, what the sections amount to, and back from the store."""

import json

import pytest
from effort import examples
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from reconciler import codec
from reconciler.appliance.declared import (
    ISOLATE,
    Appliance,
    Carrier,
    Command,
    Domain,
    Group,
    GuestPing,
    Health,
    Heartbeat,
    Http,
    Libvirt,
    OnFailure,
    Programs,
    Rung,
    Signal,
    Streak,
    Switch,
)
from reconciler.appliance.load import InvalidFileError, load
from reconciler.appliance.written import schema, shape

from .build import appliance, file, mistakes
from .cares import broken, documents

VALIDATOR = Draft202012Validator(schema.schema())
LIBVIRT = {"libvirt": {"domain": "ips"}}


def with_vm(more, **sections):
    data = file(**sections)
    data["vm"] |= more
    return data


# --- what it amounts to ----------------------------------------------------------------------------------------------


def test_defaults():
    found = appliance(file())
    assert (found.health, found.on_failure, found.hypervisor) == (Health(), OnFailure(), None)
    ladder = (Rung("reset", 1), Rung("destroy-and-start", 3))
    assert appliance(with_vm(LIBVIRT)).on_failure == OnFailure(ladder=ladder)
    assert appliance(with_vm(LIBVIRT)).hypervisor == Libvirt("qemu:///system", "ips")


def test_signals_of_all_kinds():
    signals = {
        "beat": {"kind": "heartbeat", "socket": "/run/a"},
        "vsock": {"kind": "heartbeat", "cid": 3, "port": 5.0, "interval": "1s", "fall": "5s", "rise": 2},
        "life": {"kind": "domain", "absent": {"before": "failed"}, "fall": "500ms"},
        "up": {"kind": "carrier", "segment": "wire", "absent": {"after": "failed"}},
        "ping": {"kind": "guest-ping", "required": False},
        "check": {"kind": "command", "run": ["/bin/check", "-w"], "every": "1m", "timeout": "30s"},
        "web": {"kind": "http", "url": "http://192.0.2.1/", "status": 204},
    }
    groups = {"one": {"any_of": ["check", "web"]}, "all": {"n_of": {"count": 1, "signals": ["up"]}}}
    found = appliance(with_vm(LIBVIRT, health={"signals": signals, "groups": groups})).health
    one, two = Streak(readings=1), Streak(readings=2)
    assert found.signals == {
        "beat": Signal("beat", Heartbeat(100, "/run/a"), Streak(readings=3), Streak(readings=5)),
        "vsock": Signal("vsock", Heartbeat(1000, None, 3, 5), Streak(ms=5000), two),
        "life": Signal("life", Domain(), Streak(ms=500), one, fails_before=True),
        "up": Signal("up", Carrier(), one, one, fails_after=True, required=False, segment="wire"),
        "ping": Signal("ping", GuestPing(5000, 2000), two, one, required=False),
        "check": Signal("check", Command(("/bin/check", "-w"), 60_000, 30_000), two, one, required=False),
        "web": Signal("web", Http("http://192.0.2.1/", 204, 5000, 2000), two, one, required=False),
    }
    assert found.groups == {"one": Group("one", ("check", "web"), 1), "all": Group("all", ("up",), 1)}


def test_failure_as_written():
    restart = {
        "ladder": [{"method": "reset", "attempts": 2}],
        "backoff": "1s",
        "backoff_max": "1m",
        "boot_timeout": "90s",
        "first": {"attempts": 2, "within": "30s"},
    }
    programs = {"programs": {"start": ["/a", "x"], "stop": ["/b"], "status": ["/c"], "reset": ["/d"], "timeout": "1s"}}
    found = appliance(with_vm(programs, on_failure={"order": "restart-then-bypass", "restart": restart}))
    assert found.hypervisor == Programs(("/a", "x"), ("/b",), ("/c",), ("/d",), 1000)
    assert found.on_failure == OnFailure(True, frozenset(), (Rung("reset", 2),), 1000, 60_000, 90_000, 2, 30_000)
    assert found.on_failure.fallback("wire") == "bypass"


# --- fail closed -----------------------------------------------------------------------------------------------------


def test_who_fails_closed_has_a_topology_without_ports():
    found = appliance(file(on_failure={"fail": "closed"}))
    isolate = found.topologies[ISOLATE]
    assert found.on_failure.fallback("wire") == ISOLATE
    assert (isolate.switches, isolate.detached) == ((), ("a", "b"))
    assert isolate.standby == (
        Switch("sw-a", "wire", (), ("a",)),
        Switch("sw-b", "wire", (), ("b",)),
        Switch("sw-bypass", "wire", (), ()),
    )
    assert ISOLATE not in appliance(file()).topologies


def test_what_the_file_declares_as_isolate_is_kept():
    own = {"switches": {"quiet": {"adapters": ["a"]}}, "detached": ["a", "b"]}
    found = appliance(file(on_failure={"fail": "closed"}, topologies={ISOLATE: own}))
    assert found.topologies[ISOLATE].switches == (Switch("quiet", "wire", (), ("a",)),)
    same = appliance(file(topologies={ISOLATE: own}))
    assert same.topologies == found.topologies


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_all_mistakes_of_health_and_failure_at_once():
    text = b"""\
schema: reconciler/v1
appliance: {sku: x}
ports: {a: {match: {name: eth0}}, b: {match: {name: eth1}}}
vm:
  programs: {start: [start-vm], stop: [/bin/stop], status: [/bin/status]}
  adapters: {a: {tap: t0}, b: {tap: t1}}
topologies: {inspect: {pair: all}, bypass: {join: all}}
health:
  signals:
    beat: {kind: hartbeat, socket: /run/agent.sock}
    up: {kind: carrier, fall: 3, segment: wrie}
    life: {kind: domain, rise: 2 s}
    web: {kind: http, url: "http://x/", every: 1s, timout: 3s}
    ping: {kind: guest-ping}
    check: {kind: command, run: [check]}
  groups:
    one: {any_of: [up, wbe]}
    two: {n_of: {count: 3, signals: [up, ping]}}
  hold_down: 20m
on_failure:
  order: restart-first
  restart: {ladder: [{method: rest}], backoff: 1h}
"""
    with pytest.raises(InvalidFileError) as caught:
        load(text, "ips.yaml")
    assert str(caught.value).split("\n") == [
        "ips.yaml:5:22: vm.programs.start[0]: not a program: 'start-vm'; an absolute path: nothing is searched for",
        "ips.yaml:10:18: health.signals.beat.kind: no kind of signal: 'hartbeat'; did you mean `heartbeat`?",
        "ips.yaml:11:31: health.signals.up.fall: `fall` counts readings, and this kind of signal tells only changes; give a duration, such as 50ms",
        "ips.yaml:11:43: health.signals.up.segment: no segment is called 'wrie'; did you mean `wire`?",
        "ips.yaml:12:18: health.signals.life: the signal `life` asks libvirt, and `vm.libvirt` is missing; declare vm.libvirt, or remove the signal",
        "ips.yaml:12:32: health.signals.life.rise: neither a number of readings nor a duration: '2 s'; 3, or 300ms",
        "ips.yaml:13:48: health.signals.web.every: `timeout` is 2s, and `every` is 1s; `timeout` may be at most `every`",
        "ips.yaml:13:52: health.signals.web: unknown key 'timout'; did you mean `timeout`?",
        "ips.yaml:14:18: health.signals.ping: the signal `ping` asks libvirt, and `vm.libvirt` is missing; declare vm.libvirt, or remove the signal",
        "ips.yaml:15:34: health.signals.check.run[0]: not a program: 'check'; an absolute path: nothing is searched for",
        "ips.yaml:17:24: health.groups.one.any_of[1]: no signal is called 'wbe'; did you mean `web`?",
        "ips.yaml:18:25: health.groups.two.n_of.count: 3 of 2 signals can never be healthy; at most 2",
        "ips.yaml:18:38: health.groups.two.n_of.signals[0]: the signal 'up' is in the group `one` already; a signal speaks through one group: remove one",
        "ips.yaml:19:14: health.hold_down: `hold_down` is 20m, and `hold_down_max` is 10m; `hold_down` may be at most `hold_down_max`",
        "ips.yaml:21:10: on_failure.order: expected 'bypass-then-restart' or 'restart-then-bypass', found 'restart-first'",
        "ips.yaml:22:31: on_failure.restart.ladder[0].method: expected 'reset' or 'destroy-and-start', found 'rest'; did you mean `reset`?",
        "ips.yaml:22:48: on_failure.restart.backoff: `backoff` is 1h, and `backoff_max` is 5m; `backoff` may be at most `backoff_max`",
    ]


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        ({"kind": None}, "health.signals.x.kind: no value; give one, or remove the key"),
        ({"kind": ["carrier"]}, "health.signals.x.kind: expected a kind of signal as text, found a list; one of heartbeat, "),
        ({"Kind": "carrier"}, "health.signals.x: unknown key 'Kind'; did you mean `kind`?"),
        ({}, "health.signals.x: the key `kind` is missing; add it: one of heartbeat, "),
        (7, "health.signals.x: expected a mapping, found a number"),
        ({"kind": "gestping"}, "health.signals.x.kind: no kind of signal: 'gestping'; did you mean `guest-ping`?"),
        ({"kind": "snmp"}, "health.signals.x.kind: no kind of signal: 'snmp'; one of heartbeat, "),
    ],
)  # fmt: skip
def test_kinds(signal, said):
    (text,) = mistakes(file(health={"signals": {"x": signal}}))
    assert text.startswith(said)


# --- generated -------------------------------------------------------------------------------------------------------


@given(documents())
@settings(max_examples=examples(60))
def test_generated_files_are_valid_and_come_back_from_the_record(data):
    found = appliance(data)
    assert codec.parse(Appliance, json.loads(json.dumps(codec.dump(found)))) == found
    assert not list(VALIDATOR.iter_errors(data))
    closed = bool(found.on_failure.closed)
    assert (ISOLATE in found.topologies) is (closed or ISOLATE in data["topologies"])


def found_in(data):
    try:
        load(json.dumps(data).encode(), "broken")
    except InvalidFileError as error:
        return error.mistakes or pytest.fail("refused without a reason")
    return []


@given(broken())
@settings(max_examples=examples(80))
def test_broken_files_are_refused_with_a_place_and_by_the_schema_too(data):
    for mistake in found_in(data):
        assert mistake.what
        assert "function-" not in str(mistake)
        assert mistake.position.line == 1
    accepted = shape.validate(data)[0] is not None
    assert accepted is not bool(list(VALIDATOR.iter_errors(data)))


@pytest.mark.parametrize(
    "signal", [{"kind": "heartbeat", "socket": "/run/a", "cid": 3}, {"kind": "command", "run": [3]}]
)
def test_the_schema_sees_what_the_model_sees(signal):
    assert list(VALIDATOR.iter_errors(file(health={"signals": {"x": signal}})))
