"""One fault, measured: traffic flows, something breaks, is left so, is repaired, and all is as it was before."""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.faults.scene import Run, Scene
from bench.faults.stage import PRIORITY, Stage
from bench.faults.strays import Strays
from reconciler.lab.measure import Arrivals, Measured
from reconciler.lab.traffic import Flow, Traffic

# A frame that arrives so long after it was sent was held by something that did not work meanwhile. It is also the
# default of `guard.drain`: what comes later than that after a switch was let out by nobody.
STALE_MS = 100
_LONGEST_NAP_S = 1.0
# What is still under way when the sources have stopped.
_UNDER_WAY_S = 0.1
_MS = 1_000_000
# Arrivals at the very moment when something was repaired are none of before.
_SLACK_NS = 2 * _MS
# A silence that lasts until the fault is repaired is a longer one than the machine's own.
_LEAST_MS = 50


@dataclass(frozen=True, slots=True)
class _Gap:
    """The longest silence of a flow. Nanoseconds of CLOCK_REALTIME."""

    begin_ns: int
    end_ns: int
    repaired: bool

    @property
    def ms(self) -> float:
        return (self.end_ns - self.begin_ns) / _MS


def once(stage: Stage, scene: Scene) -> Run:
    """Play a scene once, and measure it."""
    stage.well()
    with stage.lab.flows(stage.setting.rate) as traffic, Strays(stage.lab.clients) as strays:
        _begin(stage, traffic)
        trips, passed, marks = stage.trips(), stage.passed(), stage.marks()
        stage.alone()
        strays.counted(())
        began_ns = time.time_ns()
        with scene.fault(stage):
            stage.by_hand()
            _nap(scene.lasts_s, traffic)
            repaired_ns = time.time_ns()
        stage.recover()
        stage.flowing(traffic)
        after, again = stage.passed(), stage.trips()
        marks |= stage.marks()
        whole = traffic.stop(patience_s=_UNDER_WAY_S)
        leaks, others = strays.counted(marks)
        told = _told(stage, scene, began_ns, repaired_ns)
        flows = traffic.flows[: stage.struck()]
        gaps = [_gap(flow, began_ns, repaired_ns) for flow in flows]
        since = [flow.measure(began_ns) for flow in flows]
        cut = [gap for flow, gap in zip(flows, gaps, strict=True) if flow.measure(gap.begin_ns, gap.end_ns).lost]
        worst = max(gaps, key=lambda gap: gap.ms)
        quiet_ns = min((gap.begin_ns for gap in cut), default=began_ns)
        return Run(
            detected_ms=None if told is None else max(0.0, (told - max(began_ns, quiet_ns)) / _MS),
            outage_ms=worst.ms,
            repaired=worst.repaired,
            lost=sum(one.lost for one in since),
            lost_after=sum(flow.measure(worst.end_ns).lost for flow in flows),
            elsewhere=sum(one.lost + one.duplicated + one.reordered for one in whole[len(flows) :]),
            duplicated=sum(one.duplicated for one in whole),
            reordered=sum(one.reordered for one in whole),
            stale=sum(_stale(one.arrivals, began_ns) for one in whole),
            leaks=leaks,
            strays=others,
            uninspected=_grown(passed, after),
            trips=_grown(trips, again),
            late_ms=max(one.worst_lateness_s for one in whole) * 1_000,
        )


def _begin(stage: Stage, traffic: Traffic) -> None:
    stage.prioritize()
    for flow in traffic.flows:
        # Where it may not, it is as late as the machine makes it, and that is told.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(flow.source.pid, os.SCHED_FIFO, os.sched_param(PRIORITY))
    traffic.start()
    stage.flowing(traffic)


def _nap(seconds: float, traffic: Traffic) -> None:
    """Let time pass; the sinks are emptied now and then."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _LONGEST_NAP_S))
        if left > _LONGEST_NAP_S:
            traffic.arrived()


def _gap(flow: Flow, began_ns: int, repaired_ns: int) -> _Gap:
    """The longest silence between the fault and its end; one that lasts until then is followed to its own end."""
    gap = _longest(flow, flow.measure(began_ns, repaired_ns))
    if gap.end_ns < repaired_ns - _SLACK_NS or gap.ms < _LEAST_MS:
        return gap
    whole = _longest(flow, flow.measure(began_ns))
    return _Gap(whole.begin_ns, whole.end_ns, repaired=True) if whole.begin_ns <= gap.begin_ns else gap


def _longest(flow: Flow, found: Measured) -> _Gap:
    assert flow.sent is not None
    begin_ns = flow.sent.first_ns + round(found.gap_at_s * 1e9)
    return _Gap(begin_ns, begin_ns + round(found.longest_gap_s * 1e9), repaired=False)


def _stale(arrivals: Arrivals, began_ns: int) -> int:
    return sum(
        received - sent > STALE_MS * _MS and received > began_ns
        for sent, received in zip(arrivals.sent_ns, arrivals.received_ns, strict=True)
    )


def _told(stage: Stage, scene: Scene, began_ns: int, repaired_ns: int) -> int | None:
    """When the daemon told that it acts."""
    # Its clock has milliseconds.
    lines = (line for line in stage.journal() if began_ns - _MS <= line["ns"] <= repaired_ns)
    return next((line["ns"] for line in lines if scene.told(line)), None)


def _grown(before: int | None, after: int | None) -> int | None:
    if before is None or after is None:
        return None
    # A table that somebody removed counts from nothing.
    return after - before if after >= before else after


def spoilt(run: Run, limit_ms: float) -> bool:
    """Whether the machine itself was so late that the wire is not what was measured."""
    return run.late_ms > limit_ms


def tail(runs: Sequence[Run]) -> float:
    """The worst outage of some runs."""
    return max((run.outage_ms for run in runs), default=0.0)
