"""What can be asked of the daemon: each verb, and whatever a hostile client makes of it."""

import asyncio
import contextlib
import hashlib
import json
from typing import Any

import pytest
from keeping import TWO_WIRES, Kept, watched
from worlds import host

from reconciler.control import client
from reconciler.control.ask import digest
from reconciler.control.requests import MAX_HOLD_S, MAX_REASON, Requests
from reconciler.errors import HostError, ReconcilerError, RequestError
from reconciler.network.cycle import reconcile
from reconciler.network.desired import choice_of
from reconciler.network.state import Setting

HOSTILE = [
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "x" * 100_000,
    "\ud800",
    "\x1b[8m",
    "\0",
    [],
    {},
    [[]],
    {"a": 1},
]


def _id(value: Any) -> str:
    return ascii(value)[:20]


async def nobody() -> str:
    raise AssertionError("nobody's name is needed")


class Door:
    """Turns without a loop; see `test_turns`."""

    def __init__(self, core: Any) -> None:
        self.core = core

    def decide(self, event: Any) -> None:
        self.core.turn((event,))

    def enter(self, act: Any) -> Any:
        return act(self.core)


class Asked:
    """Requests to a core, answered by nobody else."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.reloads: list[str] = []
        self.guarded: list[tuple[bool, str]] = []
        self.released: list[tuple[str, str | None]] = []
        self.disk = ""
        self.requests = Requests(
            Door(kept.core),  # type: ignore[arg-type]
            reload=self._reload,
            about=lambda: {"pid": 1},
            switch_guard=self._switch_guard,
            released=lambda who, segment: self.released.append((who, segment)),
            unkept=self._unkept,
        )
        self.requests.digest = digest(b"file")

    async def _reload(self, who: str) -> None:
        self.reloads.append(who)

    async def _switch_guard(self, on: bool, who: str) -> None:
        self.guarded.append((on, who))

    async def _unkept(self) -> str:
        return self.disk

    def __call__(self, do: Any, user: str = "operator", **more: Any) -> dict[str, Any]:
        async def who() -> str:
            return user

        answer = asyncio.run(self.requests.answer({"do": do, **more}, who))
        return json.loads(json.dumps(answer))


def kept(**more: Any) -> Kept:
    of = watched(**more)
    kernel = host(of)
    reconcile(kernel, of, choice_of(of))
    made = Kept(of, kernel).start()
    made.forget()
    return made


@pytest.fixture
def asked() -> Asked:
    return Asked(kept())


@pytest.mark.parametrize("verb", [*HOSTILE, "Status", "status ", "__class__", "_status"], ids=_id)
def test_an_unknown_verb_is_refused_with_those_that_are_known(asked: Asked, verb: Any) -> None:
    with pytest.raises(RequestError, match="known are: status, choice, audit") as caught:
        asked(verb)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_a_request_without_a_verb(asked: Asked) -> None:
    with pytest.raises(RequestError):
        asyncio.run(asked.requests.answer({}, nobody))


def test_the_digest_is_of_the_bytes() -> None:
    assert digest(b"file") == hashlib.sha256(b"file").hexdigest()


def test_choice(asked: Asked) -> None:
    assert asked("choice") == {"sku": "two", "choice": {"wire": "inspect"}, "digest": digest(b"file")}


def test_status_is_of_now_and_says_which_process(asked: Asked) -> None:
    found = asked("status")["status"]
    assert (found["format"], found["pid"], found["sku"]) == ("reconciler.status/2", 1, "two")


def test_an_audit_finds_nothing_and_changes_nothing(asked: Asked) -> None:
    told = asked("audit", digest=digest(b"file"))
    assert (told["mine"], told["changes"], told["problems"]) == (True, 0, 0)
    assert told["lines"][-1] == ["nothing to do: the network is as declared", False]
    asked.kept.kernel["eth0"].settings[Setting.MTU] = 1400
    told = asked("audit", digest=digest(b"file"))
    assert told["changes"] == 1
    assert asked.kept.kernel["eth0"].settings[Setting.MTU] == 1400
    assert asked("audit", digest=digest(b"file"), output="json")["json"]["changes"][0]["setting"] == "mtu"
    assert asked("audit", digest=digest(b"file"), output="commands")["lines"] == [
        ["ip link set dev eth0 mtu 1500", False]
    ]


def test_a_reconcile_repairs_and_says_what_it_repaired(asked: Asked) -> None:
    asked.kept.kernel["eth0"].settings[Setting.MTU] = 1400
    told = asked("reconcile", digest=digest(b"file"))
    assert told["converged"]
    assert any("1400" in line for line, _ in told["lines"])
    assert asked.kept.kernel["eth0"].settings[Setting.MTU] == 1500
    assert asked("reconcile", digest=digest(b"file"), output="json")["json"]["converged"]


@pytest.mark.parametrize("verb", ["audit", "reconcile"])
@pytest.mark.parametrize("other", [*HOSTILE, digest(b"another")], ids=_id)
def test_who_asks_about_another_file_is_told_that_it_is_not_ours(asked: Asked, verb: str, other: Any) -> None:
    asked.kept.kernel["eth0"].settings[Setting.MTU] = 1400
    assert asked(verb, digest=other) == {"mine": False}
    assert asked.kept.kernel["eth0"].settings[Setting.MTU] == 1400


def test_a_hold_pins_and_says_who_why_and_until_when(asked: Asked) -> None:
    told = asked("hold", topology="bypass", reason="maintenance", seconds=60)
    assert told == {"choice": {"wire": "bypass"}, "converged": True, "unkept": ""}
    assert asked.kept.where("eth0") == "sw-bypass"
    hold = asked("status")["status"]["segments"][0]["hold"]
    assert hold == {"topology": "bypass", "owner": "operator", "reason": "maintenance", "left_ms": 60_000}
    asked.kept.wait(60_000)
    assert asked("choice")["choice"] == {"wire": "inspect"}


def test_a_second_hold_replaces_the_first(asked: Asked) -> None:
    asked("hold", topology="bypass", reason="one", seconds=60)
    asked("hold", "other", topology="inspect", reason="two", seconds=30)
    assert asked("status")["status"]["segments"][0]["hold"]["owner"] == "other"


def test_one_segment_is_held_and_released_by_itself() -> None:
    asked = Asked(kept(**TWO_WIRES))
    assert asked("hold", topology="bypass", reason="x", seconds=9, segment="a")["choice"] == {
        "a": "bypass",
        "b": "inspect",
    }
    with pytest.raises(RequestError, match="nothing is held"):
        asked("release", segment="b")
    assert asked("release", segment="a")["choice"] == {"a": "inspect", "b": "inspect"}


def test_a_release_takes_all_holds_back(asked: Asked) -> None:
    asked("hold", topology="bypass", reason="x", seconds=9)
    assert asked("release") == {"choice": {"wire": "inspect"}, "converged": True, "unkept": ""}
    with pytest.raises(RequestError, match="nothing is held"):
        asked("release")


@pytest.mark.parametrize("topology", [*HOSTILE, "wire", "Bypass"], ids=_id)
def test_a_topology_that_is_none_is_refused(asked: Asked, topology: Any) -> None:
    with pytest.raises(RequestError, match="two declares: inspect, bypass") as caught:
        asked("hold", topology=topology, reason="x", seconds=9)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("reason", [*HOSTILE, "two\nlines", "x" * (MAX_REASON + 1), " \t", "\u202etxet"], ids=_id)
def test_a_reason_that_is_none_is_refused(asked: Asked, reason: Any) -> None:
    with pytest.raises(RequestError, match="a line of 1 to 200 characters"):
        asked("hold", topology="bypass", reason=reason, seconds=9)


@pytest.mark.parametrize(
    "seconds", [one for one in HOSTILE if one != 1.5] + [MAX_HOLD_S + 1, 1e18, -1e-9, "60"], ids=_id
)
def test_an_end_that_is_none_is_refused(asked: Asked, seconds: Any) -> None:
    with pytest.raises(RequestError, match="a hold"):
        asked("hold", topology="bypass", reason="x", seconds=seconds)


@pytest.mark.parametrize("seconds", [1e-9, 0.5, MAX_HOLD_S])
def test_any_length_between_nothing_and_the_longest_will_do(asked: Asked, seconds: float) -> None:
    asked("hold", topology="bypass", reason="x" * MAX_REASON, seconds=seconds)


@pytest.mark.parametrize("segment", [one for one in HOSTILE if one is not None], ids=_id)
@pytest.mark.parametrize("verb", ["hold", "release"])
def test_a_segment_that_is_none_is_refused(asked: Asked, verb: str, segment: Any) -> None:
    with pytest.raises(RequestError, match="declared are: wire"):
        asked(verb, segment=segment, topology="bypass", reason="x", seconds=9)
    assert asked.kept.core.state.holds == {}


@pytest.mark.parametrize("verb", ["status", "choice", "audit", "reconcile", "hold", "release", "reload", "guard"])
def test_whatever_is_sent_besides_is_refused_or_ignored_and_never_a_bug(asked: Asked, verb: str) -> None:
    keys = ("digest", "output", "topology", "reason", "seconds", "segment", "do ", "")
    for key in keys:
        for value in HOSTILE:
            with contextlib.suppress(ReconcilerError):
                asked(verb, **{key: value})


def test_a_reload_is_done_by_who_can(asked: Asked) -> None:
    assert asked("reload") == {"sku": "two"}
    assert asked.reloads == ["operator"]


def test_a_guard_is_set_and_taken_away_where_the_file_declares_one() -> None:
    asked = Asked(kept(guard={}))
    assert asked("guard", on=False) == {"on": False, "sku": "two", "unkept": ""}
    assert asked("guard", on=True) == {"on": True, "sku": "two", "unkept": ""}
    assert asked.guarded == [(False, "operator"), (True, "operator")]


def test_a_guard_that_is_not_declared_is_not_set(asked: Asked) -> None:
    with pytest.raises(RequestError, match="declares no guard"):
        asked("guard", on=True)
    assert asked.guarded == []


@pytest.mark.parametrize("on", [one for one in HOSTILE if not isinstance(one, bool)], ids=_id)
def test_a_guard_is_on_or_off_and_nothing_else(on: Any) -> None:
    asked = Asked(kept(guard={}))
    with pytest.raises(RequestError, match="true or false"):
        asked("guard", on=on)
    assert asked.guarded == []


def test_a_network_that_is_not_there_yet_is_said_to_be_not_there_yet(asked: Asked) -> None:
    asked.kept.kernel.remove("eth1")
    asked.kept.turn(changed=True)
    assert asked("hold", topology="bypass", reason="x", seconds=9)["converged"] is False


def test_who_steers_is_told_what_is_not_on_disk() -> None:
    asked = Asked(kept(guard={}))
    asked.disk = "the disk has not answered for 5 s"
    assert asked("hold", topology="bypass", reason="x", seconds=9)["unkept"] == asked.disk
    assert asked("release")["unkept"] == asked.disk
    assert asked("guard", on=False)["unkept"] == asked.disk
    with pytest.raises(HostError, match="not on disk, and a restart of the daemon may forget it: the disk has not"):
        client.check_kept({"unkept": asked.disk})
    client.check_kept({"unkept": ""})
