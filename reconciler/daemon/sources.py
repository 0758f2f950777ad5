"""The signals' sources at work: those of the file as it is now, whichever file that is."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.appliance.declared import Appliance
from reconciler.daemon.journal import Journal
from reconciler.daemon.tasks import Tasks
from reconciler.errors import ReconcilerError
from reconciler.health.signal import News
from reconciler.host.hypervisor.own_actions import OwnActions
from reconciler.host.signals.gather import Gatherers, Wanted
from reconciler.warning import Severity, Warning


@dataclass(slots=True)
class _AtWork:
    """A source at work. One that has `retired` is not heard any more, although its end may take a while."""

    wanted: Wanted
    retired: bool = False
    task: asyncio.Task[None] | None = None


class Sources:
    """See the module. `publish` is told what they tell."""

    def __init__(
        self, publish: Callable[[News], None], own_actions: OwnActions, journal: Journal, tasks: Tasks
    ) -> None:
        self._publish, self._journal, self._tasks = publish, journal, tasks
        self._gatherers = Gatherers(own_actions, self._broke)
        self._at_work: list[_AtWork] = []

    def change(self, appliance: Appliance, declare: Callable[[], None] = lambda: None) -> None:
        """Have the sources of this file at work instead of those of another one, at once; `declare` makes it the file.

        Those that the files have in common go on. New ones begin, and only then others end, for which nobody waits: so
        no signal is silent for our sake.

        Raises:
            HostError: a signal needs what the file does not have. Nothing was changed.
            Exception: whatever `declare` raises.

        """
        wanted = self._gatherers.wanted(appliance)
        kept = [one for one in self._at_work if one.wanted in wanted]
        old = [one for one in self._at_work if one not in kept]
        known = [one.wanted for one in kept]
        self._at_work = kept + [self._begun(one) for one in wanted if one not in known]
        declare()
        for one in old:
            one.retired = True
            if one.task:
                one.task.cancel()

    def _begun(self, wanted: Wanted) -> _AtWork:
        made = _AtWork(wanted)

        def publish(news: News) -> None:
            if not made.retired:
                self._publish(news)

        made.task = self._tasks.start(self._gatherers.supervised(wanted, publish).run())
        return made

    def _broke(self, signal: str, error: Exception | None) -> None:
        if error is None or isinstance(error, ReconcilerError):
            what = f"its source broke: {error or 'it ended by itself'}"
            broken = Warning("source-broken", Severity.ERROR, f"signal {signal}", what)
            self._journal.warn("source", broken, signal=signal)
        else:
            self._journal.bug(error, f" in the source of signal {signal}", event="source", signal=signal)
