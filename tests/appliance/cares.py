"""Generated health, failure and guard sections: all kinds of signals, ladders, hypervisors, probes; and broken ones."""

import copy

from hypothesis import strategies as st

from .build import file

DURATIONS = st.sampled_from(["100ms", "1s", "30s", "2m"])
STREAKS = st.one_of(st.integers(1, 1000), st.sampled_from([3.0, "300ms", "5s", "1h"]))
SPANS = st.sampled_from(["200ms", "1s", "1m"])
WORDS = st.text(st.characters(max_codepoint=0xD7FF, exclude_categories=["Cc"]), max_size=10)
ARGV = st.builds(lambda program, more: [f"/bin/{program}", *more], st.sampled_from("abc"), st.lists(WORDS, max_size=3))
LATER = {"every": st.sampled_from(["5s", "1m"]), "timeout": st.sampled_from(["500ms", "5s"])}
OF_KIND = {
    "heartbeat": {},
    "domain": {},
    "carrier": {},
    "canary": {"negative": st.deferred(lambda: NEGATIVES)},
    "guest-ping": LATER,
    "command": LATER,
    "http": {**LATER, "status": st.integers(100, 599)},
}
ADDRESSES = st.sampled_from(["0.0.0.0", "192.0.2.1", "255.255.255.255"])
UDP_PORTS = st.integers(1, 65535)
NEGATIVES = st.fixed_dictionaries(
    {"payload": st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=200)},
    optional={"every": DURATIONS, "source": ADDRESSES, "destination": ADDRESSES, "port": UDP_PORTS},
)
NEEDED = {
    "command": {"run": ARGV},
    "http": {"url": st.sampled_from(["http://192.0.2.1/", "https://[2001:db8::1]:8443/x?y=1"])},
}
SIDES = st.sampled_from(["absent", "failed"])
COMMON = {
    "absent": st.fixed_dictionaries({}, optional={"before": SIDES, "after": SIDES}),
    "required": st.booleans(),
    "segment": st.just("wire"),
}


@st.composite
def signals(draw):
    kind = draw(st.sampled_from(sorted(OF_KIND)))
    streaks = SPANS if kind in ("domain", "carrier", "canary", "heartbeat") else STREAKS
    optional = {"fall": streaks, "rise": streaks, **COMMON, **OF_KIND[kind]}
    signal = {"kind": kind, **draw(st.fixed_dictionaries(NEEDED.get(kind, {}), optional=optional))}
    if kind == "heartbeat":
        vsock = {"cid": 3, "port": draw(st.integers(1, 2**32 - 2))}
        signal |= draw(st.sampled_from([{"socket": "/run/agent.sock"}, vsock]))
    return signal


def _one_canary(found):
    rest = [name for name, signal in found.items() if signal["kind"] == "canary"][1:]
    return {name: signal for name, signal in found.items() if name not in rest}


@st.composite
def healths(draw):
    names = st.sampled_from(["canary", "canary-guard", *(f"s{n}" for n in range(8))])
    found = _one_canary(draw(st.dictionaries(names, signals(), max_size=6)))
    rest, groups = sorted(found), {}
    while rest and draw(st.booleans()):
        count = draw(st.integers(1, len(rest)))
        members, rest = rest[:count], rest[count:]
        quorum = {"n_of": {"count": draw(st.integers(1, count)), "signals": members}}
        groups[f"g{len(groups)}"] = draw(st.sampled_from([quorum, {"any_of": members}]))
    times = {"grace": DURATIONS, "hold_down": DURATIONS, "flap_memory": DURATIONS, "hold_down_max": st.just("5m")}
    return {"signals": found, "groups": groups, **draw(st.fixed_dictionaries({}, optional=times))}


FRAMES = {
    "ethernet": {},
    "arp": {"source": ADDRESSES, "destination": ADDRESSES},
    "udp": {"source": ADDRESSES, "destination": ADDRESSES, "port": UDP_PORTS},
}
EVERY = st.sampled_from(["1ms", "20ms", "50ms"])


@st.composite
def probes(draw):
    frame = draw(st.sampled_from([None, *FRAMES]))
    if frame is None:
        return draw(EVERY)
    named = {"frame": frame} if FRAMES[frame] or draw(st.booleans()) else {}
    return {**named, **draw(st.fixed_dictionaries(FRAMES[frame], optional={"every": EVERY}))}


