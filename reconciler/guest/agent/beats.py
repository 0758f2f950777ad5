"""The beats, as long as checks can run."""

from __future__ import annotations

import json
import math
import os
import select
import time

from reconciler.guest.agent.channel import Watchdog
from reconciler.guest.agent.listeners import open_channel
from reconciler.guest.agent.processes import kill_children, read_text
from reconciler.guest.agent.readings import TYPE_CHECKING, CannotRun, next_due, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.guest.agent.config import Config
    from reconciler.guest.agent.readings import Log, Reading

MAX_CHECKS_BYTES = 4096 - 256  # of a beat's JSON; the rest of a beat takes some 160 bytes
# Reasons are cut shorter and shorter until a beat fits; 32 checks without any take some 2,300 bytes.
REASON_LIMITS = (120, 60, 30, 10, 0)
RESTART_S = 1.0  # between attempts to start threads
PET_S = 1.0  # watchdogs have time-outs of some seconds


class Agent:
    """Beats, as long as its checks can run."""

    def __init__(self, config: Config, log: Log) -> None:
        self._config = config
        self._log = log
        self._channel = open_channel(config.channel, log)
        self._watchdog = Watchdog(config.watchdog, log) if config.watchdog else None
        self._boot = read_text("/proc/sys/kernel/random/boot_id")
        self._run = os.urandom(16).hex()
        self._seq = 1
        self._readings: dict[str, Reading] = {}
        self._checks_text = "{}"
        self._obstacle = ""
        self._start_at = 0.0
        self._start_refused = ""

    def run(self, stopping: int) -> None:
        """Beat until that descriptor becomes readable."""
        beat_at = pet_at = time.monotonic()
        while True:
            now = time.monotonic()
            able = self._able(now)
            if now >= beat_at:
                if able:
                    self._beat(now)
                beat_at = next_due(beat_at, self._config.interval_s, now)
            if now >= pet_at:
                if able and self._watchdog is not None:
                    self._watchdog.send(b"\0")
                pet_at = next_due(pet_at, PET_S, now)
            if select.select([stopping], [], [], max(0.0, min(beat_at, pet_at) - time.monotonic()))[0]:
                return

    def farewell(self) -> None:
        """Tell that what comes now is silence on purpose: a shutdown takes longer than a host waits for beats."""
        if self._seq > 1:
            self._send(',"stopping":true')

    def stop(self) -> None:
        """Kill what runs, and let go of everything."""
        kill_children()
        self._channel.close()
        if self._watchdog is not None:
            if self._config.discard:
                self._watchdog.discard()
            self._watchdog.close()

    def _able(self, now: float) -> bool:
        """Return whether all checks run, and have something to say."""
        if now >= self._start_at:
            self._start_threads(now)
        obstacle = self._start_refused
        for check in self._config.checks:
            obstacle = obstacle or check.obstacle(now)
        if obstacle != self._obstacle:
            self._obstacle = obstacle
            self._log(f"no heartbeat: {obstacle}" if obstacle else "heartbeat")
        return not obstacle

    def _start_threads(self, now: float) -> None:
        try:
            for check in self._config.checks:
                check.start()
            self._start_at, self._start_refused = math.inf, ""
        except CannotRun as error:
            self._start_at, self._start_refused = now + RESTART_S, str(error)

    def _beat(self, now: float) -> None:
        readings = {check.name: check.judge(now) for check in self._config.checks}
        if readings != self._readings:
            for name, (state, reason) in readings.items():
                if self._readings.get(name, ("", ""))[0] != state:
                    self._log(f"{name}: {state}: {reason}")
            self._readings, self._checks_text = readings, encode_checks(readings)
        self._send("")

    def _send(self, more: str) -> None:
        line = (
            f'{{"v":1,"boot":"{self._boot}","run":"{self._run}","seq":{self._seq},'
            f'"interval_ms":{self._config.interval_s * 1000:.0f},"checks":{self._checks_text}{more}}}\n'
        )
        if self._channel.send(line.encode("ascii")):
            self._seq += 1


def encode_checks(readings: Mapping[str, Reading]) -> str:
    """Return the readings as JSON that fits into a beat."""
    text = ""
    for limit in REASON_LIMITS:
        checks = {name: {"state": state, "reason": printable(why, limit)} for name, (state, why) in readings.items()}
        text = json.dumps(checks, separators=(",", ":"))
        if len(text) <= MAX_CHECKS_BYTES:
            break
    return text
