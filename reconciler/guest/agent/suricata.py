"""Suricata's command socket, and what can be asked there."""

from __future__ import annotations

import errno
import json

from reconciler.guest.agent.dialogues import ask, connect
from reconciler.guest.agent.readings import DEGRADED, FAILED, HEALTHY, TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from reconciler.guest.agent.readings import Reading


def suricata_connect(path: str, deadline: float) -> socket.socket:
    """Return a connection to Suricata's command socket, in version 0.2 of its protocol: each answer is a line."""
    peer = connect(path, deadline)
    try:
        suricata_ask(peer, deadline, {"version": "0.2"})
    except BaseException:
        peer.close()
        raise
    return peer


def suricata_ask(peer: socket.socket, deadline: float, question: Mapping[str, object]) -> object:
    """Return Suricata's answer to a command; raises OSError if it refuses."""
    text = ask(peer, deadline, json.dumps(question), "\n")
    try:
        answer = json.loads(text)
        good, message = answer["return"] == "OK", answer.get("message")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(errno.EPROTO, f"not Suricata's protocol: {text[:60]}") from error
    if not good:
        raise OSError(errno.EPROTO, f"Suricata refuses: {message}")
    return message


def received_packets() -> dict[str, int]:
    """Return how many packets the kernel received on each interface of its namespace (/sys may show another's)."""
    with open("/proc/net/dev", encoding="ascii", errors="replace") as file:
        rows = [line.partition(":") for line in file.readlines()[2:]]
    return {name.strip(): int(rest.split()[1]) for name, _, rest in rows}


class SuricataInterfaces:
    """Suricata captures what its interfaces receive (if not: failed), and loses none of it (if it does: degraded).

    A capture thread that hangs is told by its counter, which stands still although the kernel receives. Suricata
    updates its counters only now and then, hence two periods: what came in the first is counted after the second.
    """

    def __init__(self, path: str, interfaces: list[str]) -> None:
        self._path = path
        # The last two readings of each interface: packets received by the kernel, captured and dropped by Suricata.
        self._past: dict[str, list[tuple[int, int, int]]] = {name: [] for name in interfaces}

    def __call__(self, deadline: float) -> Reading:
        """Read all interfaces; the worst finding counts."""
        received = received_packets()
        findings: dict[str, list[str]] = {FAILED: [], DEGRADED: []}
        with suricata_connect(self._path, deadline) as peer:
            for name, past in self._past.items():
                answer = suricata_ask(peer, deadline, {"command": "iface-stat", "arguments": {"iface": name}})
                if not isinstance(answer, dict) or name not in received:
                    raise OSError(errno.ENODEV, f"no interface {name}")
                past.append((received[name], int(answer["pkts"]), int(answer["drop"])))
                self._judge(name, past, findings)
                del past[:-2]
        for state, reasons in findings.items():
            if reasons:
                return state, "; ".join(reasons)
        return HEALTHY, "captures on " + " and ".join(self._past)

    @staticmethod
    def _judge(name: str, past: list[tuple[int, int, int]], findings: dict[str, list[str]]) -> None:
        if len(past) > 1 and past[-1][1] < past[-2][1]:  # restarted: it counts from 0 again
            del past[:-1]
        if len(past) > 2 and past[1][0] > past[0][0] and past[2][1] == past[0][1]:
            findings[FAILED].append(f"{name} receives, but nothing is captured")
        elif len(past) > 1 and past[-1][2] > past[-2][2]:
            findings[DEGRADED].append(f"{name}: {past[-1][2] - past[-2][2]} packets dropped before inspection")
