"""What can be asked of the daemon: each request checked, carried out, and answered."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from reconciler.control.server import Who
from reconciler.daemon.core import Core
from reconciler.daemon.status import status
from reconciler.daemon.turns import Turns
from reconciler.errors import RequestError
from reconciler.health.state import MAX_HOLD_MS, Hold, HoldPlaced, HoldReleased
from reconciler.host.envelope import enveloped
from reconciler.network import report
from reconciler.network.cycle import TurnReport
from reconciler.network.diff import Difference
from reconciler.network.plan import Plan, plan

MAX_HOLD_S = MAX_HOLD_MS // 1_000
MAX_REASON = 200


class Requests:
    """Answers for one core. What changes something enters by `turns`; what only looks, looks at its core.

    `reload` reads the file again; `digest` is the file's. `released` is told who has released a segment, or all (None).
    `about`: what else belongs into a status, JSON values and `warnings`. `unkept` waits until what was decided is on
    disk, and says why it is not there; '' if it is.
    """

    def __init__(
        self,
        turns: Turns,
        *,
        reload: Callable[[str], Awaitable[None]],
        about: Callable[[], dict[str, Any]],
        switch_guard: Callable[[bool, str], Awaitable[None]],
        released: Callable[[str, str | None], None],
        unkept: Callable[[], Awaitable[str]],
    ) -> None:
        self._turns, self._reload, self._about = turns, reload, about
        self._switch_guard, self._released, self._unkept = switch_guard, released, unkept
        self.digest = ""
        self._verbs: dict[str, Callable[[dict[str, Any], Who], Awaitable[dict[str, Any]]]] = {
            "status": self._status,
            "choice": self._choice,
            "audit": self._audit,
            "reconcile": self._reconcile,
            "hold": self._hold,
            "release": self._release,
            "reload": self._reloaded,
            "guard": self._guard,
        }

    async def answer(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        """The answer to a request; `who` looks up who asks.

        Raises:
            ReconcilerError: it cannot be fulfilled; says why.

        """
        verb = request.get("do")
        if not isinstance(verb, str) or verb not in self._verbs:
            raise RequestError(f"cannot do {verb!a:.60}; known are: {', '.join(self._verbs)}")
        return await self._verbs[verb](request, who)

    @property
    def _core(self) -> Core:
        """To look at."""
        return self._turns.core

    async def _status(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        # The kernel is asked once, for all that is told.
        taken = self._core.see_paths(ask=True)
        about = self._about()
        warnings = about.pop("warnings", ())
        return {"status": enveloped({**status(self._core, taken, warnings), **about}, self.digest)}

    async def _choice(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        return {"sku": self._core.appliance.sku, "choice": self._core.state.choice, "digest": self.digest}

    async def _audit(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        """A dry run, for a file of the same content as the daemon's; for another one it is not the one to ask."""
        if request.get("digest") != self.digest:
            return {"mine": False}
        core, audit = self._core, self._core.look()
        changes, problems = len(audit.found.changes) + len(audit.beside), len(audit.found.problems)
        made: dict[str, Any] = {"mine": True, "changes": changes, "problems": problems}
        made["exit_status"] = audit.exit_status
        match request.get("output"):
            case "json":
                made["json"] = enveloped(report.drift_json(core.appliance, core.state.choice, audit), self.digest)
            case "commands":
                made["lines"] = list(report.commands(plan(audit.found), audit))
            case _:
                made["lines"] = list(report.drift(core.appliance, core.state.choice, audit))
        return made

    async def _reconcile(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        if request.get("digest") != self.digest:
            return {"mine": False}
        core = self._core
        before, after = self._turns.enter(_reconciled)
        # What was done is in the journal; what differed, and what still does, is what the user asked.
        done = TurnReport(before, Plan((), ()), (), after)
        made: dict[str, Any] = {"mine": True, "converged": done.converged}
        if request.get("output") == "json":
            value = report.result_json(core.appliance, core.state.choice, done, interrupted=False)
            made["json"] = enveloped(value, self.digest)
        else:
            made["lines"] = list(
                report.result(report.title(core.appliance, core.state.choice), done, interrupted=False)
            )
        return made

    async def _hold(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        # First: what follows is true of one moment.
        user, core = await who(), self._core
        topology, reason, seconds = request.get("topology"), request.get("reason"), request.get("seconds")
        if not isinstance(topology, str) or topology not in core.appliance.topologies:
            known = ", ".join(core.appliance.topologies)
            raise RequestError(f"no topology is called {topology!a:.60}; {core.appliance.sku} declares: {known}")
        if not isinstance(reason, str) or not reason.strip() or len(reason) > MAX_REASON or not reason.isprintable():
            raise RequestError(f"a hold has a reason: a line of 1 to {MAX_REASON} characters")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool):
            raise RequestError("a hold has an end: `seconds` is a number")
        # So written that what is not a number, or no number of any size that fits, is neither.
        if not 0 < seconds <= MAX_HOLD_S:
            raise RequestError("a hold lasts more than nothing and at most 30 days")
        until_ms = core.clock() + int(seconds * 1_000)
        self._turns.decide(HoldPlaced(Hold(topology, user, reason, until_ms), self._segment(request)))
        return await self._steered()

    async def _release(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        user, segment = await who(), self._segment(request)
        if not any(segment in (None, name) for name in self._core.state.holds):
            raise RequestError("nothing is held")
        self._turns.decide(HoldReleased(user, segment))
        self._released(user, segment)
        return await self._steered()

    async def _steered(self) -> dict[str, Any]:
        """What is wanted now, and whether the network is there, once what is inside the VM has been let out."""
        if (until := self._core.drained_ms) is not None:
            await asyncio.sleep(max(0, until - self._core.clock()) / 1_000)
            self._turns.enter(lambda core: core.turn(()))
        unkept = await self._unkept()
        return {"choice": self._core.state.choice, "converged": self._core.converged, "unkept": unkept}

    async def _reloaded(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        await self._reload(await who())
        return {"sku": self._core.appliance.sku}

    async def _guard(self, request: dict[str, Any], who: Who) -> dict[str, Any]:
        on = request.get("on")
        if not isinstance(on, bool):
            raise RequestError("the guard is set or taken away: `on` is true or false")
        if not any(segment.guard for segment in self._core.appliance.segments.values()):
            raise RequestError("the file declares no guard")
        await self._switch_guard(on, await who())
        return {"on": on, "sku": self._core.appliance.sku, "unkept": await self._unkept()}

    def _segment(self, request: dict[str, Any]) -> str | None:
        segment = request.get("segment")
        known = self._core.appliance.segments
        if segment is not None and (not isinstance(segment, str) or segment not in known):
            raise RequestError(f"no segment is called {segment!a:.60}; declared are: {', '.join(known)}")
        return segment


def _reconciled(core: Core) -> tuple[Difference, Difference]:
    """What differs before and after."""
    before = core.audit()
    core.turn((), changed=True)
    return before, core.audit()
