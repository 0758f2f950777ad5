"""What differs between the network that is desired and the one that is."""

from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.appliance.declared import Appliance
from reconciler.network.bind import Bound, bind
from reconciler.network.obstacles import obstacles
from reconciler.network.ownership import claim
from reconciler.network.state import MEMBERSHIP_DEFAULTS, Link, Network, Setting, Value
from reconciler.warning import Warning, worst_first


@dataclass(frozen=True, slots=True)
class Make:
    """A switch or tap that is missing."""

    link: Link


@dataclass(frozen=True, slots=True)
class Set:
    """A setting that has another value than the desired one. On a link that is being made, `old` is None."""

    link: Link
    setting: Setting
    old: Value
    new: Value


@dataclass(frozen=True, slots=True)
class Remove:
    """A switch or tap that bears our mark and is not declared any more."""

    link: Link


Change = Make | Set | Remove


@dataclass(frozen=True, slots=True)
class Difference:
    """All that differs: the changes that repair it, and the problems: what no change of ours may or can repair.

    `desired` and `actual` are the networks that were compared, the desired one bound to live interfaces. `bound`: who
    is who on the host, also of what was refused.
    """

    changes: tuple[Change, ...]
    problems: tuple[Warning, ...]
    desired: Network
    actual: Network
    bound: Bound

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """All bad news of the network, the worst first: the problems, and what stands in the way."""
        return worst_first((*self.problems, *obstacles(self.desired, self.actual)))


def difference(appliance: Appliance, wanted: Network, actual: Network) -> Difference:
    """Compare what `appliance` wants with what is, within what it may touch."""
    bound = bind(appliance, wanted, actual)
    claims = claim(appliance, bound, actual)
    changes = (
        *diff(claims.desired, actual),
        *(Set(link, Setting.SWITCH, link.switch, None) for link in claims.strangers),
        *(Remove(link) for link in claims.leftovers),
    )
    return Difference(changes, (*bound.problems, *claims.problems), claims.desired, actual, bound)


def diff(desired: Network, actual: Network) -> Iterator[Change]:
    """The changes that give every desired link its settings, in the order of the desired links."""
    for link in desired.links:
        live = actual.by_name.get(link.name)
        if live is None:
            yield Make(link)
        else:
            yield from _settings(link, live)


def _settings(link: Link, live: Link) -> Iterator[Set]:
    now = live.settings
    if link.settings.items() <= now.items():
        return
    moves = link.switch != live.switch
    for setting, new in link.settings.items():
        if moves and setting in MEMBERSHIP_DEFAULTS:
            # Part of the move: what a membership was set to goes with it, and the plan gives the new one what it needs.
            continue
        if setting in now and now[setting] != new:
            yield Set(link, setting, now[setting], new)