@st.composite
def guards(draw):
    optional = {
        "probe": probes(),
        "fail": st.sampled_from(["open", "closed"]),
        "latch": st.booleans(),
        "grace": st.sampled_from(["0s", "30s", "1h"]),
        "drain": st.sampled_from(["0ms", "10s"]),
    }
    found = draw(st.fixed_dictionaries({}, optional={"lease": st.sampled_from(["200ms", "1s", "1m"]), **optional}))
    by = ["probes", "daemon"] if found.get("lease") in ("1s", "1m") else ["probes"]
    return found | draw(st.fixed_dictionaries({}, optional={"lease_by": st.sampled_from(by)}))


RUNGS = st.fixed_dictionaries(
    {"method": st.sampled_from(["reset", "destroy-and-start"])}, optional={"attempts": st.integers(1, 100)}
)
RESTARTS = st.fixed_dictionaries(
    {"ladder": st.lists(RUNGS, min_size=1, max_size=4)},
    optional={
        "backoff": DURATIONS,
        "boot_timeout": DURATIONS,
        "first": st.fixed_dictionaries({}, optional={"attempts": st.integers(1, 100), "within": DURATIONS}),
    },
)
FAILURES = st.fixed_dictionaries(
    {},
    optional={
        "order": st.sampled_from(["bypass-then-restart", "restart-then-bypass"]),
        "fail": st.sampled_from(["open", "closed"]),
        "restart": RESTARTS,
    },
)
LIBVIRT = st.fixed_dictionaries({"domain": st.sampled_from(["ips", "a:b@c"])}, optional={"uri": st.just("xen:///")})
PROGRAMS = st.fixed_dictionaries(
    {"start": ARGV, "stop": ARGV, "status": ARGV}, optional={"reset": ARGV, "timeout": DURATIONS}
)


@st.composite
def documents(draw):
    """A valid file with any health, failure and guard sections."""
    data = file(("a", "b", "c"))
    if draw(st.booleans()):
        data["topologies"]["isolate"] = {"pair": "all", "detached": ["a", "b", "c"]}
    needs_libvirt = {"domain", "guest-ping"}
    data["health"] = draw(healths())
    canary = any(one["kind"] == "canary" for one in data["health"]["signals"].values())
    where = draw(st.sampled_from(["file", "segment", "both"] if canary else ["file", "segment", "both", "off", "none"]))
    if where in ("file", "both", "off"):
        data["guard"] = draw(guards())
    if where in ("segment", "both", "off"):
        data["segments"] = {"wire": {"ports": ["a", "b", "c"], "guard": "off" if where == "off" else draw(guards())}}
    libvirt = any(one["kind"] in needs_libvirt for one in data["health"]["signals"].values())
    data["vm"] |= {"libvirt": draw(LIBVIRT)} if libvirt or draw(st.booleans()) else {"programs": draw(PROGRAMS)}
    data["on_failure"] = draw(FAILURES)
    return data


ALIEN = st.sampled_from(
    [
        None,
        True,
        0,
        3,
        3.0,
        2.5,
        -1,
        10**9,
        "",
        "x",
        "3",
        "5s",
        "0s",
        "failed",
        "/bin/a",
        "reset",
        "all",
        "off",
        "udp",
        "192.0.2.1",
        [],
        ["up"],
        {},
    ]
)
KEYS = [
    "kind",
    "fall",
    "rise",
    "socket",
    "cid",
    "port",
    "every",
    "run",
    "any_of",
    "n_of",
    "count",
    "signals",
    "attempts",
    "frame",
    "lease",
    "every",
    "guard",
]


def places(data, at=()):
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, one in inner:
        yield (*at, key)
        yield from places(one, (*at, key))


@st.composite
def broken(draw):
    """A file with something alien in its health, failure, guard or VM section: mostly, but not always, a wrong one."""
    data = copy.deepcopy(draw(documents()))
    for _ in range(draw(st.integers(1, 3))):
        able = [at for at in places(data) if at[0] in ("health", "on_failure", "vm", "guard", "segments")]
        *path, last = draw(st.sampled_from(able))
        node = data
        for step in path:
            node = node[step]
        what = draw(st.sampled_from(["delete", "replace", "replace", "rename", "add"]))
        if what == "delete":
            del node[last]
        elif what == "replace":
            node[last] = draw(ALIEN)
        elif isinstance(node, dict):
            node[draw(st.sampled_from(KEYS))] = node.pop(last) if what == "rename" else draw(ALIEN)
    return data
